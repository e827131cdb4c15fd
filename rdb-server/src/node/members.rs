//! The seats that this node has members of: opens their logs, starts their drivers, and lists them for others.

use super::StartError;
use super::handle::SeatHandle;
use super::indexer::Indexer;
use super::seat_driver::{LogProgress, Parts, SeatDriver};
use super::slots;
use super::tasks::Tasks;
use super::telemetry::Telemetry;
use crate::cdc::Marks;
use crate::clock;
use crate::coordination::Coordinator;
use crate::fatal::{self, Report as FatalReport};
use crate::limits::{SEAT_MAIL_MAX, SEAT_QUEUE_MAX};
use crate::protocol::{Durable, EpochRun, Seat, SeatConfig};
use crate::settings::Settings;
use crate::storage::{
    DataDir, Indexes, LogEvent, LogReader, LogSettings, OnLogEvent, Opened, SeatLog, StorageError,
};
use crate::transport::{Identity, Transport};
use rdb_proto::entry::EntryBody;
use rdb_proto::types::{LogIndex, Membership, SeatId, Seq};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The ways to every seat that this node has a member of.
pub(super) type SeatMap = BTreeMap<SeatId, Arc<SeatHandle>>;

/// What every seat of the node shares.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) data_dir: Arc<DataDir>,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) marks: Arc<Marks>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) transport: Transport,
    /// The transport's tasks.
    pub(super) exchange: Tasks,
}

impl Rooms {
    /// A node as its coordinator knows it, with marks of so many groups.
    pub(super) fn new(
        data_dir: Arc<DataDir>,
        coordinator: Arc<dyn Coordinator>,
        telemetry: Arc<Telemetry>,
        groups: u32,
    ) -> Self {
        let exchange = Tasks::default();
        let identity = Identity {
            node: coordinator.node_id(),
            database: data_dir.database(),
            incarnation: clock::new_uuid(),
        };
        let (tasks, stopping) = exchange.parts();
        Self {
            transport: Transport::new(identity, tasks, stopping),
            exchange,
            data_dir,
            coordinator,
            marks: Arc::new(Marks::new(slots::seats(groups).count())),
            telemetry,
        }
    }
}

/// How every seat of the node works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    segment_bytes: u64,
    writes: usize,
    failover_after_ms: u64,
    heartbeat: Duration,
    /// Whether nobody else ever has members.
    is_alone: bool,
    /// Whether others have what a member of this node has.
    is_replicated: bool,
}

impl Tuning {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            segment_bytes: settings.segment_bytes,
            writes: usize::try_from(settings.writes()).unwrap_or(usize::MAX),
            failover_after_ms: settings.failover_after,
            heartbeat: Duration::from_millis(settings.heartbeat_interval),
            is_alone: settings.is_standalone(),
            is_replicated: !settings.is_standalone() && settings.writes() > 1,
        }
    }

    pub(super) const fn writes(&self) -> usize {
        self.writes
    }

    pub(super) const fn heartbeat(&self) -> Duration {
        self.heartbeat
    }
}

/// A seat between the opening of its log and the start of its driver.
#[derive(Debug)]
pub(super) struct OpenSeat {
    pub(super) id: SeatId,
    log: SeatLog,
    progress: watch::Receiver<LogProgress>,
    pub(super) opened: Opened,
}

