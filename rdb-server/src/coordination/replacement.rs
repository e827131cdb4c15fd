//! Which member of a group goes, which node comes for it, and what is to be done next (DESIGN 6.3.8). Pure: an operator
//! may ask what would be done, and the controller does just that.
//!
//! ```text
//! Begin: the node that comes is a learner ─► both leaders say that it has everything
//!   ─► Switch: new and previous members ─► both leaders say that their epoch-starts are committed under these
//!   ─► Finish: new members
//! ```

use super::View;
use rdb_proto::types::{GroupId, Membership, NodeId, SeatId, Side};
use std::collections::{BTreeMap, BTreeSet};

/// A member of a group that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub leaves: NodeId,
    /// The node that comes for it; `None` when none is free.
    pub joins: Option<NodeId>,
}

/// The next thing to do in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A node is to catch up.
    Begin {
        /// The group.
        group: GroupId,
        /// The member that is to go.
        leaves: NodeId,
        /// The node that is to catch up.
        joins: NodeId,
    },
    /// The node that catches up is not wanted any more, or gone.
    Abandon(GroupId),
    /// It has caught up, and becomes a member in the other's place.
    Switch(GroupId),
    /// The previous members are not needed any more.
    Finish(GroupId),
}

/// Everything that can be done now.
///
/// `lost` are members' nodes that were absent for long enough to be replaced, `gone` learners' nodes that were for long
/// enough to be given up.
pub fn steps(view: &View, lost: &BTreeSet<NodeId>, gone: &BTreeSet<NodeId>) -> Vec<Step> {
    let mut steps: Vec<Step> = view
        .groups
        .iter()
        .filter_map(|(group, membership)| going_on(view, gone, *group, membership))
        .collect();
    // A node catches up in one group at a time.
    let mut learning: BTreeSet<NodeId> = view.learners.values().flatten().copied().collect();
    for replacement in replacements(view, lost) {
        let Replacement { group, leaves, joins } = replacement;
        if let Some(joins) = joins
            && learning.insert(joins)
        {
            steps.push(Step::Begin { group, leaves, joins });
        }
    }
    steps
}

/// What a change that is under way needs next.
fn going_on(view: &View, gone: &BTreeSet<NodeId>, group: GroupId, membership: &Membership) -> Option<Step> {
    let both_say = |is_so: &dyn Fn(&super::Report) -> bool| {
        Side::BOTH.iter().all(|side| {
            let seat = SeatId { group, side: *side };
            let report = view.reports.get(&seat);
            report.is_some_and(|report| view.changed_at.get(&group) == Some(&report.as_of) && is_so(report))
        })
    };
    if !membership.previous.is_empty() {
        return both_say(&|report| report.established == membership.number).then_some(Step::Finish(group));
    }
    let joins = learner(view, group)?;
    let leaves = view.replaced.get(&group).copied();
    // Another controller may have begun it, and have seen for longer than this one that the member is absent.
    let is_due = |leaves: NodeId| must_go(view, &BTreeSet::new(), leaves) || !view.is_live(leaves);
    let is_wanted = !must_go(view, gone, joins)
        && leaves.is_some_and(|leaves| is_due(leaves) && membership.members.contains(&leaves));
    if !is_wanted {
        return Some(Step::Abandon(group));
    }
    both_say(&|report| report.caught_up.contains(&joins)).then_some(Step::Switch(group))
}

/// Every member that is to go: by order, because its node is among the `lost`, or because no node has that id any more
/// (its disk was emptied, and it came back as a new one). Of each group one, since members change one at a time: whose
/// place can be taken, those that are not live first.
pub fn replacements(view: &View, lost: &BTreeSet<NodeId>) -> Vec<Replacement> {
    let mut load = Load::of(view);
    let due = view
        .groups
        .iter()
        .filter(|(group, membership)| membership.previous.is_empty() && learner(view, **group).is_none());
    due.filter_map(|(group, membership)| {
        let goes = |node: &NodeId| must_go(view, lost, *node);
        let mut all: Vec<NodeId> = membership.members.iter().copied().filter(goes).collect();
        all.sort_by_key(|node| view.is_live(*node));
        let can_go = |node: &&NodeId| load.substitute(view, lost, membership, **node).is_some();
        let leaves = *all.iter().find(can_go).or_else(|| all.first())?;
        Some(load.replace(view, lost, (*group, membership), leaves))
    })
    .collect()
}

/// What it would take for the node to have no members, whatever else is under way.
pub fn replacements_of(view: &View, node: NodeId) -> Vec<Replacement> {
    let mut load = Load::of(view);
    let groups = view
        .groups
        .iter()
        .filter(|(_, membership)| membership.members.contains(&node));
    groups
        .map(|(group, membership)| load.replace(view, &BTreeSet::new(), (*group, membership), node))
        .collect()
}

/// Whether the member on the node is to be replaced.
pub fn must_go(view: &View, lost: &BTreeSet<NodeId>, node: NodeId) -> bool {
    view.leaving.contains_key(&node) || lost.contains(&node) || !view.nodes.contains_key(&node)
}

