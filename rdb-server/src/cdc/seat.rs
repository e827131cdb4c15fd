//! What a stream reads of one seat: its log, and what the key index knows of an event's key.

use super::audience::Audience;
use super::marks::{Marks, SeatsMark};
use crate::storage::{Direction, Frame, KeyIndex, LogReader, StorageError};
use bytes::Bytes;
use rdb_proto::entry::EntryKind;
use rdb_proto::event::{Event, EventError, EventKind, events_of};
use rdb_proto::types::{LogIndex, Seq, Timestamp, Version};
use std::sync::Arc;
use tokio::sync::watch;

/// The member of a seat that a stream reads from.
#[derive(Debug, Clone)]
pub struct SeatSource {
    /// Position of the seat in the node's marks.
    pub position: usize,
    /// Its entries.
    pub log: LogReader,
    /// Where keys stand.
    pub index: Arc<dyn KeyIndex>,
    /// Last entry that the index knows.
    pub applied: watch::Receiver<LogIndex>,
}

/// The seats that a stream shows, and how far they are.
#[derive(Debug)]
pub struct Seats {
    pub(super) sources: Vec<SeatSource>,
    pub(super) marks: Arc<Marks>,
    pub(super) mark: SeatsMark,
    pub(super) audience: Arc<Audience>,
}

impl Seats {
    /// These members of seats, of the node whose marks and audience these are.
    pub fn new(sources: Vec<SeatSource>, marks: Arc<Marks>, audience: Arc<Audience>) -> Self {
        let mark = marks.watch_seats(sources.iter().map(|source| source.position));
        Self {
            sources,
            marks,
            mark,
            audience,
        }
    }

    /// Their mark.
    pub const fn mark(&self) -> &SeatsMark {
        &self.mark
    }
}

impl SeatSource {
    /// Whether the event is what its key holds as of `seq`, as far as the index has applied.
    pub(super) fn is_held(&self, event: &Event, seq: Seq) -> Result<bool, StorageError> {
        if event.kind == EventKind::Delete {
            return Ok(false);
        }
        let latest = self.index.at_or_before(&event.name, seq)?;
        Ok(latest.is_some_and(|latest| latest.seq == event.seq))
    }

    /// The event of the same key before this one, which stands in the entry at `index`.
    pub(super) fn before(&self, event: &Event, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        let version = event.version.previous();
        if version == Version::ZERO {
            return Ok(None);
        }
        let found = self.index.versions(&event.name, version, Direction::Forward, 1)?;
        let missing = EventError::Batch("the index does not know the version before one of its events");
        let located = found
            .first()
            .filter(|located| located.version == version)
            .ok_or_else(|| self.log.damaged_body(index, &missing))?;
        located.read(&self.log).map(Some)
    }

    /// Time of the first event with a greater seq, among the entries up to `commit`.
    pub(crate) fn time_after(&self, seq: Seq, commit: LogIndex) -> Result<Option<Timestamp>, StorageError> {
        let mut cursor = self.log.cursor_after(seq, commit);
        while let Some(block) = cursor.next_block(commit)? {
            let is_next = |frame: &Frame| frame.kind == EntryKind::Events && frame.last_seq() > seq;
            if let Some(frame) = block.frames.into_iter().find(is_next) {
                // The events of an entry have one time.
                let time = first_event(frame.body);
                return Ok(Some(
                    time.map_err(|error| self.log.damaged_body(frame.index, &error))?,
                ));
            }
        }
        Ok(None)
    }

    /// Seq of the first event at or after a time, among the entries up to `commit`.
    ///
    /// Time never goes back along seq, so halving the log finds it.
    pub(super) fn first_at(&self, time: Timestamp, commit: LogIndex) -> Result<Option<Seq>, StorageError> {
        let (mut low, mut high) = (LogIndex(1), commit.next());
        let mut found = None;
        while low < high {
            let middle = LogIndex(low.get().midpoint(high.get()));
            // Entries without events have no time: the next one that has decides for them.
            match self.next_events(middle, high)? {
                Some((_, first_seq, at)) if at >= time => {
                    found = Some(first_seq);
                    high = middle;
                }
                Some((index, ..)) => low = index.next(),
                None => high = middle,
            }
        }
        Ok(found)
    }

    /// Index, first seq and time of the first entry with events from `first` on, before `end`.
    fn next_events(
        &self,
        first: LogIndex,
        end: LogIndex,
    ) -> Result<Option<(LogIndex, Seq, Timestamp)>, StorageError> {
        let mut cursor = self.log.cursor_at(first);
        while let Some(block) = cursor.next_block(end.previous())? {
            let frame = block
                .frames
                .into_iter()
                .find(|frame| frame.kind == EntryKind::Events);
            if let Some(frame) = frame {
                let time = first_event(frame.body);
                let time = time.map_err(|error| self.log.damaged_body(frame.index, &error))?;
                return Ok(Some((frame.index, frame.first_seq, time)));
            }
        }
        Ok(None)
    }
}

fn first_event(body: Bytes) -> Result<Timestamp, EventError> {
    let first = events_of(body).next().ok_or(EventError::Batch("no events"))?;
    Ok(Event::decode(&first?)?.time)
}
