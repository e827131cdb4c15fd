//! What a leader sends to the other members and to learners, and when it gives its seat up (rules 6.3.4 and 6.3.7,
//! section 5).
//!
//! ```text
//!   1 … matched | matched+1 … next-1 | next … last
//!   acked         in flight, bounded   to be sent, from memory or from disk
//! ```
//! Entries are sent ahead of their acks, and a lost message is noticed by the next one, whose receiver does not have
//! what it follows: heartbeats follow what was sent last. After a [`Message::Mismatch`] the leader tries at the hint;
//! where the hint alone does not prove that the logs are the same there, it sends no entries before an ack. A member that
//! was away refuses everything that was sent meanwhile, all with one hint: that is gone back to once a heartbeat, since
//! the whole rest of the log would be sent again for each.

use super::commit::reached_by;
use super::effect::Effect;
use super::input::{LogReadId, Tick};
use super::leader::Leader;
use super::log::LogEnd;
use super::member::Member;
use super::message::{Append, Message};
use super::reads::Round;
use crate::limits::{MEMBER_IN_FLIGHT_BYTES_MAX, MEMBER_IN_FLIGHT_MESSAGES_MAX};
use crate::sabotage::{self, Sabotage};
use rdb_proto::entry::Entry;
use rdb_proto::types::{LogIndex, NodeId, Seq};
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct InFlight {
    last: LogIndex,
    bytes: usize,
}

/// What a receiver was told last, entries aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct News {
    round: Round,
    commit: LogIndex,
    mark: Seq,
}

/// What the leader knows of another member, or of a learner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// The member has every entry of this log up to here, durably.
    pub(super) matched: LogIndex,
    /// Latest round that it answered.
    pub(super) answered: Round,
    /// The next entry to send.
    next: LogIndex,
    /// Whether it is not known that the member has the entry before `next`: no entries until it says so.
    is_probing: bool,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    told: News,
    /// Where the leader went back to since the last heartbeat, while no ack says that the member went on from there.
    went_back_to: Option<LogIndex>,
    /// The read of the log whose entries are for it.
    reading: Option<LogReadId>,
}

impl Progress {
    pub(super) const fn new(next: LogIndex) -> Self {
        Self {
            matched: LogIndex::ZERO,
            answered: Round(0),
            next,
            is_probing: false,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            told: News {
                round: Round(0),
                commit: LogIndex::ZERO,
                mark: Seq::ZERO,
            },
            went_back_to: None,
            reading: None,
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < MEMBER_IN_FLIGHT_MESSAGES_MAX
            && self.in_flight_bytes < MEMBER_IN_FLIGHT_BYTES_MAX
    }

    fn sent(&mut self, entries: &[Arc<Entry>]) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let bytes = entries.iter().map(|entry| entry.body_bytes()).sum();
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(bytes);
        self.in_flight.push_back(InFlight { last, bytes });
        self.next = last.next();
    }

    fn acknowledged(&mut self, matched: LogIndex) {
        self.went_back_to = self.went_back_to.filter(|place| matched <= *place);
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        self.is_probing = false;
        while let Some(sent) = self.in_flight.front()
            && sent.last <= self.matched
        {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(sent.bytes);
            self.in_flight.pop_front();
        }
    }

    /// Everything that is under way counts as lost: goes on after `shared`, which the member may have.
    fn restart_after(&mut self, shared: LogIndex, is_certain: bool) {
        let place = shared.max(self.matched);
        self.next = place.next();
        self.went_back_to = Some(place);
        self.is_probing = !is_certain && shared > self.matched;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.reading = None;
        self.told.round = Round(0);
    }
}

/// Why a leader ends its epoch by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resignation {
    pub(super) successor: Option<NodeId>,
}

