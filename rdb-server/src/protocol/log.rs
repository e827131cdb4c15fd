//! How the log of a member changes (rules 6.3.2, 6.3.3 and 6.3.6): which entry may follow which, what is removed,
//! and what is durable.
//!
//! The core keeps the uncommitted entries, some committed ones for members that are a little behind, and where each
//! epoch begins; everything else is on disk only. A write gets a ticket, several may be under way, and the disk
//! completes them in order:
//!
//! ```text
//!   1 … commit | commit+1 … durable | durable+1 … last
//!   on disk      tail, in memory too   tail, being written
//! ```
//! `commit` never passes `durable`, also when W other members have more: what follows from a commit here, the key
//! index above all, must not be ahead of what a crash leaves in the log.

use super::effect::Effect;
use super::input::PersistTicket;
use crate::limits::{MESSAGE_ENTRIES_BYTES_MAX, MESSAGE_ENTRIES_MAX};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, Seq};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where the entries of an epoch begin in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpochRun {
    /// Index of its first entry.
    pub first: LogIndex,
    /// The epoch.
    pub epoch: Epoch,
}

/// The last entry of a log. The higher one of two logs is the one to recover from (rule 6.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogEnd {
    /// Its epoch; [`Epoch::ZERO`] for an empty log.
    pub epoch: Epoch,
    /// Its index.
    pub index: LogIndex,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Unfinished {
    ticket: PersistTicket,
    last: LogIndex,
}

/// A member's log, as far as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Log {
    runs: Vec<EpochRun>,
    commit: LogIndex,
    committed_seq: Seq,
    /// Entries above `commit`, without a gap.
    tail: VecDeque<Arc<Entry>>,
    tail_bytes: usize,
    /// Committed entries before the tail, without a gap: only so that they need not be read from disk.
    recent: VecDeque<Arc<Entry>>,
    recent_bytes: usize,
    recent_bytes_max: usize,
    last: LogIndex,
    last_seq: Seq,
    /// Invariant (rule 6.3.3): every entry up to here is durable as it stands now.
    durable: LogIndex,
    writes: VecDeque<Unfinished>,
    next_ticket: u64,
}

impl Log {
    pub(super) fn new(
        runs: Vec<EpochRun>,
        commit: LogIndex,
        committed_seq: Seq,
        tail: Vec<Arc<Entry>>,
    ) -> Self {
        assert!(
            runs.is_sorted_by(|a, b| a.first < b.first && a.epoch < b.epoch),
            "6.1: epochs must ascend along the log"
        );
        let mut log = Self {
            runs,
            commit,
            committed_seq,
            tail: VecDeque::new(),
            tail_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max: 0,
            last: commit,
            last_seq: committed_seq,
            durable: commit,
            writes: VecDeque::new(),
            next_ticket: 1,
        };
        for entry in tail {
            assert!(
                log.epoch_at(entry.index) == entry.epoch,
                "6.1: entry {} is not of the epoch that the runs name",
                entry.index
            );
            log.extend(entry);
        }
        let start = log.runs.last().map_or(LogIndex::ZERO, |run| run.first);
        assert!(start <= log.last, "6.1: an epoch begins beyond the log's end");
        log.durable = log.last;
        log
    }

    /// Keeps committed entries of at most this many bytes.
    pub(super) const fn keep_recent(&mut self, bytes_max: usize) {
        self.recent_bytes_max = bytes_max;
    }

    /// The last entry, durable or not.
    pub(super) fn end(&self) -> LogEnd {
        LogEnd {
            epoch: self.epoch_at(self.last),
            index: self.last,
        }
    }

    /// Epoch of the entry at `index`; [`Epoch::ZERO`] before the first.
    pub(super) fn epoch_at(&self, index: LogIndex) -> Epoch {
        let run = self.runs.iter().rev().find(|run| run.first <= index);
        run.map_or(Epoch::ZERO, |run| run.epoch)
    }

    /// The entry at `index`, by name.
    pub(super) fn at(&self, index: LogIndex) -> LogEnd {
        LogEnd {
            epoch: self.epoch_at(index),
            index,
        }
    }

    /// Whether the entry is here. By log matching, all entries before it are then the same as well.
    pub(super) fn has(&self, entry: LogEnd) -> bool {
        entry.index <= self.last && self.epoch_at(entry.index) == entry.epoch
    }

    /// The last entry that is not after `other`, neither in index nor in epoch: whatever two logs share ends at or
    /// before it, since epochs ascend along both.
    pub(super) fn last_not_after(&self, other: LogEnd) -> LogEnd {
        let mut index = self.last.min(other.index);
        for run in self.runs.iter().rev() {
            if run.first <= index && run.epoch > other.epoch {
                index = run.first.previous();
            }
        }
        self.at(index)
    }

