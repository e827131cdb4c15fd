//! A log as a whole: what is acknowledged is there again, whatever happens to the files in between.

mod scrubbing;

use super::*;
use crate::storage::error::Damage;
use crate::storage::files::{as_u64, free_bytes};
use crate::storage::test_entries::{EPOCH, entry, entry_of, epoch_start, new_event, scratch};
use proptest::prelude::*;
use rdb_proto::types::{GroupId, NodeId, Side};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use tempfile::TempDir;

const SEAT: SeatId = SeatId {
    group: GroupId(2),
    side: Side::One,
};
const DATABASE: Uuid = Uuid::from_u128(0xdb);
const IDENTITY: Identity = Identity {
    database: DATABASE,
    seat: SEAT,
};

/// Segments so small that a test sees many.
fn small() -> LogSettings {
    LogSettings {
        segment_bytes: 2048,
        ahead_bytes: 2048,
        keep_free_bytes: 0,
        is_replicated: false,
    }
}

/// A log with what it reported.
struct World {
    log: SeatLog,
    opened: Opened,
    events: Receiver<LogEvent>,
    ticket: u64,
    // Dropped last: the log's threads still work in it.
    copy: Option<TempDir>,
}

impl World {
    fn try_open(directory: &Path, settings: LogSettings, disk: Arc<dyn Disk>) -> Result<Self, StorageError> {
        let (tx, events) = channel();
        let on_event: OnLogEvent = Box::new(move |event| {
            // The test may have seen enough.
            let _sent = tx.send(event);
        });
        let (log, opened) = SeatLog::open_on(directory, IDENTITY, settings, on_event, disk)?;
        Ok(Self {
            log,
            opened,
            events,
            ticket: 0,
            copy: None,
        })
    }

    fn open(directory: &Path) -> Self {
        Self::try_open(directory, small(), Arc::new(RealDisk)).unwrap()
    }

    /// Opens a copy, so that the files stay as they are.
    fn open_copy(directory: &Path) -> Self {
        let copy = copy(directory);
        let mut world = Self::open(copy.path());
        world.copy = Some(copy);
        world
    }

    fn start(&mut self, truncate_from: Option<u64>, entries: Vec<Entry>) {
        self.ticket += 1;
        let entries = entries.into_iter().map(Arc::new).collect();
        self.log
            .persist(Ticket(self.ticket), truncate_from.map(LogIndex), entries);
    }

    /// Waits until everything that was started is durable.
    fn wait(&mut self) {
        let last = LogEvent::Persisted(Ticket(self.ticket));
        while self.events.recv().unwrap() != last {}
    }

    fn append(&mut self, entries: Vec<Entry>) {
        self.start(None, entries);
        self.wait();
    }

    fn read_all(&self, last: u64) -> Vec<Entry> {
        read_all(&self.log.reader(), last).unwrap()
    }
}

fn read_all(reader: &LogReader, last: u64) -> Result<Vec<Entry>, StorageError> {
    let mut cursor = reader.cursor_at(LogIndex(1));
    let mut entries = Vec::new();
    while let Some(block) = cursor.next_block(LogIndex(last))? {
        entries.extend(block.frames.iter().map(|frame| frame.decode().unwrap()));
    }
    Ok(entries)
}

/// Entries 1 to `count`: an epoch start, then appends of one to three events. Some segments' worth from 20 on.
fn story(count: u64) -> Vec<Entry> {
    let mut seq = 1;
    let entry_at = |index: u64| {
        if index == 1 {
            return epoch_start(index);
        }
        let events = index % 3 + 1;
        seq += events;
        entry(index, seq - events, events)
    };
    (1..=count).map(entry_at).collect()
}

fn segment(directory: &Path, number: u32) -> PathBuf {
    segment::path_of(directory, number)
}

fn copy(from: &Path) -> TempDir {
    let to = scratch();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

#[test]
fn what_was_appended_is_there_after_a_clean_stop() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    assert_eq!(world.opened, Opened::default());
    for chunk in story(40).chunks(7) {
        world.append(chunk.to_vec());
    }
    assert_eq!(world.read_all(40), story(40));
    world.log.note_commit(LogIndex(33));
    world.log.close();

    let world = World::open(directory.path());
    let last_seq = story(40).last().unwrap().seqs().unwrap().1;
    assert_eq!(
        world.opened,
        Opened {
            last_index: LogIndex(40),
            last_epoch: EPOCH,
            epochs: vec![(LogIndex(1), EPOCH)],
            last_seq,
            last_time: Timestamp(story(40).last().unwrap().seqs().unwrap().0.get() * 10),
            events: last_seq.get(),
            cut_bytes: 0,
            promised: Epoch::ZERO,
            config: 0,
            durable: LogIndex(40),
            commit: LogIndex(33),
            lost: None,
            damage: None,
        }
    );
    assert_eq!(world.read_all(40), story(40));
    assert!(segment::numbers_in(directory.path()).unwrap().len() > 3);
}

#[test]
fn appending_goes_on_where_the_log_ended() {
    let directory = scratch();
    for (n, entry) in story(30).into_iter().enumerate() {
        let mut world = World::open(directory.path());
        assert_eq!(world.opened.last_index, LogIndex(as_u64(n)));
        world.append(vec![entry]);
    }
    assert_eq!(World::open(directory.path()).read_all(30), story(30));
}

