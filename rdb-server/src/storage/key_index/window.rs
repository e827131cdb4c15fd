//! The window of event ids: those of a seat's last events, so that a retry finds its first outcome (rule 6.6).
//!
//! Bounded by log position: the ids of exactly the last `capacity` events, whatever was restarted in between, so
//! that every member remembers the same. Held in memory in 48 bytes an event and read back from the end of the log
//! at a start; that takes less time than keeping it on disk would.
//!
//! ```text
//! ring    oldest ► ... ► newest, then over the oldest
//! table   open addressing, linear probing: position in the ring + 1, or 0; at most half full
//! ```

use super::KnownAt;
use crate::storage::files::{as_u64, as_usize};
use rdb_proto::types::{EventId, Seq, Version};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A hash of a key's name, told apart from others with a chance of error of 2^-64. Not written anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    /// Hash of a name's bytes.
    pub(super) fn of(name: &[u8]) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(name);
        Self(hasher.finish())
    }
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    id: EventId,
    seq: Seq,
    version: Version,
    key: KeyHash,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    capacity: usize,
    ring: Vec<Remembered>,
    /// Place of the oldest in a full ring.
    oldest: usize,
    table: Vec<u32>,
    /// Ids are chosen by strangers: a keyed hash keeps them from making all probes long.
    hasher: RandomState,
    /// Some event of this seat is not in here any more.
    has_forgotten: bool,
}

impl Window {
    /// An empty window that will remember `capacity` events, at least 1.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.clamp(1, CAPACITY_MAX),
            ring: Vec::new(),
            oldest: 0,
            table: vec![0; TABLE_MIN],
            hasher: RandomState::new(),
            has_forgotten: false,
        }
    }

    /// Says that the seat has events before those that will be added.
    pub(super) const fn begin_late(&mut self) {
        self.has_forgotten = true;
    }

    /// Remembers the events of one entry: dense seqs from `seq`, dense versions from `version`.
    pub(super) fn add(&mut self, ids: &[EventId], seq: Seq, version: Version, key: KeyHash) {
        for (id, n) in ids.iter().zip(0..) {
            self.push(Remembered {
                id: *id,
                seq: seq.plus(n),
                version: version.plus(n),
                key,
            });
        }
    }

    fn push(&mut self, event: Remembered) {
        let place = if self.ring.len() < self.capacity {
            self.grow();
            self.ring.push(event);
            self.ring.len().saturating_sub(1)
        } else {
            let place = self.oldest;
            self.remove(place);
            self.has_forgotten = true;
            let next = place.saturating_add(1);
            self.oldest = if next < self.capacity { next } else { 0 };
            if let Some(slot) = self.ring.get_mut(place) {
                *slot = event;
            }
            place
        };
        self.insert(event.id, place);
    }

    /// Makes room for one more, in steps that are exact once the capacity is near.
    fn grow(&mut self) {
        let length = self.ring.len();
        if length == self.ring.capacity() {
            let target = length.saturating_mul(2).max(TABLE_MIN).min(self.capacity);
            self.ring.reserve_exact(target.saturating_sub(length));
        }
        if length.saturating_add(1).saturating_mul(2) > self.table.len() {
            self.table = vec![0; self.table.len().saturating_mul(2)];
            for place in 0..length {
                if let Some(id) = self.ring.get(place).map(|event| event.id) {
                    self.insert(id, place);
                }
            }
        }
    }

    /// Where an id would stand if every other were elsewhere.
    fn home(&self, id: &EventId) -> usize {
        as_usize(self.hasher.hash_one(id)) & self.mask()
    }

    /// The table's length is a power of two.
    const fn mask(&self) -> usize {
        self.table.len().saturating_sub(1)
    }

    const fn after(&self, slot: usize) -> usize {
        slot.saturating_add(1) & self.mask()
    }

    fn insert(&mut self, id: EventId, place: usize) {
        let mut slot = self.home(&id);
        while self.at(slot).is_some() {
            slot = self.after(slot);
        }
        self.set(slot, Some(place));
    }

    /// Takes the id of `place` out of the table, and closes the gap: whatever stands behind and could not stand at
    /// home because of it moves up, so that no probe ends too early.
    fn remove(&mut self, place: usize) {
        let Some(event) = self.ring.get(place) else { return };
        let mut gap = self.home(&event.id);
        while self.at(gap) != Some(place) {
            assert!(self.at(gap).is_some(), "every remembered id stands in the table");
            gap = self.after(gap);
        }
        let mut slot = self.after(gap);
        while let Some(moving) = self.at(slot) {
            let home = self.ring.get(moving).map_or(slot, |event| self.home(&event.id));
            // Distances around the table: it may move when the gap is not before its home.
            let from_home = slot.wrapping_sub(home) & self.mask();
            let from_gap = slot.wrapping_sub(gap) & self.mask();
            if from_home >= from_gap {
                self.set(gap, Some(moving));
                gap = slot;
            }
            slot = self.after(slot);
        }
        self.set(gap, None);
    }

    fn at(&self, slot: usize) -> Option<usize> {
        let stored = self.table.get(slot).copied()?;
        stored.checked_sub(1).map(|place| as_usize(u64::from(place)))
    }

    fn set(&mut self, slot: usize, place: Option<usize>) {
        let stored = place.map_or(0, |place| as_u64(place).saturating_add(1));
        if let Some(slot) = self.table.get_mut(slot) {
            *slot = u32::try_from(stored).unwrap_or(u32::MAX);
        }
    }

    /// What is remembered of an id.
    pub(super) fn find(&self, id: &EventId, key: KeyHash) -> Option<KnownAt> {
        let mut slot = self.home(id);
        while let Some(place) = self.at(slot) {
            match self.ring.get(place) {
                Some(event) if event.id == *id => {
                    return Some(KnownAt {
                        seq: event.seq,
                        version: event.version,
                        is_same_key: event.key == key,
                    });
                }
                Some(_) | None => slot = self.after(slot),
            }
        }
        None
    }

    /// Every event with this seq or a later one is remembered.
    pub(super) fn remembered_from(&self) -> Seq {
        let first = Seq::ZERO.next();
        if !self.has_forgotten {
            return first;
        }
        let oldest = if self.ring.len() < self.capacity {
            0
        } else {
            self.oldest
        };
        // Nothing at all is remembered of what was before an empty window.
        self.ring.get(oldest).map_or(Seq(u64::MAX), |event| event.seq)
    }
}

