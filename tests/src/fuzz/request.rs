//! Requests of every service, given to a real node in this process, as they come from a connection.
//!
//! Input: which method (a byte, by its place in [`METHODS`]), then the request in protobuf. A method that takes a stream
//! of requests is given the same one twice.

use super::{Target, named};
use crate::time::maybe;
use crate::wire::RawCodec;
use bytes::Bytes;
use prost::Message;
use rdb_proto::{member, v1};
use rdb_server::api::Api;
use rdb_server::node::{self, Node};
use rdb_server::settings::Settings;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

pub(super) const TARGET: Target = Target {
    name: "request",
    what: "requests of every service, served by a node",
    run,
    seeds,
};

/// One method of a service.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// As a connection names it.
    pub path: &'static str,
    is_stream: bool,
    /// Reads a request and writes it again.
    rewrite: fn(&[u8]) -> bool,
    seed: fn() -> Vec<u8>,
}

macro_rules! methods {
    ($($path:literal $message:ty $(, $stream:ident)? = $seed:expr;)*) => {
        /// Every method of every service: `tests/tests/fuzz.rs` compares it with the `.proto` files.
        pub const METHODS: &[Method] = &[$(Method {
            path: $path,
            is_stream: methods!(@stream $($stream)?),
            rewrite: |bytes| rewritten::<$message>(bytes).is_some(),
            seed: || {
                let request: $message = $seed;
                request.encode_to_vec()
            },
        },)*];
    };
    (@stream stream) => { true };
    (@stream) => { false };
}

