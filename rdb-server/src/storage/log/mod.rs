//! A seat's log: entries in, durable and in order; entries out, checked.
//!
//! ```text
//! seat driver ──admit──► room            (refuses before anything changes)
//!             ──persist──► writer thread ──pwrite──fdatasync──► LogEvent::Persisted
//!             ──reader──► LogReader, Cursor    (any thread, committed entries only)
//! ```

mod frame;
mod loss;
mod open;
mod reader;
mod room;
mod scrub;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Block, Cursor, Frame, LogReader};
pub use room::Admission;
pub use scrub::{Scrub, Verified};

use super::StorageError;
use crate::fatal::{self, Report};
use crate::limits::{
    DISK_KEEP_FREE_BYTES, LOG_AHEAD_BYTES, LOG_CLAIM_BYTES, LOG_REQUESTS_MAX, SEGMENT_BYTES,
};
use crate::workers::Worker;
use open::Recovered;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, SeatId, Seq, Timestamp};
use reader::Segments;
use room::{Claimed, Claimer, Disk, Extent, RealDisk, Room};
use segment::{Identity, SEGMENT_HEAD};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;
use writer::{Request, Shared, Writer};

/// Names a change of the log until it is durable. Ascending; the log completes them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a log reports, from its own threads or those of its readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// This change, and all before it, are on stable storage.
    Persisted(Ticket),
    /// This promise, and all before it, are on stable storage.
    PromisePersisted(Epoch),
    /// A batch was written and synced: for measuring.
    Synced {
        /// Bytes of the batch on disk.
        bytes: u64,
        /// How long write and sync took.
        took: Duration,
    },
    /// [`SeatLog::admit`] may answer differently now: more disk was claimed, or claiming failed.
    RoomChanged,
    /// A reader met damage; with file and offset, in words. It gets the error, too.
    Unreadable(String),
}

/// Receives what a log reports. Called on the log's threads, by readers, and where an [`Admission`] is dropped: must
/// not block.
pub type OnLogEvent = Box<dyn Fn(LogEvent) + Send + Sync>;

/// Bounds of one log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Largest size of a segment file. The two largest entries must fit one.
    pub segment_bytes: u64,
    /// Least disk that is claimed and zeroed ahead of the end of the log.
    pub ahead_bytes: u64,
    /// Disk that the log leaves free for the index and the rest of the directory.
    pub keep_free_bytes: u64,
    /// Whether other members can give again what this log lost. Else a log that lost anything is not opened.
    pub is_replicated: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            ahead_bytes: LOG_AHEAD_BYTES,
            keep_free_bytes: DISK_KEEP_FREE_BYTES,
            is_replicated: false,
        }
    }
}

/// What opening a log found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// Index of the last entry; [`LogIndex::ZERO`] when there is none.
    pub last_index: LogIndex,
    /// Epoch of the last entry; [`Epoch::ZERO`] when there is none.
    pub last_epoch: Epoch,
    /// First index of each run of entries with one epoch, ascending.
    pub epochs: Vec<(LogIndex, Epoch)>,
    /// Seq of the last event; [`Seq::ZERO`] when there is none.
    pub last_seq: Seq,
    /// Time of the last event; [`Timestamp::ZERO`] when there is none.
    pub last_time: Timestamp,
    /// How many events there are.
    pub events: u64,
    /// Bytes of a torn tail that were cut: nothing acknowledged was in them.
    pub cut_bytes: u64,
    /// Highest epoch promised.
    pub promised: Epoch,
    /// Number of the highest membership that was seen when it was promised; 0 when none was.
    pub config: u32,
    /// Entries up to this one are known to have been durable.
    pub durable: LogIndex,
    /// Highest commit index that was noted; lags behind the real one.
    pub commit: LogIndex,
    /// The epoch that was promised when it was found that entries were lost, until [`SeatLog::forget_loss`]. Everything
    /// else here tells of the log as it is without them.
    pub lost: Option<Epoch>,
    /// The damage that was found now, with file and offset; `None` when there is none, or it was found before.
    pub damage: Option<String>,
}

