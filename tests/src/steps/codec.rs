//! Events and messages between what they are and what they are written as.

use super::{BATCH, EVENT_BYTES, Run};
use bytes::Bytes;
use prost::Message as _;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, NewEvent, StoredEvents, decode_batch, look_at_batch};
use rdb_proto::member;
use rdb_proto::types::{
    Epoch, EventId, GroupId, KeyName, LogIndex, NodeId, SeatId, Seq, Side, Timestamp, Version,
};
use rdb_server::protocol::{Append, LogEnd, Mark, Message, Round};
use rdb_server::transport::wire::{from_wire, to_wire};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const EPOCH: Epoch = Epoch {
    number: 1,
    node: NodeId(1),
};

fn new_event(n: u64) -> NewEvent {
    NewEvent {
        kind: EventKind::Write,
        event_type: if n.is_multiple_of(8) { "placed" } else { "paid" }.to_owned(),
        tags: vec!["eu".to_owned()],
        meta: BTreeMap::new(),
        payload: Bytes::from_static(&[7; EVENT_BYTES]),
        event_id: EventId(Uuid::from_u128(u128::from(n))),
    }
}

pub(super) fn stored(seq: u64, count: usize) -> StoredEvents {
    let events = (seq..).take(count).map(new_event).collect();
    let name = KeyName::new("shop", &format!("orders/{seq}")).unwrap();
    StoredEvents::number(name, Seq(seq), Version(1), Timestamp(1), events).unwrap()
}

/// One event, as a client sent it, becomes the body of an entry.
pub(super) fn number() -> Run {
    let name = KeyName::new("shop", "orders/17").unwrap();
    Box::new(move || {
        let (name, events) = (name.clone(), vec![new_event(17)]);
        let stored = StoredEvents::number(name, Seq(17), Version(1), Timestamp(1), events);
        black_box(stored.unwrap());
    })
}

/// Entries of one event each on their way to another member.
pub(super) fn message() -> Run {
    let seat = SeatId {
        group: GroupId(0),
        side: Side::Zero,
    };
    let entry = |n: usize| {
        let n = u64::try_from(n).unwrap();
        Arc::new(Entry {
            index: LogIndex(n + 1),
            epoch: EPOCH,
            body: EntryBody::Events(Arc::new(stored(n + 1, 1))),
        })
    };
    let append = Append {
        epoch: EPOCH,
        config: 1,
        round: Round::default(),
        prev: LogEnd::default(),
        entries: (0..BATCH).map(entry).collect(),
        commit: LogIndex::ZERO,
        mark: Mark::default(),
    };
    Box::new(move || {
        let wire = to_wire(seat, Message::Append(append.clone())).encode_to_vec();
        let received = member::SeatMessage::decode(Bytes::from(wire)).unwrap();
        black_box(from_wire(received).unwrap());
    })
}

/// What a message of the change stream holds, nothing of it copied.
pub(super) fn look() -> Run {
    let batch = stored(1, BATCH).encoded;
    Box::new(move || {
        for event in look_at_batch(&batch) {
            black_box(event.unwrap());
        }
    })
}

/// The same, each event as one of its own.
pub(super) fn decode() -> Run {
    let batch = stored(1, BATCH).encoded;
    Box::new(move || {
        black_box(decode_batch(&batch).unwrap());
    })
}
