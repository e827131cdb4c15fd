//! What can happen to a seat's member: every input of the state machine.

use rdb_proto::event::{Expectation, NewEvent};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, Seq, Timestamp, Version};

/// Names a proposal until its outcome is replied. Chosen by the driver, unique within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProposalId(pub u64);

/// Names a read until it is confirmed or refused. Chosen by the driver, unique within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// Names a request for numbers. Chosen by the core, never used twice within one incarnation (rule 6.5: a late
/// answer to an older request is void).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllocationId(pub u64);

/// Names a change of the log until it is durable. Chosen by the core, ascending; the log completes them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistTicket(pub u64);

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyState {
    /// Version of its latest event; [`Version::ZERO`] when it has none.
    pub version: Version,
    /// Seq of its latest event; [`Seq::ZERO`] when it has none.
    pub seq: Seq,
    /// Whether its latest event is a delete.
    pub is_deleted: bool,
}

/// An event that the window of event ids remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEvent {
    /// Its id.
    pub event_id: EventId,
    /// Its seq.
    pub seq: Seq,
    /// Its version within the proposal's key.
    pub version: Version,
    /// Whether it belongs to the key of the proposal that asked.
    pub is_same_key: bool,
}

/// One append that a client asks for: all of its events or none.
///
/// `committed`, `known` and `remembered_from` are what the key index says, looked up after everything that the
/// driver announced with [`Input::Indexed`] was applied. The core adds what it decided after that point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Name for the reply.
    pub id: ProposalId,
    /// The key.
    pub name: KeyName,
    /// What must be true of the key.
    pub expect: Expectation,
    /// One or more events, with distinct ids.
    pub events: Vec<NewEvent>,
    /// Set on a retry: the database had reached this seq before the first attempt was sent.
    pub retried_since: Option<Seq>,
    /// State of the key in the index.
    pub committed: KeyState,
    /// Those of `events` whose id the index remembers, in the order of `events`.
    pub known: Vec<KnownEvent>,
    /// The index remembers the id of every event of this seat with this seq or a later one.
    pub remembered_from: Seq,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The coordinator granted the seat to this node, in this incarnation.
    Won {
        /// The epoch, above every one granted before.
        epoch: Epoch,
        /// Members at the election; the leader works with these until its next election.
        membership: Membership,
    },
    /// The seat is held by somebody else, or by nobody.
    Lost {
        /// The epoch that was lost.
        epoch: Epoch,
    },
    /// The counter was seen at this value (or at a later one).
    CounterObserved(Seq),
    /// Numbers for the request: as many as were asked for, from `first`.
    Allocated {
        /// The request.
        request: AllocationId,
        /// First number.
        first: Seq,
        /// Time that stamps the batch; never goes back along seq.
        time: Timestamp,
    },
    /// No numbers will come for the request; those that may have been taken are holes.
    AllocationVoid {
        /// The request.
        request: AllocationId,
    },
    /// Clients' appends, in the order of their arrival.
    Propose(Vec<Proposal>),
    /// A client's linearizable read arrived.
    Read(ReadId),
    /// The promise is durable.
    PromisePersisted(Epoch),
    /// This change of the log, and all before it, are durable.
    Persisted(PersistTicket),
    /// The key index has applied every entry up to this one.
    Indexed(LogIndex),
    /// A heartbeat interval passed.
    Tick,
}
