//! Damaged files of a node that was stopped (DESIGN 8): either the damage is at an unacknowledged tail and is cut,
//! or the node refuses to serve and names file and offset. A member of a cluster gets it from the others. Never a silent
//! loss, never a wrong payload.
#![cfg(test)]

use rdb_proto::event::Event;
use rdb_tests::cluster::Cluster;
use rdb_tests::files::{files_below, log_segments};
use rdb_tests::process::{Ended, Node, Settings};
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::wire::append_of;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A data directory as a node left it, and what was in it.
struct Specimen {
    dir: tempfile::TempDir,
    settings: Settings,
    events: Vec<Event>,
}

impl Specimen {
    /// Everything in it was acknowledged.
    async fn new(stop: impl AsyncFnOnce(Node)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::new(dir.path());
        let node = settings.start().await;
        let mut api = node.api().await;
        for n in 0..40_usize {
            api.write(
                &format!("k{}", n % 5),
                &format!("payload {n} {}", "x".repeat(n * 37)),
            )
            .await
            .unwrap();
            if n % 8 == 0 {
                api.append(append_of("many", &["a", "b", "c"])).await.unwrap();
            }
        }
        api.delete("k1").await.unwrap();
        let events = api.events_after(0).await.unwrap();
        stop(node).await;
        Self {
            dir,
            settings,
            events,
        }
    }

    /// Files of the data directory whose path from it passes, ascending.
    fn files(&self, passes: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = files_below(self.dir.path());
        found.retain(|path| passes(path.strip_prefix(self.dir.path()).unwrap().to_str().unwrap()));
        found
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.files(|path| {
            path.contains("segment-") && Path::new(path).extension().is_some_and(|e| e == "log")
        })
    }

    fn seat_files(&self) -> Vec<PathBuf> {
        self.files(|path| path.starts_with("seats/") && path.ends_with("/seat"))
    }

    /// Starts the node on the damaged files.
    ///
    /// A node that starts must show the events, but for at most `lost` at the end; one that refuses must name the
    /// file and an offset, and leave the file as it is. Whether it refused.
    async fn start(&self, damaged: &Path, what: &str, lost: usize) -> bool {
        let bytes = fs::read(damaged).unwrap();
        match self.settings.try_start().await {
            Ok(node) => {
                let events = node.api().await.events_after(0).await.unwrap();
                node.kill().await;
                let kept = events.len();
                assert!(
                    kept + lost >= self.events.len(),
                    "{what}: {kept} of {} events",
                    self.events.len()
                );
                // What a seat lost at its end may stand before events of the other seat.
                let mut written = self.events.iter();
                assert!(
                    events.iter().all(|event| written.any(|other| other == event)),
                    "{what}: what is served is what was written, in its order: {events:?}"
                );
                false
            }
            Err(ended) => {
                assert_refused(&ended, damaged, what);
                assert!(
                    fs::read(damaged).unwrap() == bytes,
                    "{what}: a refused file is left as it is"
                );
                true
            }
        }
    }
}

fn assert_refused(ended: &Ended, damaged: &Path, what: &str) {
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(!ended.log.contains("panicked"), "{what}: {}", ended.log);
    assert!(ended.code().is_some_and(|code| code != 0), "{what}: {ended:?}");
    let tells = |line: &str| line.contains(name) && line.contains("offset");
    assert!(
        ended.log.lines().any(tells),
        "{what}: a line with {name} and an offset in:\n{}",
        ended.log
    );
}

/// All that lies in a directory, to be put back.
struct Copy(Vec<(PathBuf, Vec<u8>)>);

impl Copy {
    fn of(specimen: &Specimen) -> Self {
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        };
        Self(specimen.files(|_| true).into_iter().map(read).collect())
    }

    fn put_back(&self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
        for (path, bytes) in &self.0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

fn flip(path: &Path, offset: u64, bit: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset).unwrap();
}

fn used_bytes(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    u64::try_from(used).unwrap()
}

