//! DESIGN 6.4: at most one leader for each (seat, epoch). A leader is a node in one of its lives.

use super::{Verdict, broken};
use rdb_proto::types::{Epoch, NodeId, SeatId};
use std::collections::BTreeMap;

const RULE: &str = "one leader for each epoch (DESIGN 6.4)";

/// Who has led under which epoch.
#[derive(Debug, Default)]
pub struct Leaders {
    known: BTreeMap<(SeatId, Epoch), (NodeId, u64)>,
}

impl Leaders {
    /// A member leads.
    ///
    /// # Errors
    /// When another one did under this epoch, or the same one before it restarted.
    pub fn leads(&mut self, seat: SeatId, epoch: Epoch, node: NodeId, incarnation: u64) -> Verdict {
        let first = *self.known.entry((seat, epoch)).or_insert((node, incarnation));
        if first == (node, incarnation) {
            return Ok(());
        }
        let (other, life) = first;
        let what = format!(
            "seat {seat} is led under {epoch} by {node} in life {incarnation}, and was by {other} in life {life}"
        );
        broken(RULE, what)
    }

    /// How often a seat got another leader.
    pub fn changes(&self) -> usize {
        let seats: std::collections::BTreeSet<_> = self.known.keys().map(|(seat, _)| *seat).collect();
        self.known.len() - seats.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{SEAT, assert_broken, epoch};
    use super::*;

    #[test]
    fn rejects_a_second_leader_and_a_second_life() {
        let mut leaders = Leaders::default();
        leaders.leads(SEAT, epoch(1), NodeId(1), 1).unwrap();
        leaders.leads(SEAT, epoch(1), NodeId(1), 1).unwrap();
        leaders.leads(SEAT, epoch(2), NodeId(2), 1).unwrap();
        assert_broken(
            leaders.leads(SEAT, epoch(1), NodeId(3), 1),
            "is led under 1@1 by 3",
        );
        assert_broken(leaders.leads(SEAT, epoch(2), NodeId(2), 2), "in life 2");
    }
}
