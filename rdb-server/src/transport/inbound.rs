//! What other nodes say to this one: whose stream is taken, and which of two.

use super::{EXCHANGE_VERSION, Shared, TransportError, numbers, seen, wire};
use crate::clock;
use crate::limits::{CONNECT_TIMEOUT, REFUSALS_TOLD_MAX};
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::Message as _;
use rdb_proto::member::exchange_request::Part;
use rdb_proto::member::exchange_response::Answer;
use rdb_proto::member::member_server::Member;
use rdb_proto::member::{
    Batch, ExchangeRequest, ExchangeResponse, GiveNumbersRequest, GiveNumbersResponse, Hello, Refusal,
    RefusalReason, SeatMessage, TellSeenRequest, TellSeenResponse, Welcome, give_numbers_response,
    tell_seen_response,
};
use rdb_proto::numbers::NumbersWanted;
use rdb_proto::types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

/// The service that other nodes dial.
#[derive(Debug, Clone)]
pub struct Inbound {
    shared: Arc<Shared>,
    senders: Arc<Mutex<Senders>>,
}

/// Who sends, and who was refused.
#[derive(Debug, Default)]
struct Senders {
    /// The newest stream of each.
    streams: BTreeMap<NodeId, Newest>,
    opened: u64,
    /// What operators were told, so that they are told once: node and reason.
    refusals_told: BTreeSet<(u64, i32)>,
}

#[derive(Debug)]
struct Newest {
    number: u64,
    /// Dropped with this, the stream ends.
    _closing: DropGuard,
}

