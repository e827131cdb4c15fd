//! What a member of a seat is in every role: its promise, its log and its mark (DESIGN 6.1).
//!
//! Decides nothing about leadership; [`super::fencing`] raises the promise, [`super::append`] keeps the log.

use super::append::Following;
use super::effect::Effect;
use super::input::{LogReadId, Tick};
use super::log::{EpochRun, Log};
use super::repair::is_made_good;
use crate::limits::{
    FAILOVER_AFTER_MS, MESSAGE_ENTRIES_BYTES_MAX, MESSAGE_ENTRIES_MAX, SEAT_RECENT_BYTES_MAX,
};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, LogIndex, Membership, NodeId, Seq, Timestamp};
use std::fmt;
use std::sync::Arc;

/// What stays the same for the life of a seat's member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatConfig {
    /// The node that this member is of.
    pub me: NodeId,
    /// W: on how many members an entry must be durable to be committed. At least 1.
    pub writes: usize,
    /// For how long a leader may be unheard, or without answers, in milliseconds (`FAILOVER_AFTER`).
    pub failover_after_ms: u64,
    /// Bytes of committed entries that stay in memory for members that lag; older ones are read from disk. 0 keeps
    /// none.
    pub recent_bytes_max: usize,
}

impl SeatConfig {
    /// With the usual bounds.
    pub const fn new(me: NodeId, writes: usize) -> Self {
        Self {
            me,
            writes,
            failover_after_ms: FAILOVER_AFTER_MS,
            recent_bytes_max: SEAT_RECENT_BYTES_MAX,
        }
    }
}

/// What a member finds on its disk when it starts.
///
/// Invariants: `tail` follows `commit` without a gap; `runs` ascend and cover the whole log, empty when it is;
/// `indexed` ≤ `commit` (an index that applied an entry proves that it was committed: start with the higher of
/// that and the stored commit).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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
    /// Number of the highest membership that was seen: [`Seat::config`](super::Seat::config) as it was when
    /// `promised` was made durable; 0 when none was.
    pub config: u64,
    /// The epoch that was promised when it was found that entries were lost which had been durable; `None` when none are.
    /// Everything else here is as if the log ended before the first of them.
    pub lost: Option<Epoch>,
}

/// A resolved mark: no event at or below `seq` will be added to the log beyond the entries up to `commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mark {
    /// The mark.
    pub seq: Seq,
    /// Commit index that it is valid for.
    pub commit: LogIndex,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.seq, self.commit)
    }
}

/// The state of every role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) config: SeatConfig,
    /// Highest epoch promised, perhaps not durable yet: nothing lower is obeyed from the moment that it is raised.
    pub(super) promised: Epoch,
    /// Highest epoch whose promise is durable: only this may be told to others.
    pub(super) promised_durable: Epoch,
    pub(super) log: Log,
    /// Under epochs up to this one it may have acknowledged entries that it does not have.
    pub(super) lost: Option<Epoch>,
    /// What is known of the log of the leader that is obeyed.
    pub(super) following: Following,
    /// The key index has applied everything up to here.
    pub(super) indexed: LogIndex,
    pub(super) mark: Mark,
    /// A mark that may be used once the commit that it is valid for is reached here.
    pub(super) pending_mark: Option<Mark>,
    /// Highest mark that is known, usable here or not: no number at or below it may be appended (rule 6.3.6).
    pub(super) known_mark: Seq,
    /// The membership with the highest number that the log names.
    pub(super) membership: Membership,
    /// Number of the highest membership that was seen, in the log or in a message.
    pub(super) config_seen: u64,
    /// Highest epoch that was heard of, from members and from the coordinator: an election must exceed it.
    pub(super) highest: Epoch,
    /// Highest value of the counter that was seen.
    pub(super) counter: Seq,
    /// Time of the last batch that was numbered here.
    pub(super) time: Timestamp,
    /// When the current step is made.
    pub(super) now: Tick,
    next_log_read: u64,
}

impl Member {
    pub(super) fn new(config: SeatConfig, durable: Durable) -> Self {
        assert!(config.writes >= 1, "6: W must be at least 1");
        assert!(
            durable.indexed <= durable.commit,
            "8: the key index may hold committed entries only"
        );
        let mut log = Log::new(durable.runs, durable.commit, durable.committed_seq, durable.tail);
        log.keep_recent(config.recent_bytes_max);
        assert!(
            log.end().epoch <= durable.promised,
            "6.3.1: an entry of an epoch that was not promised"
        );
        assert!(
            log.last() == LogIndex::ZERO || log.epoch_at(LogIndex(1)) > Epoch::ZERO,
            "6.1: the runs do not cover the log"
        );
        let membership = log.uncommitted().fold(durable.membership, newer_membership);
        // A crash may have come between the repair and its note.
        let end = log.end().epoch;
        let lost = durable.lost.filter(|lost| !is_made_good(*lost, end));
        Self {
            lost,
            config,
            promised: durable.promised,
            promised_durable: durable.promised,
            log,
            indexed: durable.indexed,
            // What the mark is valid for may be above the commit that was stored: it is told anew by the leader.
            mark: Mark::default(),
            pending_mark: None,
            known_mark: durable.mark,
            following: Following::new(durable.promised),
            highest: durable.promised,
            config_seen: durable.config.max(membership.number),
            membership,
            counter: Seq::ZERO,
            time: Timestamp::ZERO,
            now: Tick::default(),
            next_log_read: 1,
        }
    }

    /// Milliseconds that passed since `then`.
    pub(super) const fn since(&self, then: Tick) -> u64 {
        self.now.0.saturating_sub(then.0)
    }

    /// Has entries read that are not in memory any more.
    pub(super) fn read_log(
        &mut self,
        first: LogIndex,
        last: LogIndex,
        effects: &mut Vec<Effect>,
    ) -> LogReadId {
        assert!(
            first <= last && last <= self.log.commit(),
            "6.1: {first} to {last} are not on disk only"
        );
        let read = LogReadId(self.next_log_read);
        self.next_log_read = self.next_log_read.saturating_add(1);
        let count_max = u64::try_from(MESSAGE_ENTRIES_MAX).unwrap_or(u64::MAX);
        effects.push(Effect::ReadLog {
            read,
            first,
            last: last.min(first.plus(count_max).previous()),
            bytes_max: MESSAGE_ENTRIES_BYTES_MAX,
        });
        read
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
        EntryBody::EpochStart(_) | EntryBody::Events(_) | EntryBody::Cursor(_) => known,
    }
}
