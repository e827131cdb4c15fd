//! What a seat's member wants done: every effect of the state machine.

use super::input::{AllocationId, KeyState, KnownEvent, LogReadId, PersistTicket, ProposalId, ReadId};
use super::message::Message;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, EventId, LogIndex, NodeId, Seq, Version};
use std::fmt;
use std::sync::Arc;

/// Why a seat does not take a request. Nothing happened, and nothing will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// More waits in the seat than `limits` allows.
    Overloaded,
}

/// Where the events of an append were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Written {
    /// Seq of its first event; the others follow densely.
    pub first_seq: Seq,
    /// Version of its first event; the others follow densely.
    pub first_version: Version,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its events are committed.
    Written(Written),
    /// The change of a cursor is committed, at this index: what came of it shows once that is applied.
    Changed(LogIndex),
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The epoch that was won is too low, since a member, this or another, obeys nothing below `promised`: have the
    /// coordinator raise it above that in one txn that compares that the leader key still names `epoch`, then say
    /// [`Input::Won`](super::Input::Won) again; or [`Input::Lost`](super::Input::Lost) when it does not, or
    /// [`Input::NotWon`](super::Input::NotWon) when that is not known. Until one of them is said, neither this nor
    /// [`Effect::Campaign`] is asked for again.
    EpochTooLow {
        /// The epoch of the [`Input::Won`](super::Input::Won).
        epoch: Epoch,
        /// What the epoch must exceed.
        promised: Epoch,
    },
    /// Make the promise durable, and with it [`Seat::config`](super::Seat::config), then say [`Input::PromisePersisted`](super::Input::PromisePersisted).
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
    /// Send to another member. Losing it, repeating it or sending it late does no harm.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Run the election: IF the leader key is at this revision THEN put this node, with the next epoch number, which
    /// must exceed `above`. Then say [`Input::Won`](super::Input::Won) or [`Input::NotWon`](super::Input::NotWon);
    /// until one of them is said, this is not asked for again. Also asked for by a leader that needs a new epoch:
    /// its members changed, or its lease was lost.
    Campaign {
        /// What the epoch must exceed: the highest that this member has seen.
        above: Epoch,
        /// [`LeaderKey::revision`](super::LeaderKey::revision) that this member acts upon.
        revision: u64,
    },
    /// Remove the leader key IF it still names this epoch. This member does not lead under it any more.
    GiveUp {
        /// The epoch.
        epoch: Epoch,
        /// Who has everything and should stand first, by name in the key; `None` when the seat did not work here.
        successor: Option<NodeId>,
    },
    /// What [`Durable::lost`](super::Durable::lost) tells of is made good, durably: forget it.
    Repaired,
    /// Read committed entries of the own log, then say [`Input::LogRead`](super::Input::LogRead). When they cannot be
    /// read, the process must end: the damage is told of at its next start.
    ReadLog {
        /// Name for the answer.
        read: LogReadId,
        /// First index.
        first: LogIndex,
        /// Last index.
        last: LogIndex,
        /// Entries beyond the first may be left out when all would be more than this.
        bytes_max: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: None } => f.write_str("not leader"),
            Self::NotLeader {
                leader: Some((node, epoch)),
            } => write!(f, "not leader but {node} under {epoch}"),
            Self::Recovering => f.write_str("recovering"),
            Self::NoNumbers => f.write_str("no numbers"),
            Self::Overloaded => f.write_str("overloaded"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(written) => {
                write!(
                    f,
                    "written seq {} version {}",
                    written.first_seq, written.first_version
                )
            }
            Self::Changed(index) => write!(f, "changed at {index}"),
            Self::Duplicate(known) => {
                f.write_str("duplicate")?;
                known
                    .iter()
                    .try_for_each(|event| write!(f, " [seq {} version {}]", event.seq, event.version))
            }
            Self::Conflict(state) => write!(f, "conflict {state}"),
            Self::EventIdReused(id) => write!(f, "event id reused {id}"),
            Self::RetryTooOld(id) => write!(f, "retry too old {id}"),
            Self::Refused(refusal) => write!(f, "refused {refusal}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

fn write_entries(f: &mut fmt::Formatter<'_>, entries: &[Arc<Entry>]) -> fmt::Result {
    entries.iter().try_for_each(|entry| write!(f, " [{entry}]"))
}

/// One line: what a trace, a script and a simulator print.
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EpochTooLow { epoch, promised } => {
                write!(f, "epoch too low {epoch} promised {promised}")
            }
            Self::PersistPromise(epoch) => write!(f, "persist promise {epoch}"),
            Self::Persist {
                ticket,
                truncate_from,
                entries,
            } => {
                write!(f, "persist {ticket}")?;
                if let Some(from) = truncate_from {
                    write!(f, " truncate from {from}")?;
                }
                write_entries(f, entries)
            }
            Self::Allocate { request, count } => write!(f, "allocate {request} count {count}"),
            Self::Reply { proposal, outcome } => write!(f, "reply {proposal} {outcome}"),
            Self::ReadConfirmed { read, index } => write!(f, "read {read} confirmed at {index}"),
            Self::ReadRefused { read, refusal } => write!(f, "read {read} refused {refusal}"),
            Self::Committed { index, entries } => {
                write!(f, "committed {index}")?;
                write_entries(f, entries)
            }
            Self::Resolved { mark, commit } => write!(f, "resolved {mark} commit {commit}"),
            Self::Send { to, message } => write!(f, "send to {to}: {message}"),
            Self::Campaign { above, revision } => write!(f, "campaign above {above} revision {revision}"),
            Self::GiveUp { epoch, successor } => {
                write!(f, "give up {epoch}")?;
                successor.map_or(Ok(()), |node| write!(f, " for {node}"))
            }
            Self::Repaired => f.write_str("repaired"),
            Self::ReadLog {
                read, first, last, ..
            } => write!(f, "read log {read} from {first} to {last}"),
        }
    }
}
