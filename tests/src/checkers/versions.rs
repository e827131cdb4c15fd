//! DESIGN 2, "key / version": the events of a key have the dense versions 1, 2, 3, … in the order of their seqs.

use super::{Verdict, Violation};
use rdb_proto::event::Event;
use rdb_proto::types::{KeyName, Version};
use std::collections::HashMap;

const RULE: &str = "dense versions (DESIGN 2)";

/// Judges a whole stream.
///
/// # Errors
/// The first version that is not the next of its key.
pub fn check(stream: &[Event]) -> Verdict {
    let mut last: HashMap<&KeyName, Version> = HashMap::new();
    for event in stream {
        let version = last.entry(&event.name).or_default();
        if event.version != version.next() {
            let (seq, name, found) = (event.seq, &event.name, event.version);
            let what = format!("seq {seq} of {name} has version {found}, after version {version}");
            return Violation::of(RULE, what);
        }
        *version = event.version;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    #[test]
    fn rejects_a_version_that_is_missing_or_repeats() {
        let (_, mut stream) = run();
        stream.remove(2);
        assert_violated(check(&stream), "has version 3, after version 1");
        let (_, mut stream) = run();
        stream[2].version = Version(1);
        assert_violated(check(&stream), "has version 1, after version 1");
    }

    #[test]
    fn rejects_a_key_that_begins_above_one() {
        let (_, stream) = run();
        assert_violated(check(&stream[1..]), "has version 2, after version 0");
    }
}
