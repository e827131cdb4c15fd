//! DESIGN 3, "CDC": every committed event appears exactly once in the stream, in seq order, to every subscriber, from
//! any node and any start; nothing at or below a mark comes after it.

use super::{Verdict, broken};
use rdb_proto::types::Seq;

const RULE: &str = "change stream (DESIGN 3, 7)";

/// What one subscriber got, over all its reconnects.
#[derive(Debug)]
pub struct Feed {
    from: Seq,
    got: Vec<Seq>,
    mark: Seq,
}

impl Feed {
    /// Subscribed to what comes after `from`.
    pub const fn new(from: Seq) -> Self {
        Self {
            from,
            got: Vec::new(),
            mark: from,
        }
    }

    /// The last event or mark: where it would start again.
    pub const fn position(&self) -> Seq {
        self.mark
    }

    /// The event that came at this place, from 0.
    pub fn get(&self, place: usize) -> Option<Seq> {
        self.got.get(place).copied()
    }

    /// How many events it got.
    pub fn len(&self) -> usize {
        self.got.len()
    }

    /// Whether it got nothing yet.
    pub fn is_empty(&self) -> bool {
        self.got.is_empty()
    }

    /// Events arrive, then a mark.
    ///
    /// # Errors
    /// When one is repeated, out of order, or at or below a mark that came before it; when the mark goes back.
    pub fn arrives(&mut self, events: &[Seq], mark: Seq) -> Verdict {
        for seq in events {
            let last = self.got.last().copied().unwrap_or(self.from);
            if *seq <= self.mark {
                return broken(RULE, format!("seq {seq} comes after the mark {}", self.mark));
            }
            if *seq <= last {
                return broken(RULE, format!("seq {seq} comes after seq {last}"));
            }
            self.got.push(*seq);
        }
        if mark < self.mark {
            return broken(RULE, format!("the mark goes back from {} to {mark}", self.mark));
        }
        self.mark = mark;
        Ok(())
    }

    /// Everything that is committed, in order, is what it must have got, up to its mark.
    ///
    /// # Errors
    /// The first event that it did not get, or that is not there.
    pub fn is_whole(&self, committed: &[Seq]) -> Verdict {
        let due: Vec<Seq> = committed
            .iter()
            .filter(|seq| **seq > self.from && **seq <= self.mark)
            .copied()
            .collect();
        let differs = due.iter().zip(&self.got).find(|(due, got)| due != got);
        if let Some((due, got)) = differs {
            return broken(
                RULE,
                format!(
                    "a subscriber from {} got seq {got} where seq {due} was due",
                    self.from
                ),
            );
        }
        if due.len() != self.got.len() {
            let what = format!(
                "a subscriber from {} got {} events, {} were due",
                self.from,
                self.got.len(),
                due.len()
            );
            return broken(RULE, what);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::assert_broken;
    use super::*;

    fn seqs(numbers: &[u64]) -> Vec<Seq> {
        numbers.iter().copied().map(Seq).collect()
    }

    fn feed() -> Feed {
        let mut feed = Feed::new(Seq(2));
        feed.arrives(&seqs(&[3, 5]), Seq(6)).unwrap();
        feed
    }

    #[test]
    fn rejects_repetition_disorder_and_what_a_mark_denied() {
        assert_broken(
            feed().arrives(&seqs(&[5]), Seq(7)),
            "seq 5 comes after the mark 6",
        );
        assert_broken(feed().arrives(&seqs(&[8, 7]), Seq(9)), "seq 7 comes after seq 8");
        assert_broken(feed().arrives(&[], Seq(5)), "goes back");
    }

    #[test]
    fn rejects_a_gap_and_an_invention() {
        feed().is_whole(&seqs(&[1, 2, 3, 5, 7])).unwrap();
        assert_broken(
            feed().is_whole(&seqs(&[3, 4, 5])),
            "got seq 5 where seq 4 was due",
        );
        assert_broken(feed().is_whole(&seqs(&[3])), "got 2 events, 1 were due");
        assert_broken(feed().is_whole(&seqs(&[3, 5, 6])), "got 2 events, 3 were due");
    }
}