    /// Entries from `first` to the log's end, as many as a message takes; `None` when they are not in memory any
    /// more.
    pub(super) fn message_from(&self, first: LogIndex) -> Option<Vec<Arc<Entry>>> {
        let kept = self.recent.front().or_else(|| self.tail.front())?.index;
        let skipped = usize::try_from(first.0.checked_sub(kept.0)?).ok()?;
        let in_tail = skipped.saturating_sub(self.recent.len());
        let recent = self.recent.range(skipped.min(self.recent.len())..);
        let entries = recent.chain(self.tail.range(in_tail.min(self.tail.len())..));
        let mut message: Vec<Arc<Entry>> = Vec::new();
        let mut bytes = 0_usize;
        for entry in entries.take(MESSAGE_ENTRIES_MAX) {
            bytes = bytes.saturating_add(entry.body_bytes());
            if bytes > MESSAGE_ENTRIES_BYTES_MAX && !message.is_empty() {
                break;
            }
            message.push(Arc::clone(entry));
        }
        Some(message)
    }

    pub(super) const fn last(&self) -> LogIndex {
        self.last
    }

    pub(super) const fn last_seq(&self) -> Seq {
        self.last_seq
    }

    pub(super) const fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(super) const fn committed_seq(&self) -> Seq {
        self.committed_seq
    }

    pub(super) const fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(super) const fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(super) fn uncommitted(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.tail.iter()
    }

    /// Seq of the first event that is not committed.
    pub(super) fn first_uncommitted_seq(&self) -> Option<Seq> {
        self.tail
            .iter()
            .find_map(|entry| entry.seqs())
            .map(|(first, _)| first)
    }

    /// Appends entries and has them persisted, under one ticket.
    pub(super) fn append(&mut self, entries: Vec<Arc<Entry>>, effects: &mut Vec<Effect>) {
        self.change(None, entries, effects);
    }

    /// Makes the log the same as another one up to the last of `entries`, which follow `prev` there (rule 6.3.2).
    /// Returns up to where the logs are the same now, or an entry to try again at when `prev` is not here.
    ///
    /// What stands here already stays, also when it is beyond: a message that comes late, after others of its epoch,
    /// must not remove what those appended and what was acknowledged since.
    pub(super) fn follow(
        &mut self,
        prev: LogEnd,
        mut entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) -> Result<LogIndex, LogEnd> {
        if !self.has(prev) {
            assert!(
                prev.index > self.commit,
                "6.3.2: {prev} of another log is not what is committed here, up to {}",
                self.at(self.commit)
            );
            return Err(self.last_not_after(prev));
        }
        let mut matched = prev.index;
        let mut known = 0_usize;
        for entry in &entries {
            assert!(
                entry.index == matched.next(),
                "6.2: a message with a gap after {matched}"
            );
            matched = entry.index;
            let is_here = self.has(LogEnd {
                epoch: entry.epoch,
                index: entry.index,
            });
            if is_here {
                known = known.saturating_add(1);
            }
        }
        // Epochs ascend along both logs, so what is known comes first.
        let unknown = entries.split_off(known.min(entries.len()));
        if let Some(first) = unknown.first().map(|entry| entry.index) {
            let conflict = (first <= self.last).then_some(first);
            self.change(conflict, unknown, effects);
        }
        Ok(matched)
    }

    fn change(
        &mut self,
        truncate_from: Option<LogIndex>,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) {
        assert!(!entries.is_empty(), "6.2: nothing to append");
        if let Some(first) = truncate_from {
            self.truncate(first);
        }
        for entry in &entries {
            let epoch = self.end().epoch;
            assert!(entry.epoch >= epoch, "6.3.2: epochs never go back along a log");
            if entry.epoch > epoch {
                self.runs.push(EpochRun {
                    first: entry.index,
                    epoch: entry.epoch,
                });
            }
            self.extend(Arc::clone(entry));
        }
        let ticket = PersistTicket(self.next_ticket);
        self.next_ticket = self.next_ticket.saturating_add(1);
        self.writes.push_back(Unfinished {
            ticket,
            last: self.last,
        });
        effects.push(Effect::Persist {
            ticket,
            truncate_from,
            entries,
        });
    }

    /// Removes every entry from `first` on: a suffix that a later leader's log does not have was never committed.
    fn truncate(&mut self, first: LogIndex) {
        assert!(
            first > self.commit,
            "6.3.2: {first} is to be removed, but {} is committed: a committed entry would be lost",
            self.commit
        );
        while self.tail.back().is_some_and(|entry| entry.index >= first)
            && let Some(entry) = self.tail.pop_back()
        {
            self.tail_bytes = self.tail_bytes.saturating_sub(entry.body_bytes());
        }
        while self.runs.last().is_some_and(|run| run.first >= first) {
            self.runs.pop();
        }
        self.last = first.previous();
        let last_seq = self.tail.iter().rev().find_map(|entry| entry.seqs());
        self.last_seq = last_seq.map_or(self.committed_seq, |(_, last)| last);
        self.durable = self.durable.min(self.last);
        // A write that is still under way makes nothing durable of what is removed behind it.
        for write in &mut self.writes {
            write.last = write.last.min(self.last);
        }
    }

