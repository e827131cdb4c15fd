//! The derived index: where a key stands, where its versions are, which event ids were seen (DESIGN 8, rule 6.6).
//!
//! Derived from committed entries of the log and rebuildable at any time; never the only copy of anything, and
//! never on the path of an acknowledgement.
//!
//! ```text
//! committed entries ──apply──► overlay (memory) ──in bulk, sorted, one write a key──► sled
//!                        └───► window of event ids (memory; read back from the log's end at a start)
//! reads: overlay, then the overlay that is being written, then sled
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `runs.rs` | how the places of a key's versions are written down |
//! | `overlay.rs` | what is applied and not in sled yet |
//! | `apply.rs` | what an entry does to both |
//! | `window.rs` | which event ids are remembered |
//! | `cursors.rs` | what a change does to a named subscription |
//! | `store.rs` | when sled is written and when it is believed; the only file that names sled |
//! | `memory.rs` | the same index without a disk, for tests and simulation |
//! | `indexes.rs` | whether a node's indexes are on its disk |
//! | `reread.rs` | nothing: how fuzzing gets at what reads the tree |

mod apply;
mod cursors;
mod indexes;
mod memory;
mod overlay;
mod reread;
mod runs;
mod store;
#[cfg(test)]
mod tests;
mod window;

pub use indexes::Indexes;
pub use memory::MemoryIndex;
#[doc(hidden)]
pub use reread::reread_index_value;
pub use store::{IndexStore, SledIndex};

use super::{Frame, LogReader, StorageError};
use crate::limits::{EVENT_ID_WINDOW, INDEX_CACHE_BYTES, INDEX_OVERLAY_RUNS};
use bytes::Bytes;
use rdb_proto::cursor::Cursor;
use rdb_proto::entry::Entry;
use rdb_proto::event::{self, EventError};
use rdb_proto::types::{Collection, EventId, KeyName, LogIndex, Seq, Version};
use std::fmt;
use std::sync::Arc;

/// Where a key stands. All zero when it was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Version of its latest event.
    pub version: Version,
    /// Seq of its latest event.
    pub seq: Seq,
    /// Whether its latest event is a delete.
    pub is_deleted: bool,
}

/// Where one event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its version.
    pub version: Version,
    /// Its seq.
    pub seq: Seq,
    /// The entry that holds it.
    pub index: LogIndex,
    /// Its place among the entry's events, from 0.
    pub position: u32,
}

impl Located {
    /// Reads the event, still encoded; it shares the memory of its entry.
    ///
    /// # Errors
    /// [`StorageError`] when the log cannot be read, or does not hold what the index says.
    pub fn read(&self, log: &LogReader) -> Result<Bytes, StorageError> {
        self.pick(log, &entry_events(log, self.index)?).cloned()
    }

    /// The same, of the events of its entry: [`entry_events`].
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it is not among them.
    pub fn pick<'a>(&self, log: &LogReader, events: &'a [Bytes]) -> Result<&'a Bytes, StorageError> {
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        let missing = EventError::Batch("the index names an event that the entry does not hold");
        events
            .get(position)
            .ok_or_else(|| log.damaged_body(self.index, &missing))
    }
}

/// The events of an entry, still encoded; they share the entry's memory.
///
/// # Errors
/// [`StorageError`] when the log cannot be read.
pub fn entry_events(log: &LogReader, index: LogIndex) -> Result<Vec<Bytes>, StorageError> {
    let frame = log.entry(index)?;
    event::split_batch(frame.body).map_err(|error| log.damaged_body(index, &error))
}

/// An event that the window of event ids remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownAt {
    /// Its seq.
    pub seq: Seq,
    /// Its version within its own key.
    pub version: Version,
    /// Whether that key is the one that was asked about.
    pub is_same_key: bool,
}

/// A key of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// The key.
    pub name: KeyName,
    /// Where it stands; it may be deleted.
    pub standing: Standing,
}

/// Which way versions are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending versions.
    Forward,
    /// Descending versions.
    Backward,
}

