//! The one thread that writes a log, and the one place where its fdatasync runs.
//!
//! ```text
//! requests ──► gather all that wait ──► one pwrite ──► one fdatasync ──► Persisted(last ticket)
//!                                                                     └► quiet for 20 ms: note the durable mark
//! ```
//!
//! Requests are performed in order; a truncation or a promise first finishes the batch before it. A write or sync
//! that fails ends the process (DESIGN 6.3.3): the kernel may have dropped the pages, so a second sync would report
//! what is not so.

use super::frame::{self, FrameHead};
use super::open::Recovered;
use super::reader::{LogReader, Segments};
use super::room::{Claimed, Disk, Extent, Room};
use super::segment::{Identity, Point, SEGMENT_HEAD, Segment, Tail};
use super::{LogEvent, OnLogEvent, Ticket};
use crate::clock;
use crate::fatal::{self, Report};
use crate::limits::{LOG_GATHER_BYTES_MAX, LOG_IDLE_MS, LOG_NOTE_MS};
use crate::sabotage::{self, Sabotage};
use crate::storage::StorageError;
use crate::storage::files::as_u64;
use crate::storage::seat_file::{Care, SeatFile, SeatState};
use crate::workers::Work;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Persist {
        ticket: Ticket,
        truncate_from: Option<LogIndex>,
        entries: Vec<Arc<Entry>>,
        /// What the entries are charged in the room.
        charge: u64,
    },
    Promise {
        epoch: Epoch,
        config: u32,
    },
    /// What was lost is there again.
    ForgetLoss,
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Persist { entries, .. } => entries.iter().map(|entry| entry.body_bytes()).sum(),
            Self::Promise { .. } | Self::ForgetLoss => 0,
        }
    }
}

/// What the writer shares with the log's handle.
pub(super) struct Shared {
    pub(super) room: Arc<Room>,
    pub(super) segments: Arc<Segments>,
    pub(super) disk: Arc<dyn Disk>,
    /// Highest commit index that was told.
    pub(super) commit: Arc<AtomicU64>,
    pub(super) on_event: Arc<OnLogEvent>,
}

/// Frames that were encoded for the current segment and not written yet.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    frames: Vec<(Point, FrameHead)>,
    charge: u64,
}

pub(super) struct Writer {
    shared: Shared,
    identity: Identity,
    segment_bytes: u64,
    current: Arc<Segment>,
    /// Offset behind the last frame that was written or encoded.
    position: u64,
    /// Offset of the first byte of the batch.
    batch_start: u64,
    batch: Batch,
    /// The log up to the last frame that was written or encoded.
    tail: Tail,
    /// Entries up to this one are on stable storage. Never above `tail`.
    durable: LogIndex,
    seat_file: SeatFile,
    noted_at: Instant,
}

impl Writer {
    pub(super) fn new(
        recovered: Recovered,
        current: Arc<Segment>,
        identity: Identity,
        segment_bytes: u64,
        shared: Shared,
    ) -> Self {
        let position = current.end();
        Self {
            shared,
            identity,
            segment_bytes,
            current,
            position,
            batch_start: position,
            batch: Batch::default(),
            tail: recovered.tail,
            durable: recovered.tail.index,
            seat_file: recovered.seat_file,
            noted_at: clock::monotonic(),
        }
    }

    /// Performs one request, leaving its last entries in the batch.
    fn perform_one(&mut self, request: Request, persisted: &mut Option<Ticket>) {
        match request {
            Request::Persist {
                ticket,
                truncate_from,
                entries,
                charge,
            } => {
                assert!(persisted.is_none_or(|last| last < ticket), "tickets ascend");
                if let Some(from) = truncate_from {
                    self.write_batch();
                    self.truncate(from);
                }
                for entry in &entries {
                    self.encode(entry);
                }
                self.batch.charge = self.batch.charge.saturating_add(charge);
                *persisted = Some(ticket);
            }
            Request::Promise { epoch, config } => {
                self.complete(persisted);
                let promised = SeatState {
                    promised: epoch,
                    config,
                    ..self.marks()
                };
                self.write_seat(promised, Care::Both);
                (self.shared.on_event)(LogEvent::PromisePersisted(epoch));
            }
            Request::ForgetLoss => {
                self.complete(persisted);
                let state = SeatState {
                    lost: None,
                    ..self.marks()
                };
                // Lost with its slot, it is found out again when the next entry comes.
                self.write_seat(state, Care::One);
            }
        }
    }

