//! What the surfaces call: routes a request to its seat and waits for the outcome.

use super::Rooms;
use super::error::NodeError;
use super::history::HistoryPages;
use super::seat_driver::{AppendCommand, Command};
use super::status::{NamedSeat, SeatState, SeatView, Status};
use super::tasks::Tasks;
use super::telemetry::Telemetry;
use crate::cdc::{Filter, Marks, Start, Subscription};
use crate::clock;
use crate::coordination::Coordinator;
use crate::limits::{IN_FLIGHT_BYTES_MAX, RESOLVE_WAIT};
use crate::protocol::{KeyState, Outcome};
use crate::settings::Settings;
use crate::storage::{DataDir, KeyIndex, Located, LogReader, Standing, StorageError};
use bytes::Bytes;
use rdb_proto::event::{self, Event, EventKind, Expectation, NewEvent};
use rdb_proto::limits::SLOTS;
use rdb_proto::types::{Collection, EventId, Key, KeyName, LogIndex, NodeId, SeatId, Seq, Slot, Version};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

/// One append, within the limits of [`rdb_proto::limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The key.
    pub name: KeyName,
    /// What must be true of it.
    pub expect: Expectation,
    /// One or more events with distinct ids.
    pub events: Vec<NewEvent>,
    /// Set on a retry: a seq that the database had reached before the first attempt.
    pub retried_since: Option<Seq>,
}

impl Append {
    /// At least as many bytes as the body of its entry will have.
    pub(super) fn body_bytes(&self) -> usize {
        /// Numbers, id, tags and lengths of one event in wire form.
        const EVENT_FIELDS_MAX: usize = 80;
        /// Tag and lengths of one tag or metadata pair in wire form.
        const LIST_FIELDS_MAX: usize = 12;
        let name = self
            .name
            .collection
            .as_str()
            .len()
            .saturating_add(self.name.key.as_str().len());
        let event_bytes = |event: &NewEvent| {
            let lists = event
                .tags
                .len()
                .saturating_add(event.meta.len())
                .saturating_mul(LIST_FIELDS_MAX);
            event
                .weight()
                .saturating_add(name)
                .saturating_add(lists)
                .saturating_add(EVENT_FIELDS_MAX)
        };
        self.events.iter().map(event_bytes).sum()
    }
}

/// Where an event was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its seq.
    pub seq: Seq,
    /// Its version.
    pub version: Version,
    /// Its id.
    pub event_id: EventId,
    /// Whether an earlier attempt had stored it.
    pub is_duplicate: bool,
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Sees every write acknowledged before the call.
    Latest,
    /// What this node has.
    Local,
    /// As the database stood at this seq.
    Seq(Seq),
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Wire form.
    pub encoded: Bytes,
    /// The answer is complete up to this seq.
    pub as_of: Seq,
}

/// Part of a key's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRange {
    /// The key.
    pub name: KeyName,
    /// First version to show; [`Version::ZERO`] means the first, or the last when backwards.
    pub from: Version,
    /// Newest first.
    pub is_backwards: bool,
    /// Most events to show.
    pub limit: u64,
}

/// Part of a collection's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The collection.
    pub collection: Collection,
    /// Beginning of the keys.
    pub prefix: String,
    /// Only keys after this one; empty means from the first.
    pub after: String,
    /// Most keys to return.
    pub limit: usize,
}

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
    coordinator: Arc<dyn Coordinator>,
    seats: Vec<SeatHandle>,
    marks: Arc<Marks>,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    in_flight: Arc<Semaphore>,
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
    shared: Arc<Shared>,
}

/// An append that was handed to its seat.
#[derive(Debug)]
pub struct PendingAppend {
    outcome: oneshot::Receiver<Result<Outcome, NodeError>>,
    seat: SeatId,
    name: KeyName,
    expect: Expectation,
    event_ids: Vec<EventId>,
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

    /// Appends events to one key: all or none. Returns where each was stored, once they are durable.
    ///
    /// **Cancel safety**: dropping the future does not take the append back.
    ///
    /// # Errors
    /// [`NodeError`]; its reason says whether anything happened.
    pub async fn append(&self, append: Append) -> Result<Vec<Stored>, NodeError> {
        let permit = Arc::clone(&self.shared.in_flight)
            .try_acquire_many_owned(weight(&append))
            .map_err(|_full| NodeError::Overloaded("the budget of bytes in flight"))?;
        let (seat, command, pending) = self.prepare(append, permit);
        seat.commands
            .try_send(command)
            .map_err(|error| not_taken(&error))?;
        pending.stored().await
    }

    /// Hands an append to its seat, waiting for a place in its queue. Appends of one key that are submitted one
    /// after the other are decided in that order.
    ///
    /// # Errors
    /// [`NodeError`]; nothing happened.
    pub async fn submit(&self, append: Append) -> Result<PendingAppend, NodeError> {
        let permit = Arc::clone(&self.shared.in_flight)
            .acquire_many_owned(weight(&append))
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        let (seat, command, pending) = self.prepare(append, permit);
        seat.commands
            .send(command)
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        Ok(pending)
    }

