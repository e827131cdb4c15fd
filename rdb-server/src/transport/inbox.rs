//! What comes in from other nodes, and who gets it.

use super::{Identity, PROTOCOL, SeatMail, Seats, TransportStats, lock, wire};
use rdb_proto::member;
use rdb_proto::member::member_server::Member;
use rdb_proto::types::NodeId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The service that other nodes call.
#[derive(Debug)]
pub struct MemberService {
    identity: Identity,
    seats: Seats,
    counts: Arc<TransportStats>,
    closing: CancellationToken,
}

impl MemberService {
    pub(super) const fn new(
        identity: Identity,
        seats: Seats,
        counts: Arc<TransportStats>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            identity,
            seats,
            counts,
            closing,
        }
    }

    /// The sender, when it may speak to this node.
    fn welcome(&self, hello: Option<&member::Hello>) -> Result<NodeId, Status> {
        let hello = hello.ok_or_else(|| Status::invalid_argument("the first batch must name the sender"))?;
        if hello.protocol != PROTOCOL {
            let text = format!(
                "this node speaks protocol {PROTOCOL} of members, the caller (release {}) {}",
                hello.release, hello.protocol
            );
            return Err(Status::failed_precondition(text));
        }
        if hello.database.as_ref() != self.identity.database.as_bytes() {
            let text = format!(
                "this node belongs to database {}, the caller does not",
                self.identity.database
            );
            return Err(Status::failed_precondition(text));
        }
        Ok(NodeId(hello.node))
    }

    /// Hands a letter to its seat. One that cannot be read is lost, and those of other seats are not.
    fn deliver(&self, from: NodeId, letter: member::Letter) {
        let (seat, message) = match wire::from_wire(letter) {
            Ok(read) => read,
            Err(error) => {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(node = %from, %error, "a message cannot be read");
                return;
            }
        };
        let mail = SeatMail::Message { from, message };
        let is_delivered = lock(&self.seats)
            .get(&seat)
            .is_some_and(|queue| queue.try_send(mail).is_ok());
        let count = if is_delivered {
            &self.counts.received
        } else {
            &self.counts.lost
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Member for MemberService {
    async fn exchange(
        &self,
        request: Request<Streaming<member::Batch>>,
    ) -> Result<Response<member::Farewell>, Status> {
        let mut batches = request.into_inner();
        let mut from = None;
        loop {
            let batch = tokio::select! {
                batch = batches.message() => batch?,
                () = self.closing.cancelled() => return Err(Status::unavailable("the node is stopping")),
            };
            let Some(batch) = batch else {
                return Ok(Response::new(member::Farewell {}));
            };
            let sender = match from {
                Some(sender) => sender,
                None => *from.insert(self.welcome(batch.hello.as_ref())?),
            };
            for letter in batch.letters {
                self.deliver(sender, letter);
            }
        }
    }
}
