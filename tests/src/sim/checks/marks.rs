//! DESIGN 6.4 and 7: `resolved` never passes an event that commits later. A mark is a fact for ever, whoever told it,
//! and is valid for the commit index that it names.

use super::{Verdict, broken};
use rdb_proto::entry::Entry;
use rdb_proto::types::{LogIndex, SeatId, Seq};
use std::collections::BTreeMap;
use std::sync::Arc;

const RULE: &str = "resolved marks (DESIGN 6.4, 7)";

/// The highest mark that anybody told for each seat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Marks {
    highest: BTreeMap<SeatId, Seq>,
}

impl Marks {
    /// A member tells a mark.
    ///
    /// # Errors
    /// When a committed event at or below it stands beyond the commit index that it names.
    pub fn told(&mut self, seat: SeatId, mark: Seq, commit: LogIndex, committed: &[Arc<Entry>]) -> Verdict {
        let highest = self.highest.entry(seat).or_default();
        *highest = mark.max(*highest);
        let beyond = committed.iter().rev().take_while(|entry| entry.index > commit);
        let passed = beyond
            .filter_map(|entry| entry.seqs())
            .find(|(first, _)| *first <= mark);
        if let Some((first, _)) = passed {
            return broken(
                RULE,
                format!("seat {seat}: the mark {mark} for commit {commit} passes seq {first} beyond it"),
            );
        }
        Ok(())
    }

    /// An entry became committed.
    ///
    /// # Errors
    /// When a mark has passed it.
    pub fn committed(&self, seat: SeatId, entry: &Entry) -> Verdict {
        let mark = self.highest.get(&seat).copied().unwrap_or_default();
        match entry.seqs() {
            Some((first, _)) if first <= mark => broken(
                RULE,
                format!("seat {seat}: seq {first} is committed, the mark {mark} had passed it"),
            ),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, event, start};
    use super::*;

    #[test]
    fn rejects_an_event_below_a_mark_and_a_mark_above_an_event() {
        let log = [start(1, 1), event(2, 1, "a", 4, 1)];
        let mut marks = Marks::default();
        marks.told(SEAT, Seq(3), LogIndex(1), &log).unwrap();
        marks.told(SEAT, Seq(6), LogIndex(2), &log).unwrap();
        marks.committed(SEAT, &event(3, 1, "a", 7, 2)).unwrap();
        assert_broken(
            marks.committed(SEAT, &event(3, 1, "a", 6, 2)),
            "the mark 6 had passed it",
        );
        assert_broken(
            marks.told(SEAT, Seq(4), LogIndex(1), &log),
            "passes seq 4 beyond it",
        );
    }
}
