//! What of the coordinator's view concerns the seat: its leader key, its group's members, who stands first; and what
//! its leader says of a change of members.

use super::SeatDriver;
use crate::clock;
use crate::coordination::{Report, SeatKey, View};
use crate::limits::SPREAD_AFTER;
use crate::node::standing;
use crate::protocol::{Input, LeaderKey, RoleName};
use rdb_proto::types::{Epoch, LogIndex, Membership, NodeId};
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
    /// When the members key was written last.
    changed_at: u64,
    /// What the coordinator was told last of a change of members.
    reported: Option<(Epoch, Report)>,
    /// Whether it has not answered yet: two reports under way could overtake each other.
    is_reporting: bool,
    /// Where the commit stood one heartbeat ago.
    commit_before: LogIndex,
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
        self.told.changed_at = view.changed_at.get(&id.group).copied().unwrap_or_default();
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

    /// Tells the controller how far a change of members is. A learner has caught up when it has everything that was
    /// committed a heartbeat ago; that it lags for a moment later does not undo it.
    pub(super) fn report_change(&mut self) {
        let seat = &self.parts.seat;
        let commit_before = std::mem::replace(&mut self.told.commit_before, seat.commit());
        let is_changing = !self.told.learners.is_empty() || !self.told.membership.previous.is_empty();
        let (Some(established), Some((_, epoch)), true) =
            (seat.established_config(), seat.leader(), is_changing)
        else {
            self.told.reported = None;
            // Whoever begins to lead does not know yet what was committed.
            self.told.commit_before = LogIndex(u64::MAX);
            return;
        };
        if self.told.is_reporting {
            return;
        }
        let as_of = self.told.changed_at;
        let is_of_now = |(under, report): &&(Epoch, Report)| *under == epoch && report.as_of == as_of;
        let reported = self.told.reported.as_ref().filter(is_of_now);
        let before = reported
            .map(|(_, report)| report.caught_up.clone())
            .unwrap_or_default();
        let now = seat
            .matched()
            .into_iter()
            .filter(|(_, matched)| *matched >= commit_before);
        let now: Vec<NodeId> = now.map(|(node, _)| node).collect();
        let has_all = |node: &&NodeId| now.contains(node) || before.contains(node);
        let report = Report {
            as_of,
            established,
            caught_up: self.told.learners.iter().filter(has_all).copied().collect(),
        };
        if reported.is_none_or(|(_, told)| *told != report) {
            self.told.reported = Some((epoch, report.clone()));
            self.told.is_reporting = true;
            self.report(epoch, report);
        }
    }

    /// The coordinator has the report, or it is told again.
    pub(super) fn reported(&mut self, is_taken: bool) {
        self.told.is_reporting = false;
        if !is_taken {
            self.told.reported = None;
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
