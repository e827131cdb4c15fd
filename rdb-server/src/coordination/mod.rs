//! Who leads, who lives, and which number is next. Knows nothing of logs.
//!
//! [`Coordinator`] is the boundary. [`embedded`] implements it for a standalone node.

pub mod embedded;

use async_trait::async_trait;
use rdb_proto::types::{Epoch, Membership, NodeId, SeatId, Seq, Timestamp};
use std::path::PathBuf;
use thiserror::Error;
use tokio::sync::watch;

/// A seat, granted to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Above every epoch granted before and above the one the candidate named.
    pub epoch: Epoch,
    /// Members at the election.
    pub membership: Membership,
}

/// Numbers, handed out once and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// The first; as many as were asked for follow densely.
    pub first: Seq,
    /// Time of the batch; never goes back along seq.
    pub time: Timestamp,
}

/// Decides membership, leadership and the counter.
#[async_trait]
pub trait Coordinator: Send + Sync + std::fmt::Debug {
    /// This node, under the id that the coordinator knows it by.
    fn node_id(&self) -> NodeId;

    /// Stands for a seat. The epoch granted is above `seen`, the highest that the member has on disk.
    ///
    /// # Errors
    /// [`CoordinationError`]; the seat may have been granted all the same, under an epoch never to be used.
    async fn campaign(&self, seat: SeatId, seen: Epoch) -> Result<Granted, CoordinationError>;

    /// Takes exactly `count` numbers.
    ///
    /// # Errors
    /// [`CoordinationError`]; numbers may have been taken all the same, and are then holes.
    ///
    /// # Panics
    /// When `count` is 0.
    async fn allocate(&self, count: u64) -> Result<Allocation, CoordinationError>;

    /// The counter, as far as a resolved mark may go (DESIGN 7): once it has shown a value, no start of any node
    /// hands out that number or a lower one.
    fn counter(&self) -> watch::Receiver<Seq>;

    /// Tells that an event with this seq is durable on this node.
    fn note_durable(&self, seq: Seq);
}

/// Why the coordinator did not do something.
#[derive(Debug, Error)]
pub enum CoordinationError {
    /// Its state cannot be read or written.
    #[error("coordinator state {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database was made with other settings.
    #[error("{variable} is {actual}, but the data directory was made with {expected}")]
    SettingsDiffer {
        /// The variable.
        variable: &'static str,
        /// Its value now.
        actual: String,
        /// Its value then.
        expected: String,
    },
    /// Its state is not what this release writes.
    #[error("coordinator state {path} cannot be read: {problem}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
