//! A log read and checked while it is in use.

use super::*;
use bytes::Buf as _;

/// What a scrub finds, to its end or to a damage; and the last entry that passed.
fn scrub(reader: &LogReader, up_to: u64) -> (Vec<Verified>, LogIndex, Option<StorageError>) {
    let mut scrub = Scrub::new(reader.clone(), LogIndex(up_to));
    let mut found = Vec::new();
    while !scrub.is_done() {
        match scrub.step() {
            Ok((0, _)) => break,
            Ok((_, whole)) => found.extend(whole),
            Err(error) => return (found, scrub.last(), Some(error)),
        }
    }
    (found, scrub.last(), None)
}

fn bounds(blocks: &[Verified]) -> Vec<(u64, u64)> {
    let bounds = blocks.iter().map(|block| (block.first.get(), block.last.get()));
    bounds.collect()
}

fn world_of(entries: Vec<Entry>, settings: LogSettings) -> (World, TempDir) {
    let directory = scratch();
    let mut world = World::try_open(directory.path(), settings, Arc::new(RealDisk)).unwrap();
    world.append(entries);
    (world, directory)
}

/// Members cut their logs into segments wherever it comes, and are compared all the same.
#[test]
fn blocks_begin_at_fixed_indexes_and_follow_from_the_entries_alone() {
    let (cut_often, _directory) = world_of(story(2_100), small());
    let settings = LogSettings {
        keep_free_bytes: 0,
        ..LogSettings::default()
    };
    let (cut_never, _directory) = world_of(story(2_100), settings);
    let (blocks, last, error) = scrub(&cut_often.log.reader(), 2_100);
    assert!(error.is_none() && last == LogIndex(2_100));
    assert_eq!(bounds(&blocks), [(1, 1_024), (1_025, 2_048), (2_049, 2_100)]);
    assert_eq!(scrub(&cut_never.log.reader(), 2_100).0, blocks);
    // Who is asked for less has the same in the blocks before its last.
    let (less, _, _) = scrub(&cut_never.log.reader(), 1_030);
    assert_eq!(bounds(&less), [(1, 1_024), (1_025, 1_030)]);
    assert_eq!(less[0], blocks[0]);
    assert_ne!(less[1].digest, blocks[1].digest);
    // What is asked for beyond the end is waited for by others.
    let (all, last, error) = scrub(&cut_never.log.reader(), 2_200);
    assert!(error.is_none() && last == LogIndex(2_100));
    assert_eq!(bounds(&all), [(1, 1_024), (1_025, 2_048)]);
    assert_eq!(scrub(&cut_never.log.reader(), 0).0, []);
}

/// Red when any part of an entry is left out of its block's digest.
#[test]
fn whatever_is_different_in_an_entry_makes_another_digest() {
    let digest = |entries: Vec<Entry>| {
        let count = as_u64(entries.len());
        let (world, _directory) = world_of(entries, small());
        let (blocks, _, error) = scrub(&world.log.reader(), count);
        assert!(error.is_none(), "{error:?}");
        blocks[0].digest.clone()
    };
    let with = |last: Entry| {
        let mut entries = story(8);
        entries.push(last);
        digest(entries)
    };
    let was = entry_of(9, "key", 90, 3, vec![new_event(90, 20)]);
    let epoch = |number, node| Epoch {
        number,
        node: NodeId(node),
    };
    let others = [
        Entry {
            epoch: epoch(2, 5),
            ..was.clone()
        },
        Entry {
            epoch: epoch(1, 6),
            ..was.clone()
        },
        entry_of(9, "key", 91, 3, vec![new_event(90, 20)]),
        entry_of(9, "key", 90, 4, vec![new_event(90, 20)]),
        entry_of(9, "kez", 90, 3, vec![new_event(90, 20)]),
        entry_of(9, "key", 90, 3, vec![new_event(92, 20)]),
        entry_of(9, "key", 90, 3, vec![new_event(90, 21)]),
        epoch_start(9),
    ];
    let mut digests = vec![with(was.clone())];
    assert_eq!(digests, [with(was)]);
    for other in others {
        let digest = with(other.clone());
        assert!(!digests.contains(&digest), "{other}");
        digests.push(digest);
    }
}

