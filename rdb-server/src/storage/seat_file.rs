//! What must survive besides the entries: the promise, how far the log was durable and committed, and a truncation
//! that is under way (DESIGN 6.1).
//!
//! Two slots, each written in place and synced. A promise or a truncation is written to **both**, one after the
//! other, so that afterwards either alone can be lost; a mere mark is written to the older one only. On open the
//! slot with the higher counter counts; one that is damaged is written anew.
//!
//! ```text
//! slot     0  8  magic "RDBSEAT" and a zero
//! (at 0    8  4  format version
//! and at  12  4  group of the seat
//! 4096)   16 16  database id
//!         32  4  side of the seat, 0 or 1
//!         36  4  number of the highest membership seen when the epoch was promised; 0 when none was
//!         40  8  counter, from 1; one more with every change
//!         48 16  promised epoch: number, node
//!         64  8  durable: entries up to this one were on stable storage
//!         72  8  commit, never above durable
//!         80  8  truncated from: entries from this one on are being removed; 0 when none are
//!         88 16  lost: the epoch that was promised when a part of the log was lost; 0 when all is there
//!        104 20  zeros
//!        124  4  CRC-32C of bytes 0 to 124
//! ```
//! All numbers are little endian. The check keeps its place, so that a slot of a later format is known as one. Format 1
//! had no `lost`, and its check at 88; it is read, and written as format 2.

use super::error::{Damage, StorageError};
use super::files::{read_onto, sync_directory};
use bytes::{Buf, BufMut};
use rdb_proto::types::{Epoch, LogIndex, NodeId, SeatId};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FORMAT_VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"RDBSEAT\0";
const SLOT_BYTES: usize = 128;
const CHECKED_BYTES: usize = 124;
const CHECKED_BYTES_1: usize = 88;

/// Far enough apart that no disk writes both in one sector.
const SLOT_DISTANCE: u64 = 4096;

/// The counter after both slots were written for the first time.
const CREATED_COUNTER: u64 = 2;

/// What a seat's member keeps besides its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SeatState {
    /// Highest epoch promised. Invariant: never goes back.
    pub(super) promised: Epoch,
    /// Number of the highest membership that was seen then. Invariant: never goes back.
    pub(super) config: u32,
    /// Entries up to this one were on stable storage. Goes back only with a truncation.
    pub(super) durable: LogIndex,
    /// Entries up to this one were committed. Invariant: never goes back, never above `durable`.
    pub(super) commit: LogIndex,
    /// Entries from this one on are being removed.
    pub(super) truncated_from: Option<LogIndex>,
    /// The epoch that was promised when it was found that entries were lost, until they are there again.
    pub(super) lost: Option<Epoch>,
}

/// Which slots a change is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Both: either copy alone may be lost afterwards.
    Both,
    /// The older one: losing it afterwards loses this change only.
    One,
}

#[derive(Debug)]
pub(super) struct SeatFile {
    path: PathBuf,
    file: File,
    database: Uuid,
    seat: SeatId,
    counter: u64,
    state: SeatState,
}

impl SeatFile {
    /// Whether a seat directory has one.
    pub(super) fn path_in(directory: &Path) -> PathBuf {
        directory.join("seat")
    }

