//! How many promises were broken, by their kind: the checkers name the first, a table counts.

use crate::checkers::{Violation, atomicity, durability, expectations, order, reads, versions};
use crate::workload::{History, Told};
use rdb_proto::event::Event;
use std::collections::HashSet;

/// What was found of a run so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Acknowledged events that are not there.
    pub lost: usize,
    /// Events that are there more than once.
    pub doubled: usize,
    /// Events that come before what they belong after; at least one when the order disagrees with real time.
    pub out_of_order: usize,
    /// Linearizable reads that saw too little or too much.
    pub stale_reads: usize,
    /// What the checkers say: the first violation of each.
    pub violations: Vec<String>,
}

impl Tally {
    /// Judges a record against the stream.
    pub fn of(history: &History, stream: &[Event]) -> Self {
        let verdicts = [
            durability::check(history, stream),
            order::check(history, stream),
            versions::check(stream),
            atomicity::check(history, stream),
            expectations::check(history, stream),
            reads::check(history, stream),
        ];
        let broken: Vec<Violation> = verdicts.iter().cloned().filter_map(Result::err).collect();
        if broken.is_empty() {
            return Self::default();
        }
        let ids: HashSet<_> = stream.iter().map(|event| event.event_id).collect();
        let acknowledged = history
            .operations
            .iter()
            .filter(|operation| matches!(operation.told, Told::Acknowledged { .. }));
        let lost = acknowledged
            .flat_map(|operation| &operation.events)
            .filter(|sent| !ids.contains(&sent.event_id));
        let goes_back = |pair: &&[Event]| pair[1].seq <= pair[0].seq || pair[1].time < pair[0].time;
        let back = stream.windows(2).filter(goes_back).count();
        Self {
            lost: lost.count(),
            doubled: stream.len() - ids.len(),
            out_of_order: back.max(usize::from(verdicts[1].is_err())),
            stale_reads: reads::all(history, stream).len(),
            violations: broken.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether nothing was broken.
    pub const fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::run;

    #[test]
    fn counts_what_was_lost_doubled_and_disordered() {
        let (history, stream) = run();
        assert!(Tally::of(&history, &stream).is_clean());
        let shorter = Tally::of(&history, &stream[..stream.len() - 3]);
        assert!(shorter.lost > 0 && shorter.doubled == 0 && !shorter.is_clean());
        let doubled = Tally::of(&history, &[&stream[..], &stream[..1]].concat());
        assert_eq!((doubled.lost, doubled.doubled, doubled.out_of_order), (0, 1, 1));
    }

    #[test]
    fn counts_every_stale_read() {
        let (mut history, stream) = run();
        for read in &mut history.observations {
            read.found = Some(rdb_proto::types::Version(99));
        }
        assert_eq!(
            Tally::of(&history, &stream).stale_reads,
            history.observations.len()
        );
    }
}
