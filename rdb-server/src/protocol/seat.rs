//! Dispatch only: which rule an input is for, in which role. The rules stand in the files named by what they decide.

use super::effect::{Effect, Refusal};
use super::input::{AllocationId, Input, Tick};
use super::invariants;
use super::leader::Leader;
use super::member::{Durable, Member, SeatConfig};
use super::recovery::Candidate;
use super::sequencing::{Grant, refuse_all};
use rdb_proto::types::Epoch;

/// What a member does in its seat.
#[derive(Debug)]
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

/// One member of a seat, as a pure state machine.
#[derive(Debug)]
pub struct Seat {
    pub(super) member: Member,
    pub(super) role: Role,
    /// Name of the next request for numbers. Never starts again within an incarnation, whatever the epoch.
    next_request: AllocationId,
    now: Tick,
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
            next_request: AllocationId(1),
            now: Tick::default(),
        }
    }

    /// Applies one input (DESIGN 6). Never blocks, never fails: refusals are effects, pushed to `effects`, which may
    /// be performed in any order.
    ///
    /// # Panics
    /// When an invariant is broken, by rule number: the member must stop, its state cannot be trusted.
    pub fn step(&mut self, now: Tick, input: Input, effects: &mut Vec<Effect>) {
        assert!(
            now >= self.now,
            "4: time went back from {:?} to {now:?}",
            self.now
        );
        self.now = now;
        self.apply(input, effects);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance(&mut self.member, &mut self.next_request, effects);
        }
        invariants::assert_cheap(self);
    }

    fn apply(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match (&mut self.role, input) {
            (_, Input::Won { epoch, membership }) => self.won(epoch, membership, effects),
            (_, Input::Lost { epoch }) => self.lost(epoch, effects),
            (_, Input::PromisePersisted(epoch)) => self.promise_persisted(epoch, effects),
            (_, Input::Persisted(ticket)) => self.member.log.persisted(ticket),
            (_, Input::Indexed(index)) => self.member.indexed(index),
            (_, Input::CounterObserved(seq)) => self.member.counter = self.member.counter.max(seq),
            (Role::Leader(leader), Input::Propose(proposals)) => {
                leader.propose(&self.member, proposals, effects);
            }
            (Role::Candidate(_), Input::Propose(proposals)) => {
                refuse_all(proposals, Refusal::Recovering, effects);
            }
            (Role::Follower, Input::Propose(proposals)) => {
                refuse_all(proposals, Refusal::NotLeader { leader: None }, effects);
            }
            (Role::Leader(leader), Input::Read(read)) => leader.read(&self.member, read, effects),
            (Role::Candidate(_), Input::Read(read)) => effects.push(Effect::ReadRefused {
                read,
                refusal: Refusal::Recovering,
            }),
            (Role::Follower, Input::Read(read)) => effects.push(Effect::ReadRefused {
                read,
                refusal: Refusal::NotLeader { leader: None },
            }),
            (Role::Leader(leader), Input::Allocated { request, first, time }) => {
                let grant = Grant { request, first, time };
                leader.allocated(&mut self.member, grant, effects);
            }
            (Role::Leader(leader), Input::AllocationVoid { request }) => {
                leader.allocation_void(request, effects);
            }
            // Numbers for an epoch that is over are holes (rule 6.5). Time alone changes nothing for a member that
            // has nobody to send to.
            (
                Role::Follower | Role::Candidate(_),
                Input::Allocated { .. } | Input::AllocationVoid { .. } | Input::Tick,
            )
            | (Role::Leader(_), Input::Tick) => {}
        }
    }
}