    /// Makes the file, durable with its name, both slots written.
    pub(super) fn create(directory: &Path, database: Uuid, seat: SeatId) -> Result<Self, StorageError> {
        let path = Self::path_in(directory);
        let fresh = path.with_extension("new");
        let open = || {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&fresh)
        };
        let mut seat_file = Self {
            file: open().map_err(StorageError::io("create", &fresh))?,
            path: path.clone(),
            database,
            seat,
            counter: 0,
            state: SeatState::default(),
        };
        // Both slots stand before the name does: a file without a valid slot is damage and nothing else.
        let write = seat_file.write(SeatState::default(), Care::Both);
        write.map_err(StorageError::io("write", &path))?;
        std::fs::rename(&fresh, &path).map_err(StorageError::io("create", &path))?;
        sync_directory(directory)?;
        Ok(seat_file)
    }

    /// Opens the file. A slot that is damaged is not repaired before the first [`SeatFile::write`].
    pub(super) fn open(directory: &Path, database: Uuid, seat: SeatId) -> Result<Self, StorageError> {
        let path = Self::path_in(directory);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(StorageError::io("open", &path))?;
        let mut newest: Option<(u64, SeatState)> = None;
        for offset in [0, SLOT_DISTANCE] {
            let mut slot = Vec::new();
            read_onto(&file, &mut slot, offset, SLOT_BYTES).map_err(StorageError::io("read", &path))?;
            let Some(found) = decode(&slot) else { continue };
            let slot = found.belonging_to(&path, database, seat)?;
            if newest.is_none_or(|(counter, _)| counter < slot.0) {
                newest = Some(slot);
            }
        }
        let Some((counter, state)) = newest else {
            return Err(StorageError::Damaged {
                file: path,
                offset: 0,
                damage: Damage::SeatFile,
            });
        };
        Ok(Self {
            path,
            file,
            database,
            seat,
            counter,
            state,
        })
    }

    /// What was written last.
    pub(super) const fn state(&self) -> SeatState {
        self.state
    }

    /// Whether nothing was written since it was made: the log was never open yet.
    pub(super) const fn is_fresh(&self) -> bool {
        self.counter <= CREATED_COUNTER
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a change, durably.
    ///
    /// # Panics
    /// When the promise, the membership's number or the commit would go back, or the commit pass the durable mark.
    pub(super) fn write(&mut self, state: SeatState, care: Care) -> io::Result<()> {
        assert!(
            state.promised >= self.state.promised,
            "6.4: a promise never goes back"
        );
        assert!(
            state.config >= self.state.config,
            "6.3.8: the membership that was seen never goes back"
        );
        assert!(
            state.commit >= self.state.commit,
            "6.4: the commit never goes back"
        );
        assert!(state.commit <= state.durable, "the noted commit is durable");
        self.write_older(state)?;
        if care == Care::Both {
            self.write_older(state)?;
        }
        Ok(())
    }

    /// Notes that the log ends here, since what followed was lost, and is committed no further: the only time that the
    /// commit goes back.
    pub(super) fn end_at(&mut self, last: LogIndex) -> io::Result<()> {
        let state = SeatState {
            durable: last,
            commit: self.state.commit.min(last),
            truncated_from: None,
            lost: Some(self.state.promised),
            ..self.state
        };
        self.write_older(state)?;
        self.write_older(state)
    }

    /// The slot of an even counter is at 0, that of an odd one behind it: the older one is overwritten.
    fn write_older(&mut self, state: SeatState) -> io::Result<()> {
        let counter = self.counter.saturating_add(1);
        let slot = self.encode(counter, &state);
        let offset = if counter.is_multiple_of(2) {
            0
        } else {
            SLOT_DISTANCE
        };
        self.file.write_all_at(&slot, offset)?;
        // The first write gives the file its final length, so that later ones change no metadata.
        self.file.sync_data()?;
        self.counter = counter;
        self.state = state;
        Ok(())
    }

    fn encode(&self, counter: u64, state: &SeatState) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let mut out = &mut slot[..];
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(self.seat.group.0);
        out.put_slice(self.database.as_bytes());
        out.put_u32_le(self.seat.side.number());
        out.put_u32_le(state.config);
        out.put_u64_le(counter);
        put_epoch(&mut out, state.promised);
        out.put_u64_le(state.durable.get());
        out.put_u64_le(state.commit.get());
        out.put_u64_le(state.truncated_from.map_or(0, LogIndex::get));
        put_epoch(&mut out, state.lost.unwrap_or_default());
        let (checked, mut check) = slot.split_at_mut(CHECKED_BYTES);
        check.put_u32_le(crc32c::crc32c(checked));
        slot
    }
}

/// A slot whose check passed.
struct Slot {
    version: u32,
    database: Uuid,
    seat: (u32, u32),
    counter: u64,
    state: SeatState,
}

