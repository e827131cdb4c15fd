//! What the database looks like from one node. The field names are those of `status -o json`.

use crate::Error;
use crate::connect::{Attempt, Client};
use crate::retry::CallKind;
use rdb_proto::types::Seq;
use rdb_proto::v1;
use serde::Serialize;

/// Nodes, groups, seats, slots and the counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether every seat takes writes.
    pub healthy: bool,
    /// One sentence: healthy, or what is wrong and where.
    pub summary: String,
    /// Name of the database.
    pub database: String,
    /// UUID of the database.
    pub database_id: String,
    /// Last seq handed out, as far as the node knows.
    pub counter: u64,
    /// No event at or below this seq is still to come.
    pub resolved: u64,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The groups.
    pub groups: Vec<GroupStatus>,
    /// Which seat leads which slots.
    pub slots: Vec<SlotRange>,
    /// What an operator should know of etcd, a sentence each.
    pub warnings: Vec<String>,
    /// Seats that the change stream has waited for since a second or longer; empty when it follows the counter.
    pub held: Vec<HeldMark>,
    /// Members that are to be replaced, and for which no live node is free, a sentence each.
    pub unreplaced: Vec<String>,
}

/// A seat whose mark stands still although later seqs were handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldMark {
    /// Group.
    pub group: u32,
    /// Seat of the group.
    pub seat: u32,
    /// Id of the node that leads it; 0 means nobody.
    pub leader: u64,
    /// Where the mark stands.
    pub mark: u64,
    /// Since when a later seq is known.
    pub milliseconds: u64,
    /// What it waits for, in words.
    pub why: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Name of the node.
    pub name: String,
    /// Random, unique id of the node.
    pub id: u64,
    /// Where others reach it, host:port.
    pub address: String,
    /// Release of the server.
    pub release: String,
    /// Whether it holds its lease.
    pub live: bool,
    /// Seconds since the process was ready.
    pub uptime_seconds: u64,
    /// Free bytes on the file system of its data directory.
    pub disk_free_bytes: u64,
    /// Empty, or why the node refuses writes.
    pub refuses_writes: String,
    /// Whether it is to have no members any more.
    pub draining: bool,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Number of the group.
    pub group: u32,
    /// Ids of the nodes that hold a member.
    pub members: Vec<u64>,
    /// Members that a write waits for.
    pub writes: u32,
    /// Its two seats.
    pub seats: Vec<SeatStatus>,
    /// Members before the change that is under way; empty when none is.
    pub previous_members: Vec<u64>,
    /// Nodes that catch up before they become members.
    pub learners: Vec<u64>,
}

/// One seat, as its leader sees it when that answers, else as another member does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeatStatus {
    /// 0 or 1.
    pub seat: u32,
    /// vacant, recovering, leading, following or damaged.
    pub state: String,
    /// Id of the node that leads; 0 means nobody.
    pub leader: u64,
    /// Number part of the epoch.
    pub epoch: u64,
    /// Last entry of the log.
    pub last_index: u64,
    /// Last committed entry.
    pub commit: u64,
    /// Last entry that the key index has applied.
    pub indexed: u64,
    /// Seq of the last event in the log; 0 means none.
    pub last_seq: u64,
    /// No event of this seat at or below this seq is still to come.
    pub resolved: u64,
    /// Events from here to the counter that this seat may still add.
    pub lag: u64,
    /// How far the others have the log, as the leader knows it.
    pub progress: Vec<MemberProgress>,
}

/// How far a member, or a learner, has the log of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemberProgress {
    /// Id of its node.
    pub node: u64,
    /// It has every entry up to here, durably.
    pub matched: u64,
}

/// Slots that one seat leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotRange {
    /// First slot.
    pub first: u32,
    /// Last slot.
    pub last: u32,
    /// Group.
    pub group: u32,
    /// Seat of the group.
    pub seat: u32,
}

impl Client {
    /// Asks a node what the database looks like.
    ///
    /// # Errors
    /// As for every read.
    pub async fn status(&self) -> Result<Status, Error> {
        let make = |attempt: Attempt| {
            let request = attempt.request(v1::StatusRequest {});
            async move { attempt.node.cluster().status(request).await }
        };
        let (answer, _attempts) = self.call(CallKind::Read, None, make).await?;
        let status = Status::from(answer.into_inner());
        self.note_seq(Seq(status.resolved));
        Ok(status)
    }
}

impl From<v1::StatusResponse> for Status {
    fn from(wire: v1::StatusResponse) -> Self {
        Self {
            healthy: wire.healthy,
            summary: wire.summary,
            database: wire.database,
            database_id: wire.database_id,
            counter: wire.counter,
            resolved: wire.resolved,
            nodes: wire.nodes.into_iter().map(NodeStatus::from).collect(),
            groups: wire.groups.into_iter().map(GroupStatus::from).collect(),
            slots: wire.slots.into_iter().map(SlotRange::from).collect(),
            warnings: wire.warnings,
            held: wire.held.into_iter().map(HeldMark::from).collect(),
            unreplaced: wire.unreplaced,
        }
    }
}

impl From<v1::HeldMark> for HeldMark {
    fn from(wire: v1::HeldMark) -> Self {
        Self {
            group: wire.group,
            seat: wire.seat,
            leader: wire.leader,
            mark: wire.mark,
            milliseconds: wire.milliseconds,
            why: wire.why,
        }
    }
}

impl From<v1::NodeStatus> for NodeStatus {
    fn from(wire: v1::NodeStatus) -> Self {
        Self {
            name: wire.name,
            id: wire.id,
            address: wire.address,
            release: wire.release,
            live: wire.live,
            uptime_seconds: wire.uptime_seconds,
            disk_free_bytes: wire.disk_free_bytes,
            refuses_writes: wire.refuses_writes,
            draining: wire.draining,
        }
    }
}

impl From<v1::GroupStatus> for GroupStatus {
    fn from(wire: v1::GroupStatus) -> Self {
        Self {
            group: wire.group,
            members: wire.members,
            writes: wire.writes,
            seats: wire.seats.into_iter().map(SeatStatus::from).collect(),
            previous_members: wire.previous_members,
            learners: wire.learners,
        }
    }
}

impl From<v1::SeatStatus> for SeatStatus {
    fn from(wire: v1::SeatStatus) -> Self {
        Self {
            seat: wire.seat,
            state: wire.state,
            leader: wire.leader,
            epoch: wire.epoch,
            last_index: wire.last_index,
            commit: wire.commit_index,
            indexed: wire.indexed_index,
            last_seq: wire.last_seq,
            resolved: wire.resolved,
            lag: wire.resolved_lag,
            progress: wire
                .progress
                .into_iter()
                .map(|progress| MemberProgress {
                    node: progress.node,
                    matched: progress.matched_index,
                })
                .collect(),
        }
    }
}

impl From<v1::SlotRange> for SlotRange {
    fn from(wire: v1::SlotRange) -> Self {
        Self {
            first: wire.first,
            last: wire.last,
            group: wire.group,
            seat: wire.seat,
        }
    }
}
