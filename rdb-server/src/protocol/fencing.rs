//! Who is obeyed: the promise, taking part in an election's outcome, and stepping down (rule 6.3.1, section 5).
//!
//! The promise is raised in memory at once, so that nothing lower is obeyed from then on, and acted upon only when it
//! is durable: a member that forgot a promise in a crash would help two leaders.

use super::append::Following;
use super::effect::Effect;
use super::leader::Leader;
use super::member::Member;
use super::message::{Append, Message};
use super::recovery::Candidate;
use super::replication::Resignation;
use super::seat::{Role, Seat};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{Epoch, Membership, NodeId};

impl Member {
    /// Tells whose the promised epoch is that the promise is durable, and where the log ends.
    fn acknowledge_fence(&self, effects: &mut Vec<Effect>) {
        if self.is_damaged() {
            return;
        }
        let message = Message::FenceAck {
            epoch: self.promised,
            end: self.log.end(),
            commit: self.log.commit(),
            membership: self.membership.clone(),
        };
        effects.push(Effect::Send {
            to: self.promised.node,
            message,
        });
    }
}

impl Seat {
    /// The coordinator granted the seat. Another grant before ends here: leadership belongs to one epoch.
    ///
    /// An epoch that is promised already is refused, also when it was this node that promised it: it may have led
    /// under it before a restart, and would write other entries under the same epoch and index.
    pub(super) fn won(&mut self, epoch: Epoch, membership: Membership, effects: &mut Vec<Effect>) {
        self.election.answered();
        if self.role.epoch() == Some(epoch) {
            return;
        }
        let promised = self.member.lowest_obeyed();
        let is_kept = epoch == promised && sabotage::is(Sabotage::EpochKeptOverRestart);
        if epoch <= promised && !is_kept {
            self.election.ask();
            effects.push(Effect::EpochTooLow { epoch, promised });
            return;
        }
        self.step_down(None, effects);
        self.election.learn_membership(membership.clone());
        if self.member.is_damaged() {
            // Its own log would count among the R, and may lack what it acknowledged.
            self.give_up(epoch, None, effects);
            return;
        }
        self.raise(epoch, effects);
        let newest = self.election.membership(&self.member);
        let candidate = Candidate::new(epoch, membership, newest, &self.member);
        self.member.config_seen = self.member.config_seen.max(candidate.membership.number);
        candidate.fence(&self.member, effects);
        self.role = Role::Candidate(candidate);
        if self.member.promised_durable == epoch {
            self.promise_persisted(epoch, effects);
        }
    }

    /// The seat went to somebody else, or to nobody. Old news about an epoch before the current one says nothing.
    pub(super) fn lost(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.election.answered();
        if self.role.epoch().is_some_and(|current| current <= epoch) {
            self.step_down(None, effects);
        }
    }

