//! The index as a whole: it answers like a list of all events, however it was written, stopped, lost or rebuilt.

use super::*;
use crate::storage::files::as_u64;
use crate::storage::test_entries::{entry_of, epoch_start, new_event, scratch};
use crate::storage::{DataDir, FreshIds, LogSettings, Opened, SeatLog};
use proptest::prelude::*;
use rdb_proto::cursor::{CursorAct, CursorChange};
use rdb_proto::entry::EntryBody;
use rdb_proto::event::EventKind;
use rdb_proto::types::{GroupId, SeatId, Side};
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;
use uuid::Uuid;

const SEAT: SeatId = SeatId {
    group: GroupId(0),
    side: Side::Zero,
};

/// A window and overlays so small that a test sees them overflow.
fn small() -> IndexSettings {
    IndexSettings {
        event_id_window: 50,
        overlay_runs: 40,
        ..IndexSettings::default()
    }
}

/// A log and its index in one data directory.
struct World {
    log: SeatLog,
    opened: Opened,
    events: Receiver<crate::storage::LogEvent>,
    store: Option<IndexStore>,
    index: Arc<SledIndex>,
    ticket: u64,
    // Dropped last: it holds the lock.
    data_dir: DataDir,
}

impl World {
    fn open(directory: &Path) -> Self {
        let fresh = FreshIds {
            database: Uuid::from_u128(1),
            directory: Uuid::from_u128(2),
        };
        let data_dir = DataDir::open(directory, fresh).unwrap();
        let (tx, events) = channel();
        let settings = LogSettings {
            segment_bytes: 1 << 20,
            ahead_bytes: 1 << 16,
            keep_free_bytes: 0,
            is_replicated: false,
        };
        let on_event: crate::storage::OnLogEvent = Box::new(move |event| {
            // The test may have seen enough.
            let _sent = tx.send(event);
        });
        let path = data_dir.seat_path(SEAT);
        let (log, opened) = SeatLog::open(&path, data_dir.database(), SEAT, settings, on_event).unwrap();
        let store = IndexStore::open(&data_dir, small()).unwrap();
        let index = store.seat(SEAT, &log.reader(), opened.last_index).unwrap();
        Self {
            log,
            opened,
            events,
            store: Some(store),
            index,
            ticket: 0,
            data_dir,
        }
    }

    /// Appends to the log and applies to the index.
    fn append(&mut self, entries: &[Entry]) {
        let entries: Vec<_> = entries.iter().cloned().map(Arc::new).collect();
        self.log_only(&entries);
        self.index.apply(&entries).unwrap();
    }

    fn log_only(&mut self, entries: &[Arc<Entry>]) {
        self.ticket += 1;
        let ticket = crate::storage::Ticket(self.ticket);
        self.log.persist(ticket, None, entries.to_vec());
        let persisted = crate::storage::LogEvent::Persisted(ticket);
        while self.events.recv().unwrap() != persisted {}
    }

    fn catch_up(&self) {
        catch_up(
            &*self.index,
            &self.log.reader(),
            self.opened.last_index,
            &mut |_| {},
        )
        .unwrap();
    }

    fn stop(mut self) {
        self.store.take().unwrap().close().unwrap();
        self.log.close();
    }

    /// The files as a killed process leaves them: nothing is written or marked on purpose.
    fn killed(&self) -> TempDir {
        self.index.wait_until_written();
        copy_tree(self.data_dir.path())
    }
}

/// Entries 2 to `count + 1` after an epoch start: appends to some keys, with seqs that have holes.
fn story(count: u64) -> Vec<Entry> {
    story_of((0..count).map(|n| (n * n % 7, n % 4 + 1, n % 11 == 3)))
}

/// One entry each: which key, how many events, whether it deletes.
fn story_of(shape: impl Iterator<Item = (u64, u64, bool)>) -> Vec<Entry> {
    let mut versions = std::collections::BTreeMap::new();
    let mut seq = 1;
    let mut entries = vec![epoch_start(1)];
    for ((key, events, deletes), index) in shape.zip(2..) {
        let version: &mut u64 = versions.entry(key).or_insert(1);
        let mut new_events: Vec<_> = (seq..seq + events).map(|seq| new_event(seq, 9)).collect();
        if deletes {
            new_events.truncate(1);
            new_events[0].kind = EventKind::Delete;
        }
        let added = as_u64(new_events.len());
        let name = format!("key/{key:02}");
        entries.push(entry_of(index, &name, seq, *version, new_events));
        *version += added;
        seq += added + index % 3;
    }
    entries
}

