//! What must be true of a member after every step (DESIGN 6.4), beside the asserts that stand where the rules act.

use super::seat::{Role, Seat};
use crate::sabotage::{self, Sabotage};

/// What can be checked in constant time; after every step, in every build.
pub(super) fn assert_cheap(seat: &Seat) {
    let member = &seat.member;
    assert!(
        member.promised_durable <= member.promised,
        "6.3.1: a promise is durable that was not made"
    );
    assert!(
        member.log.commit() <= member.log.last(),
        "6.3.4: an entry that is not here is committed"
    );
    assert!(
        member.indexed <= member.log.commit(),
        "8: the key index applied what is not committed"
    );
    assert!(
        member.log.committed_seq() <= member.log.last_seq(),
        "6.3.6: the log's last seq is below a committed one"
    );
    assert!(
        member.following.verified <= member.log.last(),
        "6.3.2: an entry that the leader had sent was removed"
    );
    assert!(
        member.following.epoch == member.promised || sabotage::is(Sabotage::AckAfterFence),
        "6.3.1: what is followed is not what is promised"
    );
    let is_early = sabotage::is(Sabotage::CommitBeforePersisted) || sabotage::is(Sabotage::AckBeforeFsync);
    assert!(
        member.log.commit() <= member.log.durable() || is_early,
        "6.3.3: what is committed here would not outlive a crash"
    );
    match &seat.role {
        Role::Leader(leader) => assert!(
            leader.epoch <= member.promised && leader.start <= member.log.last(),
            "6.3.5: a leader without promise or epoch-start"
        ),
        Role::Candidate(candidate) => assert!(
            candidate.epoch <= member.promised,
            "6.3.5: a candidate without promise"
        ),
        Role::Follower => {}
    }
}

impl Seat {
    /// Checks the state as a whole, in time proportional to what is uncommitted: for simulator and model checker,
    /// after every step.
    ///
    /// # Panics
    /// When an invariant is broken, by rule number.
    pub fn assert_invariants(&self) {
        assert_cheap(self);
        let log = &self.member.log;
        let mut index = log.commit();
        let mut seq = log.committed_seq();
        for entry in log.uncommitted() {
            assert!(
                entry.index == index.next(),
                "6.3.2: the tail has a gap after {index}"
            );
            assert!(
                entry.epoch == log.epoch_at(entry.index),
                "6.4: epoch of {} is not the log's",
                entry.index
            );
            index = entry.index;
            let Some((first, last)) = entry.seqs() else {
                continue;
            };
            assert!(first > seq, "6.3.6: seq {first} follows {seq} in the log");
            assert!(
                first > self.member.mark.seq || sabotage::is(Sabotage::MarkTooEarly),
                "7: the mark passed seq {first}, which is not committed"
            );
            seq = last;
        }
        assert!(index == log.last(), "6.1: the tail does not reach the log's end");
    }
}
