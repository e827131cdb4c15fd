//! The change stream of seats that this node has no member of: from a node that has one, and over lost connections.

use super::forward::{self, Peers};
use super::places::Place;
use super::status::{CallError, reason_of};
use crate::clock;
use crate::limits::{PART_ABSENT_MAX, PART_SILENCE_MAX, PART_WAIT_FIRST, PART_WAIT_LONGEST};
use crate::node::{Handle, Message, Run};
use bytes::Bytes;
use futures::Stream;
use rdb_proto::event::{EventError, next_seq};
use rdb_proto::reason::Reason;
use rdb_proto::types::{SeatId, Seq};
use rdb_proto::v1::subscribe_request::Start;
use rdb_proto::v1::subscribe_response::Message as WireMessage;
use rdb_proto::v1::{SubscribeRequest, SubscribeResponse};
use std::time::{Duration, Instant};
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

/// The stream of these seats, as the request asks for it. It ends with its first error: what trying elsewhere, or later,
/// does not cure.
pub(super) fn changes(
    (node, peers): (Handle, Peers),
    seats: Vec<SeatId>,
    request: SubscribeRequest,
) -> impl Stream<Item = Result<Message, CallError>> + Send {
    let elsewhere = Elsewhere {
        // Not every node's streams from the same one.
        attempts: usize::try_from(node.id().0 >> 32).unwrap_or_default(),
        node,
        peers,
        seats,
        request,
        stream: None,
        is_opened: false,
        position: Seq::ZERO,
        heard_at: clock::monotonic(),
        moved_at: clock::monotonic(),
        back_off: clock::BackOff::new(PART_WAIT_FIRST, PART_WAIT_LONGEST),
    };
    futures::stream::try_unfold(elsewhere, async |mut elsewhere| {
        let message = elsewhere.next().await?;
        Ok(Some((message, elsewhere)))
    })
}

struct Elsewhere {
    node: Handle,
    peers: Peers,
    seats: Vec<SeatId>,
    /// As to be sent next: after what was heard.
    request: SubscribeRequest,
    stream: Option<(Place, Streaming<SubscribeResponse>)>,
    is_opened: bool,
    /// Everything at or below was heard.
    position: Seq,
    /// When a message came last, and one that said more than was known.
    heard_at: Instant,
    moved_at: Instant,
    /// Counts nodes that were asked in vain: the next one is asked then.
    attempts: usize,
    back_off: clock::BackOff,
}

impl Elsewhere {
    async fn next(&mut self) -> Result<Message, CallError> {
        loop {
            if self.stream.is_some() && passed(self.moved_at) > PART_SILENCE_MAX {
                let late = Status::unavailable("the member does not get on");
                self.lost(late).await?;
            }
            let heard = match &mut self.stream {
                Some((_, stream)) => hear(stream).await,
                None => self.open().await.map(|()| None),
            };
            match heard {
                Ok(None) => {}
                Ok(Some(message)) => {
                    if let Some(message) = self.take_in(message)? {
                        return Ok(message);
                    }
                }
                Err(status) => self.lost(status).await?,
            }
        }
    }

    async fn open(&mut self) -> Result<(), Status> {
        let peers = self.node.peers_with(&self.seats);
        let at = self.attempts.checked_rem(peers.len()).unwrap_or_default();
        let Some(address) = peers.get(at) else {
            return Err(Status::unavailable("no live node has a member of the seats"));
        };
        let request = forward::pass_on(&MetadataMap::new(), &self.seats, self.request.clone());
        let place = self.peers.place(address).map_err(Status::from)?;
        let mut other = place.changes();
        let opened = clock::within(PART_SILENCE_MAX, other.subscribe(request)).await;
        let opened = opened.unwrap_or_else(|| Err(silent()));
        let stream = opened.inspect_err(|_refused| place.doubt())?.into_inner();
        self.stream = Some((place, stream));
        Ok(())
    }

    /// Asks another node after a while, or gives up when none would answer otherwise.
    async fn lost(&mut self, status: Status) -> Result<(), CallError> {
        if let Some((place, _)) = self.stream.take() {
            place.doubt();
        }
        // Another node may have heard of a position that this one asks for; whether it can be was decided before.
        let is_final = matches!(
            reason_of(&status),
            Some(Reason::WrongDatabase | Reason::FieldInvalid | Reason::LimitExceeded)
        );
        let (here, _) = self.node.divide(self.seats.iter().copied());
        if is_final || passed(self.heard_at) > PART_ABSENT_MAX || !here.is_empty() {
            tracing::warn!(seats = ?self.seats, %status, "the change stream of seats elsewhere ended");
            // What one member said for itself is not the database's word.
            let status = if is_final {
                status
            } else {
                Status::unavailable(status.message())
            };
            return Err(forward::reads_failed(status, &self.seats));
        }
        tracing::debug!(seats = ?self.seats, %status, "the change stream of seats elsewhere was interrupted");
        self.attempts = self.attempts.wrapping_add(1);
        self.moved_at = clock::monotonic();
        self.back_off.wait().await;
        Ok(())
    }

    fn take_in(&mut self, message: WireMessage) -> Result<Option<Message>, CallError> {
        let message = match message {
            WireMessage::Opened(opened) => {
                let is_first = !std::mem::replace(&mut self.is_opened, true);
                is_first.then_some(Message::Opened(Seq(opened.after_seq)))
            }
            WireMessage::Changes(encoded) => Some(Message::Changes(run(encoded)?)),
            WireMessage::Resolved(mark) => {
                Some(Message::Resolved(Seq(mark.seq), mark.changes_since_previous))
            }
            WireMessage::CaughtUp(at) => Some(Message::CaughtUp(Seq(at.seq))),
            WireMessage::FellBehind(at) => Some(Message::FellBehind(Seq(at.seq))),
        };
        let reached = match &message {
            Some(Message::Opened(seq) | Message::Resolved(seq, _) | Message::CaughtUp(seq)) => Some(*seq),
            Some(Message::Changes(run)) => Some(run.last_seq),
            Some(Message::FellBehind(_)) | None => None,
        };
        self.heard_at = clock::monotonic();
        // A member that was cut off from its leader says the same mark again and again.
        if let Some(seq) = reached.filter(|seq| *seq > self.position || *seq >= self.node.counter()) {
            self.position = seq;
            self.request.start = Some(Start::AfterSeq(seq.get()));
            self.moved_at = self.heard_at;
            self.back_off.reset();
        }
        Ok(message)
    }
}

/// `None` for a kind of message that a later release invented.
async fn hear(stream: &mut Streaming<SubscribeResponse>) -> Result<Option<WireMessage>, Status> {
    let message = clock::within(PART_SILENCE_MAX, stream.message()).await;
    let ended = || Status::unavailable("the stream ended");
    Ok(message.ok_or_else(silent)??.ok_or_else(ended)?.message)
}

/// A batch with what is to be known of it.
fn run(encoded: Bytes) -> Result<Run, EventError> {
    let mut rest: &[u8] = &encoded;
    let (mut count, mut last_seq) = (0_u64, None);
    while !rest.is_empty() {
        last_seq = Some(next_seq(&mut rest)?);
        count = count.saturating_add(1);
    }
    Ok(Run {
        last_seq: last_seq.ok_or(EventError::Batch("no events"))?,
        encoded,
        count,
    })
}

fn passed(since: Instant) -> Duration {
    clock::monotonic().saturating_duration_since(since)
}

fn silent() -> Status {
    Status::unavailable("no message came")
}