fn name(key: u64) -> KeyName {
    KeyName::new("default", &format!("key/{key:02}")).unwrap()
}

/// Every event of a key, as a list would have it, with whether it deletes.
fn located(entries: &[Entry], key: &KeyName) -> Vec<(Located, bool)> {
    let mut all = Vec::new();
    for entry in entries {
        let EntryBody::Events(events) = &entry.body else {
            continue;
        };
        for n in (0..events.count()).filter(|_| events.name == *key) {
            let located = Located {
                version: events.first_version.plus(n),
                seq: events.first_seq.plus(n),
                index: entry.index,
                position: u32::try_from(n).unwrap(),
            };
            all.push((located, events.deletes && n + 1 == events.count()));
        }
    }
    all
}

/// Compares every answer about keys with what the list of entries says.
fn check(index: &dyn KeyIndex, entries: &[Entry], keys: u64) {
    assert_eq!(index.applied().get(), as_u64(entries.len()));
    let listed: Vec<ListedKey> = (0..keys)
        .filter_map(|key| check_key(index, entries, name(key)))
        .collect();
    check_listing(index, &listed);
}

/// Returns how the key must be listed; `None` when it was never written.
fn check_key(index: &dyn KeyIndex, entries: &[Entry], key: KeyName) -> Option<ListedKey> {
    let all = located(entries, &key);
    let standing = all.last().map(|(last, is_deleted)| Standing {
        version: last.version,
        seq: last.seq,
        is_deleted: *is_deleted,
    });
    assert_eq!(
        index.standing(&key).unwrap(),
        standing.unwrap_or_default(),
        "{key}"
    );
    let all: Vec<Located> = all.into_iter().map(|(located, _)| located).collect();
    assert_eq!(index.latest(&key).unwrap(), all.last().copied(), "{key}");
    let last_seq = entries.iter().rev().find_map(Entry::seqs);
    let last_seq = last_seq.map_or(0, |(_, last)| last.get());
    for seq in (0..=last_seq + 2).step_by(3).map(Seq) {
        let expected = all.iter().rev().find(|located| located.seq <= seq).copied();
        assert_eq!(index.at_or_before(&key, seq).unwrap(), expected, "{key} at {seq}");
    }
    let froms = (0..=as_u64(all.len()) + 1).step_by(all.len() / 12 + 1);
    for from in froms.chain([u64::MAX]).map(Version) {
        for limit in [1, 5, all.len() + 1] {
            let found = |direction| index.versions(&key, from, direction, limit).unwrap();
            let after = all.iter().filter(|located| located.version >= from);
            let before = all.iter().rev().filter(|located| located.version <= from);
            let forward = found(Direction::Forward);
            assert!(
                forward.iter().eq(after.take(limit)),
                "{key} {limit} from {from}: {forward:?}"
            );
            let backward = found(Direction::Backward);
            assert!(
                backward.iter().eq(before.take(limit)),
                "{key} {limit} back from {from}: {backward:?}"
            );
        }
    }
    standing.map(|standing| ListedKey { name: key, standing })
}

fn check_listing(index: &dyn KeyIndex, listed: &[ListedKey]) {
    let collection = Collection::default();
    let keys_of = |prefix, after, limit| index.keys(&collection, prefix, after, limit).unwrap();
    assert_eq!(keys_of("", None, 1000), listed);
    assert_eq!(keys_of("key/", None, 3), listed[..3.min(listed.len())]);
    let behind = listed.iter().filter(|key| key.name.key.as_str() > "key/02");
    assert!(keys_of("k", Some("key/02"), 1000).iter().eq(behind));
    assert!(keys_of("other", None, 10).is_empty());
    let elsewhere = Collection::new("default2").unwrap();
    assert!(index.keys(&elsewhere, "", None, 10).unwrap().is_empty());
}

/// The ids of exactly the last `window` events are known.
fn check_window(index: &dyn KeyIndex, entries: &[Entry], window: usize) {
    let mut ids = Vec::new();
    for entry in entries {
        if let EntryBody::Events(events) = &entry.body {
            for (id, n) in events.event_ids.iter().zip(0..) {
                let (seq, version) = (events.first_seq.plus(n), events.first_version.plus(n));
                ids.push((*id, events.name.clone(), seq, version));
            }
        }
    }
    let forgotten = ids.len().saturating_sub(window);
    for (n, (id, name, seq, version)) in ids.iter().enumerate() {
        let expected = (n >= forgotten).then_some(KnownAt {
            seq: *seq,
            version: *version,
            is_same_key: true,
        });
        assert_eq!(index.known(id, name), expected, "event {n} of {}", ids.len());
        let other = KeyName::new("x", "y").unwrap();
        assert_eq!(
            index.known(id, &other).map(|known| known.is_same_key),
            expected.map(|_| false)
        );
    }
    let from = if forgotten == 0 { Seq(1) } else { ids[forgotten].2 };
    assert_eq!(index.remembered_from(), from);
}

