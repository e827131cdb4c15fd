//! DESIGN 3, "CDC": every committed event appears exactly once, to every subscriber, from any start; a filter
//! leaves out what it must and nothing else; a stream that is resumed at its last seq loses and repeats nothing.

use super::{Verdict, Violation};
use rdb_proto::event::Event;
use rdb_proto::types::Seq;

const RULE: &str = "the change stream (DESIGN 3, 7)";

/// Judges a stream that began after `start`, against everything that is stored.
///
/// # Errors
/// The first event that is missing, repeated, added or changed.
pub fn check(all: &[Event], start: Seq, seen: &[Event]) -> Verdict {
    check_filtered(all, start, |_| true, seen)
}

/// Judges a stream that began after `start` and shows what `passes`.
///
/// # Errors
/// The first event that is missing, repeated, added or changed.
pub fn check_filtered(all: &[Event], start: Seq, passes: impl Fn(&Event) -> bool, seen: &[Event]) -> Verdict {
    let mut expected = all.iter().filter(|event| event.seq > start && passes(event));
    for event in seen {
        match expected.next() {
            Some(wanted) if wanted == event => {}
            Some(wanted) => {
                let what = format!(
                    "from {start}: seq {} comes where seq {} belongs",
                    event.seq, wanted.seq
                );
                return Violation::of(RULE, what);
            }
            None => return Violation::of(RULE, format!("from {start}: seq {} is too much", event.seq)),
        }
    }
    match expected.next() {
        Some(missing) => Violation::of(RULE, format!("from {start}: seq {} is missing", missing.seq)),
        None => Ok(()),
    }
}

/// Judges the pieces of a stream that was broken and resumed at the last seq seen, together.
///
/// # Errors
/// The first event that was lost or repeated.
pub fn check_resumed(all: &[Event], start: Seq, pieces: &[Vec<Event>]) -> Verdict {
    check(all, start, &pieces.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    #[test]
    fn rejects_a_stream_that_misses_repeats_or_adds() {
        let (_, all) = run();
        check(&all, Seq(0), &all).unwrap();
        check(&all, Seq(5), &all[5..]).unwrap();
        check(&all, Seq(8), &[]).unwrap();
        assert_violated(check(&all, Seq(0), &all[1..]), "seq 2 comes where seq 1 belongs");
        assert_violated(check(&all, Seq(0), &all[..6]), "seq 8 is missing");
        assert_violated(check(&all, Seq(5), &all[4..]), "seq 5 comes where seq 6 belongs");
        assert_violated(check(&all[..6], Seq(0), &all), "seq 8 is too much");
    }

    #[test]
    fn rejects_an_event_that_is_changed() {
        let (_, all) = run();
        let mut seen = all.clone();
        seen[3].payload = "x".into();
        assert_violated(check(&all, Seq(0), &seen), "comes where seq 4 belongs");
    }

    #[test]
    fn rejects_a_filter_that_lets_too_much_through() {
        let (_, all) = run();
        let of_b = |event: &Event| event.name.key.as_str() == "b";
        let seen: Vec<Event> = all.iter().filter(|event| of_b(event)).cloned().collect();
        check_filtered(&all, Seq(2), of_b, &seen[1..]).unwrap();
        assert_violated(
            check_filtered(&all, Seq(0), of_b, &all),
            "seq 1 comes where seq 2 belongs",
        );
    }

    #[test]
    fn rejects_a_resumed_stream_that_overlaps() {
        let (_, all) = run();
        check_resumed(&all, Seq(0), &[all[..3].to_vec(), vec![], all[3..].to_vec()]).unwrap();
        let overlapping = [all[..3].to_vec(), all[2..].to_vec()];
        assert_violated(
            check_resumed(&all, Seq(0), &overlapping),
            "seq 3 comes where seq 4 belongs",
        );
    }
}
