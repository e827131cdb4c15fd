//! Which node a request belongs to: the leader of its seat, or any node with a member.

use super::error::NodeError;
use super::handle::Handle;
use super::status::SeatState;
use crate::coordination::View;
use rdb_proto::types::{Epoch, NodeId, SeatId};
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
    There(Peer),
}

/// Another node that can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub node: NodeId,
    /// Its host:port.
    pub address: String,
    /// The epoch of the seat's leader, as far as it was known then.
    epoch: Epoch,
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
        let leader = self.leader(seat, &view);
        let epoch = leader.unwrap_or_default();
        let members = view.groups.get(&seat.group).map(|group| group.members.as_slice());
        let live = members
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|node| need == Need::Member && view.is_live(*node));
        leader
            .map(|epoch| epoch.node)
            .into_iter()
            .chain(live)
            .filter(|node| *node != self.id())
            .find_map(|node| {
                let address = view.address(node)?.to_owned();
                Some(Route::There(Peer { node, address, epoch }))
            })
            .or_else(|| member.is_some().then_some(Route::Here))
            .ok_or_else(|| NodeError::vacant(seat))
    }

    /// The newest leader of a seat that is known, and its host:port when it can be reached.
    pub fn led(&self, seat: SeatId) -> Option<(Epoch, String)> {
        let cluster = self.shared.coordinator.view();
        let view = cluster.borrow();
        let epoch = self.leader(seat, &view)?;
        if epoch.node == self.id() {
            return Some((epoch, self.address()));
        }
        Some((epoch, view.address(epoch.node)?.to_owned()))
    }

    /// The newest leader of a seat that is known: by its key, or by what its member here hears. Without etcd the key is
    /// out of date, and a node that was cut off hears nobody.
    fn leader(&self, seat: SeatId, view: &View) -> Option<Epoch> {
        let member = self.member(seat);
        let heard = member.and_then(|member| {
            let view = member.view.borrow();
            view.leader.map(|_| view.epoch)
        });
        let held = view.seats.get(&seat).and_then(|key| key.holder);
        heard.max(held)
    }

    /// Completes when the seat has a newer leader than the one that the request went to: that one may never answer.
    pub async fn moved(&self, seat: SeatId, from: &Peer) {
        let mut cluster = self.shared.coordinator.view();
        let mut member = self.member(seat).map(|member| member.view.clone());
        loop {
            let leader = self.leader(seat, &Arc::clone(&cluster.borrow_and_update()));
            if leader.is_some_and(|leader| leader > from.epoch && leader.node != from.node) {
                return;
            }
            let heard = async {
                match &mut member {
                    Some(view) => view.changed().await,
                    None => std::future::pending().await,
                }
            };
            let is_over = tokio::select! {
                changed = cluster.changed() => changed.is_err(),
                changed = heard => changed.is_err(),
            };
            // The node stops, and with it whoever waits.
            if is_over {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Host:port of every other live node that has a member of all these seats, the same order each time.
    pub fn peers_with(&self, seats: &[SeatId]) -> Vec<String> {
        let cluster = self.shared.coordinator.view();
        let view = cluster.borrow();
        let has_all = |node: &NodeId| {
            seats.iter().all(|seat| {
                let group = view.groups.get(&seat.group);
                group.is_some_and(|group| group.members.contains(node))
            })
        };
        view.nodes
            .iter()
            .filter(|(node, info)| **node != self.id() && info.is_live && has_all(node))
            .map(|(_, info)| info.address.clone())
            .filter(|address| !address.is_empty())
            .collect()
    }
}
