//! The keys in etcd and the values under them (DESIGN 5). Values are JSON with a format field: a later release can
//! tell what it reads.

use crate::coordination::CoordinationError;
use rdb_proto::types::{GroupId, Membership, NodeId, SeatId, Seq, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Also read by clients: format of every value that this release reads and writes, and `live/{node}`.
pub(super) use rdb_proto::live::{FORMAT, LiveRecord};

/// Names of the keys of one database.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// All keys of the database begin with it, but the counter when it was moved elsewhere.
    pub(super) prefix: String,
    pub(super) counter: String,
}

impl Keys {
    pub(super) fn new(database: &str, counter: &str) -> Self {
        Self {
            prefix: format!("/rdb/{database}/"),
            counter: counter.to_owned(),
        }
    }

    pub(super) fn config(&self) -> String {
        format!("{}config", self.prefix)
    }

    pub(super) fn id(&self, name: &str) -> String {
        format!("{}ids/{name}", self.prefix)
    }

    pub(super) fn live(&self, node: NodeId) -> String {
        format!("{}live/{}", self.prefix, node.0)
    }

    pub(super) fn controller(&self) -> String {
        format!("{}controller", self.prefix)
    }

    /// All keys of the group begin with it.
    pub(super) fn group(&self, group: GroupId) -> String {
        format!("{}groups/{}/", self.prefix, group.0)
    }

    pub(super) fn members(&self, group: GroupId) -> String {
        format!("{}members", self.group(group))
    }

    pub(super) fn leaving(&self, node: NodeId) -> String {
        format!("{}leaving/{}", self.prefix, node.0)
    }

    pub(super) fn epoch(&self, seat: SeatId) -> String {
        self.of_seat(seat, "epoch")
    }

    pub(super) fn leader(&self, seat: SeatId) -> String {
        self.of_seat(seat, "leader")
    }

    pub(super) fn report(&self, seat: SeatId) -> String {
        self.of_seat(seat, "report")
    }

    fn of_seat(&self, seat: SeatId, what: &str) -> String {
        let (group, side) = (self.group(seat.group), seat.side.number());
        format!("{group}seats/{side}/{what}")
    }
}

/// `config`: what the whole database agrees on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigRecord {
    pub(super) format: u32,
    pub(super) database: Uuid,
    pub(super) groups: u32,
    pub(super) group_size: u32,
    pub(super) writes: u32,
    pub(super) slots: u16,
    /// Key of the counter: two counters would give the same numbers twice.
    pub(super) counter: String,
    /// Rises only after etcd went back to an older state.
    pub(super) generation: u64,
}

/// `ids/{name}`: which node has the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdRecord {
    pub(super) format: u32,
    pub(super) node: u64,
    /// Its data directory: another one is another node.
    pub(super) directory: Uuid,
}

/// `controller`: the node that places groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ControllerRecord {
    pub(super) format: u32,
    pub(super) node: u64,
    pub(super) incarnation: Uuid,
}

/// `groups/{g}/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembersRecord {
    pub(super) format: u32,
    pub(super) number: u64,
    pub(super) members: Vec<u64>,
    pub(super) previous: Vec<u64>,
    /// Nodes that catch up before they become members.
    #[serde(default)]
    pub(super) learners: Vec<u64>,
    /// The member that goes when the learner comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) leaving: Option<u64>,
}

impl MembersRecord {
    /// Members, and nobody who catches up.
    pub(super) fn of(membership: &Membership) -> Self {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        Self {
            format: FORMAT,
            number: membership.number,
            members: ids(&membership.members),
            previous: ids(&membership.previous),
            learners: Vec::new(),
            leaving: None,
        }
    }

    pub(super) fn membership(&self) -> Membership {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        Membership {
            number: self.number,
            members: nodes(&self.members),
            previous: nodes(&self.previous),
        }
    }
}

/// `leaving/{node}`: a node that is to have no members any more, by order of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeavingRecord {
    pub(super) format: u32,
    /// The node that takes its members; any when there is none.
    pub(super) to: Option<u64>,
}

/// `groups/{g}/seats/{s}/report`: how far the leader is with a change of the group's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReportRecord {
    pub(super) format: u32,
    /// The epoch that the leader speaks under.
    pub(super) node: u64,
    pub(super) number: u64,
    /// Revision of the members key that it speaks of.
    pub(super) as_of: u64,
    /// Number of the membership whose epoch-start it has committed.
    pub(super) established: u64,
    /// Learners that have everything.
    pub(super) caught_up: Vec<u64>,
}

/// `groups/{g}/seats/{s}/epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct EpochRecord {
    pub(super) format: u32,
    pub(super) number: u64,
    /// To whom the seat was given up, if it was.
    pub(super) successor: Option<u64>,
}

/// `groups/{g}/seats/{s}/leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderRecord {
    pub(super) format: u32,
    pub(super) node: u64,
    pub(super) number: u64,
    pub(super) incarnation: Uuid,
}

/// `counter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CounterRecord {
    pub(super) format: u32,
    /// Last seq handed out.
    pub(super) seq: u64,
    /// Microseconds since 1970, UTC: of the last batch, never back.
    pub(super) time_us: u64,
    pub(super) generation: u64,
}

impl CounterRecord {
    pub(super) const fn time(&self) -> Timestamp {
        Timestamp(self.time_us)
    }

    pub(super) const fn last(&self) -> Seq {
        Seq(self.seq)
    }
}

/// A value as it is written. The same record gives the same bytes, so that a txn can compare them.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Only a map with keys that are no strings fails, and no record has one.
    serde_json::to_vec(record).unwrap_or_default()
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A value as it was read.
pub(super) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, CoordinationError> {
    let malformed = |problem: String| CoordinationError::Malformed {
        key: key.to_owned(),
        problem,
    };
    let found: Format = serde_json::from_slice(value).map_err(|error| malformed(error.to_string()))?;
    if found.format != FORMAT {
        let problem = format!("its format is {}, this release reads {FORMAT}", found.format);
        return Err(malformed(problem));
    }
    serde_json::from_slice(value).map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are an interface between releases: golden.
    #[test]
    fn values_are_written_as_documented() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let counter = CounterRecord {
            format: FORMAT,
            seq: 17,
            time_us: 1_700_000_000_000_000,
            generation: 1,
        };
        assert_eq!(
            text(encode(&counter)),
            r#"{"format":1,"seq":17,"time_us":1700000000000000,"generation":1}"#
        );
        let leader = LeaderRecord {
            format: FORMAT,
            node: u64::MAX,
            number: 3,
            incarnation: Uuid::nil(),
        };
        assert_eq!(
            text(encode(&leader)),
            r#"{"format":1,"node":18446744073709551615,"number":3,"incarnation":"00000000-0000-0000-0000-000000000000"}"#
        );
    }

    #[test]
    fn a_later_format_is_refused_by_key_and_format() {
        let error = decode::<EpochRecord>("/rdb/x/epoch", br#"{"format":2,"more":true}"#).unwrap_err();
        assert!(error.to_string().contains("/rdb/x/epoch"), "{error}");
        assert!(error.to_string().contains("its format is 2"), "{error}");
    }
}
