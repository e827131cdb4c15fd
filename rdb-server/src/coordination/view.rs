//! What the coordinator shows: nodes, members and leaders, as of one revision.

use super::Report;
use rdb_proto::types::{Epoch, GroupId, Membership, NodeId, SeatId};
use std::collections::{BTreeMap, BTreeSet};

/// The leader key of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeatKey {
    /// The epoch that holds the seat, and by that the node; `None` when nobody does.
    pub holder: Option<Epoch>,
    /// To whom the last holder gave the seat up, while nobody holds it.
    pub successor: Option<NodeId>,
    /// Changes with every write of the key, its removal included. An election compares it.
    pub revision: u64,
}

/// A node that was registered once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// `NODE`.
    pub name: String,
    /// Where others reach it, host:port of gRPC; empty when it was never live since this node looks.
    pub address: String,
    /// Release of its server; empty like the address.
    pub release: String,
    /// Whether it holds its lease.
    pub is_live: bool,
}

/// Everything that the coordinator decides, but the counter. A view never goes back, unless the coordinator was
/// restored to an older state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Every registered node.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Members of every group that has some.
    pub groups: BTreeMap<GroupId, Membership>,
    /// Revision of each group's last change: one that is abandoned and begun again is another change.
    pub changed_at: BTreeMap<GroupId, u64>,
    /// Nodes that are to catch up in a group before they become members.
    pub learners: BTreeMap<GroupId, Vec<NodeId>>,
    /// The members that go when those have caught up.
    pub replaced: BTreeMap<GroupId, NodeId>,
    /// Nodes that are to have no members any more, and who takes those; any node when nobody is named.
    pub leaving: BTreeMap<NodeId, Option<NodeId>>,
    /// Leader keys of the seats of those groups.
    pub seats: BTreeMap<SeatId, SeatKey>,
    /// What the leaders of seats say of a change of members, under the epochs that hold them now.
    pub reports: BTreeMap<SeatId, Report>,
    /// The node that places groups on nodes.
    pub controller: Option<NodeId>,
    /// Why the coordinator cannot be used now; `None` when it can.
    pub problem: Option<String>,
    /// What an operator should know of the coordinator, a sentence each.
    pub warnings: Vec<String>,
    /// Members that are to be replaced, and for which no live node is free; known to the controller only.
    pub unreplaced: BTreeSet<(GroupId, NodeId)>,
}

impl View {
    /// How many members each node has; those that have none are missing.
    pub(super) fn members_of_nodes(&self) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for node in self.groups.values().flat_map(|membership| &membership.members) {
            let count: &mut usize = counts.entry(*node).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Whether the node is live, as far as the coordinator knows.
    pub fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|info| info.is_live)
    }

    /// Address of a node, when it is known.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        let info = self.nodes.get(&node)?;
        (!info.address.is_empty()).then_some(info.address.as_str())
    }
}
