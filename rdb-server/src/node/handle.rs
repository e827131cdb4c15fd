//! What the surfaces hold: the node's seats and what they share. What is asked of it stands in [`super::append`],
//! [`super::read`], [`super::subscribe`], [`super::route`] and [`super::slots`].

use super::cursors::Consumers;
use super::error::NodeError;
use super::holding;
use super::members::{Members, SeatMap};
use super::seat_driver::{Command, Progress};
use super::status::{NamedSeat, SeatState, SeatView, Status};
use super::tasks::Tasks;
use super::telemetry::Telemetry;
use crate::cdc::{Audience, Marks};
use crate::clock;
use crate::coordination::Coordinator;
use crate::coordination::etcd::EtcdCoordinator;
use crate::limits::{IN_FLIGHT_BYTES_MAX, VERIFICATIONS_MAX};
use crate::settings::Settings;
use crate::storage::{DataDir, KeyIndex, LogReader};
use crate::transport::{Inbound, Transport};
use rdb_proto::member::member_server::MemberServer;
use rdb_proto::types::{LogIndex, NodeId, SeatId};
use std::num::NonZero;
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
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) applied: watch::Receiver<LogIndex>,
    pub(super) index: Arc<dyn KeyIndex>,
    pub(super) log: LogReader,
}

impl SeatHandle {
    /// Has the seat given to another live member, and waits until it is.
    pub(super) async fn hand_over(&self, node: &Handle) {
        let is_led = |view: &SeatView| matches!(view.state, SeatState::Leading | SeatState::Recovering);
        let cluster = Arc::clone(&node.shared.coordinator.view().borrow());
        let members = cluster.groups.get(&self.id.group);
        let mut others = members.into_iter().flat_map(|group| group.members.iter());
        let has_other = others.any(|other| *other != node.id() && cluster.is_live(*other));
        let mut view = self.view.clone();
        if !has_other || !is_led(&view.borrow_and_update()) {
            return;
        }
        // A full queue or a closed one: the seat is left to lapse.
        if self.commands.send(Command::HandOver(None)).await.is_ok() {
            drop(view.wait_for(|view| !is_led(view)).await);
        }
    }
}

/// What all clones of a handle share.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    address: String,
    database_name: String,
    data_dir: Arc<DataDir>,
    pub(super) coordinator: Arc<dyn Coordinator>,
    /// The same, in a cluster.
    pub(super) etcd: Option<Arc<EtcdCoordinator>>,
    /// `SHARD_GROUPS`.
    pub(super) groups: u32,
    /// W.
    writes: u32,
    pub(super) seats: watch::Receiver<Arc<SeatMap>>,
    pub(super) marks: Arc<Marks>,
    /// Those who listen to live events here.
    pub(super) audience: Arc<Audience>,
    /// Since when the change stream stands still.
    pub(super) held: watch::Sender<Option<Instant>>,
    /// Who consumes the named subscriptions that are led here.
    pub(super) consumers: Consumers,
    telemetry: Arc<Telemetry>,
    pub(super) transport: Transport,
    pub(super) tasks: Tasks,
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) verifying: Arc<Semaphore>,
    started: Instant,
}

