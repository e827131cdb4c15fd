//! What the node looks like from outside, in words.

pub use crate::coordination::View;
use crate::protocol::Hold;
use rdb_proto::types::{Epoch, LogIndex, NodeId, SeatId, Seq};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a seat's member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatState {
    /// Nobody is known to lead.
    Vacant,
    /// Another node leads.
    Following,
    /// A part of the log was lost, and other members give it again.
    Damaged,
    /// This node won the seat and is not ready to serve.
    Recovering,
    /// This node leads.
    Leading,
}

impl SeatState {
    /// The word that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::Following => "following",
            Self::Damaged => "damaged",
            Self::Recovering => "recovering",
            Self::Leading => "leading",
        }
    }
}

/// One seat's member on this node at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatView {
    /// What it is doing.
    pub state: SeatState,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Epoch that it is led under, as far as known.
    pub epoch: Epoch,
    /// Highest epoch that the member promised to obey.
    pub promised: Epoch,
    /// Last entry of the log.
    pub last_index: LogIndex,
    /// Last committed entry.
    pub commit_index: LogIndex,
    /// Last entry in the key index.
    pub indexed_index: LogIndex,
    /// Seq of the last event in the log.
    pub last_seq: Seq,
    /// The seat's resolved mark.
    pub resolved: Seq,
    /// What the mark waits for, when it does not follow the counter.
    pub hold: Hold,
    /// Number of the newest membership that it has seen.
    pub config: u64,
    /// Whether the last append was refused because the disk is full.
    pub is_disk_full: bool,
}

/// The seat that the change stream waits for, while its mark stands still although later seqs were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The seat.
    pub seat: SeatId,
    /// How it stands.
    pub view: SeatView,
    /// Since when a later seq is known.
    pub since: Instant,
}

/// A seat with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSeat {
    /// Which seat.
    pub id: SeatId,
    /// How it stands.
    pub view: SeatView,
    /// How far the other members have its log; of a leader only.
    pub progress: Vec<(NodeId, LogIndex)>,
}

/// The whole node.
#[derive(Debug, Clone)]
pub struct Status {
    /// Last seq known to be handed out.
    pub counter: Seq,
    /// The database's resolved mark.
    pub resolved: Seq,
    /// Seats that this node has a member of, in the order of group and side.
    pub seats: Vec<NamedSeat>,
    /// Seats that the node is a member of, or may still become one of, and that it has not opened.
    pub missing: Vec<SeatId>,
    /// What the coordinator decided, as far as this node knows.
    pub cluster: Arc<View>,
    /// The seat that the change stream waits for, among those that this node has members of; `None` when it follows.
    pub held: Option<Held>,
    /// Free bytes where the data lives.
    pub disk_free_bytes: u64,
    /// Why writes are refused; `None` when they are not.
    pub refuses_writes: Option<&'static str>,
    /// Since the node was ready.
    pub uptime: Duration,
}

impl Status {
    /// Why the node is not healthy, in order of weight; empty when it is.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.refuses_writes.iter().map(|&why| why.to_owned()).collect();
        for seat in &self.missing {
            complaints.push(format!("seat {seat} is not placed, or not opened here yet"));
        }
        for seat in &self.seats {
            match seat.view.state {
                SeatState::Leading | SeatState::Following => {}
                SeatState::Vacant => complaints.push(format!("seat {} has no leader", seat.id)),
                SeatState::Damaged => complaints.push(format!(
                    "seat {} lost a part of its log here, and fetches it from the other members",
                    seat.id
                )),
                SeatState::Recovering => complaints.push(format!("seat {} is being recovered", seat.id)),
            }
        }
        complaints
    }
}
