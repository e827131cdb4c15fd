//! DESIGN 7: a position that a consumer was told to have acknowledged is never lost: whoever claims the name after that
//! begins there or later, unless somebody set the position.

use super::{Verdict, broken};
use rdb_proto::cursor::Cursor;
use rdb_proto::types::Seq;

/// What was told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    floor: Seq,
    /// The generation of the last seek.
    sought: u64,
}

impl Kept {
    /// The consumer of a generation is told that everything up to a position is acknowledged.
    pub fn told(&mut self, generation: u64, position: Seq) {
        if generation > self.sought {
            self.floor = self.floor.max(position);
        }
    }

    /// Somebody set the position.
    pub const fn sought(&mut self, cursor: Cursor) {
        self.floor = cursor.position;
        self.sought = cursor.generation;
    }

    /// A consumer is told that it has the name. `asked` is what was true when it asked.
    ///
    /// # Errors
    /// When less is acknowledged than was told before.
    pub fn claimed(&self, asked: &Self, cursor: Cursor) -> Verdict {
        if self.sought != asked.sought || cursor.position >= asked.floor {
            return Ok(());
        }
        broken(
            "an acknowledged position is kept (DESIGN 7)",
            format!(
                "{cursor:?} is claimed; {} was told to be acknowledged",
                asked.floor
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursors::example::cursor;
    use super::super::example::assert_broken;
    use super::*;

    #[test]
    fn rejects_a_claim_below_what_was_told() {
        let mut kept = Kept::default();
        kept.told(1, Seq(5));
        let asked = kept;
        kept.told(1, Seq(8));
        kept.claimed(&asked, cursor(9, 9, 5)).unwrap();
        assert_broken(kept.claimed(&kept, cursor(9, 9, 7)), "8 was told");
        kept.sought(cursor(10, 10, 2));
        kept.told(1, Seq(9));
        kept.claimed(&kept, cursor(11, 11, 2)).unwrap();
        kept.claimed(&asked, cursor(11, 11, 2)).unwrap();
    }
}