/// Offsets in the head, at the first and last bytes of what is used, and at random ones between; then one in the
/// space that is claimed ahead.
fn sample(path: &Path, count: usize, random: &mut Random) -> Vec<u64> {
    let used = used_bytes(path);
    let mut offsets = vec![0, 9, 13, 20, 41, 61, 64, 68, 72, used - 1, used - 9];
    offsets.retain(|offset| *offset < used);
    offsets.extend((0..count).map(|_| random.below(used)));
    let size = fs::metadata(path).unwrap().len();
    offsets.extend((size > used + 100).then_some(used + 100));
    offsets
}

async fn stopped() -> Specimen {
    Specimen::new(async |node| node.stop().await).await
}

/// A bit flips anywhere in the log of a node that stopped cleanly: all of it was durable, so nothing may be cut.
/// Red when a frame is served without its check, or damage below the durable mark is cut like a torn tail.
#[tokio::test]
async fn a_flipped_bit_is_refused_or_does_no_harm() {
    let specimen = stopped().await;
    let copy = Copy::of(&specimen);
    let mut random = Random::of_run(31);
    let mut refused = 0;
    let mut tried = 0;
    for segment in specimen
        .segments()
        .into_iter()
        .filter(|path| used_bytes(path) > 64)
    {
        for offset in sample(&segment, 14, &mut random) {
            let bit = u32::try_from(random.below(8)).unwrap();
            let what = format!("bit {bit} at {offset} of {}", segment.display());
            flip(&segment, offset, bit);
            if specimen.start(&segment, &what, 0).await {
                flip(&segment, offset, bit);
                refused += 1;
            } else {
                copy.put_back(specimen.dir.path());
            }
            tried += 1;
        }
    }
    say(&format!("{tried} flips, {refused} refused, the others harmless"));
    assert!(
        refused * 2 > tried,
        "most flips are in what counts: {refused} of {tried}"
    );
}

/// The log is cut short anywhere: what is missing was durable, so the node refuses.
#[tokio::test]
async fn a_log_cut_short_is_refused() {
    let specimen = stopped().await;
    let copy = Copy::of(&specimen);
    let mut random = Random::of_run(32);
    for segment in specimen
        .segments()
        .into_iter()
        .filter(|path| used_bytes(path) > 64)
    {
        let used = used_bytes(&segment);
        let mut lengths = vec![0, 8, 63, 64, 65, used / 2, used - 1];
        lengths.extend((0..6).map(|_| random.below(used)));
        for length in lengths {
            File::options()
                .write(true)
                .open(&segment)
                .unwrap()
                .set_len(length)
                .unwrap();
            let what = format!("{} cut to {length} bytes", segment.display());
            assert!(
                specimen.start(&segment, &what, 0).await,
                "{what}: it must be refused"
            );
            copy.put_back(specimen.dir.path());
        }
        fs::remove_file(&segment).unwrap();
        let ended = specimen.settings.must_not_start().await;
        assert!(
            ended.log.contains("segment-"),
            "the missing segment is named in:\n{}",
            ended.log
        );
        copy.put_back(specimen.dir.path());
    }
}

/// After `kill -9` the last write may be torn, as after a power cut: it may be cut, what was before it never.
#[tokio::test]
async fn a_torn_tail_costs_at_most_the_last_write() {
    let specimen = Specimen::new(async |node| node.kill().await).await;
    let copy = Copy::of(&specimen);
    let segments: Vec<_> = specimen
        .segments()
        .into_iter()
        .filter(|path| used_bytes(path) > 64)
        .collect();
    for segment in &segments {
        let used = used_bytes(segment);
        for missing in [1, 5, 9, 30, 56] {
            let zeros = vec![0; usize::try_from(missing).unwrap()];
            File::options()
                .write(true)
                .open(segment)
                .unwrap()
                .write_all_at(&zeros, used - missing)
                .unwrap();
            let what = format!("the last {missing} bytes of {} are zero", segment.display());
            specimen.start(segment, &what, 3).await;
            copy.put_back(specimen.dir.path());
        }
    }
    // Whatever was torn, the node goes on from there, and a second start finds the same.
    let segment = &segments[0];
    flip(segment, used_bytes(segment) - 1, 0);
    if let Ok(node) = specimen.settings.try_start().await {
        let mut api = node.api().await;
        let before = api.events_after(0).await.unwrap().len();
        api.write("after", "the tear").await.unwrap();
        node.kill().await;
        let node = specimen.settings.start().await;
        assert_eq!(node.api().await.events_after(0).await.unwrap().len(), before + 1);
        node.stop().await;
    }
}

