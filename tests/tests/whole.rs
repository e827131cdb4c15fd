//! Whole clusters of server and client, simulated: a few fresh seeds. What one found is kept as a test of its own beside
//! what it found, since every change of server or client makes another run of the same seed.
//!
//! The fresh ones begin at `RDB_TEST_SEED`, else at a new one. `whole sweep` does it for as long as one likes.
#![cfg(test)]

use rdb_tests::process::binary;
use rdb_tests::random::{Random, new_seed};
use std::process::Command;

/// Fresh seeds.
const FRESH: u64 = 4;

/// What the tool prints; what it says of violations stands there, too.
fn whole(words: &[&str]) -> (bool, String) {
    let ended = Command::new(binary("whole")).args(words).output().unwrap();
    let printed = [ended.stdout, ended.stderr].concat();
    (
        ended.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

#[test]
fn fresh_seeds_break_nothing() {
    let first = Random::of_run(new_seed(1_000_000_000)).next() % 1_000_000_000;
    let (is_clean, printed) = whole(&["sweep", "--seeds", &format!("{first}..{}", first + FRESH)]);
    assert!(is_clean, "{printed}");
    rdb_tests::say(printed.trim());
}

/// Red when anything but the seed has a part in a run: then no violation could be looked at again.
#[test]
fn a_seed_is_the_same_run_each_time() {
    let run = || {
        whole(&[
            "run",
            "--seed",
            "7",
            "--trace",
            "rdb_server=info,rdb_client=debug,rdb_tests=info",
        ])
    };
    let (first, second) = (run(), run());
    assert!(first.0, "{}", first.1);
    assert_eq!(first, second);
}
