//! Status in wire form: what this node knows, put together with what the others say of themselves.

use super::status::CallError;
use super::{Api, forward};
use crate::clock;
use crate::limits::STATUS_TIMEOUT;
use crate::node::Handle;
use crate::node::status::{Held, NamedSeat, Status, View};
use futures::future::join_all;
use rdb_proto::types::{GroupId, NodeId, SeatId, Side};
use rdb_proto::v1::{self, HeldMark};
use std::collections::{BTreeMap, BTreeSet};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response};

/// The whole database, as far as nodes answer.
pub(super) async fn status(
    api: &Api,
    request: Request<v1::StatusRequest>,
) -> Result<v1::StatusResponse, CallError> {
    let node = &api.node;
    let status = node.status();
    let own = own(node, &status);
    if forward::passed_on_for(request.metadata()).is_some() {
        return Ok(own);
    }
    let mut answers = others(api, &status.cluster, request.metadata()).await;
    answers.insert(0, own);
    Ok(whole(node, &status, &answers))
}

/// Where requests go, as far as this node knows.
pub(super) fn map(node: &Handle) -> v1::MapResponse {
    let mut nodes: BTreeMap<u64, String> = BTreeMap::from([(node.id().0, node.address())]);
    let cluster = node.status().cluster;
    let live = cluster.nodes.iter().filter(|(_, info)| info.is_live);
    nodes.extend(live.map(|(id, info)| (id.0, info.address.clone())));
    let led = node.slots().filter_map(|(first, last, seat)| {
        let (epoch, address) = node.led(seat)?;
        nodes.insert(epoch.node.0, address);
        Some(v1::LedSlots {
            first: u32::from(first.0),
            last: u32::from(last.0),
            leader: epoch.node.0,
            epoch: epoch.number,
        })
    });
    let led = led.collect();
    v1::MapResponse {
        database_id: node.database_id().to_string(),
        node: node.id().0,
        nodes: nodes
            .into_iter()
            .map(|(id, address)| v1::MapNode { id, address })
            .collect(),
        led,
    }
}