/// The seat file keeps two copies: one may be damaged, both may not.
#[tokio::test]
async fn one_damaged_copy_of_a_seat_file_does_no_harm() {
    let specimen = stopped().await;
    let copy = Copy::of(&specimen);
    for seat_file in specimen.seat_files() {
        for slot in [0, 4096] {
            for offset in [0, 8, 40, 48, 64, 72, 90] {
                flip(&seat_file, slot + offset, 3);
                let what = format!("bit 3 at {} of {}", slot + offset, seat_file.display());
                specimen.start(&seat_file, &what, 0).await;
                copy.put_back(specimen.dir.path());
            }
        }
        for slot in [0, 4096] {
            flip(&seat_file, slot + 64, 3);
        }
        let ended = specimen.settings.must_not_start().await;
        assert!(
            ended.log.contains("seat"),
            "the seat file is named in:\n{}",
            ended.log
        );
        copy.put_back(specimen.dir.path());
    }
}

/// The index is derived: deleted, emptied or damaged, it is built again from the logs (DESIGN 8).
#[tokio::test]
async fn a_deleted_or_damaged_index_is_built_again() {
    let specimen = stopped().await;
    let copy = Copy::of(&specimen);
    let index = specimen.dir.path().join("index");
    assert!(index.is_dir(), "the index is where this test looks for it");
    let mut random = Random::of_run(33);
    for case in 0..10 {
        let files = specimen.files(|path| path.starts_with("index/"));
        let what = match case {
            0 => {
                fs::remove_dir_all(&index).unwrap();
                "deleted".to_owned()
            }
            1 => {
                fs::remove_file(specimen.dir.path().join("index.json")).unwrap();
                "without its note".to_owned()
            }
            2 => {
                for file in &files {
                    fs::write(file, b"").unwrap();
                }
                "emptied".to_owned()
            }
            _ => {
                let file = &files[random.position(files.len())];
                let size = fs::metadata(file).unwrap().len();
                let mut offset = 0;
                for _ in 0..64_u64.min(size) {
                    offset = random.below(size);
                    flip(file, offset, 2);
                }
                format!("{} damaged, at {offset} and elsewhere", file.display())
            }
        };
        let node = specimen.settings.start().await;
        let mut api = node.api().await;
        for key in ["k0", "k2", "many"] {
            let expected: Vec<_> = specimen
                .events
                .iter()
                .filter(|e| e.name.key.as_str() == key)
                .cloned()
                .collect();
            assert_eq!(api.history(key).await.unwrap(), expected, "index {what}");
            assert_eq!(
                api.read(key).await.unwrap(),
                *expected.last().unwrap(),
                "index {what}"
            );
        }
        assert_eq!(
            api.events_after(0).await.unwrap(),
            specimen.events,
            "index {what}"
        );
        let retry = &specimen.events[0];
        let again = rdb_tests::wire::event_with_id(retry.event_id.0, "payload 0 ");
        let again = api
            .write_request(rdb_tests::wire::write_of("k0", again))
            .await
            .unwrap();
        assert!(
            again.duplicate && again.seq == retry.seq.get(),
            "index {what}: event ids are known again"
        );
        node.stop().await;
        copy.put_back(specimen.dir.path());
    }
}

