//! How much may still be written, and the thread that claims disk ahead of the writer.
//!
//! A sync is fast only where the disk was claimed and zeroed before, and a full disk must be met before anything
//! is decided about a batch. So space is claimed ahead, in the current segment and then in a spare one, off the
//! writer's thread; a batch is admitted only into what is claimed already.
//!
//! ```text
//!      current segment                     spare segment
//! |head|frames|written next ... |     |head|               |
//!             └ position  claimed┘          └ claimed
//!             └──────────────── ahead ──────┘
//! ahead = spoken for (admitted, not yet handed over) + queued (handed over, not yet written) + free
//! ```
//!
//! - How far ahead: twice what the log holds, between `ahead_bytes` and a whole segment. A young database takes
//!   little disk; a grown one always zeroes the *next* file, because zeroes in the file that is being synced
//!   would be part of the sync.
//! - An entry that does not fit the rest of the current segment goes to the spare one, and that rest is lost.
//!   Hence every byte is charged twice until it is written: what is lost is less than the entry.
//! - A full disk is not an error: admission refuses, and only after an attempt made for it, so that no refusal is
//!   older than the disk's state. Nothing polls.

use super::segment::{Identity, SEGMENT_HEAD, SegmentFile};
use super::{LogEvent, LogSettings, NoRoom, OnLogEvent};
use crate::fatal::{self, Report};
use crate::limits::{LOG_CLAIM_BYTES, LOG_RESERVE_BYTES};
use crate::storage::files::{free_bytes, lock};
use crate::workers;
use rdb_proto::simulation;
use rdb_proto::types::LogIndex;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The disk, where it can be full, slow or broken. Tests put such a one in its place.
pub(super) trait Disk: Send + Sync + fmt::Debug {
    /// Makes durable what was written to a segment.
    fn sync(&self, file: &SegmentFile) -> io::Result<()>;

    /// Bytes left.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;

    /// Claims and zeroes a part of a segment, durably.
    fn claim(&self, file: &SegmentFile, from: u64, to: u64) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn sync(&self, file: &SegmentFile) -> io::Result<()> {
        file.sync()
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        free_bytes(directory)
    }

    fn claim(&self, file: &SegmentFile, from: u64, to: u64) -> io::Result<()> {
        file.claim(from, to)
    }
}

/// A segment's file, and how far it is claimed and zeroed.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub(super) file: Arc<SegmentFile>,
    pub(super) to: u64,
}

/// The claimed files, and how far they are written.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) current: Claimed,
    /// Where the writer writes next in `current`.
    pub(super) position: u64,
    pub(super) spare: Option<Claimed>,
}

impl Extent {
    /// Bytes that are claimed and not written.
    fn ahead(&self) -> u64 {
        let spare = self.spare.as_ref();
        let spare = spare.map_or(0, |spare| spare.to.saturating_sub(SEGMENT_HEAD));
        self.current
            .to
            .saturating_sub(self.position)
            .saturating_add(spare)
    }
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any of them can be true together"
)]
struct State {
    extent: Extent,
    /// Charges of admissions that are held.
    spoken: u64,
    /// Charges of entries that wait for the writer.
    queued: u64,
    /// A refused admission, or the writer, needs this much ahead.
    wanted: u64,
    /// Somebody needs another attempt, whatever the last one said.
    attempt: bool,
    /// The writer waits: it takes what the log should leave free too.
    is_urgent: bool,
    /// What was free when the last attempt failed; `None` after one that did not.
    failure: Option<u64>,
    /// An admission waits for room to change.
    is_awaited: bool,
    /// What was free when an attempt failed that an admission waits for: its answer.
    full_with: Option<u64>,
    /// The claimer works on a file.
    is_busy: bool,
    /// The writer changes files: the claimer must not.
    is_paused: bool,
    is_closing: bool,
}

impl State {
    fn taken(&self) -> u64 {
        self.spoken.saturating_add(self.queued)
    }
}

/// What the claimer does next.
enum Claim {
    Extend(Claimed),
    CreateSpare(u32),
}