/// Every byte of a segment, one bit flipped, in a log that is in use. Others are told of damage by what a read meets; a
/// scrub tells its caller only.
#[test]
fn damage_is_found_where_it_is_and_told_to_nobody_else() {
    let (world, directory) = world_of(story(60), small());
    let path = segment(directory.path(), 2);
    let whole = fs::read(&path).unwrap();
    let (intact, _, _) = scrub(&world.log.reader(), 60);
    let mut found = 0;
    let first = LogIndex(u64::from_le_bytes(whole[40..48].try_into().unwrap()));
    let places = frames_of(&whole);
    for byte in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1 << (byte % 8);
        fs::write(&path, &bytes).unwrap();
        let (blocks, last, error) = scrub(&world.log.reader(), 60);
        match error {
            None => {
                let is_behind = places.last().is_some_and(|(_, end)| as_u64(byte) >= *end);
                assert!(is_behind && blocks == intact, "byte {byte} is not missed");
            }
            Some(StorageError::Damaged { file, offset, damage }) => {
                let index = last.next();
                let what = if byte < 64 {
                    Damage::Header
                } else {
                    Damage::Unreadable { index }
                };
                assert_eq!((file, damage), (path.clone(), what), "byte {byte}");
                // The entry that is named is the one that the byte stands in.
                let (start, end) = places[usize::try_from(index.get() - first.get()).unwrap()];
                let is_there = (start..end).contains(&as_u64(byte));
                assert!(
                    is_there && offset == start || byte < 64 && index == first,
                    "byte {byte}"
                );
                found += 1;
            }
            Some(other) => panic!("{other}"),
        }
    }
    assert!(found > 1_000, "{found} flips were found");
    let is_told = |event| matches!(event, LogEvent::Unreadable(_));
    assert!(!world.events.try_iter().any(is_told));
}

/// What passes its CRC and cannot follow what is before it, or is not what its head says.
#[test]
fn an_entry_that_cannot_stand_there_is_damage_though_its_check_passes() {
    let (world, directory) = world_of(story(30), small());
    let reader = world.log.reader();
    let (place, point) = reader.find(LogIndex(12)).unwrap();
    let path = segment(directory.path(), place.file.number);
    let whole = fs::read(&path).unwrap();
    let entry_12 = story(12).pop().unwrap();
    let (first, last) = entry_12.seqs().unwrap();
    let count = last.next().since(first);
    let seqs_fall = entry(12, first.get() - 1, count);
    let epoch_falls = Entry {
        epoch: Epoch::ZERO,
        ..entry_12.clone()
    };
    for (stands, problem) in [(seqs_fall, "is not above"), (epoch_falls, "is below")] {
        let mut frame = Vec::new();
        frame::encode(&mut frame, place.seed, point.offset, &stands, LogIndex(11));
        let offset = usize::try_from(point.offset).unwrap();
        let mut bytes = whole.clone();
        bytes[offset..offset + frame.len()].copy_from_slice(&frame);
        fs::write(&path, &bytes).unwrap();
        let (_, last, error) = scrub(&reader, 30);
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(last == LogIndex(11) && error.contains(problem), "{last} {error}");
    }
    // A head that names other seqs than the events have.
    let mut frame = Vec::new();
    frame::encode(&mut frame, place.seed, point.offset, &entry_12, LogIndex(11));
    let offset = usize::try_from(point.offset).unwrap();
    frame[32] += 1;
    let crc = crc32c::crc32c_append(crc_of(&whole), &point.offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut bytes = whole;
    bytes[offset..offset + frame.len()].copy_from_slice(&frame);
    fs::write(&path, &bytes).unwrap();
    let (_, last, error) = scrub(&reader, 30);
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(
        last == LogIndex(11) && error.contains("other seqs"),
        "{last} {error}"
    );
}

/// What the checks of a segment's frames begin with.
fn crc_of(segment: &[u8]) -> u32 {
    u32::from_le_bytes(segment[60..64].try_into().unwrap())
}

/// Where the frames of a segment begin and end.
fn frames_of(segment: &[u8]) -> Vec<(u64, u64)> {
    let mut places = Vec::new();
    let mut start = 64;
    while let Some(length) = segment.get(start..start + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap());
        if length == 0 {
            break;
        }
        let end = start + usize::try_from(frame::padded(u64::from(length))).unwrap();
        places.push((as_u64(start), as_u64(end)));
        start = end;
    }
    places
}

/// Members of two releases are compared: what a log's digest is, it stays.
#[test]
fn the_digest_of_the_golden_log_stays() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/1/seat");
    let world = World::open_copy(&golden);
    let (blocks, _, error) = scrub(&world.log.reader(), 24);
    assert!(error.is_none() && bounds(&blocks) == [(1, 24)], "{error:?}");
    let digest: u128 = blocks[0].digest.clone().get_u128();
    assert_eq!(format!("{digest:032x}"), "0b816c5a57da556d925b5d5e9f6bf699");
}
