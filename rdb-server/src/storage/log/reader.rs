//! Reading committed entries back, from any thread, while the writer writes.
//!
//! Committed frames never change and never move, so a reader needs nothing from the writer but the list of
//! segments and how far each is on stable storage. Every frame's check is made again on every read: what does not
//! pass is [`StorageError::Damaged`] and never a payload.

use super::frame::{self, FRAME_HEAD_BYTES, Found, FrameHead, SEGMENT_HEAD_BYTES};
use super::segment::{Point, Segment, SegmentFile, Tail};
use super::{LogEvent, OnLogEvent};
use crate::limits::{LOG_BLOCK_BYTES, LOG_POINT_BYTES};
use crate::storage::StorageError;
use crate::storage::error::Damage;
use crate::storage::files::{as_u64, as_usize, lock};
use bytes::Bytes;
use rdb_proto::entry::{Entry, EntryBody, EntryError, EntryKind};
use rdb_proto::types::{Epoch, LogIndex, Seq};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// One entry as it stands on disk, its check passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Position in the log.
    pub index: LogIndex,
    /// Epoch under which it was appended.
    pub epoch: Epoch,
    /// What the body is.
    pub kind: EntryKind,
    /// Seq of its first event; [`Seq::ZERO`] when it has none.
    pub first_seq: Seq,
    /// How many events it has.
    pub events: u32,
    /// The body; for events a wire `EventBatch`. May share a whole block's memory.
    pub body: Bytes,
}

impl Frame {
    /// Seq of its last event; [`Seq::ZERO`] when it has none.
    pub fn last_seq(&self) -> Seq {
        self.first_seq.plus(u64::from(self.events)).previous()
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`EntryError`] when the body is not one, which only a mistake of the writer can be the cause of.
    pub fn decode(&self) -> Result<Entry, EntryError> {
        Ok(Entry {
            index: self.index,
            epoch: self.epoch,
            body: EntryBody::decode(self.kind, self.body.clone())?,
        })
    }
}

/// Entries that were read together: at least one, in order, dense in index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The entries.
    pub frames: Vec<Frame>,
}

/// The segments in use, ascending; at least one.
pub(super) struct Segments {
    list: Mutex<Vec<Arc<Segment>>>,
    on_event: Arc<OnLogEvent>,
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Segments").field(&self.list).finish()
    }
}

impl Segments {
    pub(super) fn new(segments: Vec<Arc<Segment>>, on_event: Arc<OnLogEvent>) -> Self {
        Self {
            list: Mutex::new(segments),
            on_event,
        }
    }

    pub(super) fn push(&self, segment: Arc<Segment>) {
        lock(&self.list).push(segment);
    }

    /// Removes and returns those behind the one that `index` stands in or would be appended to.
    pub(super) fn split_after(&self, index: LogIndex) -> Vec<Arc<Segment>> {
        let mut segments = lock(&self.list);
        let keep = segments
            .partition_point(|segment| segment.first() <= index)
            .max(1);
        if keep < segments.len() {
            segments.split_off(keep)
        } else {
            Vec::new()
        }
    }

    /// The last remembered place of which `is_before` holds, with its segment; the log's beginning when it holds
    /// of none. It must hold of all places up to some one and of none behind it.
    fn place(&self, is_before: impl Fn(&Tail) -> bool) -> Option<(Arc<Segment>, Point)> {
        let segments = lock(&self.list);
        let behind = segments.partition_point(|segment| is_before(&segment.before));
        let segment = segments.get(behind.saturating_sub(1))?;
        Some((Arc::clone(segment), segment.point(is_before)))
    }
}

/// Reads entries while the writer writes. Cheap to clone. Only ever ask for entries at or below the commit index.
#[derive(Debug, Clone)]
pub struct LogReader {
    pub(super) segments: Arc<Segments>,
}

impl LogReader {
    /// Reads one entry.
    ///
    /// **Blocking**: one read of some 32 KiB, or of the entry when it is larger.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], also when the log does not have the entry; [`StorageError::Io`].
    pub fn entry(&self, index: LogIndex) -> Result<Frame, StorageError> {
        let mut cursor = self.cursor_at(index);
        let block = cursor.read(index, as_usize(LOG_POINT_BYTES))?;
        let Some(frame) = block.and_then(|block| block.frames.into_iter().next()) else {
            return Err(cursor.unreadable(index));
        };
        // A small body must not keep a whole block in memory.
        let body = Bytes::copy_from_slice(&frame.body);
        Ok(Frame { body, ..frame })
    }

    /// The error of an entry whose body passes its check and still is not what the log should hold.
    pub fn damaged_body(&self, index: LogIndex, problem: &dyn fmt::Display) -> StorageError {
        match self.find(index) {
            Ok((segment, point)) => bad_body(&segment.file, point.offset, index, problem.to_string()),
            Err(error) => error,
        }
    }