#[test]
fn everything_that_waits_goes_into_one_sync() {
    let directory = scratch();
    let settings = LogSettings {
        keep_free_bytes: 0,
        ..LogSettings::default()
    };
    let mut world = World::try_open(directory.path(), settings, Arc::new(RealDisk)).unwrap();
    for entry in story(500) {
        world.start(None, vec![entry]);
    }
    let mut syncs = 0;
    let mut reported = Vec::new();
    while reported.last() != Some(&Ticket(500)) {
        match world.events.recv().unwrap() {
            LogEvent::Synced { .. } => syncs += 1,
            LogEvent::Persisted(ticket) => reported.push(ticket),
            LogEvent::PromisePersisted(_) | LogEvent::RoomChanged | LogEvent::Unreadable(_) => {}
        }
    }
    assert!(syncs < 250, "{syncs} syncs for 500 appends");
    assert_eq!(syncs, reported.len());
    assert!(reported.is_sorted());
    assert_eq!(world.read_all(500), story(500));
}

mod syncing {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{SyncSender, sync_channel};

    /// A disk whose syncs begin and end on command.
    #[derive(Debug)]
    struct Gate {
        begun: SyncSender<()>,
        may_end: Mutex<Receiver<io::Result<()>>>,
    }

    impl Disk for Gate {
        fn sync(&self, file: &segment::SegmentFile) -> io::Result<()> {
            self.begun.send(()).unwrap();
            self.may_end.lock().unwrap().recv().unwrap()?;
            file.sync()
        }

        fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
            free_bytes(directory)
        }

        fn claim(&self, file: &segment::SegmentFile, from: u64, to: u64) -> io::Result<()> {
            file.claim(from, to)
        }
    }

    fn gated(directory: &Path) -> (World, Receiver<()>, SyncSender<io::Result<()>>) {
        let (begun, has_begun) = sync_channel(9);
        let (end, may_end) = sync_channel(9);
        let gate = Gate {
            begun,
            may_end: Mutex::new(may_end),
        };
        let world = World::try_open(directory, small(), Arc::new(gate)).unwrap();
        (world, has_begun, end)
    }

    /// Red when entries are reported without waiting for the disk (sabotage `no_fsync`): the test then waits for a
    /// sync that never begins, or sees the report before its end.
    #[test]
    fn nothing_is_reported_before_its_sync_has_ended() {
        let directory = scratch();
        let (mut world, has_begun, end) = gated(directory.path());
        world.start(None, story(1));
        loop {
            if has_begun.try_recv().is_ok() {
                break;
            }
            let is_done = |event| event == LogEvent::Persisted(Ticket(1));
            assert!(!world.events.try_iter().any(is_done), "reported without a sync");
            thread::yield_now();
        }
        // What comes while the disk is busy waits together and is synced together.
        for entry in &story(6)[1..] {
            world.start(None, vec![entry.clone()]);
        }
        assert_eq!(world.events.try_iter().count(), 0);
        end.send(Ok(())).unwrap();
        assert!(has_begun.recv_timeout(Duration::from_secs(20)).is_ok());
        end.send(Ok(())).unwrap();
        let reports = world.events.iter();
        let reports = reports.filter(|event| matches!(event, LogEvent::Persisted(_)));
        let expected = [Ticket(1), Ticket(6)].map(LogEvent::Persisted);
        assert!(reports.take(2).eq(expected));
    }

    /// Rule 6.3.3. Red when a failed sync is retried or ignored.
    #[test]
    fn a_failed_sync_ends_the_process_and_nothing_is_reported() {
        let directory = scratch();
        let (mut world, has_begun, end) = gated(directory.path());
        world.start(None, story(1));
        let begun = has_begun.recv_timeout(Duration::from_secs(20));
        assert!(begun.is_ok(), "no sync has begun");
        end.send(Err(io::Error::from_raw_os_error(5))).unwrap();
        // In tests, the end of the process is the end of the writer's thread.
        while !world.log.writer.has_ended() {
            thread::yield_now();
        }
        assert_eq!(world.events.try_iter().count(), 0);
    }
}

/// The format of every release so far: what it wrote is read, and what is written now is the same, byte for byte.
///
/// A new format is a new folder beside the old one, never a changed file.
#[test]
fn the_golden_log_of_format_1_is_read_and_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/1/seat");
    let world = World::open_copy(&golden);
    assert_eq!(world.opened.last_index, LogIndex(24));
    assert_eq!(world.opened.commit, LogIndex(20));
    assert_eq!(world.opened.promised, EPOCH);
    assert_eq!(world.read_all(24), story(24));

    let written = scratch();
    write_golden(written.path());
    // The last segment is spare, and what is there of it depends on the moment.
    for number in 1..=3 {
        let was = fs::read(segment(&golden, number)).unwrap();
        let is = fs::read(segment(written.path(), number)).unwrap();
        assert!(is == was, "segment {number} is written differently now");
    }
}

/// Each entry alone, so that what it notes as durable does not depend on the moment.
fn write_golden(directory: &Path) {
    let settings = LogSettings {
        segment_bytes: 2048,
        ahead_bytes: 0,
        keep_free_bytes: 0,
        is_replicated: false,
    };
    let mut world = World::try_open(directory, settings, Arc::new(RealDisk)).unwrap();
    world.log.promise(EPOCH, 1);
    for entry in story(24) {
        world.append(vec![entry]);
    }
    world.log.note_commit(LogIndex(20));
    world.log.close();
}

#[test]
fn a_promise_is_durable_before_it_is_reported_and_is_read_back() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    let epoch = |number| Epoch {
        number,
        node: NodeId(3),
    };
    world.start(None, story(3));
    world.log.promise(epoch(4), 3);
    let done: Vec<_> = world
        .events
        .iter()
        .filter(|event| !matches!(event, LogEvent::Synced { .. } | LogEvent::RoomChanged))
        .take(2)
        .collect();
    let expected = [
        LogEvent::Persisted(Ticket(1)),
        LogEvent::PromisePersisted(epoch(4)),
    ];
    assert_eq!(done, expected, "in the order of the requests");
    let crashed = copy(directory.path());
    let world = World::open(crashed.path());
    assert_eq!((world.opened.promised, world.opened.config), (epoch(4), 3));
    assert_eq!(world.opened.last_index, LogIndex(3));
}

