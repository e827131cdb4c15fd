//! What a seat's member wants done: every effect of the state machine.

use super::input::{AllocationId, KeyState, KnownEvent, PersistTicket, ProposalId, ReadId};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, EventId, LogIndex, NodeId, Seq, Version};
use std::sync::Arc;

/// Why a seat does not take a request. Nothing happened, and nothing will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This member does not lead the seat.
    NotLeader {
        /// Who does, under which epoch; `None` when not known.
        leader: Option<(NodeId, Epoch)>,
    },
    /// This member leads, but its epoch-start entry is not committed and indexed yet.
    Recovering,
    /// The coordinator gives no numbers.
    NoNumbers,
}

/// Where the events of an append were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Seq of its first event; the others follow densely.
    pub first_seq: Seq,
    /// Version of its first event; the others follow densely.
    pub first_version: Version,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its events are committed.
    Written(Written),
    /// An earlier attempt had stored them, all of them; in the order of the proposal's events.
    Duplicate(Vec<KnownEvent>),
    /// The expectation did not hold against this committed state; nothing happened.
    Conflict(KeyState),
    /// This event id belongs to another append; nothing happened.
    EventIdReused(EventId),
    /// The retry is older than the window of event ids; this attempt did nothing.
    RetryTooOld(EventId),
    /// Not taken; nothing happened.
    Refused(Refusal),
    /// The seat was lost after the append: it may be committed by a successor, or not.
    Unknown,
}

/// Something to do. Effects of one step may be performed in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the promise durable, then say [`Input::PromisePersisted`](super::Input::PromisePersisted).
    PersistPromise(Epoch),
    /// Change the log, then say [`Input::Persisted`](super::Input::Persisted).
    Persist {
        /// Name for the completion.
        ticket: PersistTicket,
        /// First remove every entry from this index on.
        truncate_from: Option<LogIndex>,
        /// Then append these, which follow each other and the log's end.
        entries: Vec<Arc<Entry>>,
    },
    /// Ask the coordinator for exactly this many numbers.
    Allocate {
        /// Name for the answer.
        request: AllocationId,
        /// How many; at least 1.
        count: u64,
    },
    /// Tell the client.
    Reply {
        /// The proposal.
        proposal: ProposalId,
        /// What became of it.
        outcome: Outcome,
    },
    /// The read may be answered once the key index has applied this entry.
    ReadConfirmed {
        /// The read.
        read: ReadId,
        /// Entries up to this one must be seen by it.
        index: LogIndex,
    },
    /// The read cannot be answered here.
    ReadRefused {
        /// The read.
        read: ReadId,
        /// Why.
        refusal: Refusal,
    },
    /// Entries became committed: index them and show them to streams.
    Committed {
        /// Last committed index.
        index: LogIndex,
        /// The newly committed entries, in order, ending in `index`.
        entries: Vec<Arc<Entry>>,
    },
    /// No event at or below this seq will ever be added to this seat's log, beyond those up to `commit`.
    Resolved {
        /// The mark.
        mark: Seq,
        /// Commit index that the mark is valid for.
        commit: LogIndex,
    },
}
