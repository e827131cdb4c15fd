//! The driver of the guard ([`crate::protocol::Guard`]): whether this node may take numbers from etcd, which may have
//! been restored to an older state (DESIGN 6.5).
//!
//! ```text
//! a session with etcd ──► Connected ──► guard ──► AskSeen ──► transport, other nodes ──► PeerSeen ─┐
//!   over one connection    (its keys)     ▲  ├──► ReadState, Begin ──► session ──► State ──────────┤
//!                                         │  └──► open: numbers over this session                  │
//!   the session ends ──► Disconnected ────┴────────────────────────────────────────────────────────┘
//! ```
//! What the node has seen goes to its disk each second while it changes, and to every node that asks, with all that its
//! logs hold at that moment. Promises are on disk before they are told anyway, with the log that they belong to.

mod memory;

pub(super) use memory::Memory;
pub use memory::MemoryError;

use super::members::Members;
use crate::blocking;
use crate::clock::{self, BackOff};
use crate::coordination::etcd::{EtcdCoordinator, Session};
use crate::coordination::{CoordinationError, Coordinator as _, Progress, Restart};
use crate::limits::{
    ETCD_RETRY_MAX, ETCD_RETRY_MIN, GUARD_TOLD_AFTER, SEEN_QUESTIONS_MAX, SEEN_WRITTEN_EVERY,
};
use crate::protocol::{Guard, GuardEffect, GuardInput, NewGeneration, QuestionId, Seen, Tick};
use crate::storage::StorageError;
use crate::transport::SeenAsked;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rdb_proto::types::{Membership, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// What came of something that the guard, or its driver, began.
#[derive(Debug)]
enum Done {
    /// With the pause before the next one, should this one not serve.
    Connected(BackOff, Result<(Session, Progress), CoordinationError>),
    /// The session of this number.
    Ended(u64),
    Told(NodeId, QuestionId, Option<Seen>),
    Read(QuestionId, Result<Progress, CoordinationError>),
    Written(Memory, Result<(), StorageError>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct GuardDriver {
    guard: Guard,
    coordinator: Arc<EtcdCoordinator>,
    members: Arc<Members>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Questions that are under way.
    asked: BTreeSet<(NodeId, QuestionId)>,
    session: Option<Session>,
    /// How many sessions there were.
    sessions: u64,
    back_off: BackOff,
    /// The generation that numbers may be taken of now.
    open: Option<u64>,
    closed_since: Instant,
    is_putting_right: bool,
    /// What is on disk, and since when; `None` while it is being written.
    written: Option<Seen>,
    written_at: Instant,
    is_disk_complained_of: bool,
    started: Instant,
}

impl GuardDriver {
    /// Closed, with what the disk remembers. From now on no numbers are taken but over sessions that the guard opens.
    pub(super) fn new(coordinator: Arc<EtcdCoordinator>, members: Arc<Members>, seen: Seen) -> Self {
        coordinator.guard();
        let writes = members.tuning.writes();
        // Names of another start of the node are never met again.
        let first = QuestionId(clock::random_u64() >> 1);
        let now = clock::monotonic();
        Self {
            guard: Guard::new(coordinator.node_id(), writes, seen.clone(), first),
            coordinator,
            members,
            work: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            session: None,
            sessions: 0,
            back_off: BackOff::new(ETCD_RETRY_MIN, ETCD_RETRY_MAX),
            open: None,
            closed_since: now,
            is_putting_right: false,
            written: Some(seen),
            written_at: now,
            is_disk_complained_of: false,
            started: now,
        }
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let (questions, mut asked) = mpsc::channel::<SeenAsked>(SEEN_QUESTIONS_MAX);
        self.members.rooms.transport.answer_seen(questions);
        let stopping = self.members.stopping();
        let mut ticks = clock::ticks(self.members.tuning.heartbeat());
        let mut view = self.coordinator.view();
        tokio::pin!(stopping);
        self.learn();
        self.connect();
        loop {
            tokio::select! {
                () = &mut stopping => break,
                Some(done) = self.work.next() => self.on_done(done),
                Some(reply) = asked.recv() => {
                    self.learn();
                    // Who asked may be gone.
                    drop(reply.send(self.guard.seen().clone()));
                }
                Ok(()) = view.changed() => self.learn(),
                _ = ticks.tick() => self.tick(),
            }
        }
        self.learn();
        let members = Arc::clone(&self.members);
        let memory = self.memory();
        let writing = blocking::run(move || memory.write(&members.rooms.data_dir));
        // A join error means a panic there, which has ended the process.
        if let Ok(Err(error)) = writing.await {
            tracing::warn!(%error, "what this node has seen of etcd is not on disk");
        }
    }

    fn tick(&mut self) {
        self.learn();
        self.step(GuardInput::Tick);
        self.write();
        self.tell();
    }

    /// Applies an input, performs what comes of it, and lets numbers be taken, or not.
    fn step(&mut self, input: GuardInput) {
        let since_start = clock::monotonic().saturating_duration_since(self.started);
        let now = Tick(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX));
        let mut effects = Vec::new();
        self.guard.step(now, input, &mut effects);
        for effect in effects {
            tracing::trace!(%effect, "guard");
            self.perform(effect);
        }
        self.open_or_close();
    }

    fn perform(&mut self, effect: GuardEffect) {
        match effect {
            GuardEffect::AskSeen { to, question } => {
                if self.asked.insert((to, question)) {
                    let asking = self.members.rooms.transport.ask_seen(to);
                    self.work
                        .push(Box::pin(async move { Done::Told(to, question, asking.await) }));
                }
            }
            GuardEffect::ReadState { question } => self.read(question, None),
            GuardEffect::Begin { question, new } => {
                self.is_putting_right = true;
                tracing::warn!(
                    generation = new.generation,
                    counter = %new.counter,
                    "etcd went back to an older state than its nodes have seen; putting it right: seqs go on far above \
                     all that were given, and some are never used"
                );
                self.read(question, Some(restart_of(new)));
            }
            GuardEffect::WithoutGroups(groups) => {
                tracing::warn!(
                    ?groups,
                    "too few members of these groups tell what they have seen of etcd; going on without them. If etcd \
                     was restored from a backup, their numbers may be given again"
                );
            }
        }
    }

    /// Reads etcd's keys over the session, after putting them right if need be.
    fn read(&self, question: QuestionId, restart: Option<Restart>) {
        let Some(session) = self.session.clone() else {
            return;
        };
        self.work.push(Box::pin(async move {
            if let Some(restart) = restart
                && let Err(error) = session.restart(&restart).await
            {
                tracing::warn!(%error, "etcd could not be put right; trying again");
            }
            Done::Read(question, session.progress().await)
        }));
    }

    /// Begins the next session, after a pause when the last one did not serve.
    fn connect(&mut self) {
        let first = usize::try_from(self.sessions).unwrap_or_default();
        let is_first = self.sessions == 0;
        self.sessions = self.sessions.saturating_add(1);
        let coordinator = Arc::clone(&self.coordinator);
        let mut back_off = self.back_off;
        self.work.push(Box::pin(async move {
            if !is_first {
                back_off.wait().await;
            }
            let connected = async {
                let session = coordinator.begin_session(first).await?;
                let progress = session.progress().await?;
                Ok((session, progress))
            };
            Done::Connected(back_off, Box::pin(connected).await)
        }));
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Connected(back_off, Ok((session, progress))) => {
                self.back_off = back_off;
                let (number, ending) = (self.sessions, session.clone());
                self.session = Some(session);
                self.work.push(Box::pin(async move {
                    ending.ended().await;
                    Done::Ended(number)
                }));
                self.coordinator.close_numbers(true);
                self.step(GuardInput::Connected(seen_of(progress)));
            }
            Done::Connected(back_off, Err(error)) => {
                self.back_off = back_off;
                self.coordinator.close_numbers(false);
                self.coordinator.tell_numbers_problem(Some(error.to_string()));
                tracing::debug!(%error, "no session with etcd; trying again");
                self.connect();
            }
            Done::Ended(number) => {
                if number == self.sessions {
                    self.session = None;
                    self.step(GuardInput::Disconnected);
                    self.connect();
                }
            }
            Done::Told(from, question, seen) => {
                self.asked.remove(&(from, question));
                if let Some(seen) = seen {
                    self.step(GuardInput::PeerSeen { from, question, seen });
                }
            }
            Done::Read(question, read) => {
                if let Err(error) = &read {
                    tracing::debug!(%error, "etcd's keys cannot be read; trying again");
                }
                let state = read.ok().map(seen_of);
                self.step(GuardInput::State { question, state });
            }
            Done::Written(memory, result) => match result {
                Ok(()) => {
                    self.written = Some(memory.seen);
                    self.is_disk_complained_of = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_disk_complained_of, true) {
                        tracing::warn!(%error, "what this node has seen of etcd is not on disk; trying again");
                    }
                    self.written = Some(Seen::default());
                }
            },
        }
    }

    fn open_or_close(&mut self) {
        let may = self.guard.may_allocate().then(|| self.guard.generation());
        let session = self.session.as_ref().filter(|_| may.is_some());
        match (session, may) {
            (Some(session), Some(generation)) => {
                if self.open != Some(generation) {
                    session.open(generation);
                    self.open = Some(generation);
                    self.back_off.reset();
                    self.coordinator.tell_numbers_problem(None);
                    if std::mem::take(&mut self.is_putting_right) {
                        tracing::warn!(generation, "etcd is right again; writes go on");
                    } else {
                        tracing::info!(generation, "etcd is not behind what its nodes have seen");
                    }
                }
            }
            (None, _) | (_, None) => {
                if self.open.take().is_some() {
                    self.coordinator.close_numbers(true);
                    self.closed_since = clock::monotonic();
                }
            }
        }
    }

    /// Says why no numbers can be had, once that takes long.
    fn tell(&self) {
        let closed_for = clock::monotonic().saturating_duration_since(self.closed_since);
        if self.open.is_none() && self.session.is_some() && closed_for > GUARD_TOLD_AFTER {
            let why = "waiting for members of every group to tell what they have seen of etcd, before numbers are taken";
            self.coordinator.tell_numbers_problem(Some(why.to_owned()));
        }
    }

    /// Hands the guard what the node knows: of etcd, and what its members' logs hold.
    fn learn(&mut self) {
        let mut seen = seen_of(self.coordinator.progress());
        for (id, seat) in self.members.seats().borrow().iter() {
            let view = *seat.view.borrow();
            let mut one = Seen {
                counter: view.last_seq.max(view.resolved),
                ..Seen::default()
            };
            one.epochs.insert(*id, view.promised.number);
            let membership = Membership {
                number: view.config,
                ..Membership::default()
            };
            one.members.insert(id.group, membership);
            seen.merge(&one);
        }
        // Numbers that come by another node must be above what the node's own members know, too; and marks follow it.
        self.coordinator.saw_given(seen.counter);
        let mut known = self.guard.seen().clone();
        known.merge(&seen);
        if known != *self.guard.seen() {
            self.step(GuardInput::Learned(seen));
        }
    }

    fn memory(&self) -> Memory {
        Memory {
            node: self.coordinator.node_id(),
            seen: self.guard.seen().clone(),
        }
    }

    /// Writes what the node has seen, when that changed and the last write is a while ago.
    fn write(&mut self) {
        let is_due = clock::monotonic().saturating_duration_since(self.written_at) >= SEEN_WRITTEN_EVERY;
        let is_changed = self
            .written
            .as_ref()
            .is_some_and(|written| written != self.guard.seen());
        if !is_due || !is_changed {
            return;
        }
        self.written = None;
        self.written_at = clock::monotonic();
        let (memory, members) = (self.memory(), Arc::clone(&self.members));
        self.work.push(Box::pin(async move {
            let written = blocking::run(move || {
                let result = memory.write(&members.rooms.data_dir);
                Done::Written(memory, result)
            });
            // A join error means a panic there, which has ended the process.
            match written.await {
                Ok(done) => done,
                Err(_panic) => std::future::pending().await,
            }
        }));
    }
}

pub(super) fn seen_of(progress: Progress) -> Seen {
    let Progress {
        generation,
        revision,
        counter,
        time,
        epochs,
        members,
    } = progress;
    Seen {
        generation,
        revision,
        counter,
        time,
        epochs,
        members,
    }
}

pub(super) fn restart_of(new: NewGeneration) -> Restart {
    let NewGeneration {
        compares,
        as_of,
        generation,
        counter,
        time,
        epochs,
        members,
    } = new;
    Restart {
        compares,
        as_of,
        to: Progress {
            generation,
            revision: 0,
            counter,
            time,
            epochs,
            members,
        },
    }
}
