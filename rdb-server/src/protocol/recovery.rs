//! How a seat is taken over (rule 6.3.5): promises of R members, the best of their logs, an epoch-start entry.
//!
//! ```text
//! Won ─► Fence at all, PersistPromise … FenceAcks, PromisePersisted ─► R promised, itself included
//!     ─► the highest (last epoch, last index) ─► Fetch what is missing ─► the own log ends in exactly that
//!     ─► epoch-start appended under the new epoch ─► leader, recovering ─► committed ─► established
//! ```
//! Fence and Fetch are repeated each heartbeat; a winner that makes no progress gives the seat up.

use super::commit::{can_recover, recovery_quorum};
use super::effect::Effect;
use super::input::Tick;
use super::leader::Leader;
use super::log::LogEnd;
use super::member::Member;
use super::message::Message;
use super::replication::Resignation;
use super::status::Hold;
use crate::sabotage::{self, Sabotage};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, Membership, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The part of the best log that is missing here, on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fetching {
    /// Where the log to lead with ends.
    goal: LogEnd,
    from: NodeId,
    /// Up to here the own log is the same, or may be: what is asked for follows this.
    prev: LogEnd,
    /// Whether nothing came since the last heartbeat.
    is_slow: bool,
}

/// A member that won the seat and is gathering promises.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    pub(super) epoch: Epoch,
    pub(super) membership: Membership,
    /// Where the logs end of the members whose promise of this epoch is durable.
    promises: BTreeMap<NodeId, LogEnd>,
    fetching: Option<Fetching>,
    progress_at: Tick,
}

impl Candidate {
    /// Uses the newest membership that is known, though it was `elected` under another: an etcd restored from a backup
    /// would otherwise bring back the old members, and lose what was committed without them.
    pub(super) fn new(epoch: Epoch, elected: Membership, newest: &Membership, member: &Member) -> Self {
        let mut candidate = Self {
            epoch,
            membership: elected,
            promises: BTreeMap::new(),
            fetching: None,
            progress_at: member.now,
        };
        candidate.adopt(newest);
        candidate
    }

    /// What it waits for.
    pub(super) fn hold(&self, writes: usize) -> Hold {
        if self.fetching.is_some() {
            return Hold::Fetch;
        }
        Hold::Promises {
            given: self.promises.len(),
            needed: recovery_quorum(self.membership.members.len(), writes),
        }
    }

    /// Uses a membership that a log names, when it is newer. What was gathered for the older one still counts.
    fn adopt(&mut self, found: &Membership) -> bool {
        let is_newer = found.number > self.membership.number && !sabotage::is(Sabotage::HigherConfigIgnored);
        if is_newer {
            self.membership = found.clone();
            self.fetching = None;
        }
        is_newer
    }

    /// Uses a membership that a member told, when it is newer, and asks its members too.
    pub(super) fn learn_membership(
        &mut self,
        member: &Member,
        found: &Membership,
        effects: &mut Vec<Effect>,
    ) {
        if self.adopt(found) {
            self.fence(member, effects);
        }
    }

    /// Asks everybody for the promise, those that gave it too: by this they hear that somebody takes the seat over.
    pub(super) fn fence(&self, member: &Member, effects: &mut Vec<Effect>) {
        let others = self.membership.everybody();
        effects.extend(others.filter(|node| *node != member.config.me).map(|to| {
            let message = Message::Fence {
                epoch: self.epoch,
                config: self.membership.number,
            };
            Effect::Send { to, message }
        }));
    }

    /// A promise is durable, the own one or another's. Returns the leader once R members have promised and the own
    /// log is the best of theirs.
    pub(super) fn promised(
        &mut self,
        member: &mut Member,
        from: NodeId,
        end: LogEnd,
        effects: &mut Vec<Effect>,
    ) -> Option<Leader> {
        if self.promises.insert(from, end) != Some(end) {
            self.progress_at = member.now;
        }
        self.try_to_lead(member, effects)
    }

