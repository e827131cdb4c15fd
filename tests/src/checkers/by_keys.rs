//! DESIGN 7, "order = key": one connection shows every event above its start once, each key's in the order of their
//! versions and without a gap; at a mark nothing at or below it is missing, and none comes after it.

use super::{Verdict, Violation};
use crate::wire::Said;
use rdb_proto::event::Event;
use rdb_proto::types::Seq;
use std::collections::{BTreeMap, VecDeque};

const RULE: &str = "the change stream in the order of keys (DESIGN 7)";

/// Judges what one connection said, from its first message on, against everything that is stored. Returns its last mark,
/// where the next one begins.
///
/// # Errors
/// The first event or mark that should not have come.
pub fn check(all: &[Event], start: Seq, said: &[Said]) -> Result<Seq, Violation> {
    let mut missing: BTreeMap<Seq, &Event> = all.iter().map(|event| (event.seq, event)).collect();
    missing.retain(|seq, _| *seq > start);
    let mut next: BTreeMap<String, VecDeque<Seq>> = BTreeMap::new();
    for event in missing.values() {
        let seqs = next.entry(event.name.to_string()).or_default();
        seqs.push_back(event.seq);
    }
    let mut mark = start;
    let mut since_mark = 0;
    for message in said {
        match message {
            Said::Opened { after, .. } if Seq(*after) != start => {
                return Violation::of(RULE, format!("it begins after {after}, not after {start}"));
            }
            Said::Opened { .. } | Said::FellBehind(_) => {}
            Said::Change(event) => {
                since_mark += 1;
                let key = event.name.to_string();
                let wanted = next.get_mut(&key).and_then(VecDeque::pop_front);
                if wanted != Some(event.seq) || missing.remove(&event.seq) != Some(&**event) {
                    let what = format!("seq {} of {key} comes where {wanted:?} belongs", event.seq);
                    return Violation::of(RULE, what);
                }
                if event.seq <= mark {
                    return Violation::of(RULE, format!("seq {} comes after the mark {mark}", event.seq));
                }
            }
            Said::Resolved { changes, .. } if *changes != since_mark => {
                let what = format!("a mark counts {changes} changes, {since_mark} came");
                return Violation::of(RULE, what);
            }
            Said::Resolved { seq, .. } | Said::CaughtUp(seq) => {
                if Seq(*seq) < mark {
                    return Violation::of(RULE, format!("the mark goes back from {mark} to {seq}"));
                }
                mark = Seq(*seq);
                if let Some((lost, _)) = missing.first_key_value().filter(|(seq, _)| **seq <= mark) {
                    return Violation::of(RULE, format!("at the mark {mark} seq {lost} is missing"));
                }
                if matches!(message, Said::Resolved { .. }) {
                    since_mark = 0;
                }
            }
        }
    }
    Ok(mark)
}

/// Judges events that were handed out over any number of connections: each once, each key's in its order.
///
/// # Errors
/// The first event that is lost, repeated or out of order.
pub fn check_whole(all: &[Event], seen: &[Event]) -> Verdict {
    let said: Vec<Said> = seen
        .iter()
        .map(|event| Said::Change(Box::new(event.clone())))
        .collect();
    check(all, Seq::ZERO, &said)?;
    if seen.len() < all.len() {
        return Violation::of(RULE, format!("{} of {} events came", seen.len(), all.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::example::{assert_violated, run};

    /// Everything that is stored, the keys one after the other, and a mark of it all.
    fn healthy() -> (Vec<Event>, Vec<Said>) {
        let (_, all) = run();
        let mut by_keys = all.clone();
        by_keys.sort_by_key(|event| (event.name.to_string(), event.seq));
        let mut said: Vec<Said> = by_keys
            .into_iter()
            .map(|event| Said::Change(Box::new(event)))
            .collect();
        said.push(Said::Resolved {
            seq: all.last().unwrap().seq.get(),
            changes: u64::try_from(all.len()).unwrap(),
        });
        (all, said)
    }

    #[test]
    fn keys_may_come_in_any_order() {
        let (all, said) = healthy();
        assert_eq!(check(&all, Seq::ZERO, &said), Ok(all.last().unwrap().seq));
    }

    #[test]
    fn rejects_a_key_out_of_order_a_gap_and_a_repetition() {
        let (all, said) = healthy();
        let judge = |said: &[Said]| check(&all, Seq::ZERO, said).map(drop);
        let mut swapped = said.clone();
        swapped.swap(0, 1);
        assert_violated(judge(&swapped), "belongs");
        assert_violated(judge(&said[1..]), "belongs");
        let mut repeated = said.clone();
        repeated.insert(1, said[0].clone());
        assert_violated(judge(&repeated), "belongs");
    }

    #[test]
    fn rejects_a_mark_that_is_not_true() {
        let (all, said) = healthy();
        let judge = |said: &[Said]| check(&all, Seq::ZERO, said).map(drop);
        let mut early = said.clone();
        let last = early.pop().unwrap();
        let changes_left_out = early.pop().unwrap();
        let Said::Resolved { seq, changes } = last else {
            panic!()
        };
        early.push(Said::Resolved {
            seq,
            changes: changes - 1,
        });
        assert_violated(judge(&early), "is missing");
        early.pop();
        early.push(Said::Resolved {
            seq: 0,
            changes: changes - 1,
        });
        early.push(changes_left_out);
        early.push(Said::Resolved { seq, changes });
        assert_violated(judge(&early), "a mark counts");
    }
}