methods! {
    "/rdb.v1.Data/Write" v1::WriteRequest = v1::WriteRequest {
        collection: "shop".to_owned(),
        key: "orders/17".to_owned(),
        event: Some(new_event()),
        expect: Some(v1::Expectation { kind: v1::ExpectationKind::Exact.into(), version: 0 }),
        retried_since: Some(0),
    };
    "/rdb.v1.Data/Append" v1::AppendRequest = append();
    "/rdb.v1.Data/AppendStream" v1::AppendRequest, stream = append();
    "/rdb.v1.Data/Delete" v1::DeleteRequest = v1::DeleteRequest {
        collection: "shop".to_owned(),
        key: "orders/17".to_owned(),
        event: Some(v1::NewEvent { payload: Bytes::new(), ..new_event() }),
        ..Default::default()
    };
    "/rdb.v1.Data/Read" v1::ReadRequest = v1::ReadRequest {
        collection: "shop".to_owned(),
        key: "orders/17".to_owned(),
        at_seq: Some(1),
        ..Default::default()
    };
    "/rdb.v1.Data/History" v1::HistoryRequest = v1::HistoryRequest {
        collection: "shop".to_owned(),
        key: "orders/17".to_owned(),
        from_version: 1,
        limit: 10,
        backwards: true,
        consistency: v1::Consistency::Local.into(),
    };
    "/rdb.v1.Data/Snapshot" v1::SnapshotRequest = v1::SnapshotRequest {
        keys: vec![v1::SnapshotKey { collection: "shop".to_owned(), key: "orders/17".to_owned() }],
        at_seq: Some(1),
    };
    "/rdb.v1.Data/ListKeys" v1::ListKeysRequest = v1::ListKeysRequest {
        collection: "shop".to_owned(),
        prefix: "orders/".to_owned(),
        after: "orders/1".to_owned(),
        limit: 10,
        ..Default::default()
    };
    "/rdb.v1.Changes/Subscribe" v1::SubscribeRequest = v1::SubscribeRequest {
        start: Some(v1::subscribe_request::Start::AfterSeq(1)),
        filter: Some(v1::Filter { key_prefixes: vec!["orders/".to_owned()], kinds: vec![1], ..Default::default() }),
        with_before: true,
        snapshot: true,
        snapshot_seq: 1,
        ..Default::default()
    };
    "/rdb.v1.Changes/TimesAfter" v1::TimesAfterRequest = v1::TimesAfterRequest { seqs: vec![0, 1, 1 << 40] };
    "/rdb.v1.Subscriptions/Claim" v1::ClaimRequest = v1::ClaimRequest {
        name: "mails".to_owned(),
        consumer: vec![9; 16].into(),
        after_seq: Some(1),
        wait_ms: 1,
    };
    "/rdb.v1.Subscriptions/Acknowledge" v1::AcknowledgeRequest = v1::AcknowledgeRequest {
        name: "mails".to_owned(),
        generation: 1,
        seq: 1,
    };
    "/rdb.v1.Subscriptions/Release" v1::ReleaseRequest = v1::ReleaseRequest { name: "mails".to_owned(), generation: 1 };
    "/rdb.v1.Subscriptions/Seek" v1::SeekRequest = v1::SeekRequest { name: "mails".to_owned(), seq: 1, generation: 1 };
    "/rdb.v1.Subscriptions/Forget" v1::ForgetRequest = v1::ForgetRequest { name: "mails".to_owned(), generation: 1 };
    "/rdb.v1.Subscriptions/List" v1::ListSubscriptionsRequest = v1::ListSubscriptionsRequest {
        after: "a".to_owned(),
        limit: 10,
    };
    "/rdb.v1.Cluster/Status" v1::StatusRequest = v1::StatusRequest {};
    "/rdb.v1.Cluster/Map" v1::MapRequest = v1::MapRequest {};
    "/rdb.v1.Admin/MoveSeat" v1::MoveSeatRequest = v1::MoveSeatRequest {
        group: 0,
        seat: 1,
        to: "n1".to_owned(),
        dry_run: true,
    };
    "/rdb.v1.Admin/Drain" v1::DrainRequest = v1::DrainRequest {
        node: "n1".to_owned(),
        to: "n2".to_owned(),
        dry_run: true,
    };
    "/rdb.v1.Admin/Undrain" v1::UndrainRequest = v1::UndrainRequest { node: "n1".to_owned(), dry_run: true };
    "/rdb.v1.Admin/Remove" v1::RemoveRequest = v1::RemoveRequest { node: "n1".to_owned(), dry_run: true };
    "/rdb.v1.Admin/EtcdRestored" v1::EtcdRestoredRequest = v1::EtcdRestoredRequest { dry_run: true, anyway: true };
    "/rdb.v1.Admin/Verify" v1::VerifyRequest = v1::VerifyRequest {
        node: "n1".to_owned(),
        seats: vec![v1::VerifySeat { group: 0, seat: 1, up_to: 3 }],
        bytes_per_second: 1 << 30,
    };
    "/rdb.v1.member.Member/Exchange" member::ExchangeRequest, stream = member::ExchangeRequest {
        part: Some(member::exchange_request::Part::Hello(hello())),
    };
    "/rdb.v1.member.Member/TellSeen" member::TellSeenRequest = member::TellSeenRequest { hello: Some(hello()) };
    "/rdb.v1.member.Member/GiveNumbers" member::GiveNumbersRequest = member::GiveNumbersRequest {
        hello: Some(hello()),
        count: 3,
        generation: 1,
    };
    "/rdb.v1.Data/AppendEach" v1::AppendEachRequest, stream = v1::AppendEachRequest {
        number: 7,
        append: Some(append()),
    };
}

fn new_event() -> v1::NewEvent {
    v1::NewEvent {
        r#type: "placed".to_owned(),
        tags: vec!["eu".to_owned()],
        meta: [("by".to_owned(), "me".to_owned())].into(),
        payload: Bytes::from_static(b"payload"),
        event_id: vec![7; 16].into(),
    }
}

fn append() -> v1::AppendRequest {
    let second = v1::NewEvent {
        event_id: Bytes::new(),
        ..new_event()
    };
    v1::AppendRequest {
        collection: "shop".to_owned(),
        key: "orders/17".to_owned(),
        events: vec![new_event(), second],
        ..Default::default()
    }
}

fn hello() -> member::Hello {
    member::Hello {
        exchange_version: 1,
        database: vec![1; 16].into(),
        sender: 5,
        receiver: 7,
        release: "0.1.0".to_owned(),
        ..Default::default()
    }
}

/// Reads a message; what is written of it must read back the same.
pub(super) fn rewritten<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(&message.encode_to_vec()[..]).expect("what was written reads back");
    assert_eq!(again, message);
    Some(message)
}

