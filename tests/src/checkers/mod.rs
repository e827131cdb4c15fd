//! One promise a file. Each checker judges a record ([`crate::workload`]) against the change stream, in time
//! linear in both, and names the rule of the contract that was broken.
//!
//! | checker | promise |
//! |---|---|
//! | [`durability`] | an acknowledged event is there, once, as it was sent; a refused one never is |
//! | [`atomicity`] | the events of an append are there together or not at all |
//! | [`order`] | seqs ascend, and agree with real time |
//! | [`versions`] | the events of a key have the versions 1, 2, 3, … |
//! | [`expectations`] | a write happened only where its expectation held, and a conflict told the truth |
//! | [`reads`] | a linearizable read saw what was acknowledged before it |
//! | [`stream`] | the stream from any start is the same stream |
//! | [`by_keys`] | the same in the order of keys: each key's events in order, marks that are true |
//! | [`held`] | a snapshot shows what keys held as of one seq |
//! | [`marks`] | nothing at or below a resolved mark comes after it |

pub mod atomicity;
pub mod by_keys;
pub mod durability;
pub mod expectations;
pub mod held;
pub mod marks;
pub mod order;
pub mod reads;
pub mod stream;
pub mod timeline;
pub mod versions;

use crate::workload::History;
use rdb_proto::event::Event;
use std::fmt;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// What was seen instead.
    pub what: String,
}

impl Violation {
    fn of<T>(rule: &'static str, what: impl fmt::Display) -> Result<T, Self> {
        let what = what.to_string();
        Err(Self { rule, what })
    }
}

/// What a checker says.
pub type Verdict = Result<(), Violation>;

/// Judges a whole run: everything that the clients recorded, against everything that the stream shows at its end.
///
/// # Errors
/// The first promise that was broken.
pub fn judge(history: &History, stream: &[Event]) -> Verdict {
    durability::check(history, stream)?;
    order::check(history, stream)?;
    versions::check(stream)?;
    atomicity::check(history, stream)?;
    expectations::check(history, stream)?;
    reads::check(history, stream)
}

#[cfg(test)]
pub(crate) mod example {
    //! A healthy run that the checkers' own tests damage.

    use crate::workload::{History, Observation, Operation, Placed, Sent, Tick, Told};
    use rdb_proto::event::{Event, EventKind, Expectation};
    use rdb_proto::types::{EventId, KeyName, Seq, Timestamp, Version};
    use uuid::Uuid;

    /// Id of the n-th event.
    pub(crate) fn id(n: u64) -> EventId {
        EventId(Uuid::from_u128(n.into()))
    }

    /// The n-th event, as it stands in the stream.
    pub(crate) fn event(n: u64, key: &str, version: u64, kind: EventKind) -> Event {
        Event {
            seq: Seq(n),
            name: KeyName::new("", key).unwrap(),
            version: Version(version),
            kind,
            event_type: String::new(),
            tags: Vec::new(),
            meta: std::collections::BTreeMap::new(),
            payload: payload(n, kind).into(),
            event_id: id(n),
            time: Timestamp(n),
        }
    }

    fn payload(n: u64, kind: EventKind) -> String {
        match kind {
            EventKind::Write => format!("event {n}"),
            EventKind::Delete => String::new(),
        }
    }

    /// An operation that was acknowledged, from the events that it made.
    pub(crate) fn acknowledged(sent: u64, at: u64, expect: Expectation, events: &[Event]) -> Operation {
        let placed = events.iter().map(|event| Placed {
            seq: event.seq,
            version: event.version,
        });
        Operation {
            key: events[0].name.key.as_str().to_owned(),
            kind: events[0].kind,
            events: events
                .iter()
                .map(|event| sent_of(event.seq.get(), event.kind))
                .collect(),
            expect,
            sent: Tick(sent),
            told: Told::Acknowledged {
                at: Tick(at),
                placed: placed.collect(),
            },
        }
    }

    /// An event as a client sent it.
    pub(crate) fn sent_of(n: u64, kind: EventKind) -> Sent {
        Sent {
            event_id: id(n),
            payload: payload(n, kind),
        }
    }

    /// Two clients, two keys: an append of three, conditional writes, a delete, a conflict, a refusal, an unknown
    /// outcome that happened and one that did not, and reads.
    pub(crate) fn run() -> (History, Vec<Event>) {
        use EventKind::{Delete, Write};
        let stream = vec![
            event(1, "a", 1, Write),
            event(2, "b", 1, Write),
            event(3, "b", 2, Write),
            event(4, "b", 3, Write),
            event(5, "a", 2, Delete),
            event(6, "a", 3, Write),
            event(8, "b", 4, Write),
        ];
        let never = |sent, n, expect, told| Operation {
            key: "a".to_owned(),
            kind: Write,
            events: vec![sent_of(n, Write)],
            expect,
            sent: Tick(sent),
            told,
        };
        let conflict = Told::Conflict {
            at: Tick(9),
            current: Version(1),
        };
        let mut unknown_but_there = acknowledged(18, 19, Expectation::Any, &stream[6..7]);
        unknown_but_there.told = Told::Unknown;
        let operations = vec![
            acknowledged(0, 2, Expectation::Absent, &stream[0..1]),
            acknowledged(1, 5, Expectation::Any, &stream[1..4]),
            never(7, 100, Expectation::Absent, conflict),
            acknowledged(10, 12, Expectation::Exists, &stream[4..5]),
            acknowledged(13, 15, Expectation::Exact(Version(2)), &stream[5..6]),
            never(16, 101, Expectation::Any, Told::Refused),
            never(17, 102, Expectation::Any, Told::Unknown),
            unknown_but_there,
        ];
        let read = |sent, answered, key: &str, found: Option<u64>| Observation {
            key: key.to_owned(),
            sent: Tick(sent),
            answered: Tick(answered),
            found: found.map(Version),
        };
        let observations = vec![
            read(3, 4, "a", Some(1)),
            read(11, 14, "a", None),
            read(20, 21, "a", Some(3)),
            read(22, 23, "b", Some(4)),
        ];
        let history = History {
            operations,
            observations,
        };
        (history, stream)
    }

    /// Demands that a damaged run is found out.
    pub(crate) fn assert_violated(verdict: super::Verdict, part: &str) {
        let violation = verdict.expect_err("the fault is found").to_string();
        assert!(violation.contains(part), "{part:?} stands in {violation:?}");
    }

    #[test]
    fn a_healthy_run_is_judged_healthy() {
        let (history, stream) = run();
        super::judge(&history, &stream).unwrap();
    }
}
