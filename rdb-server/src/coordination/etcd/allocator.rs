//! Numbers: one txn at a time for everything that waits, so that a node never competes with itself (DESIGN 6.5).
//!
//! The txn compares the counter's **value**: an etcd that was restored can have the same revision with another value.

use super::records::{CounterRecord, FORMAT, decode, encode};
use super::session::{Numbers, Open};
use super::{Shared, call, value_got};
use crate::clock;
use crate::coordination::{Allocation, CoordinationError};
use crate::limits::{ALLOCATION_MERGE_MAX, CLOCK_OFF_MAX, ETCD_CALL_TIMEOUT};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use rdb_proto::types::Seq;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Somebody who waits for numbers.
pub(super) struct Wanted {
    pub(super) count: u64,
    pub(super) reply: oneshot::Sender<Result<Allocation, CoordinationError>>,
}

/// The node's only source of numbers.
pub(super) struct Allocator {
    shared: Arc<Shared>,
    /// The counter's value as last seen; `None` when that is not known.
    seen: Option<Value>,
    /// Whether the clock is known to be behind, and was complained of.
    is_clock_off: bool,
}

/// What the counter's key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    record: CounterRecord,
    bytes: Vec<u8>,
}

impl Value {
    const fn last(&self) -> Seq {
        self.record.last()
    }
}