/// The log has no room for a batch. Nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoRoom {
    /// Disk is being claimed, or it is being looked whether it is still full: wait for [`LogEvent::RoomChanged`]
    /// and ask again.
    #[error("disk is being claimed for the log")]
    Soon,
    /// The file system was full a moment ago, in an attempt made for this admission.
    #[error("the disk is full: {free_bytes} bytes are free, {keep_free_bytes} of them kept for the index")]
    DiskFull {
        /// What the file system had left at the last attempt.
        free_bytes: u64,
        /// What the log must leave free.
        keep_free_bytes: u64,
    },
}

/// A seat's log and promise. Owned by the seat's driver; readers are handed out by [`SeatLog::reader`].
pub struct SeatLog {
    writer: Worker<Request>,
    /// Ends after the writer, which may wait for it.
    _claimer: Claimer,
    room: Arc<Room>,
    segments: Arc<Segments>,
    commit: Arc<AtomicU64>,
}

impl fmt::Debug for SeatLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeatLog")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl SeatLog {
    /// Opens the log of `seat` in `directory`, or makes an empty one; walks and checks every frame, cuts a torn
    /// tail, and starts the log's threads.
    ///
    /// **Blocking**: reads the whole log.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when anything is wrong at or below the durable mark and the log is not replicated:
    /// nothing was changed then.
    /// [`StorageError::FormatTooNew`], [`StorageError::WrongDatabase`], [`StorageError::WrongSeat`],
    /// [`StorageError::Io`].
    pub fn open(
        directory: &Path,
        database: Uuid,
        seat: SeatId,
        settings: LogSettings,
        on_event: OnLogEvent,
    ) -> Result<(Self, Opened), StorageError> {
        let identity = Identity { database, seat };
        Self::open_on(directory, identity, settings, on_event, Arc::new(RealDisk))
    }

    fn open_on(
        directory: &Path,
        identity: Identity,
        settings: LogSettings,
        on_event: OnLogEvent,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Opened), StorageError> {
        let recovered = open::recover(directory, identity, settings.is_replicated)?;
        let opened = recovered.opened.clone();
        let on_event = Arc::new(on_event);
        let segments = Arc::new(Segments::new(recovered.segments.clone(), Arc::clone(&on_event)));
        let commit = Arc::new(AtomicU64::new(opened.commit.get()));
        let segment_bytes = settings.segment_bytes;
        let (current, extent) = extent_of(&recovered, &settings)?;
        let room = Arc::new(Room::new(
            directory,
            identity,
            settings,
            extent,
            (Arc::clone(&disk), Arc::clone(&on_event)),
        ));
        let shared = Shared {
            room: Arc::clone(&room),
            segments: Arc::clone(&segments),
            disk,
            commit: Arc::clone(&commit),
            on_event,
        };
        let writer = Writer::new(recovered, current, identity, segment_bytes, shared);
        let writer = Worker::start("log-writer".to_owned(), LOG_REQUESTS_MAX, writer);
        let log = Self {
            writer: writer.map_err(StorageError::io("start a thread for", directory))?,
            _claimer: Claimer::start(&room).map_err(StorageError::io("start a thread for", directory))?,
            room,
            segments,
            commit,
        };
        Ok((log, opened))
    }

    /// Removes every entry from `truncate_from` on, then appends `entries`, which follow each other and the
    /// log's end. [`LogEvent::Persisted`] tells when all of it is on stable storage. A failed write or sync ends
    /// the process; so does an entry that does not follow, or that does not fit a segment.
    ///
    /// **Blocking**: only when [`LOG_REQUESTS_MAX`] requests wait already.
    pub fn persist(&self, ticket: Ticket, truncate_from: Option<LogIndex>, entries: Vec<Arc<Entry>>) {
        let sizes = entries
            .iter()
            .map(|entry| Self::bytes_on_disk(entry.body_bytes()));
        let charge = sizes.map(room::charge_of).fold(0, u64::saturating_add);
        self.room.enqueue(charge);
        self.request(Request::Persist {
            ticket,
            truncate_from,
            entries,
            charge,
        });
    }

    /// Makes a promise durable, and with it the number of the highest membership that was seen, then reports
    /// [`LogEvent::PromisePersisted`]. An epoch or a number below what was promised ends the process.
    ///
    /// **Blocking**: only when [`LOG_REQUESTS_MAX`] requests wait already.
    pub fn promise(&self, epoch: Epoch, config: u32) {
        self.request(Request::Promise { epoch, config });
    }

    fn request(&self, request: Request) {
        if !self.writer.hand_over(request) {
            fatal::invariant(&Report {
                what: &"the thread that writes a log has ended",
                place: &"storage/log/writer.rs",
                safe: "every acknowledged event is on disk",
                next: "start the server again, and report this with its trace",
            });
        }
    }

    /// What [`Opened::lost`] told of is there again, durably: forgets it.
    ///
    /// **Blocking**: only when [`LOG_REQUESTS_MAX`] requests wait already.
    pub fn forget_loss(&self) {
        self.request(Request::ForgetLoss);
    }

    /// Notes how far the log is committed; written lazily, off the path of acknowledgements.
    pub fn note_commit(&self, commit: LogIndex) {
        self.commit.fetch_max(commit.get(), Ordering::AcqRel);
    }

    /// Speaks for room of `bytes` (see [`SeatLog::bytes_on_disk`]), before anything about the batch is decided.
    ///
    /// # Errors
    /// [`NoRoom::Soon`]: [`LogEvent::RoomChanged`] follows, then ask again. [`NoRoom::DiskFull`]: refuse.
    pub fn admit(&self, bytes: u64) -> Result<Admission, NoRoom> {
        self.room.admit(bytes)
    }

    /// Bytes on disk of an entry whose body has `body_bytes`.
    pub fn bytes_on_disk(body_bytes: usize) -> u64 {
        frame::frame_bytes(body_bytes)
    }

    /// Bytes that could be admitted now.
    pub fn room(&self) -> u64 {
        self.room.free()
    }

    /// Reads committed entries, from any thread.
    pub fn reader(&self) -> LogReader {
        LogReader {
            segments: Arc::clone(&self.segments),
        }
    }

    /// Writes what waits, notes the durable mark and ends the log's threads. Dropping the log does the same, but in a
    /// simulation ([`Worker`]).
    ///
    /// **Blocking**: until all of it is done.
    pub fn close(self) {
        self.writer.finish();
    }
}