/// The space of one log. Shared by its handle, its writer and its claimer.
pub(super) struct Room {
    directory: PathBuf,
    identity: Identity,
    settings: LogSettings,
    disk: Arc<dyn Disk>,
    on_event: Arc<OnLogEvent>,
    state: Mutex<State>,
    changed: Condvar,
    /// In a simulation, which has no thread for a claimer, whoever would call it claims.
    claims_itself: bool,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Room that is spoken for. Hold it until the entries were handed to [`SeatLog::persist`](super::SeatLog::persist)
/// or given up; dropping it gives back what it holds.
#[derive(Debug)]
#[must_use = "dropping an admission gives the room back"]
pub struct Admission {
    room: Arc<Room>,
    charge: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let charge = self.charge;
        self.room.release(|state| {
            state.spoken = state.spoken.saturating_sub(charge);
        });
    }
}

/// What an entry of this size on disk is charged until it is written.
pub(super) const fn charge_of(bytes: u64) -> u64 {
    bytes.saturating_mul(2)
}

impl Room {
    pub(super) fn new(
        directory: &Path,
        identity: Identity,
        settings: LogSettings,
        extent: Extent,
        (disk, on_event): (Arc<dyn Disk>, Arc<OnLogEvent>),
    ) -> Self {
        let state = State {
            extent,
            spoken: 0,
            queued: 0,
            wanted: 0,
            attempt: false,
            is_urgent: false,
            failure: None,
            is_awaited: false,
            full_with: None,
            is_busy: false,
            is_paused: false,
            is_closing: false,
        };
        Self {
            directory: directory.to_owned(),
            identity,
            settings,
            disk,
            on_event,
            state: Mutex::new(state),
            changed: Condvar::new(),
            claims_itself: simulation::world().is_some(),
        }
    }

    /// Bytes that are claimed and not spoken for, as far as they can be promised.
    pub(super) fn free(&self) -> u64 {
        self.free_in(&lock(&self.state)) / 2
    }

    fn free_in(&self, state: &State) -> u64 {
        state
            .extent
            .ahead()
            .saturating_sub(state.taken())
            .saturating_sub(self.reserve())
    }

    /// What admission leaves for entries that nobody asks room for, such as an epoch's start: a server with a
    /// full disk must still start.
    fn reserve(&self) -> u64 {
        LOG_RESERVE_BYTES.min(self.settings.segment_bytes / 8)
    }

    pub(super) fn admit(self: &Arc<Self>, bytes: u64) -> Result<Admission, NoRoom> {
        let charge = charge_of(bytes);
        let mut state = lock(&self.state);
        let free = self.free_in(&state);
        if charge <= free {
            state.spoken = state.spoken.saturating_add(charge);
            // On a full disk, look whether it still is before the last of the room is gone.
            if state.failure.is_some() && free < LOG_CLAIM_BYTES {
                state.attempt = true;
                self.call_claimer(state);
            }
            let room = Arc::clone(self);
            return Ok(Admission { room, charge });
        }
        if let Some(free_bytes) = state.full_with.take() {
            return Err(NoRoom::DiskFull {
                free_bytes,
                keep_free_bytes: self.settings.keep_free_bytes,
            });
        }
        let needed = state
            .taken()
            .saturating_add(charge)
            .saturating_add(self.reserve());
        state.wanted = state.wanted.max(needed);
        state.is_awaited = true;
        state.attempt = true;
        self.call_claimer(state);
        Err(NoRoom::Soon)
    }

    /// Counts entries that were handed to the writer.
    pub(super) fn enqueue(&self, charge: u64) {
        let mut state = lock(&self.state);
        state.queued = state.queued.saturating_add(charge);
    }

    /// The writer wrote up to `position` of the current segment what was charged `charge`.
    pub(super) fn written(&self, position: u64, charge: u64) {
        self.release(|state| {
            assert!(
                position <= state.extent.current.to,
                "only claimed space is written"
            );
            state.extent.position = position;
            state.queued = state.queued.saturating_sub(charge);
        });
    }

