//! DESIGN 7: whoever has applied a seat's log up to the same entry has the same cursors, however often it began anew.

use super::{Verdict, broken};
use rdb_proto::cursor::Cursor;
use rdb_proto::types::{LogIndex, SeatId};

const RULE: &str = "cursors are the same everywhere (DESIGN 7)";

/// What the committed log made of a named subscription, one state after the other.
#[derive(Debug, Default)]
pub struct Cursors(Vec<Cursor>);

impl Cursors {
    /// Where it stands now.
    pub fn now(&self) -> Option<Cursor> {
        self.0.last().copied()
    }

    /// A committed entry makes this of it.
    pub fn becomes(&mut self, after: Option<Cursor>) {
        self.0.extend(after.filter(|_| after != self.now()));
    }

    /// Where it stood at an entry.
    pub fn at(&self, index: LogIndex) -> Option<Cursor> {
        let passed = self.0.partition_point(|cursor| cursor.at <= index);
        passed.checked_sub(1).map(|last| self.0[last])
    }

    /// Where it stood at an entry and since.
    pub fn since(&self, index: LogIndex) -> &[Cursor] {
        let passed = self.0.partition_point(|cursor| cursor.at <= index);
        &self.0[passed.saturating_sub(1)..]
    }

    /// A member that has applied so much has this. What is on its disk may be ahead of that, after a crash.
    ///
    /// # Errors
    /// When the committed log makes something else of it.
    pub fn applied(&self, seat: SeatId, applied: LogIndex, has: Option<Cursor>) -> Verdict {
        let applied = has.map_or(applied, |cursor| cursor.at.max(applied));
        let due = self.at(applied);
        if has == due {
            return Ok(());
        }
        broken(
            RULE,
            format!("seat {seat}: a member that has applied {applied} has {has:?} where {due:?} is due"),
        )
    }
}

#[cfg(test)]
pub(super) mod example {
    use super::*;
    use rdb_proto::types::Seq;
    use uuid::Uuid;

    pub(in super::super) fn cursor(at: u64, generation: u64, position: u64) -> Cursor {
        Cursor {
            at: LogIndex(at),
            generation,
            consumer: Some(Uuid::from_u128(generation.into())),
            position: Seq(position),
            is_forgotten: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken};
    use super::example::cursor;
    use super::*;

    #[test]
    fn rejects_another_cursor_than_that_of_the_log() {
        let mut cursors = Cursors::default();
        cursors.becomes(Some(cursor(3, 3, 0)));
        cursors.becomes(Some(cursor(5, 3, 7)));
        let has = |applied, has| cursors.applied(SEAT, LogIndex(applied), has);
        has(2, None).unwrap();
        has(4, Some(cursor(3, 3, 0))).unwrap();
        has(4, Some(cursor(5, 3, 7))).unwrap();
        assert_broken(has(4, None), "has None");
        assert_broken(has(5, Some(cursor(3, 3, 0))), "is due");
        assert_broken(has(6, Some(cursor(5, 3, 6))), "is due");
    }
}
