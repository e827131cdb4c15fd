//! The scorecard's own tries: that they try what they say. All of it is run by `scripts/scorecard`.
#![cfg(test)]

use rdb_tests::scorecard::failing;
use rdb_tests::scorecard::retries::{self, Found};
use std::time::Duration;

/// Red when a retry is not recognised (`scripts/sabotage duplicate_unchecked` makes that mistake).
#[tokio::test]
async fn writes_whose_answers_were_lost_are_there_once() {
    let found = retries::run(1_000, Duration::from_mins(1)).await;
    let expected = Found {
        retried: 1_000,
        ..Found::default()
    };
    assert_eq!(found, expected);
}

/// Red when an acknowledgement does not wait for what the disk says (`scripts/sabotage disk_error_ignored` makes that mistake), or a
/// node does not start again.
#[tokio::test]
async fn what_is_acknowledged_survives_a_disk_of_which_a_call_fails() {
    const TRIED: u64 = 20;
    let found = failing::run(TRIED).await.expect("cc is installed");
    assert!(found.ended > 0, "a log that cannot be written ends its node");
    let expected = failing::Found {
        tried: TRIED,
        ended: found.ended,
        ..failing::Found::default()
    };
    assert_eq!(found, expected);
}
