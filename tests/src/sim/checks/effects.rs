//! DESIGN 3 and 7: what the consumers of a named subscription do, each event's effect together with the position in one
//! transaction, is there exactly once for every event and in the order of seqs; nothing is acknowledged that was not done.

use super::{Verdict, broken};
use rdb_proto::types::Seq;

const RULE: &str = "every event comes to a name (DESIGN 3, 7)";

/// What all consumers of a name write to.
#[derive(Debug, Default)]
pub struct Effects {
    done: Vec<Seq>,
    position: Seq,
}

impl Effects {
    /// A transaction: the effect of an event and the position, unless that is there already.
    pub fn write(&mut self, seq: Seq) {
        if seq > self.position {
            self.done.push(seq);
            self.position = seq;
        }
    }

    /// There is no further event up to here.
    pub fn reach(&mut self, seq: Seq) {
        self.position = self.position.max(seq);
    }

    /// Everything at or below is done.
    pub const fn position(&self) -> Seq {
        self.position
    }

    /// How many events had an effect.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Whether none had.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// A position stands as acknowledged.
    ///
    /// # Errors
    /// When what it covers is not done: it would never come again.
    pub fn acknowledged(&self, position: Seq) -> Verdict {
        if position <= self.position {
            return Ok(());
        }
        broken(
            RULE,
            format!("{position} is acknowledged, and done is up to {}", self.position),
        )
    }

    /// These events are committed.
    ///
    /// # Errors
    /// The first that had no effect where it was due, or more than one.
    pub fn is_whole(&self, committed: &[Seq]) -> Verdict {
        let due = committed.partition_point(|seq| *seq <= self.position);
        let due = &committed[..due];
        if due == self.done {
            return Ok(());
        }
        let same = due.iter().zip(&self.done).take_while(|(due, done)| due == done);
        let first = same.count();
        broken(
            RULE,
            format!(
                "of {} events up to {}, the first {first} had their effect; then {:?} where {:?} was due",
                due.len(),
                self.position,
                self.done.get(first),
                due.get(first)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::assert_broken;
    use super::*;

    #[test]
    fn rejects_an_effect_that_is_missing_and_what_is_acknowledged_before() {
        let mut effects = Effects::default();
        for seq in [1, 2, 1, 2, 5] {
            effects.write(Seq(seq));
        }
        effects.reach(Seq(6));
        effects.reach(Seq(4));
        effects.is_whole(&[1, 2, 5, 7].map(Seq)).unwrap();
        assert_broken(
            effects.is_whole(&[1, 2, 4, 5].map(Seq)),
            "of 4 events up to 6, the first 2 had",
        );
        assert_broken(
            effects.is_whole(&[1, 2].map(Seq)),
            "of 2 events up to 6, the first 2 had",
        );
        effects.acknowledged(Seq(6)).unwrap();
        assert_broken(effects.acknowledged(Seq(7)), "done is up to 6");
    }
}
