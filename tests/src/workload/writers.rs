//! Clients that write, read and delete under load until their node goes away, and go on at its next start.
//!
//! What was under way when the node went away is not known. At the next start a writer repeats some of it with the
//! same event ids, as the contract says that it may, and leaves the rest unknown for the checkers to judge.

use super::{History, Observation, Operation, Placed, Sent, Tick, Ticks, Told};
use crate::random::Random;
use crate::time::{pause, soon};
use crate::wire::{Api, AppendAnswers, EachAnswers, Refusal};
use bytes::Bytes;
use rdb_proto::convert::expectation_to_wire;
use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::reason::{Happened, Reason};
use rdb_proto::types::{EventId, Version};
use rdb_proto::v1;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How a writer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One request at a time: writes, appends, deletes and reads.
    OneByOne,
    /// Reads of the shared keys, one at a time, and nothing else.
    Reading,
    /// Appends on one stream, this many under way, answered in their order.
    Pipelined(usize),
    /// The same, answered as they come out.
    Each(usize),
}

/// A stream of appends, and its answers.
enum Line {
    InOrder(mpsc::Sender<v1::AppendRequest>, AppendAnswers),
    Each(mpsc::Sender<v1::AppendEachRequest>, EachAnswers),
}

impl Line {
    async fn send(&self, operation: &Operation, since: Option<u64>) -> bool {
        let append = append_request(operation, since);
        match self {
            Self::InOrder(requests, _) => requests.send(append).await.is_ok(),
            Self::Each(requests, _) => {
                let number = number(operation);
                let append = Some(append);
                requests
                    .send(v1::AppendEachRequest { number, append })
                    .await
                    .is_ok()
            }
        }
    }

    /// The next answer, and the place of its request among those that are `open`.
    async fn next(
        &mut self,
        open: &VecDeque<Open>,
    ) -> Option<(usize, Result<Vec<v1::WriteResult>, Refusal>)> {
        match self {
            Self::InOrder(_, answers) => Some((0, answers.next().await.ok()??)),
            Self::Each(_, answers) => {
                let (told, answer) = answers.next().await.ok()??;
                let asked = open.iter().position(|open| number(&open.operation) == told);
                Some((asked.expect("an answer belongs to a request"), answer))
            }
        }
    }

    /// Nothing more is sent.
    fn close(&mut self) {
        match self {
            Self::InOrder(requests, _) => *requests = mpsc::channel(1).0,
            Self::Each(requests, _) => *requests = mpsc::channel(1).0,
        }
    }
}

/// The number of an append on its stream.
fn number(operation: &Operation) -> u64 {
    let id = operation.events.first().expect("an append has events").event_id;
    id.0.as_u64_pair().1
}

/// One client, over all starts of the node.
#[derive(Debug)]
pub struct Writer {
    name: String,
    style: Style,
    random: Random,
    ticks: Arc<Ticks>,
    shared_keys: u64,
    record: History,
    /// Outcome not known yet.
    open: VecDeque<Open>,
    /// Latest version that was told, per key.
    versions: HashMap<String, Version>,
    last_seq: u64,
    written: u64,
}

/// An operation whose outcome is not known yet.
#[derive(Debug)]
struct Open {
    operation: Operation,
    /// A seq that the database had reached before it was first sent.
    since: u64,
    /// An earlier attempt may have been stored: then only an answer that looked for the event settles it.
    is_retry: bool,
}

/// Largest number of events in one append of a writer.
const APPEND_EVENTS: u64 = 6;

/// Keys that the writers of a crew share.
const SHARED_KEYS: u64 = 3;

impl Writer {
    /// A client with its own keys, and with `shared_keys` that it shares with the others.
    pub fn new(name: &str, style: Style, shared_keys: u64, random: Random, ticks: &Arc<Ticks>) -> Self {
        Self {
            name: name.to_owned(),
            style,
            random,
            ticks: Arc::clone(ticks),
            shared_keys,
            record: History::default(),
            open: VecDeque::new(),
            versions: HashMap::new(),
            last_seq: 0,
            written: 0,
        }
    }

    /// The record so far: what is still open is unknown in it.
    pub fn record(&self) -> History {
        let mut record = self.record.clone();
        record
            .operations
            .extend(self.open.iter().map(|open| open.operation.clone()));
        record
    }

    /// Ends the record: what is still open stays unknown.
    pub fn into_record(mut self) -> History {
        let open = self.open.drain(..).map(|open| open.operation);
        self.record.operations.extend(open);
        self.record
    }

