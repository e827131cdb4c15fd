//! The model controller: changes a group's members one at a time (rule 6.3.8), while everything else goes on.
//!
//! ```text
//! learner catches up ─► members key: new members, previous members ─► both seats established under it
//!                                                                  ─► members key: previous members dropped
//! ```

use super::checks::Verdict;
use super::plan::{Fault, MILLI, Micros, SECOND};
use super::world::{Event, World, node_id};
use rdb_proto::types::{Epoch, GroupId, Membership, NodeId, SeatId, Side};
use rdb_server::protocol::{Input, Seat};

/// A change that is under way.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The node catches up.
    Learning {
        joins: NodeId,
        leaves: NodeId,
        since: Micros,
    },
    /// The members key names both.
    Joint,
}

pub(super) const fn seats(group: GroupId) -> [SeatId; 2] {
    [
        SeatId {
            group,
            side: Side::Zero,
        },
        SeatId {
            group,
            side: Side::One,
        },
    ]
}

impl World {
    /// Begins to replace a member of a group, where there is a node to replace it with.
    pub(super) fn begin_change(&mut self) -> Verdict {
        let group = GroupId(u32::try_from(self.nemesis.below(u64::from(self.plan.groups))).unwrap());
        let members = self.members[&group].members.clone();
        let leaves = members[self.nemesis.position(members.len())];
        let others: Vec<NodeId> = (0..self.nodes.len())
            .map(node_id)
            .filter(|node| !members.contains(node))
            .collect();
        if *self.coordinator.members(group) != self.members[&group] {
            return Ok(());
        }
        if others.is_empty() || self.changes.contains_key(&group) || !self.members[&group].previous.is_empty()
        {
            return Ok(());
        }
        let joins = others[self.nemesis.position(others.len())];
        let place = self.place_of(joins);
        for seat in seats(group) {
            self.join(place, seat)?;
        }
        self.changes.insert(
            group,
            Step::Learning {
                joins,
                leaves,
                since: self.now,
            },
        );
        self.queue.push(self.now + 100 * MILLI, Event::Controller(group));
        Ok(())
    }

    /// Moves a change on.
    pub(super) fn controller(&mut self, group: GroupId) -> Verdict {
        let Some(step) = self.changes.get(&group).cloned() else {
            return Ok(());
        };
        self.queue.push(self.now + 100 * MILLI, Event::Controller(group));
        if *self.coordinator.members(group) != self.members[&group] {
            // It was rolled back: the txn compares the members key.
            return Ok(());
        }
        match step {
            Step::Learning { joins, leaves, .. }
                if self.members[&group].members.contains(&joins)
                    || !self.members[&group].members.contains(&leaves) =>
            {
                self.changes.remove(&group);
            }
            Step::Learning { joins, leaves, since } => {
                let mut has_all = true;
                for seat in seats(group) {
                    has_all &= self.teach(seat, joins)?;
                }
                if has_all {
                    let now = &self.members[&group];
                    let mut members: Vec<NodeId> = now
                        .members
                        .iter()
                        .copied()
                        .filter(|node| *node != leaves)
                        .chain([joins])
                        .collect();
                    members.sort_unstable();
                    let previous = now.members.clone();
                    let joint = Membership {
                        number: now.number + 1,
                        members,
                        previous,
                    };
                    self.changes.insert(group, Step::Joint);
                    self.publish(group, joint);
                } else if self.now > since + 5 * SECOND {
                    self.changes.remove(&group);
                }
            }
            Step::Joint => {
                let number = self.members[&group].number;
                if seats(group)
                    .into_iter()
                    .all(|seat| self.is_established(seat, number))
                {
                    let now = &self.members[&group];
                    let alone = Membership {
                        number: now.number + 1,
                        members: now.members.clone(),
                        previous: vec![],
                    };
                    self.changes.remove(&group);
                    self.publish(group, alone);
                }
            }
        }
        Ok(())
    }

    /// Has the leader of a seat send everything to a learner. Returns whether that one has caught up.
    fn teach(&mut self, seat: SeatId, learner: NodeId) -> Result<bool, super::checks::Violation> {
        let Some(Epoch { node, .. }) = self.coordinator.leader(seat).holder else {
            return Ok(false);
        };
        let place = self.place_of(node);
        if !self.nodes[place].is_up || !self.nodes[place].members.contains_key(&seat) {
            return Ok(false);
        }
        self.step((place, seat), Input::Learners(vec![learner]))?;
        let Some(leader) = self.nodes[place].members[&seat].seat.as_ref() else {
            return Ok(false);
        };
        let matched = leader.matched().into_iter().find(|(node, _)| *node == learner);
        Ok(leader.established_config().is_some()
            && matched.is_some_and(|(_, index)| index.plus(5) >= leader.commit()))
    }

    /// Whether the holder of the seat's leader key leads under this membership, its epoch-start committed: the txn
    /// that drops the previous members compares both.
    fn is_established(&self, seat: SeatId, number: u64) -> bool {
        let Some(epoch) = self.coordinator.leader(seat).holder else {
            return false;
        };
        let leader = self.nodes[self.place_of(epoch.node)]
            .members
            .get(&seat)
            .and_then(|member| member.seat.as_ref());
        leader.is_some_and(|leader| {
            leader.leader() == Some((epoch.node, epoch)) && Seat::established_config(leader) == Some(number)
        })
    }

    /// Writes the members key.
    fn publish(&mut self, group: GroupId, membership: Membership) {
        self.counts.changes += 1;
        let before = self.members.insert(group, membership.clone());
        self.past.entry(group).or_default().extend(before);
        self.coordinator.set_members(group, membership.clone());
        self.tell_watches(&[super::coordinator::Change::Members(group, membership)]);
        // The moment at which the old and the new members could lead without each other.
        if self.plan.has(Fault::Storm) && !self.is_calm && self.nemesis.one_in(2) {
            let until = self.now + self.nemesis.below(SECOND);
            for seat in seats(group) {
                self.begin_storm(seat, until);
            }
        }
    }
}
