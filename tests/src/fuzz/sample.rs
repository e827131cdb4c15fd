//! Valid things to begin with.

use rdb_proto::cursor::{CursorAct, CursorChange};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, NewEvent, StoredEvents};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, NodeId, Seq, Timestamp, Version};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const EPOCH: Epoch = Epoch {
    number: 3,
    node: NodeId(5),
};

pub(super) fn new_event(n: u64) -> NewEvent {
    let is_delete = n % 4 == 3;
    NewEvent {
        kind: if is_delete {
            EventKind::Delete
        } else {
            EventKind::Write
        },
        event_type: "placed".to_owned(),
        tags: vec!["eu".to_owned(), "new".to_owned()],
        meta: BTreeMap::from([("by".to_owned(), "me".to_owned())]),
        payload: if is_delete { Vec::new() } else { vec![b'x'; 20] }.into(),
        event_id: EventId(Uuid::from_u128(
            0x0018_0000_0000_7000_8000_0000_0000_0000 + u128::from(n),
        )),
    }
}

/// An append of `count` events.
pub(super) fn events(seq: u64, version: u64, count: u64) -> StoredEvents {
    let name = KeyName::new("shop", "orders/17").unwrap();
    let events = (seq..seq + count).map(new_event).collect();
    StoredEvents::number(
        name,
        Seq(seq),
        Version(version),
        Timestamp(1_700_000_000_000_000),
        events,
    )
    .unwrap()
}

pub(super) fn membership() -> Membership {
    Membership {
        number: 2,
        members: vec![NodeId(1), NodeId(2), NodeId(3)],
        previous: vec![NodeId(1), NodeId(2)],
    }
}

pub(super) fn changes() -> Vec<CursorChange> {
    let acts = [
        CursorAct::Claim {
            consumer: Uuid::from_u128(9),
            replaces: 4,
            position: Seq(7),
        },
        CursorAct::Acknowledge {
            generation: 3,
            position: Seq(700),
        },
        CursorAct::Release { generation: 3 },
        CursorAct::Seek {
            position: Seq(9),
            replaces: 4,
        },
        CursorAct::Forget { replaces: 8 },
    ];
    let change = |act| CursorChange {
        name: "mails".to_owned(),
        act,
    };
    acts.map(change).into()
}

/// A log with an entry of every kind, from index 1.
pub(super) fn log() -> Vec<Arc<Entry>> {
    let mut bodies = vec![EntryBody::EpochStart(membership())];
    bodies.push(EntryBody::Events(Arc::new(events(5, 1, 1))));
    bodies.push(EntryBody::Events(Arc::new(events(6, 2, 3))));
    bodies.extend(
        changes()
            .into_iter()
            .map(|change| EntryBody::Cursor(Arc::new(change))),
    );
    bodies.push(EntryBody::Events(Arc::new(events(20, 5, 2))));
    let entry = |(index, body)| {
        Arc::new(Entry {
            index: LogIndex(index),
            epoch: EPOCH,
            body,
        })
    };
    (1..).zip(bodies).map(entry).collect()
}
