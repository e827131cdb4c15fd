//! Clients that write and read, and consumers; what they sent and were told.

use super::followers::LOOKS_UP_AFTER;
use crate::checkers::held::{KeysThen, Shown};
use crate::random::Random;
use crate::workload::{History, Observation, Operation, Placed, Sent, Ticks, Told};
use rdb_client::{
    Client, Consumer, ConsumerOptions, Error, Event, EventKind, Expectation, Filter, Happened, KeyName,
    KeyThen, Message, NewEvent, ReadOptions, Reason, Receipt, Seq, Start, Stored, Version,
};
use rdb_proto::types::EventId;
use rdb_server::clock;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The hosts that clients are on: those that write and read, subscribers, and consumers.
pub(super) const CLIENTS: [&str; 3] = ["writers", "subscribers", "consumers"];

/// Keys that all writers share.
const SHARED_KEYS: u64 = 3;
/// The name of the named subscription.
const SUBSCRIPTION: &str = "tail";
/// What was sent before the faults ended has arrived after this long.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// Events of one append.
const APPEND_EVENTS: u64 = 5;

/// What clients are told, and tell.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// How many write; those that still do.
    pub(super) writers: Cell<usize>,
    pub(super) writing: Cell<usize>,
    /// Writers end.
    pub(super) is_over: Cell<bool>,
    /// Subscribers end when they have come so far.
    pub(super) upto: Cell<Option<Seq>>,
    /// Writes that each client was told the success of.
    pub(super) acknowledged: RefCell<BTreeMap<String, u64>>,
    /// Highest seq that anybody was told.
    pub(super) highest: Cell<Seq>,
    pub(super) history: RefCell<History>,
    /// What each subscriber got.
    pub(super) seen: RefCell<BTreeMap<String, Vec<Event>>>,
    /// What streams showed that began with a snapshot.
    pub(super) snapshots: RefCell<Vec<Shown>>,
    /// What some keys were said to hold as of one seq.
    pub(super) keys_then: RefCell<Vec<KeysThen>>,
    /// What the named subscription's consumers have handled, each event once or more often.
    pub(super) handled: RefCell<BTreeMap<Seq, Event>>,
    /// Up to where the named subscription was acknowledged.
    acknowledged_upto: Cell<Seq>,
    /// How far each subscriber has come.
    pub(super) positions: RefCell<BTreeMap<String, Seq>>,
    ticks: Ticks,
}

impl Control {
    /// Whether everything of the named subscription is acknowledged.
    pub(super) fn is_consumed(&self) -> bool {
        let done = self.acknowledged_upto.get();
        self.upto.get().is_some_and(|upto| done >= upto)
    }
}

/// A client that writes and reads, each with keys of its own and some that all share.
pub(super) struct Writer {
    pub(super) name: String,
    pub(super) servers: Vec<String>,
    pub(super) random: Random,
    pub(super) control: Rc<Control>,
    pub(super) versions: BTreeMap<String, Version>,
    pub(super) written: u64,
}

/// The default collection.
fn key_name(key: &str) -> KeyName {
    KeyName::new("default", key).expect("the name is valid")
}

impl Writer {
    /// Works until it is over.
    pub(super) async fn run(mut self) -> turmoil::Result {
        let client = Client::connect(&self.servers)?;
        self.control.writing.update(|count| count + 1);
        while !self.control.is_over.get() {
            if self.random.one_in(4) {
                self.read(&client).await;
            } else if self.random.one_in(8) {
                if let Err(error) = read_keys(&client, &self.control).await {
                    tracing::info!(client = self.name, %error, "keys not read");
                }
            } else {
                self.write(&client).await;
            }
            if self.random.one_in(4) {
                clock::sleep(Duration::from_millis(self.random.below(200))).await;
            }
        }
        self.control.writing.update(|count| count - 1);
        Ok(())
    }

    fn key(&mut self) -> String {
        if self.random.one_in(2) {
            format!("shared-{}", self.random.below(SHARED_KEYS))
        } else {
            format!("{}-{}", self.name, self.random.below(3))
        }
    }