/// The last segment, and what is claimed of it and behind it.
///
/// Blocks behind the end may be missing where the files were copied: they are claimed again, or given up.
fn extent_of(
    recovered: &Recovered,
    settings: &LogSettings,
) -> Result<(Arc<segment::Segment>, Extent), StorageError> {
    let Some(current) = recovered.segments.last() else {
        fatal::invariant(&Report {
            what: &"a log was opened without a segment",
            place: &"storage/log/open.rs",
            safe: "every acknowledged event is on disk",
            next: "start the server again, and report this with its trace",
        })
    };
    let claimed = |file: &Arc<segment::SegmentFile>, from: u64| -> Result<Claimed, StorageError> {
        let length = file.length()?;
        let to = if length <= from || file.reserve(from, length).is_ok() {
            length.max(from)
        } else {
            file.shorten(from)
                .map_err(StorageError::io("shorten", &file.path))?;
            from
        };
        let file = Arc::clone(file);
        Ok(Claimed { file, to })
    };
    let position = current.end();
    let mut at_end = claimed(&current.file, position)?;
    // A new log can take its first entries at once.
    if at_end.to == SEGMENT_HEAD {
        let to = LOG_CLAIM_BYTES.min(settings.segment_bytes);
        at_end.to = match current.file.claim(SEGMENT_HEAD, to) {
            Ok(()) => to,
            Err(_full) => SEGMENT_HEAD,
        };
    }
    let spare = recovered.spare.as_ref();
    let extent = Extent {
        current: at_end,
        position,
        spare: spare.map(|spare| claimed(spare, SEGMENT_HEAD)).transpose()?,
    };
    Ok((Arc::clone(current), extent))
}