    /// The entries from `first` to `last`, as many as have no more than `bytes_max` together, at least one; none when
    /// `first` is above `last`.
    ///
    /// **Blocking**: reads the disk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::Io`].
    pub fn entries(
        &self,
        (first, last): (LogIndex, LogIndex),
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StorageError> {
        let mut cursor = self.cursor_at(first);
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        while let Some(block) = cursor.next_block(last)? {
            for frame in &block.frames {
                bytes = bytes.saturating_add(frame.body.len());
                if !entries.is_empty() && bytes > bytes_max {
                    return Ok(entries);
                }
                let decoded = frame.decode();
                entries.push(Arc::new(
                    decoded.map_err(|error| self.damaged_body(frame.index, &error))?,
                ));
            }
        }
        Ok(entries)
    }

    /// Reads entries in order, beginning with `first`.
    pub fn cursor_at(&self, first: LogIndex) -> Cursor {
        self.cursor(Start::At(first), |before| before.index < first)
    }

    /// Reads entries in order, beginning with the first whose last seq is above `seq`; entries after `commit` are
    /// not looked at to find it.
    pub fn cursor_after(&self, seq: Seq, commit: LogIndex) -> Cursor {
        self.cursor(Start::After(seq), |before| {
            before.seq <= seq && before.index <= commit
        })
    }

    /// Reads entries in order, beginning so early that at least `events` events come up to `last`, if there are.
    pub(in crate::storage) fn cursor_before(&self, last: LogIndex, events: u64) -> Cursor {
        let near_last = self.segments.place(|before| before.index < last);
        let total = near_last.map_or(0, |(_, point)| point.before.events);
        let from = total.saturating_sub(events);
        self.cursor(Start::Anywhere, |before| {
            before.events <= from && before.index < last
        })
    }

    /// Where an entry stands that is on stable storage.
    pub(super) fn find(&self, index: LogIndex) -> Result<(Arc<Segment>, Point), StorageError> {
        let mut cursor = self.cursor_at(index);
        let mut before = match self.segments.place(|before| before.index < index) {
            Some((_, point)) => point.before,
            None => return Err(cursor.unreadable(index)),
        };
        while let Some((segment, offset)) = cursor.locate() {
            let frame = frame_at(&segment, offset, cursor.next)?;
            if cursor.next == index {
                return Ok((segment, Point { offset, before }));
            }
            before = before.followed_by(&frame.head);
            cursor.place = Some((segment, offset.saturating_add(frame.head.size())));
            cursor.next = cursor.next.next();
        }
        Err(cursor.unreadable(index))
    }

    fn cursor(&self, start: Start, is_before: impl Fn(&Tail) -> bool) -> Cursor {
        let place = self.segments.place(is_before);
        Cursor {
            segments: Arc::clone(&self.segments),
            next: place
                .as_ref()
                .map_or(LogIndex::ZERO, |(_, point)| point.before.index)
                .next(),
            place: place.map(|(segment, point)| (segment, point.offset)),
            start,
            is_quiet: false,
        }
    }
}

/// Which entry a cursor gives out first.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// This one.
    At(LogIndex),
    /// The first with a seq above this one.
    After(Seq),
    /// The next one.
    Anywhere,
}

/// Sequential reader in big blocks. Holds no lock between calls.
#[derive(Debug, Clone)]
pub struct Cursor {
    segments: Arc<Segments>,
    /// Where `next` stands, or will stand.
    place: Option<(Arc<Segment>, u64)>,
    /// The next frame on disk.
    next: LogIndex,
    start: Start,
    /// Damage is told to the caller only.
    is_quiet: bool,
}

impl Cursor {
    /// The same, but damage is told to the caller only, who does more about it than [`LogEvent::Unreadable`] would.
    pub(super) fn quietly(self) -> Self {
        Self {
            is_quiet: true,
            ..self
        }
    }

    /// Every entry before this one was given out or passed over.
    pub const fn next_index(&self) -> LogIndex {
        self.next
    }

    /// Reads on, up to and including `commit`; `None` when there is nothing more up to there that is on stable
    /// storage.
    ///
    /// **Blocking**: one read of 256 KiB, or of an entry when it is larger; more while it looks for its start.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::Io`]. The cursor then stays where it is.
    pub fn next_block(&mut self, commit: LogIndex) -> Result<Option<Block>, StorageError> {
        self.read(commit, LOG_BLOCK_BYTES)
    }

    fn read(&mut self, commit: LogIndex, block_bytes: usize) -> Result<Option<Block>, StorageError> {
        while self.next <= commit {
            let Some((segment, offset)) = self.locate() else {
                return Ok(None);
            };
            let block = self.read_block(&segment, offset, commit, block_bytes);
            let (frames, offset) = block.inspect_err(|error| {
                if !self.is_quiet && matches!(error, StorageError::Damaged { .. }) {
                    (self.segments.on_event)(LogEvent::Unreadable(error.to_string()));
                }
            })?;
            self.place = Some((segment, offset));
            if !frames.is_empty() {
                return Ok(Some(Block { frames }));
            }
        }
        Ok(None)
    }

    /// Where the next frame stands; `None` when it is not on stable storage yet.
    pub(super) fn locate(&self) -> Option<(Arc<Segment>, u64)> {
        let (segment, offset) = self.place.clone()?;
        if offset < segment.end() {
            return Some((segment, offset));
        }
        let next = self.next;
        let (segment, point) = self.segments.place(|before| before.index < next)?;
        let is_there = segment.first() == next && point.offset < segment.end();
        is_there.then_some((segment, point.offset))
    }