impl Allocator {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            seen: None,
            is_clock_off: false,
        }
    }

    /// Serves what waits until nobody can ask any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Wanted>) {
        let mut waiting = Vec::with_capacity(ALLOCATION_MERGE_MAX);
        while queue.recv_many(&mut waiting, ALLOCATION_MERGE_MAX).await > 0 {
            let count = waiting
                .iter()
                .map(|wanted| wanted.count)
                .fold(0, u64::saturating_add);
            // Bounded as a whole: a node that is far from etcd could lose every race.
            let taken = clock::within(ETCD_CALL_TIMEOUT, Box::pin(self.take(count))).await;
            if !matches!(taken, Some(Ok(_))) {
                self.distrust();
            }
            let late = || {
                Err(CoordinationError::Unavailable {
                    what: "the counter",
                    why: format!("no numbers within {ETCD_CALL_TIMEOUT:?}"),
                })
            };
            match taken.unwrap_or_else(late) {
                Ok(allocation) => deal(allocation, waiting.drain(..)),
                Err(error) => {
                    // What became of the txn is not known; whoever took the numbers never learns them.
                    self.seen = None;
                    for wanted in waiting.drain(..) {
                        // Whoever is gone does not need to be told.
                        drop(wanted.reply.send(Err(error.again())));
                    }
                }
            }
        }
    }

    async fn take(&mut self, count: u64) -> Result<Allocation, CoordinationError> {
        let over = self.connection().await?;
        loop {
            let seen = match self.seen.take() {
                Some(seen) => self.or_newer(seen),
                None => self.read(&over).await?,
            };
            // What etcd had shown before the call: an answer below it is from an older state. (What the watch shows
            // meanwhile may be newer than the answer.)
            let floor = self.shared.floor();
            let (next, allocation) = self.next(&seen, count, over.generation);
            let bytes = encode(&next);
            let key = &self.shared.keys.counter;
            let is_same = Compare::value(key.clone(), CompareOp::Equal, seen.bytes.clone());
            let txn = Txn::new()
                .when([is_same, self.shared.generation_is(over.generation)])
                .and_then([TxnOp::put(key.clone(), bytes.clone(), None)])
                .or_else([TxnOp::get(key.clone(), None)]);
            let answer = call("the counter", over.client.kv_client().txn(txn)).await?;
            if answer.succeeded() {
                self.shared.saw_counter(next.last());
                self.seen = Some(Value { record: next, bytes });
                return Ok(allocation);
            }
            let found = self.value(value_got(&answer), floor)?;
            if found == seen {
                return Err(CoordinationError::RolledBack {
                    what: "the generation in its config",
                    seen: over.generation,
                    found: 0,
                });
            }
            self.seen = Some(found);
        }
    }

    /// The connection that numbers are taken over; waits while it is being judged.
    async fn connection(&self) -> Result<Open, CoordinationError> {
        let mut numbers = self.shared.numbers.subscribe();
        let judged = numbers.wait_for(|numbers| !matches!(numbers, Numbers::Judged));
        let unavailable = |why: &str| CoordinationError::Unavailable {
            what: "the counter",
            why: why.to_owned(),
        };
        let numbers = judged
            .await
            .map_err(|_closed| unavailable("the node is stopping"))?;
        match &*numbers {
            Numbers::Open(open) => Ok(open.clone()),
            Numbers::Unguarded => Ok(Open {
                client: Arc::new(self.shared.client.clone()),
                generation: self.shared.known().mirror.generation(),
                broken: CancellationToken::new(),
            }),
            Numbers::Closed | Numbers::Judged => {
                Err(unavailable("no connection to etcd was found to be safe"))
            }
        }
    }

    /// No numbers came over the connection: the next ones are taken over another one, which is judged anew.
    fn distrust(&self) {
        if let Numbers::Open(open) = &*self.shared.numbers.borrow() {
            open.broken.cancel();
        }
    }

    async fn read(&self, over: &Open) -> Result<Value, CoordinationError> {
        let floor = self.shared.floor();
        let mut kv = over.client.kv_client();
        let got = call("the counter", kv.get(self.shared.keys.counter.clone(), None)).await?;
        self.value(got.kvs().first().map(|kv| kv.value().to_vec()), floor)
    }

    /// A value that was read, unless it is one that cannot be: the counter never goes back.
    fn value(&self, bytes: Option<Vec<u8>>, floor: Seq) -> Result<Value, CoordinationError> {
        let key = &self.shared.keys.counter;
        let Some(bytes) = bytes else {
            return Err(CoordinationError::Malformed {
                key: key.clone(),
                problem: "it is missing, although the database was made with it".to_owned(),
            });
        };
        let record: CounterRecord = decode(key, &bytes)?;
        let value = Value { record, bytes };
        if value.last() < floor {
            return Err(CoordinationError::RolledBack {
                what: "its counter",
                seen: floor.get(),
                found: value.last().get(),
            });
        }
        Ok(value)
    }

    /// What the watch has shown since, when that is newer: another node took numbers, and a txn that compares the
    /// older value would be for nothing.
    fn or_newer(&self, seen: Value) -> Value {
        let shown = self.shared.known().mirror.counter;
        match shown {
            Some(record) if record.last() > seen.last() => Value {
                record,
                bytes: encode(&record),
            },
            Some(_) | None => seen,
        }
    }

    /// The value after `count` numbers were taken, and what that gives.
    fn next(&mut self, seen: &Value, count: u64, generation: u64) -> (CounterRecord, Allocation) {
        let (last, time) = (seen.record.last(), seen.record.time());
        let now = clock::utc_now();
        // Time never goes back along seq, so a clock that is behind is not used. It may also be another node's that
        // was ahead: neither is a reason to take no numbers.
        let is_behind = u128::from(time.since(now)) > CLOCK_OFF_MAX.as_micros();
        if is_behind && !self.is_clock_off {
            let seconds = time.since(now) / 1_000_000;
            tracing::warn!(
                seconds,
                "the clock of this node is behind the time of the last event: are all clocks set?"
            );
        }
        self.is_clock_off = is_behind;
        let time = time.max(now);
        let next = CounterRecord {
            format: FORMAT,
            seq: last.plus(count).get(),
            time_us: time.get(),
            generation,
        };
        let first = last.next();
        (next, Allocation { first, time })
    }
}

/// Deals the numbers out, in the order in which they were asked for.
fn deal(allocation: Allocation, waiting: impl Iterator<Item = Wanted>) {
    let mut first = allocation.first;
    for Wanted { count, reply } in waiting {
        // Whoever is gone leaves a hole.
        drop(reply.send(Ok(Allocation { first, ..allocation })));
        first = first.plus(count);
    }
}
