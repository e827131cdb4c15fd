//! Raw gRPC: what any client in any language sends and gets.

use crate::time::{PATIENCE, Stopwatch, retry_pause, soon};
use bytes::{Buf as _, BufMut as _, Bytes};
use rdb_proto::event::{Event, decode_batch};
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::reason::{DOMAIN, Happened, Reason};
use rdb_proto::v1::admin_client::AdminClient;
use rdb_proto::v1::changes_client::ChangesClient;
use rdb_proto::v1::cluster_client::ClusterClient;
use rdb_proto::v1::data_client::DataClient;
use rdb_proto::v1::subscribe_response::Message;
use rdb_proto::v1::{self, subscribe_request::Start};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;
use uuid::Uuid;

/// One connection, with a client for each service.
#[derive(Debug, Clone)]
pub struct Api {
    /// Keys.
    pub data: DataClient<Channel>,
    /// The change stream.
    pub changes: ChangesClient<Channel>,
    /// Status.
    pub cluster: ClusterClient<Channel>,
    /// What operators ask for.
    pub admin: AdminClient<Channel>,
    /// What they share.
    pub channel: Channel,
    is_patient: bool,
}

/// An error as a client sees it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// gRPC code.
    pub code: Code,
    /// Reason, when the error carries one of this database.
    pub reason: Option<Reason>,
    /// Line for people.
    pub message: String,
    /// Facts.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// A fact as a number.
    ///
    /// # Panics
    /// When it is not there, or not a number.
    pub fn number(&self, name: &str) -> u64 {
        let text = self.metadata.get(name);
        let text = text.unwrap_or_else(|| panic!("{name} stands in the facts of {self:?}"));
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number in {self:?}"))
    }
}

impl Refusal {
    /// Whether anything may have happened; maybe, when there is no reason.
    pub fn happened(&self) -> Happened {
        self.reason.map_or(Happened::Maybe, Reason::happened)
    }

    /// Whether it may be otherwise in a moment, or at another node, and nothing happened.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable && self.reason.is_some()
    }

    /// Whether the same request with the same event ids is answered in the end.
    fn is_passing(&self) -> bool {
        self.is_unavailable() || self.reason == Some(Reason::OutcomeUnknown)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map_or_else(Default::default, |info| (info.reason, info.metadata));
        Self {
            code: status.code(),
            reason: Reason::from_name(&reason),
            message: status.message().to_owned(),
            metadata: metadata.into_iter().collect(),
        }
    }
}

impl From<v1::Failure> for Refusal {
    fn from(failure: v1::Failure) -> Self {
        Self {
            code: failure.code.into(),
            reason: Reason::from_name(&failure.reason),
            message: failure.message,
            metadata: failure.metadata.into_iter().collect(),
        }
    }
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Refusal>;

impl Api {
    /// Connects.
    ///
    /// # Panics
    /// When nothing listens there.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("a node listens there")
    }

    /// Connects, if something listens there.
    ///
    /// # Errors
    /// When nothing does.
    pub async fn try_connect(address: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = soon("a connection", endpoint.connect()).await?;
        Ok(Self {
            data: DataClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
            changes: ChangesClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            cluster: ClusterClient::new(channel.clone()),
            admin: AdminClient::new(channel.clone()),
            channel,
            is_patient: false,
        })
    }

    /// The connection of a client that asks again, with the same event ids, for as long as an answer about keys is refused
    /// with nothing done, or its outcome is not known: a seat may be without a leader at any moment, above all on a busy
    /// machine. Every event that is sent over it must have an id.
    #[must_use]
    pub const fn patient(mut self) -> Self {
        self.is_patient = true;
        self
    }

    async fn ask<R, T, F>(
        &self,
        what: &'static str,
        request: R,
        call: impl Fn(DataClient<Channel>, R) -> F + Sync,
    ) -> Answer<T>
    where
        R: Clone + Send + Sync,
        F: Future<Output = Answer<T>> + Send,
    {
        let since = Stopwatch::start();
        loop {
            let answer = soon(what, call(self.data.clone(), request.clone())).await;
            let is_passing = answer.as_ref().err().is_some_and(Refusal::is_passing);
            if !(self.is_patient && is_passing) || since.elapsed() > PATIENCE {
                return answer;
            }
            retry_pause().await;
        }
    }

    /// Writes an event to a key of the default collection.
    pub async fn write(&mut self, key: &str, payload: &str) -> Answer<v1::WriteResult> {
        self.write_request(write_of(key, event(payload))).await
    }

    /// Writes as the request says.
    pub async fn write_request(&mut self, request: v1::WriteRequest) -> Answer<v1::WriteResult> {
        let answer = self.ask("an answer to a write", request, |mut data, request| async move {
            Ok(data.write(request).await?.into_inner())
        });
        Ok(answer.await?.result.expect("an answer has a result"))
    }

