//! DESIGN 6.4: seqs are unique database-wide, and ascend along each log. A number that was never given is never used.

use super::{Verdict, broken};
use rdb_proto::entry::Entry;
use rdb_proto::types::{LogIndex, SeatId, Seq};
use std::collections::BTreeMap;

const RULE: &str = "unique seqs (DESIGN 6.4)";

/// Where every committed seq stands.
#[derive(Debug, Default)]
pub struct Seqs {
    used: BTreeMap<Seq, (SeatId, LogIndex)>,
    last: BTreeMap<SeatId, Seq>,
}

impl Seqs {
    /// An entry became committed while the counter stood at `counter`.
    ///
    /// # Errors
    /// When one of its seqs is used, not above the one before it, or above the counter.
    pub fn committed(&mut self, seat: SeatId, entry: &Entry, counter: Seq) -> Verdict {
        let Some((first, last)) = entry.seqs() else {
            return Ok(());
        };
        let before = self.last.insert(seat, last).unwrap_or_default();
        if first <= before {
            return broken(
                RULE,
                format!("seat {seat}: seq {first} stands behind seq {before}"),
            );
        }
        if last > counter {
            return broken(
                RULE,
                format!("seat {seat}: seq {last} was never given, the counter is {counter}"),
            );
        }
        for seq in first.get()..=last.get() {
            if let Some((other, index)) = self.used.insert(Seq(seq), (seat, entry.index)) {
                let what = format!(
                    "seq {seq} is entry {index} of seat {other} and entry {} of seat {seat}",
                    entry.index
                );
                return broken(RULE, what);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, event};
    use super::*;
    use rdb_proto::types::Side;

    #[test]
    fn rejects_a_seq_twice_backwards_or_out_of_nowhere() {
        let other = SeatId {
            side: Side::One,
            ..SEAT
        };
        let mut seqs = Seqs::default();
        seqs.committed(SEAT, &event(2, 1, "a", 5, 1), Seq(9)).unwrap();
        assert_broken(
            seqs.committed(other, &event(2, 1, "b", 5, 1), Seq(9)),
            "seq 5 is entry 2 of seat 0.0",
        );
        assert_broken(
            seqs.committed(SEAT, &event(3, 1, "a", 4, 2), Seq(9)),
            "seq 4 stands behind seq 5",
        );
        assert_broken(
            seqs.committed(SEAT, &event(3, 1, "a", 10, 2), Seq(9)),
            "never given",
        );
    }
}
