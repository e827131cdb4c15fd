//! What can happen to a seat's member: every input of the state machine.

use super::message::Message;
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::Entry;
use rdb_proto::event::{Expectation, NewEvent};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, NodeId, Seq, Timestamp, Version};
use std::fmt;
use std::sync::Arc;

/// Time as the driver sees it pass: milliseconds of a monotonic clock. Only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

/// Names a proposal until its outcome is replied. Chosen by the driver, unique within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// Names a read until it is confirmed or refused. Chosen by the driver, unique within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Names a request for numbers. Chosen by the core, never used twice within one incarnation (rule 6.5: a late
/// answer to an older request is void).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(pub u64);

/// Names a change of the log until it is durable. Chosen by the core, ascending; the log completes them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistTicket(pub u64);

/// Names a read of the log until its entries come. Chosen by the core, never used twice within one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogReadId(pub u64);

/// The leader key of the seat, as the coordinator shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LeaderKey {
    /// The epoch that it names, and by that the node; `None` when nobody holds the seat.
    pub holder: Option<Epoch>,
    /// To whom the last holder gave the seat up, while nobody holds it: others let that node stand first.
    pub successor: Option<NodeId>,
    /// Changes with every write of the key, its removal included ("mod_revision" in etcd). An election compares
    /// it.
    pub revision: u64,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyState {
    /// Version of its latest event; [`Version::ZERO`] when it has none.
    pub version: Version,
    /// Seq of its latest event; [`Seq::ZERO`] when it has none.
    pub seq: Seq,
    /// Whether its latest event is a delete.
    pub is_deleted: bool,
}

/// An event that the window of event ids remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
/// driver announced with [`Input::Indexed`] was applied; the index may be further than announced. The core adds
/// what it decided after that point.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// The index had applied every entry up to this one when it was asked.
    ///
    /// Invariant: not below the last [`Input::Indexed`]. The core has forgotten what is older, and would give
    /// out a (key, version) twice.
    pub as_of: LogIndex,
    /// State of the key in the index.
    pub committed: KeyState,
    /// Those of `events` whose id the index remembers, in the order of `events`.
    pub known: Vec<KnownEvent>,
    /// The index remembers the id of every event of this seat with this seq or a later one.
    pub remembered_from: Seq,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// Changes of named subscriptions: entries without a number, decided when they are applied.
    ChangeCursors(Vec<(ProposalId, Arc<CursorChange>)>),
    /// A client's linearizable read arrived.
    Read(ReadId),
    /// The promise is durable.
    PromisePersisted(Epoch),
    /// This change of the log, and all before it, are durable.
    Persisted(PersistTicket),
    /// The key index has applied every entry up to this one, entries without events included.
    Indexed(LogIndex),
    /// A heartbeat interval passed.
    Tick,
    /// A message of another member. It may be late, repeated or out of order.
    Received {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The leader key changed, or was looked up. Without this input a member never stands by itself.
    LeaderKey(LeaderKey),
    /// The election that [`Effect::Campaign`](super::Effect::Campaign) asked for was not won, or its outcome is not
    /// known. (One that is won is [`Input::Won`].)
    NotWon,
    /// The members key changed, or was looked up.
    Members(Membership),
    /// Nodes that catch up before they become members, by order of the coordinator: they get entries from the
    /// leader, and count for nothing. Replaces the ones told before.
    Learners(Vec<NodeId>),
    /// Let others stand first for so many milliseconds, from now on: the order of standing, with the driver's
    /// jitter.
    StandAfter(u64),
    /// Connections to the node are refused: its process is gone.
    Unreachable(NodeId),
    /// Give the seat to this member as soon as it has everything. Nothing happens unless this member leads.
    HandOver(NodeId),
    /// Entries for [`Effect::ReadLog`](super::Effect::ReadLog).
    LogRead {
        /// The read.
        read: LogReadId,
        /// From the first that was asked for on, without a gap; at least one.
        entries: Vec<Arc<Entry>>,
    },
}

impl fmt::Display for ProposalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for ReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

impl fmt::Display for PersistTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for LogReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

impl fmt::Display for LeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.holder, self.successor) {
            (Some(epoch), _) => write!(f, "{epoch}")?,
            (None, Some(node)) => write!(f, "vacant for {node}")?,
            (None, None) => f.write_str("vacant")?,
        }
        write!(f, " revision {}", self.revision)
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = if self.is_deleted { " deleted" } else { "" };
        write!(f, "version {} seq {}{deleted}", self.version, self.seq)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} x{}", self.id, self.name, self.events.len())?;
        write!(f, " expect {} as of {}", self.expect, self.as_of)
    }
}

/// One line: what a trace, a script and a simulator print.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Won { epoch, membership } => write!(f, "won {epoch} config {}", membership.number),
            Self::Lost { epoch } => write!(f, "lost {epoch}"),
            Self::CounterObserved(seq) => write!(f, "counter observed {seq}"),
            Self::Allocated { request, first, time } => {
                write!(f, "allocated {request} first {first} time {time}")
            }
            Self::AllocationVoid { request } => write!(f, "allocation void {request}"),
            Self::Propose(proposals) => {
                f.write_str("propose")?;
                proposals
                    .iter()
                    .try_for_each(|proposal| write!(f, " [{proposal}]"))
            }
            Self::ChangeCursors(changes) => {
                f.write_str("change")?;
                changes
                    .iter()
                    .try_for_each(|(proposal, change)| write!(f, " [{proposal} {change}]"))
            }
            Self::Read(read) => write!(f, "read {read}"),
            Self::PromisePersisted(epoch) => write!(f, "promise persisted {epoch}"),
            Self::Persisted(ticket) => write!(f, "persisted {ticket}"),
            Self::Indexed(index) => write!(f, "indexed {index}"),
            Self::Tick => f.write_str("tick"),
            Self::Received { from, message } => write!(f, "received from {from}: {message}"),
            Self::LeaderKey(key) => write!(f, "leader key {key}"),
            Self::NotWon => f.write_str("not won"),
            Self::Members(membership) => {
                write!(f, "members config {}", membership.number)?;
                write!(f, " {:?} previous {:?}", membership.members, membership.previous)
            }
            Self::Learners(nodes) => write!(f, "learners {nodes:?}"),
            Self::StandAfter(milliseconds) => write!(f, "stand after {milliseconds} ms"),
            Self::Unreachable(node) => write!(f, "unreachable {node}"),
            Self::HandOver(node) => write!(f, "hand over to {node}"),
            Self::LogRead { read, entries } => {
                write!(f, "log read {read}")?;
                entries.iter().try_for_each(|entry| write!(f, " [{entry}]"))
            }
        }
    }
}
