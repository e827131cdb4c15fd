//! What the leader appended that the key index may not show yet: the difference between committed state, as the
//! index tells it, and the state that decisions need (rule 6.6).
//!
//! Entries come in with the append and leave once no proposal can have been looked up before them. Keys and event
//! ids only, no payload, so that a lagging index does not hold memory by the size of the events.

use super::input::{KeyState, KnownEvent};
use crate::sabotage::{self, Sabotage};
use rdb_proto::event::StoredEvents;
use rdb_proto::types::{EventId, KeyName, LogIndex, Seq, Version};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A key that sorts by a hash first, so that a look-up follows a pointer to the name only where it most likely is the
/// one. Which hash does not matter: the same in one incarnation is all that is needed, and equal ones cost a
/// comparison.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SortedName {
    hash: u64,
    name: KeyName,
}

impl SortedName {
    pub(super) fn new(name: &KeyName) -> Self {
        let hash = name
            .key
            .as_str()
            .as_bytes()
            .chunks(8)
            .fold(0, |hash: u64, chunk| {
                let word = chunk
                    .iter()
                    .fold(0, |word: u64, byte| (word << 8) | u64::from(*byte));
                (hash ^ word).wrapping_mul(HASH_FACTOR).rotate_left(29)
            });
        Self {
            hash: hash.wrapping_mul(HASH_FACTOR),
            name: name.clone(),
        }
    }
}

/// Odd, with bits all over: 2^64 divided by the golden ratio.
const HASH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// One append.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Append {
    name: SortedName,
    first_seq: Seq,
    first_version: Version,
    event_ids: Arc<[EventId]>,
    deletes: bool,
}

impl Append {
    fn last_state(&self) -> KeyState {
        let behind = u64::try_from(self.event_ids.len()).map_or(u64::MAX, |count| count.saturating_sub(1));
        KeyState {
            version: self.first_version.plus(behind),
            seq: self.first_seq.plus(behind),
            is_deleted: self.deletes,
        }
    }
}

/// The appends above `floor`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Overlay {
    /// Everything up to here is forgotten. `appends` begins with the entry after it.
    floor: LogIndex,
    /// `None` for an entry that no decision depends on.
    appends: VecDeque<Option<Append>>,
    /// Latest append of each key.
    keys: BTreeMap<SortedName, LogIndex>,
    /// Where each event id stands: its entry, and its position in it.
    ids: BTreeMap<EventId, (LogIndex, u64)>,
}