    /// Appends as the request says.
    pub async fn append(&mut self, request: v1::AppendRequest) -> Answer<Vec<v1::WriteResult>> {
        let answer = self.ask(
            "an answer to an append",
            request,
            |mut data, request| async move { Ok(data.append(request).await?.into_inner()) },
        );
        Ok(answer.await?.results)
    }

    /// Deletes a key of the default collection.
    pub async fn delete(&mut self, key: &str) -> Answer<v1::WriteResult> {
        let request = v1::DeleteRequest {
            key: key.to_owned(),
            event: Some(event("")),
            ..Default::default()
        };
        self.delete_request(request).await
    }

    /// Deletes as the request says.
    pub async fn delete_request(&mut self, request: v1::DeleteRequest) -> Answer<v1::WriteResult> {
        let answer = self.ask("an answer to a delete", request, |mut data, request| async move {
            Ok(data.delete(request).await?.into_inner())
        });
        Ok(answer.await?.result.expect("an answer has a result"))
    }

    /// Reads the latest event of a key of the default collection.
    pub async fn read(&mut self, key: &str) -> Answer<Event> {
        let request = v1::ReadRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.read_request(request).await
    }

    /// Reads a key of the default collection as it was at a seq.
    pub async fn read_at(&mut self, key: &str, seq: u64) -> Answer<Event> {
        let request = v1::ReadRequest {
            key: key.to_owned(),
            at_seq: Some(seq),
            ..Default::default()
        };
        self.read_request(request).await
    }

    /// Keys of the default collection as of one seq, that of now or the one that is named: the seq, and what each key
    /// was, with its version.
    pub async fn snapshot(
        &mut self,
        keys: &[&str],
        at: Option<u64>,
    ) -> Answer<(u64, Vec<(Option<Event>, u64)>)> {
        let key = |key: &&str| v1::SnapshotKey {
            key: (*key).to_owned(),
            ..Default::default()
        };
        let request = v1::SnapshotRequest {
            keys: keys.iter().map(key).collect(),
            at_seq: at,
        };
        let answer = self.ask(
            "an answer to a snapshot",
            request,
            |mut data, request| async move { Ok(data.snapshot(request).await?.into_inner()) },
        );
        let answer = answer.await?;
        let event = |encoded: Bytes| {
            let event = || Event::decode(&encoded).expect("a node answers with events");
            (!encoded.is_empty()).then(event)
        };
        let answers = answer.answers.into_iter();
        let keys = answers.map(|answer| (event(answer.event), answer.version));
        Ok((answer.seq, keys.collect()))
    }

    /// Reads as the request says.
    pub async fn read_request(&mut self, request: v1::ReadRequest) -> Answer<Event> {
        let answer = self.ask("an answer to a read", request, |mut data, request| async move {
            Ok(data.read(request).await?.into_inner())
        });
        let answer = answer.await?;
        let event = Event::decode(&answer.event).expect("a node answers with an event");
        assert!(
            event.seq.get() <= answer.as_of_seq,
            "an answer is complete up to what it shows"
        );
        Ok(event)
    }

    /// All events of a key of the default collection, oldest first.
    pub async fn history(&mut self, key: &str) -> Answer<Vec<Event>> {
        let request = v1::HistoryRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.history_request(request).await
    }

    /// The history that the request asks for.
    pub async fn history_request(&mut self, request: v1::HistoryRequest) -> Answer<Vec<Event>> {
        let history = self.ask("a history", request, |mut data, request| async move {
            let mut pages = data.history(request).await?.into_inner();
            let mut events = Vec::new();
            while let Some(page) = pages.next().await {
                events.extend(decode_batch(&page?.events).expect("a node answers with events"));
            }
            Ok(events)
        });
        history.await
    }

    /// Keys as the request says.
    pub async fn list_keys(&mut self, request: v1::ListKeysRequest) -> Answer<v1::ListKeysResponse> {
        let answer = self.ask("a list of keys", request, |mut data, request| async move {
            Ok(data.list_keys(request).await?.into_inner())
        });
        answer.await
    }

    /// What the database looks like.
    pub async fn status(&mut self) -> Answer<v1::StatusResponse> {
        Ok(soon("a status", self.cluster.status(v1::StatusRequest {}))
            .await?
            .into_inner())
    }

    /// Has a node's members moved.
    pub async fn drain(&mut self, request: v1::DrainRequest) -> Answer<v1::DrainResponse> {
        Ok(soon("a drain", self.admin.drain(request)).await?.into_inner())
    }

    /// Gives a seat to another member.
    pub async fn move_seat(&mut self, request: v1::MoveSeatRequest) -> Answer<()> {
        soon("a move", self.admin.move_seat(request)).await?;
        Ok(())
    }

