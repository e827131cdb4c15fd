//! Messages between the nodes of a database. They are moved; nothing about them is judged here.
//!
//! ```text
//! seat ─ Transport::send ─► queue of the peer ─► batch ─► stream ═══► Inbound ─ SeatMail ─► queue of the seat
//!        never waits          bounded         all that    HTTP/2       decodes              bounded
//!                                             waits
//! ```
//! - A node dials every peer for what it has to say itself; what the peer says comes over the peer's own stream. One
//!   stream carries the messages of all seats, in the order in which they were sent.
//! - A batch is made when the stream can take one, of everything that waits then: the heartbeats of many seats share
//!   a message, and HTTP/2's flow control is the back-pressure. No timer is between a message and the wire.
//! - Whatever does not fit a queue is dropped and counted ([`TransportStats`]): the protocol allows for loss, and a
//!   sender that waited would make one slow node everybody's trouble. What waits while a peer cannot be reached is
//!   dropped too, since the answer to an old heartbeat proves nothing.
//! - A stream that ends is opened anew at once. When that connection is **refused**, the peer's process is gone, and
//!   every seat is told ([`SeatMail::Unreachable`]): what makes a failover after a crash immediate (DESIGN 5). Silence,
//!   a timeout or any other error is no evidence.
//! - Both ends of a stream must agree on the database, on the version of the exchange, and on who the receiver is.
//!
//! | file | decides |
//! |---|---|
//! | `queue` | what waits for a peer, and what is dropped |
//! | `peer` | when a peer is dialled, and what a failure proves |
//! | `inbound` | whose stream is taken, and which of two |
//! | `seats` | where a message goes on this node |
//! | `seen` | how nodes tell each other what they have seen of the coordinator |
//! | `numbers` | how nodes ask each other for numbers |
//! | `wire` | how a message is written |
//! | `stats` | what is counted |

mod inbound;
mod numbers;
mod peer;
mod queue;
mod seats;
mod seen;
mod stats;
#[cfg(test)]
mod tests;
pub mod wire;

pub use inbound::Inbound;
pub use numbers::GivesNumbers;
pub use seats::SeatMail;
pub use seen::SeenAsked;
pub use stats::{Count, TransportStats};
pub use wire::TransportError;

use crate::limits::EXCHANGE_BYTES_MAX;
use crate::protocol::Message;
use peer::Peer;
use rdb_proto::member::member_server::MemberServer;
use rdb_proto::types::{NodeId, SeatId};
use seats::Seats;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Version of what nodes say to each other. Raised when an older release would misread it.
const EXCHANGE_VERSION: u32 = 1;

/// Who this node is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The database that it is of.
    pub database: Uuid,
    /// This run of its process.
    pub incarnation: Uuid,
}

/// What all tasks of the room share.
#[derive(Debug)]
struct Shared {
    me: Identity,
    seats: Seats,
    /// Where questions go about what this node has seen of the coordinator.
    seen_asked: OnceLock<mpsc::Sender<SeenAsked>>,
    /// Who takes numbers for other nodes.
    giver: OnceLock<Arc<dyn GivesNumbers>>,
    stats: TransportStats,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// The way to the other nodes and back. Cheap to clone; when the last clone is dropped, no peer is dialled any more.
#[derive(Debug, Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    peers: Arc<watch::Sender<BTreeMap<NodeId, Peer>>>,
    inbound: Inbound,
}

impl Transport {
    /// Without peers and seats. Its tasks run in `tasks`, and end when `stopping` is cancelled.
    pub fn new(me: Identity, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            me,
            seats: Seats::default(),
            seen_asked: OnceLock::new(),
            giver: OnceLock::new(),
            stats: TransportStats::default(),
            tasks,
            stopping,
        });
        Self {
            inbound: Inbound::new(Arc::clone(&shared)),
            peers: Arc::default(),
            shared,
        }
    }

    /// Messages for this seat go to `mail` from now on. When it is full they are dropped.
    pub fn register(&self, seat: SeatId, mail: mpsc::Sender<SeatMail>) {
        self.shared.seats.register(seat, mail);
    }

    /// Messages for this seat are dropped from now on.
    pub fn unregister(&self, seat: SeatId) {
        self.shared.seats.unregister(seat);
    }

    /// These are the other nodes, and where they are reached (`host:port`). Who is new or moved is dialled, who is
    /// not named any more is let go, and all others keep their streams. This node may be among them.
    ///
    /// Must be called where tasks of a runtime can be spawned.
    pub fn set_peers(&self, addresses: &BTreeMap<NodeId, String>) {
        self.peers.send_modify(|peers| {
            peers.retain(|node, peer| addresses.get(node).is_some_and(|address| peer.is_at(address)));
            for (node, address) in addresses {
                if *node != self.shared.me.node && !peers.contains_key(node) {
                    peers.insert(*node, Peer::start(&self.shared, *node, address));
                }
            }
        });
    }

    /// Sends a message to a node's member of a seat. Never waits: without room, or without such a peer, it is
    /// dropped and counted.
    pub fn send(&self, to: NodeId, seat: SeatId, message: Message) {
        let is_taken = self
            .peers
            .borrow()
            .get(&to)
            .is_some_and(|peer| peer.send(seat, message));
        if !is_taken {
            self.shared.stats.outbound_dropped.add(1);
        }
    }

    /// What other nodes dial, for the gRPC server.
    pub fn service(&self) -> MemberServer<Inbound> {
        MemberServer::new(self.inbound.clone()).max_decoding_message_size(EXCHANGE_BYTES_MAX)
    }

    /// What was moved and dropped so far.
    pub fn stats(&self) -> &TransportStats {
        &self.shared.stats
    }
}