    fn operation(&mut self) -> Operation {
        let key = self.key();
        let kind = if self.random.one_in(8) {
            EventKind::Delete
        } else {
            EventKind::Write
        };
        let count = match kind {
            EventKind::Write if self.random.one_in(3) => 1 + self.random.below(APPEND_EVENTS),
            EventKind::Write | EventKind::Delete => 1,
        };
        let known = self.versions.get(&key).copied().unwrap_or_default();
        let expect = match (kind, self.random.below(6)) {
            (EventKind::Write, 0) => Expectation::Absent,
            (EventKind::Write, 1 | 2) => Expectation::Exact(known),
            (EventKind::Delete, _) | (EventKind::Write, 3) => Expectation::Exists,
            (EventKind::Write, _) => Expectation::Any,
        };
        let events = (0..count).map(|_| self.event(kind)).collect();
        Operation {
            key,
            kind,
            events,
            expect,
            sent: self.control.ticks.next(),
            told: Told::Unknown,
        }
    }

    fn event(&mut self, kind: EventKind) -> Sent {
        self.written += 1;
        let payload = match kind {
            EventKind::Write => format!("{} {}", self.name, self.written),
            EventKind::Delete => String::new(),
        };
        Sent {
            event_id: EventId(self.random.uuid()),
            payload,
        }
    }

    async fn write(&mut self, client: &Client) {
        let mut operation = self.operation();
        let name = key_name(&operation.key);
        let new = |sent: &Sent| NewEvent::new(sent.payload.clone()).with_id(sent.event_id);
        let mut events: Vec<NewEvent> = operation.events.iter().map(new).collect();
        let answer = match (operation.kind, events.len()) {
            (EventKind::Delete, _) => {
                let deleted = client.delete(&name, events.remove(0), operation.expect).await;
                deleted.map(|receipt| vec![receipt.stored])
            }
            (EventKind::Write, _) => {
                let appended = client.append(&name, events, operation.expect).await;
                appended.map(|Receipt { stored, .. }| stored)
            }
        };
        let at = self.control.ticks.next();
        operation.told = match answer {
            Ok(stored) => {
                self.note(&operation.key, &stored);
                let placed = |stored: &Stored| Placed {
                    seq: stored.seq,
                    version: stored.version,
                };
                Told::Acknowledged {
                    at,
                    placed: stored.iter().map(placed).collect(),
                }
            }
            Err(error) if error.reason() == Some(Reason::VersionConflict) => {
                let current = error.current_version().unwrap_or_default();
                tracing::info!(client = self.name, ?operation, %error, attempts = error.attempts(), "conflict");
                self.versions.insert(operation.key.clone(), current);
                Told::Conflict { at, current }
            }
            Err(error) => {
                let ids: Vec<String> = operation
                    .events
                    .iter()
                    .map(|sent| sent.event_id.to_string())
                    .collect();
                let (attempts, happened) = (error.attempts(), error.happened());
                tracing::info!(client = self.name, key = operation.key, ?ids, %error, attempts, ?happened, "not done");
                match happened {
                    Happened::No => Told::Refused,
                    Happened::Maybe => Told::Unknown,
                }
            }
        };
        self.control.history.borrow_mut().operations.push(operation);
    }

    fn note(&mut self, key: &str, stored: &[Stored]) {
        if let Some(last) = stored.last() {
            self.versions.insert(key.to_owned(), last.version);
            let highest = self.control.highest.get().max(last.seq);
            self.control.highest.set(highest);
        }
        let mut acknowledged = self.control.acknowledged.borrow_mut();
        *acknowledged.entry(self.name.clone()).or_default() += 1;
    }

    async fn read(&mut self, client: &Client) {
        let key = self.key();
        let sent = self.control.ticks.next();
        let found = match client.read(&key_name(&key), ReadOptions::default()).await {
            Ok(answer) => Some(answer.event.version),
            Err(error) if error.reason() == Some(Reason::KeyNotFound) => None,
            Err(_) => return,
        };
        let observation = Observation {
            key,
            sent,
            answered: self.control.ticks.next(),
            found,
        };
        self.control.history.borrow_mut().observations.push(observation);
    }
}

/// Reads the keys that all share, as of one seq, which is that of a linearizable read.
async fn read_keys(client: &Client, control: &Control) -> Result<(), Error> {
    let sent = control.ticks.next();
    let names: Vec<KeyName> = (0..SHARED_KEYS)
        .map(|n| key_name(&format!("shared-{n}")))
        .collect();
    let snapshot = client.snapshot(&names, None).await?;
    let answered = control.ticks.next();
    let seen = |then: &KeyThen| Observation {
        key: then.name.key.as_str().to_owned(),
        sent,
        answered,
        found: then.event.as_ref().map(|event| event.version),
    };
    let mut history = control.history.borrow_mut();
    history.observations.extend(snapshot.keys.iter().map(seen));
    let keys = snapshot.keys.into_iter().map(|then| (then.name, then.event));
    control.keys_then.borrow_mut().push(KeysThen {
        as_of: snapshot.as_of,
        keys: keys.collect(),
    });
    Ok(())
}

