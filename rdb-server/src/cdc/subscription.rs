//! One subscriber's stream: events below the resolved mark, marks, and word of being caught up or behind.
//!
//! A subscriber reads from the logs, never from a queue of its own: a slow one holds a position and one message,
//! and nothing else waits for it.

use super::filter::Filter;
use super::marks::Marks;
use super::merge::{Merge, Merged, Run};
use crate::limits::{FELL_BEHIND_SEQS, MARK_INTERVAL, MARK_INTERVAL_MAX, STREAM_MESSAGE_BYTES};
use crate::storage::{LogReader, StorageError};
use crate::{blocking, clock};
use rdb_proto::types::Seq;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event that has a greater seq.
    After(Seq),
    /// With the first event that is resolved after the call.
    Now,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First, once: events will have a greater seq than this.
    Opened(Seq),
    /// Events.
    Changes(Run),
    /// Nothing at or below the seq is still to come; with the number of events since the last mark.
    Resolved(Seq, u64),
    /// All there was has been sent.
    CaughtUp(Seq),
    /// The subscriber is far behind the database, which stands at this seq.
    FellBehind(Seq),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    CatchingUp,
    Live,
}

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    merge: Merge,
    database: watch::Receiver<Seq>,
    phase: Phase,
    /// Everything at or below this seq was sent or filtered.
    position: Seq,
    marked: Seq,
    marked_at: Instant,
    sent_since_mark: u64,
}

impl Subscription {
    /// Begins a subscription; `logs` in the order of the seats in `marks`.
    pub fn new(logs: &[LogReader], marks: Arc<Marks>, filter: Filter, start: Start) -> Self {
        let position = match start {
            Start::After(seq) => seq,
            Start::Now => marks.resolved(),
        };
        let database = marks.watch();
        let merge = Merge::new(logs, marks, filter, position);
        Self {
            merge,
            database,
            phase: Phase::Opening,
            position,
            marked: position,
            marked_at: clock::monotonic(),
            sent_since_mark: 0,
        }
    }

    /// Everything at or below this seq was sent, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.position
    }

    /// The next message. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read or is damaged; the subscription is over.
    pub async fn next(&mut self) -> Result<Message, StorageError> {
        if self.phase == Phase::Opening {
            self.phase = Phase::CatchingUp;
            return Ok(Message::Opened(self.position));
        }
        loop {
            if self.position > self.marked && self.is_mark_due(MARK_INTERVAL_MAX) {
                return Ok(self.mark());
            }
            let mark = *self.database.borrow_and_update();
            if self.phase == Phase::Live && mark.since(self.position) > FELL_BEHIND_SEQS {
                self.phase = Phase::CatchingUp;
                return Ok(Message::FellBehind(mark));
            }
            match self.read(mark)? {
                Merged::Run(run) => {
                    self.position = run.last_seq;
                    self.sent_since_mark = self.sent_since_mark.saturating_add(run.count);
                    return Ok(Message::Changes(run));
                }
                Merged::Filtered(seq) => {
                    self.position = seq;
                    // Give other tasks their turn: a filter that lets nothing through reads on and on.
                    tokio::task::yield_now().await;
                }
                Merged::End => {
                    if let Some(message) = self.at_end(mark)? {
                        return Ok(message);
                    }
                    self.wait().await;
                }
            }
        }
    }

    /// What was committed just now is in memory; what lies further back may be on a disk that is slow.
    fn read(&mut self, mark: Seq) -> Result<Merged, StorageError> {
        let merge = &mut self.merge;
        if self.phase == Phase::Live {
            merge.next(mark, STREAM_MESSAGE_BYTES)
        } else {
            blocking::read(|| merge.next(mark, STREAM_MESSAGE_BYTES))
        }
    }

    /// Nothing is left below the mark: what is worth saying, before waiting?
    fn at_end(&mut self, mark: Seq) -> Result<Option<Message>, StorageError> {
        self.position = self.position.max(self.merge.shown_up_to(mark)?);
        if self.phase == Phase::CatchingUp {
            if self.position > self.marked {
                return Ok(Some(self.mark()));
            }
            self.phase = Phase::Live;
            return Ok(Some(Message::CaughtUp(self.position)));
        }
        let is_news = self.position > self.marked && self.is_mark_due(MARK_INTERVAL);
        let is_silent = self.is_mark_due(MARK_INTERVAL_MAX);
        Ok((is_news || is_silent).then(|| self.mark()))
    }

    fn is_mark_due(&self, interval: std::time::Duration) -> bool {
        clock::monotonic().saturating_duration_since(self.marked_at) >= interval
    }

    fn mark(&mut self) -> Message {
        self.marked = self.position;
        self.marked_at = clock::monotonic();
        Message::Resolved(self.position, std::mem::take(&mut self.sent_since_mark))
    }

    /// Until the database's mark moves, or until the next mark is due.
    async fn wait(&mut self) {
        let interval = if self.position > self.marked {
            MARK_INTERVAL
        } else {
            MARK_INTERVAL_MAX
        };
        let passed = clock::monotonic().saturating_duration_since(self.marked_at);
        let left = interval.saturating_sub(passed);
        // A closed channel means that the node stops: the stream's owner ends it.
        if let Some(Err(_closed)) = clock::within(left, self.database.changed()).await {
            std::future::pending::<()>().await;
        }
    }
}