impl Slot {
    /// Its counter and state, when it is of this release, database and seat.
    fn belonging_to(
        self,
        path: &Path,
        database: Uuid,
        seat: SeatId,
    ) -> Result<(u64, SeatState), StorageError> {
        let file = path.to_owned();
        if self.version > FORMAT_VERSION {
            return Err(StorageError::FormatTooNew {
                file,
                found: self.version,
                supported: FORMAT_VERSION,
            });
        }
        if self.database != database {
            return Err(StorageError::WrongDatabase {
                file,
                expected: database,
                found: self.database,
            });
        }
        let (group, side) = self.seat;
        if (group, side) != (seat.group.0, seat.side.number()) {
            return Err(StorageError::WrongSeat {
                file,
                expected: seat,
                found: format!("{group}.{side}"),
            });
        }
        Ok((self.counter, self.state))
    }
}

fn decode(slot: &[u8]) -> Option<Slot> {
    let version = slot.get(MAGIC.len()..)?.first_chunk().copied();
    let checked_bytes = match u32::from_le_bytes(version?) {
        1 => CHECKED_BYTES_1,
        _ => CHECKED_BYTES,
    };
    let (checked, check) = slot.split_at_checked(checked_bytes)?;
    let check = check.first_chunk().copied();
    if u32::from_le_bytes(check?) != crc32c::crc32c(checked) || !checked.starts_with(&MAGIC) {
        return None;
    }
    let mut fields = checked;
    fields.advance(MAGIC.len());
    let version = fields.get_u32_le();
    let group = fields.get_u32_le();
    let database = Uuid::from_u128(fields.get_u128());
    let side = fields.get_u32_le();
    let config = fields.get_u32_le();
    Some(Slot {
        version,
        database,
        seat: (group, side),
        counter: fields.get_u64_le(),
        state: SeatState {
            config,
            promised: take_epoch(&mut fields),
            durable: LogIndex(fields.get_u64_le()),
            commit: LogIndex(fields.get_u64_le()),
            truncated_from: Some(LogIndex(fields.get_u64_le())).filter(|index| *index != LogIndex::ZERO),
            // Who had promised nothing had acknowledged nothing.
            lost: (version > 1)
                .then(|| take_epoch(&mut fields))
                .filter(|epoch| *epoch != Epoch::ZERO),
        },
    })
}

fn put_epoch(out: &mut impl BufMut, epoch: Epoch) {
    out.put_u64_le(epoch.number);
    out.put_u64_le(epoch.node.0);
}

