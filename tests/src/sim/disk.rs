//! The model disk of one member: a log with one writer, and the promise beside it. What is not synced at a crash is
//! lost from some point on; a write that was under way may be there in part.

use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, LogIndex, Seq};
use rdb_server::protocol::{Durable, EpochRun, PersistTicket};
use std::collections::VecDeque;
use std::sync::Arc;

/// A change of the log that is written and not synced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Write {
    ticket: PersistTicket,
    /// Entries that stood before it and stay.
    base: usize,
    /// Entries that it cut off.
    removed: Vec<Arc<Entry>>,
    entries: Vec<Arc<Entry>>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// The log as it is written, synced or not. The entry with index i stands at i - 1.
    log: Vec<Arc<Entry>>,
    writes: VecDeque<Write>,
    /// How many of `writes` the sync that is under way covers; 0 while none is.
    syncing: usize,
    promised: Epoch,
    /// Number of the newest membership that was seen when the promise was made.
    config: u64,
    /// Promises that are written and not synced, each with such a number.
    promising: VecDeque<(Epoch, u64)>,
    commit: LogIndex,
    /// An entry that cannot be read, which nobody knows before it is.
    rotten: Option<LogIndex>,
    /// The promise of when entries were found to be lost by that, until they are made good.
    lost: Option<Epoch>,
    /// Those entries, of which its node knows nothing.
    gone: Vec<Arc<Entry>>,
}

fn place(index: LogIndex) -> usize {
    usize::try_from(index.get()).unwrap()
}

impl Disk {
    /// Writes a change of the log. Returns whether a sync must be begun for it.
    pub fn write(
        &mut self,
        ticket: PersistTicket,
        truncate_from: Option<LogIndex>,
        entries: Vec<Arc<Entry>>,
    ) -> bool {
        let base = truncate_from.map_or(self.log.len(), |from| place(from.previous()));
        let removed = self.log.split_off(base.min(self.log.len()));
        self.rotten = self.rotten.filter(|index| place(*index) <= base);
        for entry in &entries {
            assert!(
                place(entry.index) == self.log.len() + 1,
                "harness: entry {} does not follow the log's end {}",
                entry.index,
                self.log.len()
            );
            self.log.push(Arc::clone(entry));
        }
        self.writes.push_back(Write {
            ticket,
            base,
            removed,
            entries,
        });
        self.syncing == 0
    }

    /// Begins a sync of everything that is written: one sync for all that waits.
    pub fn begin_sync(&mut self) {
        self.syncing = self.writes.len();
    }

    /// The sync is complete. Returns the last ticket that it made durable, and whether another must be begun.
    pub fn synced(&mut self) -> (Option<PersistTicket>, bool) {
        let done = self.writes.drain(..self.syncing).next_back();
        self.syncing = 0;
        (done.map(|write| write.ticket), !self.writes.is_empty())
    }

    /// Writes a promise, and beside it the number of the newest membership that was seen.
    pub fn promise(&mut self, epoch: Epoch, config: u64) {
        self.promising.push_back((epoch, config));
    }

    /// The oldest promise that was written is durable.
    pub fn promise_synced(&mut self) -> Option<Epoch> {
        let (epoch, config) = self.promising.pop_front()?;
        self.keep_promise(epoch, config);
        Some(epoch)
    }

    fn keep_promise(&mut self, epoch: Epoch, config: u64) {
        self.promised = self.promised.max(epoch);
        self.config = self.config.max(config);
    }

    /// Notes how far the log is committed, which is only a hint and never waited for.
    pub fn note_commit(&mut self, commit: LogIndex) {
        self.commit = self.commit.max(commit);
    }

    /// The process dies. Of what is not synced, `kept` writes survive whole, and `part` entries of the next one.
    pub fn crash(&mut self, kept: usize, part: Option<usize>, promises_kept: usize) {
        let mut torn = None;
        while self.writes.len() > kept {
            let write = self.writes.pop_back().unwrap();
            self.log.truncate(write.base);
            self.log.extend(write.removed);
            torn = Some((write.base, write.entries));
        }
        if let (Some(part), Some((base, entries))) = (part, torn) {
            self.log.truncate(base);
            self.log.extend(entries.into_iter().take(part));
        }
        self.writes.clear();
        self.syncing = 0;
        let kept: Vec<_> = self.promising.drain(..).take(promises_kept).collect();
        for (epoch, config) in kept {
            self.keep_promise(epoch, config);
        }
        self.commit = self.commit.min(self.last());
    }

    /// What the core starts from, whose key index has applied so much and whose disk remembers this mark, valid for
    /// that commit.
    pub fn starts(&self, indexed: LogIndex, (mark, marked): (Seq, LogIndex)) -> Durable {
        let mut runs: Vec<EpochRun> = vec![];
        for entry in &self.log {
            if runs.last().is_none_or(|run| run.epoch < entry.epoch) {
                runs.push(EpochRun {
                    first: entry.index,
                    epoch: entry.epoch,
                });
            }
        }
        let commit = self.commit.max(indexed).min(self.last());
        let committed = &self.log[..place(commit)];
        let membership = committed.iter().rev().find_map(|entry| match &entry.body {
            EntryBody::EpochStart(membership) => Some(membership.clone()),
            EntryBody::Events(_) | EntryBody::Cursor(_) => None,
        });
        Durable {
            promised: self.promised,
            runs,
            commit,
            committed_seq: committed
                .iter()
                .rev()
                .find_map(|entry| entry.seqs())
                .unwrap_or_default()
                .1,
            tail: self.log[committed.len()..].to_vec(),
            indexed,
            mark: if marked <= commit { mark } else { Seq::ZERO },
            membership: membership.unwrap_or_default(),
            config: self.config,
            lost: self.lost,
        }
    }