/// The index of one seat. Reads see every entry up to [`KeyIndex::applied`], and may see later ones that are
/// being applied; one thread applies.
pub trait KeyIndex: Send + Sync + fmt::Debug {
    /// Last entry that reads see.
    fn applied(&self) -> LogIndex;

    /// Takes committed entries in, in order, the first right after [`KeyIndex::applied`].
    ///
    /// **Blocking**: memory only, unless the index is far behind in writing.
    ///
    /// # Errors
    /// [`StorageError::Index`]: the index cannot go on; the next start rebuilds it.
    fn apply(&self, entries: &[Arc<Entry>]) -> Result<(), StorageError>;

    /// Like [`KeyIndex::apply`], of entries as the log has them.
    ///
    /// # Errors
    /// [`StorageError::Index`]; [`StorageError::Damaged`] for a body that is none, as `log` places it.
    fn apply_frames(&self, frames: &[Frame], log: &LogReader) -> Result<(), StorageError>;

    /// Where a key stands.
    ///
    /// # Errors
    /// [`StorageError::Index`].
    fn standing(&self, name: &KeyName) -> Result<Standing, StorageError>;

    /// Where the key's latest event is; `None` when it was never written.
    ///
    /// # Errors
    /// [`StorageError::Index`].
    fn latest(&self, name: &KeyName) -> Result<Option<Located>, StorageError>;

    /// Where the key's last event with a seq at or before `seq` is.
    ///
    /// # Errors
    /// [`StorageError::Index`].
    fn at_or_before(&self, name: &KeyName, seq: Seq) -> Result<Option<Located>, StorageError>;

    /// Up to `limit` versions of a key, beginning with `from` or the nearest one in that direction.
    ///
    /// # Errors
    /// [`StorageError::Index`].
    fn versions(
        &self,
        name: &KeyName,
        from: Version,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Located>, StorageError>;

    /// Up to `limit` keys of a collection that begin with `prefix` and sort after `after`, ascending by bytes,
    /// deleted ones included.
    ///
    /// # Errors
    /// [`StorageError::Index`].
    fn keys(
        &self,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedKey>, StorageError>;

    /// What the window of event ids remembers of this id, asked on behalf of `name`.
    fn known(&self, event_id: &EventId, name: &KeyName) -> Option<KnownAt>;

    /// Every applied event of this seat with this seq or a later one is remembered by [`KeyIndex::known`].
    fn remembered_from(&self) -> Seq;

    /// Where a named subscription stands, as far as applied; `None` when there is none of that name.
    fn cursor(&self, name: &str) -> Option<Cursor>;

    /// All of them, ascending by name.
    fn cursors(&self, after: &str, limit: usize) -> Vec<(String, Cursor)>;

    /// How many there are.
    fn cursor_count(&self) -> usize;
}

/// How far [`catch_up`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Last entry applied.
    pub applied: LogIndex,
    /// Last entry to apply.
    pub target: LogIndex,
}

/// Applies what the log holds up to `commit` and the index does not have yet: after a start, and to rebuild.
/// `on_progress` is called after each block of entries.
///
/// **Blocking**: reads the log from the applied entry on.
///
/// # Errors
/// Any [`StorageError`].
pub fn catch_up(
    index: &dyn KeyIndex,
    reader: &LogReader,
    commit: LogIndex,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<(), StorageError> {
    let mut cursor = reader.cursor_at(index.applied().next());
    while let Some(block) = cursor.next_block(commit)? {
        index.apply_frames(&block.frames, reader)?;
        on_progress(Progress {
            applied: index.applied(),
            target: commit,
        });
    }
    Ok(())
}

/// Bounds of the index.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// Event ids that are remembered per seat: those of its last events. At least 1.
    pub event_id_window: usize,
    /// Memory for sled's page cache, for all seats together.
    pub cache_bytes: u64,
    /// Entries that a seat's index gathers in memory before it writes them to sled.
    pub overlay_runs: usize,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            event_id_window: usize::try_from(EVENT_ID_WINDOW).unwrap_or(usize::MAX),
            cache_bytes: INDEX_CACHE_BYTES,
            overlay_runs: INDEX_OVERLAY_RUNS,
        }
    }
}
