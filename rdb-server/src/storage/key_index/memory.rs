//! The index without a disk, for tests and simulation: the same answers, and nothing survives.

use super::apply::Target;
use super::cursors::{self, Cursors};
use super::overlay::{Overlay, Touched};
use super::runs::{Wanted, at_or_before, name_bytes, name_of};
use super::window::{KeyHash, Window};
use super::{Direction, KeyIndex, KnownAt, ListedKey, Located, Standing};
use crate::storage::files::lock;
use crate::storage::{Frame, LogReader, StorageError};
use rdb_proto::cursor::Cursor;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Collection, EventId, KeyName, LogIndex, Seq, Version};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

/// [`KeyIndex`] in memory.
#[derive(Debug)]
pub struct MemoryIndex(Mutex<State>);

#[derive(Debug)]
struct State {
    overlay: Overlay,
    window: Window,
    cursors: Cursors,
    applied: LogIndex,
}

impl State {
    fn target(&mut self) -> Target<'_> {
        Target {
            overlay: &mut self.overlay,
            window: &mut self.window,
            cursors: &mut self.cursors,
            applied: self.applied,
        }
    }
}

impl MemoryIndex {
    /// An empty index that remembers the ids of this many events.
    pub fn new(event_id_window: usize) -> Self {
        Self(Mutex::new(State {
            overlay: Overlay::default(),
            window: Window::new(event_id_window),
            cursors: Cursors::new(),
            applied: LogIndex::ZERO,
        }))
    }
}

fn bytes_of(name: &KeyName) -> Vec<u8> {
    name_bytes(name.collection.as_str(), name.key.as_str())
}

impl KeyIndex for MemoryIndex {
    fn applied(&self) -> LogIndex {
        lock(&self.0).applied
    }

    fn apply(&self, entries: &[Arc<Entry>]) -> Result<(), StorageError> {
        let mut state = lock(&self.0);
        let mut target = state.target();
        target.entries(entries.iter().map(|entry| &**entry));
        state.applied = target.applied;
        Ok(())
    }

    fn apply_frames(&self, frames: &[Frame], log: &LogReader) -> Result<(), StorageError> {
        let mut state = lock(&self.0);
        let mut target = state.target();
        let outcome = target.frames(frames, log);
        state.applied = target.applied;
        outcome
    }

    fn standing(&self, name: &KeyName) -> Result<Standing, StorageError> {
        let state = lock(&self.0);
        let touched = state.overlay.get(&bytes_of(name));
        Ok(touched.map_or_else(Standing::default, Touched::standing))
    }

    fn latest(&self, name: &KeyName) -> Result<Option<Located>, StorageError> {
        let state = lock(&self.0);
        let touched = state.overlay.get(&bytes_of(name));
        Ok(touched.and_then(Touched::latest))
    }

    fn at_or_before(&self, name: &KeyName, seq: Seq) -> Result<Option<Located>, StorageError> {
        let state = lock(&self.0);
        let touched = state.overlay.get(&bytes_of(name));
        Ok(touched.and_then(|touched| at_or_before(&touched.runs, seq)))
    }

    fn versions(
        &self,
        name: &KeyName,
        from: Version,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Located>, StorageError> {
        let state = lock(&self.0);
        let mut wanted = Wanted::new(from, direction, limit);
        if let Some(touched) = state.overlay.get(&bytes_of(name)) {
            wanted.take(&touched.runs);
        }
        Ok(wanted.into_found())
    }

    fn keys(
        &self,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedKey>, StorageError> {
        let state = lock(&self.0);
        let prefix = name_bytes(collection.as_str(), prefix);
        let after = after.map(|after| name_bytes(collection.as_str(), after));
        let start = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(&**after),
            Some(_) | None => Bound::Included(&*prefix),
        };
        let found = state.overlay.keys_from(start, &prefix);
        let listed = found.filter_map(|(name, standing)| {
            Some(ListedKey {
                name: name_of(name)?,
                standing,
            })
        });
        Ok(listed.take(limit).collect())
    }

    fn known(&self, event_id: &EventId, name: &KeyName) -> Option<KnownAt> {
        lock(&self.0).window.find(event_id, KeyHash::of(&bytes_of(name)))
    }

    fn remembered_from(&self) -> Seq {
        lock(&self.0).window.remembered_from()
    }

    fn cursor(&self, name: &str) -> Option<Cursor> {
        cursors::find(&lock(&self.0).cursors, name)
    }

    fn cursors(&self, after: &str, limit: usize) -> Vec<(String, Cursor)> {
        cursors::list(&lock(&self.0).cursors, after, limit)
    }

    fn cursor_count(&self) -> usize {
        cursors::count(&lock(&self.0).cursors)
    }
}
