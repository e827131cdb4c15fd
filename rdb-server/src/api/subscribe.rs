//! The change stream: the subscription's messages in wire form.

use super::status::CallError;
use super::{Api, elsewhere, forward};
use crate::limits::{MARK_INTERVAL, PART_MARK_INTERVAL, SUBSCRIPTIONS_MAX};
use crate::node::{Filter, Gather, Handle, Message, NodeError, Order, Part, Selection, Start, Subscription};
use futures::future::{BoxFuture, Fuse};
use futures::{FutureExt as _, Stream};
use rdb_proto::convert;
use rdb_proto::limits::{
    COLLECTION_BYTES_MAX, FILTER_VALUES_MAX, KEY_BYTES_MAX, TAG_BYTES_MAX, TYPE_BYTES_MAX,
};
use rdb_proto::types::{FieldError, GroupId, SeatId, Seq, Timestamp};
use rdb_proto::v1;
use rdb_proto::v1::subscribe_request::Start as WireStart;
use rdb_proto::v1::subscribe_response::Message as WireMessage;
use std::collections::BTreeMap;
use std::pin::Pin;
use tonic::{Request, Status};

pub(super) type ChangeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

pub(super) async fn subscribe(
    api: &Api,
    request: Request<v1::SubscribeRequest>,
) -> Result<ChangeStream, CallError> {
    let (metadata, _, mut request) = request.into_parts();
    let node = &api.node;
    node.check_database(&request.database_id)?;
    check_snapshot(&request)?;
    // "Now", and what a snapshot is of, is what this node has heard of; all parts of a stream go by the same.
    let now = node.counter().get();
    if request.snapshot && request.snapshot_seq == 0 {
        request.snapshot_seq = now;
    }
    // An empty database has nothing to take one of.
    request.snapshot = request.snapshot_seq > 0;
    if let Some(WireStart::FromNow(true)) = request.start {
        request.start = Some(WireStart::AfterSeq(now));
    }
    let (start, selection) = (start(&request)?, selection(&request)?);
    let passed_on = forward::passed_on_for(&metadata);
    let is_part = passed_on.is_some();
    let (here, others) = match passed_on {
        Some(seats) => (seats, Vec::new()),
        None => node.divide(node.seats()),
    };
    if here.is_empty() && others.is_empty() {
        return Err(FieldError::invalid(forward::FORWARDED, "names no seat").into());
    }
    let snapshot_seq = request.snapshot_seq;
    // Of one seat, the order of seqs is that of its keys.
    let is_one_part = others.is_empty() && (selection.order == Order::Seqs || here.len() == 1);
    let mut changes = if is_one_part {
        let interval = if is_part {
            PART_MARK_INTERVAL
        } else {
            MARK_INTERVAL
        };
        Changes::Here(Box::new(node.subscribe(&here, start, selection, interval).await?))
    } else {
        let parts = Parts {
            here: &here,
            others,
            start,
            selection,
        };
        Changes::Everywhere(Box::new(gather(api, parts, request).await?))
    };
    if node.telemetry().subscribers.inc() >= SUBSCRIPTIONS_MAX {
        node.telemetry().subscribers.dec();
        return Err(NodeError::Overloaded("the node's list of change streams").into());
    }
    let goal = if is_part {
        // Whoever makes parts one stream knows when that has caught up.
        changes.catch_up_with(Seq::ZERO);
        Fuse::terminated()
    } else {
        let node = node.clone();
        async move { node.acknowledged_before().await }.boxed().fuse()
    };
    let stream = Ongoing {
        changes,
        goal,
        here,
        snapshot_seq,
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

/// What a stream of all seats is put together from.
struct Parts<'a> {
    here: &'a [SeatId],
    others: Vec<SeatId>,
    start: Start,
    selection: Selection,
}

/// The stream of all seats, of which this node has only some members: each other group's from a node that has. In the order
/// of keys, each seat's by itself.
async fn gather(
    api: &Api,
    parts: Parts<'_>,
    request: v1::SubscribeRequest,
) -> Result<Gather<CallError>, CallError> {
    let node = &api.node;
    let after = match parts.start {
        Start::After(seq) => Some(seq),
        Start::At(_) => None,
    };
    // Whether a position can be is said once, here: no part gives up on one that its node has not heard of yet.
    let known = after.unwrap_or_default().max(parts.selection.snapshot);
    if !node.check_handed_out(known, Seq::ZERO).await? {
        return Err(NodeError::NotResolved {
            seq: known,
            resolved: node.counter(),
        }
        .into());
    }
    let order = parts.selection.order;
    let (here, there) = match order {
        Order::Seqs => (vec![parts.here.to_vec()], by_group(&parts.others)),
        Order::Keys => (each(parts.here), each(&parts.others)),
    };
    let mut streams: Vec<Part<CallError>> = Vec::new();
    for seats in there {
        streams.push(Box::pin(elsewhere::changes(
            (node.clone(), api.peers.clone()),
            seats,
            request.clone(),
        )));
    }
    for seats in here.iter().filter(|seats| !seats.is_empty()) {
        let selection = parts.selection.clone();
        let subscribed = node.subscribe(seats, parts.start, selection, PART_MARK_INTERVAL);
        let mut subscription = subscribed.await?;
        subscription.catch_up_with(Seq::ZERO);
        streams.push(Box::pin(futures::stream::try_unfold(
            subscription,
            async |mut subscription| {
                let message = subscription.next().await.map_err(NodeError::from)?;
                Ok(Some((message, subscription)))
            },
        )));
    }
    Ok(Gather::new(streams, after, order))
}

pub(super) fn by_group(seats: &[SeatId]) -> Vec<Vec<SeatId>> {
    let mut groups: BTreeMap<GroupId, Vec<SeatId>> = BTreeMap::new();
    for seat in seats {
        groups.entry(seat.group).or_default().push(*seat);
    }
    groups.into_values().collect()
}

fn each(seats: &[SeatId]) -> Vec<Vec<SeatId>> {
    seats.iter().map(|seat| vec![*seat]).collect()
}

fn start(request: &v1::SubscribeRequest) -> Result<Start, FieldError> {
    match request.start {
        None => Ok(Start::After(Seq::ZERO)),
        Some(WireStart::AfterSeq(seq)) => Ok(Start::After(Seq(seq))),
        // One that is true was made a seq.
        Some(WireStart::FromNow(_)) => Err(FieldError::invalid("from_now", "must be true when it is given")),
        Some(WireStart::FromTimeUs(time)) => Ok(Start::At(Timestamp(time))),
    }
}

/// A snapshot is the beginning of a stream: only one that is gone on with has a start.
fn check_snapshot(request: &v1::SubscribeRequest) -> Result<(), FieldError> {
    let is_new = request.snapshot && request.snapshot_seq == 0;
    let problem = match request.start {
        _ if !request.snapshot && request.snapshot_seq > 0 => "needs `snapshot`",
        Some(WireStart::AfterSeq(seq)) if is_new && seq > 0 => "must be given to go on after `after_seq`",
        Some(WireStart::FromNow(_) | WireStart::FromTimeUs(_)) if request.snapshot => {
            "a snapshot begins at the beginning, or goes on after a seq"
        }
        _ => return Ok(()),
    };
    Err(FieldError::invalid("snapshot_seq", problem))
}

/// Which events are asked for.
///
/// # Errors
/// [`FieldError`] naming the first field that is over its limit or not valid.
pub fn selection(request: &v1::SubscribeRequest) -> Result<Selection, FieldError> {
    Ok(Selection {
        filter: filter(request.filter.clone().unwrap_or_default())?,
        with_before: request.with_before,
        snapshot: Seq(request.snapshot_seq),
        order: order(request.order)?,
    })
}

fn order(wire: i32) -> Result<Order, FieldError> {
    match v1::Order::try_from(wire) {
        Ok(v1::Order::Seqs) => Ok(Order::Seqs),
        Ok(v1::Order::Keys) => Ok(Order::Keys),
        Err(_unknown) => Err(FieldError::invalid(
            "order",
            format!("must be of seqs (0) or of keys (1), not {wire}"),
        )),
    }
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

/// Where the messages come from.
enum Changes {
    Here(Box<Subscription>),
    Everywhere(Box<Gather<CallError>>),
}

impl Changes {
    async fn next(&mut self) -> Result<Message, CallError> {
        match self {
            Self::Here(subscription) => Ok(subscription.next().await.map_err(NodeError::from)?),
            Self::Everywhere(gather) => gather.next().await,
        }
    }

    const fn catch_up_with(&mut self, goal: Seq) {
        match self {
            Self::Here(subscription) => subscription.catch_up_with(goal),
            Self::Everywhere(gather) => gather.catch_up_with(goal),
        }
    }

    const fn position(&self) -> Seq {
        match self {
            Self::Here(subscription) => subscription.position(),
            Self::Everywhere(gather) => gather.position(),
        }
    }
}

struct Ongoing {
    changes: Changes,
    /// What they catch up with, once.
    goal: Fuse<BoxFuture<'static, Seq>>,
    /// The seats whose logs are read here.
    here: Vec<SeatId>,
    snapshot_seq: u64,
    node: Handle,
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.node.telemetry().subscribers.dec();
    }
}

impl Ongoing {
    async fn next(&mut self) -> Result<v1::SubscribeResponse, Status> {
        loop {
            let stopping = self.node.tasks().stopping();
            let message = tokio::select! {
                biased;
                () = stopping => return Err(self.goodbye()),
                gone = self.node.seat_gone(&self.here) => return Err(CallError::from(gone).into()),
                goal = &mut self.goal => {
                    self.changes.catch_up_with(goal);
                    continue;
                }
                message = self.changes.next() => message?,
            };
            return Ok(v1::SubscribeResponse {
                message: Some(self.to_wire(message)),
            });
        }
    }

    /// The end of the stream names the position to resume at.
    fn goodbye(&self) -> Status {
        let resume_after = self.changes.position();
        CallError::from(NodeError::StreamEnded { resume_after }).into()
    }

    fn to_wire(&self, message: Message) -> WireMessage {
        match message {
            Message::Opened(after) => WireMessage::Opened(v1::Opened {
                database_id: self.node.database_id().to_string(),
                after_seq: after.get(),
                snapshot_seq: self.snapshot_seq,
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
