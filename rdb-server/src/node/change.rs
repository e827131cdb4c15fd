//! What operators ask for: seats moved, nodes drained and forgotten. The controller does the work; here it is looked at
//! whether the order makes sense, and what would come of it.

use super::error::NodeError;
use super::handle::Handle;
use super::seat_driver::Command;
use super::standing;
use super::status::{SeatState, SeatView};
use crate::clock;
use crate::coordination::replacement::{Replacement, replacements_of};
use crate::coordination::{Order, View};
use crate::limits::MOVE_SEAT_WAIT;
use rdb_proto::types::{NodeId, SeatId, Side};
use std::sync::Arc;

impl Handle {
    /// Has every member of a node moved to other nodes, or to the one that is named. Returns what is to be done, once
    /// that is written down, or at once when it is only to be told.
    ///
    /// # Errors
    /// [`NodeError::UnknownNode`]; [`NodeError::OrderRefused`] when a group would find no node to take the member.
    pub async fn drain(
        &self,
        node: &str,
        to: Option<&str>,
        is_dry_run: bool,
    ) -> Result<Vec<Replacement>, NodeError> {
        let mut view = self.cluster_view();
        let node = named(&view, node)?;
        let to = to.map(|to| named(&view, to)).transpose()?;
        if to == Some(node) {
            return Err(NodeError::OrderRefused(
                "a node cannot take its own members".to_owned(),
            ));
        }
        Arc::make_mut(&mut view).leaving.insert(node, to);
        let moves = replacements_of(&view, node);
        if let Some(stuck) = moves.iter().find(|one| one.joins.is_none()) {
            let group = stuck.group;
            let why = match to {
                Some(to) if !view.is_live(to) => format!("node {} is not live", name_of(&view, to)),
                Some(to) => format!(
                    "node {} has a member of group {group} already, or is being drained itself",
                    name_of(&view, to)
                ),
                None => format!(
                    "no live node is free to take the member of group {group}: every other one has a member of it or is \
                     being drained"
                ),
            };
            return Err(NodeError::OrderRefused(why));
        }
        if !is_dry_run {
            self.order(Order::Leave { node, to }).await?;
        }
        Ok(moves)
    }

    /// Takes back that a node is to be drained.
    ///
    /// # Errors
    /// [`NodeError::UnknownNode`], [`NodeError::OrderRefused`].
    pub async fn undrain(&self, node: &str, is_dry_run: bool) -> Result<(), NodeError> {
        let node = named(&self.cluster_view(), node)?;
        if is_dry_run {
            return Ok(());
        }
        self.order(Order::Stay(node)).await
    }

    /// Forgets a node that is not live and has no members. One that starts with its name later is a new node.
    ///
    /// # Errors
    /// [`NodeError::UnknownNode`], [`NodeError::OrderRefused`].
    pub async fn remove(&self, node: &str, is_dry_run: bool) -> Result<(), NodeError> {
        let view = self.cluster_view();
        let id = named(&view, node)?;
        if view.is_live(id) {
            let why = format!("node {node} is live: stop it first");
            return Err(NodeError::OrderRefused(why));
        }
        let has = |(group, membership): (_, &rdb_proto::types::Membership)| {
            let is_there = membership.everybody().any(|member| member == id);
            is_there.then_some(group)
        };
        if let Some(group) = view.groups.iter().find_map(has) {
            let why = format!("node {node} has a member of group {group}: drain it, or replace it, first");
            return Err(NodeError::OrderRefused(why));
        }
        if is_dry_run {
            return Ok(());
        }
        self.order(Order::Forget(id)).await
    }

    /// Gives a seat that this node leads to another member of its group, and waits until it is given.
    ///
    /// # Errors
    /// [`NodeError::UnknownNode`], [`NodeError::OrderRefused`]; [`NodeError::Refused`] when this node does not lead it.
    pub async fn move_seat(&self, seat: SeatId, to: &str, is_dry_run: bool) -> Result<(), NodeError> {
        let cluster = self.cluster_view();
        let node = named(&cluster, to)?;
        let members = cluster.groups.get(&seat.group);
        if !members.is_some_and(|members| members.members.contains(&node)) {
            let why = format!("node {to} has no member of group {}", seat.group);
            return Err(NodeError::OrderRefused(why));
        }
        if !cluster.is_live(node) {
            return Err(NodeError::OrderRefused(format!("node {to} is not live")));
        }
        let leads_first = standing::holder(&cluster, standing::other_seat(seat)) == Some(node);
        if seat.side == Side::One && leads_first {
            return Err(NodeError::OrderRefused(format!(
                "node {to} leads the group's other seat, and would hand this one back: move that one first"
            )));
        }
        let member = self.member_here(seat)?;
        let is_led = |view: &SeatView| matches!(view.state, SeatState::Leading | SeatState::Recovering);
        let mut view = member.view.clone();
        if !is_led(&view.borrow_and_update()) {
            return Err(NodeError::vacant(seat));
        }
        if node == self.id() || is_dry_run {
            return Ok(());
        }
        let order = Command::HandOver(Some(node));
        member
            .commands
            .send(order)
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        let me = self.id();
        let taken = view.wait_for(|view| view.leader.is_some_and(|leader| leader != me));
        match clock::within(MOVE_SEAT_WAIT, taken).await {
            Some(Ok(view)) if view.leader == Some(node) => Ok(()),
            Some(Ok(_)) => Err(NodeError::OrderRefused(format!(
                "node {to} did not take the seat in time, and another node did"
            ))),
            Some(Err(_)) => Err(NodeError::ShuttingDown),
            None => Err(NodeError::OrderRefused(format!(
                "node {to} has not everything yet: the seat stays where it is"
            ))),
        }
    }

    pub(super) fn cluster_view(&self) -> Arc<View> {
        Arc::clone(&self.shared.coordinator.view().borrow())
    }

    async fn order(&self, order: Order) -> Result<(), NodeError> {
        let done = self.shared.coordinator.order(order).await;
        done.map_err(NodeError::NotOrdered)
    }
}

pub(super) fn named(view: &View, name: &str) -> Result<NodeId, NodeError> {
    let found = view.nodes.iter().find(|(_, info)| info.name == name);
    found
        .map(|(node, _)| *node)
        .ok_or_else(|| NodeError::UnknownNode(name.to_owned()))
}

fn name_of(view: &View, node: NodeId) -> &str {
    view.nodes.get(&node).map_or("", |info| info.name.as_str())
}
