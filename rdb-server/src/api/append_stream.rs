//! Pipelined appends: requests go to their seats as they come, here or on other nodes; answers wait in a bounded
//! line, in the order of the requests.
//!
//! Appends of one key are decided in the order in which they came, for as long as its seat stays where it is.

use super::forward::Peers;
use super::status::CallError;
use super::write::{all_named, append_from_wire, to_wire};
use super::{Api, forward, undecodable};
use crate::limits::APPEND_STREAM_WINDOW_MAX;
use crate::node::{Handle, Need, NodeError, Peer, PendingAppend, Route};
use futures::{Stream, StreamExt as _};
use rdb_proto::types::{EventId, KeyName, SeatId};
use rdb_proto::v1;
use rdb_proto::v1::append_stream_response::Outcome;
use std::collections::BTreeMap;
use std::pin::Pin;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

pub(super) type AppendAnswers = Pin<Box<dyn Stream<Item = Result<v1::AppendStreamResponse, Status>> + Send>>;

pub(super) fn append_stream(api: &Api, request: Request<Streaming<v1::AppendRequest>>) -> AppendAnswers {
    let (line, answers) = mpsc::channel(APPEND_STREAM_WINDOW_MAX);
    let (metadata, _, requests) = request.into_parts();
    let taking = Taking {
        api: api.clone(),
        metadata,
        upstreams: BTreeMap::new(),
    };
    api.node.tasks().spawn(taking.run(requests, line));
    Box::pin(ReceiverStream::new(answers).then(answer))
}

/// A request that was handed over, refused, or could not be received.
type InLine = Result<Pending, InLineError>;

enum Pending {
    Here(PendingAppend),
    There(PendingThere),
}

/// An append that another node was given.
struct PendingThere {
    outcome: oneshot::Receiver<Outcome>,
    /// The id to name when no answer comes.
    event_id: EventId,
    seat: SeatId,
    leader: Peer,
    node: Handle,
}

enum InLineError {
    /// The request is refused; the stream goes on.
    Refused(CallError),
    /// The stream is over.
    Broken(Status),
}

/// Takes the requests of one stream.
struct Taking {
    api: Api,
    metadata: MetadataMap,
    /// One for each node that requests were passed on to, by address.
    upstreams: BTreeMap<String, Upstream>,
}