    async fn run(mut self, address: SocketAddr, control: Control) -> Self {
        if let Ok(mut api) = Api::try_connect(address).await {
            match self.style {
                Style::OneByOne | Style::Reading => Box::pin(self.one_by_one(api, &control)).await,
                Style::Pipelined(window) => {
                    if let Ok((requests, answers)) = api.append_stream(window).await {
                        let line = Line::InOrder(requests, answers);
                        Box::pin(self.streamed(line, window, &control)).await;
                    }
                }
                Style::Each(window) => {
                    if let Ok((requests, answers)) = api.append_each(window).await {
                        let line = Line::Each(requests, answers);
                        Box::pin(self.streamed(line, window, &control)).await;
                    }
                }
            }
        }
        self
    }

    /// Goes on at the next node whenever one does not answer, until it is told to stop.
    async fn run_everywhere(mut self, addresses: Vec<SocketAddr>, control: Control) -> Self {
        let mut turn = self.random.position(addresses.len());
        while !control.is_stopping() {
            let address = addresses[turn % addresses.len()];
            turn += 1;
            self = self.run(address, control.clone()).await;
            pause().await;
        }
        self
    }

    async fn one_by_one(&mut self, mut api: Api, control: &Control) {
        for mut open in std::mem::take(&mut self.open) {
            if self.random.one_in(3) {
                self.record.operations.push(open.operation);
            } else {
                open.is_retry = true;
                let answer = send(&mut api, &open.operation, Some(open.since)).await;
                self.close(open, answer, control);
            }
        }
        while self.open.is_empty() && !control.is_stopping() {
            if self.style == Style::Reading || self.random.one_in(8) {
                let key = self.key();
                let sent = self.ticks.next();
                let read = api.read(&key).await;
                if !self.observe(key, sent, read.map(|event| event.version)) {
                    return;
                }
            } else {
                let operation = self.operation();
                let answer = send(&mut api, &operation, None).await;
                if matches!(&answer, Ok(results) if results.iter().any(|result| result.duplicate)) {
                    panic!("a first attempt was answered as a duplicate: {operation:?}");
                }
                let is_refused = answer.as_ref().err().is_some_and(Refusal::is_unavailable);
                let open = Open {
                    operation,
                    since: self.last_seq,
                    is_retry: false,
                };
                self.close(open, answer, control);
                if is_refused {
                    return;
                }
            }
        }
    }

    async fn streamed(&mut self, mut line: Line, window: usize, control: &Control) {
        for open in &mut self.open {
            open.is_retry = true;
            if !line.send(&open.operation, Some(open.since)).await {
                return;
            }
        }
        loop {
            if control.is_stopping() {
                line.close();
            } else {
                self.fill(&line, window).await;
            }
            if self.open.is_empty() || !self.take(&mut line, control).await {
                return;
            }
        }
    }

    async fn fill(&mut self, line: &Line, window: usize) {
        while self.open.len() < window {
            let operation = self.append();
            let is_sent = line.send(&operation, None).await;
            self.open.push_back(Open {
                operation,
                since: self.last_seq,
                is_retry: false,
            });
            if !is_sent {
                return;
            }
        }
    }

    /// Takes the next answer; whether the stream goes on.
    async fn take(&mut self, line: &mut Line, control: &Control) -> bool {
        let Some((position, answer)) = line.next(&self.open).await else {
            return false;
        };
        let answered = self.open.remove(position);
        let answered = answered.expect("an answer belongs to a request");
        if answer.as_ref().err().is_some_and(Refusal::is_unavailable) {
            pause().await;
        }
        let open = self.open.len();
        self.close(answered, answer, control);
        self.open.len() == open
    }

    /// A key of its own, or one that is shared.
    fn key(&mut self) -> String {
        if self.style == Style::Reading || self.shared_keys > 0 && self.random.one_in(3) {
            format!("shared-{}", self.random.below(self.shared_keys))
        } else {
            format!("{}-{}", self.name, self.random.below(4))
        }
    }

    fn operation(&mut self) -> Operation {
        if !self.random.one_in(8) {
            return self.append();
        }
        let key = self.key();
        Operation {
            key,
            kind: EventKind::Delete,
            events: vec![self.event(String::new())],
            expect: Expectation::Exists,
            sent: self.ticks.next(),
            told: Told::Unknown,
        }
    }

