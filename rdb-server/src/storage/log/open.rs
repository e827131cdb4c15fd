//! Opening a log: every frame is checked, a torn tail is cut, damage is never cut (DESIGN 8).
//!
//! What is not whole is a torn tail only where nothing can have been acknowledged: above everything that is known
//! to have been on stable storage. That is known from the seat file's marks, and from the note in each frame of
//! how far the log was durable when it was written. Notes count also in frames *behind* the first bad place, so
//! the rest of the files is searched for them, through what looks like a clean end in zeroed space.
//!
//! ```text
//!          walked              stop    searched
//! |head|frame|frame|frame|frame|?????|frame durable=4|.........zeros|
//!                               │           └ 4 entries were durable; the 5th was not: torn, cut
//!                               └ entry 5   └ durable=5 would mean: damaged
//! ```
//!
//! Nothing is changed before it is decided that nothing is damaged, or that what is can be had again from other members:
//! then the log ends before the damage, and knows that it lacks something ([`super::loss`]). Then the rest behind the
//! stop is zeroed and synced, so that no frame of it can be taken for a later one, and everything that is left is
//! synced: it may have been in memory only, and from now on it counts as durable.

use super::frame::{self, Found, FrameHead, HeadProblem, Seed, SegmentHead};
use super::loss;
use super::segment::{Identity, Point, SEGMENT_HEAD, Segment, SegmentFile, Tail, numbers_in, path_of};
use super::{Opened, reader};
use crate::limits::{FRAME_BYTES_MAX, LOG_STRAY_BYTES_MAX};
use crate::sabotage::{self, Sabotage};
use crate::storage::StorageError;
use crate::storage::error::Damage;
use crate::storage::files::{as_u64, as_usize, is_zero, make_directory};
use crate::storage::seat_file::{Care, SeatFile, SeatState};
use rdb_proto::entry::{EntryBody, EntryKind};
use rdb_proto::types::{Epoch, LogIndex, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that the walk reads at once.
const WALK_BYTES: usize = 1 << 20;

/// Frames whose places are taken in at once.
const WALK_FRAMES: usize = 4_096;

/// A log that is whole, ready to be written on.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Segments in use, ascending; at least one.
    pub(super) segments: Vec<Arc<Segment>>,
    /// An empty segment behind them.
    pub(super) spare: Option<Arc<SegmentFile>>,
    pub(super) tail: Tail,
    pub(super) seat_file: SeatFile,
    pub(super) opened: Opened,
}

/// Opens the log in `directory`, or makes an empty one.
///
/// `is_replicated`: what is lost can be had again from other members.
pub(super) fn recover(
    directory: &Path,
    identity: Identity,
    is_replicated: bool,
) -> Result<Recovered, StorageError> {
    make_directory(directory)?;
    let numbers = numbers_in(directory)?;
    let mut seat_file = open_seat_file(directory, identity, &numbers)?;
    let state = seat_file.state();
    let mut walk = Walk::new(directory, identity, state.truncated_from);
    walk.run(&numbers, seat_file.is_fresh())?;
    let strays = walk.strays()?;
    let durable = known_durable(&walk, strays, state);
    // A log that was open once has its first segment, whose head is never written again.
    let lost_its_beginning = walk.segments.is_empty() && !seat_file.is_fresh();
    let is_damaged =
        durable > walk.tail.index || lost_its_beginning || walk.is_cut_short() || walk.has_hole();
    if is_damaged && !sabotage::is(Sabotage::DamageCut) {
        let damage = walk.damaged(durable);
        if !is_replicated {
            return Err(damage);
        }
        let ended = seat_file.end_at(walk.tail.index);
        ended.map_err(StorageError::io("write", seat_file.path()))?;
        walk.damage = Some(match loss::put_aside(&mut walk)? {
            None => damage.to_string(),
            Some(error) => format!("{damage}; what is left of it could not be kept: {error}"),
        });
    }
    if seat_file.state().lost.is_some() && !is_replicated {
        return Err(StorageError::Damaged {
            file: seat_file.path().to_owned(),
            offset: 0,
            damage: Damage::Lost {
                last: walk.tail.index,
            },
        });
    }
    walk.finish(seat_file)
}

