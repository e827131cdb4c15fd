//! The connection to one other node, and what waits for it.

use super::{Identity, SeatMail, Seats, TransportStats, lock, wire};
use crate::clock;
use crate::limits::{
    LETTERS_BYTES_MAX, PEER_BATCH_BYTES, PEER_CONNECT_TIMEOUT, PEER_KEEP_ALIVE, PEER_QUEUE_BYTES_MAX,
    PEER_QUEUE_MAX, PEER_RETRY_MAX, PEER_RETRY_MIN,
};
use rdb_proto::member;
use rdb_proto::member::member_client::MemberClient;
use rdb_proto::types::NodeId;
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Another node.
#[derive(Debug)]
pub(super) struct Peer {
    node: NodeId,
    pub(super) address: String,
    queue: Mutex<Queue>,
    /// Told when something is queued.
    filled: Arc<Notify>,
    /// Ends its task.
    leaving: CancellationToken,
    stats: Arc<TransportStats>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Letters are taken while a connection stands, and lost otherwise: what waited for long is of no use.
    is_open: bool,
    letters: VecDeque<member::Letter>,
    bytes: usize,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.leaving.cancel();
    }
}

impl Peer {
    pub(super) fn new(node: NodeId, address: String, stats: Arc<TransportStats>) -> Self {
        Self {
            node,
            address,
            queue: Mutex::default(),
            filled: Arc::default(),
            leaving: CancellationToken::new(),
            stats,
        }
    }

    pub(super) fn send(&self, letter: member::Letter) {
        let bytes = wire::entry_bytes(&letter);
        let is_taken = {
            let mut queue = lock(&self.queue);
            let fits = queue.letters.len() < PEER_QUEUE_MAX
                && queue.bytes.saturating_add(bytes) <= PEER_QUEUE_BYTES_MAX;
            let is_taken = queue.is_open && fits;
            if is_taken {
                queue.bytes = queue.bytes.saturating_add(bytes);
                queue.letters.push_back(letter);
            }
            is_taken
        };
        if is_taken {
            self.filled.notify_one();
        } else {
            self.stats.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a connection until the transport closes or the peer is dropped.
    pub(super) fn run(
        self: &Arc<Self>,
        identity: Identity,
        seats: Seats,
        closing: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        // The task must not keep the peer alive: dropping the peer is what ends it.
        let peer = Arc::downgrade(self);
        let leaving = self.leaving.clone();
        let (node, address) = (self.node, self.address.clone());
        let filled = Arc::clone(&self.filled);
        let connection = Connection {
            peer,
            node,
            address,
            filled,
            identity,
            seats,
        };
        async move {
            tokio::select! {
                () = connection.keep() => {}
                () = leaving.cancelled() => {}
                () = closing.cancelled() => {}
            }
        }
    }

    /// What waits, up to the bytes of a batch; at least one letter when there is any.
    fn take(&self) -> Vec<member::Letter> {
        let mut queue = lock(&self.queue);
        let mut taken = Vec::new();
        let mut bytes = 0_usize;
        while bytes < PEER_BATCH_BYTES
            && let Some(letter) = queue.letters.pop_front()
        {
            bytes = bytes.saturating_add(wire::entry_bytes(&letter));
            taken.push(letter);
        }
        queue.bytes = queue.bytes.saturating_sub(bytes);
        taken
    }

    fn set_open(&self, is_open: bool) {
        let mut queue = lock(&self.queue);
        let lost = u64::try_from(queue.letters.len()).unwrap_or(u64::MAX);
        *queue = Queue {
            is_open,
            ..Queue::default()
        };
        drop(queue);
        self.stats.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

/// The task's side of a peer.
struct Connection {
    peer: std::sync::Weak<Peer>,
    node: NodeId,
    address: String,
    filled: Arc<Notify>,
    identity: Identity,
    seats: Seats,
}

impl Connection {
    #[expect(clippy::infinite_loop, reason = "it ends with its task")]
    async fn keep(self) {
        let mut wait = PEER_RETRY_MIN;
        let mut is_told = false;
        loop {
            match self.connect().await {
                Ok(channel) => {
                    tracing::debug!(node = %self.node, address = self.address, "connected");
                    let began = clock::monotonic();
                    let status = self.talk(channel).await;
                    let lasted = clock::monotonic().saturating_duration_since(began);
                    if let Some(peer) = self.peer.upgrade() {
                        peer.set_open(false);
                    }
                    if lasted > PEER_RETRY_MAX {
                        // Tried again at once: whether that is refused shows whether the process is gone.
                        (wait, is_told) = (PEER_RETRY_MIN, false);
                        tracing::debug!(node = %self.node, address = self.address, %status, "connection lost");
                        continue;
                    }
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(node = %self.node, address = self.address, "refused: {}", status.message());
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(node = %self.node, address = self.address, error = %root(&error), "cannot connect; trying again");
                    }
                    if is_refused(&error) {
                        self.tell_unreachable();
                    }
                }
            }
            clock::sleep(wait).await;
            wait = wait.saturating_mul(2).min(PEER_RETRY_MAX);
        }
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(PEER_CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PEER_KEEP_ALIVE)
            .keep_alive_timeout(PEER_KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
    }

    /// Sends what is queued until the connection breaks; returns why it did.
    async fn talk(&self, channel: Channel) -> tonic::Status {
        let (batches, outgoing) = mpsc::channel(1);
        let hello = member::Batch {
            hello: Some(self.identity.hello()),
            letters: Vec::new(),
        };
        if batches.try_send(hello).is_ok()
            && let Some(peer) = self.peer.upgrade()
        {
            peer.set_open(true);
        }
        let mut client = MemberClient::new(channel).max_encoding_message_size(LETTERS_BYTES_MAX);
        let exchange = client.exchange(ReceiverStream::new(outgoing));
        tokio::pin!(exchange);
        loop {
            let batch = async {
                // Room first, then letters: what waits meanwhile goes along.
                let room = batches.reserve().await;
                loop {
                    let letters = self.peer.upgrade().map(|peer| peer.take()).unwrap_or_default();
                    if !letters.is_empty() {
                        return (room, letters);
                    }
                    self.filled.notified().await;
                }
            };
            tokio::select! {
                ended = &mut exchange => {
                    return ended.err().unwrap_or_else(|| tonic::Status::unavailable("the other node ended the call"));
                }
                (room, letters) = batch => {
                    if let (Ok(room), Some(peer)) = (room, self.peer.upgrade()) {
                        let count = u64::try_from(letters.len()).unwrap_or(u64::MAX);
                        peer.stats.sent.fetch_add(count, Ordering::Relaxed);
                        room.send(member::Batch { hello: None, letters });
                    }
                }
            }
        }
    }

    fn tell_unreachable(&self) {
        for queue in lock(&self.seats).values() {
            // A seat with a full queue has other worries; the next attempt tells it again.
            drop(queue.try_send(SeatMail::Unreachable(self.node)));
        }
    }
}

/// Nobody listens there: the process is gone. A time-out or anything else is no evidence.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

/// The innermost cause, which says most.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