    /// A durable entry becomes unreadable. Nobody knows before it is read.
    pub fn rot(&mut self, index: LogIndex) {
        self.rotten = Some(index);
    }

    /// Reads the whole log, as a process that starts does: from what cannot be read on, it is put aside, and noted to be
    /// lost. Returns whether there was any such.
    pub fn open(&mut self) -> bool {
        let Some(rotten) = self.rotten.take().filter(|index| *index <= self.last()) else {
            return false;
        };
        self.lost = Some(self.promised);
        self.gone.extend(self.log.drain(place(rotten.previous())..));
        self.commit = self.commit.min(self.last());
        true
    }

    /// Whether an entry between these cannot be read.
    pub fn is_rotten(&self, first: LogIndex, last: LogIndex) -> bool {
        self.rotten.is_some_and(|index| first <= index && index <= last)
    }

    /// Whether something cannot be read that nobody has tried to read.
    pub const fn is_rotting(&self) -> bool {
        self.rotten.is_some()
    }

    /// Whether something cannot be read, or was lost by that and is not there again.
    pub const fn is_damaged(&self) -> bool {
        self.rotten.is_some() || self.lost.is_some()
    }

    /// Whether the entry was here, durably, and is among those that were lost.
    pub fn has_lost(&self, entry: &Entry) -> bool {
        self.gone.iter().any(|gone| **gone == *entry)
    }

    /// What was lost is there again; a crash may come before that is noted.
    pub fn repaired(&mut self, is_noted: bool) {
        if is_noted {
            self.lost = None;
        }
        self.gone.clear();
    }

    /// Writes that are not synced.
    pub fn unsynced(&self) -> usize {
        self.writes.len()
    }

    /// Entries of the newest write that is not synced.
    pub fn unsynced_entries(&self) -> usize {
        self.writes.back().map_or(0, |write| write.entries.len())
    }

    /// Promises that are not synced.
    pub fn unsynced_promises(&self) -> usize {
        self.promising.len()
    }

    /// The log as written.
    pub fn log(&self) -> &[Arc<Entry>] {
        &self.log
    }

    /// The entry at `index`, as written.
    pub fn entry(&self, index: LogIndex) -> Option<&Arc<Entry>> {
        self.log.get(place(index).checked_sub(1)?)
    }

    /// Last index as written.
    pub fn last(&self) -> LogIndex {
        LogIndex(u64::try_from(self.log.len()).unwrap())
    }

    /// Up to here the log is the same whatever happens to what is not synced.
    pub fn durable(&self) -> LogIndex {
        let lowest = self.writes.iter().map(|write| write.base).min();
        LogIndex(u64::try_from(lowest.unwrap_or(self.log.len())).unwrap())
    }

    /// The durable promise.
    pub const fn promised(&self) -> Epoch {
        self.promised
    }

    /// The number kept beside the promise.
    pub const fn config(&self) -> u64 {
        self.config
    }

    /// The last commit that was noted.
    pub const fn commit(&self) -> LogIndex {
        self.commit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::{Membership, NodeId};

    fn entry(index: u64, number: u64) -> Arc<Entry> {
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: Epoch {
                number,
                node: NodeId(1),
            },
            body: EntryBody::EpochStart(Membership::default()),
        })
    }

    fn epochs(disk: &Disk) -> Vec<u64> {
        disk.log().iter().map(|entry| entry.epoch.number).collect()
    }

    fn written() -> Disk {
        let mut disk = Disk::default();
        assert!(disk.write(
            PersistTicket(1),
            None,
            vec![entry(1, 1), entry(2, 1), entry(3, 1)]
        ));
        disk.begin_sync();
        assert_eq!(disk.synced(), (Some(PersistTicket(1)), false));
        disk.write(
            PersistTicket(2),
            Some(LogIndex(2)),
            vec![entry(2, 2), entry(3, 2), entry(4, 2)],
        );
        disk
    }

    #[test]
    fn a_crash_takes_back_what_is_not_synced() {
        let mut disk = written();
        assert_eq!((epochs(&disk), disk.durable().get()), (vec![1, 2, 2, 2], 1));
        disk.crash(0, None, 0);
        assert_eq!((epochs(&disk), disk.durable().get()), (vec![1, 1, 1], 3));
    }

    #[test]
    fn what_cannot_be_read_is_put_aside_with_all_that_follows() {
        let mut disk = written();
        disk.crash(1, None, 0);
        disk.rot(LogIndex(3));
        assert!(disk.open());
        let third = Entry::clone(disk.gone.first().unwrap());
        assert_eq!((epochs(&disk), disk.lost), (vec![1, 2], Some(Epoch::ZERO)));
        disk.rot(LogIndex(2));
        assert!(disk.open());
        assert_eq!((epochs(&disk), disk.gone.len()), (vec![1], 3));
        assert!(disk.has_lost(&third));
        assert!(!disk.open());
    }

    #[test]
    fn a_write_can_survive_in_part() {
        let mut disk = written();
        disk.crash(0, Some(2), 0);
        assert_eq!(epochs(&disk), [1, 2, 2]);
    }

    #[test]
    fn a_sync_covers_what_was_written_when_it_began() {
        let mut disk = written();
        disk.begin_sync();
        assert!(!disk.write(PersistTicket(3), None, vec![entry(5, 2)]));
        assert_eq!(disk.synced(), (Some(PersistTicket(2)), true));
        assert_eq!(disk.durable(), LogIndex(4));
    }
}