    /// Reads the frames of one block that may be given out. Returns them with the offset behind the last frame
    /// that was read, given out or not.
    fn read_block(
        &mut self,
        segment: &Segment,
        start: u64,
        commit: LogIndex,
        block_bytes: usize,
    ) -> Result<(Vec<Frame>, u64), StorageError> {
        let left = as_usize(segment.end().saturating_sub(start));
        let mut block = read_block(&segment.file, start, block_bytes.min(left))?;
        let mut frames = Vec::new();
        let mut at: usize = 0;
        let mut next = self.next;
        while next <= commit {
            let offset = start.saturating_add(as_u64(at));
            let bytes = block.get(at..).unwrap_or_default();
            let head = match frame::look(bytes, segment.seed, offset) {
                Found::Frame(head) if head.index == next => head,
                // The block ends inside this frame: it begins the next one.
                Found::Short(_) if at > 0 => break,
                Found::Short(needed) if needed <= left && bytes.len() < needed => {
                    block = read_block(&segment.file, start, needed)?;
                    if block.len() < needed {
                        return Err(unreadable(&segment.file, offset, next));
                    }
                    continue;
                }
                // What is damaged is told when everything before it was given out.
                _ if !frames.is_empty() => break,
                Found::Frame(_) | Found::Short(_) | Found::Zero | Found::Bad { .. } => {
                    return Err(unreadable(&segment.file, offset, next));
                }
            };
            let end = at.saturating_add(as_usize(head.size()));
            if self.has_started(&head) {
                frames.push(frame_of(&segment.file, offset, &head, &block, at)?);
            }
            next = next.next();
            at = end;
            if at >= block.len() {
                break;
            }
        }
        self.next = next;
        Ok((frames, start.saturating_add(as_u64(at))))
    }

    /// Whether this frame is given out; from the first one on, all are.
    fn has_started(&mut self, head: &FrameHead) -> bool {
        let has_started = match self.start {
            Start::At(first) => head.index >= first,
            Start::After(seq) => head.last_seq() > seq,
            Start::Anywhere => true,
        };
        if has_started {
            self.start = Start::Anywhere;
        }
        has_started
    }

    fn unreadable(&self, index: LogIndex) -> StorageError {
        match &self.place {
            Some((segment, offset)) => unreadable(&segment.file, *offset, index),
            None => StorageError::Damaged {
                file: PathBuf::new(),
                offset: 0,
                damage: Damage::Unreadable { index },
            },
        }
    }
}

/// A frame with its head as it stands on disk.
#[derive(Debug)]
pub(super) struct FrameOnDisk {
    pub(super) head: FrameHead,
    pub(super) frame: Frame,
}

/// Reads the frame of entry `index`, which stands at `offset`.
pub(super) fn frame_at(segment: &Segment, offset: u64, index: LogIndex) -> Result<FrameOnDisk, StorageError> {
    let mut length = SEGMENT_HEAD_BYTES;
    loop {
        let block = read_block(&segment.file, offset, length)?;
        match frame::look(&block, segment.seed, offset) {
            Found::Frame(head) if head.index == index => {
                let frame = frame_of(&segment.file, offset, &head, &block, 0)?;
                return Ok(FrameOnDisk { head, frame });
            }
            Found::Short(needed) if needed > length => length = needed,
            Found::Frame(_) | Found::Short(_) | Found::Zero | Found::Bad { .. } => {
                return Err(unreadable(&segment.file, offset, index));
            }
        }
    }
}

/// The error of a body that passes its check and is none.
pub(super) fn bad_body(file: &SegmentFile, offset: u64, index: LogIndex, problem: String) -> StorageError {
    StorageError::Damaged {
        file: file.path.clone(),
        offset,
        damage: Damage::Body { index, problem },
    }
}

fn unreadable(file: &SegmentFile, offset: u64, index: LogIndex) -> StorageError {
    StorageError::Damaged {
        file: file.path.clone(),
        offset,
        damage: Damage::Unreadable { index },
    }
}

fn read_block(file: &SegmentFile, offset: u64, length: usize) -> Result<Bytes, StorageError> {
    let mut block = Vec::new();
    file.read_onto(&mut block, offset, length)?;
    Ok(block.into())
}

/// The frame that begins at `at` of `block`, without copying its body.
fn frame_of(
    file: &SegmentFile,
    offset: u64,
    head: &FrameHead,
    block: &Bytes,
    at: usize,
) -> Result<Frame, StorageError> {
    let kind = EntryKind::from_number(head.kind)
        .map_err(|unknown| bad_body(file, offset, head.index, unknown.to_string()))?;
    let body = at.saturating_add(FRAME_HEAD_BYTES)..at.saturating_add(as_usize(u64::from(head.length)));
    Ok(Frame {
        index: head.index,
        epoch: head.epoch,
        kind,
        first_seq: head.first_seq,
        events: head.events,
        body: block.slice(body),
    })
}