/// Entries up to this one were on stable storage, by all that is known.
///
/// While a truncation is under way, what stood above it proves nothing: it is being removed. Only what is committed is
/// never removed (6.3.2): a seat file that says so is damaged, whatever its check says.
fn known_durable(walk: &Walk, strays: LogIndex, state: SeatState) -> LogIndex {
    match state.truncated_from {
        Some(from) => from.previous().max(state.commit),
        None => state.durable.max(state.commit).max(walk.noted).max(strays),
    }
}

/// The seat file stands before the first segment is made, so a segment without one is damage.
fn open_seat_file(directory: &Path, identity: Identity, numbers: &[u32]) -> Result<SeatFile, StorageError> {
    let path = SeatFile::path_in(directory);
    if path.exists() {
        SeatFile::open(directory, identity.database, identity.seat)
    } else if numbers.is_empty() {
        SeatFile::create(directory, identity.database, identity.seat)
    } else {
        Err(StorageError::Damaged {
            file: path,
            offset: 0,
            damage: Damage::SeatFile,
        })
    }
}

/// Why the walk through a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Zeros: the end, if nothing was lost.
    Clean,
    /// Bytes that are no frame.
    Bad,
    /// A frame that the file ends in. Never a torn write: disk is claimed, durably, before a frame is written there.
    CutShort,
    /// An entry that is being removed.
    Truncated,
}

/// A segment's file that does not go on where the log ends.
#[derive(Debug)]
enum Later {
    Missing(PathBuf),
    Found {
        file: SegmentFile,
        /// `None` when its head is damaged.
        head: Option<(SegmentHead, Seed)>,
    },
}