impl Leader {
    /// W members of `from`'s kind may have changed by this: the caller advances commit and rounds.
    pub(super) fn append_acked(&mut self, member: &Member, from: NodeId, round: Round, matched: LogIndex) {
        assert!(
            matched <= member.log.last() || sabotage::is(Sabotage::AckLogEnd),
            "6.2: {from} acknowledges {matched}, beyond this log"
        );
        let latest = self.confirmations.latest();
        let Some(progress) = self.others.get_mut(&from) else {
            return;
        };
        if matched > progress.matched {
            self.progress_at = member.now;
        }
        progress.acknowledged(matched.min(member.log.last()));
        // Only a round that was begun after a read arrived says something about that read (H1 of the review).
        let answered = if sabotage::is(Sabotage::AckWithoutRound) {
            latest
        } else {
            round
        };
        progress.answered = progress.answered.max(answered);
    }

    /// A member does not have the entry that an Append follows.
    pub(super) fn mismatched(&mut self, member: &Member, from: NodeId, refused: LogEnd, hint: LogEnd) {
        if let Some(progress) = self.others.get_mut(&from)
            && refused.index > progress.matched
        {
            let shared = member.log.last_not_after(hint);
            if progress.went_back_to.is_some_and(|place| shared.index >= place) {
                return;
            }
            progress.restart_after(shared.index, shared == hint);
        }
    }

    /// A member that promised late, or again: its log ends there.
    pub(super) fn promised_late(&mut self, member: &Member, from: NodeId, end: LogEnd) {
        if let Some(progress) = self.others.get_mut(&from) {
            let shared = member.log.last_not_after(end);
            progress.restart_after(shared.index, shared == end);
        }
    }

    /// Entries came from disk, for whoever waits for that read.
    pub(super) fn log_read(
        &mut self,
        member: &Member,
        read: LogReadId,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) {
        let reader = self
            .others
            .iter()
            .find(|(_, progress)| progress.reading == Some(read));
        let Some(to) = reader.map(|(node, _)| *node) else {
            return;
        };
        let is_next = |progress: &Progress| {
            let first = entries.first().map(|entry| entry.index);
            first == Some(progress.next) && !progress.is_probing
        };
        if let Some(progress) = self.others.get_mut(&to) {
            progress.reading = None;
            if is_next(progress) {
                self.send(member, to, entries, effects);
            }
        }
    }

    /// Learners get everything and count for nothing.
    pub(super) fn learners(&mut self, member: &Member, nodes: &[NodeId]) {
        let is_member = |node: &NodeId| self.membership.members.contains(node);
        self.others
            .retain(|node, _| self.membership.members.contains(node) || nodes.contains(node));
        for node in nodes.iter().filter(|node| !is_member(node)) {
            if *node != member.config.me {
                let next = member.log.last().next();
                self.others.entry(*node).or_insert_with(|| Progress::new(next));
            }
        }
    }

    /// Sends everybody what they lack: entries, or the round, commit and mark alone.
    pub(super) fn replicate(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        // One after the other by name: each needs the leader whole, and a list of all would cost memory every step.
        let mut next = self.others.keys().next().copied();
        while let Some(node) = next {
            self.replicate_to(member, node, effects);
            let after = (Bound::Excluded(node), Bound::Unbounded);
            next = self.others.range(after).next().map(|(node, _)| *node);
        }
    }

    fn replicate_to(&mut self, member: &mut Member, to: NodeId, effects: &mut Vec<Effect>) {
        while let Some(progress) = self.others.get_mut(&to)
            && !progress.is_probing
            && progress.next <= member.log.last()
            && progress.has_room()
            && progress.reading.is_none()
        {
            if let Some(entries) = member.log.message_from(progress.next) {
                self.send(member, to, entries, effects);
            } else {
                let commit = member.log.commit();
                progress.reading = Some(member.read_log(progress.next, commit, effects));
            }
        }
        let news = self.news(member);
        let is_quiet = !self.confirmations.is_waiting();
        // While a round is under way, what is new rides on the message that comes anyway.
        let is_due = |told: News| told.round < news.round || (is_quiet && told != news);
        if self.others.get(&to).is_some_and(|progress| is_due(progress.told)) {
            self.send(member, to, vec![], effects);
        }
    }