    /// Changes what is taken, and wakes whom that concerns.
    fn release(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let tell = std::mem::take(&mut state.is_awaited);
        if state.failure.is_none() && self.next_claim(&state).is_some() {
            self.call_claimer(state);
        } else {
            drop(state);
        }
        if tell {
            (self.on_event)(LogEvent::RoomChanged);
        }
    }

    /// Has the claimer look at what it should claim.
    fn call_claimer(&self, state: MutexGuard<'_, State>) {
        self.changed.notify_all();
        if self.claims_itself {
            drop(self.claim_all(state));
        }
    }

    /// Waits until something changed, or changes it.
    fn await_change<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if self.claims_itself {
            return self.claim_all(state);
        }
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the current segment is claimed up to `to`. For the writer, which normally finds it so.
    pub(super) fn await_claim(&self, to: u64) {
        drop(self.wait(|extent| extent.current.to >= to));
    }

    /// Waits for a spare segment and makes it the current one, to be written from its beginning.
    pub(super) fn rotate(&self) -> Arc<SegmentFile> {
        let mut state = self.wait(|extent| extent.spare.is_some());
        if let Some(spare) = state.extent.spare.take() {
            state.extent.current = spare;
            state.extent.position = 0;
        }
        let file = Arc::clone(&state.extent.current.file);
        self.call_claimer(state);
        file
    }