/// Writes the last event, after everything that was still on its way has arrived: whatever is stored in spite of what its
/// client was told is before it. Then keys are read as of one seq, which nothing prevents any more.
pub(super) async fn fence(servers: Vec<String>, control: Rc<Control>) -> turmoil::Result {
    clock::sleep(ARRIVES_WITHIN).await;
    let client = Client::connect(&servers)?;
    let sent = control.ticks.next();
    let event = NewEvent::new("the last one");
    let event_id = event.event_id;
    let stored = client
        .write(&key_name("fence"), event, Expectation::Any)
        .await?
        .stored;
    let placed = Placed {
        seq: stored.seq,
        version: stored.version,
    };
    control.history.borrow_mut().operations.push(Operation {
        key: "fence".to_owned(),
        kind: EventKind::Write,
        events: vec![Sent {
            event_id,
            payload: "the last one".to_owned(),
        }],
        expect: Expectation::Any,
        sent,
        told: Told::Acknowledged {
            at: control.ticks.next(),
            placed: vec![placed],
        },
    });
    read_keys(&client, &control).await?;
    control.upto.set(Some(stored.seq));
    Ok(())
}

/// Consumes the named subscription whenever it can have it, and now and then goes away without a word.
pub(super) async fn consume(
    name: String,
    servers: Vec<String>,
    control: Rc<Control>,
    mut random: Random,
) -> turmoil::Result {
    let client = Client::connect(&servers)?;
    let options = ConsumerOptions {
        from: Some(Seq::ZERO),
        ..ConsumerOptions::default()
    };
    while !control.is_consumed() {
        let done = control.acknowledged_upto.get();
        // One that another has is waited for; what else goes wrong passes.
        if let Ok(consumer) = client.consume(SUBSCRIPTION, options.clone()).await {
            tracing::debug!(name, position = ?consumer.position(), "claimed");
            consume_for_a_while(&name, consumer, done, &control, &mut random).await?;
        }
        clock::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// `done`: what was acknowledged before the claim, which does not come again. What another acknowledges later may: who was
/// fenced gets what is on its way until it hears of it.
async fn consume_for_a_while(
    name: &str,
    mut consumer: Consumer,
    mut done: Seq,
    control: &Control,
    random: &mut Random,
) -> turmoil::Result {
    while !control.is_consumed() {
        let at = match clock::within(LOOKS_UP_AFTER, consumer.next()).await {
            None
            | Some(Ok(Message::Opened { .. } | Message::FellBehind { .. } | Message::Interrupted(_))) => {
                continue;
            }
            Some(Ok(Message::Resolved { seq, .. } | Message::CaughtUp { seq })) => {
                tracing::debug!(name, %seq, "consumed up to a mark");
                seq
            }
            Some(Ok(Message::Events(batch))) => {
                tracing::debug!(name, ?batch, "consumed");
                for event in batch.decode()? {
                    if event.seq <= done {
                        let seq = event.seq;
                        return Err(
                            format!("{name}: seq {seq} came again after {done} was acknowledged").into(),
                        );
                    }
                    control.handled.borrow_mut().insert(event.seq, event);
                }
                batch.last_seq()
            }
            // Another has the name by now, or etcd and the leaders are away.
            Some(Err(_)) => return Ok(()),
        };
        if random.one_in(2) && consumer.acknowledge(at).await.is_ok() {
            tracing::debug!(name, %at, "acknowledged");
            done = done.max(at);
            control
                .acknowledged_upto
                .set(control.acknowledged_upto.get().max(at));
        }
        // Not at the end: who comes next has to wait until this one counts as gone.
        if control.upto.get().is_none() && random.one_in(200) {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the whole stream, as one node shows it.
pub(super) async fn read_all(
    server: String,
    upto: Seq,
    into: Rc<RefCell<Vec<Vec<Event>>>>,
) -> turmoil::Result {
    let client = Client::connect([&server])?;
    let mut subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    let mut events = Vec::new();
    let mut at = Seq::ZERO;
    while at < upto {
        match subscription.next().await? {
            Message::Events(batch) => {
                at = batch.last_seq();
                events.extend(batch.decode()?);
            }
            Message::Resolved { seq, .. } | Message::CaughtUp { seq } => at = at.max(seq),
            Message::Opened { .. } | Message::FellBehind { .. } | Message::Interrupted(_) => {}
        }
    }
    into.borrow_mut().push(events);
    Ok(())
}