fn run(data: &[u8]) {
    let Some((method, body)) = data.split_first() else {
        return;
    };
    let method = METHODS[usize::from(*method) % METHODS.len()];
    if !(method.rewrite)(body) {
        // Refused before anything of the node is asked.
        return;
    }
    let mut served = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    // A node keeps what it is given: now and then it is a new one, so that a long run does not fill the memory.
    if served.as_ref().is_none_or(|served| served.calls >= CALLS_MAX) {
        drop(served.take());
        *served = Some(Served::start());
    }
    let served = served.as_mut().unwrap();
    served.calls += 1;
    if let Err(status) = served.call(method, body) {
        // A request is refused for what it is, or for what the node is; never for what the node is not prepared for.
        let is_unforeseen = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
        assert!(!is_unforeseen, "{}: {status}", method.path);
    }
}

const CALLS_MAX: u32 = 200_000;

/// Nothing here waits for long, except on purpose: a claim waits for its name, an exchange for its end.
const PATIENCE: Duration = Duration::from_millis(20);

static SERVED: Mutex<Option<Served>> = Mutex::new(None);

/// A standalone node.
struct Served {
    // Before the runtime that its tasks run on.
    node: Option<Node>,
    runtime: Runtime,
    calls: u32,
    _data: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.stop()).expect("the node stops");
        }
    }
}

impl Served {
    fn start() -> Self {
        let memory = Path::new("/dev/shm");
        let data = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let data = data.unwrap();
        let directory = data.path().join("data");
        let flags = [
            "rdb-server",
            "--node=n1",
            "--etcd=",
            "--data-dir",
            directory.to_str().unwrap(),
        ];
        let settings = <Settings as clap::Parser>::try_parse_from(flags).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let node = runtime.block_on(async {
            let node = node::start(&settings).await.expect("a node starts");
            node.handle().serving().await;
            node
        });
        Self {
            node: Some(node),
            runtime,
            calls: 0,
            _data: data,
        }
    }

    fn call(&self, method: Method, body: &[u8]) -> Result<(), Status> {
        let handle = self.node.as_ref().expect("it was not stopped").handle();
        let api = Api::new(handle.clone());
        let path = method.path;
        let service = path.split('/').nth(1).unwrap_or_default();
        let body = Bytes::copy_from_slice(body);
        macro_rules! call {
            ($service:expr) => {
                maybe(PATIENCE, answer(Grpc::new($service), method, body))
            };
        }
        let answered = match service {
            "rdb.v1.Data" => self.runtime.block_on(async { call!(api.data()).await }),
            "rdb.v1.Changes" => self.runtime.block_on(async { call!(api.changes()).await }),
            "rdb.v1.Subscriptions" => self.runtime.block_on(async { call!(api.subscriptions()).await }),
            "rdb.v1.Cluster" => self.runtime.block_on(async { call!(api.cluster()).await }),
            "rdb.v1.Admin" => self.runtime.block_on(async { call!(api.admin()).await }),
            _ => self
                .runtime
                .block_on(async { call!(handle.member_service()).await }),
        };
        answered.unwrap_or(Ok(()))
    }
}

/// The first messages of the answer.
async fn answer<S>(mut grpc: Grpc<S>, method: Method, body: Bytes) -> Result<(), Status>
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError>,
{
    const MESSAGES: usize = 3;
    let is_ready = grpc.ready().await.is_ok();
    assert!(is_ready, "a service in this process takes calls");
    let path = PathAndQuery::from_static(method.path);
    let bodies = if method.is_stream {
        vec![body.clone(), body]
    } else {
        vec![body]
    };
    let request = Request::new(tokio_stream::iter(bodies));
    let mut answers = grpc
        .streaming(request, path, RawCodec)
        .await?
        .into_inner()
        .take(MESSAGES);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let numbered = METHODS.iter().zip(0..);
    numbered
        .map(|(method, number): (&Method, u8)| {
            let name = method
                .path
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .replace('/', "-")
                .to_lowercase();
            named(&name, [vec![number], (method.seed)()].concat())
        })
        .collect()
}
