//! DESIGN 6.4: (key, version) is unique. More than that: versions are dense from 1 in the order of the log.

use super::{Verdict, broken};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{EventId, KeyName, Seq, Version};
use std::collections::BTreeMap;

const RULE: &str = "unique versions and ids (DESIGN 3, 6.4)";

/// The latest version of every key, and every event id.
#[derive(Debug, Default)]
pub struct Versions {
    keys: BTreeMap<KeyName, Version>,
    ids: BTreeMap<EventId, Seq>,
}

impl Versions {
    /// An entry became committed.
    ///
    /// # Errors
    /// When it does not continue its key, or an id is there already.
    pub fn committed(&mut self, entry: &Entry) -> Verdict {
        let EntryBody::Events(events) = &entry.body else {
            return Ok(());
        };
        let before = self
            .keys
            .insert(events.name.clone(), events.last_version())
            .unwrap_or_default();
        if events.first_version != before.next() {
            return broken(RULE, format!("{entry} follows version {before}"));
        }
        for (n, id) in (0..).zip(events.event_ids.iter()) {
            let seq = events.first_seq.plus(n);
            if let Some(first) = self.ids.insert(*id, seq) {
                return broken(
                    RULE,
                    format!("event {id} is stored at seq {first} and at seq {seq}"),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{assert_broken, event};
    use super::*;

    #[test]
    fn rejects_a_version_twice_a_gap_and_an_id_twice() {
        let mut versions = Versions::default();
        versions.committed(&event(1, 1, "a", 1, 1)).unwrap();
        assert_broken(versions.committed(&event(2, 1, "a", 2, 1)), "follows version 1");
        assert_broken(versions.committed(&event(2, 1, "a", 3, 3)), "follows version 1");
        assert_broken(
            versions.committed(&event(2, 1, "b", 1, 1)),
            "is stored at seq 1 and at seq 1",
        );
    }
}
