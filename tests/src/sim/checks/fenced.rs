//! DESIGN 7: a consumer whose name another one has taken moves nothing, and is told so.

use super::{Verdict, broken};
use rdb_proto::cursor::{Cursor, CursorAct, CursorChange};
use rdb_proto::types::Seq;

const RULE: &str = "one consumer at a time (DESIGN 7)";

/// A committed change makes one cursor of another.
///
/// # Errors
/// When a consumer changes it that has not got it.
pub fn check_change(before: Option<Cursor>, change: &CursorChange, after: Option<Cursor>) -> Verdict {
    let by = match change.act {
        CursorAct::Acknowledge { generation, .. } | CursorAct::Release { generation } => generation,
        CursorAct::Claim { .. } | CursorAct::Seek { .. } | CursorAct::Forget { .. } => return Ok(()),
    };
    if before == after || before.is_some_and(|cursor| cursor.is_held_by(by)) {
        return Ok(());
    }
    broken(RULE, format!("{change} makes {after:?} of {before:?}"))
}

/// The consumer of a generation is told that the position is this. These states the name had from when it asked.
///
/// # Errors
/// When in none of them it had the name, with this position.
pub fn check_told(generation: u64, position: Seq, states: &[Cursor]) -> Verdict {
    let is_true = |cursor: &Cursor| cursor.is_held_by(generation) && cursor.position == position;
    if states.iter().any(is_true) {
        return Ok(());
    }
    broken(
        RULE,
        format!(
            "the consumer of {generation} is told position {position}; since it asked there was {states:?}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::cursors::example::cursor;
    use super::super::example::assert_broken;
    use super::*;

    #[test]
    fn rejects_what_a_replaced_consumer_moves_and_is_told() {
        let change = CursorChange {
            name: "mails".to_owned(),
            act: CursorAct::Acknowledge {
                generation: 1,
                position: Seq(9),
            },
        };
        let states = [cursor(1, 1, 5), cursor(2, 2, 5)];
        check_change(Some(states[0]), &change, Some(cursor(2, 1, 9))).unwrap();
        check_change(Some(states[1]), &change, Some(states[1])).unwrap();
        assert_broken(
            check_change(Some(states[1]), &change, Some(cursor(3, 2, 9))),
            "at 9 by 1 makes",
        );
        check_told(1, Seq(5), &states).unwrap();
        assert_broken(check_told(1, Seq(9), &states), "told position 9");
        assert_broken(check_told(1, Seq(5), &states[1..]), "the consumer of 1 is told");
    }
}
