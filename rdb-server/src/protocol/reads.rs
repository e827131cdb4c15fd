//! When a read, or an answer that appends nothing, may be told (rules 6.3.7, 6.6 and 6.7).
//!
//! Both say something about *now*, which a deposed leader cannot know. So each waits for a **round**, one numbered
//! wave of messages, that was begun after it arrived: W members that answer it under the epoch prove that no
//! successor can have committed anything before. An answer to an older round proves nothing about now. No clock and
//! no lease has a part in it.
//!
//! Where the leader's own member is a quorum (W = 1), a round is confirmed the moment it is begun: no successor can
//! recover without this member's promise.

use super::effect::{Effect, Outcome, Refusal};
use super::input::{ProposalId, ReadId};
use super::leader::Leader;
use super::member::{Mark, Member};
use crate::limits::{SEAT_ROUNDS_MAX, SEAT_WAITERS_MAX};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::LogIndex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Number of a wave of messages of a leader, from 1; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Round(pub u64);

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Round {
    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// An outcome that appended nothing, and the entry that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) proposal: ProposalId,
    pub(super) outcome: Outcome,
    /// [`LogIndex::ZERO`] when it rests on committed state only.
    pub(super) rests_on: LogIndex,
}

impl Answer {
    fn into_reply(self) -> Effect {
        Effect::Reply {
            proposal: self.proposal,
            outcome: self.outcome,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Waiter {
    Read { read: ReadId, index: LogIndex },
    Answer(Answer),
}

/// What waits for a round, and the rounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Confirmations {
    latest: Round,
    confirmed: Round,
    /// Resolved candidate of each round that is begun and not confirmed, in order.
    candidates: VecDeque<(Round, Mark)>,
    /// Each waits until a round after this one is confirmed; in order of the rounds.
    waiters: VecDeque<(Round, Waiter)>,
    /// Answers by the entry that they rest on, each with the round that it must be after. The second number only
    /// makes the name unique.
    uncommitted: BTreeMap<(LogIndex, u64), (Round, Answer)>,
    answers: u64,
}

impl Confirmations {
    pub(super) fn len(&self) -> usize {
        self.waiters.len().saturating_add(self.uncommitted.len())
    }

    /// Has an answer told once the entry that it rests on is committed and a round that begins after now is
    /// confirmed.
    pub(super) fn answer(&mut self, answer: Answer, commit: LogIndex, effects: &mut Vec<Effect>) {
        if sabotage::is(Sabotage::ConflictFromUncommitted) {
            effects.push(answer.into_reply());
        } else if answer.rests_on <= commit {
            self.wait(self.latest, Waiter::Answer(answer));
        } else {
            self.answers = self.answers.saturating_add(1);
            let place = (answer.rests_on, self.answers);
            self.uncommitted.insert(place, (self.latest, answer));
        }
    }

    /// Queues a waiter for a round after `after`, behind those that are there: confirmed together or later.
    fn wait(&mut self, after: Round, waiter: Waiter) {
        let last = self.waiters.back().map_or(after, |(last, _)| *last);
        self.waiters.push_back((after.max(last), waiter));
    }

    /// Moves on the answers whose entries are committed.
    fn committed(&mut self, commit: LogIndex) {
        while let Some(first) = self.uncommitted.first_entry()
            && first.key().0 <= commit
        {
            let (after, answer) = first.remove();
            self.wait(after, Waiter::Answer(answer));
        }
    }

    /// Whether something waits for a round that is not begun: a waiter, or a candidate beyond the last one.
    fn wants_round(&self, candidate: Mark, mark: Mark) -> bool {
        let begun = self.candidates.back().map_or(mark, |(_, begun)| *begun);
        candidate.seq > begun.seq
            || self
                .waiters
                .back()
                .is_some_and(|(after, _)| *after == self.latest)
    }

    /// Whether another round may be begun before the ones under way are confirmed.
    fn has_room(&self) -> bool {
        self.latest.0.saturating_sub(self.confirmed.0) < SEAT_ROUNDS_MAX
    }

    pub(super) const fn latest(&self) -> Round {
        self.latest
    }

    /// Whether somebody waits for a round that is under way.
    pub(super) fn is_waiting(&self) -> bool {
        self.latest > self.confirmed
    }

    fn begin(&mut self, candidate: Option<Mark>) {
        self.latest = self.latest.next();
        // A candidate that an older round carries already needs no second one: that is confirmed no later.
        let last = self.candidates.back().map(|(_, last)| *last);
        if let Some(candidate) = candidate
            && last != Some(candidate)
        {
            self.candidates.push_back((self.latest, candidate));
        }
    }

    /// Confirms every round up to this one. Returns the last of their candidates.
    fn confirm(&mut self, round: Round) -> Option<Mark> {
        assert!(
            round <= self.latest,
            "6.3.7: a round was answered that was never begun"
        );
        self.confirmed = self.confirmed.max(round);
        let mut reached = None;
        while let Some((begun, candidate)) = self.candidates.front()
            && *begun <= self.confirmed
        {
            reached = Some(*candidate);
            self.candidates.pop_front();
        }
        reached
    }

    /// Tells what waited for the confirmed rounds.
    fn release(&mut self, effects: &mut Vec<Effect>) {
        while self
            .waiters
            .front()
            .is_some_and(|(after, _)| *after < self.confirmed)
        {
            match self.waiters.pop_front() {
                Some((_, Waiter::Read { read, index })) => {
                    effects.push(Effect::ReadConfirmed { read, index });
                }
                Some((_, Waiter::Answer(answer))) => effects.push(answer.into_reply()),
                None => return,
            }
        }
    }

    /// Refuses everything that waits. An answer's attempt appended nothing, so nothing happened.
    pub(super) fn refuse_all(&mut self, refusal: Refusal, effects: &mut Vec<Effect>) {
        let refuse = |proposal| Effect::Reply {
            proposal,
            outcome: Outcome::Refused(refusal),
        };
        effects.extend(self.waiters.drain(..).map(|(_, waiter)| match waiter {
            Waiter::Read { read, .. } => Effect::ReadRefused { read, refusal },
            Waiter::Answer(answer) => refuse(answer.proposal),
        }));
        let uncommitted = std::mem::take(&mut self.uncommitted).into_values();
        effects.extend(uncommitted.map(|(_, answer)| refuse(answer.proposal)));
    }
}

impl Leader {
    /// A linearizable read arrived. It must see what is committed now.
    pub(super) fn read(&mut self, member: &Member, read: ReadId, effects: &mut Vec<Effect>) {
        let refusal = if !self.is_established(member) {
            Refusal::Recovering
        } else if self.confirmations.len() >= SEAT_WAITERS_MAX {
            Refusal::Overloaded
        } else {
            let index = member.log.commit();
            let after = self.confirmations.latest;
            self.confirmations.wait(after, Waiter::Read { read, index });
            return;
        };
        effects.push(Effect::ReadRefused { read, refusal });
    }

    /// Begins a round when one is wanted, and tells what the answered rounds confirm.
    pub(super) fn advance_rounds(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        if self.is_established(member) {
            self.confirmations.committed(member.log.commit());
            let candidate = self.candidate(member);
            if self.confirmations.wants_round(candidate, member.mark) && self.confirmations.has_room() {
                self.begin(member, Some(candidate));
            }
        }
        if let Some(reached) = self.confirmed_round(member)
            && reached > self.confirmations.confirmed
        {
            self.confirmed_at = member.now;
            if let Some(candidate) = self.confirmations.confirm(reached) {
                member.resolve(candidate, effects);
            }
        }
        self.confirmations.release(effects);
    }

    /// Begins a round that nobody waits for: a heartbeat.
    ///
    /// Before the epoch-start is committed a successor's log may hold what is unknown here (H2 of the review): such a
    /// round proves that members obey, and nothing about events.
    pub(super) fn begin_round(&mut self, member: &Member) {
        let candidate = self.is_established(member).then(|| self.candidate(member));
        self.begin(member, candidate);
    }

    fn begin(&mut self, member: &Member, candidate: Option<Mark>) {
        // The time without answers counts from the first question: a pause of the whole process is no silence of the
        // others.
        if !self.confirmations.is_waiting() {
            self.confirmed_at = member.now;
        }
        self.confirmations.begin(candidate);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    /// Rule 6.6, H5 of the review. Red with `conflict_from_uncommitted`.
    #[test]
    fn a_conflict_with_what_is_not_committed_is_told_after_the_commit() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1"]);
        assert_eq!(world.run("propose 2 a absent 12"), [""; 0]);
        assert_eq!(
            world.run("persisted 2")[1..],
            [
                "reply p1 written seq 1 version 1",
                "resolved 1 commit 2",
                "reply p2 conflict version 1 seq 1",
            ]
        );
    }

    /// Rule 6.6: a retry acknowledged from a first attempt that is then lost would be a lost write. Red with
    /// `conflict_from_uncommitted`.
    #[test]
    fn a_duplicate_is_told_after_its_first_attempt_is_committed() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1"]);
        assert_eq!(world.run("propose 2 a any 11 retried 0"), [""; 0]);
        let told = world.run("persisted 2");
        assert_eq!(told.last().unwrap(), "reply p2 duplicate [seq 1 version 1]");
    }

    #[test]
    fn a_conflict_with_committed_state_does_not_wait_for_what_comes_after() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1", "persisted 2"]);
        world.run_all(&["propose 2 b any 12", "allocated 2 first 2"]);
        assert_eq!(
            world.run("propose 3 a absent 13"),
            ["reply p3 conflict version 1 seq 1"]
        );
    }

