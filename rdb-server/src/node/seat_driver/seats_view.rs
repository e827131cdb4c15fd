//! What of the coordinator's view concerns the seat: its leader key, its group's members, who stands first.

use super::SeatDriver;
use crate::clock;
use crate::coordination::{SeatKey, View};
use crate::limits::SPREAD_AFTER;
use crate::node::standing;
use crate::protocol::{Input, LeaderKey, RoleName};
use rdb_proto::types::{Membership, NodeId};
use std::sync::Arc;
use std::time::Instant;

/// What the core was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    stand_after_ms: u64,
    membership: Membership,
    learners: Vec<NodeId>,
    key: Option<SeatKey>,
    /// Since when this node leads both seats of the group.
    both_since: Option<Instant>,
}

impl SeatDriver {
    /// Tells the core what changed in the coordinator's view.
    pub(super) fn on_view(&mut self, view: &View) {
        let id = self.parts.id;
        let stand_after_ms = standing::stand_after_ms(view, id, self.parts.coordinator.node_id());
        if stand_after_ms != self.told.stand_after_ms {
            self.told.stand_after_ms = stand_after_ms;
            self.inputs.push_back(Input::StandAfter(stand_after_ms));
        }
        if let Some(membership) = view.groups.get(&id.group)
            && *membership != self.told.membership
        {
            self.told.membership = membership.clone();
            self.inputs.push_back(Input::Members(membership.clone()));
        }
        let learners = view.learners.get(&id.group).cloned().unwrap_or_default();
        if learners != self.told.learners {
            self.told.learners.clone_from(&learners);
            self.inputs.push_back(Input::Learners(learners));
        }
        let key = view.seats.get(&id).copied();
        if let Some(key) = key
            && Some(key) != self.told.key
        {
            self.told.key = Some(key);
            self.inputs.push_back(Input::LeaderKey(LeaderKey {
                holder: key.holder,
                successor: key.successor,
                revision: key.revision,
            }));
        }
    }

    /// Whom to teach is a leader's matter, and told to it again and again: it may be a new one.
    pub(super) fn teach(&mut self) {
        if !self.told.learners.is_empty() && self.parts.seat.role() == RoleName::Leader {
            self.inputs.push_back(Input::Learners(self.told.learners.clone()));
        }
    }

    /// Hands the seat over when this node holds both of the group and another member has everything.
    pub(super) fn spread_seats(&mut self) {
        let view = Arc::clone(&self.parts.coordinator.view().borrow());
        let (id, me) = (self.parts.id, self.parts.coordinator.node_id());
        let leads = self.parts.seat.role() == RoleName::Leader;
        if !leads || !standing::is_one_too_many(&view, id, me) {
            self.told.both_since = None;
            return;
        }
        let now = clock::monotonic();
        let since = *self.told.both_since.get_or_insert(now);
        if now.saturating_duration_since(since) < SPREAD_AFTER {
            return;
        }
        let successor = standing::successor(&view, id, me, &self.parts.seat.matched());
        if let Some((node, matched)) = successor
            && matched >= self.parts.seat.commit()
        {
            self.told.both_since = None;
            tracing::info!(seat = %id, to = %node, "handing the seat over: this node leads both of the group");
            self.inputs.push_back(Input::HandOver(node));
        }
    }

    /// Hands the seat over by order; to the best member when none is named.
    pub(super) fn hand_over(&mut self, to: Option<NodeId>) {
        let view = Arc::clone(&self.parts.coordinator.view().borrow());
        let (id, me) = (self.parts.id, self.parts.coordinator.node_id());
        let best = || standing::successor(&view, id, me, &self.parts.seat.matched());
        if let Some(node) = to.or_else(|| best().map(|(node, _)| node)) {
            self.inputs.push_back(Input::HandOver(node));
        }
    }
}
