//! The loop around one seat: input, step, perform. One task owns the state machine; all others send it messages.
//!
//! | file | decides |
//! |---|---|
//! | `asking` | what is asked of the coordinator and the disk, and which input each answer is |
//! | `mail` | what other members' messages may cost |
//! | `proposing` | how a client's request becomes a proposal |
//! | `seats_view` | what of the coordinator's view concerns the seat |
//! | `waits` | where appends wait on their way, for the metrics |

mod asking;
mod mail;
mod proposing;
mod seats_view;
mod waits;

use super::Append;
use super::error::NodeError;
use super::indexer::{Committed, Indexer};
use super::status::{SeatState, SeatView};
use super::telemetry::Telemetry;
use crate::blocking;
use crate::cdc::Marks;
use crate::clock;
use crate::coordination::Coordinator;
use crate::fatal::{self, Report};
use crate::limits::{INDEX_LAG_BYTES_MAX, INDEX_LAG_ENTRIES_MAX, PERSISTING_MAX, SEAT_BATCH_MAX};
use crate::protocol::{Effect, Input, Outcome, PersistTicket, ProposalId, ReadId, RoleName, Seat, Tick};
use crate::storage::{Admission, KeyIndex, SeatLog, Ticket};
use crate::transport::{SeatMail, Transport};
use asking::Asking;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rdb_proto::cursor::CursorChange;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, LogIndex, NodeId, SeatId, Seq};
use seats_view::Told;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use waits::Waits;

/// What a client's request asks of a seat.
#[derive(Debug)]
pub(super) enum Command {
    /// Append events.
    Append(AppendCommand),
    /// Confirm that a read may be answered once the index has applied the entry that comes back.
    Read(oneshot::Sender<Result<LogIndex, NodeError>>),
    /// Append a change of a named subscription.
    ChangeCursor {
        /// The change.
        change: Arc<CursorChange>,
        /// Told what came of it.
        reply: oneshot::Sender<Result<Outcome, NodeError>>,
    },
    /// Give the seat to this node, or to the member that is best for it.
    HandOver(Option<NodeId>),
}

/// An append on its way through the seat.
#[derive(Debug)]
pub(super) struct AppendCommand {
    pub(super) append: Append,
    pub(super) arrived: Instant,
    pub(super) reply: oneshot::Sender<Result<Outcome, NodeError>>,
    /// Its part of the node's budget of bytes in flight. It goes with the work and not with who waits for it: a
    /// client that goes away leaves its request behind.
    pub(super) permit: OwnedSemaphorePermit,
}

/// What a driver is built from.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) id: SeatId,
    /// Position of the seat in `marks`.
    pub(super) position: usize,
    pub(super) seat: Seat,
    pub(super) log: SeatLog,
    pub(super) log_progress: watch::Receiver<LogProgress>,
    pub(super) index: Arc<dyn KeyIndex>,
    pub(super) indexer: Indexer,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) marks: Arc<Marks>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) data_dir: PathBuf,
    pub(super) transport: Transport,
    /// What other members say.
    pub(super) mail: mpsc::Receiver<SeatMail>,
    /// `HEARTBEAT_INTERVAL`.
    pub(super) heartbeat: Duration,
}

/// What the seat's log has reported. Each report covers those before it, so the latest of each kind is enough, and
/// telling it never blocks the log's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LogProgress {
    pub(super) persisted: Option<Ticket>,
    /// How many promises are durable: the same epoch is promised again when a higher membership is seen.
    pub(super) promises: u64,
    /// How often the room in the log changed.
    pub(super) room_changes: u64,
}

/// An append that was proposed and is not answered yet.
#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<Outcome, NodeError>>,
    /// Room in the log, kept until the answer.
    _admission: Admission,
    _permit: Option<OwnedSemaphorePermit>,
}

/// How far other members, and learners, have the log, as the leader knew it at the last heartbeat.
pub(super) type Progress = Vec<(NodeId, LogIndex)>;

