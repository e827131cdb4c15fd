//! The model checker, to a bound that fits into a run of all tests (DESIGN 10). `model check` goes further.
#![cfg(test)]

use rdb_tests::model::all;
use rdb_tests::model::report::{Bounds, check};
use rdb_tests::sim::keep_panics;
use std::time::Duration;

/// States that are generated for each model, unless there are fewer.
const STATES: usize = 1_000_000;

/// A slow machine goes less far.
const SECONDS: u64 = 4;

/// What no machine is too slow for.
const UNIQUE_MIN: usize = 500;

#[test]
fn nothing_that_can_happen_to_a_few_members_breaks_a_promise() {
    keep_panics();
    let bounds = Bounds {
        depth: None,
        states: Some(STATES),
        time: Duration::from_secs(SECONDS),
        threads: 2,
    };
    let mut failed = vec![];
    for config in all() {
        let report = check(config, bounds);
        println!("{report}");
        let is_vacuous = report.unique < UNIQUE_MIN;
        if report.violation.is_some() || is_vacuous {
            failed.push(report.config.name);
        }
    }
    // Printed above, since what a panic says is kept for the runs.
    assert!(failed.is_empty(), "violations, or nothing to speak of");
}
