//! Numbers: one txn at a time for everything that waits, so that a node never competes with itself (DESIGN 6.5). What
//! waits is asked for by the node's own seats, and by other nodes that passed it on ([`super::combiner`]).
//!
//! The txn compares the counter's **value**: an etcd that was restored can have the same revision with another value.

use super::combiner::Combiner;
use super::records::{CounterRecord, FORMAT, decode, encode};
use super::session::{Numbers, Open};
use super::{Shared, call, value_got};
use crate::clock;
use crate::coordination::{Allocation, CoordinationError};
use crate::limits::{
    ALLOCATION_MERGE_MAX, CLOCK_OFF_MAX, ETCD_CALL_TIMEOUT, ETCD_LATEST_MAX, OWN_TXN_PATIENCE,
    RACE_DOUBLINGS_MAX, RACE_WAIT_MAX,
};
use crate::sabotage::{self, Sabotage};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use rdb_proto::types::Seq;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Somebody who waits for numbers.
pub(super) struct Wanted {
    pub(super) count: u64,
    /// The generation that another node knows, whose request it is; `None`: a seat of this node asks.
    pub(super) passed_on: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<Allocation, CoordinationError>>,
}

impl Wanted {
    /// Whoever is gone leaves a hole, and does not need to be told.
    fn answer(self, answer: Result<Allocation, CoordinationError>) {
        drop(self.reply.send(answer));
    }
}

/// Where numbers came from.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// A txn of this node, for all that waited.
    Here(Numbered),
    /// Another node's txn, for what this node's own seats asked for.
    Elsewhere(Allocation),
}

/// What a txn of this node gave.
#[derive(Debug, Clone, Copy)]
struct Numbered {
    allocation: Allocation,
    generation: u64,
}

/// How many numbers are wanted.
#[derive(Debug, Clone, Copy)]
struct Total {
    all: u64,
    /// By this node's own seats.
    own: u64,
}

impl Total {
    fn of(waiting: &[Wanted]) -> Self {
        let sum = |sum: u64, wanted: &Wanted| sum.saturating_add(wanted.count);
        let own = waiting.iter().filter(|wanted| wanted.passed_on.is_none());
        Self {
            all: waiting.iter().fold(0, sum),
            own: own.fold(0, sum),
        }
    }

    /// What was passed on to this node stays here.
    const fn may_be_passed_on(self) -> bool {
        self.own == self.all
    }
}

/// The node's only source of numbers.
pub(super) struct Allocator {
    shared: Arc<Shared>,
    txns: Txns,
    combiner: Combiner,
}

