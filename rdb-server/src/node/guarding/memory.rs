//! `seen.json` in the data directory: what the node remembers of etcd, and under which id etcd knows it.

use crate::protocol::Seen;
use crate::storage::{DataDir, StorageError};
use rdb_proto::types::{GroupId, Membership, NodeId, SeatId, Seq, Side, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FILE: &str = "seen.json";

const FORMAT: u32 = 1;

/// Why what the node remembers cannot be used.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The file cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It is not what this release writes.
    #[error(
        "{FILE} in the data directory cannot be read: {0}. Without it an etcd that was restored to an older state may \
         not be noticed; if etcd never was, remove the file"
    )]
    Malformed(String),
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Memory {
    /// The node that the directory is of.
    pub(in crate::node) node: NodeId,
    pub(in crate::node) seen: Seen,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    node: u64,
    generation: u64,
    revision: u64,
    counter: u64,
    time_us: u64,
    seats: Vec<WrittenSeat>,
    groups: Vec<WrittenGroup>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSeat {
    group: u32,
    side: u32,
    epoch: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenGroup {
    group: u32,
    number: u64,
    members: Vec<u64>,
    previous: Vec<u64>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Memory {
    /// What the directory remembers; `None` when it never was of a cluster.
    ///
    /// **Blocking**.
    pub(in crate::node) fn read(data_dir: &DataDir) -> Result<Option<Self>, MemoryError> {
        let Some(bytes) = data_dir.note(FILE)? else {
            return Ok(None);
        };
        parse(&bytes).map(Some)
    }

    /// Makes it durable.
    ///
    /// **Blocking**: two syncs.
    pub(in crate::node) fn write(&self, data_dir: &DataDir) -> Result<(), StorageError> {
        data_dir.keep_note(FILE, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let seat = |(seat, epoch): (&SeatId, &u64)| WrittenSeat {
            group: seat.group.0,
            side: seat.side.number(),
            epoch: *epoch,
        };
        let group = |(group, membership): (&GroupId, &Membership)| WrittenGroup {
            group: group.0,
            number: membership.number,
            members: ids(&membership.members),
            previous: ids(&membership.previous),
        };
        let written = Written {
            format: FORMAT,
            node: self.node.0,
            generation: self.seen.generation,
            revision: self.seen.revision,
            counter: self.seen.counter.get(),
            time_us: self.seen.time.get(),
            seats: self.seen.epochs.iter().map(seat).collect(),
            groups: self.seen.members.iter().map(group).collect(),
        };
        // Only a map with keys that are no strings fails, and there is none.
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

fn parse(bytes: &[u8]) -> Result<Memory, MemoryError> {
    let malformed = |error: serde_json::Error| MemoryError::Malformed(error.to_string());
    let found: Format = serde_json::from_slice(bytes).map_err(malformed)?;
    if found.format != FORMAT {
        let problem = format!("its format is {}, this release reads {FORMAT}", found.format);
        return Err(MemoryError::Malformed(problem));
    }
    let written: Written = serde_json::from_slice(bytes).map_err(malformed)?;
    let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    let seat = |seat: WrittenSeat| {
        let side = Side::from_number(seat.side)?;
        let group = GroupId(seat.group);
        Some((SeatId { group, side }, seat.epoch))
    };
    let epochs: Option<_> = written.seats.into_iter().map(seat).collect();
    let group = |group: WrittenGroup| {
        let membership = Membership {
            number: group.number,
            members: nodes(group.members),
            previous: nodes(group.previous),
        };
        (GroupId(group.group), membership)
    };
    let seen = Seen {
        generation: written.generation,
        revision: written.revision,
        counter: Seq(written.counter),
        time: Timestamp(written.time_us),
        epochs: epochs.ok_or_else(|| MemoryError::Malformed("a group has sides 0 and 1".to_owned()))?,
        members: written.groups.into_iter().map(group).collect(),
    };
    Ok(Memory {
        node: NodeId(written.node),
        seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The file is an interface between releases: golden.
    #[test]
    fn what_is_remembered_is_written_as_documented_and_read_back() {
        let group = GroupId(0);
        let membership = Membership {
            number: 2,
            members: vec![NodeId(u64::MAX)],
            previous: vec![],
        };
        let memory = Memory {
            node: NodeId(7),
            seen: Seen {
                generation: 1,
                revision: 5,
                counter: Seq(17),
                time: Timestamp(9),
                epochs: BTreeMap::from([(
                    SeatId {
                        group,
                        side: Side::One,
                    },
                    3,
                )]),
                members: BTreeMap::from([(group, membership)]),
            },
        };
        let text = concat!(
            r#"{"format":1,"node":7,"generation":1,"revision":5,"counter":17,"time_us":9,"#,
            r#""seats":[{"group":0,"side":1,"epoch":3}],"#,
            r#""groups":[{"group":0,"number":2,"members":[18446744073709551615],"previous":[]}]}"#
        );
        assert_eq!(String::from_utf8(memory.encode()).unwrap(), text);
        assert_eq!(parse(text.as_bytes()).unwrap(), memory);
        assert!(parse(br#"{"format":2}"#).is_err(), "of a later release");
    }
}