/// See the module.
#[derive(Debug)]
pub(super) struct SeatDriver {
    parts: Parts,
    view: watch::Sender<SeatView>,
    progress: watch::Sender<Progress>,
    started: Instant,
    log_seen: LogProgress,
    effects: Vec<Effect>,
    inputs: VecDeque<Input>,
    asking: FuturesUnordered<Asking>,
    appends: BTreeMap<ProposalId, Waiting>,
    reads: BTreeMap<ReadId, oneshot::Sender<Result<LogIndex, NodeError>>>,
    waits: Waits,
    next_name: u64,
    /// Last seq of each change of the log that is not durable yet.
    persisting: VecDeque<(PersistTicket, Seq)>,
    /// Committed entries that the index has not applied, with their bytes.
    unindexed: VecDeque<(LogIndex, usize)>,
    unindexed_bytes: usize,
    /// Taken from the queue, and waiting for the log to claim disk.
    stalled: VecDeque<AppendCommand>,
    is_room_awaited: bool,
    /// Bytes that the full disk refused last; `None` when it is not full.
    refused_bytes: Option<u64>,
    /// Members' messages with entries, which wait for the log or the index.
    stalled_mail: VecDeque<SeatMail>,
    /// Promises that the log was asked to make durable, and the last of them. Only that one may be told: an earlier one
    /// may lack a membership that was seen since.
    promises_asked: u64,
    promise_asked: Option<Epoch>,
    /// Seats that are being given up.
    giving_up: usize,
    /// What the core was told of the coordinator's view.
    told: Told,
    /// Whether the coordinator's last answer was an error.
    is_complaining: bool,
}

impl SeatDriver {
    /// Makes the driver and the views of it that others follow.
    pub(super) fn new(parts: Parts) -> (Self, watch::Receiver<SeatView>, watch::Receiver<Progress>) {
        let view = watch::Sender::new(view_of(&parts.seat, LogIndex::ZERO, false));
        let progress = watch::Sender::new(Progress::new());
        let follow = (view.subscribe(), progress.subscribe());
        let driver = Self {
            waits: Waits::new(Arc::clone(&parts.telemetry)),
            parts,
            view,
            progress,
            started: clock::monotonic(),
            log_seen: LogProgress::default(),
            effects: Vec::new(),
            inputs: VecDeque::new(),
            asking: FuturesUnordered::new(),
            appends: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_name: 0,
            persisting: VecDeque::new(),
            unindexed: VecDeque::new(),
            unindexed_bytes: 0,
            stalled: VecDeque::new(),
            is_room_awaited: false,
            refused_bytes: None,
            stalled_mail: VecDeque::new(),
            promises_asked: 0,
            promise_asked: None,
            giving_up: 0,
            told: Told::default(),
            is_complaining: false,
        };
        (driver, follow.0, follow.1)
    }