    /// Forgets a node.
    pub async fn remove(&mut self, request: v1::RemoveRequest) -> Answer<()> {
        soon("a removal", self.admin.remove(request)).await?;
        Ok(())
    }

    /// Says that etcd was restored.
    pub async fn etcd_restored(
        &mut self,
        request: v1::EtcdRestoredRequest,
    ) -> Answer<v1::EtcdRestoredResponse> {
        Ok(soon("etcd put right", self.admin.etcd_restored(request))
            .await?
            .into_inner())
    }

    /// Subscribes to everything after a seq.
    pub async fn subscribe(&mut self, after: u64) -> Answer<Changes> {
        self.subscribe_request(v1::SubscribeRequest {
            start: Some(Start::AfterSeq(after)),
            ..Default::default()
        })
        .await
    }

    /// Subscribes as the request says.
    pub async fn subscribe_request(&mut self, request: v1::SubscribeRequest) -> Answer<Changes> {
        let stream = soon("a stream", self.changes.subscribe(request))
            .await?
            .into_inner();
        Ok(Changes {
            stream,
            waiting: VecDeque::new(),
        })
    }

    /// Every event up to a seq; waits until the node says that none at or below it is still to come.
    pub async fn events_up_to(&mut self, upto: u64) -> Answer<Vec<Event>> {
        let mut changes = self.subscribe(0).await?;
        let mut events = Vec::new();
        loop {
            match changes.next().await?.expect("a change stream does not end") {
                Said::Change(event) => events.push(*event),
                Said::Resolved { seq, .. } | Said::CaughtUp(seq) if seq >= upto => {
                    events.retain(|event| event.seq.get() <= upto);
                    return Ok(events);
                }
                Said::Resolved { .. } | Said::CaughtUp(_) | Said::Opened { .. } | Said::FellBehind(_) => {}
            }
        }
    }

    /// Every event of the database with a greater seq, from the change stream.
    pub async fn events_after(&mut self, after: u64) -> Answer<Vec<Event>> {
        let said = self.subscribe(after).await?.until_caught_up().await?;
        Ok(said.into_iter().filter_map(Said::event).collect())
    }

    /// Appends, pipelined: give requests to the first, take answers from the second.
    pub async fn append_stream(
        &mut self,
        window: usize,
    ) -> Answer<(tokio::sync::mpsc::Sender<v1::AppendRequest>, AppendAnswers)> {
        let (requests, receiver) = tokio::sync::mpsc::channel(window);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = soon("a stream of appends", self.data.append_stream(outgoing)).await?;
        Ok((requests, AppendAnswers(answers.into_inner())))
    }

    /// Appends that are answered as they come out: give requests to the first, take answers from the second.
    pub async fn append_each(
        &mut self,
        window: usize,
    ) -> Answer<(tokio::sync::mpsc::Sender<v1::AppendEachRequest>, EachAnswers)> {
        let (requests, receiver) = tokio::sync::mpsc::channel(window);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = soon("a stream of appends", self.data.append_each(outgoing)).await?;
        Ok((requests, EachAnswers(answers.into_inner())))
    }

    /// Sends bytes as the one message of a call, whether they are a message or not.
    pub async fn raw(&self, path: &'static str, message: &[u8]) -> Answer<Bytes> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the connection stands");
        let request = Request::new(Bytes::copy_from_slice(message));
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let answer = soon("an answer", grpc.unary(request, path, RawCodec)).await?;
        Ok(answer.into_inner())
    }
}

/// Answers of a stream of appends, in the order of its requests.
#[derive(Debug)]
pub struct AppendAnswers(Streaming<v1::AppendStreamResponse>);

impl AppendAnswers {
    /// The next answer; `None` at the end of the stream.
    ///
    /// # Errors
    /// Outer: the stream broke. Inner: this append was refused, and the stream goes on.
    pub async fn next(&mut self) -> Answer<Option<Answer<Vec<v1::WriteResult>>>> {
        use v1::append_stream_response::Outcome;
        let Some(answer) = soon("an answer of a stream", self.0.next()).await else {
            return Ok(None);
        };
        Ok(Some(match answer?.outcome.expect("an answer has an outcome") {
            Outcome::Appended(appended) => Ok(appended.results),
            Outcome::Failure(failure) => Err(failure.into()),
        }))
    }
}

/// Answers of a stream of appends, each with the number of its request.
#[derive(Debug)]
pub struct EachAnswers(Streaming<v1::AppendEachResponse>);