/// A stream to another node. Its answers come in the order of the requests.
struct Upstream {
    requests: mpsc::Sender<v1::AppendRequest>,
    waiting: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl Taking {
    async fn run(mut self, mut requests: Streaming<v1::AppendRequest>, line: mpsc::Sender<InLine>) {
        let stopping = self.api.node.tasks().stopping();
        tokio::pin!(stopping);
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                () = &mut stopping => {
                    // Whoever is gone does not need to be told.
                    drop(line.send(Err(InLineError::Broken(CallError::from(NodeError::ShuttingDown).into()))).await);
                    return;
                }
            };
            let in_line = match request {
                Ok(None) => return,
                Ok(Some(request)) => self.hand_over(request).await.map_err(InLineError::Refused),
                Err(status) => Err(InLineError::Broken(undecodable::corrected(status))),
            };
            let is_over = matches!(in_line, Err(InLineError::Broken(_)));
            if line.send(in_line).await.is_err() || is_over {
                return;
            }
        }
    }

    async fn hand_over(&mut self, mut request: v1::AppendRequest) -> Result<Pending, CallError> {
        let name = KeyName::new(&request.collection, &request.key)?;
        let (seat, route) = forward::route(&self.api.node, &self.metadata, &name, Need::Leader)?;
        let Route::There(leader) = route else {
            let append = append_from_wire(request)?;
            return Ok(Pending::Here(self.api.node.submit(append).await?));
        };
        let event_id = all_named(&mut request)?;
        let (told, outcome) = oneshot::channel();
        // A leader that was stopped takes nothing, and holds up nobody once another one has the seat.
        let node = self.api.node.clone();
        let is_sent = tokio::select! {
            biased;
            is_taken = self.pass_on(&leader.address, seat, (told, request)) => is_taken?,
            () = node.moved(seat, &leader) => false,
        };
        if !is_sent {
            self.upstreams.remove(&leader.address);
        }
        Ok(Pending::There(PendingThere {
            outcome,
            event_id,
            seat,
            leader,
            node: self.api.node.clone(),
        }))
    }

    /// Puts a request on the stream to a node; false when that is broken, and the outcome unknown to who waits.
    async fn pass_on(
        &mut self,
        address: &str,
        seat: SeatId,
        (told, request): (oneshot::Sender<Outcome>, v1::AppendRequest),
    ) -> Result<bool, CallError> {
        let upstream = self.upstream(address, seat).await?;
        // In line first: an answer must find who waits for it.
        Ok(upstream.waiting.send(told).await.is_ok() && upstream.requests.send(request).await.is_ok())
    }

    /// The stream to a node, opened when there is none.
    async fn upstream(&mut self, address: &str, seat: SeatId) -> Result<&Upstream, CallError> {
        if self
            .upstreams
            .get(address)
            .is_some_and(|upstream| upstream.requests.is_closed())
        {
            self.upstreams.remove(address);
        }
        if !self.upstreams.contains_key(address) {
            let upstream = self.open(address, seat).await?;
            self.upstreams.insert(address.to_owned(), upstream);
        }
        self.upstreams
            .get(address)
            .ok_or_else(|| NodeError::vacant(seat).into())
    }

    async fn open(&self, address: &str, seat: SeatId) -> Result<Upstream, CallError> {
        let (requests, passed_on) = mpsc::channel(APPEND_STREAM_WINDOW_MAX);
        let (waiting, mut in_turn) = mpsc::channel::<oneshot::Sender<Outcome>>(APPEND_STREAM_WINDOW_MAX);
        let request = forward::pass_on(&MetadataMap::new(), &[seat], ReceiverStream::new(passed_on));
        let answers = Peers::streams(address)?.append_stream(request).await;
        // Nothing was sent on it yet.
        let mut answers = answers
            .map_err(|status| forward::read_failed(status, seat))?
            .into_inner();
        self.api.node.tasks().spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let (Some(outcome), Some(waiting)) = (answer.outcome, in_turn.recv().await) else {
                    return;
                };
                // A client that has gone does not need to be told.
                drop(waiting.send(outcome));
            }
        });
        Ok(Upstream { requests, waiting })
    }
}

impl PendingThere {
    /// What the other node says; unknown when its stream breaks, or another node has the seat now.
    async fn outcome(self) -> Outcome {
        let outcome = tokio::select! {
            biased;
            outcome = self.outcome => outcome.ok(),
            () = self.node.moved(self.seat, &self.leader) => None,
        };
        let unknown = || CallError::from(NodeError::Unknown(self.event_id));
        outcome.unwrap_or_else(|| Outcome::Failure(unknown().into_failure()))
    }
}

async fn answer(in_line: InLine) -> Result<v1::AppendStreamResponse, Status> {
    let outcome = match in_line {
        Ok(Pending::Here(pending)) => pending.stored().await.map_err(CallError::from),
        Ok(Pending::There(pending)) => {
            return Ok(v1::AppendStreamResponse {
                outcome: Some(pending.outcome().await),
            });
        }
        Err(InLineError::Refused(error)) => Err(error),
        Err(InLineError::Broken(status)) => return Err(status),
    };
    let outcome = match outcome {
        Ok(stored) => Outcome::Appended(v1::AppendResponse {
            led_at: String::new(),
            results: stored.iter().map(to_wire).collect(),
        }),
        Err(error) => Outcome::Failure(error.into_failure()),
    };
    Ok(v1::AppendStreamResponse {
        outcome: Some(outcome),
    })
}