    fn wait(&self, is_done: impl Fn(&Extent) -> bool) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while !is_done(&state.extent) {
            if !state.is_urgent {
                state.is_urgent = true;
                state.attempt = true;
            } else if let Some(free) = state.failure
                && !state.attempt
                && !state.is_busy
            {
                self.end_full(free);
            }
            state.wanted = state.wanted.max(state.extent.ahead().saturating_add(1));
            self.changed.notify_all();
            state = self.await_change(state);
        }
        state.is_urgent = false;
        state
    }

    /// Entries that nobody asked room for met a full disk: they cannot be refused any more.
    fn end_full(&self, free: u64) -> ! {
        fatal::io(&Report {
            what: &format_args!("the disk is full: {free} bytes are free, and the log must grow"),
            place: &self.directory.display(),
            safe: "every acknowledged event is on disk",
            next: "free some space and start the server again",
        })
    }

    /// Keeps the claimer off the files while `change` is at work on them, then takes over what it returns.
    pub(super) fn replace(&self, change: impl FnOnce(Option<Claimed>) -> Extent) {
        let mut state = lock(&self.state);
        state.is_paused = true;
        while state.is_busy {
            state = self.await_change(state);
        }
        let spare = state.extent.spare.take();
        drop(state);
        let extent = change(spare);
        let mut state = lock(&self.state);
        state.extent = extent;
        state.is_paused = false;
        self.call_claimer(state);
    }

    /// Lets the claimer end.
    fn close(&self) {
        lock(&self.state).is_closing = true;
        self.changed.notify_all();
    }

    /// What should be claimed, as things are; `None` when enough is.
    fn next_claim(&self, state: &State) -> Option<Claim> {
        let Extent {
            current,
            position,
            spare,
        } = &state.extent;
        let segment_bytes = self.settings.segment_bytes;
        let full_segments = u64::from(current.file.number.saturating_sub(1));
        let log_bytes = full_segments
            .saturating_mul(segment_bytes)
            .saturating_add(*position);
        let target = log_bytes
            .saturating_mul(2)
            .min(segment_bytes)
            .max(self.settings.ahead_bytes)
            .max(state.wanted);
        if state.extent.ahead() >= target {
            return None;
        }
        let extend = |claimed: &Claimed| (claimed.to < segment_bytes).then(|| Claim::Extend(claimed.clone()));
        extend(current).or_else(|| match spare {
            None => Some(Claim::CreateSpare(current.file.number.saturating_add(1))),
            Some(spare) => extend(spare),
        })
    }

    /// The claimer's thread.
    fn run_claimer(&self) {
        let mut state = lock(&self.state);
        loop {
            state = self.claim_all(state);
            if state.is_closing {
                return;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Claims one piece after the other, until there is enough, or no more can be had.
    fn claim_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.is_closing {
            let may_try = !state.is_paused && (state.failure.is_none() || state.attempt);
            let claim = self.next_claim(&state).filter(|_| may_try);
            state.attempt = false;
            let Some(claim) = claim else { break };
            state.is_busy = true;
            let is_urgent = state.is_urgent;
            drop(state);
            let outcome = self.perform(claim, is_urgent);
            state = lock(&self.state);
            state.is_busy = false;
            Self::take_in(&mut state, outcome);
            let tell = std::mem::take(&mut state.is_awaited);
            self.changed.notify_all();
            if tell {
                drop(state);
                (self.on_event)(LogEvent::RoomChanged);
                state = lock(&self.state);
            }
        }
        state
    }

    fn take_in(state: &mut State, outcome: Result<Claimed, u64>) {
        match outcome {
            Err(free) => {
                state.failure = Some(free);
                state.full_with = state.is_awaited.then_some(free);
            }
            Ok(claimed) => {
                state.failure = None;
                state.full_with = None;
                // The writer may have taken the spare one over meanwhile.
                if claimed.file.number == state.extent.current.file.number {
                    state.extent.current.to = claimed.to;
                } else {
                    state.extent.spare = Some(claimed);
                }
            }
        }
        if state.extent.ahead() >= state.wanted {
            state.wanted = 0;
        }
    }

    /// Makes the spare file or claims one piece; `Err` has what is free on a disk that is too full for it.
    fn perform(&self, claim: Claim, is_urgent: bool) -> Result<Claimed, u64> {
        let free = self.disk.free_bytes(&self.directory);
        let free = free.unwrap_or_else(|error| Self::end(&self.directory, &error));
        let kept = if is_urgent {
            0
        } else {
            self.settings.keep_free_bytes
        };
        if free
            < LOG_CLAIM_BYTES
                .min(self.settings.segment_bytes)
                .saturating_add(kept)
        {
            return Err(free);
        }
        match claim {
            Claim::CreateSpare(number) => {
                let made = SegmentFile::create(&self.directory, self.identity, number, LogIndex::ZERO);
                match made {
                    Ok(file) => Ok(Claimed {
                        file: Arc::new(file),
                        to: SEGMENT_HEAD,
                    }),
                    Err(error) if is_full(&error) => Err(free),
                    Err(error) => Self::end(&self.directory, &error),
                }
            }
            Claim::Extend(Claimed { file, to: from }) => {
                let to = from
                    .saturating_add(LOG_CLAIM_BYTES)
                    .min(self.settings.segment_bytes);
                match self.disk.claim(&file, from, to) {
                    Ok(()) => Ok(Claimed { file, to }),
                    // What a failed attempt has claimed is better given back to a full disk.
                    Err(error) if is_full(&error) => match file.shorten(from) {
                        Ok(()) => Err(free),
                        Err(error) => Self::end(&file.path, &error),
                    },
                    Err(error) => Self::end(&file.path, &error),
                }
            }
        }
    }

    /// A disk that fails to write zeros will fail to write events.
    fn end(path: &Path, error: &io::Error) -> ! {
        fatal::io(&Report {
            what: &format_args!("claiming disk for the log failed: {error}"),
            place: &path.display(),
            safe: "every acknowledged event is on disk",
            next: "check the disk, then start the server again",
        })
    }
}

/// The thread that claims, until it is dropped.
#[derive(Debug)]
pub(super) struct Claimer {
    room: Arc<Room>,
    /// None in a simulation.
    thread: Option<JoinHandle<()>>,
}

impl Claimer {
    pub(super) fn start(room: &Arc<Room>) -> io::Result<Self> {
        let claiming = (!room.claims_itself).then(|| Arc::clone(room));
        let start = |room: Arc<Room>| workers::start("log-claimer".to_owned(), move || room.run_claimer());
        Ok(Self {
            room: Arc::clone(room),
            thread: claiming.map(start).transpose()?,
        })
    }
}

impl Drop for Claimer {
    fn drop(&mut self) {
        self.room.close();
        // A panic was reported where it happened.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