    /// Drives the seat until `draining`, then answers what it has taken and closes the log.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        draining: impl Future<Output = ()> + Send,
    ) {
        // What is known to be committed from before is indexed now, and not only once more is committed.
        self.parts.indexer.hand_over(Committed {
            upto: self.parts.seat.commit(),
            entries: Vec::new(),
        });
        let mut applied = self.parts.indexer.applied();
        let mut counter = self.parts.coordinator.counter();
        let mut coordinator = self.parts.coordinator.view();
        let mut ticks = clock::ticks(self.parts.heartbeat);
        let mut taken = Vec::with_capacity(SEAT_BATCH_MAX);
        let (mut is_draining, mut is_closed) = (false, false);
        tokio::pin!(draining);
        self.inputs
            .push_back(Input::CounterObserved(*counter.borrow_and_update()));
        self.on_view(&Arc::clone(&coordinator.borrow_and_update()));
        loop {
            self.step_all();
            self.publish();
            if is_draining && is_closed && self.is_idle() {
                break;
            }
            let may_take = self.may_take();
            if may_take && self.take_stalled() {
                continue;
            }
            tokio::select! {
                biased;
                Ok(()) = self.parts.log_progress.changed() => self.on_log_progress(),
                Some(answer) = self.asking.next() => self.on_answer(answer),
                Ok(()) = applied.changed() => {
                    let index = *applied.borrow_and_update();
                    self.on_indexed(index);
                }
                Ok(()) = coordinator.changed() => {
                    self.on_view(&Arc::clone(&coordinator.borrow_and_update()));
                }
                // Before members' messages, so that a flood of them cannot keep the leader from its heartbeats.
                _ = ticks.tick() => self.tick(),
                Some(mail) = self.parts.mail.recv() => self.on_mail(mail),
                Ok(()) = counter.changed() => {
                    self.inputs.push_back(Input::CounterObserved(*counter.borrow_and_update()));
                }
                count = commands.recv_many(&mut taken, SEAT_BATCH_MAX), if may_take && !is_closed => {
                    is_closed = count == 0;
                    self.take(taken.drain(..));
                }
                () = &mut draining, if !is_draining => {
                    is_draining = true;
                    commands.close();
                }
            }
        }
        let Parts { log, indexer, .. } = self.parts;
        // Both wait for threads. A join error means a panic there, which has ended the process.
        drop(blocking::run(move || (indexer.finish(), log.close())).await);
    }

    /// Whether everything that was taken is answered.
    fn is_idle(&self) -> bool {
        self.appends.is_empty() && self.reads.is_empty() && self.stalled.is_empty() && self.giving_up == 0
    }

    /// Whether more can be decided: the index is near enough to the log, and the log to its disk (so that handing
    /// a change over never blocks).
    fn may_take(&self) -> bool {
        let lag = u64::try_from(self.unindexed.len()).unwrap_or(u64::MAX);
        lag < INDEX_LAG_ENTRIES_MAX
            && self.unindexed_bytes < INDEX_LAG_BYTES_MAX
            && self.persisting.len() < PERSISTING_MAX
            && !self.is_room_awaited
    }

    fn tick(&mut self) {
        self.inputs.push_back(Input::Tick);
        self.teach();
        self.spread_seats();
        self.report_change();
        self.progress.send_replace(self.parts.seat.matched());
        // A node that is not ready gets no writes, so no write would find out that there is space again.
        if self
            .refused_bytes
            .is_some_and(|bytes| self.parts.log.admit(bytes).is_ok())
        {
            self.refused_bytes = None;
        }
    }

    fn on_log_progress(&mut self) {
        let before = self.log_seen;
        let now = *self.parts.log_progress.borrow_and_update();
        self.log_seen = now;
        if now.promises != before.promises
            && now.promises == self.promises_asked
            && let Some(epoch) = self.promise_asked
        {
            self.inputs.push_back(Input::PromisePersisted(epoch));
        }
        if let Some(Ticket(ticket)) = now.persisted.filter(|_| now.persisted != before.persisted) {
            let ticket = PersistTicket(ticket);
            while let Some((_, seq)) = self.persisting.pop_front_if(|(waiting, _)| *waiting <= ticket) {
                self.parts.coordinator.note_durable(seq);
            }
            self.waits.durable(ticket, clock::monotonic());
            self.inputs.push_back(Input::Persisted(ticket));
        }
        if now.room_changes != before.room_changes {
            self.is_room_awaited = false;
        }
    }

    fn on_indexed(&mut self, index: LogIndex) {
        while let Some((_, bytes)) = self.unindexed.pop_front_if(|(waiting, _)| *waiting <= index) {
            self.unindexed_bytes = self.unindexed_bytes.saturating_sub(bytes);
        }
        self.inputs.push_back(Input::Indexed(index));
    }

    const fn name(&mut self) -> u64 {
        self.next_name = self.next_name.wrapping_add(1);
        self.next_name
    }

    /// Steps through every input that waits, and those that performing the effects brings.
    fn step_all(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            tracing::trace!(seat = %self.parts.id, %input);
            let since_start = clock::monotonic().saturating_duration_since(self.started);
            let now = Tick(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX));
            let mut effects = std::mem::take(&mut self.effects);
            self.parts.seat.step(now, input, &mut effects);
            for effect in effects.drain(..) {
                tracing::trace!(seat = %self.parts.id, %effect);
                self.perform(effect);
            }
            self.effects = effects;
        }
        if self.parts.seat.role() != RoleName::Leader {
            self.waits.forget();
        } else if self.parts.seat.waiting_events() == 0 {
            self.waits.none_waits();
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::EpochTooLow { epoch, promised } => self.raise(epoch, promised),
            Effect::Campaign { above, revision } => self.campaign(above, revision),
            Effect::GiveUp { epoch, successor } => self.give_up(epoch, successor),
            Effect::Send { to, message } => self.parts.transport.send(to, self.parts.id, message),
            Effect::ReadLog {
                read,
                first,
                last,
                bytes_max,
            } => self.read_log(read, (first, last), bytes_max),
            Effect::PersistPromise(epoch) => self.promise(epoch),
            Effect::Persist {
                ticket,
                truncate_from,
                entries,
            } => {
                let last_seq = entries.iter().rev().find_map(|entry| entry.seqs());
                if let Some(last) = entries.last().filter(|_| last_seq.is_some()) {
                    self.waits.handed_over(ticket, last.index, clock::monotonic());
                }
                self.persisting
                    .push_back((ticket, last_seq.map_or(Seq::ZERO, |(_, last)| last)));
                self.parts.log.persist(Ticket(ticket.0), truncate_from, entries);
            }
            Effect::Allocate { request, count } => self.allocate(request, count),
            Effect::Reply { proposal, outcome } => {
                if let Some(waiting) = self.appends.remove(&proposal) {
                    answer(waiting.reply, Ok(outcome));
                }
            }
            Effect::ReadConfirmed { read, index } => {
                if let Some(reply) = self.reads.remove(&read) {
                    answer(reply, Ok(index));
                }
            }
            Effect::ReadRefused { read, refusal } => {
                if let Some(reply) = self.reads.remove(&read) {
                    answer(
                        reply,
                        Err(NodeError::Refused {
                            seat: self.parts.id,
                            refusal,
                        }),
                    );
                }
            }
            Effect::Committed { index, entries } => self.commit(index, entries),
            Effect::Repaired => {
                tracing::info!(seat = %self.parts.id, "the log is whole again");
                self.parts.log.forget_loss();
            }
            Effect::Resolved { mark, commit } => {
                // The commit first: whoever sees the mark must find every entry that it rests on.
                self.parts.marks.commit(self.parts.position, commit);
                self.parts.marks.resolve(self.parts.position, mark);
            }
        }
    }

    /// The promise, and the highest membership that was seen: an election won later must know that one.
    fn promise(&mut self, epoch: Epoch) {
        let Ok(config) = u32::try_from(self.parts.seat.config()) else {
            fatal::invariant(&Report {
                what: &"the members changed more often than can be written down",
                place: &self.parts.id,
                safe: "every acknowledged event is on disk",
                next: "please report this",
            })
        };
        self.promises_asked = self.promises_asked.saturating_add(1);
        self.promise_asked = Some(epoch);
        self.parts.log.promise(epoch, config);
    }

    fn commit(&mut self, index: LogIndex, entries: Vec<Arc<Entry>>) {
        self.parts.marks.commit(self.parts.position, index);
        self.parts.log.note_commit(index);
        self.waits.committed(index, clock::monotonic());
        let is_leader = matches!(self.parts.seat.role(), RoleName::Leader | RoleName::Recovering);
        let mut events = 0;
        for entry in &entries {
            let bytes = entry.body_bytes();
            self.unindexed.push_back((entry.index, bytes));
            self.unindexed_bytes = self.unindexed_bytes.saturating_add(bytes);
            if let EntryBody::Events(stored) = &entry.body
                && is_leader
            {
                events += stored.count();
            }
        }
        self.parts.telemetry.events_committed.inc_by(events);
        self.parts.indexer.hand_over(Committed { upto: index, entries });
    }

    fn publish(&self) {
        let next = view_of(
            &self.parts.seat,
            self.parts.index.applied(),
            self.refused_bytes.is_some(),
        );
        self.view.send_if_modified(|view| {
            let is_new_state = view.state != next.state;
            let is_new_leader = (view.leader, view.epoch) != (next.leader, next.epoch);
            if is_new_state {
                tracing::info!(seat = %self.parts.id, epoch = %next.epoch, "seat is {}", next.state.as_str());
            }
            *view = next;
            // Those who wait, wait for a state or a leader; numbers are only looked at.
            is_new_state || is_new_leader
        });
    }
}

/// A client that has gone does not need to be told.
fn answer<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}

fn view_of(seat: &Seat, indexed_index: LogIndex, is_disk_full: bool) -> SeatView {
    let leader = seat.leader();
    SeatView {
        state: match seat.role() {
            RoleName::Leader => SeatState::Leading,
            RoleName::Candidate | RoleName::Recovering => SeatState::Recovering,
            RoleName::Follower if seat.is_damaged() => SeatState::Damaged,
            RoleName::Follower if leader.is_some() => SeatState::Following,
            RoleName::Follower => SeatState::Vacant,
        },
        leader: leader.map(|(node, _)| node),
        epoch: leader.map_or_else(|| seat.promised(), |(_, epoch)| epoch),
        promised: seat.promised(),
        last_index: seat.log_end().index,
        commit_index: seat.commit(),
        indexed_index,
        last_seq: seat.last_seq(),
        resolved: seat.mark().seq,
        hold: seat.hold(),
        config: seat.config().max(seat.membership().number),
        is_disk_full,
    }
}
