//! DESIGN 3, "Conditional": several events of one key append atomically. They are in the stream all or none, in the
//! order in which they were sent, with seqs and versions that follow each other.

use super::{Verdict, Violation};
use crate::workload::History;
use rdb_proto::event::Event;
use rdb_proto::types::EventId;
use std::collections::HashMap;

const RULE: &str = "atomic append (DESIGN 3)";

/// Judges a run, also appends whose outcome is not known.
///
/// # Errors
/// The first append that is there in part, or not in one piece.
pub fn check(history: &History, stream: &[Event]) -> Verdict {
    let stored: HashMap<EventId, &Event> = stream.iter().map(|event| (event.event_id, event)).collect();
    for operation in &history.operations {
        let found: Vec<&Event> = operation
            .events
            .iter()
            .filter_map(|sent| stored.get(&sent.event_id).copied())
            .collect();
        let (there, sent) = (found.len(), operation.events.len());
        if there != 0 && there != sent {
            let what = format!(
                "of {sent} events appended to {:?}, {there} are there",
                operation.key
            );
            return Violation::of(RULE, what);
        }
        let is_one_piece = found
            .windows(2)
            .all(|pair| pair[1].seq == pair[0].seq.next() && pair[1].version == pair[0].version.next());
        if !is_one_piece {
            let places: Vec<_> = found.iter().map(|event| (event.seq, event.version)).collect();
            let what = format!("an append to {:?} is not in one piece: {places:?}", operation.key);
            return Violation::of(RULE, what);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};
    use crate::workload::Told;

    #[test]
    fn rejects_an_unknown_append_that_is_there_in_part() {
        let (mut history, mut stream) = run();
        history.operations[1].told = Told::Unknown;
        stream.remove(2);
        assert_violated(check(&history, &stream), "of 3 events appended");
    }

    #[test]
    fn rejects_an_append_in_two_pieces() {
        let (history, mut stream) = run();
        let (a, b) = (stream[2].seq, stream[4].seq);
        stream[2].seq = b;
        stream[4].seq = a;
        assert_violated(check(&history, &stream), "not in one piece");
    }

    #[test]
    fn rejects_an_append_in_another_order() {
        let (history, mut stream) = run();
        let id = stream[1].event_id;
        stream[1].event_id = stream[2].event_id;
        stream[2].event_id = id;
        assert_violated(check(&history, &stream), "not in one piece");
    }
}