/// Places fit the table's 32 bits, with room for "none".
const CAPACITY_MAX: usize = 1 << 31;

const TABLE_MIN: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn id(n: u64) -> EventId {
        EventId(Uuid::from_u128(u128::from(n) + 1))
    }

    #[test]
    fn a_window_remembers_exactly_its_last_events() {
        let key = KeyHash::of(b"c\0k");
        for capacity in [1, 7, 1000, 5000] {
            let mut window = Window::new(capacity);
            assert_eq!(window.remembered_from(), Seq(1));
            for n in 0..20_000_u64 {
                window.add(&[id(n)], Seq(n * 2 + 1), Version(n + 1), key);
                let forgotten = (n + 1).saturating_sub(as_u64(capacity));
                let remembered_from = if forgotten == 0 { 1 } else { forgotten * 2 + 1 };
                assert_eq!(window.remembered_from(), Seq(remembered_from));
                if n % 997 == 0 || n == 19_999 {
                    for m in 0..=n {
                        let found = window.find(&id(m), key);
                        assert_eq!(found.is_some(), m >= forgotten, "{m} after {n} of {capacity}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_known_id_says_where_it_is_and_whether_the_key_is_the_same() {
        let mut window = Window::new(10);
        let key = KeyHash::of(b"c\0k");
        window.add(&[id(1), id(2)], Seq(40), Version(3), key);
        let known = window.find(&id(2), key).unwrap();
        assert_eq!(
            (known.seq, known.version, known.is_same_key),
            (Seq(41), Version(4), true)
        );
        assert!(!window.find(&id(2), KeyHash::of(b"c\0other")).unwrap().is_same_key);
        assert_eq!(window.find(&id(3), key), None);
    }

    #[test]
    fn a_window_that_begins_late_says_from_where() {
        let mut window = Window::new(10);
        window.begin_late();
        assert_eq!(window.remembered_from(), Seq(u64::MAX));
        window.add(&[id(1)], Seq(40), Version(3), KeyHash(1));
        assert_eq!(window.remembered_from(), Seq(40));
    }

    proptest! {
        /// Against a list: small windows, where removals move others around all the time.
        #[test]
        fn a_window_agrees_with_a_list(
            capacity in 1..40_usize,
            sizes in prop::collection::vec(1..9_u64, 1..200),
        ) {
            let mut window = Window::new(capacity);
            window.table = vec![0; 2];
            let mut list: Vec<u64> = Vec::new();
            for size in sizes {
                let next = as_u64(list.len());
                let ids: Vec<EventId> = (next..next + size).map(id).collect();
                window.add(&ids, Seq(next + 1), Version(next + 1), KeyHash(0));
                list.extend(next..next + size);
            }
            let forgotten = list.len().saturating_sub(capacity);
            for n in list {
                let is_known = window.find(&id(n), KeyHash(0)).map(|known| known.seq);
                prop_assert_eq!(is_known, (n >= as_u64(forgotten)).then_some(Seq(n + 1)));
            }
        }
    }
}
