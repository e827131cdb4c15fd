//! How a seat is taken over (rule 6.3.5): promises of R members, the best of their logs, an epoch-start entry.
//!
//! ```text
//! Won ─► PersistPromise … PromisePersisted ─► own promise is one of R ─► the highest (last epoch, last index)
//!     ─► epoch-start appended under the new epoch ─► leader, recovering ─► committed ─► established
//! ```

use super::append::LogEnd;
use super::commit::can_recover;
use super::effect::Effect;
use super::leader::Leader;
use super::member::Member;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, Membership, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member that won the seat and is gathering promises.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) epoch: Epoch,
    membership: Membership,
    /// Where the logs end of the members whose promise of this epoch is durable.
    promises: BTreeMap<NodeId, LogEnd>,
}

impl Candidate {
    /// Uses the membership with the higher number: an etcd restored from a backup would otherwise bring back the
    /// old members, and lose what was committed without them.
    pub(super) fn new(epoch: Epoch, elected: Membership, member: &Member) -> Self {
        let membership = if member.membership.number > elected.number {
            member.membership.clone()
        } else {
            elected
        };
        Self {
            epoch,
            membership,
            promises: BTreeMap::new(),
        }
    }

    /// The own promise became durable. Returns the leader once R members have promised.
    pub(super) fn promised(&mut self, member: &mut Member, effects: &mut Vec<Effect>) -> Option<Leader> {
        self.promises.insert(member.config.me, member.log.end());
        let has_promised = |node| self.promises.contains_key(&node);
        can_recover(&self.membership, member.config.writes, has_promised).then(|| self.lead(member, effects))
    }

    /// Takes over with the best log of those that promised.
    fn lead(&self, member: &mut Member, effects: &mut Vec<Effect>) -> Leader {
        let best = self.promises.values().max().copied().unwrap_or_default();
        assert!(
            member.log.end() == best,
            "6.3.5: the log to lead with must end in {} of {}",
            best.index,
            best.epoch
        );
        let start = member.log.last().next();
        let entry = Entry {
            index: start,
            epoch: self.epoch,
            body: EntryBody::EpochStart(self.membership.clone()),
        };
        member.log.append(vec![Arc::new(entry)], effects);
        member.membership = self.membership.clone();
        Leader::new(self.epoch, self.membership.clone(), start, member.config.me)
    }
}

#[cfg(test)]
mod tests {
    use super::super::RoleName;
    use super::super::testing::{ME, World, alone, epoch};
    use super::super::{Durable, Input, Seat, SeatConfig, Tick};
    use super::*;

    /// Rule 6.3.4: an entry of an older epoch commits only with one of the own.
    #[test]
    fn recovered_entries_commit_with_the_epoch_start_and_not_before() {
        let mut world = World::serving();
        world.run_all(&[
            "propose 1 a any 11",
            "allocated 1 first 1",
            "persisted 2",
            "restart",
        ]);
        assert_eq!(world.seat.commit().get(), 1);
        world.run("won 2");
        assert_eq!(
            world.run("promise-persisted 2"),
            ["persist t1 [3#2@1 epoch-start config 1]"]
        );
        assert_eq!(
            world.run("persisted 1")[0],
            "committed 3 [2#1@1 default/a@1..1 seq 1..1] [3#2@1 epoch-start config 1]"
        );
    }

    #[test]
    fn a_new_leader_serves_once_the_index_shows_its_epoch_start() {
        let mut world = World::new();
        world.run_all(&["won 1", "promise-persisted 1", "persisted 1"]);
        assert_eq!(world.seat.role(), RoleName::Recovering);
        assert_eq!(world.run("propose 1 a any 11"), ["reply p1 refused recovering"]);
        world.run("indexed 1");
        assert_eq!(world.seat.role(), RoleName::Leader);
        assert_eq!(world.seat.leader(), Some((ME, epoch(1))));
    }

    /// A quorum is never cut short: alone among three with W = 2, the own promise is one of two.
    #[test]
    fn one_promise_of_the_two_that_are_needed_recovers_nothing() {
        let config = SeatConfig { me: ME, writes: 2 };
        let mut seat = Seat::new(config, Durable::default());
        let mut effects = vec![];
        let membership = Membership {
            members: vec![ME, NodeId(2), NodeId(3)],
            ..alone()
        };
        let won = Input::Won {
            epoch: epoch(1),
            membership,
        };
        seat.step(Tick(0), won, &mut effects);
        seat.step(Tick(1), Input::PromisePersisted(epoch(1)), &mut effects);
        assert_eq!(effects, [Effect::PersistPromise(epoch(1))]);
        assert_eq!(seat.role(), RoleName::Candidate);
    }

    /// Rule 6.3.8: an etcd restored from a backup would bring the old members back.
    #[test]
    fn a_candidate_uses_the_higher_membership_of_its_log() {
        let mut world = World::serving();
        let older = Membership {
            number: 0,
            members: vec![ME, NodeId(2)],
            previous: vec![],
        };
        world.step(Input::Won {
            epoch: epoch(2),
            membership: older,
        });
        assert_eq!(
            world.run("promise-persisted 2"),
            ["persist t2 [2#2@1 epoch-start config 1]"]
        );
    }
}
