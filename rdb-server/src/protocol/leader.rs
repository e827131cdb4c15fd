//! The leader of a seat under one epoch: its state, and the order in which one input's consequences follow.
//!
//! The rules stand in the files named by what they decide: [`super::sequencing`], [`super::conditions`],
//! [`super::commit`], [`super::reads`], [`super::resolution`].

use super::effect::{Effect, Outcome, Refusal};
use super::input::{AllocationId, ProposalId, Tick};
use super::member::Member;
use super::overlay::Overlay;
use super::reads::Confirmations;
use super::replication::Progress;
use super::sequencing::{Numbering, Queue};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{Epoch, LogIndex, Membership, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// An append whose client is told when this entry is committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AwaitedCommit {
    pub(super) index: LogIndex,
    pub(super) proposal: ProposalId,
    /// What it is told then.
    pub(super) outcome: Outcome,
}

/// A leader, from the moment that its log is recovered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    pub(super) epoch: Epoch,
    /// Members at the election; a change of them means a new epoch (rule 6.3.8).
    pub(super) membership: Membership,
    /// Index of its epoch-start entry.
    pub(super) start: LogIndex,
    /// Progress of the other members.
    pub(super) others: BTreeMap<NodeId, Progress>,
    pub(super) overlay: Overlay,
    pub(super) queue: Queue,
    pub(super) numbering: Option<Numbering>,
    /// Appends that are not committed, in log order.
    pub(super) replies: VecDeque<AwaitedCommit>,
    pub(super) confirmations: Confirmations,
    /// To whom the seat is being handed over, and since when.
    pub(super) hand_over: Option<(NodeId, Tick)>,
    /// When a round was last confirmed, or the first one was begun that is not.
    pub(super) confirmed_at: Tick,
    /// When a member last had more of the log.
    pub(super) progress_at: Tick,
}

impl Leader {
    pub(super) fn new(epoch: Epoch, membership: Membership, start: LogIndex, member: &Member) -> Self {
        let others = membership
            .members
            .iter()
            .filter(|node| **node != member.config.me);
        Self {
            epoch,
            others: others.map(|node| (*node, Progress::new(start))).collect(),
            membership,
            start,
            overlay: Overlay::new(start),
            queue: Queue::default(),
            numbering: None,
            replies: VecDeque::new(),
            confirmations: Confirmations::default(),
            hand_over: None,
            confirmed_at: member.now,
            progress_at: member.now,
        }
    }

    /// Whether its epoch-start is committed: before that, a log that is unknown here may still win a recovery, so
    /// that nothing may be read or marked.
    pub(super) fn is_established(&self, member: &Member) -> bool {
        member.log.commit() >= self.start || sabotage::is(Sabotage::ReadBeforeStartCommits)
    }

    /// Whether it takes proposals: decisions need committed state, all of it, so the index must have caught up to
    /// where the overlay begins.
    pub(super) fn is_serving(&self, member: &Member) -> bool {
        self.is_established(member) && member.indexed >= self.start
    }

    /// Everything that follows from the input that was just applied.
    pub(super) fn advance(
        &mut self,
        member: &mut Member,
        next_request: &mut AllocationId,
        effects: &mut Vec<Effect>,
    ) {
        self.advance_commit(member, effects);
        self.form_batch(member, next_request, effects);
        self.advance_rounds(member, effects);
        self.replicate(member, effects);
    }

    /// Ends the epoch here. What was appended may still be committed by a successor, or not; nothing else happened.
    pub(super) fn step_down(mut self, leader: Option<(NodeId, Epoch)>, effects: &mut Vec<Effect>) {
        let refusal = Refusal::NotLeader { leader };
        effects.extend(self.replies.drain(..).map(|reply| Effect::Reply {
            proposal: reply.proposal,
            outcome: Outcome::Unknown,
        }));
        self.confirmations.refuse_all(refusal, effects);
        self.refuse_unappended(refusal, effects);
    }
}
