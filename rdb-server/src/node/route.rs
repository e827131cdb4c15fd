//! Which node a request belongs to: the leader of its seat, or any node with a member.

use super::error::NodeError;
use super::handle::Handle;
use super::standing;
use super::status::SeatState;
use crate::coordination::View;
use rdb_proto::types::{NodeId, SeatId};
use std::sync::Arc;

/// Who can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The leader of the seat: writes, and reads that must see every acknowledged write.
    Leader,
    /// Any member: reads as of a seq, and local ones.
    Member,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this node.
    Here,
    /// To another one.
    There {
        /// Which.
        node: NodeId,
        /// Its host:port.
        address: String,
    },
}

impl Handle {
    /// Where a request for a seat goes. What is known may be out of date: whoever gets the request may refuse it.
    ///
    /// # Errors
    /// [`NodeError::Refused`] when nobody who can answer is known.
    pub fn route(&self, seat: SeatId, need: Need) -> Result<Route, NodeError> {
        let member = self.member(seat);
        let is_here = match (&member, need) {
            (Some(member), Need::Leader) => {
                let state = member.view.borrow().state;
                matches!(state, SeatState::Leading | SeatState::Recovering)
            }
            (member, Need::Member) => member.is_some(),
            (None, Need::Leader) => false,
        };
        if is_here {
            return Ok(Route::Here);
        }
        let cluster = self.shared.coordinator.view();
        let view = cluster.borrow();
        let heard = member.as_ref().and_then(|member| member.view.borrow().leader);
        let members = view.groups.get(&seat.group).map(|group| group.members.as_slice());
        let live = members
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|node| need == Need::Member && standing::is_live(&view, *node));
        standing::holder(&view, seat)
            .into_iter()
            .chain(heard)
            .chain(live)
            .filter(|node| *node != self.id())
            .find_map(|node| {
                let address = view.address(node)?.to_owned();
                Some(Route::There { node, address })
            })
            .or_else(|| member.is_some().then_some(Route::Here))
            .ok_or_else(|| NodeError::vacant(seat))
    }

    /// Completes when another node than `from` has come to hold the seat: `from` may never answer then.
    pub async fn moved(&self, seat: SeatId, from: NodeId) {
        let mut cluster = self.shared.coordinator.view();
        let before = standing::holder(&cluster.borrow(), seat);
        let is_elsewhere = |view: &Arc<View>| {
            let now = standing::holder(view, seat);
            now.is_some_and(|node| node != from) && now != before
        };
        // An error means that the node stops, and with it whoever waits.
        drop(cluster.wait_for(is_elsewhere).await);
    }

    /// Where a change stream comes from: a node that has a member of every seat.
    ///
    /// # Errors
    /// [`NodeError::NotHere`] when no live node has.
    pub fn route_to_all(&self) -> Result<Route, NodeError> {
        let members = self.members();
        let Some(missing) = self.seats().find(|seat| !members.contains_key(seat)) else {
            return Ok(Route::Here);
        };
        let cluster = self.shared.coordinator.view();
        let view = cluster.borrow();
        let has_all = |node: NodeId| {
            self.seats().all(|seat| {
                view.groups
                    .get(&seat.group)
                    .is_some_and(|group| group.members.contains(&node))
            })
        };
        let whole = view
            .nodes
            .iter()
            .find(|(node, info)| info.is_live && !info.address.is_empty() && has_all(**node));
        whole
            .map(|(node, info)| Route::There {
                node: *node,
                address: info.address.clone(),
            })
            .ok_or(NodeError::NotHere(missing))
    }
}
