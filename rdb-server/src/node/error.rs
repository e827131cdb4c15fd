//! What a node answers when it does not do what it was asked.

use crate::coordination::CoordinationError;
use crate::limits::RETRY_AFTER_MS;
use crate::protocol::{KeyState, Refusal};
use crate::storage::StorageError;
use rdb_proto::event::Expectation;
use rdb_proto::reason::Reason;
use rdb_proto::types::{EventId, GroupId, KeyName, SeatId, Seq};
use std::path::PathBuf;
use thiserror::Error;
use uuid::Uuid;

/// Why a request was refused, or failed. [`NodeError::reason`] says whether anything happened.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The expectation did not hold.
    #[error("key `{}` is at {}, the write demanded {expect}", name.key, Stands(current))]
    Conflict {
        /// The key.
        name: KeyName,
        /// What was demanded.
        expect: Expectation,
        /// Where the key stands.
        current: KeyState,
    },
    /// The key has no event, or its latest one is a delete.
    #[error("key `{}` {}", name.key, if current.is_deleted { "is deleted" } else { "does not exist" })]
    KeyNotFound {
        /// The key.
        name: KeyName,
        /// Where the key stands.
        current: KeyState,
    },
    /// The event id stands in another append.
    #[error("event id {0} belongs to another append")]
    EventIdReused(EventId),
    /// A retry that the window of event ids does not reach back to.
    #[error("the retry of event {0} is older than the event ids that are remembered")]
    RetryTooOld(EventId),
    /// The seat does not take requests.
    #[error("seat {seat} {}", Why(refusal))]
    Refused {
        /// The seat of the key.
        seat: SeatId,
        /// Why it does not.
        refusal: Refusal,
    },
    /// This node has no member of the seat.
    #[error("seat {0} has no member on this node")]
    NotHere(SeatId),
    /// No subscription has the name.
    #[error("no subscription is named `{0}`")]
    SubscriptionUnknown(String),
    /// Another consumer has the named subscription, and was heard lately.
    #[error("subscription `{name}` is held by consumer {consumer}")]
    SubscriptionHeld {
        /// Its name.
        name: String,
        /// Who has it.
        consumer: Uuid,
    },
    /// Another consumer has taken the named subscription over, or its position was set.
    #[error("subscription `{name}` was taken over: its generation is {generation} now")]
    ConsumerFenced {
        /// Its name.
        name: String,
        /// Its generation.
        generation: u64,
    },
    /// A change of a named subscription may have happened or not; asking again does no harm.
    #[error("seat {0} was lost: whether the subscription was changed is not known")]
    ChangeUnknown(SeatId),
    /// The members here have not come so far in time.
    #[error("seq {seq} is not resolved here yet: this node is at {resolved}")]
    NotResolved {
        /// The seq.
        seq: Seq,
        /// How far it is.
        resolved: Seq,
    },
    /// No node has the name.
    #[error("no node is named `{0}`")]
    UnknownNode(String),
    /// An operator's order makes no sense as things are.
    #[error("{0}")]
    OrderRefused(String),
    /// An operator's order was not written down.
    #[error("the order is not written down: {0}")]
    NotOrdered(#[source] CoordinationError),
    /// Too few members of these groups told what they have seen of etcd.
    #[error("too few members of {} tell what they have seen of etcd; silent: {}", Groups(groups), silent.join(", "))]
    GroupsUnheard {
        /// The groups.
        groups: Vec<GroupId>,
        /// Names of all nodes that do not tell.
        silent: Vec<String>,
    },
    /// etcd cannot be read now, or what is there is not this database.
    #[error("etcd cannot be read: {0}")]
    EtcdUnread(#[source] CoordinationError),
    /// The counter cannot be read now.
    #[error("the counter cannot be read: {0}")]
    CounterUnread(#[source] CoordinationError),
    /// The address that another node gave cannot be one.
    #[error("another node says that it is reached at {0:?}, which is no address")]
    Address(String),
    /// The events were appended, and it is not known whether they stay.
    #[error("the outcome of event {0} is not known: the seat was lost before it was committed")]
    Unknown(EventId),
    /// A queue or a budget is full.
    #[error("{0} is full")]
    Overloaded(&'static str),
    /// No space is left for the log.
    #[error("the file system of {} is full: {free_bytes} bytes are free", path.display())]
    DiskFull {
        /// The data directory.
        path: PathBuf,
        /// What is left.
        free_bytes: u64,
    },
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node is stopping, and with it a change stream.
    #[error("the node is shutting down, resume the stream after seq {resume_after}")]
    StreamEnded {
        /// Everything up to this seq was sent.
        resume_after: Seq,
    },
    /// A position that the database has not reached.
    #[error("seq {seq} is not resolved yet, the database is resolved up to {resolved}")]
    SeqAhead {
        /// What was asked for.
        seq: Seq,
        /// What is there.
        resolved: Seq,
    },
    /// A position of another database.
    #[error("the position belongs to database {actual}, this is database {expected}")]
    WrongDatabase {
        /// What this is.
        expected: String,
        /// What the caller named.
        actual: String,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn overloaded(queue: String) -> Vec<(&'static str, String)> {
    vec![("queue", queue), ("retry_after_ms", RETRY_AFTER_MS.to_string())]
}

struct Stands<'a>(&'a KeyState);

impl std::fmt::Display for Stands<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "version {}", self.0.version)?;
        if self.0.is_deleted {
            f.write_str(" (deleted)")
        } else {
            Ok(())
        }
    }
}

struct Groups<'a>(&'a [GroupId]);