    fn prepare(&self, append: Append, permit: OwnedSemaphorePermit) -> (&SeatHandle, Command, PendingAppend) {
        let seat = self.seat_of(append.name.slot());
        let (reply, outcome) = oneshot::channel();
        let pending = PendingAppend {
            outcome,
            seat: seat.id,
            name: append.name.clone(),
            expect: append.expect,
            event_ids: append.events.iter().map(|event| event.event_id).collect(),
        };
        (
            seat,
            Command::Append(AppendCommand {
                append,
                reply,
                permit,
            }),
            pending,
        )
    }

    /// Reads the latest event of a key.
    ///
    /// # Errors
    /// [`NodeError::KeyNotFound`], [`NodeError::SeqAhead`], a refusal of the seat, or [`NodeError::Storage`].
    pub async fn read(&self, name: &KeyName, at: At) -> Result<Found, NodeError> {
        let seat = self.seat_of(name.slot());
        let as_of = self.catch_up(seat, at).await?;
        let located = match at {
            At::Latest | At::Local => seat.index.latest(name)?,
            At::Seq(seq) => seat.index.at_or_before(name, seq)?,
        };
        let not_found = |current| NodeError::KeyNotFound {
            name: name.clone(),
            current,
        };
        let located = located.ok_or_else(|| not_found(KeyState::default()))?;
        let events = read_events(&seat.log, located.index)?;
        let encoded = pick(&seat.log, &events, located)?;
        // An event of a large append must not keep all of it in memory for as long as the client takes to read.
        let encoded = Bytes::copy_from_slice(encoded);
        let event = decode(&seat.log, located, encoded.clone())?;
        if event.kind == EventKind::Delete {
            let state = KeyState {
                version: event.version,
                seq: event.seq,
                is_deleted: true,
            };
            return Err(not_found(state));
        }
        Ok(Found {
            encoded,
            as_of: as_of.max(event.seq),
        })
    }

    /// Reads events of a key in the order of their versions, page by page.
    ///
    /// # Errors
    /// [`NodeError::KeyNotFound`] when it was never written, a refusal of the seat, or [`NodeError::Storage`].
    pub async fn history(&self, range: HistoryRange, at: At) -> Result<HistoryPages, NodeError> {
        let seat = self.seat_of(range.name.slot());
        self.catch_up(seat, at).await?;
        if seat.index.latest(&range.name)?.is_none() {
            return Err(NodeError::KeyNotFound {
                name: range.name,
                current: KeyState::default(),
            });
        }
        Ok(HistoryPages::new(
            Arc::clone(&seat.index),
            seat.log.clone(),
            range,
        ))
    }

    /// Lists keys in byte order, with where they stand; deleted ones too.
    ///
    /// # Errors
    /// A refusal of a seat, or [`NodeError::Storage`].
    pub async fn keys(&self, range: KeyRange, at: At) -> Result<Vec<(Key, KeyState)>, NodeError> {
        let after = (!range.after.is_empty()).then_some(range.after.as_str());
        let mut keys = Vec::new();
        for seat in &self.shared.seats {
            self.catch_up(seat, at).await?;
            let listed = seat
                .index
                .keys(&range.collection, &range.prefix, after, range.limit)?;
            keys.extend(
                listed
                    .into_iter()
                    .map(|key| (key.name.key, state_of(key.standing))),
            );
        }
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        keys.truncate(range.limit);
        Ok(keys)
    }

    /// Waits until the seat's index shows what `at` asks for; returns how far the answer is complete.
    async fn catch_up(&self, seat: &SeatHandle, at: At) -> Result<Seq, NodeError> {
        let resolved = seat.view.borrow().resolved;
        let (index, as_of) = match at {
            At::Local => (self.shared.marks.committed(seat.position), resolved),
            At::Latest => (self.confirm(seat).await?, resolved),
            At::Seq(seq) => {
                self.resolved_up_to(seq).await?;
                (self.shared.marks.committed(seat.position), seq)
            }
        };
        let mut applied = seat.applied.clone();
        applied
            .wait_for(|applied| *applied >= index)
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        Ok(as_of)
    }

    /// Waits for the database to be resolved up to `seq`, when that was handed out: whoever was just told a seq may
    /// ask for it before the mark has followed.
    async fn resolved_up_to(&self, seq: Seq) -> Result<(), NodeError> {
        let ahead = || NodeError::SeqAhead {
            seq,
            resolved: self.shared.marks.resolved(),
        };
        if seq > self.shared.marks.resolved() && seq > *self.shared.coordinator.counter().borrow() {
            return Err(ahead());
        }
        let mut mark = self.shared.marks.watch();
        let waited = tokio::select! {
            waited = clock::within(RESOLVE_WAIT, mark.wait_for(|mark| *mark >= seq)) => waited,
            () = self.shared.tasks.stopping() => return Err(NodeError::ShuttingDown),
        };
        waited
            .ok_or_else(ahead)?
            .map(drop)
            .map_err(|_closed| NodeError::ShuttingDown)
    }

