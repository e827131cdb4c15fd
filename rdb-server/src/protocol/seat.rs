//! Dispatch only: which rule an input is for, in which role. The rules stand in the files named by what they decide.

use super::effect::{Effect, Refusal};
use super::election::Election;
use super::input::{AllocationId, Input, LogReadId, ProposalId, Tick};
use super::invariants;
use super::leader::Leader;
use super::log::LogEnd;
use super::member::{Durable, Member, SeatConfig};
use super::message::Message;
use super::recovery::Candidate;
use super::sequencing::{Grant, refuse_all, refuse_changes};
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex, NodeId};
use std::sync::Arc;

/// What a member does in its seat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// Obeys whoever has the highest epoch.
    Follower,
    /// Won the seat and gathers promises.
    Candidate(Candidate),
    /// Leads, from the epoch-start entry on.
    Leader(Box<Leader>),
}

impl Role {
    /// The epoch under which this member stands or leads.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Follower => None,
            Self::Candidate(candidate) => Some(candidate.epoch),
            Self::Leader(leader) => Some(leader.epoch),
        }
    }
}

/// A read of the log for a [`Message::Fetch`] of a winner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LogReading {
    read: LogReadId,
    to: NodeId,
    epoch: Epoch,
    prev: LogEnd,
}

/// One member of a seat, as a pure state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seat {
    pub(super) member: Member,
    pub(super) role: Role,
    pub(super) election: Election,
    /// What another member waits for that is read from disk.
    pub(super) log_reading: Option<LogReading>,
    /// Name of the next request for numbers. Never starts again within an incarnation, whatever the epoch.
    next_request: AllocationId,
}

impl Seat {
    /// A member that starts, with what its disk holds. It leads nothing until it wins the seat in this incarnation.
    ///
    /// # Panics
    /// When `durable` breaks one of the invariants that it names.
    pub fn new(config: SeatConfig, durable: Durable) -> Self {
        Self {
            member: Member::new(config, durable),
            role: Role::Follower,
            election: Election::default(),
            log_reading: None,
            next_request: AllocationId(1),
        }
    }