/// Opens a seat's log.
///
/// **Blocking**: reads the whole log.
pub(super) fn open_log(
    id: SeatId,
    data_dir: &DataDir,
    telemetry: &Arc<Telemetry>,
    tuning: Tuning,
) -> Result<OpenSeat, StorageError> {
    let (report, progress) = watch::channel(LogProgress::default());
    let telemetry = Arc::clone(telemetry);
    let on_event: OnLogEvent = Box::new(move |event| match event {
        LogEvent::Persisted(ticket) => report.send_modify(|progress| progress.persisted = Some(ticket)),
        LogEvent::PromisePersisted(_) => {
            report.send_modify(|progress| progress.promises = progress.promises.saturating_add(1));
        }
        LogEvent::RoomChanged => {
            report.send_modify(|progress| progress.room_changes = progress.room_changes.wrapping_add(1));
        }
        LogEvent::Synced { bytes, took } => telemetry.synced(bytes, took),
        // What else cannot be read is found out by reading all of the log, before anybody relies on it. Whoever has nobody to
        // get it from goes on with what can be read.
        LogEvent::Unreadable(damage) if tuning.is_replicated => fatal::io(&FatalReport {
            what: &"entries that were durable cannot be read",
            place: &damage,
            safe: "every acknowledged event is on the disks of other members",
            next: "look at the disk, then start the server again: it fetches what is lost from the other members",
        }),
        LogEvent::Unreadable(_) => {}
    });
    let log_settings = LogSettings {
        segment_bytes: tuning.segment_bytes,
        is_replicated: tuning.is_replicated,
        ..LogSettings::default()
    };
    let (log, opened) = SeatLog::open(
        &data_dir.seat_path(id),
        data_dir.database(),
        id,
        log_settings,
        on_event,
    )?;
    if let Some(damage) = &opened.damage {
        tracing::error!(seat = %id, %damage, "a part of the log was lost; what is left of it is in *.damaged beside it");
    }
    Ok(OpenSeat {
        id,
        log,
        progress,
        opened,
    })
}

/// The node's members.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) rooms: Rooms,
    pub(super) tuning: Tuning,
    index: Indexes,
    seats: watch::Sender<Arc<SeatMap>>,
    /// Seats that this node was a member of.
    left: Mutex<SeatMap>,
    tasks: Tasks,
    draining: CancellationToken,
}

impl Members {
    pub(super) fn new(rooms: Rooms, tuning: Tuning, index: Indexes) -> Self {
        Self {
            rooms,
            tuning,
            index,
            seats: watch::Sender::new(Arc::new(SeatMap::new())),
            left: Mutex::default(),
            tasks: Tasks::default(),
            draining: CancellationToken::new(),
        }
    }

    /// Follows which seats there are.
    pub(super) fn seats(&self) -> watch::Receiver<Arc<SeatMap>> {
        self.seats.subscribe()
    }

    /// Opens the log of a seat that this node has become a member of, and starts its driver.
    ///
    /// **Blocking**: reads the log.
    pub(super) fn open(&self, id: SeatId) -> Result<(), StartError> {
        let seat = open_log(id, &self.rooms.data_dir, &self.rooms.telemetry, self.tuning)?;
        self.start(seat)
    }

    /// Takes requests to a seat elsewhere from now on: this node is no member of it any more. The seat goes on, silent, and
    /// may be joined again; its data stays on disk: only an operator throws away what was once acknowledged.
    pub(super) fn leave(&self, id: SeatId) {
        let seat = self.seats.borrow().get(&id).map(Arc::clone);
        let Some(seat) = seat else {
            return;
        };
        self.left().insert(id, seat);
        self.seats.send_modify(|seats| {
            Arc::make_mut(seats).remove(&id);
        });
        tracing::info!(seat = %id, "this node is no member of the seat any more; its data stays on disk");
    }

    /// Whether the seat had been left, and is there again.
    pub(super) fn rejoin(&self, id: SeatId) -> bool {
        let Some(seat) = self.left().remove(&id) else {
            return false;
        };
        self.seats.send_modify(|seats| {
            Arc::make_mut(seats).insert(id, seat);
        });
        true
    }

