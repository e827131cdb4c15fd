//! What is committed, and the quorum arithmetic over W of N (rules 6.3.4, 6.3.5 and 6.3.8).

use super::effect::Effect;
use super::leader::Leader;
use super::member::Member;
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{LogIndex, Membership, NodeId};

impl Leader {
    /// Whose acks count: the members of the election. The previous ones are not needed (rule 6.3.8): no recovery
    /// without R of the new ones is possible any more, and asking for them would make a dead member irreplaceable.
    pub(super) fn voters(&self) -> &[NodeId] {
        if sabotage::is(Sabotage::CommitOnOld) && !self.membership.previous.is_empty() {
            &self.membership.previous
        } else {
            &self.membership.members
        }
    }

    /// Commits what W members have (rule 6.3.4), and tells the clients.
    ///
    /// Only an entry of the own epoch commits, and takes the older ones with it: an older entry on W members can
    /// still lose a recovery against a log that ends in a higher epoch (Raft figure 8). The own epoch's entries
    /// begin at `start`.
    pub(super) fn advance_commit(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let own = self.own_matched(member);
        let matched = self.voters().iter().map(|node| match self.others.get(node) {
            Some(progress) => progress.matched,
            None if *node == member.config.me => own,
            None => LogIndex::ZERO,
        });
        let reached = reached_by(matched, member.config.writes).unwrap_or_default();
        // Not beyond what is durable here, also when W others have more: the key index would hold what the log may
        // not have after a crash.
        let reached = reached.min(readable_here(member));
        let is_own = reached >= self.start || sabotage::is(Sabotage::CommitWithoutOwnEpoch);
        if !is_own || reached <= member.log.commit() {
            return;
        }
        let entries = member.log.commit_to(reached);
        effects.push(Effect::Committed {
            index: reached,
            entries,
        });
        while let Some(reply) = self.replies.pop_front_if(|reply| reply.index <= reached) {
            effects.push(Effect::Reply {
                proposal: reply.proposal,
                outcome: reply.outcome,
            });
        }
    }

    /// What the leader's own member counts for: what is durable here, while its promise is this epoch. Once it
    /// promised a higher one it may not help this leader to commit, just as it may not acknowledge to it.
    fn own_matched(&self, member: &Member) -> LogIndex {
        if member.promised == self.epoch {
            readable_here(member)
        } else {
            LogIndex::ZERO
        }
    }
}

/// What a crash of this member leaves here.
fn readable_here(member: &Member) -> LogIndex {
    if sabotage::is(Sabotage::CommitBeforePersisted) {
        member.log.last()
    } else {
        member.log.durable()
    }
}

/// The highest value that at least `needed` of `values` have reached; `None` when there are fewer.
///
/// Quadratic, without memory of its own: groups have a handful of members.
pub(super) fn reached_by<T: Ord>(values: impl Iterator<Item = T> + Clone, needed: usize) -> Option<T> {
    let others = values.clone();
    let is_reached = |value: &T| others.clone().filter(|other| other >= value).count() >= needed;
    values.filter(is_reached).max()
}

/// R = N − W + 1: so many members that no W others are left which could have committed without one of them.
///
/// # Panics
/// When W > N: nothing could ever be committed.
pub(super) fn recovery_quorum(members: usize, writes: usize) -> usize {
    let others = members.checked_sub(writes);
    assert!(others.is_some(), "6: W = {writes} of N = {members} members");
    others.unwrap_or(members).saturating_add(1)
}

/// Whether a seat can be recovered from the members that answered: R of the members and, while there are previous
/// ones, R of those too (rule 6.3.8: entries of theirs may be committed without any new member).
pub(super) fn can_recover(
    membership: &Membership,
    writes: usize,
    has_answered: impl Fn(NodeId) -> bool,
) -> bool {
    let is_quorum = |members: &[NodeId]| {
        let answered = members.iter().filter(|node| has_answered(**node)).count();
        let fewer = usize::from(sabotage::is(Sabotage::RecoverFromFewer));
        answered >= recovery_quorum(members.len(), writes).saturating_sub(fewer)
    };
    if sabotage::is(Sabotage::RecoverFromNewOnly) {
        return is_quorum(&membership.members);
    }
    if sabotage::is(Sabotage::RecoverFromOldOnly) && !membership.previous.is_empty() {
        return is_quorum(&membership.previous);
    }
    is_quorum(&membership.members) && (membership.previous.is_empty() || is_quorum(&membership.previous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_reached_when_w_members_have_it() {
        let reached = |values: &[u64], needed| reached_by(values.iter().copied(), needed);
        assert_eq!(reached(&[7], 1), Some(7));
        assert_eq!(reached(&[7, 3, 5], 1), Some(7));
        assert_eq!(reached(&[7, 3, 5], 2), Some(5));
        assert_eq!(reached(&[7, 3, 5], 3), Some(3));
        assert_eq!(reached(&[5, 5, 1], 2), Some(5));
        assert_eq!(reached(&[7, 3], 3), None);
        assert_eq!(reached(&[], 1), None);
    }

    #[test]
    fn a_recovery_quorum_meets_every_commit_quorum() {
        for members in 1..=7_usize {
            for writes in 1..=members {
                let recovery = recovery_quorum(members, writes);
                assert!(recovery.saturating_add(writes) > members);
                assert!(recovery <= members);
            }
        }
    }

    #[test]
    fn a_joint_membership_recovers_from_r_of_the_old_and_r_of_the_new() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let joint = Membership {
            number: 2,
            members: nodes(&[1, 2, 4]),
            previous: nodes(&[1, 2, 3]),
        };
        let recovers = |ids: &[u64]| can_recover(&joint, 2, |node| ids.contains(&node.0));
        assert!(recovers(&[1, 2]));
        assert!(recovers(&[1, 3, 4]));
        assert!(!recovers(&[1, 4]));
        assert!(!recovers(&[1, 3]));
    }

    #[test]
    #[should_panic(expected = "6: W = 3 of N = 2")]
    fn a_group_smaller_than_its_commit_quorum_is_a_bug() {
        recovery_quorum(2, 3);
    }
}
