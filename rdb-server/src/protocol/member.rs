//! What a member of a seat is in every role: its promise, its log and its mark (DESIGN 6.1).
//!
//! Decides nothing about leadership; [`super::fencing`] raises the promise, [`super::append`] keeps the log.

use super::append::{EpochRun, Log};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, LogIndex, Membership, NodeId, Seq, Timestamp};
use std::sync::Arc;

/// What stays the same for the life of a seat's member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatConfig {
    /// The node that this member is of.
    pub me: NodeId,
    /// W: on how many members an entry must be durable to be committed. At least 1.
    pub writes: usize,
}

/// What a member finds on its disk when it starts.
///
/// Invariants: `tail` follows `commit` without a gap; `runs` ascend and cover the whole log, empty when it is;
/// `indexed` ≤ `commit` (an index that applied an entry proves that it was committed: start with the higher of
/// that and the stored commit).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// Highest epoch promised.
    pub promised: Epoch,
    /// First index of every epoch in the log.
    pub runs: Vec<EpochRun>,
    /// Last index known to be committed.
    pub commit: LogIndex,
    /// Seq of the last event at or below `commit`; [`Seq::ZERO`] when there is none.
    pub committed_seq: Seq,
    /// Every entry above `commit`.
    pub tail: Vec<Arc<Entry>>,
    /// The key index has applied every entry up to this one.
    pub indexed: LogIndex,
    /// Highest resolved mark of the seat that is known; [`Seq::ZERO`] when none is.
    pub mark: Seq,
    /// Members as of the last epoch-start entry at or below `commit`; the default when there is none.
    pub membership: Membership,
}

/// A resolved mark: no event at or below `seq` will be added to the log beyond the entries up to `commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The mark.
    pub seq: Seq,
    /// Commit index that it is valid for.
    pub commit: LogIndex,
}

/// The state of every role.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) config: SeatConfig,
    /// Highest epoch promised, perhaps not durable yet: nothing lower is obeyed from the moment that it is raised.
    pub(super) promised: Epoch,
    /// Highest epoch whose promise is durable: only this may be told to others.
    pub(super) promised_durable: Epoch,
    pub(super) log: Log,
    /// The key index has applied everything up to here.
    pub(super) indexed: LogIndex,
    pub(super) mark: Mark,
    /// The membership with the highest number that the log names.
    pub(super) membership: Membership,
    /// Highest value of the counter that was seen.
    pub(super) counter: Seq,
    /// Time of the last batch that was numbered here.
    pub(super) time: Timestamp,
}

impl Member {
    pub(super) fn new(config: SeatConfig, durable: Durable) -> Self {
        assert!(config.writes >= 1, "6: W must be at least 1");
        assert!(
            durable.indexed <= durable.commit,
            "8: the key index may hold committed entries only"
        );
        let log = Log::new(durable.runs, durable.commit, durable.committed_seq, durable.tail);
        assert!(
            log.end().epoch <= durable.promised,
            "6.3.1: an entry of an epoch that was not promised"
        );
        let membership = log.uncommitted().fold(durable.membership, newer_membership);
        Self {
            config,
            promised: durable.promised,
            promised_durable: durable.promised,
            log,
            indexed: durable.indexed,
            mark: Mark {
                seq: durable.mark,
                commit: LogIndex::ZERO,
            },
            membership,
            counter: Seq::ZERO,
            time: Timestamp::ZERO,
        }
    }

    pub(super) fn indexed(&mut self, index: LogIndex) {
        assert!(
            index <= self.log.commit(),
            "8: the key index applied {index}, which is not committed"
        );
        self.indexed = self.indexed.max(index);
    }
}

fn newer_membership(known: Membership, entry: &Arc<Entry>) -> Membership {
    match &entry.body {
        EntryBody::EpochStart(membership) if membership.number > known.number => membership.clone(),
        EntryBody::EpochStart(_) | EntryBody::Events(_) => known,
    }
}
