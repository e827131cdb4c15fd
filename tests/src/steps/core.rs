//! The pure core. One leader and its members, joined by a queue: disks, network, coordinator and key index answer at once,
//! so that nothing but [`Seat::step`] and the making of its inputs is measured.

use super::{EVENT_BYTES, Run};
use bytes::Bytes;
use rdb_proto::event::{EventKind, Expectation, NewEvent};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, NodeId, Seq, Timestamp};
use rdb_server::protocol::{
    Durable, Effect, Input, KeyState, Outcome, Proposal, ProposalId, Seat, SeatConfig, Tick,
};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;

/// One event from its proposal to its acknowledgement, by a member that is alone.
pub(super) fn one_event_alone() -> Run {
    writes(1, 1, 1)
}

/// The same by a leader and two members, of which one must have it.
pub(super) fn one_event_of_three() -> Run {
    writes(3, 2, 1)
}

/// What a loaded seat does: many events in each of a few steps.
pub(super) fn batch_of_three() -> Run {
    writes(3, 2, super::BATCH)
}

/// A world that has written so often that its maps and queues have the size they keep.
fn writes(members: u64, writes: usize, batch: usize) -> Run {
    let mut world = World::new(members, writes, batch);
    for _ in 0..100 {
        world.write_all();
    }
    Box::new(move || world.write_all())
}

const LEADER: NodeId = NodeId(1);

/// A seat's members, and what the driver of each would keep.
struct World {
    seats: BTreeMap<NodeId, Seat>,
    inputs: VecDeque<(NodeId, Input)>,
    effects: Vec<Effect>,
    counter: u64,
    names: Vec<KeyName>,
    states: Vec<KeyState>,
    indexed: LogIndex,
    next_id: u128,
}

impl World {
    fn new(members: u64, writes: usize, keys: usize) -> Self {
        let membership = Membership {
            number: 1,
            members: (1..=members).map(NodeId).collect(),
            previous: Vec::new(),
        };
        let seat = |node: &NodeId| {
            let config = SeatConfig {
                failover_after_ms: u64::MAX,
                ..SeatConfig::new(*node, writes)
            };
            let durable = Durable {
                membership: membership.clone(),
                ..Durable::default()
            };
            (*node, Seat::new(config, durable))
        };
        let name = |n| KeyName::new("default", &format!("key {n}")).expect("a valid key");
        let mut world = Self {
            seats: membership.members.iter().map(seat).collect(),
            inputs: VecDeque::new(),
            effects: Vec::new(),
            counter: 0,
            names: (0..keys).map(name).collect(),
            states: vec![KeyState::default(); keys],
            indexed: LogIndex::ZERO,
            next_id: 1,
        };
        let epoch = Epoch {
            number: 1,
            node: LEADER,
        };
        world.inputs.push_back((LEADER, Input::Won { epoch, membership }));
        world.settle();
        assert!(world.indexed > LogIndex::ZERO, "the leader serves");
        world
    }

    /// One event for each key, as one batch; returns when all are acknowledged.
    fn write_all(&mut self) {
        let proposals = (0..self.names.len()).map(|key| self.proposal(key)).collect();
        self.inputs.push_back((LEADER, Input::Propose(proposals)));
        self.settle();
        let last = self.states.iter().map(|state| state.seq.get()).max();
        assert_eq!(last, Some(self.counter), "every event is acknowledged");
    }

    fn proposal(&mut self, key: usize) -> Proposal {
        self.next_id += 1;
        Proposal {
            id: ProposalId(u64::try_from(key).unwrap()),
            name: self.names[key].clone(),
            expect: Expectation::Any,
            events: vec![NewEvent {
                kind: EventKind::Write,
                event_type: String::new(),
                tags: Vec::new(),
                meta: BTreeMap::new(),
                payload: Bytes::from_static(&[7; EVENT_BYTES]),
                event_id: EventId(Uuid::from_u128(self.next_id)),
            }],
            retried_since: None,
            as_of: self.indexed,
            committed: self.states[key],
            known: Vec::new(),
            remembered_from: Seq(1),
        }
    }

    fn settle(&mut self) {
        while let Some((node, input)) = self.inputs.pop_front() {
            let seat = self.seats.get_mut(&node).expect("a member");
            let mut effects = std::mem::take(&mut self.effects);
            seat.step(Tick(0), input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(node, effect);
            }
            self.effects = effects;
        }
    }

    fn perform(&mut self, node: NodeId, effect: Effect) {
        let input = match effect {
            Effect::Send { to, message } => {
                let input = Input::Received { from: node, message };
                return self.inputs.push_back((to, input));
            }
            Effect::PersistPromise(epoch) => Input::PromisePersisted(epoch),
            Effect::Persist { ticket, .. } => Input::Persisted(ticket),
            Effect::Allocate { request, count } => {
                let first = Seq(self.counter + 1);
                self.counter += count;
                let time = Timestamp(self.counter);
                Input::Allocated { request, first, time }
            }
            Effect::Committed { index, .. } => {
                if node == LEADER {
                    self.indexed = index;
                }
                Input::Indexed(index)
            }
            Effect::Reply {
                proposal: ProposalId(key),
                outcome: Outcome::Written(written),
            } => {
                self.states[usize::try_from(key).unwrap()] = KeyState {
                    version: written.first_version,
                    seq: written.first_seq,
                    is_deleted: false,
                };
                return;
            }
            Effect::Resolved { .. } => return,
            Effect::EpochTooLow { .. }
            | Effect::Reply { .. }
            | Effect::ReadConfirmed { .. }
            | Effect::ReadRefused { .. }
            | Effect::Campaign { .. }
            | Effect::GiveUp { .. }
            | Effect::Repaired
            | Effect::ReadLog { .. } => unreachable!("{effect}"),
        };
        self.inputs.push_back((node, input));
    }
}
