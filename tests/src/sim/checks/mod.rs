//! What must be true after every step of a simulated cluster (DESIGN 6.4) and at its end (DESIGN 3, 7): one property
//! a file, each with a test that shows that it notices.
//!
//! | file | property |
//! |---|---|
//! | [`leaders`] | at most one leader for each seat and epoch |
//! | [`matching`] | logs that agree at an entry agree up to it |
//! | [`commits`] | a committed entry is durable on W members, and is never lost or changed |
//! | [`seqs`] | a seq is used once in the database, and ascends along a log |
//! | [`versions`] | the events of a key have the versions 1, 2, 3, … |
//! | [`acknowledged`] | what a client was told is committed, where it was told |
//! | [`marks`] | no event commits at or below a mark |
//! | [`monotone`] | promises, commits and marks never go back |
//! | [`told`] | a member tells others only what is durable |
//! | [`fresh`] | a confirmed read sees all that was committed when it arrived |
//! | [`served`] | what a member serves of its index is what was committed |
//! | [`feed`] | every subscriber gets the stream, whole and in order |
//! | [`cursors`] | members that applied the same have the same cursors |
//! | [`positions`] | the position of a name never goes back, unless it is set |
//! | [`fenced`] | who was replaced moves no position, and is told so |
//! | [`kept`] | a position that was told to be acknowledged is not lost |
//! | [`effects`] | what consumers do is there once for every event, in order |
//! | [`oracle`] | the operations on a key are linearizable: a search, without looking at seqs |
//!
//! What clients recorded is judged by [`crate::checkers`] too, as in runs of real processes.

pub mod acknowledged;
pub mod commits;
pub mod cursors;
pub mod effects;
pub mod feed;
pub mod fenced;
pub mod fresh;
pub mod kept;
pub mod leaders;
pub mod marks;
pub mod matching;
pub mod monotone;
pub mod oracle;
pub mod positions;
pub mod seqs;
pub mod served;
pub mod told;
pub mod versions;

pub use crate::checkers::{Verdict, Violation};

/// A broken property.
pub(crate) fn broken<T>(rule: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { rule, what })
}

#[cfg(test)]
pub(crate) mod example {
    //! Entries to check with.

    use super::Violation;
    use bytes::Bytes;
    use rdb_proto::entry::{Entry, EntryBody};
    use rdb_proto::event::{EventKind, NewEvent, StoredEvents};
    use rdb_proto::types::{
        Epoch, EventId, GroupId, KeyName, LogIndex, Membership, NodeId, SeatId, Seq, Side, Timestamp, Version,
    };
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use uuid::Uuid;

    pub(crate) const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::Zero,
    };

    pub(crate) const fn epoch(number: u64) -> Epoch {
        Epoch {
            number,
            node: NodeId(1),
        }
    }

    pub(crate) fn start(index: u64, number: u64) -> Arc<Entry> {
        let body = EntryBody::EpochStart(Membership::default());
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: epoch(number),
            body,
        })
    }

    /// An entry of one event, whose id is its seq.
    pub(crate) fn event(index: u64, number: u64, key: &str, seq: u64, version: u64) -> Arc<Entry> {
        let event = NewEvent {
            kind: EventKind::Write,
            event_type: String::new(),
            tags: vec![],
            meta: BTreeMap::new(),
            payload: Bytes::new(),
            event_id: EventId(Uuid::from_u128(seq.into())),
        };
        let name = KeyName::new("", key).unwrap();
        let events =
            StoredEvents::number(name, Seq(seq), Version(version), Timestamp(1), vec![event]).unwrap();
        let body = EntryBody::Events(Arc::new(events));
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: epoch(number),
            body,
        })
    }

    pub(crate) fn assert_broken<T: std::fmt::Debug>(verdict: Result<T, Violation>, part: &str) {
        let text = verdict.expect_err("the fault is found").to_string();
        assert!(text.contains(part), "{part:?} stands in {text:?}");
    }
}