/// What each other live node says of itself; those that do not answer soon are left out.
async fn others(api: &Api, cluster: &View, metadata: &MetadataMap) -> Vec<v1::StatusResponse> {
    let me = api.node.id();
    let live = cluster
        .nodes
        .iter()
        .filter(|(node, info)| **node != me && info.is_live);
    let asked = live.map(async |(_, info)| {
        let request = forward::pass_on(metadata, &[], v1::StatusRequest {});
        let mut client = api.peers.cluster(&info.address).ok()?;
        let answer = clock::within(STATUS_TIMEOUT, client.status(request)).await?;
        answer.ok().map(Response::into_inner)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What this node says of itself.
fn own(node: &Handle, status: &Status) -> v1::StatusResponse {
    let groups = node.seats().map(|seat| seat.group);
    let mut groups: Vec<GroupId> = groups.collect();
    groups.dedup();
    let complaints = status.complaints();
    v1::StatusResponse {
        healthy: complaints.is_empty(),
        summary: complaints.join("; "),
        database: node.database_name().to_owned(),
        database_id: node.database_id().to_string(),
        counter: status.counter.get(),
        resolved: status.resolved.get(),
        nodes: vec![node_status(node, status)],
        groups: groups
            .into_iter()
            .map(|group| group_status(node, status, group))
            .collect(),
        slots: node
            .slots()
            .map(|(first, last, seat)| v1::SlotRange {
                first: u32::from(first.0),
                last: u32::from(last.0),
                group: seat.group.0,
                seat: seat.side.number(),
            })
            .collect(),
        warnings: status.cluster.warnings.clone(),
        held: status.held.iter().map(held_mark).collect(),
        unreplaced: unreplaced(&status.cluster),
    }
}

fn unreplaced(cluster: &View) -> Vec<String> {
    let one = |(group, node): &(GroupId, NodeId)| {
        let name = cluster
            .nodes
            .get(node)
            .map_or("a node that is gone", |info| &info.name);
        format!("group {group}: the member on {name} is to be replaced, and no live node is free for it")
    };
    cluster.unreplaced.iter().map(one).collect()
}

/// What the nodes know each for itself, such as the controller, once.
fn all<T: Ord + Clone>(answers: &[v1::StatusResponse], of: impl Fn(&v1::StatusResponse) -> &[T]) -> Vec<T> {
    let all: BTreeSet<&T> = answers.iter().flat_map(of).collect();
    all.into_iter().cloned().collect()
}

fn held_mark(held: &Held) -> HeldMark {
    let lasted = clock::monotonic().saturating_duration_since(held.since);
    HeldMark {
        group: held.seat.group.0,
        seat: held.seat.side.number(),
        leader: held.view.leader.map_or(0, |node| node.0),
        mark: held.view.resolved.get(),
        milliseconds: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
        why: held.view.hold.to_string(),
    }
}

fn node_status(node: &Handle, status: &Status) -> v1::NodeStatus {
    v1::NodeStatus {
        name: node.name().to_owned(),
        id: node.id().0,
        address: node.address(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        live: true,
        uptime_seconds: status.uptime.as_secs(),
        disk_free_bytes: status.disk_free_bytes,
        refuses_writes: status.refuses_writes.unwrap_or_default().to_owned(),
        draining: status.cluster.leaving.contains_key(&node.id()),
    }
}

fn group_status(node: &Handle, status: &Status, group: GroupId) -> v1::GroupStatus {
    let seats = status.seats.iter().filter(|seat| seat.id.group == group);
    let membership = status.cluster.groups.get(&group).cloned().unwrap_or_default();
    let learners = status.cluster.learners.get(&group).cloned().unwrap_or_default();
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    v1::GroupStatus {
        group: group.0,
        members: ids(&membership.members),
        previous_members: ids(&membership.previous),
        learners: ids(&learners),
        writes: node.writes(),
        seats: seats.map(|seat| seat_status(seat, status)).collect(),
    }
}

fn seat_status(seat: &NamedSeat, status: &Status) -> v1::SeatStatus {
    let view = &seat.view;
    v1::SeatStatus {
        seat: seat.id.side.number(),
        state: view.state.as_str().to_owned(),
        leader: view.leader.map_or(0, |node| node.0),
        epoch: view.epoch.number,
        last_index: view.last_index.get(),
        commit_index: view.commit_index.get(),
        indexed_index: view.indexed_index.get(),
        last_seq: view.last_seq.get(),
        resolved: view.resolved.get(),
        resolved_lag: status.counter.since(view.resolved),
        progress: seat
            .progress
            .iter()
            .map(|(node, matched)| v1::MemberProgress {
                node: node.0,
                matched_index: matched.get(),
            })
            .collect(),
    }
}

/// This node's answer, with every node and with each seat as its leader sees it.
fn whole(node: &Handle, status: &Status, answers: &[v1::StatusResponse]) -> v1::StatusResponse {
    let mut whole = own(node, status);
    whole.counter = answers
        .iter()
        .map(|answer| answer.counter)
        .max()
        .unwrap_or_default();
    whole.resolved = answers
        .iter()
        .map(|answer| answer.resolved)
        .max()
        .unwrap_or_default();
    whole.nodes = nodes(node, &status.cluster, answers);
    for group in &mut whole.groups {
        group.seats = Side::BOTH
            .map(|side| {
                let id = SeatId {
                    group: GroupId(group.group),
                    side,
                };
                best(id, answers)
            })
            .into();
    }
    let seats = whole.groups.iter().flat_map(|group| &group.seats);
    let lowest = seats.map(|seat| seat.resolved).min();
    // No node may have members of all groups: the seats together tell how far the database is resolved.
    whole.resolved = whole.resolved.max(lowest.unwrap_or_default());
    whole.held = held(answers);
    whole.warnings = all(answers, |answer| &answer.warnings);
    whole.unreplaced = all(answers, |answer| &answer.unreplaced);
    let (lacks, complaints) = (lacking(&whole, status), complaints(&whole, answers));
    whole.healthy = lacks.is_empty();
    whole.summary = match (lacks.is_empty(), complaints.is_empty()) {
        (true, true) if node.is_standalone() => {
            format!("healthy: standalone, {} seats take writes", status.seats.len())
        }
        (true, true) => format!("healthy: {} nodes, every seat takes writes", whole.nodes.len()),
        (true, false) => format!("every seat takes writes, but {}", complaints.join("; ")),
        (false, _) => [lacks, complaints].concat().join("; "),
    };
    whole
}

/// Every registered node: as it says itself, or as the coordinator knows it.
fn nodes(node: &Handle, cluster: &View, answers: &[v1::StatusResponse]) -> Vec<v1::NodeStatus> {
    let said: Vec<&v1::NodeStatus> = answers.iter().flat_map(|answer| &answer.nodes).collect();
    if node.is_standalone() {
        return said.into_iter().cloned().collect();
    }
    let known = cluster.nodes.iter().map(|(id, info)| {
        let own = said.iter().find(|one| one.id == id.0);
        own.map_or_else(
            || v1::NodeStatus {
                name: info.name.clone(),
                id: id.0,
                address: info.address.clone(),
                release: info.release.clone(),
                live: info.is_live,
                draining: cluster.leaving.contains_key(id),
                ..v1::NodeStatus::default()
            },
            |own| v1::NodeStatus {
                live: info.is_live,
                draining: cluster.leaving.contains_key(id),
                ..(*own).clone()
            },
        )
    });
    let mut known: Vec<v1::NodeStatus> = known.collect();
    known.sort_by(|a, b| a.name.cmp(&b.name));
    known
}

/// A seat as the node sees it that knows most: its leader, or who takes it over, or anybody.
fn best(id: SeatId, answers: &[v1::StatusResponse]) -> v1::SeatStatus {
    let rank = |seat: &v1::SeatStatus| match seat.state.as_str() {
        "leading" => 3,
        "recovering" => 2,
        "following" => 1,
        _ => 0,
    };
    let seen = answers.iter().flat_map(|answer| {
        let groups = answer.groups.iter().filter(|group| group.group == id.group.0);
        groups
            .flat_map(|group| &group.seats)
            .filter(|seat| seat.seat == id.side.number())
    });
    let best = seen.max_by_key(|seat| (seat.epoch, rank(seat)));
    best.cloned().unwrap_or_else(|| v1::SeatStatus {
        seat: id.side.number(),
        state: "vacant".to_owned(),
        ..v1::SeatStatus::default()
    })
}

/// Each seat that holds the stream, as its leader explains it when that answers.
fn held(answers: &[v1::StatusResponse]) -> Vec<HeldMark> {
    let mut held: BTreeMap<(u32, u32), (bool, HeldMark)> = BTreeMap::new();
    for answer in answers {
        for mark in &answer.held {
            let is_leader = answer.nodes.iter().any(|node| node.id == mark.leader);
            let known = held.entry((mark.group, mark.seat));
            let known = known.or_insert_with(|| (is_leader, mark.clone()));
            if is_leader && !known.0 {
                *known = (true, mark.clone());
            }
        }
    }
    // A member that is late is no reason for the stream to stand still: another has what it lacks.
    let is_late = |mark: &HeldMark| {
        let group = GroupId(mark.group);
        let side = Side::from_number(mark.seat);
        side.is_some_and(|side| best(SeatId { group, side }, answers).resolved > mark.mark)
    };
    let held = held.into_values().map(|(_, mark)| mark);
    held.filter(|mark| !is_late(mark)).collect()
}

/// Why not every seat takes writes.
fn lacking(whole: &v1::StatusResponse, status: &Status) -> Vec<String> {
    let mut lacks = Vec::new();
    if let Some(problem) = &status.cluster.problem {
        lacks.push(format!("no writes: {problem}"));
    }
    for node in whole.nodes.iter().filter(|node| !node.refuses_writes.is_empty()) {
        lacks.push(format!("{} of node {}", node.refuses_writes, node.name));
    }
    for group in &whole.groups {
        if group.members.is_empty() {
            lacks.push(format!(
                "group {} has no members yet: it waits for more nodes",
                group.group
            ));
            continue;
        }
        for seat in &group.seats {
            let name = format!("{}.{}", group.group, seat.seat);
            match seat.state.as_str() {
                "leading" => {}
                "recovering" => lacks.push(format!("seat {name} is being recovered")),
                "following" => lacks.push(format!("the leader of seat {name} does not answer")),
                _ => lacks.push(format!("seat {name} has no leader")),
            }
        }
    }
    lacks
}

/// What is wrong although every seat takes writes.
fn complaints(whole: &v1::StatusResponse, answers: &[v1::StatusResponse]) -> Vec<String> {
    let is_heard = |id: u64| {
        answers
            .iter()
            .any(|answer| answer.nodes.iter().any(|node| node.id == id))
    };
    let held = whole.held.iter().map(|held| {
        let HeldMark {
            group,
            seat,
            mark,
            why,
            ..
        } = held;
        format!(
            "the change stream stands at {mark} since {} s: seat {group}.{seat} holds it, {why}",
            held.milliseconds / 1_000
        )
    });
    let away = whole
        .nodes
        .iter()
        .filter_map(|node| match (node.live, is_heard(node.id)) {
            (false, _) => Some(format!("node {} is not live", node.name)),
            (true, false) => Some(format!("node {} does not answer", node.name)),
            (true, true) => None,
        });
    let damages = answers.iter().flat_map(damages);
    away.chain(damages)
        .chain(held)
        .chain(whole.unreplaced.iter().cloned())
        .collect()
}

/// What a node says of its own logs.
fn damages(answer: &v1::StatusResponse) -> Vec<String> {
    let name = answer.nodes.first().map_or("", |node| node.name.as_str());
    let seats = answer.groups.iter().flat_map(|group| {
        let damaged = group.seats.iter().filter(|seat| seat.state == "damaged");
        damaged.map(|seat| (group.group, seat.seat))
    });
    seats
        .map(|(group, seat)| {
            format!(
                "node {name} lost a part of the log of seat {group}.{seat}, and fetches it from the others"
            )
        })
        .collect()
}
