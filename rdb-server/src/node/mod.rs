//! Builds the rooms and owns the tasks. [`start`] opens a node, [`Handle`] is what the surfaces call, and
//! [`Node::stop`] closes it: first the surfaces drain, then the seats, then the index.

mod append;
mod error;
mod handle;
mod history;
mod indexer;
mod read;
mod request;
mod seat_driver;
mod slots;
pub mod status;
pub mod tasks;
pub mod telemetry;

pub use crate::cdc::{Filter, Message, Start, Subscription};
pub use crate::protocol::KeyState;
pub use append::PendingAppend;
pub use error::NodeError;
pub use handle::Handle;
pub use history::HistoryPages;
pub use request::{Append, At, Found, HistoryRange, KeyRange, Stored};
pub use tasks::Tasks;

use crate::cdc::Marks;
use crate::clock;
use crate::coordination::embedded::{Config, EmbeddedCoordinator};
use crate::coordination::{CoordinationError, Coordinator};
use crate::limits::SEAT_QUEUE_MAX;
use crate::protocol::{Durable, EpochRun, Seat, SeatConfig};
use crate::settings::Settings;
use crate::storage::{
    DataDir, FreshIds, IndexSettings, IndexStore, KeyIndex, LogEvent, LogReader, LogSettings, OnLogEvent,
    Opened, SeatLog, StorageError,
};
use handle::{SeatHandle, Shared};
use indexer::Indexer;
use rdb_proto::entry::Entry;
use rdb_proto::types::{LogIndex, Membership, SeatId, Seq, Side};
use seat_driver::{Command, LogProgress, Parts, SeatDriver};
use std::sync::Arc;
use telemetry::Telemetry;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The coordinator.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    seats_draining: CancellationToken,
    seat_tasks: Tasks,
    index: IndexStore,
    // Held for its lock.
    _data_dir: Arc<DataDir>,
}

/// One seat between the opening of its log and the start of its driver.
struct OpenSeat {
    id: SeatId,
    log: SeatLog,
    progress: watch::Receiver<LogProgress>,
    opened: Opened,
}

/// Opens the data directory, reads every log, and begins to lead every seat. The node serves once
/// [`Handle::serving`] completes.
///
/// **Blocking**: reads every log once. Must be called where tasks of a runtime can be spawned.
///
/// # Errors
/// [`StartError`]; nothing was changed that a later start would miss.
pub fn start(settings: &Settings) -> Result<Node, StartError> {
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
    let seats = open_seats(settings, &data_dir, &coordinator, &telemetry)?;
    let index_settings = IndexSettings {
        event_id_window: usize::try_from(settings.event_id_window).unwrap_or(usize::MAX),
        ..IndexSettings::default()
    };
    let index = IndexStore::open(&data_dir, index_settings)?;
    let rooms = Rooms {
        data_dir: Arc::clone(&data_dir),
        coordinator: Arc::new(coordinator),
        marks: Arc::new(Marks::new(seats.len())),
        telemetry,
    };
    let seat_tasks = Tasks::default();
    let draining = CancellationToken::new();
    let mut handles = Vec::with_capacity(seats.len());
    for (position, seat) in seats.into_iter().enumerate() {
        let key_index = index.seat(seat.id, &seat.log.reader(), seat.opened.last_index)?;
        let (handle, driver, queue) = drive(seat, position, key_index, &rooms)?;
        seat_tasks.spawn(driver.run(queue, draining.clone().cancelled_owned()));
        handles.push(handle);
    }
    Ok(Node {
        handle: Handle::new(Shared::new(settings, rooms, handles)),
        seats_draining: draining,
        seat_tasks,
        index,
        _data_dir: data_dir,
    })
}

/// What every seat of the node shares.
#[derive(Debug)]
struct Rooms {
    data_dir: Arc<DataDir>,
    coordinator: Arc<dyn Coordinator>,
    marks: Arc<Marks>,
    telemetry: Arc<Telemetry>,
}

