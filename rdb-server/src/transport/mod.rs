//! Messages between members of seats, over gRPC.
//!
//! Each node calls each other one, for its own direction: what a node says goes over the call that it made itself,
//! messages of all seats together in one stream. Losing a message is allowed by the protocol, so nothing here waits
//! for anybody: a queue that is full loses what comes, and so does a connection that breaks.
//!
//! | file | decides |
//! |---|---|
//! | `peer` | the connection to one other node, and what waits for it |
//! | `inbox` | who gets what comes in |
//! | `wire` | messages in wire form and back |

mod inbox;
mod peer;
mod wire;

pub use inbox::MemberService;

use crate::protocol::Message;
use peer::Peer;
use rdb_proto::member;
use rdb_proto::member::member_server::MemberServer;
use rdb_proto::types::{NodeId, SeatId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Version of the protocol between nodes.
const PROTOCOL: u32 = 1;

/// Who this node is to the others.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its database.
    pub database: Uuid,
    /// This start of it.
    pub incarnation: Uuid,
}

impl Identity {
    fn hello(self) -> member::Hello {
        member::Hello {
            protocol: PROTOCOL,
            node: self.node.0,
            database: self.database.as_bytes().to_vec().into(),
            incarnation: self.incarnation.as_bytes().to_vec().into(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What a seat hears of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeatMail {
    /// A message for it.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Connections to the node are refused: its process is gone.
    Unreachable(NodeId),
}

/// What was sent, received and lost, in messages.
#[derive(Debug, Default)]
pub struct TransportStats {
    /// Handed to a connection.
    pub sent: AtomicU64,
    /// Came in and went to their seat.
    pub received: AtomicU64,
    /// Lost, since a queue was full or a connection broken.
    pub lost: AtomicU64,
}

/// The seats of this node, by the queue of each.
type Seats = Arc<Mutex<BTreeMap<SeatId, mpsc::Sender<SeatMail>>>>;

/// The ways to other nodes.
#[derive(Debug)]
pub struct Transport {
    identity: Identity,
    seats: Seats,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    stats: Arc<TransportStats>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Transport {
    /// Without any peer yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            seats: Seats::default(),
            peers: Mutex::default(),
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Where a seat of this node gets its mail. What does not fit the queue is lost.
    pub fn register(&self, seat: SeatId, mail: mpsc::Sender<SeatMail>) {
        lock(&self.seats).insert(seat, mail);
    }

    /// The other nodes, as host:port. Connections to those that are not named any more, or elsewhere now, end. Must
    /// be called where tasks of a runtime can be spawned.
    pub fn set_peers(&self, addresses: BTreeMap<NodeId, String>) {
        let mut peers = lock(&self.peers);
        peers.retain(|node, peer| {
            addresses
                .get(node)
                .is_some_and(|address| *address == peer.address)
        });
        for (node, address) in addresses {
            if peers.contains_key(&node) || self.closing.is_cancelled() {
                continue;
            }
            let peer = Arc::new(Peer::new(node, address, Arc::clone(&self.stats)));
            let running = peer.run(self.identity, Arc::clone(&self.seats), self.closing.child_token());
            peers.insert(node, peer);
            // The tracker counts the task, and a panic ends the process.
            drop(self.tasks.spawn(running));
        }
    }

    /// Sends a message of a seat. Never waits; what cannot be sent is lost.
    pub fn send(&self, to: NodeId, seat: SeatId, message: Message) {
        let peer = lock(&self.peers).get(&to).map(Arc::clone);
        match peer {
            Some(peer) => peer.send(wire::to_wire(seat, message)),
            None => {
                self.stats.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The gRPC service that other nodes call.
    pub fn service(&self) -> MemberServer<MemberService> {
        let inbox = MemberService::new(
            self.identity,
            Arc::clone(&self.seats),
            Arc::clone(&self.stats),
            self.closing.clone(),
        );
        MemberServer::new(inbox).max_decoding_message_size(crate::limits::LETTERS_BYTES_MAX)
    }

    /// What was sent, received and lost so far.
    pub fn stats(&self) -> &TransportStats {
        &self.stats
    }

    /// Ends every connection, and waits for their tasks.
    pub async fn close(&self) {
        self.closing.cancel();
        lock(&self.peers).clear();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A panic while one of these locks was held left no half-made change: each is one insertion or removal.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
