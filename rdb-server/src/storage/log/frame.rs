//! What a byte of a segment means: the header of a segment and the frames that follow it.
//!
//! All numbers are little endian. Never change what stands here: a new layout is a new format version.
//!
//! ```text
//! segment   0  8  magic "RDBSEGMT"
//!           8  4  format version
//!          12  4  group of the seat
//!          16 16  database id
//!          32  4  side of the seat, 0 or 1
//!          36  4  number of the segment, from 1
//!          40  8  index of its first entry; 0 as long as it is spare
//!          48 12  zero
//!          60  4  CRC-32C of bytes 0 to 60: also the seed of every frame in it
//!          64  .  frames, one right after the other; then zeros
//!
//! frame     0  4  length: head and body, without padding
//!           4  4  CRC-32C, begun with the seed and the frame's offset in the file, of bytes 0 to 4 and of
//!                 bytes 8 to the end of the padding
//!           8  8  index of the entry
//!          16  8  epoch: number
//!          24  8  epoch: node
//!          32  8  seq of its first event; 0 when it has none
//!          40  8  durable: entries up to this one were on stable storage when this frame was written
//!          48  4  number of events
//!          52  1  kind of the entry
//!          53  3  zero
//!          56  .  body, then zeros to a multiple of 8
//! ```
//!
//! Seed and offset in the check mean that a frame counts only at the very place it was written to: not one that
//! an event's payload contains, nor one that a disk put elsewhere. A frame of one entry is written whole or is not
//! there at all, and that is what makes an append atomic.

use crate::limits::FRAME_BYTES_MAX;
use crate::sabotage::{self, Sabotage};
use bytes::{Buf as _, BufMut as _};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, NodeId, SeatId, Seq};
use uuid::Uuid;

/// Version of the layout above.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEAD_BYTES: usize = 64;

/// Bytes of a frame before its body.
pub(super) const FRAME_HEAD_BYTES: usize = 56;

/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;

const MAGIC: [u8; 8] = *b"RDBSEGMT";
const HEAD_CHECKED_BYTES: usize = 60;

/// Bytes 53 to 56 of a frame.
const RESERVED: [u8; 3] = [0; 3];

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) database: Uuid,
    pub(super) seat: SeatId,
    pub(super) number: u32,
    /// Index of its first entry; zero as long as it is spare.
    pub(super) first: LogIndex,
}

/// Why bytes are not the header of a segment of this log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeadProblem {
    /// Not what was written.
    Damaged,
    /// Written by a later release.
    TooNew(u32),
    /// Of another database.
    Database(Uuid),
    /// Of another seat, written `group.side`.
    Seat(String),
}

/// What the checks of all frames of a segment begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl SegmentHead {
    /// The header's bytes, and the seed that goes with them.
    pub(super) fn encode(&self) -> ([u8; SEGMENT_HEAD_BYTES], Seed) {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        let mut out = &mut head[..];
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(self.seat.group.0);
        out.put_slice(self.database.as_bytes());
        out.put_u32_le(self.seat.side.number());
        out.put_u32_le(self.number);
        out.put_u64_le(self.first.get());
        out.put_bytes(0, 12);
        let (checked, mut check) = head.split_at_mut(HEAD_CHECKED_BYTES);
        let crc = crc32c::crc32c(checked);
        check.put_u32_le(crc);
        (head, Seed(crc))
    }

    /// Reads a header, which must be of this database, seat and segment.
    ///
    /// The check comes first: a flipped bit in the version or the seat is damage, not another file.
    pub(super) fn decode(
        head: &[u8; SEGMENT_HEAD_BYTES],
        database: Uuid,
        seat: SeatId,
        number: u32,
    ) -> Result<(Self, Seed), HeadProblem> {
        let (mut fields, seed) = checked(head)
            .filter(|(fields, _)| fields.starts_with(&MAGIC))
            .ok_or(HeadProblem::Damaged)?;
        fields.advance(MAGIC.len());
        let version = fields.get_u32_le();
        if version != FORMAT_VERSION {
            return Err(HeadProblem::TooNew(version));
        }
        let group = fields.get_u32_le();
        let found_database = Uuid::from_u128(fields.get_u128());
        let side = fields.get_u32_le();
        let found_number = fields.get_u32_le();
        let first = LogIndex(fields.get_u64_le());
        if found_database != database {
            return Err(HeadProblem::Database(found_database));
        }
        if (group, side) != (seat.group.0, seat.side.number()) {
            return Err(HeadProblem::Seat(format!("{group}.{side}")));
        }
        // A segment renamed to another's place is as good as not there.
        if found_number != number {
            return Err(HeadProblem::Damaged);
        }
        let head = Self {
            database,
            seat,
            number,
            first,
        };
        Ok((head, seed))
    }
}

impl Seed {
    /// Whether these are the header's bytes that it goes with.
    pub(super) fn is_of(self, head: &[u8; SEGMENT_HEAD_BYTES]) -> bool {
        checked(head).is_some_and(|(_, seed)| seed == self)
    }
}

