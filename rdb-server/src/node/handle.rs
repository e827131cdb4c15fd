//! What the surfaces hold: the node's seats and what they share. What is asked of it stands in [`super::append`],
//! [`super::read`] and [`super::slots`].

use super::Rooms;
use super::error::NodeError;
use super::seat_driver::Command;
use super::status::{NamedSeat, SeatState, SeatView, Status};
use super::tasks::Tasks;
use super::telemetry::Telemetry;
use crate::cdc::{Filter, Marks, Start, Subscription};
use crate::clock;
use crate::coordination::Coordinator;
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::settings::Settings;
use crate::storage::{DataDir, KeyIndex, LogReader};
use rdb_proto::types::{LogIndex, NodeId, SeatId};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;

/// The ways to one seat.
#[derive(Debug)]
pub(super) struct SeatHandle {
    pub(super) id: SeatId,
    /// Position of the seat in the node's marks.
    pub(super) position: usize,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<SeatView>,
    pub(super) applied: watch::Receiver<LogIndex>,
    pub(super) index: Arc<dyn KeyIndex>,
    pub(super) log: LogReader,
}

/// What all clones of a handle share.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    address: String,
    database_name: String,
    data_dir: Arc<DataDir>,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) seats: Vec<SeatHandle>,
    pub(super) marks: Arc<Marks>,
    telemetry: Arc<Telemetry>,
    pub(super) tasks: Tasks,
    pub(super) in_flight: Arc<Semaphore>,
    started: Instant,
}

impl Shared {
    pub(super) fn new(settings: &Settings, rooms: Rooms, seats: Vec<SeatHandle>) -> Self {
        Self {
            name: settings.node.clone(),
            address: host_and_port(&settings.address, settings.port),
            database_name: settings.db.clone(),
            data_dir: rooms.data_dir,
            coordinator: rooms.coordinator,
            seats,
            marks: rooms.marks,
            telemetry: rooms.telemetry,
            tasks: Tasks::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            started: clock::monotonic(),
        }
    }
}

/// A node, as its surfaces see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Completes when every seat takes requests.
    pub async fn serving(&self) {
        for seat in &self.shared.seats {
            let mut view = seat.view.clone();
            // An error means that the node stops; nobody waits for long then.
            drop(view.wait_for(|view| view.state == SeatState::Leading).await);
        }
    }

    /// Begins a change stream. `database_id` is the one that the start's seq is from; empty means not checked.
    ///
    /// # Errors
    /// [`NodeError::WrongDatabase`], [`NodeError::SeqAhead`], or [`NodeError::Storage`].
    pub async fn subscribe(
        &self,
        start: Start,
        filter: Filter,
        database_id: &str,
    ) -> Result<Subscription, NodeError> {
        let expected = self.database_id().to_string();
        if !database_id.is_empty() && database_id != expected {
            return Err(NodeError::WrongDatabase {
                expected,
                actual: database_id.to_owned(),
            });
        }
        if let Start::After(seq) = start {
            self.resolved_up_to(seq).await?;
        }
        let logs: Vec<LogReader> = self.shared.seats.iter().map(|seat| seat.log.clone()).collect();
        Ok(Subscription::new(
            &logs,
            Arc::clone(&self.shared.marks),
            filter,
            start,
        ))
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        let named = |seat: &SeatHandle| NamedSeat {
            id: seat.id,
            view: *seat.view.borrow(),
        };
        let is_full = self
            .shared
            .seats
            .iter()
            .any(|seat| seat.view.borrow().is_disk_full);
        Status {
            counter: *self.shared.coordinator.counter().borrow(),
            resolved: self.shared.marks.resolved(),
            seats: self.shared.seats.iter().map(named).collect(),
            disk_free_bytes: self.shared.data_dir.free_bytes().unwrap_or_default(),
            refuses_writes: is_full.then_some("the disk is full: writes are refused"),
            uptime: clock::monotonic().saturating_duration_since(self.shared.started),
        }
    }

    /// The metrics.
    pub fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// Tasks that serve requests; they stop before the seats do.
    pub fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// Id of the database.
    pub fn database_id(&self) -> Uuid {
        self.shared.data_dir.database()
    }

    /// Name of the database.
    pub fn database_name(&self) -> &str {
        &self.shared.database_name
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Id of the node.
    pub fn id(&self) -> NodeId {
        self.shared.coordinator.node_id()
    }

    /// Where others reach the node: host:port.
    pub fn address(&self) -> String {
        self.shared.address.clone()
    }
}

/// An IPv6 address stands in brackets before a port.
fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A full queue refuses, a closed one has stopped: nothing happened.
pub(super) fn not_taken(error: &mpsc::error::TrySendError<Command>) -> NodeError {
    match error {
        mpsc::error::TrySendError::Full(_) => NodeError::Overloaded("the queue of the key's seat"),
        mpsc::error::TrySendError::Closed(_) => NodeError::ShuttingDown,
    }
}