    /// Writes the batch and reports what is durable with it.
    fn complete(&mut self, persisted: &mut Option<Ticket>) {
        self.write_batch();
        if let Some(ticket) = persisted.take() {
            (self.shared.on_event)(LogEvent::Persisted(ticket));
        }
    }

    fn encode(&mut self, entry: &Entry) {
        let size = frame::frame_bytes(entry.body_bytes());
        let segment_end = self.segment_bytes;
        let most = segment_end.saturating_sub(SEGMENT_HEAD);
        assert!(
            size <= most,
            "an entry of {size} bytes does not fit a segment of {segment_end}"
        );
        if self.position.saturating_add(size) > segment_end {
            self.write_batch();
            self.rotate();
        }
        let place = Point {
            offset: self.position,
            before: self.tail,
        };
        let seed = self.current.seed;
        let head = frame::encode(&mut self.batch.bytes, seed, self.position, entry, self.durable);
        assert_eq!(head.size(), size, "a frame has the size that was foreseen");
        self.tail = self.tail.followed_by(&head);
        self.position = self.position.saturating_add(size);
        self.batch.frames.push((place, head));
    }

    /// Goes on in the spare segment. Its head is written with its first frames: until then it stays spare.
    fn rotate(&mut self) {
        let file = self.shared.room.rotate();
        let (head, seed) = self.identity.head(file.number, self.tail.index.next()).encode();
        self.current = Arc::new(Segment::new(file, seed, self.tail));
        self.shared.segments.push(Arc::clone(&self.current));
        self.batch.bytes.extend_from_slice(&head);
        self.batch_start = 0;
        self.position = SEGMENT_HEAD;
    }

    fn write_batch(&mut self) {
        if !self.batch.frames.is_empty() {
            self.shared.room.await_claim(self.position);
            self.write_and_sync();
            self.current.note(&self.batch.frames);
            assert!(
                self.durable < self.tail.index,
                "the durable mark advances with every batch"
            );
            self.durable = self.tail.index;
            self.batch_start = self.position;
        }
        let charge = std::mem::take(&mut self.batch.charge);
        if charge > 0 || !self.batch.frames.is_empty() {
            self.shared.room.written(self.position, charge);
        }
        self.batch.frames.clear();
        self.batch.bytes.clear();
        // One large batch must not hold its memory for ever.
        self.batch.bytes.shrink_to(LOG_GATHER_BYTES_MAX);
    }

    fn write_and_sync(&self) {
        let file = &self.current.file;
        let began = clock::monotonic();
        if let Err(error) = file.write(&self.batch.bytes, self.batch_start)
            && !sabotage::is(Sabotage::DiskErrorIgnored)
        {
            end("writing to", &file.path, self.batch_start, &error);
        }
        if !sabotage::is(Sabotage::NoFsync)
            && let Err(error) = self.shared.disk.sync(file)
        {
            end("syncing", &file.path, self.batch_start, &error);
        }
        (self.shared.on_event)(LogEvent::Synced {
            bytes: as_u64(self.batch.bytes.len()),
            took: clock::monotonic().duration_since(began),
        });
    }

    /// Removes every entry from `from` on.
    ///
    /// What is being removed is noted first, so that a crash in between is told from damage: the files then show
    /// durable entries with a hole before them.
    fn truncate(&mut self, from: LogIndex) {
        if from > self.tail.index {
            return;
        }
        let commit = self.seat_file.state().commit.max(self.told_commit());
        assert!(
            from > commit,
            "6.3.2: entry {from} is committed (up to {commit}) and must not be removed"
        );
        assert_eq!(
            self.durable, self.tail.index,
            "the batch before a truncation is written"
        );
        let truncating = SeatState {
            durable: from.previous(),
            truncated_from: Some(from),
            ..self.marks()
        };
        self.write_seat(truncating, Care::Both);
        let reader = LogReader {
            segments: Arc::clone(&self.shared.segments),
        };
        let (segment, place) = reader.find(from).unwrap_or_else(|error| {
            fatal::io(&Report {
                what: &format_args!("an entry that is to be removed cannot be read: {error}"),
                place: &self.seat_file.path().display(),
                safe: "every committed entry is on disk",
                next: "check the disk, then start the server again",
            })
        });
        let room = Arc::clone(&self.shared.room);
        room.replace(|spare| {
            self.remove_from(&segment, place, spare).unwrap_or_else(|error| {
                fatal::io(&Report {
                    what: &format_args!("removing uncommitted entries failed: {error}"),
                    place: &segment.file.path.display(),
                    safe: "every committed entry is on disk",
                    next: "check the disk, then start the server again; it will finish the removal",
                })
            })
        });
        self.write_seat(
            SeatState {
                truncated_from: None,
                ..truncating
            },
            Care::Both,
        );
    }

