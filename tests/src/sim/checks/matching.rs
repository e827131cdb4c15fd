//! DESIGN 6.4, log matching: two logs with an entry of the same index and epoch are the same up to it. Held by
//! induction: an entry of an index and epoch is one entry, and always stands behind the same epoch.

use super::{Verdict, broken};
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, SeatId};
use std::collections::BTreeMap;
use std::sync::Arc;

const RULE: &str = "log matching (DESIGN 6.4)";

/// Every entry that was ever written to a disk, with the epoch of the one before it.
#[derive(Debug, Default)]
pub struct Matching {
    known: BTreeMap<(SeatId, LogIndex, Epoch), (Arc<Entry>, Epoch)>,
}

impl Matching {
    /// A member writes an entry behind one of epoch `before`.
    ///
    /// # Errors
    /// When a member wrote another one of this index and epoch.
    pub fn written(&mut self, seat: SeatId, before: Epoch, entry: &Arc<Entry>) -> Verdict {
        let place = (seat, entry.index, entry.epoch);
        let Some((known, known_before)) = self.known.get(&place) else {
            self.known.insert(place, (Arc::clone(entry), before));
            return Ok(());
        };
        if *known_before != before {
            let what = format!(
                "seat {seat}: {entry} stands behind {before} here, and behind {known_before} elsewhere"
            );
            return broken(RULE, what);
        }
        if !Arc::ptr_eq(known, entry) && known != entry {
            return broken(
                RULE,
                format!("seat {seat}: {entry} is written here, and {known} elsewhere"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, epoch, event};
    use super::*;

    #[test]
    fn rejects_another_entry_of_the_same_name_and_another_one_before_it() {
        let mut matching = Matching::default();
        matching.written(SEAT, epoch(1), &event(2, 1, "a", 1, 1)).unwrap();
        matching.written(SEAT, epoch(1), &event(2, 1, "a", 1, 1)).unwrap();
        matching.written(SEAT, epoch(1), &event(2, 2, "b", 2, 1)).unwrap();
        assert_broken(
            matching.written(SEAT, epoch(1), &event(2, 1, "a", 3, 1)),
            "is written here",
        );
        assert_broken(
            matching.written(SEAT, epoch(2), &event(2, 2, "b", 2, 1)),
            "stands behind 2@1 here",
        );
    }
}