#[derive(Debug)]
pub(super) struct Walk<'a> {
    directory: &'a Path,
    identity: Identity,
    /// Entries from this one on are being removed.
    until: Option<LogIndex>,
    tail: Tail,
    /// Highest durable note in a frame that was walked.
    noted: LogIndex,
    epochs: Vec<(LogIndex, Epoch)>,
    /// The last frame that has events, by its segment's place in `segments`.
    last_events: Option<(usize, u64, FrameHead)>,
    segments: Vec<Segment>,
    /// Where and why the walk through the last of `segments` ended.
    stop: (u64, End),
    later: Vec<Later>,
    /// The damage that was found, in words.
    damage: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(directory: &'a Path, identity: Identity, until: Option<LogIndex>) -> Self {
        Self {
            directory,
            identity,
            until,
            tail: Tail::default(),
            noted: LogIndex::ZERO,
            epochs: Vec::new(),
            last_events: None,
            segments: Vec::new(),
            stop: (SEGMENT_HEAD, End::Clean),
            later: Vec::new(),
            damage: None,
        }
    }

    /// Walks all segments as far as they go on from each other.
    fn run(&mut self, numbers: &[u32], is_fresh: bool) -> Result<(), StorageError> {
        let last = numbers.last().copied().unwrap_or_else(|| u32::from(!is_fresh));
        for number in 1..=last {
            if !numbers.contains(&number) {
                self.later.push(Later::Missing(path_of(self.directory, number)));
                continue;
            }
            let file = SegmentFile::open(self.directory, number)?;
            let head = self.read_head(&file)?;
            match head {
                Some((head, seed)) if self.goes_on_at(head.first) => {
                    self.segments.push(Segment::new(Arc::new(file), seed, self.tail));
                    self.stop = self.walk_last()?;
                }
                other => self.later.push(Later::Found { file, head: other }),
            }
        }
        Ok(())
    }

    fn goes_on_at(&self, first: LogIndex) -> bool {
        self.later.is_empty() && self.stop.1 != End::Truncated && first == self.tail.index.next()
    }

    /// A segment's name is durable before the segment is used and before the next one is made, so one that is
    /// missing in between was taken away. Only a truncation that was cut short leaves such a hole.
    fn has_hole(&self) -> bool {
        let is_missing = |later: &Later| matches!(later, Later::Missing(_));
        self.until.is_none() && self.later.iter().any(is_missing)
    }

    pub(super) const fn directory(&self) -> &Path {
        self.directory
    }

    /// Takes the last of the segments out that do not go on where the log ends.
    pub(super) fn pop_later(&mut self) -> Option<SegmentFile> {
        while let Some(later) = self.later.pop() {
            if let Later::Found { file, .. } = later {
                return Some(file);
            }
        }
        None
    }

    /// The segment in which the walk ended, and where.
    pub(super) fn last_segment(&self) -> Option<(&SegmentFile, u64)> {
        self.segments.last().map(|segment| (&*segment.file, self.stop.0))
    }

    /// Reads a head; `None` when it is damaged.
    fn read_head(&self, file: &SegmentFile) -> Result<Option<(SegmentHead, Seed)>, StorageError> {
        let Some(bytes) = file.head()? else {
            return Ok(None);
        };
        let Identity { database, seat } = self.identity;
        let path = file.path.clone();
        match SegmentHead::decode(&bytes, database, seat, file.number) {
            Ok(head) => Ok(Some(head)),
            Err(HeadProblem::Damaged) => Ok(None),
            Err(HeadProblem::TooNew(found)) => Err(StorageError::FormatTooNew {
                file: path,
                found,
                supported: frame::FORMAT_VERSION,
            }),
            Err(HeadProblem::Database(found)) => Err(StorageError::WrongDatabase {
                file: path,
                expected: database,
                found,
            }),
            Err(HeadProblem::Seat(found)) => Err(StorageError::WrongSeat {
                file: path,
                expected: seat,
                found,
            }),
        }
    }

    /// Walks the frames of the last of `segments`.
    fn walk_last(&mut self) -> Result<(u64, End), StorageError> {
        let position = self.segments.len().saturating_sub(1);
        let Some(segment) = self.segments.last() else {
            return Ok(self.stop);
        };
        let mut window = Window::new(&segment.file)?;
        let mut frames = Vec::new();
        let mut offset = SEGMENT_HEAD;
        let end = loop {
            let head = match window.look(segment.seed, offset, self.tail.index.next())? {
                Found::Frame(head) if self.tail.admits(&head) => head,
                Found::Zero => break End::Clean,
                Found::Short(_) => break End::CutShort,
                Found::Frame(_) | Found::Bad { .. } => break End::Bad,
            };
            if self.until == Some(head.index) {
                break End::Truncated;
            }
            if let Err(unknown) = EntryKind::from_number(head.kind) {
                return Err(reader::bad_body(
                    &segment.file,
                    offset,
                    head.index,
                    unknown.to_string(),
                ));
            }
            if self.tail.epoch != head.epoch {
                self.epochs.push((head.index, head.epoch));
            }
            if head.events > 0 {
                self.last_events = Some((position, offset, head));
            }
            self.noted = self.noted.max(head.durable);
            let before = self.tail;
            frames.push((Point { offset, before }, head));
            if frames.len() >= WALK_FRAMES {
                segment.note(&frames);
                frames.clear();
            }
            self.tail = self.tail.followed_by(&head);
            offset = offset.saturating_add(head.size());
        };
        segment.note(&frames);
        Ok((offset, end))
    }

    /// Highest durable note in any frame behind the stop.
    fn strays(&self) -> Result<LogIndex, StorageError> {
        let mut budget = LOG_STRAY_BYTES_MAX;
        let expected = self.tail.index.next();
        let mut highest = LogIndex::ZERO;
        if let Some(segment) = self.segments.last() {
            highest = strays_in(&segment.file, segment.seed, self.stop.0, expected, &mut budget)?;
        }
        for later in &self.later {
            let Later::Found { file, head } = later else {
                continue;
            };
            let seed = match head {
                Some((head, seed)) if head.first != LogIndex::ZERO => *seed,
                // The write that took the segment into use may be what was lost of it.
                Some(_) | None => self.identity.head(file.number, expected).encode().1,
            };
            highest = highest.max(strays_in(file, seed, SEGMENT_HEAD, expected, &mut budget)?);
        }
        Ok(highest)
    }

    const fn is_cut_short(&self) -> bool {
        matches!(self.stop.1, End::CutShort) && self.until.is_none()
    }

    /// The error that names the place of the first damage.
    fn damaged(&self, durable: LogIndex) -> StorageError {
        let index = self.tail.index.next();
        let last = self.tail.index;
        let (file, offset, damage) = match (self.segments.last(), self.later.first()) {
            (Some(segment), _) if self.stop.1 == End::Bad => (
                segment.file.path.clone(),
                self.stop.0,
                Damage::Frame { index, durable },
            ),
            (Some(segment), _) if self.stop.1 == End::CutShort => {
                (segment.file.path.clone(), self.stop.0, Damage::CutShort { index })
            }
            (_, Some(Later::Found { file, head: None })) => (file.path.clone(), 0, Damage::Header),
            (_, Some(Later::Missing(path))) => (path.clone(), 0, Damage::SegmentMissing),
            (Some(segment), _) => (
                segment.file.path.clone(),
                self.stop.0,
                Damage::EndsEarly { last, durable },
            ),
            (None, _) => (path_of(self.directory, 1), 0, Damage::SegmentMissing),
        };
        StorageError::Damaged { file, offset, damage }
    }

    /// Cuts what is behind the stop, makes the rest durable and notes that it is.
    fn finish(mut self, mut seat_file: SeatFile) -> Result<Recovered, StorageError> {
        let last_time = self.last_time()?;
        let (spare, mut cut_bytes) = self.drop_later()?;
        if let Some(segment) = self.segments.last() {
            cut_bytes = cut_bytes.saturating_add(cut(&segment.file, self.stop.0)?);
        } else {
            let first = LogIndex::ZERO.next();
            let path = path_of(self.directory, 1);
            let file = SegmentFile::create(self.directory, self.identity, 1, first)
                .map_err(StorageError::io("create", &path))?;
            let (_, seed) = self.identity.head(1, first).encode();
            self.segments
                .push(Segment::new(Arc::new(file), seed, Tail::default()));
        }
        self.sync_after(seat_file.state().durable)?;
        if sabotage::is(Sabotage::DamageCut) && seat_file.state().commit > self.tail.index {
            seat_file = SeatFile::create(self.directory, self.identity.database, self.identity.seat)?;
        }
        let state = SeatState {
            durable: self.tail.index,
            truncated_from: None,
            ..seat_file.state()
        };
        let noted = seat_file.write(state, Care::Both);
        noted.map_err(StorageError::io("write", seat_file.path()))?;
        let opened = Opened {
            last_index: self.tail.index,
            last_epoch: self.tail.epoch,
            epochs: self.epochs,
            last_seq: self.tail.seq,
            last_time,
            events: self.tail.events,
            cut_bytes,
            promised: state.promised,
            config: state.config,
            durable: state.durable,
            commit: state.commit,
            lost: state.lost,
            damage: self.damage.take(),
        };
        Ok(Recovered {
            segments: self.segments.into_iter().map(Arc::new).collect(),
            spare: spare.map(Arc::new),
            tail: self.tail,
            seat_file,
            opened,
        })
    }

    /// Time of the last event.
    fn last_time(&self) -> Result<Timestamp, StorageError> {
        let Some((position, offset, head)) = self.last_events else {
            return Ok(Timestamp::ZERO);
        };
        let Some(segment) = self.segments.get(position) else {
            return Ok(Timestamp::ZERO);
        };
        let found = reader::frame_at(segment, offset, head.index)?;
        match found.frame.decode().map(|entry| entry.body) {
            Ok(EntryBody::Events(events)) => Ok(events.time),
            Ok(EntryBody::EpochStart(_) | EntryBody::Cursor(_)) => Ok(Timestamp::ZERO),
            Err(problem) => Err(reader::bad_body(
                &segment.file,
                offset,
                head.index,
                problem.to_string(),
            )),
        }
    }

    /// Removes the segments behind the stop, but for one that is empty and next. Returns it, and how many bytes
    /// were in the others.
    fn drop_later(&mut self) -> Result<(Option<SegmentFile>, u64), StorageError> {
        let next = self
            .segments
            .last()
            .map(|last| last.file.number.saturating_add(1));
        let mut spare = None;
        let mut cut_bytes: u64 = 0;
        // The last one first: whatever is left after a crash in here has no hole.
        while let Some(later) = self.later.pop() {
            let Later::Found { file, head } = later else {
                continue;
            };
            let used_to = file.last_nonzero(SEGMENT_HEAD)?;
            let is_spare = head.is_some_and(|(head, _)| head.first == LogIndex::ZERO);
            if is_spare && used_to.is_none() && next == Some(file.number) {
                spare = Some(file);
                continue;
            }
            cut_bytes =
                cut_bytes.saturating_add(used_to.unwrap_or(SEGMENT_HEAD).saturating_sub(SEGMENT_HEAD));
            file.remove()?;
        }
        Ok((spare, cut_bytes))
    }

    /// Makes every segment durable that may hold entries after `durable`: after a killed process they may be in
    /// memory only.
    fn sync_after(&self, durable: LogIndex) -> Result<(), StorageError> {
        let nexts = self.segments.iter().skip(1).map(Segment::first);
        let ends = nexts.chain([self.tail.index.next().next()]);
        for (segment, next_first) in self.segments.iter().zip(ends) {
            if next_first > durable.next() {
                let synced = segment.file.sync();
                synced.map_err(StorageError::io("sync", &segment.file.path))?;
            }
        }
        Ok(())
    }
}