    #[test]
    fn a_read_sees_what_is_committed_when_it_arrives_and_nothing_uncommitted() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 1"]);
        assert_eq!(world.run("read 1"), ["read r1 confirmed at 1"]);
        world.run("persisted 2");
        assert_eq!(world.run("read 2"), ["read r2 confirmed at 2"]);
    }

    /// Rule 6.3.7, H1 of the review: an answer to a round begun before says nothing about a read that came after.
    #[test]
    fn a_round_confirms_only_what_waited_when_it_began() {
        let mut confirmations = Confirmations::default();
        let mut effects = vec![];
        let read = |n| Waiter::Read {
            read: ReadId(n),
            index: LogIndex(4),
        };
        confirmations.wait(confirmations.latest, read(1));
        confirmations.begin(Some(Mark::default()));
        let first = confirmations.latest;
        confirmations.wait(first, read(2));
        confirmations.confirm(first);
        confirmations.release(&mut effects);
        assert_eq!(
            effects,
            [Effect::ReadConfirmed {
                read: ReadId(1),
                index: LogIndex(4)
            }]
        );
        assert!(confirmations.wants_round(Mark::default(), Mark::default()));
        confirmations.begin(Some(Mark::default()));
        confirmations.confirm(first);
        confirmations.release(&mut effects);
        assert_eq!(effects.len(), 1, "answered again, but it is the older round");
    }
}
