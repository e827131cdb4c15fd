//! The controller: the one node that places groups on nodes, and replaces members.

use super::mirror::{At, Mirror};
use super::placement::place;
use super::records::{ControllerRecord, FORMAT, MembersRecord, encode};
use super::{Shared, call};
use crate::clock;
use crate::coordination::replacement::{Step, learner, replacements, steps};
use crate::coordination::{CoordinationError, View};
use crate::limits::{ETCD_RETRY_MAX, LEARNER_ABSENT_MAX};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use rdb_proto::types::{GroupId, Membership, NodeId, SeatId, Side};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Stands whenever nobody is the controller, and does what it is there for while it is.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut view = shared.view.subscribe();
    let mut lease = shared.lease.subscribe();
    let mut absences = Absences::default();
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        lease.borrow_and_update();
        let mut next_lost = None;
        let done = if now.controller.is_none() {
            stand(&shared).await
        } else if is_mine(&shared) {
            absences.look(&now, clock::monotonic());
            next_lost = absences.next(shared.settings.replace_after, clock::monotonic());
            work(&shared, &now, &absences).await
        } else {
            absences = Absences::default();
            show_unreplaced(&shared, BTreeSet::new());
            Ok(())
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the controller's work failed; trying again");
            clock::sleep(ETCD_RETRY_MAX).await;
            continue;
        }
        let next_lost = async {
            match next_lost {
                Some(wait) => clock::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let is_over = tokio::select! {
            changed = view.changed() => changed.is_err(),
            changed = lease.changed() => changed.is_err(),
            () = next_lost => false,
        };
        if is_over {
            return;
        }
    }
}

fn record(shared: &Shared) -> ControllerRecord {
    ControllerRecord {
        format: FORMAT,
        node: shared.node.0,
        incarnation: shared.incarnation,
    }
}

/// Whether this start of this node is the controller.
fn is_mine(shared: &Shared) -> bool {
    shared.known().mirror.controller.as_ref() == Some(&record(shared))
}

async fn stand(shared: &Shared) -> Result<(), CoordinationError> {
    let Ok(lease) = shared.lease() else {
        // A new lease wakes the task.
        return Ok(());
    };
    let key = shared.keys.controller();
    let leased = PutOptions::new().with_lease(lease);
    let txn = Txn::new()
        .when([Compare::version(key.clone(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, encode(&record(shared)), Some(leased))]);
    call("the controller's key", shared.client.kv_client().txn(txn))
        .await
        .map(drop)
}

/// Since when members' nodes are not live, as far as this controller saw: another one begins to count anew.
#[derive(Debug, Default)]
struct Absences {
    since: BTreeMap<NodeId, Instant>,
}

impl Absences {
    fn look(&mut self, view: &View, now: Instant) {
        let members = view.groups.values().flat_map(|membership| &membership.members);
        let all = members.chain(view.learners.values().flatten());
        let absent: BTreeSet<NodeId> = all.copied().filter(|node| !view.is_live(*node)).collect();
        self.since.retain(|node, _| absent.contains(node));
        for node in absent {
            self.since.entry(node).or_insert(now);
        }
    }

    /// Nodes that have been absent for so long; none, ever, when there is no limit.
    fn lost(&self, limit: Option<Duration>, now: Instant) -> BTreeSet<NodeId> {
        let Some(limit) = limit else {
            return BTreeSet::new();
        };
        let lost = self
            .since
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) >= limit);
        lost.map(|(node, _)| *node).collect()
    }

    /// How long until the next one counts as lost, or as gone when it is a learner.
    fn next(&self, limit: Option<Duration>, now: Instant) -> Option<Duration> {
        let waits = self.since.values().flat_map(|since| {
            let absent = now.saturating_duration_since(*since);
            [limit, Some(LEARNER_ABSENT_MAX)].map(|limit| limit.map(|limit| limit.saturating_sub(absent)))
        });
        waits.flatten().filter(|wait| !wait.is_zero()).min()
    }
}

async fn work(shared: &Shared, view: &View, absences: &Absences) -> Result<(), CoordinationError> {
    place_groups(shared, view).await?;
    let now = clock::monotonic();
    let lost = absences.lost(shared.settings.replace_after, now);
    let gone = absences.lost(Some(LEARNER_ABSENT_MAX), now);
    change_members(shared, &lost, &gone).await
}

