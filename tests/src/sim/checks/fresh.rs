//! Rules 6.3.7 and 6.7: a confirmed read sees all that was committed when it arrived, whoever committed it and whoever
//! knew. Sharper than what clients can tell: they must not miss what was acknowledged, this also what was not yet.

use super::{Verdict, broken};
use rdb_proto::types::{LogIndex, SeatId};

const RULE: &str = "fresh reads (DESIGN 6.3.7, 6.7)";

/// A read that arrived when entries up to `committed` were, is confirmed for `index`.
///
/// # Errors
/// When it would miss some of them.
pub fn check(seat: SeatId, committed: LogIndex, index: LogIndex) -> Verdict {
    if index >= committed {
        return Ok(());
    }
    broken(
        RULE,
        format!("seat {seat}: a read is confirmed at {index} that came after {committed} was committed"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken};
    use super::*;

    #[test]
    fn rejects_a_read_that_misses_what_was_committed() {
        check(SEAT, LogIndex(3), LogIndex(3)).unwrap();
        assert_broken(check(SEAT, LogIndex(4), LogIndex(3)), "confirmed at 3");
    }
}
