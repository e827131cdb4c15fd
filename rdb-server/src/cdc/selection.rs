//! What of an entry a subscriber gets, and when.

use super::filter::Filter;
use super::seat::SeatSource;
use crate::sabotage::{self, Sabotage};
use crate::storage::{Frame, StorageError};
use bytes::Bytes;
use rdb_proto::event::{Event, EventError, Facets, events_of, with_before};
use rdb_proto::types::Seq;
use std::collections::VecDeque;

/// In which order events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// All of them by their seqs: each once nothing can precede it any more.
    #[default]
    Seqs,
    /// Those of a key by their seqs: each as soon as its own seat has committed it.
    Keys,
}

/// Which events come, what comes with them, and in which order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Which events pass.
    pub filter: Filter,
    /// Whether each comes with the event of its key before it. Those of the snapshot come alone.
    pub with_before: bool,
    /// Up to this seq only what keys held as of it comes. [`Seq::ZERO`]: no snapshot.
    pub snapshot: Seq,
    /// In which order.
    pub order: Order,
}

impl Selection {
    /// Whether the key index is asked: it must have applied what is read.
    pub(super) fn asks_index(&self) -> bool {
        self.with_before || self.snapshot > Seq::ZERO
    }

    /// Whether an entry passes as it is, when it comes after `after`.
    pub(super) fn takes_whole(&self, frame: &Frame, after: Seq) -> bool {
        self.filter.is_open()
            && !self.with_before
            && frame.first_seq > after
            && frame.first_seq > self.snapshot
    }

    /// Adds the events of an entry that pass and come after `after`, encoded, with their seqs. What a filter does not ask for
    /// is not looked at: the log's own checks have passed, and whoever gets the event decodes it.
    pub(super) fn pass(
        &self,
        frame: &Frame,
        after: Seq,
        seat: &SeatSource,
        passed: &mut VecDeque<(Seq, Bytes)>,
    ) -> Result<(), StorageError> {
        let damaged = |error: EventError| seat.log.damaged_body(frame.index, &error);
        // An entry holds dense versions of one key, so only its first event has another entry's event before it.
        let mut last: Option<Bytes> = None;
        for encoded in events_of(frame.body.clone()) {
            let encoded = encoded.map_err(damaged)?;
            let facets = Facets::of(encoded.clone()).map_err(damaged)?;
            let before = if self.with_before {
                last.replace(encoded.clone())
            } else {
                None
            };
            let seq = facets.seq();
            if seq <= after || !self.filter.matches(&facets) {
                continue;
            }
            let event = || Event::decode(&encoded).map_err(damaged);
            if seq <= self.snapshot {
                let as_of = if sabotage::is(Sabotage::SnapshotSeam) {
                    self.snapshot.previous()
                } else {
                    self.snapshot
                };
                if seat.is_held(&event()?, as_of)? {
                    passed.push_back((seq, encoded));
                }
                continue;
            }
            if !self.with_before {
                passed.push_back((seq, encoded));
                continue;
            }
            let before = match before {
                Some(before) => Some(before),
                None => seat.before(&event()?, frame.index)?,
            };
            let change = match before {
                Some(before) => with_before(&encoded, &before),
                None => encoded,
            };
            passed.push_back((seq, change));
        }
        Ok(())
    }
}