/// Gives every group that has no members some, once there are enough live nodes.
async fn place_groups(shared: &Shared, view: &View) -> Result<(), CoordinationError> {
    let groups = (0..shared.config.groups).map(GroupId);
    let missing: Vec<GroupId> = groups.filter(|group| !view.groups.contains_key(group)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let is_free = |node: &NodeId| view.is_live(*node) && !view.leaving.contains_key(node);
    let live: Vec<NodeId> = view.nodes.keys().copied().filter(is_free).collect();
    let size = usize::try_from(shared.config.group_size).unwrap_or(usize::MAX);
    let Some(placed) = place(&missing, size, &live, &view.members_of_nodes()) else {
        tracing::info!(
            live = live.len(),
            needed = size,
            "waiting for nodes to place the groups on"
        );
        return Ok(());
    };
    for (group, members) in placed {
        let record_of_group = MembersRecord {
            format: FORMAT,
            number: 1,
            members: members.iter().map(|node| node.0).collect(),
            previous: Vec::new(),
            learners: Vec::new(),
            leaving: None,
        };
        let absent = Compare::version(shared.keys.members(group), CompareOp::Equal, 0);
        if put_members(shared, group, &record_of_group, vec![absent]).await? {
            tracing::info!(%group, ?members, "placed the group");
        }
    }
    Ok(())
}

/// Does what can be done now to replace members. What is written wakes the controller, for the step after it.
async fn change_members(
    shared: &Shared,
    lost: &BTreeSet<NodeId>,
    gone: &BTreeSet<NodeId>,
) -> Result<(), CoordinationError> {
    // Of one moment: a txn compares what was decided on.
    let (mirror, problem) = {
        let known = shared.known();
        (known.mirror.clone(), known.problem.clone())
    };
    if !mirror.is_whole() || problem.is_some() {
        return Ok(());
    }
    let view = mirror.view(None, &[]);
    for step in steps(&view, lost, gone) {
        let (Step::Begin { group, .. } | Step::Abandon(group) | Step::Switch(group) | Step::Finish(group)) =
            step;
        if let Some(members) = mirror.members.get(&group) {
            take(shared, (&mirror, &view), members, step, group).await?;
        }
    }
    forget_departed(shared, &mirror, &view).await?;
    let stuck = replacements(&view, lost)
        .into_iter()
        .filter(|replacement| replacement.joins.is_none());
    let stuck: BTreeSet<(GroupId, NodeId)> = stuck.map(|stuck| (stuck.group, stuck.leaves)).collect();
    show_unreplaced(shared, stuck);
    Ok(())
}

/// Tells of members that are to be replaced and cannot be, once in the log, and in the status for as long as it lasts.
fn show_unreplaced(shared: &Shared, now: BTreeSet<(GroupId, NodeId)>) {
    let before = shared.known().unreplaced.clone();
    if before == now {
        return;
    }
    for (group, node) in now.difference(&before) {
        let node = shared.known().mirror.name_of(*node).to_owned();
        tracing::warn!(%group, node, "a member is to be replaced, and no live node is free to take its place");
    }
    shared.learn(|known| known.unreplaced = now);
}

/// Takes back orders to leave that are of nobody: the node's name is another's by now, or nobody's, and it has no
/// members.
async fn forget_departed(shared: &Shared, mirror: &Mirror, view: &View) -> Result<(), CoordinationError> {
    let has_members = |node: NodeId| {
        let learners = view.learners.values().flatten().copied();
        let members = view.groups.values().flat_map(Membership::everybody);
        members.chain(learners).any(|member| member == node)
    };
    let is_departed = |node: &&NodeId| mirror.registration(**node).is_none() && !has_members(**node);
    for node in view.leaving.keys().filter(is_departed) {
        let txn = Txn::new()
            .when([is_still_mine(shared), shared.same_generation()])
            .and_then([TxnOp::delete(shared.keys.leaving(*node), None)]);
        call("an order to leave", shared.client.kv_client().txn(txn)).await?;
    }
    Ok(())
}

async fn take(
    shared: &Shared,
    (mirror, view): (&Mirror, &View),
    members: &At<MembersRecord>,
    step: Step,
    group: GroupId,
) -> Result<(), CoordinationError> {
    let now = &members.value;
    let unchanged = Compare::mod_revision(shared.keys.members(group), CompareOp::Equal, members.revision);
    let mut compares = vec![unchanged];
    let next = match step {
        Step::Begin { leaves, joins, .. } => MembersRecord {
            learners: vec![joins.0],
            leaving: Some(leaves.0),
            ..now.clone()
        },
        Step::Abandon(_) => MembersRecord {
            learners: Vec::new(),
            leaving: None,
            ..now.clone()
        },
        Step::Switch(_) => {
            let stay = now
                .members
                .iter()
                .copied()
                .filter(|node| Some(*node) != now.leaving);
            let mut next: Vec<u64> = stay.chain(learner(view, group).map(|node| node.0)).collect();
            next.sort_unstable();
            MembersRecord {
                number: now.number.saturating_add(1),
                members: next,
                previous: now.members.clone(),
                learners: Vec::new(),
                leaving: None,
                ..now.clone()
            }
        }
        Step::Finish(_) => {
            // What the leaders said is true for as long as they lead.
            compares.extend(
                Side::BOTH
                    .into_iter()
                    .flat_map(|side| still_led(shared, mirror, SeatId { group, side })),
            );
            MembersRecord {
                number: now.number.saturating_add(1),
                previous: Vec::new(),
                ..now.clone()
            }
        }
    };
    if put_members(shared, group, &next, compares).await? {
        let all = |ids: &[u64]| {
            let names = ids.iter().map(|id| mirror.name_of(NodeId(*id)));
            names.collect::<Vec<_>>().join(", ")
        };
        tracing::info!(
            %group,
            number = next.number,
            members = all(&next.members),
            previous = all(&next.previous),
            learners = all(&next.learners),
            "changed the group's members"
        );
    }
    Ok(())
}

/// Hold as long as the seat's leader is the one that was known.
fn still_led(shared: &Shared, mirror: &Mirror, seat: SeatId) -> [Compare; 2] {
    let revision = mirror.epoch(seat).revision;
    // Both keys are written by one txn.
    [shared.keys.leader(seat), shared.keys.epoch(seat)]
        .map(|key| Compare::mod_revision(key, CompareOp::Equal, revision))
}

/// Holds as long as this node is the controller.
fn is_still_mine(shared: &Shared) -> Compare {
    Compare::value(
        shared.keys.controller(),
        CompareOp::Equal,
        encode(&record(shared)),
    )
}

/// Writes the members of a group, IF this node is the controller and the rest holds.
async fn put_members(
    shared: &Shared,
    group: GroupId,
    members: &MembersRecord,
    mut compares: Vec<Compare>,
) -> Result<bool, CoordinationError> {
    compares.push(is_still_mine(shared));
    compares.push(shared.same_generation());
    let txn =
        Txn::new()
            .when(compares)
            .and_then([TxnOp::put(shared.keys.members(group), encode(members), None)]);
    let answer = call("a group's members", shared.client.kv_client().txn(txn)).await?;
    Ok(answer.succeeded())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::NodeInfo;

    fn view(live: &[u64]) -> View {
        let info = |node: u64| NodeInfo {
            is_live: live.contains(&node),
            ..NodeInfo::default()
        };
        let membership = Membership {
            number: 1,
            members: (1..=3).map(NodeId).collect(),
            previous: vec![],
        };
        View {
            nodes: (1..=4).map(|node| (NodeId(node), info(node))).collect(),
            groups: [(GroupId(0), membership)].into(),
            ..View::default()
        }
    }

    #[test]
    fn a_member_is_lost_once_it_was_absent_for_long_enough_without_a_break() {
        let start = clock::monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let limit = Some(Duration::from_secs(10));
        let mut absences = Absences::default();
        absences.look(&view(&[1, 2]), at(0));
        assert_eq!(absences.next(limit, at(4)), Some(Duration::from_secs(6)));
        assert_eq!(absences.lost(limit, at(9)), BTreeSet::new());
        absences.look(&view(&[1, 2, 3]), at(9));
        absences.look(&view(&[1, 2]), at(9));
        assert_eq!(
            absences.lost(limit, at(18)),
            BTreeSet::new(),
            "it was back in between"
        );
        assert_eq!(absences.lost(limit, at(19)), BTreeSet::from([NodeId(3)]));
        assert_eq!(
            absences.next(limit, at(9).checked_add(LEARNER_ABSENT_MAX).unwrap()),
            None
        );
        assert_eq!(absences.lost(None, at(1_000)), BTreeSet::new());
    }
}
