//! Status in wire form.

use crate::node::Handle;
use crate::node::status::{NamedSeat, Status};
use rdb_proto::types::GroupId;
use rdb_proto::v1;

pub(super) fn status(node: &Handle) -> v1::StatusResponse {
    let status = node.status();
    let complaints = status.complaints();
    let summary = if complaints.is_empty() {
        format!("healthy: standalone, {} seats take writes", status.seats.len())
    } else {
        complaints.join("; ")
    };
    let groups: Vec<GroupId> = {
        let mut groups: Vec<_> = status.seats.iter().map(|seat| seat.id.group).collect();
        groups.dedup();
        groups
    };
    v1::StatusResponse {
        healthy: complaints.is_empty(),
        summary,
        database: node.database_name().to_owned(),
        database_id: node.database_id().to_string(),
        counter: status.counter.get(),
        resolved: status.resolved.get(),
        nodes: vec![node_status(node, &status)],
        groups: groups
            .into_iter()
            .map(|group| group_status(node, &status, group))
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
    }
}

fn group_status(node: &Handle, status: &Status, group: GroupId) -> v1::GroupStatus {
    let seats = status.seats.iter().filter(|seat| seat.id.group == group);
    v1::GroupStatus {
        group: group.0,
        members: vec![node.id().0],
        writes: 1,
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
    }
}