/// Flips a bit in the middle of what is used of every log segment of a node, and says how many there were.
fn damage_logs(data_dir: &Path) -> usize {
    let mut segments = log_segments(data_dir);
    segments.retain(|path| used_bytes(path) > 500);
    for path in &segments {
        flip(path, used_bytes(path) / 2, 3);
    }
    segments.len()
}

/// A member of a cluster that lost a part of its log names it, takes part in no election, gets it from the others while
/// they serve, and is a member like any other from then on (DESIGN 8).
///
/// Red when a damaged log is cut and forgotten, or does not open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_member_gets_from_the_others_what_it_lost() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(34);
    load.more(100).await;
    let damaged = cluster.leader(0, 0).await;
    cluster.take(damaged).stop().await;
    load.more(20).await;
    assert!(
        damage_logs(&cluster.data_dir(damaged)) >= 2,
        "both seats are damaged"
    );
    cluster.run(damaged).await;
    let node = cluster.node(damaged);
    let found = node.logged("a part of the log was lost").await;
    assert!(
        found.contains("segment-") && found.contains("offset") && found.contains("entry"),
        "file, offset and range are named: {found}"
    );
    node.logged("the log is whole again").await;
    load.more(60).await;
    // Whoever now dies, the repaired member counts: without it there would be no two.
    let dies = (damaged + 1) % 3;
    cluster.kill(dies).await;
    load.more(60).await;
    cluster.judged(load, 100, &[damaged, (damaged + 2) % 3]).await;
    let counter = cluster.status().await.counter;
    assert!(counter < 1 << 40, "etcd went back nowhere: {counter}");
    // And it stays so.
    cluster.take(damaged).stop().await;
    cluster.run(damaged).await;
    let log = cluster.node(damaged).log();
    assert!(!log.contains("lost"), "nothing is lost any more:\n{log}");
}

/// What nobody has read since it was written is damaged in a living process: the read that meets it gets nothing wrong,
/// and the process ends, since its next start finds all of it.
///
/// Red when the reader only answers that it cannot read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_read_meets_is_repaired_by_the_next_start() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(35);
    load.more(100).await;
    let damaged = 1;
    assert!(
        damage_logs(&cluster.data_dir(damaged)) >= 2,
        "both seats are damaged"
    );
    let upto = cluster.status().await.counter;
    let mut api = cluster.api(damaged).await;
    assert!(api.events_up_to(upto).await.is_err(), "nothing wrong is served");
    let ends = cluster.take(damaged);
    ends.logged("entries that were durable cannot be read").await;
    ends.kill().await;
    cluster.run(damaged).await;
    cluster.node(damaged).logged("the log is whole again").await;
    load.more(60).await;
    cluster.judged(load, 100, &[0, 1, 2]).await;
}

/// A damaged member is not one of the R that decide what was committed: with one other there is no leader.
///
/// Red when it tells a winner where its shortened log ends: the two would go on without what it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_member_elects_nobody_and_does_not_lead() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    // What the third one has not, only the other two do.
    cluster.kill(2).await;
    cluster.until_led(false).await;
    let mut api = cluster.api(0).await;
    for n in 0..60_usize {
        api.write(&format!("k{n}"), &"x".repeat(100)).await.unwrap();
    }
    let events = cluster.events(0).await;
    drop(api);
    cluster.stop_all().await;
    assert!(damage_logs(&cluster.data_dir(0)) >= 2, "both seats are damaged");
    let damaged = cluster.settings(0).spawn();
    damaged.logged("fetching lost entries").await;
    let lagging = cluster.settings(2).spawn();
    // It wins and gives up, since nobody tells it what was committed.
    lagging.logged("seat is recovering").await;
    lagging.logged("seat is vacant").await;
    for starting in [damaged, lagging] {
        let log = starting.log();
        assert!(!log.contains("seat is leading"), "{log}");
        starting.kill().await;
    }
    cluster.start_all().await;
    cluster.until_led(false).await;
    for n in 0..3 {
        assert_eq!(cluster.events(n).await, events, "node {n} has everything");
    }
}