    fn news(&self, member: &Member) -> News {
        News {
            round: self.confirmations.latest(),
            commit: member.log.commit(),
            mark: member.mark.seq,
        }
    }

    fn send(&mut self, member: &Member, to: NodeId, entries: Vec<Arc<Entry>>, effects: &mut Vec<Effect>) {
        let news = self.news(member);
        // A confirmed mark is a fact for ever. The candidate is none: at a member outside the quorum of a successor it
        // would pass events that the successor commits (H3 of the review).
        let mark = if sabotage::is(Sabotage::CandidateAsMark) && self.is_established(member) {
            self.candidate(member)
        } else {
            member.mark
        };
        let Some(progress) = self.others.get_mut(&to) else {
            return;
        };
        let prev = member.log.at(progress.next.previous());
        progress.sent(&entries);
        progress.told = news;
        let message = Message::Append(Append {
            epoch: self.epoch,
            config: self.membership.number,
            round: news.round,
            prev,
            entries,
            commit: news.commit,
            mark,
        });
        effects.push(Effect::Send { to, message });
    }

    /// A heartbeat interval passed: a round for everybody, so that each hears the leader and the leader hears each.
    pub(super) fn tick(&mut self, member: &Member) -> Option<Resignation> {
        for progress in self.others.values_mut() {
            progress.went_back_to = None;
        }
        self.begin_round(member);
        let failover_after = member.config.failover_after_ms;
        if let Some((_, since)) = self.hand_over
            && member.since(since) >= failover_after
        {
            self.hand_over = None;
        }
        // One-way loss: the members hear this leader, none of them would ever unseat it, and nothing commits (H6 of
        // the review). With nobody else there is nobody to give the seat to.
        let is_stuck = member.since(self.confirmed_at) >= failover_after
            || (!self.is_established(member) && member.since(self.progress_at) >= failover_after);
        (is_stuck && self.has_others()).then_some(Resignation { successor: None })
    }

    fn has_others(&self) -> bool {
        self.membership
            .members
            .iter()
            .any(|node| self.others.contains_key(node))
    }

    /// The latest round that W members answered, the own member while its promise is this epoch.
    pub(super) fn confirmed_round(&self, member: &Member) -> Option<Round> {
        let latest = self.confirmations.latest();
        if sabotage::is(Sabotage::MarkWithoutAcks) {
            return Some(latest);
        }
        let own = (member.promised == self.epoch).then_some(latest);
        let answered = self.voters().iter().map(|node| match self.others.get(node) {
            Some(progress) => progress.answered,
            None if *node == member.config.me => own.unwrap_or_default(),
            None => Round::default(),
        });
        reached_by(answered, member.config.writes)
    }

    /// Of those that are members now and will be, the one that has most.
    pub(super) fn most_caught_up(&self, staying: &[NodeId]) -> Option<NodeId> {
        let candidates = self
            .others
            .iter()
            .filter(|(node, _)| staying.contains(node) && self.membership.members.contains(node));
        let most = candidates.max_by_key(|(_, progress)| progress.matched);
        most.map(|(node, _)| *node)
    }

    /// Begins to hand the seat over: from now on nothing new is taken, so that the successor can have everything.
    pub(super) fn begin_hand_over(&mut self, to: NodeId, now: Tick) {
        if self.others.contains_key(&to) && self.membership.members.contains(&to) {
            self.hand_over = Some((to, now));
        }
    }

    /// Whether the successor has everything, and nobody waits for this leader any more.
    pub(super) fn handed_over(&self, member: &Member) -> Option<Resignation> {
        let (to, _) = self.hand_over?;
        let last = member.log.last();
        let is_idle = self.queue.events() == 0 && self.numbering.is_none() && self.replies.is_empty();
        let has_all = self
            .others
            .get(&to)
            .is_some_and(|progress| progress.matched == last);
        (is_idle && has_all && member.log.commit() == last).then_some(Resignation { successor: Some(to) })
    }
}
