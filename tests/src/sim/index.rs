//! The model key index of one member: the state of every key as of an applied index, and the window of event ids,
//! bounded by log position and so the same at every member; the cursors of named subscriptions, as the production code
//! changes them.

use super::mistakes::{self, Mistake};
use rdb_proto::cursor::Cursor;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::NewEvent;
use rdb_proto::types::{EventId, KeyName, LogIndex, Seq, Version};
use rdb_server::protocol::{KeyState, KnownEvent, Proposal};
use std::collections::{BTreeMap, VecDeque};

/// A key index.
#[derive(Debug)]
pub struct Index {
    applied: LogIndex,
    /// Where each key stood after each of its events.
    keys: BTreeMap<KeyName, Vec<KeyState>>,
    ids: BTreeMap<EventId, (KeyName, Seq, Version)>,
    /// Ids in the window, oldest first.
    window: VecDeque<EventId>,
    window_max: usize,
    remembered_from: Seq,
    events: usize,
    cursors: BTreeMap<String, Cursor>,
    mistake: Option<Mistake>,
}

impl Index {
    /// An empty one, whose window holds so many events.
    pub fn new(window_max: usize, mistake: Option<Mistake>) -> Self {
        Self {
            applied: LogIndex::ZERO,
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
            window: VecDeque::new(),
            window_max,
            remembered_from: Seq::ZERO,
            events: 0,
            cursors: BTreeMap::new(),
            mistake,
        }
    }

    /// The same, built anew from a log.
    pub fn rebuilt<'a>(&self, log: impl Iterator<Item = &'a Entry>) -> Self {
        let mut index = Self::new(self.window_max, self.mistake);
        for entry in log {
            index.apply(entry);
        }
        if self.mistake == Some(Mistake::CursorsNotRecovered) {
            index.cursors.clear();
        }
        index
    }

    /// Takes cursors from later entries, as they stand on a disk that the end of an overlay did not reach.
    pub fn run_ahead<'a>(&mut self, later: impl Iterator<Item = &'a Entry>) {
        if self.mistake != Some(Mistake::CursorsNotRecovered) {
            later.for_each(|entry| self.change_cursor(entry));
        }
    }

    fn change_cursor(&mut self, entry: &Entry) {
        let EntryBody::Cursor(change) = &entry.body else {
            return;
        };
        let known = self.cursors.get(&change.name).copied();
        if let Some(cursor) = mistakes::applied(self.mistake, change, entry.index, known) {
            self.cursors.insert(change.name.clone(), cursor);
        }
    }

    /// Where a named subscription stands.
    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.cursors.get(name).copied()
    }

    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        assert!(
            entry.index == self.applied.next(),
            "harness: the index is at {} and got entry {}",
            self.applied,
            entry.index
        );
        self.applied = entry.index;
        self.change_cursor(entry);
        let EntryBody::Events(events) = &entry.body else {
            return;
        };
        let states = self.keys.entry(events.name.clone()).or_default();
        self.events += events.event_ids.len();
        for (n, id) in (0..).zip(events.event_ids.iter()) {
            states.push(KeyState {
                version: events.first_version.plus(n),
                seq: events.first_seq.plus(n),
                is_deleted: events.deletes,
            });
            let stored = (
                events.name.clone(),
                events.first_seq.plus(n),
                events.first_version.plus(n),
            );
            self.ids.insert(*id, stored);
            self.window.push_back(*id);
        }
        while self.window.len() > self.window_max {
            let oldest = self.window.pop_front().unwrap();
            if let Some((_, seq, _)) = self.ids.remove(&oldest) {
                self.remembered_from = seq.next();
            }
        }
    }

    /// Everything up to here is applied.
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Where a key stands.
    pub fn state(&self, name: &KeyName) -> KeyState {
        self.state_as_of(name, Seq(u64::MAX))
    }

    /// Where a key stood at a seq.
    pub fn state_as_of(&self, name: &KeyName, seq: Seq) -> KeyState {
        let states = self.keys.get(name).map_or(&[][..], Vec::as_slice);
        let passed = states.partition_point(|state| state.seq <= seq);
        passed.checked_sub(1).map_or(KeyState::default(), |n| states[n])
    }

    /// Fills in what the index knows for a proposal.
    pub fn look_up(&self, proposal: &mut Proposal) {
        proposal.as_of = self.applied;
        proposal.committed = self.state(&proposal.name);
        proposal.remembered_from = self.remembered_from;
        let known = |event: &NewEvent| {
            let (name, seq, version) = self.ids.get(&event.event_id)?;
            Some(KnownEvent {
                event_id: event.event_id,
                seq: *seq,
                version: *version,
                is_same_key: *name == proposal.name,
            })
        };
        proposal.known = proposal.events.iter().filter_map(known).collect();
    }
}