    /// Zeroes the rest of a segment behind `place` and removes the segments after it.
    fn remove_from(
        &mut self,
        segment: &Arc<Segment>,
        place: Point,
        spare: Option<Claimed>,
    ) -> Result<Extent, StorageError> {
        let later = self.shared.segments.split_after(place.before.index.next());
        // The last one first: whatever is left after a crash in here has no hole.
        let spare = if later.is_empty() {
            spare
        } else {
            let spare = spare.map(|spare| spare.file);
            let in_use = later.iter().rev().map(|later| Arc::clone(&later.file));
            for file in spare.into_iter().chain(in_use) {
                file.remove()?;
            }
            // A reader may still stand at the beginning of one of them.
            for later in &later {
                later.forget_from(SEGMENT_HEAD);
            }
            None
        };
        let zeroed = segment.file.zero(place.offset, segment.end());
        zeroed.map_err(StorageError::io("cut", &segment.file.path))?;
        segment.forget_from(place.offset);
        self.current = Arc::clone(segment);
        self.position = place.offset;
        self.batch_start = place.offset;
        self.tail = place.before;
        self.durable = place.before.index;
        Ok(Extent {
            current: Claimed {
                file: Arc::clone(&segment.file),
                to: segment.file.length()?,
            },
            position: place.offset,
            spare,
        })
    }

    fn told_commit(&self) -> LogIndex {
        LogIndex(self.shared.commit.load(Ordering::Acquire))
    }

    /// The marks as they are now. A leader may know entries as committed that its own disk does not have yet.
    fn marks(&self) -> SeatState {
        let noted = self.seat_file.state();
        SeatState {
            durable: self.durable,
            commit: noted.commit.max(self.told_commit().min(self.durable)),
            ..noted
        }
    }

    fn has_marks_to_note(&self) -> bool {
        self.marks() != self.seat_file.state()
    }

    fn note_marks(&mut self) {
        self.write_seat(self.marks(), Care::One);
        self.noted_at = clock::monotonic();
    }

    fn write_seat(&mut self, state: SeatState, care: Care) {
        if let Err(error) = self.seat_file.write(state, care) {
            end("writing to", self.seat_file.path(), 0, &error);
        }
    }
}

impl Work<Request> for Writer {
    fn perform(&mut self, first: Request, more: &mut dyn FnMut() -> Option<Request>) {
        let mut bytes = first.bytes();
        let mut persisted = None;
        self.perform_one(first, &mut persisted);
        while bytes < LOG_GATHER_BYTES_MAX {
            let Some(request) = more() else { break };
            bytes = bytes.saturating_add(request.bytes());
            self.perform_one(request, &mut persisted);
        }
        self.complete(&mut persisted);
        let since_noted = clock::monotonic().duration_since(self.noted_at);
        if since_noted >= Duration::from_millis(LOG_NOTE_MS) && self.has_marks_to_note() {
            self.note_marks();
        }
    }

    fn rests_after(&self) -> Option<Duration> {
        self.has_marks_to_note()
            .then(|| Duration::from_millis(LOG_IDLE_MS))
    }

    /// The marks are noted off the path of acknowledgements, and a log that rests is whole beyond doubt.
    fn rest(&mut self) {
        self.note_marks();
    }

    fn end(&mut self) {
        if self.has_marks_to_note() {
            self.note_marks();
        }
    }
}

/// Ends the process after a failed write or sync.
fn end(action: &str, path: &Path, offset: u64, error: &io::Error) -> ! {
    fatal::io(&Report {
        what: &format_args!("{action} the log failed: {error}"),
        place: &format_args!("{} at offset {offset}", path.display()),
        safe: "every acknowledged event is on disk; what was being written was not acknowledged",
        next: "check the disk, then start the server again",
    })
}
