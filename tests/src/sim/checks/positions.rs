//! DESIGN 7: the position of a named subscription never goes back, unless somebody sets it.

use super::{Verdict, broken};
use rdb_proto::cursor::{Cursor, CursorAct, CursorChange};

/// A committed change makes one cursor of another.
///
/// # Errors
/// When the position goes back, and the change is no seek.
pub fn check(before: Option<Cursor>, change: &CursorChange, after: Option<Cursor>) -> Verdict {
    let position = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.position);
    if position(after) >= position(before) || matches!(change.act, CursorAct::Seek { .. }) {
        return Ok(());
    }
    broken(
        "positions never go back (DESIGN 7)",
        format!("{change} makes {after:?} of {before:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::cursors::example::cursor;
    use super::super::example::assert_broken;
    use super::*;
    use rdb_proto::types::Seq;

    #[test]
    fn rejects_a_step_back_that_is_no_seek() {
        let change = |act| CursorChange {
            name: "mails".to_owned(),
            act,
        };
        let (position, generation, replaces) = (Seq(4), 1, 1);
        let acknowledge = change(CursorAct::Acknowledge { generation, position });
        let before = Some(cursor(1, 1, 5));
        check(before, &acknowledge, before).unwrap();
        check(None, &acknowledge, None).unwrap();
        assert_broken(
            check(before, &acknowledge, Some(cursor(2, 1, 4))),
            "at 4 by 1 makes",
        );
        assert_broken(check(before, &acknowledge, None), "makes None");
        let seek = change(CursorAct::Seek { position, replaces });
        check(before, &seek, Some(cursor(2, 2, 4))).unwrap();
    }
}