#[test]
fn an_index_answers_like_a_list_while_it_is_written_and_after_every_kind_of_stop() {
    let directory = scratch();
    let entries = story(700);
    let mut world = World::open(directory.path());
    for (n, chunk) in entries.chunks(35).enumerate() {
        world.append(chunk);
        if n % 5 == 0 {
            check(&*world.index, &entries[..(n * 35) + chunk.len()], 8);
        }
    }
    check(&*world.index, &entries, 8);
    check_window(&*world.index, &entries, 50);
    world.stop();

    let world = World::open(directory.path());
    assert_eq!(
        world.index.applied(),
        LogIndex(701),
        "believed after a clean stop"
    );
    check(&*world.index, &entries, 8);
    check_window(&*world.index, &entries, 50);
    world.stop();

    let mut world = World::open(directory.path());
    for entry in &story(1000)[701..] {
        world.append(std::slice::from_ref(entry));
    }
    let entries = story(1000);
    let killed = world.killed();
    drop(world);
    let world = World::open(killed.path());
    let applied = world.index.applied();
    assert!(
        applied > LogIndex(701),
        "believed as far as it goes: the machine was not booted since ({applied})"
    );
    world.catch_up();
    check(&*world.index, &entries, 8);
    check_window(&*world.index, &entries, 50);
}

type Harm = fn(&Path);

#[test]
fn a_lost_or_damaged_index_is_rebuilt_from_the_log() {
    let directory = scratch();
    let entries = story(300);
    let mut world = World::open(directory.path());
    world.append(&entries);
    world.stop();

    let harms: [(&str, Harm); 5] = [
        ("removed", |path| fs::remove_dir_all(path.join("index")).unwrap()),
        ("a file in its place", |path| {
            fs::remove_dir_all(path.join("index")).unwrap();
            fs::create_dir(path.join("index")).unwrap();
            fs::write(path.join("index/db"), vec![7; 100_000]).unwrap();
            fs::write(path.join("index/conf"), "nonsense").unwrap();
        }),
        ("no state", |path| {
            fs::remove_file(path.join("index.json")).unwrap();
        }),
        ("another boot", |path| {
            let state = r#"{"format_version":1,"is_clean":false,"boot_id":"other"}"#;
            fs::write(path.join("index.json"), state).unwrap();
        }),
        ("another format", |path| {
            let state = r#"{"format_version":2,"is_clean":true,"boot_id":""}"#;
            fs::write(path.join("index.json"), state).unwrap();
        }),
    ];
    for (harm, damage) in harms {
        damage(directory.path());
        let world = World::open(directory.path());
        assert_eq!(world.index.applied(), LogIndex::ZERO, "{harm}");
        let mut told = Vec::new();
        let reader = world.log.reader();
        catch_up(&*world.index, &reader, world.opened.last_index, &mut |progress| {
            told.push(progress);
        })
        .unwrap();
        let last = Progress {
            applied: LogIndex(301),
            target: LogIndex(301),
        };
        assert_eq!(told.last(), Some(&last), "{harm}");
        check(&*world.index, &entries, 8);
        check_window(&*world.index, &entries, 50);
        world.stop();
    }
}

/// An index that is ahead of its log, or of another log, is of no use: the log decides.
#[test]
fn an_index_that_does_not_fit_its_log_starts_empty() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    world.append(&story(100));
    world.stop();
    let index = copy_index(directory.path());

    for (what, entries) in [
        ("shorter log", story(50)),
        ("another log", story_of((0..100).map(|n| (n % 3, 1, false)))),
    ] {
        let other = scratch();
        let mut world = World::open(other.path());
        world.append(&entries);
        world.stop();
        put_index(&index, other.path());
        let world = World::open(other.path());
        assert_eq!(world.index.applied(), LogIndex::ZERO, "{what}");
        world.catch_up();
        check(&*world.index, &entries, 8);
    }
}

