//! How a log that others have too gives up a damaged part of itself (DESIGN 8), until they have given it again.
//!
//! The steps, each durable before the next. A crash between any two of them leaves damage that is found again, or a
//! shorter log that knows that it is:
//!
//! ```text
//! 1  the seat file       ends the log before the damage, and notes the promise of that moment as `lost`
//! 2  segment-N.log       those behind the damage are renamed to segment-N.log.damaged, the last one first
//! 3  segment-N.log       the one with the damage is copied to segment-N.log.damaged
//! 4  segment-N.log       that one is zeroed from the damage on
//! … entries come from other members, as to one that was away …
//! 5  the seat file       `lost` is forgotten
//! ```
//! What the bytes at and behind the damage still are stays in `*.damaged`; nobody reads these but people.

use super::open::Walk;
use super::segment::{SEGMENT_HEAD, SegmentFile};
use crate::storage::StorageError;
use crate::storage::files::sync_directory;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// Puts what stands at and behind the end of a walk aside, for people. The last file first: whatever is left after a
/// crash in here has no hole.
///
/// Returns why the segment with the damage could not be copied, where it could not: the node goes on without a copy.
pub(super) fn put_aside(walk: &mut Walk<'_>) -> Result<Option<io::Error>, StorageError> {
    while let Some(file) = walk.pop_later() {
        if file.last_nonzero(SEGMENT_HEAD)?.is_none() {
            file.remove()?;
            continue;
        }
        let aside = name_for(&file);
        fs::rename(&file.path, &aside).map_err(StorageError::io("rename", &file.path))?;
        sync_directory(walk.directory())?;
    }
    let Some((file, stop)) = walk.last_segment() else {
        return Ok(None);
    };
    if file.last_nonzero(stop)?.is_none() {
        return Ok(None);
    }
    if let Err(error) = copy(file) {
        return Ok(Some(error));
    }
    sync_directory(walk.directory())?;
    Ok(None)
}

/// A copy has its name when it is whole: a disk that is full half-way is not filled again at each start.
fn copy(file: &SegmentFile) -> io::Result<()> {
    let unfinished = file.path.with_extension("log.copy");
    let copied = fs::copy(&file.path, &unfinished)
        .and_then(|_bytes| File::open(&unfinished)?.sync_all())
        .and_then(|()| fs::rename(&unfinished, name_for(file)));
    if copied.is_err() {
        // It says nothing new if this fails, too.
        let _removed = fs::remove_file(&unfinished);
    }
    copied
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
