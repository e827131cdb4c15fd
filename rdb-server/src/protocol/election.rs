//! Who stands for a seat, and when a leader counts as gone (section 5).
//!
//! Nothing here is needed for safety, which comes from fencing: it decides only when a member asks the coordinator to
//! run the election, which compares the leader key's revision.
//!
//! ```text
//! key vacant ───────────────────────────────► (others first) ─► Campaign ─► Won | NotWon
//! key names a leader that is not heard ─► PreVote at all ─► R unheard ─► Campaign
//! key names me under what I do not lead ────────────────────► Campaign
//! ```
//! "Heard" means heard the leader **and epoch** that the leader key names: after a restore of etcd the key may name
//! one that does not lead, while another one still sends heartbeats and gets no numbers (H6 of the review). The clock
//! starts when the member learns of the epoch.

use super::commit::can_recover;
use super::effect::Effect;
use super::input::{LeaderKey, Tick};
use super::member::Member;
use super::message::Message;
use super::replication::Resignation;
use super::seat::{Role, Seat};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{Epoch, Membership, NodeId};
use std::collections::BTreeSet;

/// What a member knows of the seat's holder, and of its own right to stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Election {
    /// As last told by the coordinator; `None` until then, and then this member does not stand.
    key: Option<LeaderKey>,
    /// When the key was first seen like that.
    key_since: Tick,
    /// Members as the coordinator tells them.
    coordinated: Membership,
    stand_after_ms: u64,
    /// It gave the seat up, and does not stand until then.
    rests_until: Tick,
    /// The latest epoch heard, and when.
    heard: (Epoch, Tick),
    /// An epoch that another member asked about and the key does not name here, and since when.
    asked_about: (Epoch, Tick),
    /// A node whose connections are refused, and since when: its epoch counts as unheard for a failover already, so
    /// that others who ask are told so at once, while this member still lets those before it stand first.
    unreachable: Option<(NodeId, Tick)>,
    /// Whether the coordinator was asked for an epoch and has not answered.
    is_asking: bool,
    attempt: u64,
    /// Who has not heard the leader either, in this attempt.
    unheard_by: BTreeSet<NodeId>,
}

impl Election {
    /// Anything that a leader or winner sends under its epoch counts, a Fence included: a recovery that takes longer
    /// than a failover would otherwise be deposed again and again.
    pub(super) fn heard(&mut self, epoch: Epoch, now: Tick) {
        if epoch >= self.heard.0 || Some(epoch) == self.holder() {
            self.heard = (epoch, now);
        }
        if self.unreachable.is_some_and(|(node, _)| node == epoch.node) {
            self.unreachable = None;
        }
        if Some(epoch) == self.holder() {
            self.unheard_by.clear();
        }
    }

    fn holder(&self) -> Option<Epoch> {
        self.key.and_then(|key| key.holder)
    }

    /// For how long the epoch that the key names was not heard, in milliseconds.
    fn unheard_ms(&self, epoch: Epoch, member: &Member) -> u64 {
        let learned = if self.holder() == Some(epoch) {
            self.key_since
        } else {
            self.asked_about.1
        };
        let (heard, at) = self.heard;
        let silent = member.since(if heard == epoch { at.max(learned) } else { learned });
        match self.unreachable {
            Some((node, since)) if node == epoch.node => silent.max(
                member
                    .config
                    .failover_after_ms
                    .saturating_add(member.since(since)),
            ),
            Some(_) | None => silent,
        }
    }

    /// Another member asks about the epoch that the leader key names there. Where the key shows another one here,
    /// the coordinator may be out of reach, and the clock starts with the first question.
    fn asked(&mut self, epoch: Epoch, now: Tick) {
        if self.asked_about.0 != epoch {
            self.asked_about = (epoch, now);
        }
    }

    /// The coordinator answered, or took the seat away.
    pub(super) const fn answered(&mut self) {
        self.is_asking = false;
    }