    /// Asks the seat's leader up to which entry a linearizable read must see.
    async fn confirm(&self, seat: &SeatHandle) -> Result<LogIndex, NodeError> {
        let (reply, confirmed) = oneshot::channel();
        seat.commands
            .try_send(Command::Read(reply))
            .map_err(|error| not_taken(&error))?;
        confirmed.await.map_err(|_gone| NodeError::ShuttingDown)?
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

    /// Slot ranges, first and last, with the seats that lead them.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, Slot, SeatId)> {
        let seats = &self.shared.seats;
        seats.iter().enumerate().map(|(position, seat)| {
            let first = first_slot(position, seats.len());
            let next = first_slot(position.saturating_add(1), seats.len());
            (Slot(first), Slot(next.saturating_sub(1)), seat.id)
        })
    }

    #[expect(
        clippy::expect_used,
        reason = "seats are made from at least one group, and slots are below SLOTS"
    )]
    fn seat_of(&self, slot: Slot) -> &SeatHandle {
        let seats = &self.shared.seats;
        let owns = |position: usize| slot.0 < first_slot(position.saturating_add(1), seats.len());
        let owner = seats.iter().enumerate().find(|(position, _)| owns(*position));
        owner
            .map(|(_, seat)| seat)
            .expect("the last seat's range ends at SLOTS")
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

/// First slot of the seat at this position, when `seats` share all slots evenly.
fn first_slot(position: usize, seats: usize) -> u16 {
    let slot = position
        .saturating_mul(usize::from(SLOTS))
        .checked_div(seats)
        .unwrap_or_default();
    u16::try_from(slot).unwrap_or(SLOTS)
}

/// An IPv6 address stands in brackets before a port.
fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn not_taken(error: &mpsc::error::TrySendError<Command>) -> NodeError {
    match error {
        mpsc::error::TrySendError::Full(_) => NodeError::Overloaded("the queue of the key's seat"),
        mpsc::error::TrySendError::Closed(_) => NodeError::ShuttingDown,
    }
}

fn weight(append: &Append) -> u32 {
    u32::try_from(append.body_bytes().min(IN_FLIGHT_BYTES_MAX)).unwrap_or(u32::MAX)
}

const fn state_of(standing: Standing) -> KeyState {
    KeyState {
        version: standing.version,
        seq: standing.seq,
        is_deleted: standing.is_deleted,
    }
}

/// The events of an entry, still encoded; they share the entry's memory.
pub(super) fn read_events(log: &LogReader, index: LogIndex) -> Result<Vec<Bytes>, StorageError> {
    let frame = log.entry(index)?;
    event::split_batch(frame.body).map_err(|error| log.damaged_body(index, &error))
}

/// The one of them that the index names.
pub(super) fn pick<'a>(
    log: &LogReader,
    events: &'a [Bytes],
    located: Located,
) -> Result<&'a Bytes, StorageError> {
    let position = usize::try_from(located.position).unwrap_or(usize::MAX);
    let missing = event::EventError::Batch("the index names an event that the entry does not hold");
    events
        .get(position)
        .ok_or_else(|| log.damaged_body(located.index, &missing))
}

fn decode(log: &LogReader, located: Located, encoded: Bytes) -> Result<Event, StorageError> {
    Event::decode(encoded).map_err(|error| log.damaged_body(located.index, &error))
}

impl PendingAppend {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`NodeError`]; its reason says whether anything happened.
    pub async fn stored(self) -> Result<Vec<Stored>, NodeError> {
        let first_id = self.event_ids.first().copied().ok_or(NodeError::ShuttingDown)?;
        // The seat's task ends without an answer only when the process ends.
        let outcome = self
            .outcome
            .await
            .map_err(|_gone| NodeError::Unknown(first_id))??;
        match outcome {
            Outcome::Written(written) => Ok(self
                .event_ids
                .iter()
                .zip(0..)
                .map(|(&event_id, n)| Stored {
                    seq: written.first_seq.plus(n),
                    version: written.first_version.plus(n),
                    event_id,
                    is_duplicate: false,
                })
                .collect()),
            Outcome::Duplicate(known) => Ok(known
                .into_iter()
                .map(|known| Stored {
                    seq: known.seq,
                    version: known.version,
                    event_id: known.event_id,
                    is_duplicate: true,
                })
                .collect()),
            Outcome::Conflict(current) => Err(NodeError::Conflict {
                name: self.name,
                expect: self.expect,
                current,
            }),
            Outcome::EventIdReused(id) => Err(NodeError::EventIdReused(id)),
            Outcome::RetryTooOld(id) => Err(NodeError::RetryTooOld(id)),
            Outcome::Refused(refusal) => Err(NodeError::Refused {
                seat: self.seat,
                refusal,
            }),
            Outcome::Unknown => Err(NodeError::Unknown(first_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_seat_whatever_their_number() {
        for seats in [2, 4, 6, 14, 128] {
            assert_eq!(first_slot(0, seats), 0);
            assert_eq!(first_slot(seats, seats), SLOTS);
            for position in 0..seats {
                assert!(first_slot(position, seats) < first_slot(position + 1, seats));
            }
        }
    }
}
