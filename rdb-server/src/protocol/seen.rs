//! What a node remembers of the coordinator (`seen`, DESIGN 6.5): the only evidence that an etcd was restored from an
//! older backup, which looks the same from outside.
//!
//! Each field is a fact that the coordinator's keys had reached once. It is on disk before a promise is told and at
//! least each second, and is told to every node that asks ([`super::guard`]).

use rdb_proto::types::{GroupId, Membership, SeatId, Seq, Timestamp};
use std::collections::BTreeMap;

/// How far the coordinator's keys had come, as a node knows it; the coordinator's own state has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// How often the database was put right after a restore of the coordinator; 0 at first.
    pub generation: u64,
    /// Revision of the coordinator. Means something within its generation only: a restored one counts on from where
    /// the backup stood, and no txn can raise it.
    pub revision: u64,
    /// Highest number that is known to have been given: of the counter, of an event in a log, of a mark.
    pub counter: Seq,
    /// Highest time that is known to stand beside the counter, or in an event.
    pub time: Timestamp,
    /// Highest epoch number of each seat: granted, or promised.
    pub epochs: BTreeMap<SeatId, u64>,
    /// Newest members of each group. Where only their number is known, from a message of a winner, `members` is
    /// empty.
    pub members: BTreeMap<GroupId, Membership>,
}

impl Seen {
    /// Adds what another one knows: the higher of each. Only the revision does not outlive its generation. A number,
    /// an epoch or a membership of an older generation may still be at work somewhere, so it counts whatever came
    /// after it.
    pub fn merge(&mut self, other: &Self) {
        if other.generation > self.generation {
            self.generation = other.generation;
            self.revision = other.revision;
        } else if other.generation == self.generation {
            self.revision = self.revision.max(other.revision);
        }
        self.counter = self.counter.max(other.counter);
        self.time = self.time.max(other.time);
        for (seat, number) in &other.epochs {
            let known = self.epochs.entry(*seat).or_default();
            *known = (*known).max(*number);
        }
        for (group, membership) in &other.members {
            let known = self.members.entry(*group).or_default();
            let tells_who = known.members.is_empty() && membership.number == known.number;
            if membership.number > known.number || tells_who {
                known.clone_from(membership);
            }
        }
    }

    /// Whether these keys, of the coordinator, are behind what was seen **before they were read**: then it was
    /// restored to an older state. A later generation was made by somebody who knew, so its revision says nothing.
    pub fn is_below(&self, seen: &Self) -> bool {
        let epoch = |seat| self.epochs.get(seat).copied().unwrap_or_default();
        let membership = |group| self.members.get(group).map_or(0, |known| known.number);
        self.generation < seen.generation
            || (self.generation == seen.generation && self.revision < seen.revision)
            || self.counter < seen.counter
            || seen.epochs.iter().any(|(seat, number)| epoch(seat) < *number)
            || seen
                .members
                .iter()
                .any(|(group, known)| membership(group) < known.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_proto::types::{NodeId, Side};

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::Zero,
    };

    fn seen(generation: u64, revision: u64, counter: u64) -> Seen {
        Seen {
            generation,
            revision,
            counter: Seq(counter),
            ..Seen::default()
        }
    }

    fn membership(number: u64, members: &[u64]) -> Membership {
        Membership {
            number,
            members: members.iter().copied().map(NodeId).collect(),
            previous: vec![],
        }
    }

    fn merged(mut one: Seen, other: &Seen) -> Seen {
        one.merge(other);
        one
    }

    #[test]
    fn the_revision_counts_within_its_generation_and_the_counter_always() {
        assert_eq!(merged(seen(0, 7, 9), &seen(0, 5, 12)), seen(0, 7, 12));
        assert_eq!(merged(seen(0, 7, 9), &seen(1, 5, 8)), seen(1, 5, 9));
        assert_eq!(merged(seen(1, 5, 8), &seen(0, 7, 9)), seen(1, 5, 9));
    }

    #[test]
    fn who_the_members_are_is_learned_under_a_number_that_is_known() {
        let known = |membership| Seen {
            members: BTreeMap::from([(GroupId(0), membership)]),
            ..Seen::default()
        };
        let number_only = known(membership(2, &[]));
        let whole = known(membership(2, &[1, 2, 3]));
        assert_eq!(merged(number_only.clone(), &whole), whole);
        assert_eq!(merged(whole.clone(), &number_only), whole);
        assert_eq!(
            merged(whole, &known(membership(3, &[]))),
            known(membership(3, &[]))
        );
    }

    #[test]
    fn a_coordinator_is_below_what_was_seen_when_any_of_its_keys_is() {
        let coordinator = Seen {
            epochs: BTreeMap::from([(SEAT, 4)]),
            members: BTreeMap::from([(GroupId(0), membership(2, &[1]))]),
            ..seen(1, 50, 100)
        };
        assert!(!coordinator.is_below(&coordinator));
        assert!(coordinator.is_below(&seen(1, 51, 0)));
        assert!(coordinator.is_below(&seen(1, 0, 101)));
        assert!(coordinator.is_below(&seen(2, 0, 0)));
        assert!(!coordinator.is_below(&seen(0, 999, 0)), "of an older generation");
        let epochs = BTreeMap::from([(SEAT, 5)]);
        assert!(coordinator.is_below(&Seen {
            epochs,
            ..seen(0, 0, 0)
        }));
        let members = BTreeMap::from([(GroupId(0), membership(3, &[]))]);
        assert!(coordinator.is_below(&Seen {
            members,
            ..seen(0, 0, 0)
        }));
    }
}
