//! What an entry does to the overlay and to the window of event ids, whether it comes from the seat or from the
//! log.

use super::cursors::{self, Cursors};
use super::overlay::{AppliedEntry, Overlay};
use super::runs::{Run, name_bytes};
use super::window::{KeyHash, Window};
use crate::storage::{Frame, LogReader, StorageError};
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::{Entry, EntryBody, EntryError, EntryKind};
use rdb_proto::event::EventError;
use rdb_proto::glance::glance;
use rdb_proto::types::{EventId, LogIndex, Seq, Version};

/// Where entries are applied to.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) overlay: &'a mut Overlay,
    pub(super) window: &'a mut Window,
    pub(super) cursors: &'a mut Cursors,
    pub(super) applied: LogIndex,
}

/// The events of one entry.
struct Events<'a> {
    name: &'a [u8],
    seq: Seq,
    version: Version,
    ids: &'a [EventId],
    deletes: bool,
}

impl Target<'_> {
    /// Applies entries that follow each other and what was applied.
    ///
    /// # Panics
    /// When they do not follow.
    pub(super) fn entries<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        let mut last = None;
        for entry in entries {
            self.follow(entry.index);
            if let EntryBody::Cursor(change) = &entry.body {
                cursors::apply(self.cursors, self.overlay, entry.index, change);
            }
            if let EntryBody::Events(events) = &entry.body {
                let name = name_bytes(events.name.collection.as_str(), events.name.key.as_str());
                let events = Events {
                    name: &name,
                    seq: events.first_seq,
                    version: events.first_version,
                    ids: &events.event_ids,
                    deletes: events.deletes,
                };
                self.events(entry.index, &events);
            }
            last = Some(entry);
        }
        if let Some(last) = last {
            self.overlay.last = Some(AppliedEntry {
                index: last.index,
                epoch: last.epoch,
                body_crc: crc32c::crc32c(&last.body.encode()),
            });
        }
    }

    /// Applies entries as the log has them.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] for a body that is none; the entries before it are applied.
    ///
    /// # Panics
    /// When they do not follow.
    pub(super) fn frames(&mut self, frames: &[Frame], log: &LogReader) -> Result<(), StorageError> {
        let mut ids = Vec::new();
        for frame in frames {
            if frame.kind == EntryKind::Events {
                let seen = look(frame, &mut ids).map_err(|error| log.damaged_body(frame.index, &error))?;
                self.follow(frame.index);
                let name = name_bytes(seen.collection, seen.key);
                let events = Events {
                    name: &name,
                    seq: frame.first_seq,
                    version: seen.first_version,
                    ids: &ids,
                    deletes: seen.deletes,
                };
                self.events(frame.index, &events);
            } else {
                self.follow(frame.index);
            }
            if frame.kind == EntryKind::Cursor {
                let unreadable = || log.damaged_body(frame.index, &EntryError::Cursor);
                let change = CursorChange::decode(frame.body.clone()).ok_or_else(unreadable)?;
                cursors::apply(self.cursors, self.overlay, frame.index, &change);
            }
            self.overlay.last = Some(AppliedEntry::of(frame));
        }
        Ok(())
    }

    fn follow(&mut self, index: LogIndex) {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
    }

    fn events(&mut self, index: LogIndex, events: &Events<'_>) {
        let run = Run {
            version: events.version,
            seq: events.seq,
            index,
            count: u32::try_from(events.ids.len()).unwrap_or(u32::MAX),
        };
        self.overlay.add(events.name, run, events.deletes);
        remember(self.window, events);
    }
}

/// Fills the window from frames that are applied already.
///
/// # Errors
/// [`StorageError::Damaged`] for a body that is none.
pub(super) fn recall(window: &mut Window, frames: &[Frame], log: &LogReader) -> Result<(), StorageError> {
    let mut ids = Vec::new();
    for frame in frames.iter().filter(|frame| frame.kind == EntryKind::Events) {
        let seen = look(frame, &mut ids).map_err(|error| log.damaged_body(frame.index, &error))?;
        let name = name_bytes(seen.collection, seen.key);
        let events = Events {
            name: &name,
            seq: frame.first_seq,
            version: seen.first_version,
            ids: &ids,
            deletes: seen.deletes,
        };
        remember(window, &events);
    }
    Ok(())
}

fn remember(window: &mut Window, events: &Events<'_>) {
    let key = KeyHash::of(events.name);
    window.add(events.ids, events.seq, events.version, key);
}

fn look<'a>(frame: &'a Frame, ids: &mut Vec<EventId>) -> Result<rdb_proto::glance::Glance<'a>, EventError> {
    let seen = glance(&frame.body, ids)?;
    if u32::try_from(ids.len()) == Ok(frame.events) {
        Ok(seen)
    } else {
        Err(EventError::Batch("not as many events as its frame says"))
    }
}

impl AppliedEntry {
    /// What identifies an entry of the log.
    pub(super) fn of(frame: &Frame) -> Self {
        Self {
            index: frame.index,
            epoch: frame.epoch,
            body_crc: crc32c::crc32c(&frame.body),
        }
    }
}
