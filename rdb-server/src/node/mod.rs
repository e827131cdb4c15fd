//! Builds the rooms and owns the tasks. [`start`] opens a node, [`Handle`] is what the surfaces call, and
//! [`Node::stop`] closes it: first the surfaces drain, then the seats, then the index.

mod append;
mod change;
mod cluster;
mod combining;
mod cursors;
mod error;
mod guarding;
mod handle;
mod history;
mod holding;
mod indexer;
mod members;
mod read;
mod request;
mod restored;
mod route;
mod seat_driver;
mod slots;
mod snapshot;
mod standing;
pub mod status;
mod subscribe;
pub mod tasks;
pub mod telemetry;
mod verify;

pub use crate::cdc::{Filter, Gather, Message, Order, Part, Run, Selection, Start, Subscription};
pub use crate::protocol::KeyState;
pub use append::PendingAppend;
pub use cursors::{Claim, NamedCursor};
pub use error::NodeError;
pub use guarding::MemoryError;
pub use handle::Handle;
pub use history::HistoryPages;
pub use request::{Append, At, Found, HistoryRange, KeyRange, Stored};
pub use restored::EtcdRestored;
pub use route::{Need, Peer, Route};
pub use snapshot::KeyThen;
pub use tasks::Tasks;
pub use verify::{End, Finding, Verification, Wanted};

use crate::blocking;
use crate::clock;
use crate::coordination::CoordinationError;
use crate::coordination::embedded::{Config, EmbeddedCoordinator};
use crate::settings::Settings;
use crate::storage::{DataDir, FreshIds, IndexSettings, Indexes, StorageError};
use handle::Shared;
use members::{Members, OpenSeat, Rooms, Tuning};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use telemetry::Telemetry;
use thiserror::Error;
use uuid::Uuid;

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The coordinator.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The data directory is of another database than etcd.
    #[error(
        "{} belongs to database {found}, but etcd names {expected}: use another DATA_DIR, ETCD or DB",
        path.display()
    )]
    OtherDatabase {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: Uuid,
        /// What etcd says.
        expected: Uuid,
    },
    /// What the node remembers of etcd.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    members: Arc<Members>,
}

/// Opens the data directory, reads every log, and takes part in every seat that the node has a member of. It serves
/// once [`Handle::serving`] completes. A node of a cluster waits for etcd.
///
/// # Errors
/// [`StartError`]; nothing was changed that a later start would miss.
pub async fn start(settings: &Settings) -> Result<Node, StartError> {
    if settings.is_standalone() {
        let settings = settings.clone();
        start_blocking(move || start_standalone(&settings)).await
    } else {
        Box::pin(cluster::start(settings)).await
    }
}

/// Runs what blocks where that is allowed.
async fn start_blocking<T, F>(work: F) -> Result<T, StartError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StartError> + Send + 'static,
{
    let done = blocking::run(work).await;
    done.map_err(|panic| StartError::Thread(io::Error::other(panic)))?
}

/// **Blocking**: reads every log once. Must be called where tasks of a runtime can be spawned.
fn start_standalone(settings: &Settings) -> Result<Node, StartError> {
    let fresh = FreshIds {
        database: clock::new_uuid(),
        directory: clock::new_uuid(),
    };
    let data_dir = Arc::new(DataDir::open(&settings.data_dir, fresh)?);
    let config = Config {
        database: settings.db.clone(),
        shard_groups: settings.shard_groups,
    };
    // The coordinator's state is made before the first log.
    let is_new = data_dir.seats()?.is_empty();
    let coordinator = EmbeddedCoordinator::open(data_dir.path(), &config, is_new)?;
    let telemetry = Arc::new(Telemetry::new());
    let seats = open_logs(settings, &data_dir, &coordinator, &telemetry)?;
    let index = open_index(settings, &data_dir)?;
    let rooms = Rooms::new(data_dir, Arc::new(coordinator), telemetry, settings.shard_groups);
    let members = Members::new(rooms, Tuning::of(settings), index);
    for seat in seats {
        members.start(seat)?;
    }
    let handle = Handle::new(Shared::new(settings, &members, None));
    handle.watch_mark();
    Ok(Node {
        handle,
        members: Arc::new(members),
    })
}

fn open_index(settings: &Settings, data_dir: &DataDir) -> Result<Indexes, StorageError> {
    let index_settings = IndexSettings {
        event_id_window: usize::try_from(settings.event_id_window).unwrap_or(usize::MAX),
        ..IndexSettings::default()
    };
    Indexes::open(data_dir, index_settings)
}

/// Opens every log, and lets the embedded coordinator's counter go on where they end.
fn open_logs(
    settings: &Settings,
    data_dir: &DataDir,
    coordinator: &EmbeddedCoordinator,
    telemetry: &Arc<Telemetry>,
) -> Result<Vec<OpenSeat>, StorageError> {
    let began = clock::monotonic();
    let open = |id| members::open_log(id, data_dir, telemetry, Tuning::of(settings));
    let seats: Vec<OpenSeat> = slots::seats(settings.shard_groups)
        .map(open)
        .collect::<Result<_, _>>()?;
    let opened = || seats.iter().map(|seat| &seat.opened);
    let last_seq = opened().map(|opened| opened.last_seq).max().unwrap_or_default();
    let last_time = opened().map(|opened| opened.last_time).max().unwrap_or_default();
    let events: u64 = opened().map(|opened| opened.events).sum();
    let cut_bytes: u64 = opened().map(|opened| opened.cut_bytes).sum();
    let took = clock::monotonic().saturating_duration_since(began);
    tracing::info!(seats = seats.len(), events, %last_seq, cut_bytes, ?took, "logs opened");
    coordinator.resume(last_seq, last_time);
    Ok(seats)
}

impl Node {
    /// What the surfaces call.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Gives every seat that this node leads to another member, when there is a live one; whoever asks from then on is
    /// sent there.
    ///
    /// **Cancel safety**: what was given away stays so.
    pub async fn hand_over(&self) {
        for seat in self.handle.members().values() {
            seat.hand_over(&self.handle).await;
        }
    }

    /// Answers what the seats have taken, closes the logs and the index. Stop the surfaces first: requests that
    /// come now are refused as shutting down.
    ///
    /// # Errors
    /// [`StorageError`] when the index cannot be closed cleanly; the next start checks or rebuilds it.
    pub async fn stop(self) -> Result<(), StorageError> {
        self.handle.tasks().stop();
        self.members.drain().await;
        self.members.rooms.exchange.stop();
        self.members.rooms.exchange.ended().await;
        // Last: while it holds seats, nobody else shall think that it is gone.
        self.members.rooms.coordinator.close().await;
        let Some(members) = Arc::into_inner(self.members) else {
            return Ok(());
        };
        let closing = blocking::run(move || members.close());
        // A join error means a panic there, which has ended the process.
        closing.await.unwrap_or(Ok(()))
    }
}