    /// Applies one input (DESIGN 6). Never blocks, never fails: refusals are effects, pushed to `effects`, which may
    /// be performed in any order.
    ///
    /// # Panics
    /// When an invariant is broken, by rule number: the member must stop, its state cannot be trusted.
    pub fn step(&mut self, now: Tick, input: Input, effects: &mut Vec<Effect>) {
        assert!(
            now >= self.member.now,
            "4: time went back from {:?} to {now:?}",
            self.member.now
        );
        self.member.now = now;
        self.apply(input, effects);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance(&mut self.member, &mut self.next_request, effects);
            if let Some(resignation) = leader.handed_over(&self.member) {
                self.resign(resignation, effects);
            }
        }
        invariants::assert_cheap(self);
    }

    fn apply(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match (&mut self.role, input) {
            (_, Input::Won { epoch, membership }) => self.won(epoch, membership, effects),
            (_, Input::Lost { epoch }) => self.lost(epoch, effects),
            (_, Input::PromisePersisted(epoch)) => self.promise_persisted(epoch, effects),
            (_, Input::Persisted(ticket)) => {
                self.member.log.persisted(ticket);
                self.member.advance_following(effects);
            }
            (_, Input::Indexed(index)) => self.member.indexed(index),
            (_, Input::CounterObserved(seq)) => self.member.counter = self.member.counter.max(seq),
            (Role::Leader(leader), Input::Propose(proposals)) => {
                leader.propose(&self.member, proposals, effects);
            }
            (Role::Candidate(_), Input::Propose(proposals)) => {
                refuse_all(proposals, Refusal::Recovering, effects);
            }
            (Role::Follower, Input::Propose(proposals)) => {
                let leader = self.member.leader();
                refuse_all(proposals, Refusal::NotLeader { leader }, effects);
            }
            (_, Input::ChangeCursors(changes)) => self.change_cursors(changes, effects),
            (Role::Leader(leader), Input::Read(read)) => leader.read(&self.member, read, effects),
            (Role::Candidate(_), Input::Read(read)) => effects.push(Effect::ReadRefused {
                read,
                refusal: Refusal::Recovering,
            }),
            (Role::Follower, Input::Read(read)) => effects.push(Effect::ReadRefused {
                read,
                refusal: Refusal::NotLeader {
                    leader: self.member.leader(),
                },
            }),
            (Role::Leader(leader), Input::Allocated { request, first, time }) => {
                let grant = Grant { request, first, time };
                leader.allocated(&mut self.member, grant, effects);
            }
            (Role::Leader(leader), Input::AllocationVoid { request }) => {
                leader.allocation_void(request, effects);
            }
            (Role::Leader(leader), Input::Learners(nodes)) => leader.learners(&self.member, &nodes),
            (Role::Leader(leader), Input::HandOver(to)) => leader.begin_hand_over(to, self.member.now),
            (_, Input::Tick) => self.tick(effects),
            (_, Input::Received { from, message }) => self.received(from, message, effects),
            (_, Input::LeaderKey(key)) => self.leader_key(key, effects),
            (_, Input::NotWon) => self.election.answered(),
            (_, Input::Members(membership)) => self.members(membership, effects),
            (_, Input::StandAfter(milliseconds)) => self.stand_after(milliseconds),
            (_, Input::Unreachable(node)) => self.unreachable(node, effects),
            (_, Input::LogRead { read, entries }) => self.log_read(read, entries, effects),
            // Numbers for an epoch that is over are holes (rule 6.5). Whom to teach and whom to hand the seat over to
            // is a leader's matter: the coordinator says it again to the next.
            (
                Role::Follower | Role::Candidate(_),
                Input::Allocated { .. }
                | Input::AllocationVoid { .. }
                | Input::Learners(_)
                | Input::HandOver(_),
            ) => {}
        }
    }

    /// Consumers of named subscriptions ask for something.
    fn change_cursors(&mut self, changes: Vec<(ProposalId, Arc<CursorChange>)>, effects: &mut Vec<Effect>) {
        let refusal = match &mut self.role {
            Role::Leader(leader) => {
                leader.change_cursors(&mut self.member, changes, effects);
                return;
            }
            Role::Candidate(_) => Refusal::Recovering,
            Role::Follower => Refusal::NotLeader {
                leader: self.member.leader(),
            },
        };
        refuse_changes(changes, refusal, effects);
    }

    /// A heartbeat interval passed.
    fn tick(&mut self, effects: &mut Vec<Effect>) {
        let resignation = match &mut self.role {
            Role::Follower => None,
            Role::Candidate(candidate) => candidate.tick(&self.member, effects),
            Role::Leader(leader) => leader.tick(&self.member),
        };
        if let Some(resignation) = resignation {
            self.resign(resignation, effects);
        }
        self.stand(effects);
        self.ask_around(effects);
    }

    /// A message of another member. Everything that is not of the epoch that it must be of is out of date, and
    /// dropped where it is looked at.
    fn received(&mut self, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Fence { epoch, config } => self.fenced(from, epoch, config, effects),
            Message::Append(append) => self.append_received(from, append, effects),
            Message::FenceAck { .. } => self.fence_acked(from, message, effects),
            Message::Fetch { epoch, prev, last } => self.fetch(from, epoch, (prev, last), effects),
            Message::Reject {
                epoch,
                promised,
                membership,
            } => self.rejected(epoch, promised, membership, effects),
            Message::PreVote { leader, attempt } => self.pre_vote(from, leader, attempt, effects),
            Message::PreVoteAnswer {
                leader,
                attempt,
                is_unheard,
            } => {
                if is_unheard {
                    self.pre_vote_answered(from, leader, attempt, effects);
                }
            }
            Message::Fetched { epoch, .. }
            | Message::AppendAck { epoch, .. }
            | Message::Mismatch { epoch, .. } => {
                if self.role.epoch() == Some(epoch) {
                    self.answered(from, message, effects);
                }
            }
        }
    }

    /// An answer to a message of the own epoch.
    fn answered(&mut self, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        match (&mut self.role, message) {
            (Role::Candidate(candidate), Message::Fetched { prev, entries, .. }) => {
                if let Some(leader) = candidate.fetched(&mut self.member, prev, entries, effects) {
                    self.lead(leader);
                }
            }
            (Role::Candidate(candidate), Message::Mismatch { refused, hint, .. }) => {
                candidate.mismatched(&self.member, refused, hint, effects);
            }
            (Role::Leader(leader), Message::AppendAck { round, matched, .. }) => {
                leader.append_acked(&self.member, from, round, matched);
            }
            (Role::Leader(leader), Message::Mismatch { refused, hint, .. }) => {
                leader.mismatched(&self.member, from, refused, hint);
            }
            (Role::Follower | Role::Candidate(_) | Role::Leader(_), _) => {}
        }
    }

    /// A winner asks for entries, which it gets under its epoch only: since its fence, a higher leader may have
    /// removed what the winner was told of (M1 of the review).
    fn fetch(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        (prev, last): (LogEnd, LogIndex),
        effects: &mut Vec<Effect>,
    ) {
        let member = &mut self.member;
        let message = if epoch != member.lowest_obeyed() {
            Message::Reject {
                epoch,
                promised: member.lowest_obeyed(),
                membership: member.membership.clone(),
            }
        } else if !member.log.has(prev) {
            let hint = member.log.last_not_after(prev);
            Message::Mismatch {
                epoch,
                refused: prev,
                hint,
            }
        } else if prev.index >= last.min(member.log.last()) {
            return;
        } else if let Some(mut entries) = member.log.message_from(prev.index.next()) {
            entries.retain(|entry| entry.index <= last);
            Message::Fetched { epoch, prev, entries }
        } else {
            let is_asked_again = self
                .log_reading
                .as_ref()
                .is_some_and(|reading| reading.prev == prev && reading.to == from);
            if !is_asked_again {
                let last = last.min(member.log.commit());
                let read = member.read_log(prev.index.next(), last, effects);
                self.log_reading = Some(LogReading {
                    read,
                    to: from,
                    epoch,
                    prev,
                });
            }
            return;
        };
        effects.push(Effect::Send { to: from, message });
    }

    /// Entries came from disk.
    fn log_read(&mut self, read: LogReadId, entries: Vec<Arc<Entry>>, effects: &mut Vec<Effect>) {
        if let Some(LogReading { to, epoch, prev, .. }) =
            self.log_reading.take_if(|reading| reading.read == read)
        {
            let message = Message::Fetched { epoch, prev, entries };
            effects.push(Effect::Send { to, message });
        } else if let Role::Leader(leader) = &mut self.role {
            leader.log_read(&self.member, read, entries, effects);
        }
    }
}
