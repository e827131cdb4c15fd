//! How far a seat is resolved: no event at or below the mark will ever be added to its log again (section 7).
//!
//! The leader takes a **candidate** when it begins a round, and the candidate becomes the mark when W members have
//! answered that round under the epoch: then no successor was numbering events before the candidate was taken, and
//! every later one asks for numbers that are above it.

use super::effect::Effect;
use super::leader::Leader;
use super::member::{Mark, Member};
use crate::sabotage::{self, Sabotage};

impl Leader {
    /// How far the seat would be resolved, were this still its leader.
    ///
    /// - Entries are uncommitted: up to before their first seq. They may still be lost, or be committed.
    /// - Numbers are on their way: up to what was known when they were asked for. They will be above that, but
    ///   may be below what the counter shows now.
    /// - Neither: the next numbers are above the counter's latest value, and above the own last seq, which the
    ///   counter has reached even where that was not observed yet.
    pub(super) fn candidate(&self, member: &Member) -> Mark {
        let idle = member.counter.max(member.log.committed_seq());
        let seq = if sabotage::is(Sabotage::MarkTooEarly) {
            idle.max(member.log.last_seq())
        } else if let Some(first) = member.log.first_uncommitted_seq()
            && !sabotage::is(Sabotage::FirstUncommittedBranchRemoved)
        {
            first.previous()
        } else if let Some(numbering) = &self.numbering
            && !sabotage::is(Sabotage::InFlightBranchRemoved)
        {
            numbering.floor
        } else {
            idle
        };
        Mark {
            seq,
            commit: member.log.commit(),
        }
    }
}

impl Member {
    /// Takes a confirmed candidate as the mark. It may be below the mark: a new leader's view of the counter can
    /// be older than what the mark was made from.
    pub(super) fn resolve(&mut self, confirmed: Mark, effects: &mut Vec<Effect>) {
        assert!(
            confirmed.commit <= self.log.commit(),
            "7: a mark is valid for a commit that is not reached"
        );
        if confirmed.seq <= self.mark.seq {
            return;
        }
        self.mark = confirmed;
        self.known_mark = self.known_mark.max(confirmed.seq);
        effects.push(Effect::Resolved {
            mark: confirmed.seq,
            commit: confirmed.commit,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;

    /// Section 7. Red with `mark_too_early`.
    #[test]
    fn the_mark_stays_below_numbers_that_are_on_their_way() {
        let mut world = World::serving();
        world.run_all(&["counter 7", "propose 1 a any 11"]);
        assert_eq!(world.run("counter 9"), [""; 0], "8 may be its number");
        assert_eq!(world.seat.mark().seq.get(), 7);
    }

    /// Section 7. Red with `mark_too_early`.
    #[test]
    fn the_mark_stays_below_what_is_not_committed() {
        let mut world = World::serving();
        world.run_all(&["propose 1 a any 11", "allocated 1 first 8"]);
        assert_eq!(world.seat.mark().seq.get(), 7);
        assert_eq!(world.run("counter 12"), [""; 0]);
        assert!(
            world
                .run("persisted 2")
                .contains(&"resolved 12 commit 2".to_owned())
        );
    }

    #[test]
    fn a_mark_is_told_once_and_never_goes_back() {
        let mut world = World::serving();
        assert_eq!(world.run("counter 7"), ["resolved 7 commit 1"]);
        assert_eq!(world.run("counter 7"), [""; 0]);
        assert_eq!(world.run("counter 5"), [""; 0]);
        world.run_all(&["won 2", "promise-persisted 2", "persisted 2"]);
        assert_eq!(world.seat.mark().seq.get(), 7);
    }

    /// H2 of the review: before its epoch-start is committed, a leader knows too little for a mark.
    #[test]
    fn a_leader_marks_nothing_before_its_epoch_start_is_committed() {
        let mut world = World::new();
        world.run_all(&["counter 7", "won 1", "promise-persisted 1"]);
        assert_eq!(world.run("counter 8"), [""; 0]);
        assert_eq!(world.run("persisted 1").last().unwrap(), "resolved 8 commit 1");
    }
}
