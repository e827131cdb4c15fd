//! What is applied and not in sled yet: a sorted map of touched keys.
//!
//! Many events of one key become one write of its head, and an apply waits for no disk.

use super::runs::{Run, standing};
use super::{Located, Standing};
use rdb_proto::cursor::Cursor;
use rdb_proto::types::{Epoch, LogIndex, Version};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The last entry that was applied, in a form that can be compared with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AppliedEntry {
    pub(super) index: LogIndex,
    pub(super) epoch: Epoch,
    /// CRC-32C of its body.
    pub(super) body_crc: u32,
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) is_deleted: bool,
    /// Ascending; never empty.
    pub(super) runs: Vec<Run>,
}

impl Touched {
    pub(super) fn first_version(&self) -> Version {
        self.runs.first().map_or(Version::ZERO, |run| run.version)
    }

    pub(super) fn standing(&self) -> Standing {
        let last = self.runs.last();
        last.map_or_else(Standing::default, |last| standing(last, self.is_deleted))
    }

    pub(super) fn latest(&self) -> Option<Located> {
        self.runs.last().map(Run::latest)
    }
}

/// Touched keys, by their name's bytes.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    keys: BTreeMap<Box<[u8]>, Touched>,
    /// Cursors that changed.
    cursors: BTreeMap<String, Cursor>,
    runs: usize,
    bytes: usize,
    /// The last entry in here.
    pub(super) last: Option<AppliedEntry>,
}

impl Overlay {
    /// Adds a run of a key.
    ///
    /// # Panics
    /// When its versions do not follow those that are here (6.4: key and version are unique).
    pub(super) fn add(&mut self, name: &[u8], run: Run, is_deleted: bool) {
        self.runs = self.runs.saturating_add(1);
        self.bytes = self.bytes.saturating_add(size_of::<Run>());
        if let Some(touched) = self.keys.get_mut(name) {
            let follows = touched
                .runs
                .last()
                .is_none_or(|last| last.last_version().next() == run.version);
            assert!(follows, "6.4: versions of a key are dense");
            touched.runs.push(run);
            touched.is_deleted = is_deleted;
            return;
        }
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(KEY_BYTES);
        let runs = vec![run];
        self.keys.insert(name.into(), Touched { is_deleted, runs });
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Touched> {
        self.keys.get(name)
    }

    /// Touched keys from `start` on that begin with `prefix`, ascending.
    pub(super) fn keys_from<'a>(
        &'a self,
        start: Bound<&'a [u8]>,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], Standing)> {
        self.keys
            .range::<[u8], _>((start, Bound::Unbounded))
            .map(|(name, touched)| (&**name, touched.standing()))
            .take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// Notes what a cursor is now.
    pub(super) fn note_cursor(&mut self, name: &str, cursor: Cursor) {
        // Counted each time: what is to be applied again after a kill must stay bounded, too.
        self.cursors.insert(name.to_owned(), cursor);
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(KEY_BYTES);
    }

    /// Cursors that changed.
    pub(super) const fn cursors(&self) -> &BTreeMap<String, Cursor> {
        &self.cursors
    }

    /// All touched keys, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Touched)> {
        self.keys.iter().map(|(name, touched)| (&**name, touched))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// How many runs there are.
    pub(super) const fn len(&self) -> usize {
        self.runs
    }

    /// About how much memory it takes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// About what a key takes besides its name and runs.
const KEY_BYTES: usize = 96;
