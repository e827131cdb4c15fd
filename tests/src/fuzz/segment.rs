//! A log's files, opened and read as at every start.
//!
//! Input: flags (a byte); where the second segment begins, in steps of 8 bytes (two bytes, little endian); with
//! [`OWN_SEAT_FILE`] a slot of the seat file (128 bytes); the bytes of the segments.
//!
//! Every frame has a check of its own, which no change of the bytes passes by chance. So with [`REPAIRED`] checks are made
//! right before the log is opened: what is found then are values that no release writes, in frames that count.

use super::{Target, named, sample};
use rdb_proto::entry::EntryBody;
use rdb_proto::types::{Epoch, GroupId, LogIndex, SeatId, Seq, Side};
use rdb_server::storage::{
    KeyIndex as _, LogEvent, LogSettings, MemoryIndex, Opened, Scrub, SeatLog, StorageError, Ticket, catch_up,
};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;
use uuid::Uuid;

pub(super) const TARGET: Target = Target {
    name: "segment",
    what: "segments and seat file of a log: opening, reading, verifying, indexing",
    run,
    seeds,
};

/// Checks are made right.
const REPAIRED: u8 = 1;
/// Other members have the log, too.
const REPLICATED: u8 = 2;
/// The seat file says that the whole sample log was durable; else that nothing was.
const DURABLE: u8 = 4;
/// The input has a seat file of its own.
const OWN_SEAT_FILE: u8 = 8;

const HEAD_BYTES: usize = 64;
const FRAME_HEAD_BYTES: usize = 56;
const SLOT_BYTES: usize = 128;
const SLOT_DISTANCE: usize = 4096;

const DATABASE: Uuid = Uuid::from_u128(0xdb);
const SEAT: SeatId = SeatId {
    group: GroupId(2),
    side: Side::One,
};

fn run(data: &[u8]) {
    let Some(([flags, cut_low, cut_high], rest)) = data.split_first_chunk() else {
        return;
    };
    let has = |flag: u8| flags & flag != 0;
    let sample = sample_log();
    let (seat_file, rest) = match rest.split_at_checked(SLOT_BYTES) {
        Some((slot, rest)) if has(OWN_SEAT_FILE) => (seat_file_of(slot, has(REPAIRED)), rest),
        _ if has(DURABLE) => (sample.seat_file.clone(), rest),
        _ => (sample.fresh_seat_file.clone(), rest),
    };
    let cut = usize::from(u16::from_le_bytes([*cut_low, *cut_high])) * 8;
    let (first, second) = rest.split_at_checked(cut).unwrap_or((rest, &[]));
    let directory = scratch();
    fs::write(directory.path().join("seat"), seat_file).unwrap();
    for (number, bytes) in [(1, first), (2, second)] {
        if number == 1 || !bytes.is_empty() {
            let mut bytes = bytes.to_vec();
            if has(REPAIRED) {
                repair(&mut bytes);
            }
            fs::write(segment_path(directory.path(), number), bytes).unwrap();
        }
    }
    open_and_read(directory.path(), has(REPLICATED), !has(REPAIRED));
}

fn open_and_read(directory: &Path, is_replicated: bool, is_as_written: bool) {
    let before = files(directory);
    let (log, opened, events) = match open(directory, is_replicated) {
        Ok(opened) => opened,
        Err(StorageError::Damaged { .. }) if !is_replicated => {
            assert_eq!(
                files(directory),
                before,
                "a log that is refused is left as it was"
            );
            return;
        }
        Err(_refused) => return,
    };
    assert!(opened.durable <= opened.last_index, "{opened:?}");
    assert!(is_replicated || opened.damage.is_none(), "{opened:?}");
    read(&log, &opened);
    if is_as_written {
        index(&log, &opened);
    }
    log.close();
    drop(events);
    let (log, again, _events) = open(directory, is_replicated).expect("what was opened opens again");
    log.close();
    let expected = Opened {
        cut_bytes: 0,
        damage: None,
        // Whoever has promised nothing has acknowledged nothing: a loss of that is not remembered.
        lost: opened.lost.filter(|promised| *promised > Epoch::ZERO),
        ..opened
    };
    assert_eq!(again, expected, "what was opened once is as it was");
}

/// All of a log that was opened can be read, or is said to be damaged.
fn read(log: &SeatLog, opened: &Opened) {
    let reader = log.reader();
    let mut cursor = reader.cursor_at(LogIndex(1));
    let mut next = LogIndex(1);
    while let Ok(Some(block)) = cursor.next_block(opened.last_index) {
        for frame in block.frames {
            assert_eq!(frame.index, next, "indexes are dense");
            assert!(frame.last_seq() <= opened.last_seq, "{frame:?}");
            next = next.next();
            if let Ok(entry) = frame.decode() {
                let again = EntryBody::decode(frame.kind, entry.body.encode());
                assert_eq!(again.as_ref(), Ok(&entry.body), "what was written reads back");
            }
        }
    }
    assert_eq!(
        next,
        opened.last_index.next(),
        "every entry that was opened is read"
    );
    drop(
        reader
            .cursor_after(Seq(7), opened.last_index)
            .next_block(opened.last_index),
    );
    let mut scrub = Scrub::new(reader.clone(), opened.last_index);
    while !scrub.is_done() && scrub.step().is_ok_and(|(bytes, _)| bytes > 0) {}
}