    fn extend(&mut self, entry: Arc<Entry>) {
        assert!(
            entry.index == self.last.next(),
            "6.3.2: entry {} does not follow {}",
            entry.index,
            self.last
        );
        if let Some((first, last)) = entry.seqs() {
            assert!(
                first > self.last_seq,
                "6.3.6: seq {first} follows seq {} in the log",
                self.last_seq
            );
            self.last_seq = last;
        }
        self.last = entry.index;
        self.tail_bytes = self.tail_bytes.saturating_add(entry.body_bytes());
        self.tail.push_back(entry);
    }

    /// A write, and all before it, became durable.
    pub(super) fn persisted(&mut self, ticket: PersistTicket) {
        assert!(
            ticket.0 < self.next_ticket,
            "6.3.3: {ticket} became durable, which was never written"
        );
        while let Some(write) = self.writes.front()
            && write.ticket <= ticket
        {
            assert!(write.last >= self.durable, "6.3.3: durable entries went back");
            self.durable = write.last;
            self.writes.pop_front();
        }
    }

    /// Commits up to `index` and hands out what was committed by that.
    pub(super) fn commit_to(&mut self, index: LogIndex) -> Vec<Arc<Entry>> {
        assert!(index > self.commit, "6.4: commit never goes back");
        assert!(
            index <= self.last,
            "6.3.4: an entry that is not here was committed"
        );
        let count = usize::try_from(index.since(self.commit)).unwrap_or(usize::MAX);
        let entries: Vec<Arc<Entry>> = self.tail.drain(..count.min(self.tail.len())).collect();
        assert!(
            entries.len() == count,
            "6.1: the tail lost an entry that was not committed"
        );
        for entry in &entries {
            self.tail_bytes = self.tail_bytes.saturating_sub(entry.body_bytes());
            if let Some((_, last)) = entry.seqs() {
                self.committed_seq = last;
            }
        }
        self.commit = index;
        self.remember(&entries);
        entries
    }

    fn remember(&mut self, committed: &[Arc<Entry>]) {
        for entry in committed {
            self.recent_bytes = self.recent_bytes.saturating_add(entry.body_bytes());
            self.recent.push_back(Arc::clone(entry));
        }
        while self.recent_bytes > self.recent_bytes_max
            && let Some(entry) = self.recent.pop_front()
        {
            self.recent_bytes = self.recent_bytes.saturating_sub(entry.body_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, epoch};
    use super::*;
    use rdb_proto::types::Membership;

    /// Section 3, rule 6.3.4. Red with `commit_before_persisted`.
    #[test]
    fn nothing_is_committed_or_acknowledged_before_it_is_durable() {
        let mut world = World::serving();
        world.run("propose 1 a any 11");
        let written = world.run("allocated 1 first 1");
        assert_eq!(written, ["persist t2 [2#1@1 default/a@1..1 seq 1..1]"]);
        assert_eq!(world.seat.commit(), LogIndex(1));
        assert_eq!(world.run("persisted 2")[1], "reply p1 written seq 1 version 1");
    }

    #[test]
    fn a_durable_write_makes_all_before_it_durable() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1"]);
        world.run_all(&["propose 2 a any 12", "allocated 2 first 2"]);
        assert_eq!(world.seat.durable(), LogIndex(1));
        world.run("persisted 3");
        assert_eq!(world.seat.durable(), LogIndex(3));
        assert_eq!(world.run("persisted 2"), [""; 0], "late, and said already");
    }

    fn start(index: u64, number: u64) -> Arc<Entry> {
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: epoch(number),
            body: rdb_proto::entry::EntryBody::EpochStart(Membership::default()),
        })
    }

    fn empty() -> Log {
        Log::new(vec![], LogIndex::ZERO, Seq::ZERO, vec![])
    }

    #[test]
    fn a_log_knows_the_epoch_of_every_index() {
        let mut log = empty();
        log.append(vec![start(1, 2), start(2, 2)], &mut vec![]);
        log.append(vec![start(3, 5)], &mut vec![]);
        let epochs: Vec<_> = (0..=3)
            .map(|index| log.epoch_at(LogIndex(index)).number)
            .collect();
        assert_eq!(epochs, [0, 2, 2, 5]);
        let higher = LogEnd {
            epoch: epoch(6),
            index: LogIndex(1),
        };
        assert!(higher > log.end(), "a later epoch beats a longer log");
    }

    #[test]
    #[should_panic(expected = "6.3.2: entry 3 does not follow 1")]
    fn a_gap_in_the_log_is_a_bug() {
        empty().append(vec![start(1, 1), start(3, 1)], &mut vec![]);
    }

    #[test]
    #[should_panic(expected = "6.3.2: epochs never go back")]
    fn an_epoch_that_goes_back_is_a_bug() {
        empty().append(vec![start(1, 2), start(2, 1)], &mut vec![]);
    }

    #[test]
    #[should_panic(expected = "6.3.3: t7 became durable, which was never written")]
    fn a_completion_of_no_write_is_a_bug() {
        World::serving().run("persisted 7");
    }
}