    fn try_to_lead(&mut self, member: &mut Member, effects: &mut Vec<Effect>) -> Option<Leader> {
        let me = member.config.me;
        let has_promised = |node| self.promises.contains_key(&node);
        // Whoever knows that there is a newer membership rejects an older winner, and this member is one of those that
        // are asked: with a coordinator that was restored it may have won under members of before, whom nobody else
        // would refuse.
        let is_newest =
            self.membership.number >= member.config_seen || sabotage::is(Sabotage::OwnConfigIgnored);
        let is_recoverable = is_newest
            && has_promised(me)
            && can_recover(&self.membership, member.config.writes, has_promised);
        if !is_recoverable || self.fetching.is_some() || !self.membership.members.contains(&me) {
            return None;
        }
        let best = self.promises.iter().max_by_key(|(_, end)| **end);
        let (from, goal) = best.map(|(node, end)| (*node, *end))?;
        if member.log.end() >= goal {
            return Some(self.lead(member, effects));
        }
        let prev = member.log.last_not_after(goal);
        self.fetch(
            Fetching {
                goal,
                from,
                prev,
                is_slow: false,
            },
            effects,
        );
        None
    }

    fn fetch(&mut self, fetching: Fetching, effects: &mut Vec<Effect>) {
        let message = Message::Fetch {
            epoch: self.epoch,
            prev: fetching.prev,
            last: fetching.goal.index,
        };
        effects.push(Effect::Send {
            to: fetching.from,
            message,
        });
        self.fetching = Some(fetching);
    }

    /// Entries of the best log came.
    pub(super) fn fetched(
        &mut self,
        member: &mut Member,
        prev: LogEnd,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) -> Option<Leader> {
        let mut fetching = self.fetching.take_if(|fetching| fetching.prev == prev)?;
        let Ok(matched) = member.follow(prev, entries, effects) else {
            self.fetching = Some(fetching);
            return None;
        };
        self.progress_at = member.now;
        if matched < fetching.goal.index {
            fetching.prev = member.log.at(matched);
            fetching.is_slow = false;
            self.fetch(fetching, effects);
            return None;
        }
        // Whether that is the best log is asked anew: the answer of a member with another one, which was asked before a
        // better log was known, may have come a second time and follow the same entry.
        self.promises.insert(member.config.me, member.log.end());
        self.learn_membership(member, &member.membership, effects);
        self.try_to_lead(member, effects)
    }

    /// The source does not have the entry after which it was asked.
    pub(super) fn mismatched(
        &mut self,
        member: &Member,
        refused: LogEnd,
        hint: LogEnd,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(mut fetching) = self.fetching.take_if(|fetching| fetching.prev == refused) {
            fetching.prev = member.log.last_not_after(hint);
            self.progress_at = member.now;
            self.fetch(fetching, effects);
        }
    }

    /// A heartbeat interval passed.
    pub(super) fn tick(&mut self, member: &Member, effects: &mut Vec<Effect>) -> Option<Resignation> {
        let is_member = self.membership.members.contains(&member.config.me);
        let is_alone = self.membership.everybody().all(|node| node == member.config.me);
        let is_stuck = member.since(self.progress_at) >= member.config.failover_after_ms;
        if (is_stuck && !is_alone) || !is_member {
            return Some(Resignation { successor: None });
        }
        self.fence(member, effects);
        if let Some(mut fetching) = self.fetching.take() {
            if fetching.is_slow {
                self.turn_to_another(member, &mut fetching);
                self.fetch(fetching, effects);
            } else {
                fetching.is_slow = true;
                self.fetching = Some(fetching);
            }
        }
        None
    }

    /// The next member that has the same log: the one that was asked may be gone.
    fn turn_to_another(&self, member: &Member, fetching: &mut Fetching) {
        let has_all = |node: &NodeId| {
            *node != member.config.me && self.promises.get(node).is_some_and(|end| *end == fetching.goal)
        };
        let sources = || self.promises.keys().copied().filter(has_all);
        let next = sources()
            .find(|node| *node > fetching.from)
            .or_else(|| sources().next());
        fetching.from = next.unwrap_or(fetching.from);
    }