impl Allocator {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            txns: Txns::new(Arc::clone(&shared)),
            combiner: Combiner::new(Arc::clone(&shared)),
            shared,
        }
    }

    /// Serves what waits until nobody can ask any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Wanted>) {
        let mut waiting = Vec::with_capacity(ALLOCATION_MERGE_MAX);
        while queue.recv_many(&mut waiting, ALLOCATION_MERGE_MAX).await > 0 {
            // Numbers for somebody who stopped waiting would be holes.
            waiting.retain(|wanted: &Wanted| !wanted.reply.is_closed());
            if waiting.is_empty() {
                continue;
            }
            // Bounded as a whole: a node that is far from etcd could lose every race.
            let taking = Box::pin(self.take(Total::of(&waiting)));
            let taken = clock::within(ETCD_CALL_TIMEOUT, taking).await;
            if !matches!(taken, Some(Ok(_))) {
                self.distrust();
            }
            let late = || Err(unavailable(format!("no numbers within {ETCD_CALL_TIMEOUT:?}")));
            let waiting = waiting.drain(..);
            match taken.unwrap_or_else(late) {
                Ok(Taken::Here(numbered)) => self.deal_to_all(numbered, waiting),
                Ok(Taken::Elsewhere(allocation)) => self.deal_to_own(allocation, waiting),
                Err(error) => waiting.for_each(|wanted| wanted.answer(Err(error.again()))),
            }
        }
    }

    async fn take(&mut self, total: Total) -> Result<Taken, CoordinationError> {
        loop {
            if total.may_be_passed_on()
                && let Some(node) = self.combiner.preferred()
                && let Some(allocation) = self.combiner.ask_first(node, total.own, self.txns.took).await
            {
                return Ok(Taken::Elsewhere(allocation));
            }
            let after_a_race = self.combiner.after_a_race();
            let after_a_race = after_a_race.filter(|_| total.may_be_passed_on());
            let is_one_race = after_a_race.is_some();
            if let Some(taken) = self.take_here_or_elsewhere(total, is_one_race).await? {
                return Ok(taken);
            }
            if let Some(controller) = after_a_race {
                self.combiner.prefer(controller);
            }
        }
    }

    /// By a txn of this node. Other nodes are asked too when it takes long, fails, or has no connection: of two answers
    /// the first counts, and the numbers of the other are holes. `None` when `is_one_race` and that was lost.
    async fn take_here_or_elsewhere(
        &mut self,
        total: Total,
        is_one_race: bool,
    ) -> Result<Option<Taken>, CoordinationError> {
        let mut here = Box::pin(self.txns.take(total.all, is_one_race));
        if self.shared.colleagues.get().is_none() {
            return Ok(here.await?.map(Taken::Here));
        }
        if total.own == 0 {
            // Who passed it on asks elsewhere by then, and the node's own seats wait behind it.
            let late = || Err(unavailable(format!("no numbers within {OWN_TXN_PATIENCE:?}")));
            let taken = clock::within(OWN_TXN_PATIENCE, here).await;
            return Ok(taken.unwrap_or_else(late)?.map(Taken::Here));
        }
        let (patience, open) = match &*self.shared.numbers.borrow() {
            Numbers::Open(open) => (OWN_TXN_PATIENCE, Some(open.clone())),
            Numbers::Unguarded => (OWN_TXN_PATIENCE, None),
            Numbers::Closed | Numbers::Judged => (Duration::ZERO, None),
        };
        let failed = CancellationToken::new();
        let combiner = &mut self.combiner;
        let mut elsewhere = Box::pin(async {
            clock::within(patience, failed.cancelled()).await;
            combiner.ask_anybody(total.own).await
        });
        let allocation = tokio::select! {
            biased;
            taken = &mut here => match taken {
                Ok(taken) => return Ok(taken.map(Taken::Here)),
                Err(error) => {
                    failed.cancel();
                    elsewhere.await.ok_or(error)?
                }
            },
            allocation = &mut elsewhere => match allocation {
                Some(allocation) => allocation,
                None => return Ok(here.await?.map(Taken::Here)),
            },
        };
        if let Some(open) = open {
            open.broken.cancel();
        }
        Ok(Some(Taken::Elsewhere(allocation)))
    }

    /// No numbers came over the connection: the next ones are taken over another one, which is judged anew.
    fn distrust(&self) {
        if let Numbers::Open(open) = &*self.shared.numbers.borrow() {
            open.broken.cancel();
        }
    }

    /// Deals numbers out, in the order in which they were asked for.
    fn deal_to_all(&self, numbered: Numbered, waiting: impl Iterator<Item = Wanted>) {
        let stats = &self.shared.numbers_stats;
        let Numbered {
            allocation,
            generation,
        } = numbered;
        let mut first = allocation.first;
        for wanted in waiting {
            let is_of_another = wanted.passed_on.is_some_and(|known| known != generation);
            let is_passed_on = wanted.passed_on.is_some();
            let next = first.plus(wanted.count);
            if is_of_another {
                wanted.answer(Err(unavailable("etcd was put right meanwhile".to_owned())));
            } else {
                wanted.answer(Ok(Allocation { first, ..allocation }));
                stats.served.inc();
                stats.served_for_others.inc_by(u64::from(is_passed_on));
            }
            if !is_passed_on || !sabotage::is(Sabotage::CombinerReusesRange) {
                first = next;
            }
        }
    }

    /// The same with numbers that another node took, which are for the node's own seats.
    fn deal_to_own(&self, allocation: Allocation, waiting: impl Iterator<Item = Wanted>) {
        let mut first = allocation.first;
        for wanted in waiting {
            if wanted.passed_on.is_some() {
                wanted.answer(Err(unavailable("this node does not reach etcd".to_owned())));
                continue;
            }
            let next = first.plus(wanted.count);
            wanted.answer(Ok(Allocation { first, ..allocation }));
            self.shared.numbers_stats.passed_on.inc();
            first = next;
        }
    }
}

/// Whoever waits for numbers, or for the counter, waits in vain.
pub(super) fn stopping() -> CoordinationError {
    unavailable("the node is stopping".to_owned())
}