    /// Never held across an await.
    fn left(&self) -> MutexGuard<'_, SeatMap> {
        // A panic while the lock was held ends the process.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the state machine of one seat together with everything that it drives, and runs it.
    ///
    /// **Blocking**: reads the end of the log.
    pub(super) fn start(&self, seat: OpenSeat) -> Result<(), StartError> {
        // A coordinator that was restored to an older state must not hand these out again.
        self.rooms.coordinator.note_durable(seat.opened.last_seq);
        let log = seat.log.reader();
        let index = self.index.seat(seat.id, &log, seat.opened.last_index)?;
        let indexer = Indexer::start(seat.id, log.clone(), Arc::clone(&index)).map_err(StartError::Thread)?;
        let applied = indexer.applied();
        let position = slots::position_of(seat.id);
        let (letters, mail) = mpsc::channel(SEAT_MAIL_MAX);
        let (has_lost, from) = (seat.opened.lost.is_some(), seat.opened.last_index.next());
        let core = self.protocol_seat(seat.opened, &log, index.applied())?;
        if core.is_damaged() {
            tracing::warn!(seat = %seat.id, %from, "fetching lost entries from the other members; no vote and no lead until then");
        } else if has_lost {
            // The process ended before that was noted.
            seat.log.forget_loss();
        }
        // What the index had applied is committed, whether or not anybody says so again.
        self.rooms.marks.commit(position, core.commit());
        let (driver, view, progress) = SeatDriver::new(Parts {
            id: seat.id,
            position,
            seat: core,
            log: seat.log,
            log_progress: seat.progress,
            index: Arc::clone(&index),
            indexer,
            coordinator: Arc::clone(&self.rooms.coordinator),
            marks: Arc::clone(&self.rooms.marks),
            telemetry: Arc::clone(&self.rooms.telemetry),
            data_dir: self.rooms.data_dir.path().to_owned(),
            transport: self.rooms.transport.clone(),
            mail,
            heartbeat: self.tuning.heartbeat,
        });
        let (commands, queue) = mpsc::channel(SEAT_QUEUE_MAX);
        let handle = SeatHandle {
            id: seat.id,
            position,
            commands,
            view,
            progress,
            applied,
            index,
            log,
        };
        self.rooms.transport.register(seat.id, letters);
        self.tasks
            .spawn(driver.run(queue, self.draining.clone().cancelled_owned()));
        self.seats.send_modify(|seats| {
            Arc::make_mut(seats).insert(handle.id, Arc::new(handle));
        });
        Ok(())
    }

    /// The member's state as its disk holds it. An index that applied an entry proves that it was committed.
    fn protocol_seat(
        &self,
        opened: Opened,
        log: &LogReader,
        indexed: LogIndex,
    ) -> Result<Seat, StorageError> {
        let me = self.rooms.coordinator.node_id();
        let commit = opened.commit.max(indexed);
        let runs: Vec<EpochRun> = opened
            .epochs
            .into_iter()
            .map(|(first, epoch)| EpochRun { first, epoch })
            .collect();
        let durable = Durable {
            promised: opened.promised,
            commit,
            committed_seq: last_seq_up_to(log, commit)?,
            tail: log.entries((commit.next(), opened.last_index), usize::MAX)?,
            indexed,
            mark: Seq::ZERO,
            config: u64::from(opened.config),
            lost: opened.lost,
            membership: membership_up_to(log, &runs, commit)?,
            runs,
        };
        let config = SeatConfig::new(me, self.tuning.writes);
        let config = if self.tuning.is_alone {
            // Nobody takes over from it, and nobody lags behind it.
            SeatConfig {
                failover_after_ms: u64::MAX,
                recent_bytes_max: 0,
                ..config
            }
        } else {
            SeatConfig {
                failover_after_ms: self.tuning.failover_after_ms,
                ..config
            }
        };
        Ok(Seat::new(config, durable))
    }

    /// Runs a task that [`Members::drain`] waits for; it should end soon after [`Members::stopping`].
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Completes when the members begin to drain.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.tasks.stopping()
    }

    /// Lets every seat answer what it has taken, then closes its log.
    pub(super) async fn drain(&self) {
        self.draining.cancel();
        self.tasks.stop();
        self.tasks.ended().await;
    }

    /// Closes the key index. Call after [`Members::drain`].
    ///
    /// **Blocking**: writes what is only in memory.
    pub(super) fn close(self) -> Result<(), StorageError> {
        self.index.close()
    }
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

/// Members as of the last epoch-start entry at or below `commit`: the first entry of every epoch is one.
fn membership_up_to(
    log: &LogReader,
    runs: &[EpochRun],
    commit: LogIndex,
) -> Result<Membership, StorageError> {
    let Some(run) = runs.iter().rev().find(|run| run.first <= commit) else {
        return Ok(Membership::default());
    };
    let frame = log.entry(run.first)?;
    let entry = frame
        .decode()
        .map_err(|error| log.damaged_body(run.first, &error))?;
    match entry.body {
        EntryBody::EpochStart(membership) => Ok(membership),
        EntryBody::Events(_) | EntryBody::Cursor(_) => {
            Err(log.damaged_body(run.first, &"an epoch does not begin with its members"))
        }
    }
}