    /// Whether the coordinator may be asked for an epoch now; notes that it is.
    pub(super) const fn ask(&mut self) -> bool {
        let may_ask = !self.is_asking;
        self.is_asking = true;
        may_ask
    }

    /// The newest membership that is known, from the coordinator or from the log.
    pub(super) fn membership<'a>(&'a self, member: &'a Member) -> &'a Membership {
        if member.membership.number > self.coordinated.number {
            &member.membership
        } else {
            &self.coordinated
        }
    }

    pub(super) fn learn_membership(&mut self, membership: Membership) {
        if membership.number > self.coordinated.number {
            self.coordinated = membership;
        }
    }

    /// Lets the others have the seat for a while: it did not work here.
    pub(super) fn rest(&mut self, member: &Member) {
        self.rests_until = Tick(member.now.0.saturating_add(member.config.failover_after_ms));
    }

    fn may_stand(&self, member: &Member) -> bool {
        let me = member.config.me;
        !self.is_asking
            && member.now >= self.rests_until
            && !member.is_damaged()
            && self.membership(member).members.contains(&me)
    }

    fn campaign(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(key) = self.key else {
            return;
        };
        self.is_asking = true;
        self.unheard_by.clear();
        let above = member.highest.max(key.holder.unwrap_or_default());
        effects.push(Effect::Campaign {
            above,
            revision: key.revision,
        });
    }

    /// Whether the seat is there for this member to take, without asking anybody.
    fn is_vacant_for_me(&self, member: &Member) -> bool {
        let Some(key) = self.key else {
            return false;
        };
        let me = member.config.me;
        let waited = member.since(self.key_since);
        match (key.holder, key.successor) {
            // Won in an earlier incarnation, or by a txn whose answer was lost: nobody leads under that epoch, and
            // this member must not (C3 of the review). Also after a restore of etcd.
            (Some(epoch), _) => epoch.node == me,
            (None, Some(node)) if node == me => true,
            (None, Some(_)) => {
                waited
                    >= member
                        .config
                        .failover_after_ms
                        .saturating_add(self.stand_after_ms)
            }
            (None, None) => waited >= self.stand_after_ms,
        }
    }
}

impl Seat {
    pub(super) fn leader_key(&mut self, key: LeaderKey, effects: &mut Vec<Effect>) {
        let election = &mut self.election;
        let is_other = |known: LeaderKey| known.holder != key.holder || known.successor != key.successor;
        if election.key.is_none_or(is_other) {
            election.key_since = self.member.now;
            election.unheard_by.clear();
            election.unreachable = None;
        }
        election.key = Some(key);
        if let Some(epoch) = key.holder {
            self.member.highest = self.member.highest.max(epoch);
            if sabotage::is(Sabotage::EpochKeptOverRestart)
                && epoch.node == self.member.config.me
                && self.role.epoch().is_none()
            {
                let membership = election.membership(&self.member).clone();
                self.won(epoch, membership, effects);
                return;
            }
        }
        self.stand(effects);
    }

    pub(super) fn members(&mut self, membership: Membership, effects: &mut Vec<Effect>) {
        self.election.learn_membership(membership);
        self.stand(effects);
    }

    pub(super) fn stand_after(&mut self, milliseconds: u64) {
        self.election.stand_after_ms = milliseconds;
    }

    pub(super) fn unreachable(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let since = self.election.unreachable.filter(|(known, _)| *known == node);
        self.election.unreachable = since.or(Some((node, self.member.now)));
        self.ask_around(effects);
    }

