//! DESIGN 3, "Linearizable", and 6.7: a linearizable read sees every write that was acknowledged before the read was
//! sent, and none that was sent after the read was answered.

use super::timeline::Timeline;
use super::{Verdict, Violation};
use crate::workload::History;
use rdb_proto::event::Event;
use rdb_proto::types::Version;

const RULE: &str = "linearizable reads (DESIGN 3, 6.7)";

/// Judges the reads of a run. The stream has dense versions.
///
/// # Errors
/// The first read that saw too little or too much.
pub fn check(history: &History, stream: &[Event]) -> Verdict {
    all(history, stream).into_iter().next().map_or(Ok(()), Err)
}

/// Every read that saw too little or too much.
pub fn all(history: &History, stream: &[Event]) -> Vec<Violation> {
    let timeline = Timeline::new(history, stream);
    let judged = history.observations.iter().map(|read| {
        let possible = timeline.possible(&read.key, read.sent, read.answered);
        let is_possible = match read.found {
            Some(version) => possible.contains(&version.get()) && timeline.exists(&read.key, version),
            None => possible
                .clone()
                .any(|version| !timeline.exists(&read.key, Version(version))),
        };
        if !is_possible {
            let (key, found) = (&read.key, read.found);
            let what = format!("a read of {key:?} found version {found:?}, the key was at {possible:?}");
            return Violation::of(RULE, what);
        }
        Ok(())
    });
    judged.filter_map(Verdict::err).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    #[test]
    fn rejects_a_read_that_saw_too_little_or_too_much() {
        let cases = [
            (0, None),
            (0, Some(2)),
            (1, Some(2)),
            (2, Some(1)),
            (2, None),
            (3, Some(2)),
            (3, Some(5)),
        ];
        for (position, found) in cases {
            let (mut history, stream) = run();
            history.observations[position].found = found.map(Version);
            assert_violated(check(&history, &stream), "found version");
        }
    }
}
