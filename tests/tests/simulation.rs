//! Simulated clusters: every seed that ever found something, and fresh ones for a while (DESIGN 10).
//!
//! The fresh ones begin at `RDB_TEST_SEED`, else at a number from the clock, and go on for `RDB_SIM_SECONDS`. A
//! violation fails with the command that replays it.
#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "seeds come from the clock where none is given, and the sweep is bounded in real time"
)]

use rdb_tests::sim::mistakes::Mistake;
use rdb_tests::sim::plan::{Options, SECOND};
use rdb_tests::sim::sweep::sweep;
use rdb_tests::sim::trace::Trace;
use rdb_tests::sim::{keep_panics, run};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Short enough that the whole suite stays within a cup of tea, also without optimisation.
const FRESH_SECONDS: u64 = 30;

const THREADS: usize = 2;

/// A mistake is found in fewer.
const MISTAKE_SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

/// Printed, since what a panic says is kept for the runs.
fn assert_none(failed: &[String]) {
    println!("{}", failed.join("\n"));
    assert!(failed.is_empty(), "violations");
}

#[test]
fn what_was_found_once_stays_mended() {
    keep_panics();
    let mut failed = Vec::new();
    for line in include_str!("../data/seeds.txt").lines() {
        let (seed, what) = line.split_once('#').unwrap_or((line, ""));
        let words: Vec<&str> = seed.split_whitespace().collect();
        let Some((seed, options)) = words.split_first() else {
            continue;
        };
        let options = Options::parse(options).unwrap_or_else(|error| panic!("{line}: {error}"));
        let seed = seed.parse().unwrap();
        let done = run(seed, &options, Trace::Off);
        failed.extend(done.violation.map(|violation| {
            format!("sim replay --trace --seed {seed}{options}\n{violation}\nonce: {what}")
        }));
    }
    assert_none(&failed);
}

/// Of the cursors of named subscriptions, whose index and consumers are models.
#[test]
fn mistakes_are_noticed() {
    keep_panics();
    let survived: Vec<String> = Mistake::ALL
        .iter()
        .filter_map(|mistake| {
            let options = Options {
                consumers: Some(4),
                faults_for: Some(20 * SECOND),
                mistake: Some(*mistake),
                ..Options::default()
            };
            let sum = sweep(0..MISTAKE_SEEDS, THREADS, &options, true, &|| false);
            println!("{}: {} seeds, {:?}", mistake.as_str(), sum.seeds, sum.failed);
            sum.failed.is_empty().then(|| mistake.as_str().to_owned())
        })
        .collect();
    assert_none(&survived);
}

#[test]
fn fresh_seeds_find_nothing() {
    keep_panics();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * 1_000;
    let first = number("RDB_TEST_SEED").unwrap_or_else(clock);
    let limit = Duration::from_secs(number("RDB_SIM_SECONDS").unwrap_or(FRESH_SECONDS));
    let begun = Instant::now();
    let stop = || begun.elapsed() > limit;
    let sum = sweep(first..u64::MAX, THREADS, &Options::default(), false, &stop);
    println!("seeds {first}..{}\n{}", first + sum.seeds, sum.table());
    let failed: Vec<String> = sum
        .failed
        .iter()
        .map(|(seed, what)| format!("sim replay --trace --seed {seed}\n{what}"))
        .collect();
    assert_none(&failed);
    assert!(sum.seeds > 0, "at least one run was made");
}