/// The node that catches up in a group.
pub fn learner(view: &View, group: GroupId) -> Option<NodeId> {
    view.learners.get(&group)?.first().copied()
}

/// How many members each node has, or is about to have.
struct Load(BTreeMap<NodeId, usize>);

impl Load {
    fn of(view: &View) -> Self {
        let mut load = view.members_of_nodes();
        for node in view.learners.values().flatten() {
            let count = load.entry(*node).or_default();
            *count = count.saturating_add(1);
        }
        Self(load)
    }

    /// The ordered node, or the one with the fewest members.
    fn substitute(
        &self,
        view: &View,
        lost: &BTreeSet<NodeId>,
        membership: &Membership,
        leaves: NodeId,
    ) -> Option<NodeId> {
        let ordered = view.leaving.get(&leaves).copied().flatten();
        let is_free = |node: &NodeId| {
            view.is_live(*node) && !must_go(view, lost, *node) && !membership.members.contains(node)
        };
        let free = view.nodes.keys().copied().filter(is_free);
        match ordered {
            Some(node) => Some(node).filter(is_free),
            None => free.min_by_key(|node| (self.0.get(node).copied().unwrap_or_default(), *node)),
        }
    }

    /// Counts the substitute's new member.
    fn replace(
        &mut self,
        view: &View,
        lost: &BTreeSet<NodeId>,
        (group, membership): (GroupId, &Membership),
        leaves: NodeId,
    ) -> Replacement {
        let joins = self.substitute(view, lost, membership, leaves);
        if let Some(node) = joins {
            let count = self.0.entry(node).or_default();
            *count = count.saturating_add(1);
        }
        Replacement { group, leaves, joins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{NodeInfo, Report};

    /// Nodes 1 to `nodes`, all live; groups as given.
    fn view(nodes: u64, groups: &[&[u64]]) -> View {
        let info = NodeInfo {
            is_live: true,
            ..NodeInfo::default()
        };
        let membership = |members: &[u64]| Membership {
            number: 1,
            members: members.iter().copied().map(NodeId).collect(),
            previous: vec![],
        };
        View {
            nodes: (1..=nodes).map(|node| (NodeId(node), info.clone())).collect(),
            groups: (0..)
                .map(GroupId)
                .zip(groups.iter().map(|members| membership(members)))
                .collect(),
            ..View::default()
        }
    }

    fn told(replacements: &[Replacement]) -> Vec<String> {
        let one = |replacement: &Replacement| {
            let Replacement { group, leaves, joins } = replacement;
            let joins = joins.map_or("nobody".to_owned(), |node| node.0.to_string());
            format!("{}: {} -> {joins}", group.0, leaves.0)
        };
        replacements.iter().map(one).collect()
    }

    const NOBODY: BTreeSet<NodeId> = BTreeSet::new();

    #[test]
    fn nothing_is_replaced_while_all_is_well() {
        let view = view(4, &[&[1, 2, 3], &[2, 3, 4]]);
        assert_eq!(replacements(&view, &NOBODY), []);
    }

    #[test]
    fn a_lost_member_is_replaced_by_the_node_that_has_fewest() {
        let mut view = view(5, &[&[1, 2, 3], &[2, 3, 4]]);
        view.nodes.get_mut(&NodeId(3)).unwrap().is_live = false;
        let lost = BTreeSet::from([NodeId(3)]);
        assert_eq!(told(&replacements(&view, &lost)), ["0: 3 -> 5", "1: 3 -> 1"]);
        assert_eq!(replacements(&view, &NOBODY), [], "not live is not lost yet");
    }

    #[test]
    fn a_member_whose_node_came_back_with_an_empty_disk_is_replaced_at_once() {
        let mut view = view(4, &[&[1, 2, 3]]);
        view.nodes.remove(&NodeId(2));
        assert_eq!(told(&replacements(&view, &NOBODY)), ["0: 2 -> 4"]);
    }

    #[test]
    fn an_order_may_name_who_comes() {
        let mut view = view(5, &[&[1, 2, 3]]);
        view.leaving.insert(NodeId(1), Some(NodeId(5)));
        assert_eq!(told(&replacements(&view, &NOBODY)), ["0: 1 -> 5"]);
        view.leaving.insert(NodeId(1), Some(NodeId(2)));
        assert_eq!(told(&replacements(&view, &NOBODY)), ["0: 1 -> nobody"]);
    }

    #[test]
    fn nobody_that_is_to_go_itself_or_is_gone_comes() {
        let mut view = view(5, &[&[1, 2, 3]]);
        view.leaving.insert(NodeId(1), None);
        view.leaving.insert(NodeId(4), None);
        view.nodes.get_mut(&NodeId(5)).unwrap().is_live = false;
        assert_eq!(told(&replacements(&view, &NOBODY)), ["0: 1 -> nobody"]);
    }

    #[test]
    fn members_change_one_at_a_time() {
        let mut view = view(6, &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let lost = BTreeSet::from([NodeId(1), NodeId(2)]);
        view.groups.get_mut(&GroupId(0)).unwrap().previous = vec![NodeId(4)];
        view.learners.insert(GroupId(1), vec![NodeId(5)]);
        assert_eq!(told(&replacements(&view, &lost)), ["2: 1 -> 4"]);
    }

    fn report(view: &mut View, group: u32, established: u64, caught_up: &[u64]) {
        for side in Side::BOTH {
            let group = GroupId(group);
            let report = Report {
                as_of: 7,
                established,
                caught_up: caught_up.iter().copied().map(NodeId).collect(),
            };
            view.changed_at.insert(group, 7);
            view.reports.insert(SeatId { group, side }, report);
        }
    }

    #[test]
    fn a_change_goes_step_by_step() {
        let group = GroupId(0);
        let mut view = view(4, &[&[1, 2, 3]]);
        let (leaves, joins) = (NodeId(3), NodeId(4));
        view.nodes.get_mut(&leaves).unwrap().is_live = false;
        let lost = BTreeSet::from([leaves]);
        assert_eq!(
            steps(&view, &lost, &NOBODY),
            [Step::Begin { group, leaves, joins }]
        );
        view.learners.insert(group, vec![joins]);
        view.replaced.insert(group, leaves);
        assert_eq!(steps(&view, &lost, &NOBODY), [], "it catches up");
        report(&mut view, 0, 1, &[4]);
        assert_eq!(steps(&view, &lost, &NOBODY), [Step::Switch(group)]);
        view.reports.pop_first();
        assert_eq!(steps(&view, &lost, &NOBODY), [], "both leaders must say so");
        view.learners.clear();
        view.replaced.clear();
        let membership = view.groups.get_mut(&group).unwrap();
        membership.number = 2;
        membership.previous = std::mem::replace(&mut membership.members, vec![NodeId(1), NodeId(2), joins]);
        report(&mut view, 0, 1, &[4]);
        assert_eq!(
            steps(&view, &lost, &NOBODY),
            [],
            "they lead under the old members"
        );
        report(&mut view, 0, 2, &[]);
        assert_eq!(steps(&view, &lost, &NOBODY), [Step::Finish(group)]);
    }

    #[test]
    fn who_catches_up_is_let_go_when_it_dies_or_is_not_wanted_any_more() {
        let group = GroupId(0);
        let mut view = view(4, &[&[1, 2, 3]]);
        view.learners.insert(group, vec![NodeId(4)]);
        view.replaced.insert(group, NodeId(3));
        report(&mut view, 0, 1, &[4]);
        assert_eq!(
            steps(&view, &NOBODY, &NOBODY),
            [Step::Abandon(group)],
            "3 came back"
        );
        view.nodes.get_mut(&NodeId(3)).unwrap().is_live = false;
        assert_eq!(
            steps(&view, &NOBODY, &NOBODY),
            [Step::Switch(group)],
            "another controller saw that 3 is gone"
        );
        view.nodes.get_mut(&NodeId(4)).unwrap().is_live = false;
        let gone = BTreeSet::from([NodeId(4)]);
        assert_eq!(steps(&view, &NOBODY, &gone), [Step::Abandon(group)]);
    }

    #[test]
    fn what_was_said_of_an_earlier_change_counts_for_nothing() {
        let group = GroupId(0);
        let mut view = view(4, &[&[1, 2, 3]]);
        view.learners.insert(group, vec![NodeId(4)]);
        view.replaced.insert(group, NodeId(3));
        report(&mut view, 0, 1, &[4]);
        let lost = BTreeSet::from([NodeId(3)]);
        view.leaving.insert(NodeId(3), None);
        assert_eq!(steps(&view, &lost, &NOBODY), [Step::Switch(group)]);
        view.changed_at.insert(group, 9);
        assert_eq!(steps(&view, &lost, &NOBODY), [], "abandoned and begun again");
    }

    #[test]
    fn a_member_whose_place_nobody_takes_does_not_keep_others_from_being_replaced() {
        let mut view = view(5, &[&[1, 2, 3]]);
        view.leaving.insert(NodeId(1), Some(NodeId(5)));
        view.nodes.get_mut(&NodeId(5)).unwrap().is_live = false;
        let lost = BTreeSet::from([NodeId(3)]);
        view.nodes.get_mut(&NodeId(3)).unwrap().is_live = false;
        assert_eq!(told(&replacements(&view, &lost)), ["0: 3 -> 4"]);
    }

    #[test]
    fn a_node_catches_up_in_one_group_at_a_time() {
        let mut view = view(4, &[&[1, 2, 3], &[1, 2, 3]]);
        view.leaving.insert(NodeId(1), None);
        let begin = Step::Begin {
            group: GroupId(0),
            leaves: NodeId(1),
            joins: NodeId(4),
        };
        assert_eq!(steps(&view, &NOBODY, &NOBODY), [begin]);
    }

    #[test]
    fn what_a_drain_takes_is_told_for_every_group() {
        let view = view(5, &[&[1, 2, 3], &[3, 4, 5], &[1, 4, 5]]);
        let drained = replacements_of(&view, NodeId(3));
        assert_eq!(told(&drained), ["0: 3 -> 4", "1: 3 -> 2"]);
    }
}