#[test]
fn a_log_that_rests_notes_its_durable_mark() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    world.append(story(3));
    let durable = || {
        let file = crate::storage::seat_file::SeatFile::open(directory.path(), DATABASE, SEAT).unwrap();
        file.state().durable
    };
    // Ends when the mark is there; the test's own time limit is the runner's.
    while durable() != LogIndex(3) {
        thread::yield_now();
    }
}

mod truncation {
    use super::*;

    fn other_story(from: u64, to: u64) -> Vec<Entry> {
        let seq = 1000;
        (from..=to).map(|index| entry(index, seq + index, 1)).collect()
    }

    #[test]
    fn entries_are_removed_and_others_take_their_place() {
        for from in 2..=40 {
            let directory = scratch();
            let mut world = World::open(directory.path());
            world.append(story(40));
            world.start(Some(from), other_story(from, from + 9));
            world.wait();
            let mut expected = story(from - 1);
            expected.extend(other_story(from, from + 9));
            assert_eq!(world.read_all(from + 9), expected, "from {from}");
            world.log.close();
            let world = World::open(directory.path());
            assert_eq!(world.opened.last_index, LogIndex(from + 9));
            assert_eq!(world.read_all(from + 9), expected, "from {from}, opened again");
        }
    }

    #[test]
    fn a_truncation_behind_the_end_removes_nothing() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(5));
        world.start(Some(6), other_story(6, 8));
        world.wait();
        assert_eq!(world.read_all(5), story(5));
    }

    /// Rule 6.3.2. Red when the check of the commit is taken out.
    #[test]
    fn a_committed_entry_is_never_removed() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(10));
        world.log.note_commit(LogIndex(7));
        world.start(Some(7), vec![]);
        // In tests, the end of the process is the end of the writer's thread.
        while !world.log.writer.has_ended() {
            thread::yield_now();
        }
        let is_done = |event| event == LogEvent::Persisted(Ticket(2));
        assert!(!world.events.try_iter().any(is_done));
        drop(world);
        assert_eq!(World::open(directory.path()).read_all(10), story(10));
    }

    /// A crash anywhere inside a truncation: the intent is on disk, and any of the files may or may not be
    /// changed yet. Opening finishes it.
    #[test]
    fn a_truncation_cut_short_is_finished_on_open() {
        for from in 2..=40 {
            let directory = scratch();
            let mut world = World::open(directory.path());
            world.append(story(40));
            world.log.close();
            let mut seat_file =
                crate::storage::seat_file::SeatFile::open(directory.path(), DATABASE, SEAT).unwrap();
            let truncating = crate::storage::seat_file::SeatState {
                durable: LogIndex(from - 1),
                truncated_from: Some(LogIndex(from)),
                ..seat_file.state()
            };
            seat_file
                .write(truncating, crate::storage::seat_file::Care::Both)
                .unwrap();
            let numbers = segment::numbers_in(directory.path()).unwrap();
            for removed in 1..=numbers.len() {
                let crashed = copy(directory.path());
                // Segments go last first; a hole cannot be ruled out on every file system.
                let gone = numbers[removed - 1];
                let is_needed = {
                    let world = World::open_copy(directory.path());
                    let (segment, _) = world.log.reader().find(LogIndex(from - 1)).unwrap();
                    segment.file.number >= gone
                };
                if !is_needed {
                    fs::remove_file(segment(crashed.path(), gone)).unwrap();
                }
                let mut world = World::open(crashed.path());
                assert_eq!(world.opened.last_index, LogIndex(from - 1), "from {from}");
                assert_eq!(world.read_all(from - 1), story(from - 1));
                world.append(other_story(from, from + 20));
                world.log.close();
                let world = World::open(crashed.path());
                assert_eq!(world.opened.last_index, LogIndex(from + 20));
            }
        }
    }

    /// No release writes such a seat file. Red when its check is taken for proof that it can be: opening panicked.
    #[test]
    fn a_truncation_of_committed_entries_is_damage() {
        use crate::storage::seat_file::{Care, SeatFile, SeatState};

        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(10));
        world.log.note_commit(LogIndex(7));
        world.log.close();
        let mut seat_file = SeatFile::open(directory.path(), DATABASE, SEAT).unwrap();
        let truncating = SeatState {
            truncated_from: Some(LogIndex(7)),
            ..seat_file.state()
        };
        assert_eq!(truncating.commit, LogIndex(7));
        seat_file.write(truncating, Care::Both).unwrap();
        drop(seat_file);

        let alone = World::try_open(directory.path(), small(), Arc::new(RealDisk));
        let refused = alone.err().unwrap();
        assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
        let replicated = LogSettings {
            is_replicated: true,
            ..small()
        };
        let world = World::try_open(directory.path(), replicated, Arc::new(RealDisk)).unwrap();
        assert_eq!(world.opened.last_index, LogIndex(6));
        assert!(
            world.opened.lost.is_some(),
            "it may not vote for less than it had"
        );
    }

    #[test]
    fn a_reader_at_the_end_does_not_see_what_was_removed() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(40));
        for from in (3..=40).rev() {
            let mut cursor = world.log.reader().cursor_at(LogIndex(from));
            world.start(Some(from), other_story(from, from));
            world.wait();
            let block = cursor.next_block(LogIndex(from)).unwrap().unwrap();
            assert_eq!(block.frames[0].decode().unwrap(), other_story(from, from)[0]);
        }
    }
}

mod reading {
    use super::*;

