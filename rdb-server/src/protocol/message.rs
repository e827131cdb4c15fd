//! What members of a seat say to each other (DESIGN 6.2): every message, and what each one proves.
//!
//! ```text
//! candidate ─ Fence ─► member ─ FenceAck ─► candidate ─ Fetch ─► member ─ Fetched | Mismatch ─► candidate
//! leader ─ Append ─► member ─ AppendAck | Mismatch ─► leader        anybody ─ … ─► member ─ Reject ─► anybody
//! member ─ PreVote ─► member ─ PreVoteAnswer ─► member
//! ```
//! Messages may be lost, delayed, repeated and reordered: each says which epoch it is of, an answer also what it
//! answers, and whatever is out of date is dropped. All of them but the pre-vote are of the epoch of one node, so
//! an answer goes to that node.

use super::log::LogEnd;
use super::member::Mark;
use super::reads::Round;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, Membership};
use std::fmt;
use std::sync::Arc;

/// Entries of a leader, or only its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Append {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Number of the membership that the leader works with.
    pub config: u64,
    /// The latest round that the leader has begun.
    pub round: Round,
    /// The entry that `entries` follow; the receiver must have it.
    pub prev: LogEnd,
    /// Entries without a gap; none in a heartbeat.
    pub entries: Vec<Arc<Entry>>,
    /// The leader's commit, which may be beyond these entries.
    pub commit: LogIndex,
    /// The **confirmed** mark, never a candidate, with the commit index from which on it may be used.
    pub mark: Mark,
}

/// A message between two members of a seat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// The winner of a seat asks to be promised that nothing lower is obeyed any more. Repeated each heartbeat.
    Fence {
        /// The epoch that was won.
        epoch: Epoch,
        /// Number of the membership that the winner works with.
        config: u64,
    },
    /// The promise of `epoch` is durable, and this was the log then.
    FenceAck {
        /// The epoch promised.
        epoch: Epoch,
        /// The last entry of the log.
        end: LogEnd,
        /// Last index known to be committed.
        commit: LogIndex,
        /// The membership with the highest number that the log names.
        membership: Membership,
    },
    /// The winner asks for the entries after `prev`, up to `last`.
    Fetch {
        /// The epoch that was won, and that the receiver has promised.
        epoch: Epoch,
        /// The entry after which entries are missing.
        prev: LogEnd,
        /// Last index that is wanted.
        last: LogIndex,
    },
    /// Entries that follow `prev`; perhaps not all that were asked for.
    Fetched {
        /// Of the [`Message::Fetch`].
        epoch: Epoch,
        /// Of the [`Message::Fetch`].
        prev: LogEnd,
        /// At least one, without a gap.
        entries: Vec<Arc<Entry>>,
    },
    /// Entries of the leader, or its heartbeat.
    Append(Append),
    /// The sender obeys `epoch`, and has the leader's log up to `matched`, durably.
    AppendAck {
        /// The leader's epoch, promised by the sender.
        epoch: Epoch,
        /// The latest round of the leader that reached the sender.
        round: Round,
        /// Up to here the logs are the same: never the end of the sender's log.
        matched: LogIndex,
    },
    /// The sender does not have the entry that an [`Message::Append`] or [`Message::Fetch`] follows.
    Mismatch {
        /// Of the message that is answered.
        epoch: Epoch,
        /// The entry that is not there.
        refused: LogEnd,
        /// The sender's last entry that is not after `refused`, in index and in epoch: try there.
        hint: LogEnd,
    },
    /// The sender does not obey `epoch`.
    Reject {
        /// Of the message that is answered.
        epoch: Epoch,
        /// It obeys nothing lower: what it promised, or more when its log is damaged. Not above `epoch` when only the membership is
        /// at fault.
        promised: Epoch,
        /// The membership with the highest number that the sender's log names.
        membership: Membership,
    },
    /// The sender has not heard the leader that the leader key names: has the receiver?
    PreVote {
        /// The epoch that the leader key names.
        leader: Epoch,
        /// Number of the question.
        attempt: u64,
    },
    /// Answers [`Message::PreVote`].
    PreVoteAnswer {
        /// Of the question.
        leader: Epoch,
        /// Of the question.
        attempt: u64,
        /// Not heard for as long as a failover takes.
        is_unheard: bool,
    },
}

impl Message {
    /// The entries that it asks its receiver to write.
    pub fn entries(&self) -> &[Arc<Entry>] {
        match self {
            Self::Append(append) => &append.entries,
            Self::Fetched { entries, .. } => entries,
            Self::Fence { .. }
            | Self::FenceAck { .. }
            | Self::Fetch { .. }
            | Self::AppendAck { .. }
            | Self::Mismatch { .. }
            | Self::Reject { .. }
            | Self::PreVote { .. }
            | Self::PreVoteAnswer { .. } => &[],
        }
    }
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.index, self.epoch)
    }
}

impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "append {} config {} round {}",
            self.epoch, self.config, self.round
        )?;
        write!(f, " after {}", self.prev)?;
        self.entries
            .iter()
            .try_for_each(|entry| write!(f, " [{entry}]"))?;
        write!(f, " commit {} mark {}", self.commit, self.mark)
    }
}

/// One line: what a trace, a script and a simulator print.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence { epoch, config } => write!(f, "fence {epoch} config {config}"),
            Self::FenceAck {
                epoch,
                end,
                commit,
                membership,
            } => write!(
                f,
                "fence-ack {epoch} end {end} commit {commit} config {}",
                membership.number
            ),
            Self::Fetch { epoch, prev, last } => write!(f, "fetch {epoch} after {prev} to {last}"),
            Self::Fetched { epoch, prev, entries } => {
                write!(f, "fetched {epoch} after {prev}")?;
                entries.iter().try_for_each(|entry| write!(f, " [{entry}]"))
            }
            Self::Append(append) => append.fmt(f),
            Self::AppendAck {
                epoch,
                round,
                matched,
            } => write!(f, "append-ack {epoch} round {round} matched {matched}"),
            Self::Mismatch { epoch, refused, hint } => {
                write!(f, "mismatch {epoch} refused {refused} hint {hint}")
            }
            Self::Reject {
                epoch,
                promised,
                membership,
            } => write!(
                f,
                "reject {epoch} promised {promised} config {}",
                membership.number
            ),
            Self::PreVote { leader, attempt } => write!(f, "pre-vote {leader} attempt {attempt}"),
            Self::PreVoteAnswer {
                leader,
                attempt,
                is_unheard,
            } => {
                let answer = if *is_unheard { "unheard" } else { "heard" };
                write!(f, "pre-vote-answer {leader} attempt {attempt} {answer}")
            }
        }
    }
}
