//! What clients sent and were told, exactly.
//!
//! Time here is a [`Tick`]: one counter for the whole run, taken before a request is sent and after its answer
//! came. So `a.answered < b.sent` says that a was over before b began, without a clock.

use rdb_proto::event::{EventKind, Expectation};
use rdb_proto::types::{EventId, Seq, Version};
use rdb_proto::v1;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod follower;
pub mod writers;

/// A moment of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u64);

/// Gives out moments.
#[derive(Debug, Default)]
pub struct Ticks(AtomicU64);

impl Ticks {
    /// A moment after every one given out before.
    pub fn next(&self) -> Tick {
        Tick(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// An event as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub event_id: EventId,
    /// Its body.
    pub payload: String,
}

/// Where an event is, as the answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its seq.
    pub seq: Seq,
    /// Its version.
    pub version: Version,
}

impl From<&v1::WriteResult> for Placed {
    fn from(result: &v1::WriteResult) -> Self {
        Self {
            seq: Seq(result.seq),
            version: Version(result.version),
        }
    }
}

/// What a client was told in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was done; where each event is.
    Acknowledged {
        /// When the answer came.
        at: Tick,
        /// One for each event.
        placed: Vec<Placed>,
    },
    /// The expectation did not hold.
    Conflict {
        /// When the answer came.
        at: Tick,
        /// Version that the key has instead.
        current: Version,
    },
    /// It was refused for another reason: nothing happened.
    Refused,
    /// Nothing, or that the outcome is not known.
    Unknown,
}

/// One write, append or delete, over all of its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its key, in the default collection.
    pub key: String,
    /// What its events do.
    pub kind: EventKind,
    /// Its events, one or more; one for a delete.
    pub events: Vec<Sent>,
    /// What it demanded.
    pub expect: Expectation,
    /// Before its first attempt was sent.
    pub sent: Tick,
    /// What came of it.
    pub told: Told,
}

impl Operation {
    /// When its acknowledgement came.
    pub const fn acknowledged_at(&self) -> Option<Tick> {
        match &self.told {
            Told::Acknowledged { at, .. } => Some(*at),
            Told::Conflict { .. } | Told::Refused | Told::Unknown => None,
        }
    }
}

/// A linearizable read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its key, in the default collection.
    pub key: String,
    /// Before it was sent.
    pub sent: Tick,
    /// After its answer came.
    pub answered: Tick,
    /// Version that it found; `None` when the key did not exist, or was deleted.
    pub found: Option<Version>,
}

/// The record of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What was written.
    pub operations: Vec<Operation>,
    /// What was read.
    pub observations: Vec<Observation>,
}

impl History {
    /// Adds the record of another client.
    pub fn merge(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.observations.extend(other.observations);
    }

    /// Events that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let done = self
            .operations
            .iter()
            .filter(|operation| operation.acknowledged_at().is_some());
        done.map(|operation| operation.events.len()).sum()
    }
}
