//! One peer: when it is dialled, what is sent over the stream, and what a failure proves.

use super::queue::Queue;
use super::{EXCHANGE_VERSION, Identity, Shared, wire};
use crate::clock::{self, BackOff};
use crate::limits::{
    BACK_OFF, BACK_OFF_MAX, CONNECT_TIMEOUT, EXCHANGE_BYTES_MAX, PEER_KEEP_ALIVE, PEER_KEEP_ALIVE_TIMEOUT,
};
use crate::protocol::Message;
use futures::stream::{self, Stream, StreamExt as _};
use prost::Message as _;
use rdb_proto::member::exchange_request::Part;
use rdb_proto::member::exchange_response::Answer;
use rdb_proto::member::member_client::MemberClient;
use rdb_proto::member::{Batch, ExchangeRequest, ExchangeResponse, Hello, RefusalReason};
use rdb_proto::network;
use rdb_proto::types::{NodeId, SeatId};
use std::error::Error;
use std::future::ready;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// The handle of a peer; its task ends when it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    address: String,
    queue: Arc<Queue>,
    /// For questions that are answered one by one; connected with the first of them.
    calls: Option<Channel>,
    _closing: DropGuard,
}

impl Peer {
    pub(super) fn start(shared: &Arc<Shared>, node: NodeId, address: &str) -> Self {
        let queue = Arc::new(Queue::default());
        let closing = shared.stopping.child_token();
        let dialler = Dialler::new(shared, node, address, &queue);
        // The handle is not needed: the tracker counts the task.
        drop(shared.tasks.spawn(dialler.run(closing.clone())));
        Self {
            address: address.to_owned(),
            queue,
            calls: calls_to(address),
            _closing: closing.drop_guard(),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// `None` when the address is none.
    pub(super) fn calls(&self) -> Option<Channel> {
        self.calls.clone()
    }

    pub(super) fn is_at(&self, address: &str) -> bool {
        self.address == address
    }

    /// Whether there was room for the message.
    pub(super) fn send(&self, seat: SeatId, message: Message) -> bool {
        self.queue.put(seat, message)
    }
}

/// A channel that connects when it is first used, and anew when the connection broke.
fn calls_to(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PEER_KEEP_ALIVE)
        .keep_alive_timeout(PEER_KEEP_ALIVE_TIMEOUT);
    Some(network::connect_lazily(&endpoint))
}

/// Why there is no stream to a peer.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("it did not answer within {CONNECT_TIMEOUT:?}")]
    Silent,
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the stream broke: {0}")]
    Broken(#[source] Box<Status>),
    #[error("the stream ended without an answer")]
    Ended,
    #[error("it refuses this node: {}", .0.as_str_name())]
    Refused(RefusalReason),
}

impl From<Status> for DialError {
    fn from(status: Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

impl DialError {
    /// The peer's machine answers, and nothing listens there: the process is gone.
    fn is_connection_refused(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if kind == Some(io::ErrorKind::ConnectionRefused) {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// A stream that the peer has welcomed.
#[derive(Debug)]
pub(super) struct Open {
    answers: Streaming<ExchangeResponse>,
    /// Ends the sending half.
    _sending: DropGuard,
}

/// Keeps a stream to one peer.
#[derive(Debug)]
pub(super) struct Dialler {
    shared: Arc<Shared>,
    node: NodeId,
    address: String,
    queue: Arc<Queue>,
    back_off: BackOff,
    /// Operators know that the peer cannot be reached.
    is_told: bool,
}

impl Open {
    /// Waits for the end of the stream; what broke it, unless the peer ended it.
    pub(super) async fn ended(&mut self) -> Option<Status> {
        loop {
            match self.answers.message().await {
                // Of a later release.
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

impl Dialler {
    pub(super) fn new(shared: &Arc<Shared>, node: NodeId, address: &str, queue: &Arc<Queue>) -> Self {
        Self {
            shared: Arc::clone(shared),
            node,
            address: address.to_owned(),
            queue: Arc::clone(queue),
            back_off: BackOff::new(BACK_OFF, BACK_OFF_MAX),
            is_told: false,
        }
    }

    async fn run(mut self, closing: CancellationToken) {
        while closing.run_until_cancelled(self.attempt()).await.is_some() {}
        self.drop_waiting();
    }

    /// Dials, stays for as long as the stream holds, and waits before the next attempt.
    async fn attempt(&mut self) {
        let opened = clock::within(CONNECT_TIMEOUT, Box::pin(self.dial())).await;
        match opened.unwrap_or(Err(DialError::Silent)) {
            Ok(open) => {
                let began = clock::monotonic();
                self.stay(open).await;
                // At once, since how this one ends tells whether the process is gone; but not in a tight circle.
                if clock::monotonic().saturating_duration_since(began) >= BACK_OFF {
                    self.back_off.reset();
                    return;
                }
            }
            Err(error) => self.failed(&error),
        }
        self.back_off.wait().await;
    }

    async fn stay(&mut self, mut open: Open) {
        let _connected = self.shared.stats.peers_connected.hold();
        self.is_told = false;
        tracing::info!(node = %self.node, address = self.address, "connected to a node");
        let broken = open.ended().await;
        let status = broken.as_ref().map(tracing::field::display);
        tracing::info!(node = %self.node, address = self.address, status, "the stream to a node ended");
    }

    fn failed(&mut self, error: &DialError) {
        let is_gone = error.is_connection_refused();
        if is_gone {
            self.shared.stats.connections_refused.add(1);
            self.shared.seats.unreachable(self.node);
        }
        self.drop_waiting();
        let (node, address) = (self.node, self.address.as_str());
        if std::mem::replace(&mut self.is_told, true) {
            tracing::debug!(%node, address, %error, is_gone, "still no stream to a node");
        } else {
            tracing::warn!(%node, address, %error, is_gone, "no stream to a node; trying on");
        }
    }

    fn drop_waiting(&self) {
        self.shared.stats.outbound_dropped.add(self.queue.clear());
    }

    /// Connects, says hello, and waits to be welcomed.
    pub(super) async fn dial(&self) -> Result<Open, DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PEER_KEEP_ALIVE)
            .keep_alive_timeout(PEER_KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = network::connect(&endpoint).await?;
        let sending = CancellationToken::new();
        let (welcome, welcomed) = oneshot::channel();
        let requests = self.requests(welcomed, sending.clone());
        let sending = sending.drop_guard();
        let mut client = MemberClient::new(channel).max_encoding_message_size(EXCHANGE_BYTES_MAX);
        let mut answers = client.exchange(requests).await?.into_inner();
        match answers.message().await?.and_then(|first| first.answer) {
            Some(Answer::Welcome(_)) if welcome.send(()).is_ok() => Ok(Open {
                answers,
                _sending: sending,
            }),
            Some(Answer::Refusal(refusal)) => Err(DialError::Refused(refusal.reason())),
            Some(Answer::Welcome(_)) | None => Err(DialError::Ended),
        }
    }

    /// A hello and, once that is welcomed, batches: each is made when the connection asks for it, of what waits then.
    fn requests(
        &self,
        welcomed: oneshot::Receiver<()>,
        sending: CancellationToken,
    ) -> impl Stream<Item = ExchangeRequest> + use<> {
        let sender = Sender {
            shared: Arc::clone(&self.shared),
            queue: Arc::clone(&self.queue),
            sending,
            welcomed: Some(welcomed),
        };
        let batches = stream::unfold(sender, async |mut sender| {
            let batch = sender.next().await?;
            Some((request(Part::Batch(batch)), sender))
        });
        stream::once(ready(request(Part::Hello(hello_to(&self.shared.me, self.node))))).chain(batches)
    }
}

/// Who this node is, to the node `to`.
pub(super) fn hello_to(me: &Identity, to: NodeId) -> Hello {
    Hello {
        sender: me.node.0,
        incarnation: me.incarnation.as_bytes().to_vec().into(),
        database: me.database.as_bytes().to_vec().into(),
        receiver: to.0,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        exchange_version: EXCHANGE_VERSION,
    }
}

/// The sending half of a stream.
struct Sender {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sending: CancellationToken,
    welcomed: Option<oneshot::Receiver<()>>,
}

impl Sender {
    /// The next batch; `None` when the stream is not welcome, or not used any more.
    async fn next(&mut self) -> Option<Batch> {
        if let Some(welcomed) = self.welcomed.take() {
            welcomed.await.ok()?;
        }
        let messages = self.sending.run_until_cancelled(self.queue.batch()).await?;
        let messages = messages.into_iter();
        let batch = Batch {
            messages: messages
                .map(|(seat, message)| wire::to_wire(seat, message))
                .collect(),
        };
        self.shared.stats.messages_sent.add(batch.messages.len());
        self.shared.stats.bytes_sent.add(batch.encoded_len());
        Some(batch)
    }
}

const fn request(part: Part) -> ExchangeRequest {
    ExchangeRequest { part: Some(part) }
}
