//! The scorecard's own tries: that they try what they say. All of it is run by `scripts/scorecard`.
#![cfg(test)]

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