    #[test]
    fn every_entry_is_found_by_its_index() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(100));
        let reader = world.log.reader();
        for entry in story(100) {
            assert_eq!(reader.entry(entry.index).unwrap().decode().unwrap(), entry);
        }
        assert!(reader.entry(LogIndex(101)).is_err());
    }

    #[test]
    fn a_cursor_begins_at_any_index_and_follows_the_commit() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(60));
        for first in 1..=60 {
            let mut cursor = world.log.reader().cursor_at(LogIndex(first));
            let mut indices = Vec::new();
            for commit in first.saturating_sub(2)..=60 {
                while let Some(block) = cursor.next_block(LogIndex(commit)).unwrap() {
                    indices.extend(block.frames.iter().map(|frame| frame.index.get()));
                }
                assert_eq!(
                    indices.last().copied().unwrap_or(first - 1),
                    commit.max(first - 1)
                );
            }
            assert_eq!(indices, (first..=60).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_cursor_begins_behind_any_seq() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(60));
        let last_seq = world.read_all(60).last().unwrap().seqs().unwrap().1;
        for seq in 0..last_seq.get() {
            let mut cursor = world.log.reader().cursor_after(Seq(seq), LogIndex(60));
            let block = cursor.next_block(LogIndex(60)).unwrap().unwrap();
            let expected = story(60)
                .into_iter()
                .find(|entry| entry.seqs().is_some_and(|(_, last)| last > Seq(seq)))
                .unwrap();
            assert_eq!(block.frames[0].decode().unwrap(), expected, "after {seq}");
        }
        let mut cursor = world.log.reader().cursor_after(last_seq, LogIndex(60));
        assert_eq!(cursor.next_block(LogIndex(60)).unwrap(), None);
        world.append(vec![entry(61, last_seq.get() + 5, 1)]);
        let block = cursor.next_block(LogIndex(61)).unwrap().unwrap();
        assert_eq!(block.frames[0].index, LogIndex(61), "it follows");
    }

    #[test]
    fn a_cursor_for_the_last_events_begins_early_enough() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(60));
        let total = world.read_all(60).last().unwrap().seqs().unwrap().1.get();
        for last in 1..=60 {
            for wanted in [0, 1, 7, 50, total] {
                let mut cursor = world.log.reader().cursor_before(LogIndex(last), wanted);
                let mut seen = 0;
                while let Some(block) = cursor.next_block(LogIndex(last)).unwrap() {
                    seen += block
                        .frames
                        .iter()
                        .map(|frame| u64::from(frame.events))
                        .sum::<u64>();
                }
                let there = story(last)
                    .iter()
                    .filter_map(Entry::seqs)
                    .map(|(_, last)| last)
                    .max();
                let there = there.map_or(0, Seq::get);
                assert!(seen >= wanted.min(there), "{seen} of {wanted} up to {last}");
            }
        }
    }

    #[test]
    fn an_entry_larger_than_a_block_is_read() {
        let directory = scratch();
        let settings = LogSettings {
            keep_free_bytes: 0,
            ..LogSettings::default()
        };
        let mut world = World::try_open(directory.path(), settings, Arc::new(RealDisk)).unwrap();
        let large = |index: u64| entry_of(index, "k", index, index, vec![new_event(index, 3 << 20)]);
        let entries: Vec<_> = (1..=10)
            .map(|i| if i % 2 == 0 { large(i) } else { entry(i, i, 1) })
            .collect();
        world.append(entries.clone());
        assert_eq!(world.read_all(10), entries);
        for entry in &entries {
            let found = world.log.reader().entry(entry.index).unwrap();
            assert_eq!(found.decode().unwrap(), *entry);
        }
    }

    /// A bit that flips after the log was opened: the reader names the place and never hands out the payload.
    #[test]
    fn damage_that_comes_later_is_told_by_the_reader() {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(story(60));
        let path = segment(directory.path(), 2);
        let whole = fs::read(&path).unwrap();
        for byte in (64..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let mut cursor = world.log.reader().cursor_at(LogIndex(1));
            let mut entries = Vec::new();
            let error = loop {
                match cursor.next_block(LogIndex(60)) {
                    Ok(Some(block)) => {
                        entries.extend(block.frames.iter().map(|frame| frame.decode().unwrap()));
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            assert_eq!(entries, story(60)[..entries.len()], "byte {byte}");
            match error {
                None => assert_eq!(entries.len(), 60, "byte {byte} is behind the last frame"),
                Some(StorageError::Damaged { file, offset, .. }) => {
                    assert_eq!(file, path);
                    assert!((64..=as_u64(byte)).contains(&offset));
                }
                Some(other) => panic!("{other}"),
            }
        }
    }
}

mod damage {
    use super::*;

    /// What may be asked of a damaged log: the exact entries with only unacknowledged ones cut, or a refusal that
    /// names file and offset.
    #[derive(Debug, PartialEq, Eq)]
    enum Verdict {
        Opened { entries: u64 },
        Refused,
    }

    fn judge(directory: &Path, written: &[Entry]) -> Verdict {
        match open::recover(directory, IDENTITY, false) {
            Ok(recovered) => {
                let last = recovered.opened.last_index.get();
                let reader = LogReader {
                    segments: Arc::new(Segments::new(recovered.segments, Arc::new(Box::new(|_| {})))),
                };
                let entries = read_all(&reader, last).expect("what was opened can be read");
                assert_eq!(entries, written[..usize::try_from(last).unwrap()]);
                Verdict::Opened { entries: last }
            }
            Err(StorageError::Damaged { file, .. }) => {
                assert!(file.starts_with(directory), "{}", file.display());
                Verdict::Refused
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// A log of `count` entries in a few segments, each entry acknowledged alone. Clean: its durable mark is
    /// noted. Crashed: it was copied while the log was under load, with an old mark.
    fn written(count: u64, is_clean: bool) -> (TempDir, Vec<Entry>) {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.log.promise(EPOCH, 1);
        let promised = LogEvent::PromisePersisted(EPOCH);
        assert!(world.events.iter().any(|event| event == promised));
        let marks = copy(directory.path());
        for entry in story(count) {
            world.append(vec![entry]);
        }
        world.log.close();
        if !is_clean {
            fs::copy(marks.path().join("seat"), directory.path().join("seat")).unwrap();
        }
        (directory, story(count))
    }

    /// Entries that the files of a crashed log prove durable: all but the last, by the notes in the frames.
    const fn proven(count: u64, is_clean: bool) -> u64 {
        if is_clean { count } else { count - 1 }
    }

    #[test]
    fn a_torn_last_frame_is_cut() {
        let (directory, written) = written(20, false);
        let world = World::open_copy(directory.path());
        let (segment, place) = world.log.reader().find(LogIndex(20)).unwrap();
        let torn = copy(directory.path());
        let path = super::segment(torn.path(), segment.file.number);
        let mut bytes = fs::read(&path).unwrap();
        let middle = usize::try_from(place.offset).unwrap() + 70;
        bytes[middle..].fill(0);
        fs::write(&path, &bytes).unwrap();

        let world = World::open(torn.path());
        assert_eq!(world.opened.last_index, LogIndex(19));
        assert!(world.opened.cut_bytes >= 60, "{}", world.opened.cut_bytes);
        assert_eq!(world.read_all(19), written[..19]);
        drop(world);
        let rest = fs::read(&path).unwrap()[usize::try_from(place.offset).unwrap()..].to_vec();
        assert!(rest.iter().all(|byte| *byte == 0), "the rest is zeroed");
    }

    /// Red when damage is cut like a torn tail (sabotage `damage_cut`).
    #[test]
    fn a_damaged_frame_before_the_end_is_never_cut() {
        for is_clean in [true, false] {
            let (directory, _) = written(20, is_clean);
            let world = World::open_copy(directory.path());
            for index in 1..=proven(20, is_clean) {
                let (segment, place) = world.log.reader().find(LogIndex(index)).unwrap();
                let damaged = copy(directory.path());
                let path = super::segment(damaged.path(), segment.file.number);
                let mut bytes = fs::read(&path).unwrap();
                bytes[usize::try_from(place.offset).unwrap() + 60] ^= 1;
                fs::write(&path, &bytes).unwrap();
                let before = fs::read(&path).unwrap();
                let error = World::try_open(damaged.path(), small(), Arc::new(RealDisk))
                    .err()
                    .unwrap();
                let StorageError::Damaged { file, offset, damage } = &error else {
                    panic!("{error}");
                };
                assert_eq!((file, *offset), (&path, place.offset));
                let expected = Damage::Frame {
                    index: LogIndex(index),
                    durable: LogIndex(proven(20, is_clean)),
                };
                assert_eq!(*damage, expected);
                assert_eq!(fs::read(&path).unwrap(), before, "nothing was changed");
            }
        }
    }

    fn replicated() -> LogSettings {
        LogSettings {
            is_replicated: true,
            ..small()
        }
    }

    fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let list = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = list.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    /// Where others have it too, a log ends before its damage, knows what it lacks, also after it was opened again and
    /// has some of it, and forgets that when it is told to. Without others it is not opened in between.
    #[test]
    fn a_replicated_log_gives_up_what_is_damaged_and_notes_what_it_lacks() {
        for is_clean in [true, false] {
            let (directory, written) = written(20, is_clean);
            let world = World::open_copy(directory.path());
            for index in 1..=proven(20, is_clean) {
                let (segment, place) = world.log.reader().find(LogIndex(index)).unwrap();
                let damaged = copy(directory.path());
                let path = super::segment(damaged.path(), segment.file.number);
                let mut bytes = fs::read(&path).unwrap();
                bytes[usize::try_from(place.offset).unwrap() + 60] ^= 1;
                fs::write(&path, &bytes).unwrap();
                let open = |settings| World::try_open(damaged.path(), settings, Arc::new(RealDisk));

                let mut found = open(replicated()).unwrap();
                let kept = index - 1;
                assert_eq!(found.opened.last_index, LogIndex(kept));
                assert!(found.opened.commit <= LogIndex(kept));
                let lost = found.opened.lost.expect("it lacks something");
                assert_eq!(lost, found.opened.promised);
                let damage = found.opened.damage.take().expect("it was found now");
                assert!(
                    damage.contains(path.to_str().unwrap()) && damage.contains("offset"),
                    "{damage}"
                );
                assert_eq!(found.read_all(kept), written[..usize::try_from(kept).unwrap()]);
                let aside = path.with_extension("log.damaged");
                assert_eq!(fs::read(&aside).unwrap(), bytes, "for people to look at");
                found.append(vec![written[usize::try_from(kept).unwrap()].clone()]);
                found.log.close();

                let error = open(small()).err().unwrap();
                assert!(error.to_string().contains("lost"), "{error}");
                let mut again = open(replicated()).unwrap();
                assert_eq!((again.opened.lost, &again.opened.damage), (Some(lost), &None));
                let rest = &written[usize::try_from(index).unwrap()..];
                if !rest.is_empty() {
                    again.append(rest.to_vec());
                }
                again.log.forget_loss();
                again.log.close();

                let whole = open(small()).unwrap();
                assert_eq!((whole.opened.lost, whole.opened.last_index), (None, LogIndex(20)));
                assert_eq!(whole.read_all(20), written);
            }
        }
    }

    /// Every bit of every byte that is used of every file of a log that others have too, and every length: what is opened
    /// is what was written up to some entry, and when that is not all that was durable, it says so, and says it again
    /// after another start. Only a seat file without a whole copy is refused.
    #[test]
    fn a_replicated_log_with_any_damage_is_whole_or_knows_that_it_is_not() {
        let (directory, written) = written(16, true);
        let mut cases = 0;
        for (path, whole) in files(directory.path()) {
            let used = whole
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            let flips = (0..used * 8).map(|bit| {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                (format!("bit {bit}"), bytes)
            });
            let cuts = (0..=used).map(|length| (format!("length {length}"), whole[..length].to_vec()));
            for (what, bytes) in flips.chain(cuts) {
                let damaged = copy(directory.path());
                fs::write(damaged.path().join(path.file_name().unwrap()), bytes).unwrap();
                let what = format!("{what} of {}", path.display());
                let first = open::recover(damaged.path(), IDENTITY, true);
                let Some(opened) = opened_part(first, &written, &what) else {
                    assert!(path.ends_with("seat"), "{what}: refused");
                    continue;
                };
                let is_whole = opened.last_index == LogIndex(16);
                assert!(is_whole || opened.lost.is_some(), "{what}: {opened:?}");
                let again = open::recover(damaged.path(), IDENTITY, true);
                let again = opened_part(again, &written, &what).unwrap();
                assert_eq!(
                    (again.last_index, again.lost),
                    (opened.last_index, opened.lost),
                    "{what}"
                );
                cases += 1;
            }
        }
        assert!(cases > 10_000, "{cases} were opened");
    }

    /// What was opened, every entry of it as it was written; `None` when it was refused with file and offset.
    fn opened_part(
        recovered: Result<Recovered, StorageError>,
        written: &[Entry],
        what: &str,
    ) -> Option<Opened> {
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(StorageError::Damaged { .. }) => return None,
            Err(other) => panic!("{what}: {other}"),
        };
        let last = recovered.opened.last_index.get();
        let reader = LogReader {
            segments: Arc::new(Segments::new(recovered.segments, Arc::new(Box::new(|_| {})))),
        };
        let entries = read_all(&reader, last).expect("what was opened can be read");
        assert_eq!(entries, written[..usize::try_from(last).unwrap()], "{what}");
        Some(recovered.opened)
    }

    /// The process dies between any two steps of giving a part up: it is damage again, or a shorter log that knows
    /// what it lacks. What is put aside may come twice.
    #[test]
    fn a_crash_while_a_damaged_part_is_given_up_forgets_nothing() {
        let (directory, _) = written(20, true);
        let world = World::open_copy(directory.path());
        let (segment, place) = world.log.reader().find(LogIndex(7)).unwrap();
        let path = super::segment(directory.path(), segment.file.number);
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(place.offset).unwrap() + 60] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let before = files(directory.path());
        let given_up = copy(directory.path());
        drop(World::try_open(given_up.path(), replicated(), Arc::new(RealDisk)).unwrap());
        let after = files(given_up.path());
        let at = |path: &PathBuf| directory.path().join(path.file_name().unwrap());
        // The seat file, and what is put aside from the last file on: each prefix of that.
        let mut steps = vec![directory.path().join("seat")];
        let numbers = segment::numbers_in(directory.path()).unwrap();
        steps.extend(
            numbers
                .into_iter()
                .rev()
                .map(|number| super::segment(directory.path(), number)),
        );
        for done in 1..=steps.len() {
            let crashed = scratch();
            for (path, bytes) in &before {
                fs::write(crashed.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            for step in &steps[..done] {
                let place = crashed.path().join(step.file_name().unwrap());
                match after.iter().find(|(path, _)| at(path) == *step) {
                    Some((_, bytes)) => fs::write(&place, bytes).unwrap(),
                    None => fs::remove_file(&place).unwrap(),
                }
            }
            let opened = World::try_open(crashed.path(), replicated(), Arc::new(RealDisk))
                .unwrap()
                .opened;
            assert_eq!(opened.last_index, LogIndex(6), "after {done} steps");
            assert_eq!(opened.lost, Some(opened.promised), "after {done} steps");
        }
    }

    /// Every byte of every file, one bit flipped.
    #[test]
    fn a_flipped_bit_anywhere_is_cut_only_where_nothing_was_acknowledged() {
        for is_clean in [true, false] {
            let (directory, written) = written(16, is_clean);
            for file in segment::numbers_in(directory.path()).unwrap() {
                let name = segment::path_of(Path::new(""), file);
                let whole = fs::read(directory.path().join(&name)).unwrap();
                for byte in 0..whole.len() {
                    let damaged = copy(directory.path());
                    let mut bytes = whole.clone();
                    bytes[byte] ^= 1 << (byte % 8);
                    fs::write(damaged.path().join(&name), bytes).unwrap();
                    let verdict = judge(damaged.path(), &written);
                    let proven = proven(16, is_clean);
                    let is_right = match verdict {
                        Verdict::Opened { entries } => entries >= proven,
                        Verdict::Refused => true,
                    };
                    assert!(
                        is_right,
                        "clean {is_clean}, {} byte {byte}: {verdict:?}",
                        name.display()
                    );
                }
            }
        }
    }

    /// Every file cut at every length. Without a noted mark, what a cut has removed entirely cannot be missed,
    /// but a file that ends inside a frame is still told from a torn write.
    #[test]
    fn a_file_cut_anywhere_is_refused_or_loses_nothing_that_is_known() {
        for is_clean in [true, false] {
            let (directory, written) = written(16, is_clean);
            let numbers = segment::numbers_in(directory.path()).unwrap();
            for file in &numbers {
                let name = segment::path_of(Path::new(""), *file);
                let whole = fs::read(directory.path().join(&name)).unwrap();
                for length in 0..whole.len() {
                    let damaged = copy(directory.path());
                    fs::write(damaged.path().join(&name), &whole[..length]).unwrap();
                    let verdict = judge(damaged.path(), &written);
                    let is_right = match verdict {
                        Verdict::Opened { entries } if is_clean => entries == 16,
                        // A file before the last one in use: later frames prove it.
                        Verdict::Opened { entries } => {
                            let world = World::open_copy(directory.path());
                            let (segment, _) = world.log.reader().find(LogIndex(16)).unwrap();
                            entries == 16 || *file == segment.file.number
                        }
                        Verdict::Refused => true,
                    };
                    assert!(
                        is_right,
                        "clean {is_clean}, {} at {length}: {verdict:?}",
                        name.display()
                    );
                }
            }
        }
    }

    #[test]
    fn a_missing_file_is_refused() {
        let (directory, _) = written(40, true);
        let last_used = {
            let world = World::open_copy(directory.path());
            let (segment, _) = world.log.reader().find(LogIndex(40)).unwrap();
            segment.file.number
        };
        let numbers = segment::numbers_in(directory.path()).unwrap();
        for number in &numbers {
            let damaged = copy(directory.path());
            let path = segment(damaged.path(), *number);
            fs::remove_file(&path).unwrap();
            let result = World::try_open(damaged.path(), small(), Arc::new(RealDisk));
            if *number > last_used {
                assert_eq!(result.unwrap().opened.last_index, LogIndex(40));
                continue;
            }
            let error = result.err().unwrap();
            let StorageError::Damaged { file, offset, .. } = &error else {
                panic!("{error}");
            };
            // Without a segment behind it, all that is known is where the log ends too early.
            let is_between = numbers.last() != Some(number);
            assert!(!is_between || (file, *offset) == (&path, 0), "{error}");
        }
        let damaged = copy(directory.path());
        fs::remove_file(damaged.path().join("seat")).unwrap();
        let error = World::try_open(damaged.path(), small(), Arc::new(RealDisk))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("seat is damaged at offset 0"),
            "{error}"
        );
    }

    #[test]
    fn a_lost_write_in_what_looks_like_a_clean_end_is_damage() {
        let (directory, _) = written(20, false);
        let world = World::open_copy(directory.path());
        let (segment, place) = world.log.reader().find(LogIndex(18)).unwrap();
        let (last_segment, last_place) = world.log.reader().find(LogIndex(19)).unwrap();
        let damaged = copy(directory.path());
        let path = super::segment(damaged.path(), segment.file.number);
        let mut bytes = fs::read(&path).unwrap();
        let from = usize::try_from(place.offset).unwrap();
        let to = if last_segment.file.number == segment.file.number {
            usize::try_from(last_place.offset).unwrap()
        } else {
            bytes.len()
        };
        bytes[from..to].fill(0);
        fs::write(&path, &bytes).unwrap();
        let error = World::try_open(damaged.path(), small(), Arc::new(RealDisk))
            .err()
            .unwrap();
        assert!(matches!(error, StorageError::Damaged { offset, .. } if offset == place.offset));
    }

    #[test]
    fn what_follows_a_torn_tail_is_never_taken_for_later_entries() {
        let (directory, written) = written(20, false);
        // A batch of three was torn: its first frame is gone, the other two are whole.
        let crashed = copy(directory.path());
        let mut world = World::open(crashed.path());
        let batch: Vec<_> = (21..=23).map(|index| entry(index, 200 + index, 1)).collect();
        world.append(batch);
        let (segment, place) = world.log.reader().find(LogIndex(21)).unwrap();
        drop(world);
        let path = super::segment(crashed.path(), segment.file.number);
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(place.offset).unwrap() + 20] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let marks = directory.path().join("seat");
        fs::copy(marks, crashed.path().join("seat")).unwrap();

        let mut world = World::open(crashed.path());
        assert_eq!(world.opened.last_index, LogIndex(20));
        // An entry of just the size of the torn one: the other two would follow it.
        world.append(vec![entry(21, 400, 1)]);
        drop(world);
        let world = World::open(crashed.path());
        assert_eq!(world.opened.last_index, LogIndex(21));
        assert_eq!(world.read_all(20), written);
    }

    #[test]
    fn files_of_another_database_seat_or_release_are_refused() {
        let (directory, _) = written(4, true);
        let other = |identity: Identity| {
            let disk: Arc<dyn Disk> = Arc::new(RealDisk);
            SeatLog::open_on(directory.path(), identity, small(), Box::new(drop), disk)
                .err()
                .unwrap()
        };
        let database = Uuid::from_u128(1);
        let error = other(Identity { database, ..IDENTITY });
        assert!(matches!(error, StorageError::WrongDatabase { .. }), "{error}");
        let seat = SeatId {
            group: GroupId(9),
            ..SEAT
        };
        let error = other(Identity { seat, ..IDENTITY });
        assert!(matches!(error, StorageError::WrongSeat { .. }), "{error}");

        let path = segment(directory.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = other(IDENTITY);
        assert_eq!(
            error.to_string(),
            format!(
                "{} has format version 2, this release reads up to 1",
                path.display()
            )
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Any number of bytes anywhere overwritten with anything, in any of the files.
        #[test]
        fn overwritten_bytes_are_cut_only_where_nothing_was_acknowledged(
            is_clean: bool,
            file in 0..8_usize,
            at in 0.0..1.0_f64,
            garbage in prop::collection::vec(any::<u8>(), 1..600),
        ) {
            let (directory, written) = written(24, is_clean);
            let numbers = segment::numbers_in(directory.path()).unwrap();
            let number = numbers[file % numbers.len()];
            let path = segment(directory.path(), number);
            let mut bytes = fs::read(&path).unwrap();
            #[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss,
                clippy::cast_precision_loss, reason = "any position will do")]
            let from = (at * bytes.len() as f64) as usize;
            for (byte, garbage) in bytes[from..].iter_mut().zip(&garbage) {
                *byte = *garbage;
            }
            let world = World::open_copy(directory.path());
            let (last, _) = world.log.reader().find(LogIndex(24)).unwrap();
            fs::write(&path, bytes).unwrap();
            if let Verdict::Opened { entries } = judge(directory.path(), &written) {
                // Garbage can swallow the notes that follow it, up to the end.
                let swallowed = !is_clean && number == last.file.number;
                prop_assert!(entries >= proven(24, is_clean) || swallowed);
            }
        }
    }
}

mod full_disk {
    use super::*;

    /// A disk that says what it is told to.
    #[derive(Debug, Default)]
    struct Dial {
        is_full: AtomicBool,
    }

    impl Dial {
        fn turn(&self, is_full: bool) {
            self.is_full.store(is_full, Ordering::SeqCst);
        }
    }

    impl Disk for Dial {
        fn sync(&self, file: &segment::SegmentFile) -> io::Result<()> {
            file.sync()
        }

        fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
            free_bytes(directory)
        }

        fn claim(&self, file: &segment::SegmentFile, from: u64, to: u64) -> io::Result<()> {
            if self.is_full.load(Ordering::SeqCst) {
                // What a real disk does: some of it is claimed before it is full.
                file.claim(from, from.midpoint(to))?;
                return Err(io::Error::from_raw_os_error(28));
            }
            file.claim(from, to)
        }
    }

    /// Asks for room until the answer is not "soon".
    fn admit(world: &World, bytes: u64) -> Result<Admission, NoRoom> {
        loop {
            match world.log.admit(bytes) {
                Err(NoRoom::Soon) => while world.events.recv().unwrap() != LogEvent::RoomChanged {},
                answer => return answer,
            }
        }
    }

    /// Admits and appends until there is no room; returns the last index and the refusal.
    fn fill(world: &mut World, from: u64) -> (u64, NoRoom) {
        let mut index = from;
        loop {
            let next = entry(index, index * 5, 2);
            match admit(world, SeatLog::bytes_on_disk(next.body_bytes())) {
                Ok(admission) => {
                    world.append(vec![next]);
                    drop(admission);
                    index += 1;
                }
                Err(full) => return (index - 1, full),
            }
        }
    }

    /// Red when the log writes into what is not claimed, or never tries again.
    #[test]
    fn writes_are_refused_while_the_disk_is_full_and_resume_by_themselves() {
        let directory = scratch();
        let disk = Arc::new(Dial::default());
        let as_disk: Arc<dyn Disk> = Arc::<Dial>::clone(&disk);
        let mut world = World::try_open(directory.path(), small(), as_disk).unwrap();
        let mut last = 0;
        for round in 1..4 {
            disk.turn(true);
            let refusal;
            (last, refusal) = fill(&mut world, last + 1);
            assert!(matches!(refusal, NoRoom::DiskFull { .. }));
            assert_eq!(as_u64(world.read_all(last).len()), last, "reads go on");
            let again = admit(&world, 600);
            assert!(matches!(again, Err(NoRoom::DiskFull { .. })), "round {round}");
            disk.turn(false);
            assert!(
                admit(&world, 600).is_ok(),
                "no refusal is older than the disk's state"
            );
        }
        // What nobody asked room for still finds the reserve.
        disk.turn(true);
        (last, _) = fill(&mut world, last + 1);
        world.append(vec![epoch_start(last + 1)]);
        world.log.close();
        let world = World::open(directory.path());
        assert_eq!(world.opened.last_index, LogIndex(last + 1));
        assert_eq!(as_u64(world.read_all(last + 1).len()), last + 1);
    }

    #[test]
    fn what_is_admitted_always_fits_also_across_segments() {
        let directory = scratch();
        let disk = Arc::new(Dial::default());
        let as_disk: Arc<dyn Disk> = Arc::<Dial>::clone(&disk);
        let mut world = World::try_open(directory.path(), small(), as_disk).unwrap();
        world.append(story(3));
        disk.turn(true);
        // Admissions of different sizes are held together, and only then handed over.
        let mut admissions = Vec::new();
        let mut entries = Vec::new();
        for index in 4..200 {
            let next = entry(index, index * 20, index % 9 + 1);
            match world.log.admit(SeatLog::bytes_on_disk(next.body_bytes())) {
                Ok(admission) => {
                    admissions.push(admission);
                    entries.push(next);
                }
                Err(_) => break,
            }
        }
        assert!(!entries.is_empty());
        let last = entries.last().unwrap().index.get();
        world.append(entries);
        drop(admissions);
        assert_eq!(as_u64(world.read_all(last).len()), last);
    }

    #[test]
    fn an_admission_that_is_given_up_gives_its_room_back() {
        let directory = scratch();
        let world = World::open(directory.path());
        let room = loop {
            let room = world.log.room();
            if room > 1000 {
                break room;
            }
            thread::yield_now();
        };
        let admission = world.log.admit(500).unwrap();
        assert!(world.log.room() <= room.max(4096) - 500);
        drop(admission);
        assert!(world.log.room() >= room);
    }

    #[test]
    fn space_that_must_stay_free_is_not_claimed() {
        let directory = scratch();
        let settings = LogSettings {
            keep_free_bytes: u64::MAX / 2,
            ..small()
        };
        let mut world = World::try_open(directory.path(), settings, Arc::new(RealDisk)).unwrap();
        // The first piece is claimed while the log is made.
        let (_, refusal) = fill(&mut world, 1);
        assert!(matches!(refusal, NoRoom::DiskFull { keep_free_bytes, .. } if keep_free_bytes > 0));
    }
}