    fn append(&mut self) -> Operation {
        let key = self.key();
        let count = if self.random.one_in(3) {
            1 + self.random.below(APPEND_EVENTS)
        } else {
            1
        };
        let events = (0..count).map(|_| self.write()).collect();
        let known = self.versions.get(&key).copied().unwrap_or_default();
        let expect = match self.random.below(8) {
            0..4 => Expectation::Any,
            4 | 5 => Expectation::Exact(known),
            6 => Expectation::Absent,
            _ => Expectation::Exists,
        };
        Operation {
            key,
            kind: EventKind::Write,
            events,
            expect,
            sent: self.ticks.next(),
            told: Told::Unknown,
        }
    }

    fn write(&mut self) -> Sent {
        self.written += 1;
        let padding = "x".repeat(self.random.position(300));
        let payload = format!("{} {} {padding}", self.name, self.written);
        self.event(payload)
    }

    fn event(&mut self, payload: String) -> Sent {
        Sent {
            event_id: EventId(self.random.uuid()),
            payload,
        }
    }

    /// Writes down what came of an operation; what is not known stays open.
    fn close(&mut self, mut open: Open, answer: Result<Vec<v1::WriteResult>, Refusal>, control: &Control) {
        let at = self.ticks.next();
        let operation = &mut open.operation;
        operation.told = match answer {
            Ok(results) => {
                let placed: Vec<Placed> = results.iter().map(Placed::from).collect();
                assert_eq!(placed.len(), operation.events.len(), "one place for each event");
                if let Some(last) = placed.last() {
                    self.versions.insert(operation.key.clone(), last.version);
                    self.last_seq = self.last_seq.max(last.seq.get());
                }
                control.acknowledged(results.len());
                Told::Acknowledged { at, placed }
            }
            // It says nothing of an earlier attempt that is still on its way.
            Err(refusal)
                if open.is_retry && !refusal.is_unavailable() && !settles(operation.expect, &refusal) =>
            {
                Told::Unknown
            }
            Err(refusal) if refusal.reason == Some(Reason::VersionConflict) => {
                let current = Version(refusal.number("current_version"));
                self.versions.insert(operation.key.clone(), current);
                Told::Conflict { at, current }
            }
            Err(refusal)
                if refusal.happened() == Happened::No && !(open.is_retry && refusal.is_unavailable()) =>
            {
                assert!(
                    is_expected(refusal.reason),
                    "{operation:?} was refused: {refusal:?}"
                );
                Told::Refused
            }
            Err(_) => {
                self.open.push_back(open);
                return;
            }
        };
        self.record.operations.push(open.operation);
    }

    /// Writes down what a read found; whether the node is still there.
    fn observe(&mut self, key: String, sent: Tick, found: Result<Version, Refusal>) -> bool {
        let answered = self.ticks.next();
        let found = match found {
            Ok(version) => Some(version),
            Err(refusal) if refusal.reason == Some(Reason::KeyNotFound) => None,
            Err(_) => return false,
        };
        self.record.observations.push(Observation {
            key,
            sent,
            answered,
            found,
        });
        true
    }
}

/// Whether a refusal of a retry proves that no earlier attempt was stored, nor will be when it arrives later.
fn settles(demanded: Expectation, refusal: &Refusal) -> bool {
    let is_past = |version| Version(refusal.number("current_version")) > version;
    if refusal.reason == Some(Reason::VersionConflict) {
        return matches!(demanded, Expectation::Exact(version) if is_past(version));
    }
    refusal.reason == Some(Reason::EventIdReused)
}

/// Refusals that a load like this one may meet on a healthy node.
fn is_expected(reason: Option<Reason>) -> bool {
    let expected = [
        Reason::KeyNotFound,
        Reason::Overloaded,
        Reason::ShuttingDown,
        Reason::DiskFull,
        // Of a cluster whose seats move.
        Reason::NotLeader,
        Reason::SeatVacant,
        Reason::SeatRecovering,
        Reason::CoordinatorAway,
    ];
    reason.is_some_and(|reason| expected.contains(&reason))
}

async fn send(
    api: &mut Api,
    operation: &Operation,
    since: Option<u64>,
) -> Result<Vec<v1::WriteResult>, Refusal> {
    match (operation.kind, operation.events.as_slice()) {
        (EventKind::Delete, _) => api
            .delete_request(delete_request(operation, since))
            .await
            .map(|one| vec![one]),
        (EventKind::Write, [_]) => api
            .write_request(write_request(operation, since))
            .await
            .map(|one| vec![one]),
        (EventKind::Write, _) => api.append(append_request(operation, since)).await,
    }
}

fn wire_event(sent: &Sent) -> v1::NewEvent {
    v1::NewEvent {
        payload: Bytes::copy_from_slice(sent.payload.as_bytes()),
        event_id: Bytes::copy_from_slice(sent.event_id.as_bytes()),
        ..Default::default()
    }
}