/// The index takes in what was written. It asserts rule 6.4, so it is not given entries that no release writes.
fn index(log: &SeatLog, opened: &Opened) {
    let index = MemoryIndex::new(100);
    catch_up(&index, &log.reader(), opened.last_index, &mut |_| {}).expect("what was written is taken in");
    assert_eq!(index.applied(), opened.last_index);
}

type Open = (SeatLog, Opened, Receiver<LogEvent>);

fn open(directory: &Path, is_replicated: bool) -> Result<Open, StorageError> {
    let settings = LogSettings {
        segment_bytes: 2048,
        ahead_bytes: 0,
        keep_free_bytes: 0,
        is_replicated,
    };
    let (told, events) = channel();
    // Whoever listens may have gone.
    let on_event = Box::new(move |event| drop(told.send(event)));
    let (log, opened) = SeatLog::open(directory, DATABASE, SEAT, settings, on_event)?;
    Ok((log, opened, events))
}

/// In memory where there is such: nothing here is about the disk.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn segment_path(directory: &Path, number: u32) -> std::path::PathBuf {
    directory.join(format!("segment-{number:08}.log"))
}

fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = crate::files::files_below(directory);
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

/// Makes the checks of a segment right, as far as frames can be told. Written from the description of the format, not
/// from the product's code.
fn repair(segment: &mut [u8]) {
    if segment.len() < HEAD_BYTES {
        return;
    }
    let seed = crc32c::crc32c(&segment[..60]);
    segment[60..64].copy_from_slice(&seed.to_le_bytes());
    let mut at = HEAD_BYTES;
    while let Some(length) = segment.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap());
        let size = usize::try_from(length).unwrap().next_multiple_of(8);
        let Some(frame) = segment[at..].get_mut(..size).filter(|_| size >= FRAME_HEAD_BYTES) else {
            return;
        };
        let crc = crc32c::crc32c_append(seed, &u64::try_from(at).unwrap().to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &frame[..4]);
        let crc = crc32c::crc32c_append(crc, &frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        at += size;
    }
}

/// A seat file with this slot twice.
fn seat_file_of(slot: &[u8], is_repaired: bool) -> Vec<u8> {
    /// Of the counter that each change raises by one, the highest byte.
    const COUNTER_TOP: usize = 47;

    let mut slot = slot.to_vec();
    if is_repaired {
        // No machine lives to raise it so far; near its end the newer slot could not be told from the older one.
        slot[COUNTER_TOP] = 0;
        let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
        slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let mut file = slot.clone();
    file.resize(SLOT_DISTANCE, 0);
    file.extend_from_slice(&slot);
    file
}

/// The files of a log with the sample entries.
struct SampleLog {
    /// Of a log that was only made.
    fresh_seat_file: Vec<u8>,
    seat_file: Vec<u8>,
    segments: Vec<Vec<u8>>,
}

fn sample_log() -> &'static SampleLog {
    static SAMPLE: OnceLock<SampleLog> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let directory = scratch();
        let path = directory.path();
        let seat_file = || fs::read(path.join("seat")).unwrap();
        let (log, _, _events) = open(path, false).unwrap();
        log.close();
        let fresh_seat_file = seat_file();
        let (log, _, events) = open(path, false).unwrap();
        log.promise(sample::EPOCH, 2);
        for (ticket, entry) in (1..).zip(sample::log()) {
            // One after the other, so that each frame says the same of those before it.
            log.persist(Ticket(ticket), None, vec![entry]);
            while events.recv().unwrap() != LogEvent::Persisted(Ticket(ticket)) {}
        }
        log.close();
        let segments = crate::files::files_below(path).into_iter();
        let segments = segments.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        SampleLog {
            fresh_seat_file,
            seat_file: seat_file(),
            segments: segments.map(|path| fs::read(path).unwrap()).collect(),
        }
    })
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let sample = sample_log();
    let used = |bytes: &[u8]| {
        bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1)
    };
    // A spare one may be there already, or not yet.
    let mut segments: Vec<&[u8]> = sample.segments.iter().map(Vec::as_slice).collect();
    segments.retain(|bytes| used(bytes) > HEAD_BYTES);
    let last = segments.pop().unwrap_or_default();
    let last = &last[..(used(last).next_multiple_of(8) + 64).min(last.len())];
    let first = segments.first().copied().unwrap_or(last);
    let second = if segments.is_empty() { &[] } else { last };
    let bytes = [first, second].concat();
    let at = u16::try_from(first.len() / 8).unwrap().to_le_bytes();
    let input = |flags: u8, slot: &[u8]| [&[flags], &at[..], slot, &bytes].concat();
    let slot = &sample.fresh_seat_file[..SLOT_BYTES];
    vec![
        named("alone", input(DURABLE, &[])),
        named("alone-repaired", input(REPAIRED, &[])),
        named("replicated", input(REPLICATED | DURABLE, &[])),
        named("replicated-repaired", input(REPAIRED | REPLICATED | DURABLE, &[])),
        named("seat-file", input(REPAIRED | REPLICATED | OWN_SEAT_FILE, slot)),
    ]
}
