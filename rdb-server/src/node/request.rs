//! What is asked of a node and what it answers, in the words of this database.

use bytes::Bytes;
use rdb_proto::event::{Expectation, NewEvent};
use rdb_proto::types::{Collection, EventId, KeyName, Seq, Version};

/// One append, within the limits of [`rdb_proto::limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The key.
    pub name: KeyName,
    /// What must be true of it.
    pub expect: Expectation,
    /// One or more events with distinct ids.
    pub events: Vec<NewEvent>,
    /// Set on a retry: a seq that the database had reached before the first attempt.
    pub retried_since: Option<Seq>,
}

impl Append {
    /// At least as many bytes as the body of its entry will have.
    pub(super) fn body_bytes(&self) -> usize {
        /// Numbers, id, tags and lengths of one event in wire form.
        const EVENT_FIELDS_MAX: usize = 80;
        /// Tag and lengths of one tag or metadata pair in wire form.
        const LIST_FIELDS_MAX: usize = 12;
        let name = self
            .name
            .collection
            .as_str()
            .len()
            .saturating_add(self.name.key.as_str().len());
        let event_bytes = |event: &NewEvent| {
            let lists = event
                .tags
                .len()
                .saturating_add(event.meta.len())
                .saturating_mul(LIST_FIELDS_MAX);
            event
                .weight()
                .saturating_add(name)
                .saturating_add(lists)
                .saturating_add(EVENT_FIELDS_MAX)
        };
        self.events.iter().map(event_bytes).sum()
    }
}

/// Where an event was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its seq.
    pub seq: Seq,
    /// Its version.
    pub version: Version,
    /// Its id.
    pub event_id: EventId,
    /// Whether an earlier attempt had stored it.
    pub is_duplicate: bool,
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Sees every write acknowledged before the call.
    Latest,
    /// What this node has.
    Local,
    /// As the database stood at this seq.
    Seq(Seq),
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Wire form.
    pub encoded: Bytes,
    /// The answer is complete up to this seq.
    pub as_of: Seq,
}

/// Part of a key's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRange {
    /// The key.
    pub name: KeyName,
    /// First version to show; [`Version::ZERO`] means the first, or the last when backwards.
    pub from: Version,
    /// Newest first.
    pub is_backwards: bool,
    /// Most events to show.
    pub limit: u64,
}

/// Part of a collection's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The collection.
    pub collection: Collection,
    /// Beginning of the keys.
    pub prefix: String,
    /// Only keys after this one; empty means from the first.
    pub after: String,
    /// Most keys to return.
    pub limit: usize,
}
