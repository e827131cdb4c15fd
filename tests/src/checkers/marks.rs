//! DESIGN 7: `resolved(S)` says that nothing at or below S is still to come. Marks never go back, no event
//! contradicts one that was sent before it, and each tells how many changes were sent since the one before.

use super::{Verdict, Violation};
use crate::wire::Said;
use rdb_proto::types::Seq;

const RULE: &str = "resolved marks (DESIGN 7)";

/// Judges what one subscription said, in its order, from its first message on.
///
/// # Errors
/// The first mark or event that contradicts what was said before.
pub fn check(said: &[Said]) -> Verdict {
    let mut last = Seq::ZERO;
    let mut mark = Seq::ZERO;
    let mut since_mark = 0;
    for (position, message) in said.iter().enumerate() {
        match message {
            Said::Opened { after, .. } if position == 0 => last = Seq(*after),
            Said::Opened { .. } => return Violation::of(RULE, "the stream opened twice"),
            Said::Change(event) if event.seq <= mark => {
                return Violation::of(RULE, format!("seq {} comes after the mark {mark}", event.seq));
            }
            Said::Change(event) if event.seq <= last => {
                return Violation::of(RULE, format!("seq {} comes after seq {last}", event.seq));
            }
            Said::Change(event) => {
                last = event.seq;
                since_mark += 1;
            }
            Said::Resolved { seq, .. } if Seq(*seq) < mark => {
                return Violation::of(RULE, format!("the mark goes back from {mark} to {seq}"));
            }
            Said::Resolved { changes, .. } if *changes != since_mark => {
                let what =
                    format!("a mark says that {changes} changes came since the last one, not {since_mark}");
                return Violation::of(RULE, what);
            }
            Said::Resolved { seq, .. } => {
                mark = Seq(*seq);
                since_mark = 0;
            }
            Said::CaughtUp(_) | Said::FellBehind(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    fn healthy() -> Vec<Said> {
        let (_, all) = run();
        let change = |position: usize| Said::Change(Box::new(all[position].clone()));
        let opened = Said::Opened {
            database_id: String::new(),
            after: 1,
        };
        let mark = |seq, changes| Said::Resolved { seq, changes };
        vec![
            opened,
            change(1),
            change(2),
            mark(3, 2),
            Said::CaughtUp(3),
            mark(3, 0),
            change(3),
            mark(7, 1),
        ]
    }

    #[test]
    fn a_healthy_stream_is_judged_healthy() {
        check(&healthy()).unwrap();
    }

    #[test]
    fn rejects_an_event_below_a_mark() {
        let mut said = healthy();
        said.swap(2, 3);
        said[2] = Said::Resolved { seq: 3, changes: 1 };
        assert_violated(check(&said), "seq 3 comes after the mark 3");
    }

    #[test]
    fn rejects_an_event_at_or_below_the_start_or_repeated() {
        let mut said = healthy();
        said[0] = Said::Opened {
            database_id: String::new(),
            after: 2,
        };
        assert_violated(check(&said), "seq 2 comes after seq 2");
        let mut said = healthy();
        said[2] = said[1].clone();
        assert_violated(check(&said), "seq 2 comes after seq 2");
    }

    #[test]
    fn rejects_a_mark_that_goes_back_or_counts_wrongly() {
        let mut said = healthy();
        said[5] = Said::Resolved { seq: 2, changes: 0 };
        assert_violated(check(&said), "goes back from 3 to 2");
        let mut said = healthy();
        said.remove(1);
        assert_violated(check(&said), "2 changes came");
    }
}