/// What a header's check covers, with its seed; `None` when it does not pass.
fn checked(head: &[u8; SEGMENT_HEAD_BYTES]) -> Option<(&[u8], Seed)> {
    let (covered, mut check) = head.split_at(HEAD_CHECKED_BYTES);
    let crc = check.get_u32_le();
    (crc == crc32c::crc32c(covered)).then_some((covered, Seed(crc)))
}

/// What stands before a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Head and body, without padding.
    pub(super) length: u32,
    pub(super) index: LogIndex,
    pub(super) epoch: Epoch,
    pub(super) first_seq: Seq,
    /// Entries up to this one were on stable storage when the frame was written.
    pub(super) durable: LogIndex,
    pub(super) events: u32,
    /// Kind of the entry, possibly one that this release does not know.
    pub(super) kind: u8,
}

impl FrameHead {
    /// Bytes on disk, padding included.
    pub(super) fn size(&self) -> u64 {
        padded(u64::from(self.length))
    }

    /// Seq of its last event; zero when it has none.
    pub(super) fn last_seq(&self) -> Seq {
        self.first_seq.plus(u64::from(self.events)).previous()
    }
}

/// What stands at some place of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame whose check passed.
    Frame(FrameHead),
    /// A frame may stand here, but this many bytes are needed to tell.
    Short(usize),
    /// Zeros, as far as a length would reach: the end, if nothing was lost.
    Zero,
    /// Anything else. `checked` bytes were checked to tell.
    Bad { checked: u32 },
}

/// `length` with its padding.
pub(super) const fn padded(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

/// Bytes on disk of an entry whose body has `body_bytes`.
pub(super) fn frame_bytes(body_bytes: usize) -> u64 {
    let body = u64::try_from(body_bytes).unwrap_or(u64::MAX);
    padded(body.saturating_add(56))
}

/// Appends an entry's frame to `buffer`; it will stand at `offset` of its segment. Returns its head.
///
/// # Panics
/// When the entry is larger than [`FRAME_BYTES_MAX`].
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    seed: Seed,
    offset: u64,
    entry: &Entry,
    durable: LogIndex,
) -> FrameHead {
    let body = entry.body.encode();
    let length = u32::try_from(body.len().saturating_add(FRAME_HEAD_BYTES)).unwrap_or(u32::MAX);
    assert!(length <= FRAME_BYTES_MAX, "an entry is larger than a frame");
    assert_eq!(offset % ALIGNMENT, 0, "a frame must be aligned");
    assert!(
        durable < entry.index,
        "an entry cannot be durable before it is written"
    );
    let (first_seq, events) = match entry.seqs() {
        None => (Seq::ZERO, 0),
        Some((first, last)) => (first, last.next().since(first)),
    };
    let head = FrameHead {
        length,
        index: entry.index,
        epoch: entry.epoch,
        first_seq,
        durable,
        events: u32::try_from(events).unwrap_or(u32::MAX),
        kind: entry.body.kind().number(),
    };
    let start = buffer.len();
    buffer.put_u32_le(head.length);
    buffer.put_u32_le(0);
    buffer.put_u64_le(head.index.get());
    buffer.put_u64_le(head.epoch.number);
    buffer.put_u64_le(head.epoch.node.0);
    buffer.put_u64_le(head.first_seq.get());
    buffer.put_u64_le(head.durable.get());
    buffer.put_u32_le(head.events);
    buffer.put_u8(head.kind);
    buffer.put_slice(&RESERVED);
    buffer.put_slice(&body);
    let size = usize::try_from(head.size()).unwrap_or(usize::MAX);
    buffer.resize(start.saturating_add(size), 0);
    if let Some((_, frame)) = buffer.split_at_mut_checked(start)
        && let Some((front, checked)) = frame.split_at_mut_checked(8)
        && let Some((length, mut check)) = front.split_at_mut_checked(4)
    {
        check.put_u32_le(check_of(seed, offset, length, checked));
    }
    head
}

/// Looks at `bytes`, which stand at `offset` of their segment and may reach beyond one frame.
pub(super) fn look(bytes: &[u8], seed: Seed, offset: u64) -> Found {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else {
        return Found::Short(FRAME_HEAD_BYTES);
    };
    let head_fields = read_head(head);
    if head_fields.length == 0 && head.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    if !is_plausible(&head_fields) || !head.ends_with(&RESERVED) {
        return Found::Bad { checked: 0 };
    }
    let size = usize::try_from(head_fields.size()).unwrap_or(usize::MAX);
    let Some(frame) = bytes.get(..size) else {
        return Found::Short(size);
    };
    let (front, checked) = frame.split_at(8);
    let (length, mut check) = front.split_at(4);
    let is_whole = check.get_u32_le() == check_of(seed, offset, length, checked);
    if is_whole || sabotage::is(Sabotage::TornTailKept) {
        Found::Frame(head_fields)
    } else {
        Found::Bad {
            checked: head_fields.length,
        }
    }
}