fn write_request(operation: &Operation, since: Option<u64>) -> v1::WriteRequest {
    v1::WriteRequest {
        key: operation.key.clone(),
        expect: Some(expectation_to_wire(operation.expect)),
        event: operation.events.first().map(wire_event),
        retried_since: since,
        ..Default::default()
    }
}

fn append_request(operation: &Operation, since: Option<u64>) -> v1::AppendRequest {
    v1::AppendRequest {
        key: operation.key.clone(),
        expect: Some(expectation_to_wire(operation.expect)),
        events: operation.events.iter().map(wire_event).collect(),
        retried_since: since,
        ..Default::default()
    }
}

fn delete_request(operation: &Operation, since: Option<u64>) -> v1::DeleteRequest {
    v1::DeleteRequest {
        key: operation.key.clone(),
        expect: Some(expectation_to_wire(operation.expect)),
        event: operation.events.first().map(wire_event),
        retried_since: since,
        ..Default::default()
    }
}

/// What writers under way are told, and tell.
#[derive(Debug, Clone)]
struct Control {
    stop: Arc<AtomicBool>,
    acknowledged: watch::Sender<usize>,
}

impl Control {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn acknowledged(&self, events: usize) {
        self.acknowledged.send_modify(|count| *count += events);
    }
}

/// Writers under way against one start of a node.
#[derive(Debug)]
pub struct Load {
    writers: JoinSet<Writer>,
    control: Control,
}

impl Load {
    /// Starts them all, at one node.
    pub fn start(writers: Vec<Writer>, address: SocketAddr) -> Self {
        let mut load = Self::new();
        for writer in writers {
            load.writers.spawn(writer.run(address, load.control.clone()));
        }
        load
    }

    /// Starts them all; each goes from node to node and on, until it is told to stop.
    pub fn start_everywhere(writers: Vec<Writer>, addresses: &[SocketAddr]) -> Self {
        let mut load = Self::new();
        for writer in writers {
            let running = writer.run_everywhere(addresses.to_vec(), load.control.clone());
            load.writers.spawn(running);
        }
        load
    }

    fn new() -> Self {
        Self {
            writers: JoinSet::new(),
            control: Control {
                stop: Arc::default(),
                acknowledged: watch::Sender::new(0),
            },
        }
    }

    /// Events that were acknowledged so far.
    pub fn count(&self) -> usize {
        *self.control.acknowledged.borrow()
    }

    /// Waits for so many acknowledged events more than there are now.
    pub async fn more(&self, events: usize) {
        self.acknowledged(self.count() + events).await;
    }

    /// Waits until this many events were acknowledged since the start.
    pub async fn acknowledged(&self, events: usize) {
        let mut count = self.control.acknowledged.subscribe();
        let what = format!("{events} acknowledged events");
        soon(&what, count.wait_for(|count| *count >= events))
            .await
            .expect("the load counts");
    }

    /// Tells the writers to finish what is under way and to stop.
    pub async fn stop(self) -> Vec<Writer> {
        self.control.stop.store(true, Ordering::SeqCst);
        self.ended().await
    }

    /// Waits until the writers have ended because their node went away.
    pub async fn ended(mut self) -> Vec<Writer> {
        let mut writers = Vec::new();
        while let Some(writer) = soon("the end of the load", self.writers.join_next()).await {
            writers.push(writer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        writers.sort_by(|a, b| a.name.cmp(&b.name));
        writers
    }
}

/// Writers of each style, with keys of their own and some that they share.
pub fn crew(count: usize, random: &mut Random, ticks: &Arc<Ticks>) -> Vec<Writer> {
    let writer = |n| {
        let style = match n % 3 {
            0 => Style::OneByOne,
            1 => Style::Pipelined(16),
            _ => Style::Each(16),
        };
        Writer::new(&format!("w{n}"), style, SHARED_KEYS, random.fork(), ticks)
    };
    (0..count).map(writer).collect()
}

/// Clients that read what the writers of a [`crew`] share, and nothing else.
pub fn readers(count: usize, random: &mut Random, ticks: &Arc<Ticks>) -> Vec<Writer> {
    let reader = |n| {
        Writer::new(
            &format!("r{n}"),
            Style::Reading,
            SHARED_KEYS,
            random.fork(),
            ticks,
        )
    };
    (0..count).map(reader).collect()
}

/// Puts the records of all writers together.
pub fn record_of(writers: Vec<Writer>) -> History {
    let mut history = History::default();
    for writer in writers {
        history.merge(writer.into_record());
    }
    history
}