/// Opens every log, and lets the coordinator's counter go on where they end.
fn open_seats(
    settings: &Settings,
    data_dir: &DataDir,
    coordinator: &EmbeddedCoordinator,
    telemetry: &Arc<Telemetry>,
) -> Result<Vec<OpenSeat>, StorageError> {
    let began = clock::monotonic();
    let open = |id| open_seat(settings, data_dir, id, telemetry);
    let seats: Vec<OpenSeat> = seat_ids(settings)
        .into_iter()
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

/// Puts the state machine of one seat together with everything that it drives.
fn drive(
    seat: OpenSeat,
    position: usize,
    index: Arc<dyn KeyIndex>,
    rooms: &Rooms,
) -> Result<(SeatHandle, SeatDriver, mpsc::Receiver<Command>), StartError> {
    let log = seat.log.reader();
    let indexer = Indexer::start(seat.id, log.clone(), Arc::clone(&index)).map_err(StartError::Thread)?;
    let applied = indexer.applied();
    let (driver, view) = SeatDriver::new(Parts {
        id: seat.id,
        position,
        promised: seat.opened.promised.max(seat.opened.last_epoch),
        seat: protocol_seat(&*rooms.coordinator, seat.opened, &log, index.applied())?,
        log: seat.log,
        log_progress: seat.progress,
        index: Arc::clone(&index),
        indexer,
        coordinator: Arc::clone(&rooms.coordinator),
        marks: Arc::clone(&rooms.marks),
        telemetry: Arc::clone(&rooms.telemetry),
        data_dir: rooms.data_dir.path().to_owned(),
    });
    let (commands, queue) = mpsc::channel(SEAT_QUEUE_MAX);
    let handle = SeatHandle {
        id: seat.id,
        position,
        commands,
        view,
        applied,
        index,
        log,
    };
    Ok((handle, driver, queue))
}

fn seat_ids(settings: &Settings) -> Vec<SeatId> {
    settings
        .groups()
        .flat_map(|group| Side::BOTH.map(|side| SeatId { group, side }))
        .collect()
}

fn open_seat(
    settings: &Settings,
    data_dir: &DataDir,
    id: SeatId,
    telemetry: &Arc<Telemetry>,
) -> Result<OpenSeat, StorageError> {
    let (report, progress) = watch::channel(LogProgress::default());
    let telemetry = Arc::clone(telemetry);
    let on_event: OnLogEvent = Box::new(move |event| match event {
        LogEvent::Persisted(ticket) => report.send_modify(|progress| progress.persisted = Some(ticket)),
        LogEvent::PromisePersisted(epoch) => report.send_modify(|progress| progress.promised = Some(epoch)),
        LogEvent::RoomChanged => {
            report.send_modify(|progress| progress.room_changes = progress.room_changes.wrapping_add(1));
        }
        LogEvent::Synced { bytes, took } => telemetry.synced(bytes, took),
    });
    let log_settings = LogSettings {
        segment_bytes: settings.segment_bytes,
        ..LogSettings::default()
    };
    let (log, opened) = SeatLog::open(
        &data_dir.seat_path(id),
        data_dir.database(),
        id,
        log_settings,
        on_event,
    )?;
    Ok(OpenSeat {
        id,
        log,
        progress,
        opened,
    })
}

/// The member's state as its disk holds it. An index that applied an entry proves that it was committed.
fn protocol_seat(
    coordinator: &dyn Coordinator,
    opened: Opened,
    log: &LogReader,
    indexed: LogIndex,
) -> Result<Seat, StorageError> {
    let me = coordinator.node_id();
    let commit = opened.commit.max(indexed);
    let durable = Durable {
        promised: opened.promised,
        runs: opened
            .epochs
            .into_iter()
            .map(|(first, epoch)| EpochRun { first, epoch })
            .collect(),
        commit,
        committed_seq: last_seq_up_to(log, commit)?,
        tail: entries_between(log, commit, opened.last_index)?,
        indexed,
        mark: Seq::ZERO,
        config: 1,
        damaged: None,
        membership: Membership {
            number: 1,
            members: vec![me],
            previous: Vec::new(),
        },
    };
    // One member has nobody to take over from it and nobody that lags behind it.
    let config = SeatConfig {
        failover_after_ms: u64::MAX,
        recent_bytes_max: 0,
        ..SeatConfig::new(me, 1)
    };
    Ok(Seat::new(config, durable))
}

/// Seq of the last event at or below `index`; entries without events are few.
fn last_seq_up_to(log: &LogReader, mut index: LogIndex) -> Result<Seq, StorageError> {
    while index > LogIndex::ZERO {
        let frame = log.entry(index)?;
        if frame.events > 0 {
            return Ok(frame.last_seq());
        }
        index = index.previous();
    }
    Ok(Seq::ZERO)
}

/// The entries after `after`, up to and with `last`.
fn entries_between(
    log: &LogReader,
    after: LogIndex,
    last: LogIndex,
) -> Result<Vec<Arc<Entry>>, StorageError> {
    let mut cursor = log.cursor_at(after.next());
    let mut entries = Vec::new();
    while let Some(block) = cursor.next_block(last)? {
        for frame in &block.frames {
            let decoded = frame.decode();
            entries.push(Arc::new(
                decoded.map_err(|error| log.damaged_body(frame.index, &error))?,
            ));
        }
    }
    Ok(entries)
}

impl Node {
    /// What the surfaces call.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers what the seats have taken, closes the logs and the index. Stop the surfaces first: requests that
    /// come now are refused as shutting down.
    ///
    /// # Errors
    /// [`StorageError`] when the index cannot be closed cleanly; the next start checks or rebuilds it.
    pub async fn stop(self) -> Result<(), StorageError> {
        self.handle.tasks().stop();
        self.seats_draining.cancel();
        self.seat_tasks.stop();
        self.seat_tasks.ended().await;
        let index = self.index;
        let closing = tokio::task::spawn_blocking(move || index.close());
        // A join error means a panic there, which has ended the process.
        closing.await.unwrap_or(Ok(()))
    }
}