/// A kill at any moment leaves what was written up to some key, and an older mark of what was applied. Applying
/// again from there must change nothing.
#[test]
fn applying_again_what_is_partly_there_changes_nothing() {
    let directory = scratch();
    let entries = story(900);
    let mut world = World::open(directory.path());
    world.append(&entries[..400]);
    world.stop();
    let older = copy_index(directory.path());
    let world = {
        let mut world = World::open(directory.path());
        world.append(&entries[400..]);
        world
    };
    world.stop();

    // The newer heads and chunks under the older mark.
    let newer = sled::open(directory.path().join("index")).unwrap();
    let newer_tree = newer.open_tree("0.0").unwrap();
    let meta = {
        let older = sled::open(older.path().join("index")).unwrap();
        older.open_tree("0.0").unwrap().get(b"m").unwrap().unwrap()
    };
    newer_tree.insert(b"m", meta).unwrap();
    drop(newer_tree);
    drop(newer);
    store::await_end_of_sled(&directory.path().join("index")).unwrap();
    let mut world = World::open(directory.path());
    assert_eq!(world.index.applied(), LogIndex(400));
    let again: Vec<_> = entries[400..].iter().cloned().map(Arc::new).collect();
    for chunk in again.chunks(90) {
        world.index.apply(chunk).unwrap();
    }
    check(&*world.index, &entries, 8);
    world.ticket = 9;
    world.stop();
    check(&*World::open(directory.path()).index, &entries, 8);
}

/// Claims, acknowledgements, releases, seeks and an end of three names, from the entry after the epoch start on.
fn story_of_names() -> Vec<Entry> {
    let consumer = Uuid::from_u128;
    let claim = |n, replaces| CursorAct::Claim {
        consumer: consumer(n),
        replaces,
        position: Seq(1),
    };
    let done = |generation, position| CursorAct::Acknowledge {
        generation,
        position: Seq(position),
    };
    let acts = [
        ("a", claim(1, 0)),
        ("b", claim(1, 0)),
        ("a", done(2, 5)),
        ("c", claim(1, 0)),
        ("b", CursorAct::Forget { replaces: 3 }),
        ("b", claim(2, 0)),
        ("a", CursorAct::Release { generation: 2 }),
        ("a", claim(2, 2)),
        ("b", done(7, 9)),
        (
            "c",
            CursorAct::Seek {
                position: Seq(0),
                replaces: 5,
            },
        ),
        ("a", done(9, 9)),
        ("c", CursorAct::Forget { replaces: 11 }),
    ];
    let entry = |(index, (name, act)): (u64, (&str, CursorAct))| Entry {
        index: LogIndex(index),
        epoch: crate::storage::test_entries::EPOCH,
        body: EntryBody::Cursor(Arc::new(CursorChange {
            name: name.to_owned(),
            act,
        })),
    };
    let changes = (2..).zip(acts).map(entry);
    [epoch_start(1)].into_iter().chain(changes).collect()
}

/// The same of cursors. Red when a change counts that stands before what its name was changed by last.
#[test]
fn cursors_that_are_partly_newer_than_the_mark_come_out_the_same() {
    let directory = scratch();
    let entries = story_of_names();
    let index_of = |directory: &Path| {
        let index = directory.join("index");
        let sled = sled::open(&index).unwrap();
        let tree = sled.open_tree("0.0").unwrap();
        (index, sled, tree)
    };
    // What is on disk once each entry was the last one.
    let mut stages: Vec<(TempDir, Vec<(sled::IVec, sled::IVec)>)> = Vec::new();
    for entry in &entries {
        let mut world = World::open(directory.path());
        world.ticket = entry.index.get();
        world.append(std::slice::from_ref(entry));
        world.stop();
        let copy = copy_index(directory.path());
        let (index, sled, tree) = index_of(directory.path());
        let cursors = tree
            .scan_prefix(runs::CURSOR_PREFIX)
            .map(Result::unwrap)
            .collect();
        drop((tree, sled));
        store::await_end_of_sled(&index).unwrap();
        stages.push((copy, cursors));
    }
    let expected = World::open(directory.path()).index.cursors("", 9);
    let names: Vec<&str> = expected.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["a", "b"]);

    let last = stages.len() - 1;
    for older in 0..last {
        for newer in [(older + 2).min(last), last] {
            for written in 0..=stages[newer].1.len() {
                put_index(&stages[older].0, directory.path());
                let (index, sled, tree) = index_of(directory.path());
                for (name, cursor) in &stages[newer].1[..written] {
                    tree.insert(name, cursor).unwrap();
                }
                drop((tree, sled));
                store::await_end_of_sled(&index).unwrap();
                let world = World::open(directory.path());
                assert_eq!(world.index.applied(), entries[older].index);
                world.catch_up();
                let what = format!("{written} names of stage {newer} under stage {older}");
                assert_eq!(world.index.cursors("", 9), expected, "{what}");
                world.stop();
            }
        }
    }
    assert_eq!(World::open(directory.path()).index.cursors("", 9), expected);
}