fn unavailable(why: String) -> CoordinationError {
    CoordinationError::Unavailable {
        what: "the counter",
        why,
    }
}

/// The txns of this node.
struct Txns {
    shared: Arc<Shared>,
    /// The counter's value as last seen; `None` when that is not known, as while a txn is under way.
    seen: Option<Value>,
    /// How long the last txn took.
    took: Duration,
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

/// Somebody who waits for the counter's value.
pub(super) type LatestWanted = oneshot::Sender<Result<Seq, CoordinationError>>;

/// Tells the counter's value until nobody can ask any more: one reading for all who asked before it began.
pub(super) async fn tell_latest(shared: Arc<Shared>, mut queue: mpsc::Receiver<LatestWanted>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, ETCD_LATEST_MAX).await > 0 {
        let latest = latest(&shared).await;
        for reply in waiting.drain(..) {
            // Whoever is gone does not need to be told.
            drop(reply.send(latest.as_ref().copied().map_err(CoordinationError::again)));
        }
    }
}

/// The counter, by a linearizable read that begins now, over a connection that numbers are taken over: of an etcd that
/// went back it is not told.
async fn latest(shared: &Arc<Shared>) -> Result<Seq, CoordinationError> {
    let txns = Txns::new(Arc::clone(shared));
    let reading = Box::pin(async {
        let over = txns.connection().await?;
        txns.read(&over).await
    });
    let late = || Err(unavailable(format!("no answer within {ETCD_CALL_TIMEOUT:?}")));
    let value = clock::within(ETCD_CALL_TIMEOUT, reading)
        .await
        .unwrap_or_else(late)?;
    shared.saw_counter(value.last());
    Ok(value.last())
}

impl Txns {
    const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            seen: None,
            took: Duration::ZERO,
            is_clock_off: false,
        }
    }

    /// `None` when another node's txn was before this node's, and `is_one_race`.
    async fn take(&mut self, count: u64, is_one_race: bool) -> Result<Option<Numbered>, CoordinationError> {
        let over = self.connection().await?;
        let mut lost = 0;
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
            let since = clock::monotonic();
            let answer = call("the counter", over.client.kv_client().txn(txn)).await?;
            self.took = since.elapsed();
            if answer.succeeded() {
                self.shared.saw_counter(next.last());
                self.shared.numbers_stats.txns.inc();
                self.seen = Some(Value { record: next, bytes });
                return Ok(Some(Numbered {
                    allocation,
                    generation: over.generation,
                }));
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
            self.shared.numbers_stats.races_lost.inc();
            if is_one_race {
                return Ok(None);
            }
            lost += 1;
            self.give_way(lost).await;
        }
    }

    /// Waits, by chance and longer after each race in a row that was lost, so that one of those who race gets through at
    /// once. Of N that ask again at once, N - 1 ask for nothing, and etcd is busy with that; once the controller is among
    /// the losers it is too slow to serve them all with one txn, and so they go on to race. It alone gives way to nobody.
    /// The wait is bounded: after a stall of etcd, which all txns sit out, it would pass for one more.
    async fn give_way(&self, lost: u32) {
        if self.shared.view.borrow().controller == Some(self.shared.node) {
            return;
        }
        let window = self.took.saturating_mul(1 << lost.min(RACE_DOUBLINGS_MAX));
        let window = window.min(RACE_WAIT_MAX);
        let micros = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
        clock::sleep(Duration::from_micros(clock::random_u64() % micros.max(1))).await;
    }

    /// The connection that numbers are taken over; waits while it is being judged.
    async fn connection(&self) -> Result<Open, CoordinationError> {
        let mut numbers = self.shared.numbers.subscribe();
        let judged = numbers.wait_for(|numbers| !matches!(numbers, Numbers::Judged));
        let numbers = judged.await.map_err(|_closed| stopping())?;
        match &*numbers {
            Numbers::Open(open) => Ok(open.clone()),
            Numbers::Unguarded => Ok(Open {
                client: Arc::new(self.shared.client.clone()),
                generation: self.shared.known().mirror.generation(),
                broken: CancellationToken::new(),
            }),
            Numbers::Closed | Numbers::Judged => Err(unavailable(
                "no connection to etcd was found to be safe".to_owned(),
            )),
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
