//! The model key index of one member: the state of every key as of an applied index, and the window of event ids,
//! bounded by log position and so the same at every member.

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
}

impl Index {
    /// An empty one, whose window holds so many events.
    pub fn new(window_max: usize) -> Self {
        Self {
            applied: LogIndex::ZERO,
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
            window: VecDeque::new(),
            window_max,
            remembered_from: Seq::ZERO,
            events: 0,
        }
    }

    /// Built anew from a log.
    pub fn rebuild<'a>(window_max: usize, log: impl Iterator<Item = &'a Entry>) -> Self {
        let mut index = Self::new(window_max);
        for entry in log {
            index.apply(entry);
        }
        index
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