impl std::fmt::Display for Groups<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.len() == 1 { "group" } else { "groups" })?;
        self.0.iter().try_for_each(|group| write!(f, " {group}"))
    }
}

struct Why<'a>(&'a Refusal);

impl std::fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Refusal::NotLeader { leader: Some(_) } => "is led by another node",
            Refusal::NotLeader { leader: None } => "has no leader",
            Refusal::Recovering => "is being recovered",
            Refusal::NoNumbers => "gets no numbers from the coordinator",
            Refusal::Overloaded => "has too much waiting",
        })
    }
}

impl NodeError {
    /// Nobody leads the seat, as far as this node knows.
    pub const fn vacant(seat: SeatId) -> Self {
        let refusal = Refusal::NotLeader { leader: None };
        Self::Refused { seat, refusal }
    }

    /// The reason that the client is told.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Conflict { .. } => Reason::VersionConflict,
            Self::KeyNotFound { .. } => Reason::KeyNotFound,
            Self::EventIdReused(_) => Reason::EventIdReused,
            Self::RetryTooOld(_) => Reason::RetryTooOld,
            Self::Refused {
                refusal: Refusal::NotLeader { leader: Some(_) },
                ..
            } => Reason::NotLeader,
            Self::Refused {
                refusal: Refusal::NotLeader { leader: None },
                ..
            } => Reason::SeatVacant,
            Self::NotResolved { .. }
            | Self::Refused {
                refusal: Refusal::Recovering,
                ..
            } => Reason::SeatRecovering,
            Self::Refused {
                refusal: Refusal::NoNumbers,
                ..
            }
            | Self::EtcdUnread(_)
            | Self::CounterUnread(_) => Reason::CoordinatorAway,
            Self::NotHere(_) | Self::Address(_) => Reason::NotMember,
            Self::UnknownNode(_) => Reason::NodeUnknown,
            Self::OrderRefused(_)
            | Self::GroupsUnheard { .. }
            | Self::NotOrdered(CoordinationError::Changed { .. }) => Reason::OrderRefused,
            // An order may be written down all the same; asking again does no harm.
            Self::NotOrdered(_) | Self::Unknown(_) | Self::ChangeUnknown(_) => Reason::OutcomeUnknown,
            Self::SubscriptionUnknown(_) => Reason::SubscriptionUnknown,
            Self::SubscriptionHeld { .. } => Reason::SubscriptionHeld,
            Self::ConsumerFenced { .. } => Reason::ConsumerFenced,
            Self::Overloaded(_)
            | Self::Refused {
                refusal: Refusal::Overloaded,
                ..
            } => Reason::Overloaded,
            Self::DiskFull { .. } => Reason::DiskFull,
            Self::ShuttingDown | Self::StreamEnded { .. } => Reason::ShuttingDown,
            Self::SeqAhead { .. } => Reason::SeqAhead,
            Self::WrongDatabase { .. } => Reason::WrongDatabase,
            Self::Storage(error) => error.reason(),
        }
    }

    /// Facts for programs, by the names that [`Reason`] documents.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Conflict { current, .. } => vec![
                ("current_version", current.version.to_string()),
                ("current_seq", current.seq.to_string()),
                ("current_deleted", current.is_deleted.to_string()),
            ],
            Self::KeyNotFound { name, current } => {
                vec![
                    ("key", name.key.to_string()),
                    ("current_version", current.version.to_string()),
                ]
            }
            Self::EventIdReused(id) | Self::RetryTooOld(id) | Self::Unknown(id) => {
                vec![("event_id", id.to_string())]
            }
            Self::Refused {
                refusal:
                    Refusal::NotLeader {
                        leader: Some((node, epoch)),
                    },
                ..
            } => {
                vec![("leader", node.to_string()), ("epoch", epoch.to_string())]
            }
            Self::Refused {
                seat,
                refusal: Refusal::Overloaded,
            } => overloaded(format!("seat {seat}")),
            Self::Refused { seat, .. } | Self::NotHere(seat) | Self::ChangeUnknown(seat) => {
                vec![("seat", seat.to_string())]
            }
            Self::SubscriptionUnknown(name) => vec![("name", name.clone())],
            Self::SubscriptionHeld { name, consumer } => {
                vec![("name", name.clone()), ("consumer", consumer.to_string())]
            }
            Self::ConsumerFenced { name, generation } => {
                vec![("name", name.clone()), ("generation", generation.to_string())]
            }
            Self::UnknownNode(node) => vec![("node", node.clone())],
            Self::Address(address) => vec![("address", address.clone())],
            Self::Overloaded(queue) => overloaded((*queue).to_owned()),
            Self::DiskFull { path, free_bytes } => {
                vec![
                    ("path", path.display().to_string()),
                    ("free_bytes", free_bytes.to_string()),
                ]
            }
            Self::GroupsUnheard { groups, .. } => {
                let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
                vec![("groups", groups.join(","))]
            }
            Self::OrderRefused(_)
            | Self::NotOrdered(_)
            | Self::EtcdUnread(_)
            | Self::CounterUnread(_)
            | Self::ShuttingDown => Vec::new(),
            Self::StreamEnded { resume_after } => vec![("resume_after", resume_after.to_string())],
            Self::SeqAhead { seq, resolved } | Self::NotResolved { seq, resolved } => {
                vec![("seq", seq.to_string()), ("resolved", resolved.to_string())]
            }
            Self::WrongDatabase { expected, actual } => {
                vec![("expected", expected.clone()), ("actual", actual.clone())]
            }
            Self::Storage(error) => error.metadata(),
        }
    }
}