impl Inbound {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            senders: Arc::default(),
        }
    }

    /// Nothing that holds the lock can leave it half changed.
    fn senders(&self) -> MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the first request, and decides whether more are taken.
    async fn sender(
        &self,
        requests: &mut Streaming<ExchangeRequest>,
    ) -> Result<Result<NodeId, RefusalReason>, Status> {
        let first = clock::within(CONNECT_TIMEOUT, requests.message()).await;
        let Some(Some(Part::Hello(hello))) = first.transpose()?.flatten().map(|request| request.part) else {
            return Ok(Err(RefusalReason::NoHello));
        };
        Ok(self.welcomed(&hello))
    }

    /// The node that says hello, or why it is not welcome.
    fn welcomed(&self, hello: &Hello) -> Result<NodeId, RefusalReason> {
        let refusal = self.refusal(hello);
        if let Some(reason) = refusal {
            self.tell_refusal(hello, reason);
        }
        refusal.map_or(Ok(NodeId(hello.sender)), Err)
    }

    fn refusal(&self, hello: &Hello) -> Option<RefusalReason> {
        let me = &self.shared.me;
        if hello.exchange_version != EXCHANGE_VERSION {
            Some(RefusalReason::OtherVersion)
        } else if hello.database.as_ref() != me.database.as_bytes().as_slice() {
            Some(RefusalReason::OtherDatabase)
        } else if hello.receiver != me.node.0 {
            Some(RefusalReason::OtherNode)
        } else {
            None
        }
    }

    /// A refused node tries again and again; operators are told once.
    fn tell_refusal(&self, hello: &Hello, reason: RefusalReason) {
        let mut senders = self.senders();
        let told = &mut senders.refusals_told;
        if told.len() < REFUSALS_TOLD_MAX && told.insert((hello.sender, reason.into())) {
            drop(senders);
            tracing::warn!(
                node = %NodeId(hello.sender),
                release = hello.release,
                reason = reason.as_str_name(),
                "the stream of another node is refused"
            );
        }
    }

    /// Reads a stream in a task of its own, in the place of an older one of that node. The token that comes back is
    /// cancelled when the stream is not read any more.
    fn read(&self, from: NodeId, requests: Streaming<ExchangeRequest>) -> CancellationToken {
        let closing = self.shared.stopping.child_token();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let number = self.senders().open(from, closing.clone());
        let this = self.clone();
        // The handle is not needed: the tracker counts the task.
        drop(self.shared.tasks.spawn(async move {
            let _guard = guard;
            closing.run_until_cancelled(this.receive(from, requests)).await;
            this.senders().close(from, number);
        }));
        ended
    }

    async fn receive(&self, from: NodeId, mut requests: Streaming<ExchangeRequest>) {
        let mut is_told = false;
        loop {
            match requests.message().await {
                Ok(Some(request)) => match request.part {
                    Some(Part::Batch(batch)) => {
                        if let Some(error) = self.deliver(from, batch)
                            && !std::mem::replace(&mut is_told, true)
                        {
                            tracing::warn!(%from, %error, "messages are dropped");
                        }
                    }
                    Some(Part::Hello(_)) | None => {}
                },
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%from, %status, "the stream of another node broke");
                    return;
                }
            }
        }
    }

    /// Hands a batch to the seats. What cannot be read is dropped, and the last reason returned.
    fn deliver(&self, from: NodeId, batch: Batch) -> Option<TransportError> {
        let stats = &self.shared.stats;
        stats.messages_received.add(batch.messages.len());
        stats.bytes_received.add(batch.encoded_len());
        let mut undecodable = None;
        let decode = |message: SeatMessage| match wire::from_wire(message) {
            Ok(decoded) => Some(decoded),
            Err(error) => {
                stats.undecodable.add(1);
                undecodable = Some(error);
                None
            }
        };
        let messages = batch.messages.into_iter().filter_map(decode);
        self.shared.seats.deliver(from, messages, &stats.inbound_dropped);
        undecodable
    }

    fn welcome(&self) -> ExchangeResponse {
        let welcome = Welcome {
            incarnation: self.shared.me.incarnation.as_bytes().to_vec().into(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        ExchangeResponse {
            answer: Some(Answer::Welcome(welcome)),
        }
    }
}

impl Senders {
    /// Lets an older stream of the node end: that node does not use it any more.
    fn open(&mut self, from: NodeId, closing: CancellationToken) -> u64 {
        self.opened = self.opened.wrapping_add(1);
        let newest = Newest {
            number: self.opened,
            _closing: closing.drop_guard(),
        };
        self.streams.insert(from, newest);
        self.opened
    }

    fn close(&mut self, from: NodeId, number: u64) {
        if self
            .streams
            .get(&from)
            .is_some_and(|newest| newest.number == number)
        {
            self.streams.remove(&from);
        }
    }
}

#[tonic::async_trait]
impl Member for Inbound {
    type ExchangeStream = BoxStream<'static, Result<ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut requests = request.into_inner();
        let answers = match self.sender(&mut requests).await? {
            Ok(from) => {
                let ended = self.read(from, requests);
                // One answer, and then nothing until the stream ends: that is how the sender learns of the end.
                stream::once(ready(Ok(self.welcome())))
                    .chain(stream::pending().take_until(ended.cancelled_owned()))
                    .boxed()
            }
            Err(reason) => {
                self.shared.stats.streams_refused.add(1);
                let refusal = Refusal {
                    reason: reason.into(),
                };
                let answer = ExchangeResponse {
                    answer: Some(Answer::Refusal(refusal)),
                };
                stream::once(ready(Ok(answer))).boxed()
            }
        };
        Ok(Response::new(answers))
    }

    async fn tell_seen(
        &self,
        request: Request<TellSeenRequest>,
    ) -> Result<Response<TellSeenResponse>, Status> {
        let hello = request.into_inner().hello;
        let hello = hello.ok_or(RefusalReason::NoHello);
        let answer = match hello.and_then(|hello| self.welcomed(&hello)) {
            Ok(_) => seen::answer(&self.shared).await?,
            Err(reason) => TellSeenResponse {
                answer: Some(tell_seen_response::Answer::Refusal(Refusal {
                    reason: reason.into(),
                })),
            },
        };
        Ok(Response::new(answer))
    }

    async fn give_numbers(
        &self,
        request: Request<GiveNumbersRequest>,
    ) -> Result<Response<GiveNumbersResponse>, Status> {
        let GiveNumbersRequest {
            hello,
            count,
            generation,
        } = request.into_inner();
        let hello = hello.ok_or(RefusalReason::NoHello);
        let answer = match hello.and_then(|hello| self.welcomed(&hello)) {
            Ok(_) => numbers::answer(&self.shared, NumbersWanted { count, generation }).await?,
            Err(reason) => GiveNumbersResponse {
                answer: Some(give_numbers_response::Answer::Refusal(Refusal {
                    reason: reason.into(),
                })),
            },
        };
        Ok(Response::new(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::{heartbeat, seat};
    use crate::transport::{Identity, SeatMail, Transport};
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;
    use uuid::Uuid;

    /// A later release may say what this one does not know: the rest of the batch is for this one all the same.
    #[test]
    fn a_message_that_cannot_be_read_is_dropped_alone_and_counted() {
        let me = Identity {
            node: NodeId(1),
            database: Uuid::nil(),
            incarnation: Uuid::nil(),
        };
        let transport = Transport::new(me, TaskTracker::new(), CancellationToken::new());
        let (sender, mut mail) = mpsc::channel(8);
        transport.register(seat(1), sender);
        let known = |round| wire::to_wire(seat(1), heartbeat(round));
        let unknown = SeatMessage {
            message: None,
            ..known(2)
        };
        let messages = vec![known(1), unknown, known(3)];

        let error = transport.inbound.deliver(NodeId(2), Batch { messages });
        assert_eq!(error, Some(TransportError::UnknownMessage));
        for round in [1, 3] {
            let message = heartbeat(round);
            let from = NodeId(2);
            assert_eq!(mail.try_recv(), Ok(SeatMail::Message { from, message }));
        }
        assert!(mail.try_recv().is_err());
        let stats = transport.stats();
        assert_eq!((stats.messages_received.get(), stats.undecodable.get()), (3, 1));
    }
}
