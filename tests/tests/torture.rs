//! Real clusters broken on purpose, the quick form (DESIGN 3): `torture`, a tool of these tests, does it for as long as
//! one likes, with more faults.
#![cfg(test)]

use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::torture::report::Report;
use rdb_tests::torture::{Fault, Options, run};

/// Lets one fault strike so many times.
async fn strike(fault: Fault, rounds: u64, seed: u64) {
    let options = Options {
        seed: Random::of_run(seed).next(),
        rounds,
        duration: None,
        nodes: 3,
        faults: vec![fault],
    };
    let directory = tempfile::tempdir().unwrap();
    let mut report = Report::new(&options);
    let no_lan = Err("not in a network of its own".to_owned());
    Box::pin(run(&options, no_lan, directory.path(), &mut report)).await;
    for (fault, why) in report.reasons() {
        say(&format!("{} was not run: {why}", fault.name()));
    }
    say(&format!(
        "{} faults, {} events",
        report.rounds,
        report.acknowledged()
    ));
    assert!(report.is_clean(), "{report}");
}

/// Nodes die by SIGKILL: one, both leaders, a majority, all, all again while they start. What was acknowledged is there,
/// once, in order; reads are linearizable; every node shows its follower the same stream without a gap.
///
/// Red when a leader is recovered from too few members, or counts what is not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_lose_nothing() {
    strike(Fault::Kill, 5, 71).await;
}

/// All nodes lose power at once, and with it everything that they had not synced.
///
/// Red when an acknowledgement does not wait for the disk. Needs root, `mkfs.ext4`, loop devices and `python3`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_lose_power_at_once_lose_nothing() {
    strike(Fault::Power, 4, 72).await;
}