/// Zeroes a file from `offset` on, durably. Returns how many bytes there were.
fn cut(file: &SegmentFile, offset: u64) -> Result<u64, StorageError> {
    let Some(end) = file.last_nonzero(offset)? else {
        return Ok(0);
    };
    file.zero(offset, end)
        .map_err(StorageError::io("cut", &file.path))?;
    Ok(end.saturating_sub(offset))
}

/// Highest durable note in any frame at or after `from`.
fn strays_in(
    file: &SegmentFile,
    seed: Seed,
    from: u64,
    expected: LogIndex,
    budget: &mut u64,
) -> Result<LogIndex, StorageError> {
    let Some(end) = file.last_nonzero(from)? else {
        return Ok(LogIndex::ZERO);
    };
    // A frame's padding may end in zeros behind the last byte that is none.
    let length = as_usize(frame::padded(end.saturating_sub(from)));
    let mut bytes = Vec::new();
    file.read_onto(
        &mut bytes,
        from,
        length.saturating_add(as_usize(u64::from(FRAME_BYTES_MAX))),
    )?;
    let mut highest = LogIndex::ZERO;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|_| at < length) {
        let offset = from.saturating_add(as_u64(at));
        let step = match look_for(rest, seed, offset, expected) {
            Found::Frame(head) => {
                highest = highest.max(head.durable);
                head.size()
            }
            Found::Bad { checked } => {
                *budget = budget.saturating_sub(u64::from(checked));
                frame::ALIGNMENT
            }
            Found::Zero | Found::Short(_) => frame::ALIGNMENT,
        };
        if *budget == 0 {
            break;
        }
        at = at.saturating_add(as_usize(step));
    }
    Ok(highest)
}

