//! What can happen next: the choices of the checker.

use super::Model;
use super::node::Node;
use super::shared::Shared;
use super::state::{Packet, State, id, place};
use rdb_proto::types::NodeId;
use rdb_server::protocol::{AllocationId, RoleName};
use std::fmt;

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The coordinator grants the seat to a member.
    Elect(NodeId),
    /// The grant reaches it.
    Win(NodeId),
    /// A message arrives.
    Deliver(Delivery),
    /// A promise becomes durable.
    SyncPromise(NodeId),
    /// What was written to the log when the sync began is durable.
    SyncLog(NodeId),
    /// A client writes one event.
    Write(NodeId),
    /// A client reads.
    Read(NodeId),
    /// The coordinator gives numbers for a request.
    Take(NodeId, u64),
    /// They reach the node that asked.
    Answer(NodeId, u64),
    /// The node gives the request up.
    Void(NodeId, u64),
    /// Another seat of the database takes a number and acknowledges its write.
    Foreign,
    /// A node sees the counter as it is.
    Look(NodeId),
    /// A heartbeat.
    Tick(NodeId),
    /// A node dies and starts again; its disk remembers commit and mark, or not.
    Restart(NodeId, bool),
    /// The members key changes.
    Change,
    /// The members key becomes what it was at first.
    OlderMembers,
    /// The epoch key becomes what it was before.
    OlderEpoch,
    /// The counter becomes what it was before.
    OlderCounter,
}

/// A message that arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery(pub(super) Shared<Packet>);

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elect(node) => write!(f, "the coordinator grants the seat to {node}"),
            Self::Win(node) => write!(f, "{node} hears that it won"),
            Self::Deliver(delivery) => write!(f, "{}", *delivery.0),
            Self::SyncPromise(node) => write!(f, "{node}: the promise is durable"),
            Self::SyncLog(node) => write!(f, "{node}: the log is durable"),
            Self::Write(node) => write!(f, "a client writes at {node}"),
            Self::Read(node) => write!(f, "a client reads at {node}"),
            Self::Take(node, request) => write!(f, "the counter rises for request {request} of {node}"),
            Self::Answer(node, request) => write!(f, "{node} hears of the numbers for request {request}"),
            Self::Void(node, request) => write!(f, "{node} gives up request {request}"),
            Self::Foreign => f.write_str("another seat takes a number and acknowledges"),
            Self::Look(node) => write!(f, "{node} sees the counter"),
            Self::Tick(node) => write!(f, "{node}: heartbeat"),
            Self::Restart(node, true) => write!(f, "{node} dies and starts, and knows its commit"),
            Self::Restart(node, false) => write!(f, "{node} dies and starts"),
            Self::Change => f.write_str("the members key changes"),
            Self::OlderMembers => f.write_str("the coordinator is restored to an older members key"),
            Self::OlderEpoch => f.write_str("the coordinator is restored to an older epoch"),
            Self::OlderCounter => f.write_str("the coordinator is restored to an older counter"),
        }
    }
}

impl Model {
    /// Whether the checker may choose this node: of nodes that nothing has happened to yet and that are members of the
    /// same memberships, the first. The others would only be renamed.
    fn is_first_of_its_kind(&self, state: &State, node: NodeId) -> bool {
        if self.is_touched(state, node) {
            return true;
        }
        let kind = |node: NodeId| -> Vec<(bool, bool)> {
            let memberships = self.config.members.iter();
            memberships
                .map(|one| (one.members.contains(&node), one.previous.contains(&node)))
                .collect()
        };
        let lower = (0..place(node)).map(id);
        let mut alike = lower.filter(|other| kind(*other) == kind(node));
        alike.all(|other| self.is_touched(state, other))
    }

    fn is_touched(&self, state: &State, node: NodeId) -> bool {
        self.initial[place(node)]
            .as_ref()
            .is_none_or(|initial| state.node(node) != initial)
    }

    /// Everything that can happen.
    pub(super) fn choices(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let left = &state.left;
        let members = &self.config.members[state.coordinator.stage];
        for place in 0..state.nodes.len() {
            let node = id(place);
            if !self.is_first_of_its_kind(state, node) {
                continue;
            }
            if left.elections > 0 && members.members.contains(&node) {
                actions.push(Action::Elect(node));
            }
            self.local_choices(state, node, actions);
        }
        for packet in &state.packets {
            if self.is_first_of_its_kind(state, packet.to) {
                actions.push(Action::Deliver(Delivery(packet.clone())));
            }
        }
        if left.foreign > 0 {
            actions.push(Action::Foreign);
        }
        if left.changes > 0 && self.may_change(state) {
            actions.push(Action::Change);
        }
        if left.older_members > 0 && state.coordinator.stage > 0 {
            actions.push(Action::OlderMembers);
        }
        if left.older_epochs > 0 && state.coordinator.number > 0 {
            actions.push(Action::OlderEpoch);
        }
        if left.older_counter > 0 && state.coordinator.counter.get() > 0 {
            actions.push(Action::OlderCounter);
        }
    }

    fn local_choices(&self, state: &State, id: NodeId, actions: &mut Vec<Action>) {
        let left = &state.left;
        let node: &Node = state.node(id);
        if !node.wins.is_empty() {
            actions.push(Action::Win(id));
        }
        if node.disk.unsynced_promises() > 0 {
            actions.push(Action::SyncPromise(id));
        }
        if node.disk.unsynced() > 0 {
            actions.push(Action::SyncLog(id));
        }
        for ask in &node.asks {
            let AllocationId(request) = ask.request;
            actions.push(match ask.first {
                None => Action::Take(id, request),
                Some(_) => Action::Answer(id, request),
            });
            if left.voids > 0 && !ask.is_void {
                actions.push(Action::Void(id, request));
            }
        }
        let role = node.seat.role();
        if left.writes > 0 && role == RoleName::Leader {
            actions.push(Action::Write(id));
        }
        if left.reads > 0 && node.leads().is_some() {
            actions.push(Action::Read(id));
        }
        if left.looks > 0 && node.seat.counter() < state.coordinator.counter {
            actions.push(Action::Look(id));
        }
        if left.ticks > 0 && role != RoleName::Follower {
            actions.push(Action::Tick(id));
        }
        if left.crashes > 0 {
            actions.push(Action::Restart(id, false));
            if node.seat.commit().get() > 0 {
                actions.push(Action::Restart(id, true));
            }
        }
    }

    /// The members key changes to a joint membership at any time; the previous members are dropped by a transaction that
    /// compares that the holder of the seat leads under it, with a committed epoch-start (rule 6.3.8).
    fn may_change(&self, state: &State) -> bool {
        let stage = state.coordinator.stage;
        let Some(now) = self.config.members.get(stage) else {
            return false;
        };
        if stage + 1 >= self.config.members.len() {
            return false;
        }
        if now.previous.is_empty() {
            return true;
        }
        state.coordinator.holder.is_some_and(|epoch| {
            let node: &Node = state.node(epoch.node);
            node.leads() == Some(epoch) && node.seat.established_config() == Some(now.number)
        })
    }
}
