//! What nodes tell each other of the coordinator ([`Seen`]): one question and one answer, on a connection of its own,
//! so that an answer is to the question that was asked and to no earlier one.

use super::peer::hello_to;
use super::{Shared, Transport};
use crate::clock;
use crate::limits::{CONNECT_TIMEOUT, SEEN_ANSWER_TIMEOUT};
use crate::protocol::Seen;
use crate::transport::wire;
use rdb_proto::member::member_client::MemberClient;
use rdb_proto::member::tell_seen_response::Answer;
use rdb_proto::member::{TellSeenRequest, TellSeenResponse};
use rdb_proto::network;
use rdb_proto::types::NodeId;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::transport::Endpoint;

/// Another node asks; the answer must hold everything that is durable here when the question is taken.
pub type SeenAsked = oneshot::Sender<Seen>;

impl Transport {
    /// Questions of other nodes go to `asked`. Only the first call counts.
    pub fn answer_seen(&self, asked: mpsc::Sender<SeenAsked>) {
        drop(self.shared.seen_asked.set(asked));
    }

    /// Asks a node, which may be this one, what it has seen. `None` when it cannot be reached, or does not answer in
    /// time.
    pub fn ask_seen(&self, to: NodeId) -> impl Future<Output = Option<Seen>> + Send + use<> {
        let address = self.peers.borrow().get(&to).map(|peer| peer.address().to_owned());
        let shared = Arc::clone(&self.shared);
        async move {
            let asking = async {
                if to == shared.me.node {
                    return own(&shared).await;
                }
                let unknown = || Status::unavailable("its address is not known");
                ask(&shared, to, address.ok_or_else(unknown)?).await
            };
            match clock::within(SEEN_ANSWER_TIMEOUT, Box::pin(asking)).await? {
                Ok(seen) => Some(seen),
                Err(status) => {
                    tracing::debug!(node = %to, %status, "a node does not tell what it has seen of etcd");
                    None
                }
            }
        }
    }
}

async fn ask(shared: &Shared, to: NodeId, address: String) -> Result<Seen, Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unavailable)?;
    let channel = network::connect(&endpoint.connect_timeout(CONNECT_TIMEOUT)).await;
    let mut client = MemberClient::new(channel.map_err(unavailable)?);
    let request = TellSeenRequest {
        hello: Some(hello_to(&shared.me, to)),
    };
    match client.tell_seen(request).await?.into_inner().answer {
        Some(Answer::Seen(seen)) => {
            wire::seen_from_wire(seen).ok_or_else(|| Status::internal("what it tells cannot be read"))
        }
        Some(Answer::Refusal(refusal)) => Err(Status::failed_precondition(refusal.reason().as_str_name())),
        None => Err(Status::internal("it tells nothing")),
    }
}

/// Has the question of a node that is welcome answered.
pub(super) async fn answer(shared: &Shared) -> Result<TellSeenResponse, Status> {
    let seen = own(shared).await?;
    Ok(TellSeenResponse {
        answer: Some(Answer::Seen(wire::seen_to_wire(&seen))),
    })
}

async fn own(shared: &Shared) -> Result<Seen, Status> {
    let closed = || Status::unavailable("this node does not tell what it has seen now");
    let asked = shared.seen_asked.get().ok_or_else(closed)?;
    let (reply, told) = oneshot::channel();
    asked.send(reply).await.map_err(|_closed| closed())?;
    told.await.map_err(|_closed| closed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::{membership, seat};
    use rdb_proto::types::{GroupId, Seq, Timestamp};
    use std::collections::BTreeMap;

    #[test]
    fn what_was_seen_is_read_back_as_it_was_told() {
        let seen = Seen {
            generation: 2,
            revision: 70,
            counter: Seq(1 << 40),
            time: Timestamp(9),
            epochs: BTreeMap::from([(seat(1), 7), (seat(2), 8)]),
            members: BTreeMap::from([(GroupId(1), membership())]),
        };
        assert_eq!(wire::seen_from_wire(wire::seen_to_wire(&seen)), Some(seen));
    }
}