fn copy_index(from: &Path) -> TempDir {
    let to = scratch();
    put(from, to.path());
    to
}

fn put_index(from: &TempDir, to: &Path) {
    fs::remove_dir_all(to.join("index")).unwrap();
    put(from.path(), to);
}

fn copy_tree(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
            if file.path().is_dir() {
                copy(&file.path(), &to.join(file.file_name()));
            } else {
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    }
    let to = scratch();
    copy(from, to.path());
    to
}

fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("index")).unwrap();
    fs::copy(from.join("index.json"), to.join("index.json")).unwrap();
    for file in fs::read_dir(from.join("index")).unwrap().map(Result::unwrap) {
        if file.path().is_file() {
            fs::copy(file.path(), to.join("index").join(file.file_name())).unwrap();
        }
    }
}

#[test]
fn a_window_is_the_same_after_any_restart() {
    let entries = story(120);
    for count in [2, 10, 17, 40, 121] {
        let directory = scratch();
        let mut world = World::open(directory.path());
        world.append(&entries[..count]);
        check_window(&*world.index, &entries[..count], 50);
        world.stop();
        let mut world = World::open(directory.path());
        check_window(&*world.index, &entries[..count], 50);
        for n in count..entries.len() {
            world.append(&entries[n..=n]);
        }
        check_window(&*world.index, &entries, 50);
    }
}

#[test]
fn a_listing_goes_over_many_pages_of_old_and_new_keys() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    // Even keys go to sled, odd ones stay in memory; some are in both.
    let even = (0..900).map(|n| (n * 2, 1, false));
    let odd = (0..30).map(|n| (n * 60 + 1, 1, n % 3 == 0)).chain([(8, 1, true)]);
    let entries = story_of(even.chain(odd));
    let (first, second) = entries.split_at(901);
    world.append(first);
    world.stop();
    let mut world = World::open(directory.path());
    world.append(second);
    let mut expected: Vec<String> = (0..900)
        .map(|n| n * 2)
        .chain((0..30).map(|n| n * 60 + 1))
        .map(|key| format!("key/{key:02}"))
        .collect();
    expected.sort_unstable();
    for limit in [1, 7, 250, 256, 257, 10_000] {
        let mut listed: Vec<String> = Vec::new();
        loop {
            let after = listed.last().map(String::as_str);
            let page = world
                .index
                .keys(&Collection::default(), "", after, limit)
                .unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit);
            listed.extend(page.iter().map(|key| key.name.key.as_str().to_owned()));
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    assert!(world.index.standing(&name(8)).unwrap().is_deleted);
}

#[test]
fn a_closed_index_refuses_to_answer() {
    let directory = scratch();
    let mut world = World::open(directory.path());
    world.append(&story(100));
    let index = Arc::clone(&world.index);
    world.stop();
    let error = index.standing(&name(99)).unwrap_err();
    assert!(error.to_string().ends_with("failed: it is closed"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any appends, any stops in between; the twin in memory answers the same.
    #[test]
    fn sled_and_memory_agree(
        shape in prop::collection::vec((0..6_u64, 1..30_u64, prop::bool::weighted(0.1)), 1..300),
        stops in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4),
    ) {
        let mut directory = scratch();
        let entries = story_of(shape.into_iter());
        let memory = MemoryIndex::new(50);
        let twin: Vec<_> = entries.iter().cloned().map(Arc::new).collect();
        memory.apply(&twin).unwrap();
        check(&memory, &entries, 6);
        check_window(&memory, &entries, 50);

        let mut stops: Vec<_> = stops.iter().map(|(at, clean)| (at.index(entries.len()), *clean)).collect();
        stops.sort_unstable();
        let mut world = World::open(directory.path());
        let mut done = 0;
        for (at, clean) in stops {
            world.append(&entries[done..at.max(done)]);
            done = at.max(done);
            if clean {
                world.stop();
            } else {
                let killed = world.killed();
                drop(world);
                directory = killed;
            }
            world = World::open(directory.path());
            world.catch_up();
        }
        world.append(&entries[done..]);
        check(&*world.index, &entries, 6);
        check_window(&*world.index, &entries, 50);
    }
}
