//! Who leads, who lives, and which number is next. Knows nothing of logs.
//!
//! [`Coordinator`] is the boundary. [`embedded`] implements it for a standalone node, [`etcd`] for a cluster.

pub mod embedded;
pub mod etcd;
mod progress;
pub mod replacement;
mod view;

pub use progress::{Progress, Restart};
pub use view::{NodeInfo, SeatKey, View};

use async_trait::async_trait;
use rdb_proto::types::{Epoch, Membership, NodeId, SeatId, Seq, Timestamp};
use std::path::PathBuf;
use std::sync::Arc;
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

/// How far the leader of a seat is with a change of its group's members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Revision of the members key that it speaks of; see [`View::changed_at`].
    pub as_of: u64,
    /// Number of the membership whose epoch-start it has committed.
    pub established: u64,
    /// Learners that have everything.
    pub caught_up: Vec<NodeId>,
}

/// What an operator decides of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is to have no members any more; `to` takes them, or any free node.
    Leave {
        /// The node.
        node: NodeId,
        /// Who comes for it.
        to: Option<NodeId>,
    },
    /// It stays after all. What was moved by then stays moved.
    Stay(NodeId),
    /// It never comes back: its name and its id are given up. It has no members and is not live.
    Forget(NodeId),
}

/// Decides membership, leadership and the counter.
#[async_trait]
pub trait Coordinator: Send + Sync + std::fmt::Debug {
    /// This node, under the id that the coordinator knows it by.
    fn node_id(&self) -> NodeId;

    /// Follows what the coordinator decides.
    fn view(&self) -> watch::Receiver<Arc<View>>;

    /// Runs the election of a seat: IF its leader key is at `revision` THEN this node holds it, under the next epoch
    /// number, which exceeds `above`. `None` when the key had changed: the view will tell.
    ///
    /// # Errors
    /// [`CoordinationError`]; the seat may have been granted all the same, under an epoch never to be used.
    async fn campaign(
        &self,
        seat: SeatId,
        above: Epoch,
        revision: u64,
    ) -> Result<Option<Granted>, CoordinationError>;

    /// Raises the epoch of a seat that this node holds under `epoch`, above `above`; `None` when it does not hold it
    /// any more.
    ///
    /// # Errors
    /// [`CoordinationError`]; the epoch may have been raised all the same.
    async fn raise(
        &self,
        seat: SeatId,
        epoch: Epoch,
        above: Epoch,
    ) -> Result<Option<Granted>, CoordinationError>;

    /// Gives a seat up, IF this node still holds it under `epoch`; others let `successor` stand first.
    ///
    /// # Errors
    /// [`CoordinationError`]; it may have been given up all the same.
    async fn give_up(
        &self,
        seat: SeatId,
        epoch: Epoch,
        successor: Option<NodeId>,
    ) -> Result<(), CoordinationError>;

    /// Tells how far a change of members is, IF this node holds the seat under `epoch`.
    ///
    /// # Errors
    /// [`CoordinationError`]; it may have been told all the same.
    async fn report(&self, seat: SeatId, epoch: Epoch, report: Report) -> Result<(), CoordinationError>;

    /// Writes an order down for the controller. Asking for what is so already does nothing.
    ///
    /// # Errors
    /// [`CoordinationError`]; it may have been written all the same. [`CoordinationError::Changed`] when what the
    /// order rests on is not so any more.
    async fn order(&self, order: Order) -> Result<(), CoordinationError>;

    /// Takes exactly `count` numbers.
    ///
    /// # Errors
    /// [`CoordinationError`]; numbers may have been taken all the same, and are then holes.
    ///
    /// # Panics
    /// When `count` is 0.
    async fn allocate(&self, count: u64) -> Result<Allocation, CoordinationError>;

    /// The counter, read after this call began: at or above the seq of every event acknowledged before.
    ///
    /// # Errors
    /// [`CoordinationError`]; nothing was changed.
    async fn latest(&self) -> Result<Seq, CoordinationError>;

    /// The counter, as far as a resolved mark may go (DESIGN 7): once it has shown a value, no start of any node
    /// hands out that number or a lower one.
    fn counter(&self) -> watch::Receiver<Seq>;

    /// Tells that an event with this seq is durable on this node.
    fn note_durable(&self, seq: Seq);

    /// Ends what the coordinator does in the background, and tells the others that this node is gone. Seats that it
    /// still holds are vacant then.
    async fn close(&self);
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
    #[error("{variable} is {actual}, but the database was made with {expected}")]
    SettingsDiffer {
        /// The variable.
        variable: &'static str,
        /// Its value now.
        actual: String,
        /// Its value then.
        expected: String,
    },
    /// A file for TLS to etcd cannot be used.
    #[error("{variable} is {path}, which {problem}")]
    Pem {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A call to etcd failed, or was not answered in time.
    #[error("etcd does not answer for {what}: {why}")]
    Unavailable {
        /// What was asked for.
        what: &'static str,
        /// What the client says.
        why: String,
    },
    /// This node's lease lapsed; another one is being taken.
    #[error("this node holds no lease in etcd at the moment")]
    NoLease,
    /// What an order rests on has changed, or it makes no sense.
    #[error("nothing was done: {why}")]
    Changed {
        /// What changed.
        why: &'static str,
    },
    /// A value in etcd is not what this release writes.
    #[error("the value of {key} in etcd cannot be read: {problem}")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A live node has the name.
    #[error(
        "NODE is {name}, but a live node with another data directory has that name: give each node its own, or wait \
         for LEASE_TTL after its end"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// etcd is in an older state than this node has seen: it was restored from a backup, or wiped.
    #[error(
        "etcd went back: {what} was {seen} and is {found}; numbers would be given out twice, so none are taken. Was \
         etcd restored from a backup?"
    )]
    RolledBack {
        /// What went back.
        what: &'static str,
        /// What this node has seen.
        seen: u64,
        /// What is there.
        found: u64,
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

impl CoordinationError {
    /// The same error for another one who waits; what only a start can meet is told as it reads.
    fn again(&self) -> Self {
        match self {
            Self::Unavailable { what, why } => Self::Unavailable {
                what,
                why: why.clone(),
            },
            Self::NoLease => Self::NoLease,
            Self::Changed { why } => Self::Changed { why },
            Self::Malformed { key, problem } => Self::Malformed {
                key: key.clone(),
                problem: problem.clone(),
            },
            Self::RolledBack { what, seen, found } => Self::RolledBack {
                what,
                seen: *seen,
                found: *found,
            },
            Self::NameTaken { .. }
            | Self::Io { .. }
            | Self::Pem { .. }
            | Self::SettingsDiffer { .. }
            | Self::State { .. } => Self::Unavailable {
                what: "numbers",
                why: self.to_string(),
            },
        }
    }
}
