//! No database: what gRPC calls and streams cost by themselves, with the library that RDB and UmaDB are built on. A server
//! that answers at once, in a process of its own.

use super::Entry;
use crate::peer::{Connection, Peer, UNDER_WAY_MAX};
use crate::servers::{Ending, Servers, free_port};
use crate::work::Work;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::future::{BoxFuture, Ready, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::task;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{Service, http};
use tonic::server::{self, NamedService, ServerStreamingService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

/// The flag of this program that makes it the server.
pub const FLAG: &str = "--bare-server";
const ONLY_ANSWERS: &str = "it answers, and does nothing else";
const NO_PAYLOAD: &str = "its calls have no payload";
/// Windows of HTTP/2, the same as those of RDB: with smaller ones a stream waits for its reader.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes of an event in RDB's stream: 256 of payload; the rest is its key, version, seq, id and time.
const EVENT_BYTES: u64 = 301;
/// Events of a message there: batches of 100 until there are 256 KiB.
const MESSAGE_EVENTS: u64 = 900;

pub const ENTRIES: [Entry; 1] = [Entry {
    peer: "bare",
    title: "bare gRPC",
    setting: "nothing behind it: the bound of all that answer gRPC",
    survives_power_loss: false,
    nodes: 1,
    how: "`Check` of the standard health service of `tonic`, without payload, in place of an append; catch-up: a stream from the server of messages as long as RDB's, counted by their bytes; without waiting: a stream of payloads, each answered with a number",
    lacks: |work| match work {
        Work::Append(_) | Work::Shared(_) | Work::CatchUp | Work::Pipelined => None,
        Work::AppendLarge(_) => Some(NO_PAYLOAD),
        Work::Latest | Work::Batches | Work::Subscriber(_) | Work::Restart | Work::AppendExpecting => {
            Some(ONLY_ANSWERS)
        }
    },
    version: || Ok("tonic 0.14".to_owned()),
    missing: super::nothing,
    start: |servers| start(servers).boxed_local(),
}];

/// Serves until it is killed.
pub async fn serve(port: u16) -> Result<()> {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .add_service(Streams);
    Ok(server.serve((Ipv4Addr::LOCALHOST, port).into()).await?)
}

/// The server's service of two streams, as a generated one would be.
#[derive(Clone)]
struct Streams;

impl NamedService for Streams {
    const NAME: &str = "compare.Streams";
}

const READ: &str = "/compare.Streams/Read";
const APPEND: &str = "/compare.Streams/Append";

impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = async move {
            match request.uri().path() {
                READ => {
                    let mut grpc = server::Grpc::new(ProstCodec::default());
                    grpc.server_streaming(Read, request).await
                }
                APPEND => {
                    let mut grpc = server::Grpc::new(ProstCodec::default());
                    grpc.streaming(Append, request).await
                }
                _ => Status::unimplemented("there is no such method").into_http(),
            }
        };
        answer.map(Ok).boxed()
    }
}

/// So many events, in as many messages as they take.
struct Read;

impl ServerStreamingService<u64> for Read {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<u64>) -> Self::Future {
        let message = Bytes::from(vec![0; (MESSAGE_EVENTS * EVENT_BYTES) as usize]);
        let count = request.into_inner().div_ceil(MESSAGE_EVENTS);
        let messages = (0..count).map(move |_| Ok(message.clone()));
        ready(Ok(Response::new(stream::iter(messages).boxed())))
    }
}

/// An answer to each message, in order.
struct Append;

impl StreamingService<Bytes> for Append {
    type Response = u64;
    type ResponseStream = BoxStream<'static, Result<u64, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answers = request.into_inner().map_ok(|payload| payload.len() as u64);
        ready(Ok(Response::new(answers.boxed())))
    }
}

async fn start(servers: &mut Servers) -> Result<Box<dyn Peer>> {
    let port = free_port()?.to_string();
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is no text")?;
    servers.start("bare", Ending::Kill, None, &[program, FLAG, &port])?;
    let peer = Bare {
        url: format!("http://127.0.0.1:{port}"),
    };
    servers.wait_for(async || peer.open().await.map(drop)).await?;
    Ok(Box::new(peer))
}