    pub(super) fn step_down(&mut self, leader: Option<(NodeId, Epoch)>, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.role, Role::Follower) {
            Role::Leader(old) => old.step_down(leader, effects),
            Role::Candidate(_) | Role::Follower => {}
        }
    }

    /// Ends the own epoch without being asked to: it does not work here, or the successor has everything.
    pub(super) fn resign(&mut self, resignation: Resignation, effects: &mut Vec<Effect>) {
        let Some(epoch) = self.role.epoch() else {
            return;
        };
        self.step_down(None, effects);
        self.give_up(epoch, resignation.successor, effects);
    }

    fn give_up(&mut self, epoch: Epoch, successor: Option<NodeId>, effects: &mut Vec<Effect>) {
        self.election.rest(&self.member);
        effects.push(Effect::GiveUp { epoch, successor });
    }

    /// Promises an epoch: nothing lower is obeyed from now on, and no ack for it goes out any more. An fsync that
    /// ends after this must not be acknowledged to the old leader, who would count it though the new one has not seen
    /// the entry (C1 of the review).
    fn raise(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        let member = &mut self.member;
        member.promised = epoch;
        member.promised_durable = member.promised_durable.min(epoch);
        member.highest = member.highest.max(epoch);
        if !sabotage::is(Sabotage::AckAfterFence) {
            member.following = Following::new(epoch);
        }
        self.log_reading = None;
        if sabotage::is(Sabotage::PromiseNotPersisted) {
            self.member.promised_durable = epoch;
            if self.role.epoch().is_none() && epoch.node != self.member.config.me {
                self.member.acknowledge_fence(effects);
            }
        } else {
            effects.push(Effect::PersistPromise(epoch));
        }
    }

    /// A promise became durable. That of an epoch which a later one replaced helps nobody.
    pub(super) fn promise_persisted(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        assert!(
            epoch <= self.member.promised || sabotage::is(Sabotage::EqualEpochAccepted),
            "6.3.1: the promise of {epoch} became durable, which was never made"
        );
        let member = &mut self.member;
        member.promised_durable = member.promised_durable.max(epoch).min(member.promised);
        if member.promised_durable < member.promised {
            return;
        }
        match &mut self.role {
            Role::Candidate(candidate) if candidate.epoch == member.promised => {
                let end = member.log.end();
                if let Some(leader) = candidate.promised(member, member.config.me, end, effects) {
                    self.lead(leader);
                }
            }
            Role::Follower if member.promised.node != member.config.me => member.acknowledge_fence(effects),
            Role::Candidate(_) | Role::Leader(_) | Role::Follower => {}
        }
    }

    pub(super) fn lead(&mut self, leader: Leader) {
        self.role = Role::Leader(Box::new(leader));
    }

    /// Whether a message of a winner or leader is to be obeyed; rejects it otherwise. Raises the promise when it is of
    /// a higher epoch: then it is obeyed from its durability on, and its sender is told.
    fn obeys(&mut self, from: NodeId, epoch: Epoch, config: u64, effects: &mut Vec<Effect>) -> bool {
        let member = &mut self.member;
        let is_outdated = config < member.config_seen && !sabotage::is(Sabotage::LowerConfigAccepted);
        let is_equal = epoch.number == member.promised.number && sabotage::is(Sabotage::EqualEpochAccepted);
        // Two leaders of one number exist after a restore of etcd: the node is a part of the epoch, and only a
        // repeat is as high as the promise (C4 of the review).
        if is_outdated || (epoch < member.lowest_obeyed() && !is_equal) {
            let message = Message::Reject {
                epoch,
                promised: member.lowest_obeyed(),
                membership: member.membership.clone(),
            };
            effects.push(Effect::Send { to: from, message });
            return false;
        }
        self.election.heard(epoch, member.now);
        let is_newer_config = config > member.config_seen;
        member.config_seen = member.config_seen.max(config);
        if epoch != member.promised {
            self.step_down(Some((epoch.node, epoch)), effects);
            self.raise(epoch, effects);
            return false;
        }
        if is_newer_config {
            // Kept beside the promise, for the same reason: an older membership must not come back after a crash. So no
            // further message is answered until it is durable; then the sender is told.
            member.promised_durable = Epoch::ZERO;
            effects.push(Effect::PersistPromise(epoch));
        }
        member.promised_durable == epoch && matches!(self.role, Role::Follower)
    }

    pub(super) fn fenced(&mut self, from: NodeId, epoch: Epoch, config: u64, effects: &mut Vec<Effect>) {
        if self.obeys(from, epoch, config, effects) {
            self.member.acknowledge_fence(effects);
        }
    }

    pub(super) fn append_received(&mut self, from: NodeId, append: Append, effects: &mut Vec<Effect>) {
        if self.obeys(from, append.epoch, append.config, effects) {
            self.member.append(append, effects);
        }
    }

    pub(super) fn fence_acked(&mut self, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        let Message::FenceAck {
            epoch,
            end,
            membership,
            ..
        } = message
        else {
            return;
        };
        if self.role.epoch() != Some(epoch) {
            return;
        }
        match &mut self.role {
            Role::Candidate(candidate) => {
                candidate.learn_membership(&self.member, &membership, effects);
                if let Some(leader) = candidate.promised(&mut self.member, from, end, effects) {
                    self.lead(leader);
                }
            }
            Role::Leader(leader) => leader.promised_late(&self.member, from, end),
            Role::Follower => {}
        }
    }

    /// A member obeys somebody higher, or nobody so low, or knows of a newer membership. The seat may still be this node's: only its
    /// number is too low then, and the coordinator raises it in one txn that compares who holds the seat.
    pub(super) fn rejected(
        &mut self,
        epoch: Epoch,
        promised: Epoch,
        membership: Membership,
        effects: &mut Vec<Effect>,
    ) {
        self.member.highest = self.member.highest.max(promised);
        if self.role.epoch() != Some(epoch) {
            return;
        }
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.learn_membership(&self.member, &membership, effects);
        }
        self.election.learn_membership(membership);
        if promised > epoch && self.election.ask() {
            effects.push(Effect::EpochTooLow { epoch, promised });
        } else {
            self.stand(effects);
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
