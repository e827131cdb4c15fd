//! What is remembered of entries that were durable and are lost, until other members have given them again (DESIGN 8).
//!
//! The steps of giving a damaged part of a log up, each durable before the next, so that a crash between any two of
//! them leaves either damage that is found again, or a shorter log with the note of what it lacks:
//!
//! ```text
//! 1  file `lost`         {"format_version":1,"last":<entry>,"promised":{"number":…,"node":…}}
//! 2  the seat file       how far the log goes, and is committed, before the damage
//! 3  segment-N.log       copied to segment-N.log.damaged, or renamed to that when nothing before the damage is in it
//! 4  segment-N.log       zeroed from the damage on
//! … entries come from other members, as to one that was away …
//! 5  file `lost`         removed
//! ```
//! What the bytes at and behind the damage still are stays in `*.damaged`; nobody reads these but people.

use super::open::Walk;
use super::segment::SegmentFile;
use crate::storage::StorageError;
use crate::storage::error::Damage;
use crate::storage::files::{replace_file, sync_directory};
use rdb_proto::types::{Epoch, LogIndex, NodeId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const FORMAT_VERSION: u32 = 1;

/// Entries that were durable and are lost. They follow the log as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The last entry that may have been durable.
    pub last: LogIndex,
    /// Highest epoch that was promised when the damage was found.
    pub promised: Epoch,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    format_version: u32,
    last: u64,
    promised: (u64, u64),
}

pub(super) fn path_in(directory: &Path) -> PathBuf {
    directory.join("lost")
}

impl Loss {
    /// What is noted; `None` when nothing is lost.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, StorageError> {
        let path = path_in(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", &path)(error)),
        };
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            return Err(StorageError::Damaged {
                file: path,
                offset: 0,
                damage: Damage::LossNote,
            });
        };
        if note.format_version > FORMAT_VERSION {
            return Err(StorageError::FormatTooNew {
                file: path,
                found: note.format_version,
                supported: FORMAT_VERSION,
            });
        }
        Ok(Some(Self {
            last: LogIndex(note.last),
            promised: Epoch {
                number: note.promised.0,
                node: NodeId(note.promised.1),
            },
        }))
    }

    /// Notes it, durably, in the place of what was noted before.
    pub(super) fn write(self, directory: &Path) -> Result<(), StorageError> {
        let note = Note {
            format_version: FORMAT_VERSION,
            last: self.last.get(),
            promised: (self.promised.number, self.promised.node.0),
        };
        let path = path_in(directory);
        let text = serde_json::to_vec(&note).map_err(io::Error::from);
        replace_file(&path, &text.map_err(StorageError::io("write", &path))?)
    }
}

/// Everything that was lost is there again.
pub(super) fn forget(directory: &Path) -> io::Result<()> {
    match fs::remove_file(path_in(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => File::open(directory)?.sync_all(),
    }
}

/// Puts what stands at and behind the end of a walk aside, for people. The last file first: whatever is left after a
/// crash in here has no hole.
pub(super) fn put_aside(walk: &mut Walk<'_>) -> Result<(), StorageError> {
    while let Some(file) = walk.pop_later() {
        let aside = name_for(&file);
        fs::rename(&file.path, &aside).map_err(StorageError::io("rename", &file.path))?;
        sync_directory(walk.directory())?;
    }
    let Some((file, stop)) = walk.last_segment() else {
        return Ok(());
    };
    if file.last_nonzero(stop)?.is_some() {
        let aside = name_for(file);
        let copied = fs::copy(&file.path, &aside).and_then(|_bytes| File::open(&aside)?.sync_all());
        copied.map_err(StorageError::io("copy", &file.path))?;
        sync_directory(walk.directory())?;
    }
    Ok(())
}

/// A name that is not taken: what was put aside before may hold more.
fn name_for(file: &SegmentFile) -> PathBuf {
    let mut aside = file.path.with_extension("log.damaged");
    let mut count = 1_u32;
    while aside.exists() {
        count = count.saturating_add(1);
        aside = file.path.with_extension(format!("log.damaged.{count}"));
    }
    aside
}