/// Reads the fields before a body, whatever they are.
pub(super) fn read_head(head: &[u8; FRAME_HEAD_BYTES]) -> FrameHead {
    let mut fields = &head[..];
    let length = fields.get_u32_le();
    let _check = fields.get_u32_le();
    FrameHead {
        length,
        index: LogIndex(fields.get_u64_le()),
        epoch: Epoch {
            number: fields.get_u64_le(),
            node: NodeId(fields.get_u64_le()),
        },
        first_seq: Seq(fields.get_u64_le()),
        durable: LogIndex(fields.get_u64_le()),
        events: fields.get_u32_le(),
        kind: fields.get_u8(),
    }
}

/// What must be true of every head ever written; spares checking the bytes behind most others.
fn is_plausible(head: &FrameHead) -> bool {
    usize::try_from(head.length).is_ok_and(|length| length >= FRAME_HEAD_BYTES)
        && head.length <= FRAME_BYTES_MAX
        && head.durable < head.index
        && (head.first_seq == Seq::ZERO) == (head.events == 0)
        && head.first_seq.get().checked_add(u64::from(head.events)).is_some()
}

fn check_of(seed: Seed, offset: u64, length: &[u8], checked: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed.0, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, length);
    crc32c::crc32c_append(crc, checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::files::as_u64;
    use crate::storage::test_entries::{entry, epoch_start};
    use rdb_proto::types::{GroupId, Side};

    const SEAT: SeatId = SeatId {
        group: GroupId(3),
        side: Side::One,
    };

    fn head() -> SegmentHead {
        SegmentHead {
            database: Uuid::from_u128(77),
            seat: SEAT,
            number: 4,
            first: LogIndex(9),
        }
    }

    fn decode(bytes: &[u8; SEGMENT_HEAD_BYTES]) -> Result<(SegmentHead, Seed), HeadProblem> {
        SegmentHead::decode(bytes, Uuid::from_u128(77), SEAT, 4)
    }

    #[test]
    fn round_trip_of_a_segment_head() {
        let (bytes, seed) = head().encode();
        assert_eq!(decode(&bytes), Ok((head(), seed)));
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_segment_head_is_damage() {
        for bit in 0..SEGMENT_HEAD_BYTES * 8 {
            let (mut bytes, _) = head().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Err(HeadProblem::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_head_of_another_release_database_seat_or_place_is_told_apart() {
        let mut newer = head().encode().0;
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..60]);
        newer[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&newer), Err(HeadProblem::TooNew(2)));

        let (bytes, _) = head().encode();
        let other = SegmentHead::decode(&bytes, Uuid::from_u128(78), SEAT, 4);
        assert_eq!(other, Err(HeadProblem::Database(Uuid::from_u128(77))));
        let seat = SeatId {
            side: Side::Zero,
            ..SEAT
        };
        let other = SegmentHead::decode(&bytes, Uuid::from_u128(77), seat, 4);
        assert_eq!(other, Err(HeadProblem::Seat("3.1".to_owned())));
        let other = SegmentHead::decode(&bytes, Uuid::from_u128(77), SEAT, 5);
        assert_eq!(other, Err(HeadProblem::Damaged));
    }

    #[test]
    fn round_trip_of_frames() {
        let (_, seed) = head().encode();
        for entry in [entry(9, 5, 1), entry(9, 5, 30), epoch_start(9)] {
            let mut buffer = vec![1, 2, 3];
            let written = encode(&mut buffer, seed, 64, &entry, LogIndex(7));
            let bytes = &buffer[3..];
            assert_eq!(as_u64(bytes.len()), written.size());
            assert_eq!(as_u64(bytes.len()), frame_bytes(entry.body.encode().len()));
            assert_eq!(look(bytes, seed, 64), Found::Frame(written));
            assert_eq!((written.index, written.durable), (LogIndex(9), LogIndex(7)));
            assert_eq!(
                written.last_seq(),
                entry.seqs().map_or(Seq::ZERO, |(_, last)| last)
            );
        }
    }

    #[test]
    fn a_frame_counts_only_where_it_was_written() {
        let (_, seed) = head().encode();
        let mut buffer = Vec::new();
        encode(&mut buffer, seed, 64, &entry(9, 5, 1), LogIndex(7));
        assert!(matches!(look(&buffer, seed, 72), Found::Bad { .. }));
        let (_, other) = SegmentHead { number: 5, ..head() }.encode();
        assert!(matches!(look(&buffer, other, 64), Found::Bad { .. }));
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_frame_is_noticed() {
        let (_, seed) = head().encode();
        let mut buffer = Vec::new();
        encode(&mut buffer, seed, 64, &entry(9, 5, 2), LogIndex(7));
        for bit in 0..buffer.len() * 8 {
            let mut bytes = buffer.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = look(&bytes, seed, 64);
            assert!(
                matches!(found, Found::Bad { .. } | Found::Short(_)),
                "bit {bit}: {found:?}"
            );
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_short() {
        let (_, seed) = head().encode();
        let mut buffer = Vec::new();
        encode(&mut buffer, seed, 64, &entry(9, 5, 2), LogIndex(7));
        for length in 0..buffer.len() {
            let found = look(&buffer[..length], seed, 64);
            assert!(matches!(found, Found::Short(_)), "{length}: {found:?}");
        }
        assert_eq!(look(&[0; 4096], seed, 64), Found::Zero);
    }
}
