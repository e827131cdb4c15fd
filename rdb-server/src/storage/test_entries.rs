//! Entries and directories for the tests of this room.

use bytes::Bytes;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventKind, NewEvent, StoredEvents};
use rdb_proto::types::{Epoch, EventId, KeyName, LogIndex, Membership, NodeId, Seq, Timestamp, Version};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// A directory in memory, where there is such: syncs then cost nothing, and nothing here is about the disk.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

/// The epoch of all entries here.
pub(crate) const EPOCH: Epoch = Epoch {
    number: 1,
    node: NodeId(5),
};

/// An event whose id and payload follow from its seq.
pub(crate) fn new_event(seq: u64, payload_bytes: usize) -> NewEvent {
    NewEvent {
        kind: EventKind::Write,
        event_type: String::new(),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        payload: Bytes::from(vec![seq.to_le_bytes()[0] | 1; payload_bytes]),
        event_id: EventId(Uuid::from_u128(u128::from(seq) << 64 | 7)),
    }
}

/// An entry with these events.
pub(crate) fn entry_of(index: u64, name: &str, seq: u64, version: u64, events: Vec<NewEvent>) -> Entry {
    let name = KeyName::new("default", name).unwrap();
    let stored = StoredEvents::number(name, Seq(seq), Version(version), Timestamp(seq * 10), events);
    Entry {
        index: LogIndex(index),
        epoch: EPOCH,
        body: EntryBody::Events(Arc::new(stored.unwrap())),
    }
}

/// An entry of `count` small events of one key, with seqs from `seq`.
pub(crate) fn entry(index: u64, seq: u64, count: u64) -> Entry {
    let events = (seq..seq + count).map(|seq| new_event(seq, 20)).collect();
    entry_of(index, "key", seq, seq, events)
}

/// An entry that starts an epoch.
pub(crate) fn epoch_start(index: u64) -> Entry {
    let membership = Membership {
        number: 1,
        members: vec![NodeId(5)],
        previous: vec![],
    };
    Entry {
        index: LogIndex(index),
        epoch: EPOCH,
        body: EntryBody::EpochStart(membership),
    }
}