struct Bare {
    url: String,
}

impl Bare {
    async fn open(&self) -> Result<Link> {
        let endpoint = Endpoint::from_shared(self.url.clone())?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect().await?;
        let mut link = Link {
            health: HealthClient::new(channel.clone()),
            channel,
            appends: None,
        };
        link.call().await?;
        Ok(link)
    }
}

#[async_trait]
impl Peer for Bare {
    async fn connect(&self, _number: usize) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.open().await?))
    }

    async fn share(&self, tasks: usize) -> Result<Vec<Box<dyn Connection>>> {
        let link = self.open().await?;
        let link = |_task| -> Box<dyn Connection> { Box::new(link.clone()) };
        Ok((0..tasks).map(link).collect())
    }
}

#[derive(Clone)]
struct Link {
    health: HealthClient<Channel>,
    channel: Channel,
    /// Its stream of appends, from the first one on.
    appends: Option<Appends>,
}

impl Link {
    async fn call(&mut self) -> Result<()> {
        self.health.check(HealthCheckRequest::default()).await?;
        Ok(())
    }
}

/// A stream of appends.
#[derive(Clone)]
struct Appends {
    payloads: mpsc::Sender<Bytes>,
    /// Who gets the next answers.
    callers: mpsc::Sender<oneshot::Sender<()>>,
}

impl Appends {
    fn open(channel: Channel) -> Self {
        let (payloads, outbound) = mpsc::channel(UNDER_WAY_MAX);
        let (callers, waiting) = mpsc::channel(UNDER_WAY_MAX);
        // Ends with the stream, and that with its sender. A caller that has no answer by then learns that it is over.
        tokio::spawn(answered(channel, outbound, waiting));
        Self { payloads, callers }
    }

    fn append(&mut self, payload: Bytes) -> Result<oneshot::Receiver<()>> {
        let (caller, answer) = oneshot::channel();
        self.callers.try_send(caller)?;
        self.payloads.try_send(payload)?;
        Ok(answer)
    }
}

/// Gives each caller its answer.
async fn answered(
    channel: Channel,
    outbound: mpsc::Receiver<Bytes>,
    mut waiting: mpsc::Receiver<oneshot::Sender<()>>,
) -> Result<()> {
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let (path, codec) = (
        http::uri::PathAndQuery::from_static(APPEND),
        ProstCodec::<Bytes, u64>::default(),
    );
    let mut answers = client
        .streaming(Request::new(outbound), path, codec)
        .await?
        .into_inner();
    while answers.message().await?.is_some() {
        let caller = waiting.next().await.context("an answer to nobody")?;
        // A caller that has gone does not need it.
        _ = caller.send(());
    }
    Ok(())
}

#[async_trait]
impl Connection for Link {
    async fn append(&mut self, _key: &str, _payload: Bytes) -> Result<()> {
        self.call().await
    }

    fn append_behind(&mut self, _key: String, payload: Bytes) -> BoxFuture<'static, Result<()>> {
        let channel = &self.channel;
        let appends = self.appends.get_or_insert_with(|| Appends::open(channel.clone()));
        let answer = appends.append(payload);
        async { Ok(answer?.await?) }.boxed()
    }

    async fn append_batch(&mut self, _key: &str, _payloads: Vec<Bytes>) -> Result<()> {
        bail!(ONLY_ANSWERS)
    }

    async fn latest(&mut self, _key: &str) -> Result<usize> {
        bail!(ONLY_ANSWERS)
    }

    async fn read_all(&mut self, wanted: u64) -> Result<u64> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await?;
        let (path, codec) = (
            http::uri::PathAndQuery::from_static(READ),
            ProstCodec::<u64, Bytes>::default(),
        );
        let answer = client.server_streaming(Request::new(wanted), path, codec).await?;
        let (mut messages, mut bytes) = (answer.into_inner(), 0);
        while let Some(message) = messages.message().await? {
            bytes += message.len() as u64;
        }
        Ok(bytes / EVENT_BYTES)
    }

    async fn subscribe(self: Box<Self>) -> Result<BoxStream<'static, Result<Bytes>>> {
        bail!(ONLY_ANSWERS)
    }
}