impl Overlay {
    pub(super) const fn new(floor: LogIndex) -> Self {
        Self {
            floor,
            appends: VecDeque::new(),
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    pub(super) fn events(&self) -> usize {
        self.ids.len()
    }

    fn append_at(&self, index: LogIndex) -> Option<&Append> {
        let position = index.since(self.floor).checked_sub(1)?;
        self.appends.get(usize::try_from(position).ok()?)?.as_ref()
    }

    fn assert_next(&self, index: LogIndex) {
        let expected = self
            .floor
            .plus(u64::try_from(self.appends.len()).unwrap_or(u64::MAX));
        assert!(
            index == expected.next(),
            "6.6: entry {index} is missing from what decisions see"
        );
    }

    /// Notes an entry that changes no key.
    pub(super) fn skip(&mut self, index: LogIndex) {
        self.assert_next(index);
        self.appends.push_back(None);
    }

    pub(super) fn push(&mut self, index: LogIndex, events: &StoredEvents) {
        self.assert_next(index);
        let name = SortedName::new(&events.name);
        let before = self.keys.insert(name.clone(), index);
        if let Some(before) = before
            .and_then(|before| self.append_at(before))
            .map(Append::last_state)
        {
            assert!(
                events.first_version > before.version || sabotage::is(Sabotage::DecideIgnoresWaiting),
                "6.4: version {} of {} is given out twice",
                events.first_version,
                events.name
            );
        }
        for (position, id) in (0..).zip(events.event_ids.iter()) {
            self.ids.insert(*id, (index, position));
        }
        self.appends.push_back(Some(Append {
            name,
            first_seq: events.first_seq,
            first_version: events.first_version,
            event_ids: Arc::clone(&events.event_ids),
            deletes: events.deletes,
        }));
    }

    /// Forgets everything up to `floor`: the index shows it to every proposal still to be decided.
    pub(super) fn forget(&mut self, floor: LogIndex) {
        while self.floor < floor {
            let Some(append) = self.appends.pop_front() else {
                return;
            };
            self.floor = self.floor.next();
            let Some(append) = append else { continue };
            if self.keys.get(&append.name) == Some(&self.floor) {
                self.keys.remove(&append.name);
            }
            for id in append.event_ids.iter() {
                if self.ids.get(id).is_some_and(|(index, _)| *index == self.floor) {
                    self.ids.remove(id);
                }
            }
        }
    }

    /// State of a key, and the entry that made it so.
    pub(super) fn key(&self, name: &SortedName) -> Option<(KeyState, LogIndex)> {
        let index = *self.keys.get(name)?;
        Some((self.append_at(index)?.last_state(), index))
    }

    /// An event by its id, as a proposal for `name` sees it, and the entry that holds it.
    pub(super) fn known(&self, event_id: EventId, name: &KeyName) -> Option<(KnownEvent, LogIndex)> {
        let (index, position) = *self.ids.get(&event_id)?;
        let append = self.append_at(index)?;
        let known = KnownEvent {
            event_id,
            seq: append.first_seq.plus(position),
            version: append.first_version.plus(position),
            is_same_key: append.name.name == *name,
        };
        Some((known, index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{event_id, key, stored};
    use super::*;

    #[test]
    fn an_append_is_seen_until_the_index_shows_it() {
        let mut overlay = Overlay::new(LogIndex(4));
        overlay.push(LogIndex(5), &stored("a", 10, 1, &[1, 2]));
        overlay.push(LogIndex(6), &stored("b", 12, 1, &[3]));
        let (state, index) = overlay.key(&SortedName::new(&key("a"))).unwrap();
        assert_eq!(
            (state.version, state.seq, index),
            (Version(2), Seq(11), LogIndex(5))
        );
        let (known, index) = overlay.known(event_id(2), &key("a")).unwrap();
        assert_eq!(
            (known.seq, known.version, known.is_same_key),
            (Seq(11), Version(2), true)
        );
        assert_eq!(index, LogIndex(5));
        assert!(!overlay.known(event_id(2), &key("b")).unwrap().0.is_same_key);

        overlay.forget(LogIndex(5));
        assert!(overlay.key(&SortedName::new(&key("a"))).is_none());
        assert!(overlay.known(event_id(1), &key("a")).is_none());
        assert!(overlay.key(&SortedName::new(&key("b"))).is_some());
        overlay.forget(LogIndex(6));
        assert_eq!(
            (overlay.events(), overlay.keys.len(), overlay.appends.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn forgetting_an_older_append_keeps_the_newer_state_of_its_key() {
        let mut overlay = Overlay::new(LogIndex(0));
        overlay.push(LogIndex(1), &stored("a", 10, 1, &[1]));
        overlay.push(LogIndex(2), &stored("a", 11, 2, &[2]));
        overlay.forget(LogIndex(1));
        assert_eq!(
            overlay.key(&SortedName::new(&key("a"))).unwrap().0.version,
            Version(2)
        );
    }

    #[test]
    #[should_panic(expected = "6.4: version 1 of default/a is given out twice")]
    fn a_version_given_out_twice_is_a_bug() {
        let mut overlay = Overlay::new(LogIndex(0));
        overlay.push(LogIndex(1), &stored("a", 10, 1, &[1]));
        overlay.push(LogIndex(2), &stored("a", 11, 1, &[2]));
    }
}