impl Shared {
    pub(super) fn new(settings: &Settings, members: &Members, etcd: Option<Arc<EtcdCoordinator>>) -> Self {
        let rooms = &members.rooms;
        let processors = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Self {
            name: settings.node.clone(),
            address: host_and_port(&settings.address, settings.port),
            database_name: settings.db.clone(),
            data_dir: Arc::clone(&rooms.data_dir),
            coordinator: Arc::clone(&rooms.coordinator),
            etcd,
            groups: settings.shard_groups,
            writes: settings.writes(),
            seats: members.seats(),
            marks: Arc::clone(&rooms.marks),
            audience: Arc::new(Audience::on(processors)),
            held: watch::Sender::new(None),
            consumers: Consumers::default(),
            telemetry: Arc::clone(&rooms.telemetry),
            transport: rooms.transport.clone(),
            tasks: Tasks::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            verifying: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
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

    /// The ways to every seat that this node has a member of.
    pub(super) fn members(&self) -> Arc<SeatMap> {
        Arc::clone(&self.shared.seats.borrow())
    }

    /// The way to a seat, when this node has a member of it.
    pub(super) fn member(&self, seat: SeatId) -> Option<Arc<SeatHandle>> {
        self.shared.seats.borrow().get(&seat).map(Arc::clone)
    }

    /// The same, when this node must have one.
    pub(super) fn member_here(&self, seat: SeatId) -> Result<Arc<SeatHandle>, NodeError> {
        self.member(seat).ok_or(NodeError::NotHere(seat))
    }

    /// Completes when every seat takes requests here, or is known to be led by another node.
    pub async fn serving(&self) {
        for id in self.seats() {
            self.served(id).await;
        }
    }

    /// Completes when the seat is led, here or elsewhere.
    async fn served(&self, id: SeatId) {
        let mut members = self.shared.seats.clone();
        let mut cluster = self.shared.coordinator.view();
        loop {
            let member = members.borrow_and_update().get(&id).map(Arc::clone);
            let is_mine = cluster
                .borrow_and_update()
                .groups
                .get(&id.group)
                .map(|membership| membership.members.contains(&self.id()));
            match (member, is_mine) {
                (Some(member), _) => {
                    let mut view = member.view.clone();
                    let is_led =
                        |view: &SeatView| matches!(view.state, SeatState::Leading | SeatState::Following);
                    // An error means that the node stops; nobody waits for long then.
                    drop(view.wait_for(is_led).await);
                    return;
                }
                (None, Some(false)) => return,
                (None, Some(true) | None) => {}
            }
            let is_over = tokio::select! {
                changed = members.changed() => changed.is_err(),
                changed = cluster.changed() => changed.is_err(),
            };
            if is_over {
                return;
            }
        }
    }

    /// Begins to watch whether the resolved mark follows the counter.
    pub(super) fn watch_mark(&self) {
        self.tasks().spawn(holding::watch(self.clone()));
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        let members = self.members();
        let named = |seat: &Arc<SeatHandle>| NamedSeat {
            id: seat.id,
            view: *seat.view.borrow(),
            progress: seat.progress.borrow().clone(),
        };
        let cluster = Arc::clone(&self.shared.coordinator.view().borrow());
        let is_elsewhere = |seat: &SeatId| {
            let group = cluster.groups.get(&seat.group);
            group.is_some_and(|group| !group.members.contains(&self.id()))
        };
        let missing = self
            .seats()
            .filter(|seat| !members.contains_key(seat) && !is_elsewhere(seat));
        let is_full = members.values().any(|seat| seat.view.borrow().is_disk_full);
        Status {
            counter: *self.shared.coordinator.counter().borrow(),
            resolved: self.shared.marks.resolved(),
            seats: members.values().map(named).collect(),
            missing: missing.collect(),
            cluster: Arc::clone(&cluster),
            disk_free_bytes: self.shared.data_dir.free_bytes().unwrap_or_default(),
            held: self.held(),
            refuses_writes: is_full.then_some("the disk is full: writes are refused"),
            uptime: clock::monotonic().saturating_duration_since(self.shared.started),
        }
    }

    /// The metrics.
    pub fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// The gRPC service that other nodes call.
    pub fn member_service(&self) -> MemberServer<Inbound> {
        self.shared.transport.service()
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

    /// Whether it is alone, without etcd.
    pub fn is_standalone(&self) -> bool {
        self.shared.etcd.is_none()
    }

    /// W: members that a write waits for.
    pub fn writes(&self) -> u32 {
        self.shared.writes
    }

    /// Where others reach the node: host:port.
    pub fn address(&self) -> String {
        self.shared.address.clone()
    }
}

/// An IPv6 address stands in brackets before a port.
pub(super) fn host_and_port(host: &str, port: u16) -> String {
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
