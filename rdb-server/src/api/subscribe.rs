//! The change stream: the subscription's messages in wire form.

use super::forward::Peers;
use super::status::CallError;
use super::{Api, forward};
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::node::{Filter, Handle, Message, NodeError, Route, Start, Subscription};
use futures::{Stream, StreamExt as _};
use rdb_proto::convert;
use rdb_proto::limits::{
    COLLECTION_BYTES_MAX, FILTER_VALUES_MAX, KEY_BYTES_MAX, TAG_BYTES_MAX, TYPE_BYTES_MAX,
};
use rdb_proto::types::{FieldError, Seq};
use rdb_proto::v1;
use rdb_proto::v1::subscribe_response::Message as WireMessage;
use std::pin::Pin;
use tonic::{Request, Status};

pub(super) type ChangeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

pub(super) async fn subscribe(
    api: &Api,
    request: Request<v1::SubscribeRequest>,
) -> Result<ChangeStream, CallError> {
    let (metadata, _, request) = request.into_parts();
    let node = &api.node;
    if forward::passed_on_for(&metadata).is_none()
        && let Route::There(peer) = node.route_to_all()?
    {
        let seats: Vec<_> = node.seats().collect();
        let request = forward::pass_on(&metadata, &seats, request);
        let answer = Peers::changes(&peer.address)?.subscribe(request).await;
        let changes = answer.map_err(|status| forward::reads_failed(status, &seats))?;
        let told = move |change: Result<_, Status>| {
            change.map_err(|status| Status::from(forward::reads_failed(status, &seats)))
        };
        let stopping = CallError::from(NodeError::ShuttingDown).into();
        let until_stop = changes
            .into_inner()
            .map(told)
            .take_until(Box::pin(node.tasks().stopping()))
            .chain(futures::stream::iter([Err(stopping)]));
        return Ok(Box::pin(until_stop));
    }
    let start = match request.start {
        None => Start::After(Seq::ZERO),
        Some(v1::subscribe_request::Start::AfterSeq(seq)) => Start::After(Seq(seq)),
        Some(v1::subscribe_request::Start::FromNow(true)) => Start::Now,
        Some(v1::subscribe_request::Start::FromNow(false)) => {
            return Err(FieldError::invalid("from_now", "must be true when it is given").into());
        }
        Some(v1::subscribe_request::Start::FromTimeUs(_)) => {
            return Err(FieldError::invalid("from_time_us", "is not served by this release").into());
        }
    };
    for (field, is_asked) in [
        ("with_before", request.with_before),
        ("snapshot", request.snapshot),
    ] {
        if is_asked {
            return Err(FieldError::invalid(field, "is not served by this release").into());
        }
    }
    let filter = filter(request.filter.unwrap_or_default())?;
    let subscription = node.subscribe(start, filter, &request.database_id).await?;
    if node.telemetry().subscribers.inc() >= SUBSCRIPTIONS_MAX {
        node.telemetry().subscribers.dec();
        return Err(NodeError::Overloaded("the node's list of change streams").into());
    }
    let stream = Ongoing {
        subscription,
        node: node.clone(),
    };
    Ok(Box::pin(futures::stream::unfold(Some(stream), async |stream| {
        let mut stream = stream?;
        match stream.next().await {
            Ok(response) => Some((Ok(response), Some(stream))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

fn filter(wire: v1::Filter) -> Result<Filter, FieldError> {
    let list = |field, values: Vec<String>, bytes_max| {
        FieldError::check_limit(field, values.len(), FILTER_VALUES_MAX, "values")?;
        let longest = values.iter().map(String::len).max().unwrap_or_default();
        FieldError::check_limit(field, longest, bytes_max, "bytes in a value")?;
        Ok::<_, FieldError>(values)
    };
    FieldError::check_limit("kinds", wire.kinds.len(), FILTER_VALUES_MAX, "values")?;
    Ok(Filter {
        collections: list("collections", wire.collections, COLLECTION_BYTES_MAX)?,
        key_prefixes: list("key_prefixes", wire.key_prefixes, KEY_BYTES_MAX)?,
        types: list("types", wire.types, TYPE_BYTES_MAX)?,
        tags: list("tags", wire.tags, TAG_BYTES_MAX)?,
        kinds: wire
            .kinds
            .into_iter()
            .map(convert::event_kind)
            .collect::<Result<_, _>>()?,
    })
}

struct Ongoing {
    subscription: Subscription,
    node: Handle,
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.node.telemetry().subscribers.dec();
    }
}

impl Ongoing {
    async fn next(&mut self) -> Result<v1::SubscribeResponse, Status> {
        let stopping = self.node.tasks().stopping();
        let message = tokio::select! {
            biased;
            () = stopping => return Err(self.goodbye()),
            gone = self.node.seat_gone() => return Err(CallError::from(gone).into()),
            message = self.subscription.next() => message,
        };
        let message = message.map_err(|error| Status::from(CallError::from(NodeError::from(error))))?;
        Ok(v1::SubscribeResponse {
            message: Some(self.to_wire(message)),
        })
    }

    /// The end of the stream names the position to resume at.
    fn goodbye(&self) -> Status {
        let resume_after = self.subscription.position();
        CallError::from(NodeError::StreamEnded { resume_after }).into()
    }

    fn to_wire(&self, message: Message) -> WireMessage {
        match message {
            Message::Opened(after) => WireMessage::Opened(v1::Opened {
                database_id: self.node.database_id().to_string(),
                after_seq: after.get(),
                snapshot_seq: 0,
            }),
            Message::Changes(run) => {
                self.node.telemetry().events_streamed.inc_by(run.count);
                WireMessage::Changes(run.encoded)
            }
            Message::Resolved(seq, changes_since_previous) => WireMessage::Resolved(v1::Resolved {
                seq: seq.get(),
                changes_since_previous,
            }),
            Message::CaughtUp(seq) => WireMessage::CaughtUp(v1::CaughtUp { seq: seq.get() }),
            Message::FellBehind(seq) => WireMessage::FellBehind(v1::FellBehind { seq: seq.get() }),
        }
    }
}