    /// Takes over with the best log of those that promised.
    fn lead(&self, member: &mut Member, effects: &mut Vec<Effect>) -> Leader {
        let best = self.promises.values().max().copied().unwrap_or_default();
        assert!(
            member.log.end() == best,
            "6.3.5: the log to lead with must end in {best}"
        );
        let start = member.log.last().next();
        let entry = Entry {
            index: start,
            epoch: self.epoch,
            body: EntryBody::EpochStart(self.membership.clone()),
        };
        member.log.append(vec![Arc::new(entry)], effects);
        member.membership = self.membership.clone();
        let mut leader = Leader::new(self.epoch, self.membership.clone(), start, member);
        for (node, end) in &self.promises {
            leader.promised_late(member, *node, *end);
        }
        leader.begin_round(member);
        leader
    }
}

#[cfg(test)]
mod tests {
    use super::super::RoleName;
    use super::super::testing::{ME, World, alone, epoch};
    use super::super::{Durable, Input, Seat, SeatConfig, Tick};
    use super::*;
    use rdb_proto::types::LogIndex;

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
        let config = SeatConfig::new(ME, 2);
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
        let is_fence = |effect: &Effect| {
            matches!(
                effect,
                Effect::Send {
                    message: Message::Fence { .. },
                    ..
                }
            )
        };
        effects.retain(|effect| !is_fence(effect));
        assert_eq!(effects, [Effect::PersistPromise(epoch(1))]);
        assert_eq!(seat.role(), RoleName::Candidate);
    }

    /// The model checker found it, where it stopped the winner.
    #[test]
    fn an_answer_with_another_log_that_comes_a_second_time_does_no_harm() {
        let start = |number, node| Entry {
            index: LogIndex(1),
            epoch: Epoch { number, node },
            body: EntryBody::EpochStart(Membership::default()),
        };
        let (worse, better) = (start(1, NodeId(2)), start(2, NodeId(3)));
        let mut seat = Seat::new(SeatConfig::new(ME, 2), Durable::default());
        let mut step = |input| {
            let mut effects = vec![];
            seat.step(Tick(0), input, &mut effects);
            effects.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let membership = Membership {
            members: vec![ME, NodeId(2), NodeId(3)],
            ..alone()
        };
        let epoch = epoch(3);
        let from = |node, message| Input::Received { from: node, message };
        let promise = |entry: &Entry| {
            let end = LogEnd {
                epoch: entry.epoch,
                index: entry.index,
            };
            let fence_ack = Message::FenceAck {
                epoch,
                end,
                commit: LogIndex::ZERO,
                membership: Membership::default(),
            };
            from(entry.epoch.node, fence_ack)
        };
        let log_of = |entry: &Entry| {
            let fetched = Message::Fetched {
                epoch,
                prev: LogEnd::default(),
                entries: vec![Arc::new(entry.clone())],
            };
            from(entry.epoch.node, fetched)
        };
        step(Input::Won { epoch, membership });
        step(Input::PromisePersisted(epoch));
        step(promise(&worse));
        step(promise(&better));
        assert_eq!(
            step(log_of(&worse)).last().unwrap(),
            "send to 3: fetch 3@1 after 1#1@2 to 1"
        );
        let nothing_shared = Message::Mismatch {
            epoch,
            refused: LogEnd {
                epoch: worse.epoch,
                index: worse.index,
            },
            hint: LogEnd::default(),
        };
        assert_eq!(
            step(from(NodeId(3), nothing_shared)),
            ["send to 3: fetch 3@1 after 0#0@0 to 1"]
        );
        assert_eq!(
            step(log_of(&worse)),
            ["send to 3: fetch 3@1 after 1#1@2 to 1"],
            "it does not lead with that log"
        );
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
