//! A small server in memory, with faults on command. It keeps the wire's promises and nothing else; the real one
//! is tested elsewhere.
#![expect(clippy::unwrap_used, reason = "support of tests: a panic is a failed test")]

use rdb_client::tasks::{self, Task};
use rdb_proto::reason::{DOMAIN, Reason};
use rdb_proto::v1;
use rdb_proto::v1::append_stream_response::Outcome;
use rdb_proto::v1::changes_server::{Changes, ChangesServer};
use rdb_proto::v1::cluster_server::{Cluster, ClusterServer};
use rdb_proto::v1::data_server::{Data, DataServer};
use rdb_proto::v1::subscribe_request::Start;
use rdb_proto::v1::subscribe_response::Message;
use rdb_proto::v1::{EventKind, ExpectationKind};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) const DATABASE_ID: &str = "6a1f8f3e-0000-4000-8000-000000000001";

/// What happens to a call, once, in place of the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The usual.
    None,
    /// Refused with this reason; nothing is stored.
    Refuse(Reason),
    /// Stored, and then the answer is lost as when a connection breaks.
    LoseAnswer,
    /// Not stored, and lost as when a connection breaks.
    LoseRequest,
    /// An append of a stream is not stored, and neither it nor any behind it is answered.
    Hang,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) events: Vec<v1::Event>,
    pub(crate) faults: VecDeque<Fault>,
    /// `retried_since` of every append that came.
    pub(crate) retried_since: Vec<Option<u64>>,
    /// `after_seq` of every subscription that came; `None` is from now.
    pub(crate) subscribed_after: Vec<Option<u64>>,
    /// `from_time_us` of every subscription that named one; it gets everything.
    pub(crate) times_asked: Vec<u64>,
    /// After so many events a subscription breaks off, once.
    pub(crate) break_stream_after: Option<usize>,
    /// What it says of the cluster; `None` is a release that says nothing.
    pub(crate) map: Option<v1::MapResponse>,
    /// How often it was asked for that.
    pub(crate) maps_asked: u32,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    grown: watch::Sender<usize>,
    tasks: Arc<Mutex<Vec<Task<Option<()>>>>>,
}

/// A running server; dropping it stops it.
pub(crate) struct Fake {
    service: Service,
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    pub(crate) fn start_at(address: &str) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = Service {
            state: Arc::default(),
            grown: watch::channel(0).0,
            tasks: Arc::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(DataServer::new(shared.clone()).max_decoding_message_size(16 << 20))
                    .add_service(ChangesServer::new(shared.clone()))
                    .add_service(ClusterServer::new(shared))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    ended = server => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            service,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.service.state.lock().unwrap()
    }