impl EachAnswers {
    /// The next answer; `None` at the end of the stream.
    ///
    /// # Errors
    /// Outer: the stream broke. Inner: this append was refused, and the stream goes on.
    pub async fn next(&mut self) -> Answer<Option<(u64, Answer<Vec<v1::WriteResult>>)>> {
        use v1::append_each_response::Outcome;
        let Some(answer) = soon("an answer of a stream", self.0.next()).await else {
            return Ok(None);
        };
        let v1::AppendEachResponse { number, outcome } = answer?;
        let outcome = match outcome.expect("an answer has an outcome") {
            Outcome::Appended(appended) => Ok(appended.results),
            Outcome::Failure(failure) => Err(failure.into()),
        };
        Ok(Some((number, outcome)))
    }
}

/// What the change stream said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Where it begins.
    Opened {
        /// Id of the database.
        database_id: String,
        /// Seq after which it begins.
        after: u64,
    },
    /// An event.
    Change(Box<Event>),
    /// A mark.
    Resolved {
        /// Nothing at or below is still to come.
        seq: u64,
        /// Changes since the mark before.
        changes: u64,
    },
    /// Everything that was there has been sent.
    CaughtUp(u64),
    /// The subscriber was too slow.
    FellBehind(u64),
}

impl Said {
    /// The event, when it is one.
    pub fn event(self) -> Option<Event> {
        match self {
            Self::Change(event) => Some(*event),
            Self::Opened { .. } | Self::Resolved { .. } | Self::CaughtUp(_) | Self::FellBehind(_) => None,
        }
    }
}

/// A subscription.
#[derive(Debug)]
pub struct Changes {
    stream: Streaming<v1::SubscribeResponse>,
    waiting: VecDeque<Said>,
}

impl Changes {
    /// What the stream says next; `None` at its end.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub async fn next(&mut self) -> Answer<Option<Said>> {
        while self.waiting.is_empty() {
            let Some(response) = soon("the change stream", self.stream.next()).await else {
                return Ok(None);
            };
            self.take(response?);
        }
        Ok(self.waiting.pop_front())
    }

    /// The next event, whatever else is said before it.
    pub async fn next_event(&mut self) -> Answer<Event> {
        loop {
            let said = self.next().await?.expect("the stream goes on");
            if let Some(event) = said.event() {
                return Ok(event);
            }
        }
    }

    /// All that is said up to the notice that the stream has caught up, that notice included.
    pub async fn until_caught_up(&mut self) -> Answer<Vec<Said>> {
        let mut all = Vec::new();
        loop {
            let said = self.next().await?.expect("the stream goes on");
            let is_caught_up = matches!(said, Said::CaughtUp(_));
            all.push(said);
            if is_caught_up {
                return Ok(all);
            }
        }
    }

    fn take(&mut self, response: v1::SubscribeResponse) {
        let said = match response.message.expect("a response says something") {
            Message::Opened(opened) => Said::Opened {
                database_id: opened.database_id,
                after: opened.after_seq,
            },
            Message::Changes(batch) => {
                let events = decode_batch(&batch).expect("a node sends events");
                self.waiting
                    .extend(events.into_iter().map(|event| Said::Change(Box::new(event))));
                return;
            }
            Message::Resolved(mark) => Said::Resolved {
                seq: mark.seq,
                changes: mark.changes_since_previous,
            },
            Message::CaughtUp(at) => Said::CaughtUp(at.seq),
            Message::FellBehind(at) => Said::FellBehind(at.seq),
        };
        self.waiting.push_back(said);
    }
}

/// An event with a payload and a new event id.
pub fn event(payload: &str) -> v1::NewEvent {
    event_with_id(Uuid::new_v4(), payload)
}

/// An event with a payload and an event id.
pub fn event_with_id(id: Uuid, payload: &str) -> v1::NewEvent {
    v1::NewEvent {
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        event_id: Bytes::copy_from_slice(id.as_bytes()),
        ..Default::default()
    }
}

/// A write of one event to a key of the default collection.
pub fn write_of(key: &str, event: v1::NewEvent) -> v1::WriteRequest {
    v1::WriteRequest {
        key: key.to_owned(),
        event: Some(event),
        ..Default::default()
    }
}

/// An append of these payloads to a key of the default collection.
pub fn append_of(key: &str, payloads: &[&str]) -> v1::AppendRequest {
    v1::AppendRequest {
        key: key.to_owned(),
        events: payloads.iter().map(|payload| event(payload)).collect(),
        ..Default::default()
    }
}

/// Demands that a call was refused for this reason, with the code that belongs to it.
pub fn assert_reason<T: std::fmt::Debug>(answer: Answer<T>, reason: Reason) -> Refusal {
    let refusal = answer.expect_err("it is refused");
    assert_eq!(
        (refusal.reason, refusal.code),
        (Some(reason), reason.code()),
        "{refusal:?}"
    );
    refusal
}

/// Passes bytes through as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