fn take_epoch(fields: &mut impl Buf) -> Epoch {
    Epoch {
        number: fields.get_u64_le(),
        node: NodeId(fields.get_u64_le()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::test_entries::scratch;
    use rdb_proto::types::{GroupId, Side};

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::One,
    };
    const DATABASE: Uuid = Uuid::from_u128(9);

    fn state(number: u64) -> SeatState {
        SeatState {
            promised: Epoch {
                number,
                node: NodeId(7),
            },
            durable: LogIndex(number * 10),
            config: u32::try_from(number).unwrap(),
            commit: LogIndex(number * 10 - 1),
            truncated_from: None,
            lost: None,
        }
    }

    fn open(directory: &Path) -> Result<SeatFile, StorageError> {
        SeatFile::open(directory, DATABASE, SEAT)
    }

    #[test]
    fn the_newest_state_is_read_back() {
        let directory = scratch();
        let mut file = SeatFile::create(directory.path(), DATABASE, SEAT).unwrap();
        assert_eq!(open(directory.path()).unwrap().state(), SeatState::default());
        for number in 1..6 {
            let care = if number % 2 == 0 { Care::Both } else { Care::One };
            file.write(state(number), care).unwrap();
            assert_eq!(open(directory.path()).unwrap().state(), state(number));
        }
    }

    /// Red when a promise is written to one slot only: the loss of that slot would bring an older promise back.
    #[test]
    fn a_promise_outlives_the_loss_of_either_slot() {
        for lost in [0, SLOT_DISTANCE] {
            for marks in 0..3 {
                let directory = scratch();
                let mut file = SeatFile::create(directory.path(), DATABASE, SEAT).unwrap();
                file.write(state(1), Care::Both).unwrap();
                for mark in 0..marks {
                    let noted = SeatState {
                        durable: LogIndex(100 + mark),
                        ..state(1)
                    };
                    file.write(noted, Care::One).unwrap();
                }
                file.file.write_all_at(&[0xff; 64], lost).unwrap();
                let found = open(directory.path()).unwrap().state();
                assert_eq!(
                    found.promised,
                    state(1).promised,
                    "lost {lost} after {marks} marks"
                );
            }
        }
    }

    #[test]
    fn a_flipped_bit_or_a_cut_anywhere_gives_the_older_state_or_the_newer_or_an_error() {
        let directory = scratch();
        let mut file = SeatFile::create(directory.path(), DATABASE, SEAT).unwrap();
        file.write(state(1), Care::Both).unwrap();
        file.write(state(2), Care::One).unwrap();
        let path = SeatFile::path_in(directory.path());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), usize::try_from(SLOT_DISTANCE).unwrap() + SLOT_BYTES);
        let second = usize::try_from(SLOT_DISTANCE).unwrap() * 8;
        for bit in (0..SLOT_BYTES * 8).chain(second..second + SLOT_BYTES * 8) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            let found = open(directory.path()).unwrap().state();
            assert!(found == state(1) || found == state(2), "bit {bit}: {found:?}");
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            match open(directory.path()) {
                Ok(file) => assert!([state(1), state(2)].contains(&file.state()), "length {length}"),
                Err(StorageError::Damaged { offset: 0, .. }) => assert!(length < SLOT_BYTES),
                Err(other) => panic!("length {length}: {other}"),
            }
        }
    }

    /// A new format is a new folder beside the old ones. That of format 1 is read with its log.
    #[test]
    fn the_golden_seat_file_of_format_2_is_read_and_written() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/2/seat");
        let state = SeatState {
            truncated_from: Some(LogIndex(25)),
            lost: Some(Epoch {
                number: 2,
                node: NodeId(9),
            }),
            ..state(3)
        };
        assert_eq!(open(&golden).unwrap().state(), state);
        let written = scratch();
        let mut file = SeatFile::create(written.path(), DATABASE, SEAT).unwrap();
        file.write(state, Care::Both).unwrap();
        let bytes = |directory: &Path| std::fs::read(SeatFile::path_in(directory)).unwrap();
        assert!(
            bytes(&golden) == bytes(written.path()),
            "it is written differently now"
        );
    }

    #[test]
    fn files_of_other_databases_seats_and_releases_are_refused() {
        let directory = scratch();
        drop(SeatFile::create(directory.path(), DATABASE, SEAT).unwrap());
        let other = SeatFile::open(directory.path(), Uuid::from_u128(8), SEAT).unwrap_err();
        assert!(matches!(other, StorageError::WrongDatabase { .. }), "{other}");
        let seat = SeatId {
            side: Side::Zero,
            ..SEAT
        };
        let other = SeatFile::open(directory.path(), DATABASE, seat).unwrap_err();
        assert!(matches!(other, StorageError::WrongSeat { .. }), "{other}");

        let path = SeatFile::path_in(directory.path());
        let mut bytes = std::fs::read(&path).unwrap();
        for slot in [0, usize::try_from(SLOT_DISTANCE).unwrap()] {
            bytes[slot + 8] = 3;
            let crc = crc32c::crc32c(&bytes[slot..slot + CHECKED_BYTES]);
            bytes[slot + CHECKED_BYTES..slot + SLOT_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        std::fs::write(&path, bytes).unwrap();
        let newer = open(directory.path()).unwrap_err();
        assert!(
            matches!(newer, StorageError::FormatTooNew { found: 3, .. }),
            "{newer}"
        );
    }
}