    pub(crate) fn fail_next(&self, faults: &[Fault]) {
        self.state().faults.extend(faults);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn refusal(reason: Reason, message: String, facts: &[(&str, String)]) -> Status {
    let facts: HashMap<String, String> = facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, facts);
    Status::with_error_details(reason.code(), message, details)
}

fn named(collection: &str) -> &str {
    if collection.is_empty() {
        "default"
    } else {
        collection
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn append(
        &self,
        request: v1::AppendRequest,
        kind: EventKind,
        must_exist: bool,
    ) -> Result<Vec<v1::WriteResult>, Status> {
        let mut state = self.state();
        state.retried_since.push(request.retried_since);
        let fault = state.faults.pop_front();
        match fault {
            Some(Fault::Refuse(reason)) => {
                return Err(refusal(reason, "refused on command".to_owned(), &[]));
            }
            Some(Fault::LoseRequest) => return Err(Status::unavailable("connection reset")),
            Some(Fault::Hang) => return Err(Status::cancelled("answered by nobody")),
            Some(Fault::LoseAnswer | Fault::None) | None => {}
        }
        let results = state.store(request, kind, must_exist)?;
        self.grown.send_replace(state.events.len());
        match fault {
            Some(Fault::LoseAnswer) => Err(Status::unavailable("connection reset")),
            _ => Ok(results),
        }
    }
}

impl State {
    fn of_key(&self, collection: &str, key: &str) -> Vec<&v1::Event> {
        let is_of = |event: &&v1::Event| named(&event.collection) == named(collection) && event.key == key;
        self.events.iter().filter(is_of).collect()
    }

    fn store(
        &mut self,
        request: v1::AppendRequest,
        kind: EventKind,
        must_exist: bool,
    ) -> Result<Vec<v1::WriteResult>, Status> {
        if request.key.is_empty() {
            let message = "key must not be empty".to_owned();
            return Err(refusal(
                Reason::FieldInvalid,
                message,
                &[("field", "key".to_owned())],
            ));
        }
        let known: Vec<_> = request
            .events
            .iter()
            .filter_map(|new| self.events.iter().find(|old| old.event_id == new.event_id))
            .map(|old| result(old, true))
            .collect();
        if known.len() == request.events.len() {
            return Ok(known);
        }
        if !known.is_empty() {
            let message = "an event id belongs to another append".to_owned();
            return Err(refusal(Reason::EventIdReused, message, &[]));
        }
        let last = self.of_key(&request.collection, &request.key).pop();
        let version = last.map_or(0, |event| event.version);
        let exists = last.is_some_and(|event| event.kind == i32::from(EventKind::Write));
        let expect = request.expect.unwrap_or_default();
        if kind == EventKind::Delete && !exists && must_exist {
            return Err(not_found(&request.key));
        }
        let holds = match expect.kind() {
            ExpectationKind::Any => true,
            ExpectationKind::Absent => !exists,
            ExpectationKind::Exists => exists,
            ExpectationKind::Exact => version == expect.version,
        };
        if !holds {
            let message = format!("key `{}` is at version {version}", request.key);
            let facts = [("current_version", version.to_string())];
            return Err(refusal(Reason::VersionConflict, message, &facts));
        }
        let mut results = Vec::new();
        for (new, version) in request.events.into_iter().zip(version + 1..) {
            let event = v1::Event {
                seq: u64::try_from(self.events.len()).unwrap() + 1,
                collection: request.collection.clone(),
                key: request.key.clone(),
                version,
                kind: kind.into(),
                r#type: new.r#type,
                tags: new.tags,
                meta: new.meta,
                payload: new.payload,
                event_id: new.event_id,
                time_us: 1_795_210_200_123_456,
                before: None,
            };
            results.push(result(&event, false));
            self.events.push(event);
        }
        Ok(results)
    }
}

fn not_found(key: &str) -> Status {
    refusal(
        Reason::KeyNotFound,
        format!("key `{key}` does not exist"),
        &[("key", key.to_owned())],
    )
}

fn result(event: &v1::Event, duplicate: bool) -> v1::WriteResult {
    v1::WriteResult {
        seq: event.seq,
        version: event.version,
        event_id: event.event_id.clone(),
        duplicate,
    }
}

/// A refusal as streams have it; without a reason it ends the stream.
fn failure(status: Status) -> Result<v1::Failure, Status> {
    match status.get_details_error_info() {
        Some(info) => Ok(v1::Failure {
            code: status.code().into(),
            reason: info.reason,
            message: status.message().to_owned(),
            metadata: info.metadata.into_iter().collect(),
        }),
        None => Err(status),
    }
}

fn encode(message: &impl prost::Message) -> bytes::Bytes {
    message.encode_to_vec().into()
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Data for Service {
    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let request = request.into_inner();
        let append = v1::AppendRequest {
            collection: request.collection,
            key: request.key,
            expect: request.expect,
            events: request.event.into_iter().collect(),
            retried_since: request.retried_since,
        };
        let mut results = self.append(append, EventKind::Write, false)?;
        Ok(Response::new(v1::WriteResponse {
            result: results.pop(),
            led_at: String::new(),
        }))
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let results = self.append(request.into_inner(), EventKind::Write, false)?;
        Ok(Response::new(v1::AppendResponse {
            results,
            led_at: String::new(),
        }))
    }

    type AppendStreamStream = Answers<v1::AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| {
            let outcome = match service.append(request?, EventKind::Write, false) {
                Ok(results) => Outcome::Appended(v1::AppendResponse {
                    results,
                    led_at: String::new(),
                }),
                Err(status) => Outcome::Failure(failure(status)?),
            };
            Ok(v1::AppendStreamResponse {
                outcome: Some(outcome),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type AppendEachStream = Answers<v1::AppendEachResponse>;

    async fn append_each(
        &self,
        request: Request<Streaming<v1::AppendEachRequest>>,
    ) -> Result<Response<Self::AppendEachStream>, Status> {
        use v1::append_each_response::Outcome;
        let service = self.clone();
        let answer = move |request: Result<v1::AppendEachRequest, Status>| {
            let v1::AppendEachRequest { number, append } = request?;
            let outcome = match service.append(append.unwrap_or_default(), EventKind::Write, false) {
                Ok(results) => Outcome::Appended(v1::AppendResponse {
                    results,
                    led_at: String::new(),
                }),
                Err(status) => Outcome::Failure(failure(status)?),
            };
            Ok::<_, Status>(v1::AppendEachResponse {
                number,
                outcome: Some(outcome),
            })
        };
        // Answers of what came together go out the last one first: nothing is promised of their order.
        let together = futures::StreamExt::ready_chunks(request.into_inner(), 8);
        let answers = futures::StreamExt::flat_map(together, move |requests| {
            let mut answers: Vec<_> = requests.into_iter().map(&answer).collect();
            answers.reverse();
            futures::stream::iter(answers)
        });
        let answers = answers.then(async |answer| match answer {
            Err(status) if status.code() == Code::Cancelled => std::future::pending().await,
            answer => answer,
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = request.into_inner();
        let must_exist = request
            .expect
            .is_none_or(|expect| expect.kind() == ExpectationKind::Exists);
        let append = v1::AppendRequest {
            collection: request.collection,
            key: request.key,
            expect: request.expect.filter(|_| !must_exist),
            events: vec![request.event.unwrap_or_default()],
            retried_since: request.retried_since,
        };
        let mut results = self.append(append, EventKind::Delete, must_exist)?;
        Ok(Response::new(v1::DeleteResponse {
            result: results.pop(),
            led_at: String::new(),
        }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let at = request.at_seq.unwrap_or(u64::MAX);
        let last = state.of_key(&request.collection, &request.key);
        let last = last.into_iter().rfind(|event| event.seq <= at);
        let last = last.filter(|event| event.kind == i32::from(EventKind::Write));
        let event = encode(last.ok_or_else(|| not_found(&request.key))?);
        let as_of_seq = u64::try_from(state.events.len()).unwrap();
        Ok(Response::new(v1::ReadResponse {
            event,
            as_of_seq,
            led_at: String::new(),
        }))
    }

    /// Answers two keys at most.
    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<v1::SnapshotResponse>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let last = u64::try_from(state.events.len()).unwrap();
        let seq = request.at_seq.unwrap_or(last);
        let answer = |key: &v1::SnapshotKey| {
            let events = state.of_key(&key.collection, &key.key);
            let last = events.into_iter().rfind(|event| event.seq <= seq);
            let event = last.filter(|event| event.kind == i32::from(EventKind::Write));
            v1::SnapshotAnswer {
                event: event.map(encode).unwrap_or_default(),
                version: last.map_or(0, |event| event.version),
            }
        };
        let answers = request.keys.iter().take(2).map(answer).collect();
        Ok(Response::new(v1::SnapshotResponse { seq, answers }))
    }

    type HistoryStream = Answers<v1::HistoryResponse>;

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let mut events = state.of_key(&request.collection, &request.key);
        if request.backwards {
            events.reverse();
            events.retain(|event| request.from_version == 0 || event.version <= request.from_version);
        } else {
            events.retain(|event| event.version >= request.from_version);
        }
        if request.limit > 0 {
            events.truncate(usize::try_from(request.limit).unwrap());
        }
        let mut answers: Vec<Result<v1::HistoryResponse, Status>> = Vec::new();
        for pair in events.chunks(2) {
            let events = pair.iter().map(|event| (*event).clone()).collect();
            let events = encode(&v1::EventBatch { events });
            answers.push(Ok(v1::HistoryResponse { events }));
            if state.break_stream_after.is_some() {
                answers.push(Err(Status::unavailable("connection reset")));
            }
        }
        drop(state);
        self.state().break_stream_after = None;
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let mut keys: Vec<&str> = state
            .events
            .iter()
            .filter(|event| named(&event.collection) == named(&request.collection))
            .map(|event| event.key.as_str())
            .filter(|key| key.starts_with(&request.prefix) && *key > request.after.as_str())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let page = match request.limit {
            0 => 1_000,
            limit => usize::try_from(limit).unwrap(),
        };
        let is_last = keys.len() <= page;
        keys.truncate(page);
        let next_after = keys.last().filter(|_| !is_last).copied().unwrap_or_default();
        let keys = keys.iter().map(|key| {
            let last = state.of_key(&request.collection, key).pop().unwrap();
            v1::KeyInfo {
                key: last.key.clone(),
                version: last.version,
                seq: last.seq,
                deleted: last.kind == i32::from(EventKind::Delete),
            }
        });
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.collect(),
            next_after: next_after.to_owned(),
        }))
    }
}

#[tonic::async_trait]
impl Changes for Service {
    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn times_after(
        &self,
        _: Request<v1::TimesAfterRequest>,
    ) -> Result<Response<v1::TimesAfterResponse>, Status> {
        Err(Status::unimplemented("no client here asks"))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        if !request.database_id.is_empty() && request.database_id != DATABASE_ID {
            return Err(refusal(Reason::WrongDatabase, "another database".to_owned(), &[]));
        }
        let end = u64::try_from(self.state().events.len()).unwrap();
        let time = match request.start {
            Some(Start::FromTimeUs(time)) => Some(time),
            _ => None,
        };
        let after = match request.start {
            Some(Start::AfterSeq(seq)) if seq > end => {
                return Err(refusal(
                    Reason::SeqAhead,
                    format!("seq {seq} is ahead of {end}"),
                    &[],
                ));
            }
            Some(Start::AfterSeq(seq)) => Some(seq),
            Some(Start::FromNow(_) | Start::FromTimeUs(_)) => None,
            None => Some(0),
        };
        self.state().subscribed_after.push(after);
        self.state().times_asked.extend(time);
        let (tx, rx) = mpsc::channel(4);
        let service = self.clone();
        let wanted = Wanted {
            after: after.unwrap_or_else(|| time.map_or(end, |_| 0)),
            filter: request.filter.unwrap_or_default(),
            with_before: request.with_before,
            snapshot: match request.snapshot_seq {
                0 if request.snapshot => end,
                seq => seq,
            },
        };
        let streaming = async move { service.stream(wanted, tx).await };
        self.tasks.lock().unwrap().push(tasks::spawn(streaming));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

type Sink = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// What a subscription asked for.
struct Wanted {
    after: u64,
    filter: v1::Filter,
    with_before: bool,
    /// 0 without a snapshot.
    snapshot: u64,
}

impl Wanted {
    /// The event as the subscription gets it, if it does.
    fn gets(&self, event: &v1::Event, all: &[v1::Event]) -> Option<v1::Event> {
        let of_key = |other: &&v1::Event| other.key == event.key && other.collection == event.collection;
        let is_latest = || {
            let latest = all
                .iter()
                .filter(of_key)
                .rfind(|other| other.seq <= self.snapshot);
            latest.is_some_and(|latest| latest.seq == event.seq) && event.kind() == EventKind::Write
        };
        if !passes(&self.filter, event) || (event.seq <= self.snapshot && !is_latest()) {
            return None;
        }
        let before = all.iter().filter(of_key).rfind(|other| other.seq < event.seq);
        let before = before.filter(|_| self.with_before).cloned().map(Box::new);
        Some(v1::Event {
            before,
            ..event.clone()
        })
    }
}

impl Service {
    /// Ends when the subscriber is gone, or when it is to break off.
    #[expect(clippy::cognitive_complexity, reason = "the `select!` counts for most of it")]
    async fn stream(&self, wanted: Wanted, tx: Sink) -> Option<()> {
        let say = |message| {
            let message = Some(message);
            tx.send(Ok(v1::SubscribeResponse { message }))
        };
        let database_id = DATABASE_ID.to_owned();
        say(Message::Opened(v1::Opened {
            database_id,
            after_seq: wanted.after,
            snapshot_seq: wanted.snapshot,
        }))
        .await
        .ok()?;
        let mut grown = self.grown.subscribe();
        let mut sent = usize::try_from(wanted.after).unwrap();
        let mut is_caught_up = false;
        loop {
            let (events, resolved, breaks) = {
                let mut state = self.state();
                let all = state.events.get(sent..).unwrap_or_default();
                let breaks = state.break_stream_after.filter(|limit| *limit < all.len());
                let new = all.iter().take(breaks.unwrap_or(usize::MAX));
                let events: Vec<_> = new
                    .filter_map(|event| wanted.gets(event, &state.events))
                    .collect();
                if breaks.is_some() {
                    state.break_stream_after = None;
                }
                (events, state.events.len(), breaks.is_some())
            };
            sent = resolved;
            let changes_since_previous = u64::try_from(events.len()).unwrap();
            if !events.is_empty() {
                say(Message::Changes(encode(&v1::EventBatch { events })))
                    .await
                    .ok()?;
            }
            if breaks {
                tx.send(Err(Status::unavailable("connection reset"))).await.ok()?;
                return None;
            }
            let seq = u64::try_from(resolved).unwrap();
            let mark = v1::Resolved {
                seq,
                changes_since_previous,
            };
            say(Message::Resolved(mark)).await.ok()?;
            if !is_caught_up {
                is_caught_up = true;
                say(Message::CaughtUp(v1::CaughtUp { seq })).await.ok()?;
            }
            tokio::select! {
                changed = grown.changed() => changed.ok()?,
                () = rdb_client::clock::sleep(Duration::from_millis(200)) => {}
            }
        }
    }
}

fn passes(filter: &v1::Filter, event: &v1::Event) -> bool {
    let any =
        |values: &[String], test: &dyn Fn(&str) -> bool| values.is_empty() || values.iter().any(|v| test(v));
    any(&filter.collections, &|c| named(&event.collection) == c)
        && any(&filter.key_prefixes, &|p| event.key.starts_with(p))
        && any(&filter.types, &|t| event.r#type == t)
        && any(&filter.tags, &|t| event.tags.iter().any(|tag| tag == t))
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn map(&self, _: Request<v1::MapRequest>) -> Result<Response<v1::MapResponse>, Status> {
        let mut state = self.state();
        state.maps_asked += 1;
        match state.map.clone() {
            Some(map) => Ok(Response::new(map)),
            None => Err(Status::unimplemented("a release without a map")),
        }
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let counter = u64::try_from(self.state().events.len()).unwrap();
        let seat = |seat| v1::SeatStatus {
            seat,
            state: "leading".to_owned(),
            leader: 7,
            epoch: 1,
            last_index: 5,
            commit_index: 5,
            indexed_index: 5,
            last_seq: counter,
            resolved: counter,
            resolved_lag: 0,
            ..Default::default()
        };
        Ok(Response::new(v1::StatusResponse {
            healthy: true,
            summary: "healthy: 2 of 2 seats take writes".to_owned(),
            database: "rdb".to_owned(),
            database_id: DATABASE_ID.to_owned(),
            counter,
            resolved: counter,
            nodes: vec![v1::NodeStatus {
                name: "n1".to_owned(),
                id: 7,
                address: "127.0.0.1:2048".to_owned(),
                release: "0.1.0".to_owned(),
                live: true,
                uptime_seconds: 93,
                disk_free_bytes: 5 << 30,
                refuses_writes: String::new(),
                ..Default::default()
            }],
            groups: vec![v1::GroupStatus {
                group: 0,
                members: vec![7],
                writes: 1,
                seats: vec![seat(0), seat(1)],
                ..Default::default()
            }],
            warnings: vec![],
            held: Vec::new(),
            unreplaced: Vec::new(),
            slots: vec![v1::SlotRange {
                first: 0,
                last: 511,
                group: 0,
                seat: 0,
            }],
        }))
    }
}