/// Looks for a frame of an entry that can stand behind a stop before `expected`. Nearly all bytes that are none
/// are told by the index alone.
fn look_for(bytes: &[u8], seed: Seed, offset: u64, expected: LogIndex) -> Found {
    let index = bytes.first_chunk().map(|head| frame::read_head(head).index);
    match index {
        Some(index) if index >= expected && u32::try_from(index.since(expected)).is_ok() => {
            frame::look(bytes, seed, offset)
        }
        Some(_) | None => Found::Bad { checked: 0 },
    }
}

/// Looks at one place after the other of a segment, reading it in big blocks.
struct Window<'a> {
    file: &'a SegmentFile,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a SegmentFile) -> Result<Self, StorageError> {
        Ok(Self {
            file,
            length: file.length()?,
            start: 0,
            bytes: Vec::with_capacity(WALK_BYTES),
        })
    }

    fn look(&mut self, seed: Seed, offset: u64, expected: LogIndex) -> Result<Found, StorageError> {
        let found = frame::look(self.from(offset), seed, offset);
        let Found::Short(needed) = found else {
            return Ok(found);
        };
        let left = as_usize(self.length.saturating_sub(offset));
        self.load(offset, needed.max(WALK_BYTES).min(left))?;
        let found = frame::look(self.from(offset), seed, offset);
        if !matches!(found, Found::Short(_)) {
            return Ok(found);
        }
        // The file ends before such a frame could.
        let rest = self.from(offset);
        let index = rest.first_chunk().map(|head| frame::read_head(head).index);
        Ok(if is_zero(rest) {
            Found::Zero
        } else if index.is_none_or(|index| index == expected) {
            found
        } else {
            Found::Bad { checked: 0 }
        })
    }

    fn from(&self, offset: u64) -> &[u8] {
        let skip = offset.checked_sub(self.start).map_or(usize::MAX, as_usize);
        self.bytes.get(skip..).unwrap_or_default()
    }

    fn load(&mut self, offset: u64, length: usize) -> Result<(), StorageError> {
        self.bytes.clear();
        self.start = offset;
        self.file.read_onto(&mut self.bytes, offset, length)
    }
}
