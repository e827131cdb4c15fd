//! Who is obeyed: the promise, taking part in an election's outcome, and stepping down (rule 6.3.1, section 5).
//!
//! The promise is raised in memory at once, so that nothing lower is obeyed from then on, and acted upon only when it
//! is durable: a member that forgot a promise in a crash would help two leaders.

use super::effect::Effect;
use super::recovery::Candidate;
use super::seat::{Role, Seat};
use rdb_proto::types::{Epoch, Membership};

impl Seat {
    /// The coordinator granted the seat. Another grant before ends here: leadership belongs to one epoch.
    ///
    /// An epoch that is promised already is refused, also when it was this node that promised it: it may have led
    /// under it before a restart, and would write other entries under the same epoch and index.
    pub(super) fn won(&mut self, epoch: Epoch, membership: Membership, effects: &mut Vec<Effect>) {
        if self.role.epoch() == Some(epoch) {
            return;
        }
        let promised = self.member.promised;
        if epoch <= promised {
            effects.push(Effect::EpochTooLow { epoch, promised });
            return;
        }
        self.step_down(effects);
        self.member.promised = epoch;
        self.role = Role::Candidate(Candidate::new(epoch, membership, &self.member));
        effects.push(Effect::PersistPromise(epoch));
    }

    /// The seat went to somebody else, or to nobody. Old news about an epoch before the current one says nothing.
    pub(super) fn lost(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        if self.role.epoch().is_some_and(|current| current <= epoch) {
            self.step_down(effects);
        }
    }

    fn step_down(&mut self, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.role, Role::Follower) {
            Role::Leader(leader) => leader.step_down(None, effects),
            Role::Candidate(_) | Role::Follower => {}
        }
    }

    /// A promise became durable. That of an epoch which a later one replaced helps nobody.
    pub(super) fn promise_persisted(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        assert!(
            epoch <= self.member.promised,
            "6.3.1: the promise of {epoch} became durable, which was never made"
        );
        self.member.promised_durable = self.member.promised_durable.max(epoch);
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        if candidate.epoch == self.member.promised_durable
            && let Some(leader) = candidate.promised(&mut self.member, effects)
        {
            self.role = Role::Leader(Box::new(leader));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RoleName;
    use super::super::testing::{World, epoch};

    /// Section 5, C3 of the review: the entries that it may have sent under that epoch before it restarted are not
    /// in its log.
    #[test]
    fn an_epoch_that_was_promised_before_is_never_led_under() {
        let mut world = World::new();
        world.run_all(&["won 3", "promise-persisted 3", "restart"]);
        assert_eq!(world.run("won 3"), ["epoch too low 3@1 promised 3@1"]);
        assert_eq!(world.run("won 2"), ["epoch too low 2@1 promised 3@1"]);
        assert_eq!(world.run("won 4"), ["persist promise 4@1"]);
    }

    #[test]
    fn nothing_is_done_under_a_promise_that_is_not_durable() {
        let mut world = World::new();
        world.run("won 1");
        assert_eq!(world.seat.role(), RoleName::Candidate);
        assert_eq!(world.run("won 2"), ["persist promise 2@1"]);
        assert_eq!(
            world.run("promise-persisted 1"),
            [""; 0],
            "of an epoch that is over"
        );
        assert_eq!(
            world.run("promise-persisted 2"),
            ["persist t1 [1#2@1 epoch-start config 1]"]
        );
        assert_eq!(world.seat.promised(), epoch(2));
    }

    #[test]
    fn news_of_an_older_epoch_do_not_unseat() {
        let mut world = World::new();
        world.run_all(&["won 2", "promise-persisted 2"]);
        world.run_all(&["lost 1", "won 2"]);
        assert_eq!(world.seat.role(), RoleName::Recovering);
        world.run("lost 2");
        assert_eq!(world.seat.role(), RoleName::Follower);
    }

    #[test]
    fn a_lost_seat_refuses_what_was_not_appended_and_says_unknown_of_the_rest() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1"]);
        world.run_all(&["propose 2 b any 12; 3 a absent 13", "propose 4 c any 14"]);
        let mut told = world.run("lost 1");
        told.sort();
        assert_eq!(
            told,
            [
                "reply p1 unknown",
                "reply p2 refused not leader",
                "reply p3 refused not leader",
                "reply p4 refused not leader",
            ]
        );
        assert_eq!(
            world.run("persisted 2"),
            [""; 0],
            "a member alone commits nothing"
        );
    }
}
