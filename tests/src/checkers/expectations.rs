//! DESIGN 3, "Conditional": a write happened only where its expectation held, and a conflict names a version that
//! the key had between the request and its answer, and that the expectation does not allow.

use super::timeline::Timeline;
use super::{Verdict, Violation};
use crate::workload::{History, Operation, Told};
use rdb_proto::event::{Event, Expectation};
use rdb_proto::types::{EventId, Version};
use std::collections::HashMap;

const RULE: &str = "expectations (DESIGN 3)";

/// Judges a run, also writes whose outcome is not known but that happened. The stream has dense versions.
///
/// # Errors
/// The first write that must not have happened, or conflict that was none.
pub fn check(history: &History, stream: &[Event]) -> Verdict {
    let timeline = Timeline::new(history, stream);
    let stored: HashMap<EventId, &Event> = stream.iter().map(|event| (event.event_id, event)).collect();
    for operation in &history.operations {
        if let Some(first) = stored.get(&operation.events[0].event_id) {
            let before = first.version.previous();
            if !holds(operation.expect, before, &timeline, &operation.key) {
                let (seq, key, expect) = (first.seq, &operation.key, operation.expect);
                let what =
                    format!("seq {seq} of {key:?} was written at version {before}, it demanded {expect}");
                return Violation::of(RULE, what);
            }
        }
        conflict(operation, &timeline)?;
    }
    Ok(())
}

fn conflict(operation: &Operation, timeline: &Timeline<'_>) -> Verdict {
    let Told::Conflict { at, current } = operation.told else {
        return Ok(());
    };
    let (key, expect) = (&operation.key, operation.expect);
    if holds(expect, current, timeline, key) {
        let what = format!("a conflict told version {current} of {key:?}, which {expect} allows");
        return Violation::of(RULE, what);
    }
    let possible = timeline.possible(key, operation.sent, at);
    if !possible.contains(&current.get()) {
        let what = format!("a conflict told version {current} of {key:?}, which was at {possible:?}");
        return Violation::of(RULE, what);
    }
    Ok(())
}

fn holds(expect: Expectation, current: Version, timeline: &Timeline<'_>, key: &str) -> bool {
    match expect {
        Expectation::Any => true,
        Expectation::Absent => !timeline.exists(key, current),
        Expectation::Exists => timeline.exists(key, current),
        Expectation::Exact(version) => version == current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};
    use crate::workload::Tick;

    #[test]
    fn rejects_a_write_whose_expectation_did_not_hold() {
        let cases = [
            (0, Expectation::Exists),
            (1, Expectation::Exact(Version(1))),
            (3, Expectation::Absent),
            (4, Expectation::Exists),
            (4, Expectation::Exact(Version(3))),
            (7, Expectation::Absent),
        ];
        for (position, expect) in cases {
            let (mut history, stream) = run();
            history.operations[position].expect = expect;
            assert_violated(check(&history, &stream), "it demanded");
        }
    }

    #[test]
    fn rejects_a_conflict_that_was_none() {
        let (mut history, stream) = run();
        history.operations[2].expect = Expectation::Exact(Version(1));
        assert_violated(check(&history, &stream), "allows");
    }

    #[test]
    fn rejects_a_conflict_with_a_version_that_the_key_did_not_have() {
        for current in [0, 3] {
            let (mut history, stream) = run();
            history.operations[2].expect = Expectation::Exact(Version(9));
            history.operations[2].told = Told::Conflict {
                at: Tick(9),
                current: Version(current),
            };
            assert_violated(check(&history, &stream), "which was at 1..=1");
        }
    }
}