    /// Asks the coordinator for the seat, or for a new epoch of it, when that needs no pre-vote.
    pub(super) fn stand(&mut self, effects: &mut Vec<Effect>) {
        self.leave_when_removed(effects);
        let Self {
            member,
            election,
            role,
            ..
        } = self;
        let is_due = match role {
            Role::Follower => election.is_vacant_for_me(member),
            Role::Candidate(_) => false,
            // The lease was lost, or the members changed: a leader works with those of its election only, so a change
            // means a new epoch (rule 6.3.8). It goes on leading until then.
            Role::Leader(leader) => {
                let is_vacant = election.key.is_some_and(|key| key.holder.is_none());
                let holds = election.holder() == Some(leader.epoch);
                // A txn whose answer was lost: it holds the seat under an epoch that it does not lead.
                let won_unknown = election
                    .holder()
                    .is_some_and(|holder| holder.node == member.config.me && holder > leader.epoch);
                let newer = election.membership(member).number > leader.membership.number;
                is_vacant || won_unknown || (holds && newer)
            }
        };
        if is_due && election.may_stand(member) {
            election.campaign(member, effects);
        }
    }

    /// A leader that is no member any more hands the seat over to the member that has most: it cannot win the epoch
    /// that the change needs, and the change would never end.
    fn leave_when_removed(&mut self, effects: &mut Vec<Effect>) {
        let Self {
            member,
            election,
            role,
            ..
        } = self;
        let Role::Leader(leader) = role else {
            return;
        };
        let newest = election.membership(member);
        let is_removed =
            newest.number > leader.membership.number && !newest.members.contains(&member.config.me);
        if !is_removed || leader.hand_over.is_some() {
            return;
        }
        match leader.most_caught_up(&newest.members) {
            Some(successor) => leader.begin_hand_over(successor, member.now),
            None => self.resign(Resignation { successor: None }, effects),
        }
    }

    /// Asks the other members whether they have not heard the leader either, when it was not heard here.
    pub(super) fn ask_around(&mut self, effects: &mut Vec<Effect>) {
        let Self {
            member,
            election,
            role,
            ..
        } = self;
        let (Role::Follower, Some(leader)) = (role, election.holder()) else {
            return;
        };
        let patience = member
            .config
            .failover_after_ms
            .saturating_add(election.stand_after_ms);
        let is_unheard = election.unheard_ms(leader, member) >= patience;
        if !is_unheard || leader.node == member.config.me || !election.may_stand(member) {
            return;
        }
        election.attempt = election.attempt.saturating_add(1);
        election.unheard_by = BTreeSet::from([member.config.me]);
        let attempt = election.attempt;
        let membership = election.membership(member);
        for node in membership.everybody().filter(|node| *node != member.config.me) {
            let message = Message::PreVote { leader, attempt };
            effects.push(Effect::Send { to: node, message });
        }
        self.campaign_if_unheard(effects);
    }

    /// A member that is itself cut off must never unseat a healthy leader: only what R members did not hear is gone.
    fn campaign_if_unheard(&mut self, effects: &mut Vec<Effect>) {
        let Self { member, election, .. } = self;
        let is_unheard_by = |node| election.unheard_by.contains(&node);
        if election.may_stand(member)
            && can_recover(election.membership(member), member.config.writes, is_unheard_by)
        {
            election.campaign(member, effects);
        }
    }

    pub(super) fn pre_vote(&mut self, from: NodeId, leader: Epoch, attempt: u64, effects: &mut Vec<Effect>) {
        let Self {
            member,
            election,
            role,
            ..
        } = self;
        election.asked(leader, member.now);
        // Whoever leads or is taking the seat over has heard itself.
        let is_unheard = role.epoch() != Some(leader)
            && election.unheard_ms(leader, member) >= member.config.failover_after_ms;
        let message = Message::PreVoteAnswer {
            leader,
            attempt,
            is_unheard,
        };
        effects.push(Effect::Send { to: from, message });
    }

    pub(super) fn pre_vote_answered(
        &mut self,
        from: NodeId,
        leader: Epoch,
        attempt: u64,
        effects: &mut Vec<Effect>,
    ) {
        let election = &mut self.election;
        let is_follower = matches!(self.role, Role::Follower);
        let is_current = election.attempt == attempt && election.holder() == Some(leader);
        // An own answer stands in the ballot for as long as the leader is unheard here.
        if is_follower && is_current && !election.unheard_by.is_empty() {
            election.unheard_by.insert(from);
            self.campaign_if_unheard(effects);
        }
    }
}
