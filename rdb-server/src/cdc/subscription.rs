//! One subscriber's stream: events below the resolved mark, marks, and word of being caught up or behind.
//!
//! A subscriber reads from the logs, never from a queue of its own: a slow one holds a position and one message,
//! and nothing else waits for it.

use super::cadence::Cadence;
use super::marks::{Marks, SeatsMark};
use super::merge::{Merge, Merged, Run};
use super::seat::SeatSource;
use super::selection::Selection;
use crate::limits::{FELL_BEHIND_SEQS, STREAM_MESSAGE_BYTES};
use crate::storage::StorageError;
use crate::{blocking, clock};
use rdb_proto::types::{LogIndex, Seq, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event that has a greater seq.
    After(Seq),
    /// With the first event at or after this time; with the next one, when there is none.
    At(Timestamp),
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
    mark: SeatsMark,
    /// Seats whose indexes must have applied what is read; empty when no index is asked.
    indexed: Vec<SeatSource>,
    /// The mark that is read up to once they have, and which entry each must know for it.
    awaited: Option<(Seq, Vec<LogIndex>)>,
    marks: Arc<Marks>,
    phase: Phase,
    cadence: Cadence,
}

impl Subscription {
    /// Begins a subscription to these seats, which tells marks no more often than each `mark_interval`.
    ///
    /// **Blocking** when it starts at a time: reads the logs.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read.
    pub fn new(
        seats: Vec<SeatSource>,
        marks: Arc<Marks>,
        selection: Selection,
        start: Start,
        mark_interval: Duration,
    ) -> Result<Self, StorageError> {
        let mark = marks.watch_seats(seats.iter().map(|seat| seat.position));
        let position = match start {
            Start::After(seq) => seq,
            Start::At(time) => before(time, &seats, &marks, mark.seq())?,
        };
        let indexed = if selection.asks_index() {
            seats.clone()
        } else {
            Vec::new()
        };
        Ok(Self {
            indexed,
            awaited: None,
            merge: Merge::new(seats, Arc::clone(&marks), selection, position),
            mark,
            marks,
            phase: Phase::Opening,
            cadence: Cadence::from(position, mark_interval),
        })
    }

    /// Everything at or below this seq was sent, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.cadence.position()
    }

    /// The next message. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read or is damaged; the subscription is over.
    pub async fn next(&mut self) -> Result<Message, StorageError> {
        if self.phase == Phase::Opening {
            self.phase = Phase::CatchingUp;
            return Ok(Message::Opened(self.position()));
        }
        loop {
            if self.cadence.is_overdue() {
                return Ok(self.say_mark());
            }
            if self.phase == Phase::Live && self.mark.seq().since(self.position()) > FELL_BEHIND_SEQS {
                self.phase = Phase::CatchingUp;
                return Ok(Message::FellBehind(self.mark.seq()));
            }
            let Some(mark) = self.readable().await else {
                return Ok(self.say_mark());
            };
            match self.read(mark)? {
                Merged::Run(run) => {
                    self.cadence.advance(run.last_seq, run.count);
                    return Ok(Message::Changes(run));
                }
                Merged::Filtered(seq) => {
                    self.cadence.advance(seq, 0);
                    // Give other tasks their turn: a filter that lets nothing through reads on and on.
                    tokio::task::yield_now().await;
                }
                Merged::End => {
                    if let Some(message) = self.at_end(mark)? {
                        return Ok(message);
                    }
                    self.wait(mark).await;
                }
            }
        }
    }

    /// The mark, once the indexes that are asked know every entry that it rests on: those committed when it was seen. `None`
    /// when that takes so long that a mark is due; the same one is waited for then.
    async fn readable(&mut self) -> Option<Seq> {
        if self.indexed.is_empty() {
            return Some(self.mark.seq());
        }
        let (mark, targets) = self.awaited.take().unwrap_or_else(|| {
            let mark = self.mark.seq();
            let committed = |seat: &SeatSource| self.marks.committed(seat.position);
            (mark, self.indexed.iter().map(committed).collect())
        });
        let applied = clock::within(self.cadence.rest(), applied(&mut self.indexed, &targets));
        if applied.await.is_some() {
            return Some(mark);
        }
        self.awaited = Some((mark, targets));
        None
    }

    /// What was committed just now is in memory; what lies further back, or an index tells of, may be on a disk that is slow.
    fn read(&mut self, mark: Seq) -> Result<Merged, StorageError> {
        let merge = &mut self.merge;
        if self.phase == Phase::Live && self.indexed.is_empty() {
            merge.next(mark, STREAM_MESSAGE_BYTES)
        } else {
            blocking::read(|| merge.next(mark, STREAM_MESSAGE_BYTES))
        }
    }

    /// Nothing is left below the mark: what is worth saying, before waiting?
    fn at_end(&mut self, mark: Seq) -> Result<Option<Message>, StorageError> {
        let shown = self.merge.shown_up_to(mark)?;
        self.cadence.advance(shown, 0);
        if self.phase == Phase::CatchingUp {
            if self.cadence.has_news() {
                return Ok(Some(self.say_mark()));
            }
            self.phase = Phase::Live;
            return Ok(Some(Message::CaughtUp(self.position())));
        }
        Ok(self.cadence.is_due_at_rest().then(|| self.say_mark()))
    }

    fn say_mark(&mut self) -> Message {
        let (seq, events) = self.cadence.mark();
        Message::Resolved(seq, events)
    }

    /// Until the mark moves beyond this one, or until the next mark is due.
    async fn wait(&mut self, mark: Seq) {
        let moved = self.mark.reached(mark.next());
        // A closed channel means that the node stops: the stream's owner ends it.
        if let Some(Err(_closed)) = clock::within(self.cadence.rest(), moved).await {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until each seat's index knows its entry.
async fn applied(seats: &mut [SeatSource], targets: &[LogIndex]) {
    for (seat, target) in seats.iter_mut().zip(targets) {
        // A closed channel means that the node stops: the stream's owner ends it.
        if seat.applied.wait_for(|applied| applied >= target).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The seq before the first event at or after a time; `mark` when no event up to it is.
fn before(time: Timestamp, seats: &[SeatSource], marks: &Marks, mark: Seq) -> Result<Seq, StorageError> {
    let mut before = mark;
    for seat in seats {
        let found = blocking::read(|| seat.first_at(time, marks.committed(seat.position)))?;
        before = before.min(found.map_or(mark, Seq::previous));
    }
    Ok(before)
}
