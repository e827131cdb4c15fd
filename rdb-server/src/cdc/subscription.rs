//! One subscriber's stream: events below the resolved mark, marks, and word of being caught up or behind.
//!
//! A stream of one seat whose keys alone are to be in order does not wait for the mark: the seat's log is in the order of
//! seqs, so what is committed there is shown, and everything at or below the last event shown was shown.
//!
//! A subscriber reads from the logs, never from a queue of its own: a slow one holds a position and one message,
//! and nothing else waits for it.

use super::audience::Listener;
use super::cadence::Cadence;
use super::marks::{Marks, SeatsMark};
use super::merge::{Bound, Merge, Merged, Run};
use super::seat::{SeatSource, Seats};
use super::selection::{Order, Selection};
use crate::limits::{FELL_BEHIND_SEQS, LISTENER_SEQS_MAX, PART_MARK_INTERVAL, STREAM_MESSAGE_BYTES};
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
    /// Everything that was there when the stream began, or fell behind, has been sent.
    CaughtUp(Seq),
    /// The subscriber is far behind the database, which stands at this seq.
    FellBehind(Seq),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    CatchingUp,
    /// The mark that it has caught up with is told.
    CaughtUp,
    Live,
}

/// How far the seats are.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Nothing at or below is still to be added.
    mark: Seq,
    /// What may be shown: everything at or below the mark, at least.
    bound: Bound,
}

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    merge: Merge,
    mark: SeatsMark,
    /// Seats whose indexes must have applied what is read; empty when no index is asked.
    indexed: Vec<SeatSource>,
    /// What is read up to once they have, and which entry each must know for it.
    awaited: Option<(Reach, Vec<LogIndex>)>,
    /// Position of the one seat whose entries are shown when they are committed.
    eager: Option<usize>,
    marks: Arc<Marks>,
    phase: Phase,
    cadence: Cadence,
    /// Whether other seats' events wait for the marks of this stream, so that it never rests while it shows none.
    is_awaited: bool,
    listener: Listener,
    /// What the last events were read up to: the rest of it, and the mark at its end, come before anything newer.
    held: Option<Reach>,
}

impl Subscription {
    /// Begins a subscription to these seats, which tells marks no more often than each `mark_interval`.
    ///
    /// **Blocking** when it starts at a time: reads the logs.
    ///
    /// # Errors
    /// [`StorageError`] when a log cannot be read.
    pub fn new(
        seats: Seats,
        selection: Selection,
        start: Start,
        mark_interval: Duration,
    ) -> Result<Self, StorageError> {
        let Seats {
            sources,
            marks,
            mark,
            audience,
        } = seats;
        let position = match start {
            Start::After(seq) => seq,
            Start::At(time) => before(time, &sources, &marks, mark.seq())?,
        };
        let indexed = if selection.asks_index() {
            sources.clone()
        } else {
            Vec::new()
        };
        // Of several seats only marks tell the order.
        let eager = match (selection.order, sources.as_slice()) {
            (Order::Keys, [seat]) => Some(seat.position),
            (Order::Keys | Order::Seqs, _) => None,
        };
        Ok(Self {
            indexed,
            eager,
            awaited: None,
            merge: Merge::new(sources, Arc::clone(&marks), selection, position),
            mark,
            marks,
            phase: Phase::Opening,
            cadence: Cadence::from(position, mark_interval, clock::monotonic()),
            is_awaited: mark_interval <= PART_MARK_INTERVAL,
            listener: Listener::of(audience),
            held: None,
        })
    }

    /// Everything at or below this seq was sent, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.cadence.position()
    }

    /// It says that it has caught up when everything at or below this seq is sent, and not before it is told so: marks
    /// follow acknowledgements by a moment, and what this node knows of is not all there is.
    pub const fn catch_up_with(&mut self, goal: Seq) {
        self.cadence.catch_up_with(goal);
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
        if self.phase == Phase::CaughtUp {
            self.phase = Phase::Live;
            return Ok(Message::CaughtUp(self.position()));
        }
        loop {
            if self.cadence.is_overdue(clock::monotonic()) {
                return Ok(self.say_mark());
            }
            if self.phase == Phase::Live && self.mark.seq().since(self.position()) > FELL_BEHIND_SEQS {
                self.phase = Phase::CatchingUp;
                // At the end of what was to be read before, it would be said to be caught up.
                self.held = None;
                self.awaited = None;
                let ahead = self.mark.seq();
                self.cadence.catch_up_with(ahead);
                return Ok(Message::FellBehind(ahead));
            }
            let Some(reach) = self.reach_to_read().await else {
                return Ok(self.say_mark());
            };
            match self.read(reach.bound)? {
                Merged::Run(run) => {
                    self.cadence.advance(run.last_seq, run.count);
                    self.serve(run.encoded.len(), reach);
                    return Ok(Message::Changes(run));
                }
                Merged::Filtered(seq) => {
                    self.cadence.advance(seq, 0);
                    if !self.is_awaited {
                        self.serve(0, reach);
                    }
                    // Give other tasks their turn: a filter that lets nothing through reads on and on.
                    tokio::task::yield_now().await;
                }
                Merged::End => {
                    self.held = None;
                    if let Some(message) = self.at_end(reach.mark)? {
                        return Ok(message);
                    }
                    self.wait(reach).await;
                }
            }
        }
    }

    /// Events up to there are looked through, and so many bytes of them are sent.
    fn serve(&mut self, bytes: usize, reach: Reach) {
        let is_live = self.phase == Phase::Live;
        let is_turn = is_live && self.held.is_none();
        self.listener.serve(bytes, is_turn, clock::monotonic());
        self.held = is_live.then_some(reach);
    }

    /// What was begun with is read to its end; then live events may gather, when many listen.
    async fn reach_to_read(&mut self) -> Option<Reach> {
        if self.held.is_some() {
            return self.held;
        }
        let rest = self.listener.rest(clock::monotonic());
        if self.phase == Phase::Live && !rest.is_zero() {
            let enough = Seq(self.position().get().saturating_add(LISTENER_SEQS_MAX));
            // A closed channel means that the node stops: the stream's owner ends it.
            let _is_enough = clock::within(rest, self.mark.passed(enough)).await;
        }
        self.readable().await
    }

    /// How far to read, once the indexes that are asked know every entry that it rests on: those committed when it was seen.
    /// `None` when that takes so long that a mark is due; the same is waited for then.
    async fn readable(&mut self) -> Option<Reach> {
        if self.indexed.is_empty() {
            return Some(self.reach());
        }
        let (reach, targets) = self.awaited.take().unwrap_or_else(|| {
            let reach = self.reach();
            let committed = |seat: &SeatSource| match reach.bound {
                Bound::Committed(index) => index,
                Bound::Resolved(_) => self.marks.committed(seat.position),
            };
            (reach, self.indexed.iter().map(committed).collect())
        });
        let applied = clock::within(self.rest(), applied(&mut self.indexed, &targets));
        if applied.await.is_some() {
            return Some(reach);
        }
        self.awaited = Some((reach, targets));
        None
    }

    /// How far the seats are now. The mark is looked at first: what it rests on is committed then.
    fn reach(&self) -> Reach {
        let mark = self.mark.seq();
        let bound = match self.eager {
            Some(seat) => Bound::Committed(self.marks.committed(seat)),
            None => Bound::Resolved(mark),
        };
        Reach { mark, bound }
    }

    /// What was committed just now is in memory; what lies further back, or an index tells of, may be on a disk that is slow.
    fn read(&mut self, bound: Bound) -> Result<Merged, StorageError> {
        let merge = &mut self.merge;
        if self.phase == Phase::Live && self.indexed.is_empty() {
            merge.next(bound, STREAM_MESSAGE_BYTES)
        } else {
            blocking::read(|| merge.next(bound, STREAM_MESSAGE_BYTES))
        }
    }

    /// Nothing is left to be shown: what is worth saying, before waiting?
    fn at_end(&mut self, mark: Seq) -> Result<Option<Message>, StorageError> {
        let shown = self.merge.shown_up_to(mark)?;
        self.cadence.advance(shown, 0);
        if self.phase == Phase::CatchingUp && self.cadence.is_at_goal() {
            if self.cadence.has_news() {
                // Before a look at what is new meanwhile: there might be something each time.
                self.phase = Phase::CaughtUp;
                return Ok(Some(self.say_mark()));
            }
            self.phase = Phase::Live;
            return Ok(Some(Message::CaughtUp(self.position())));
        }
        Ok(self
            .cadence
            .is_due_at_rest(clock::monotonic())
            .then(|| self.say_mark()))
    }

    fn rest(&self) -> Duration {
        self.cadence.rest(clock::monotonic())
    }

    fn say_mark(&mut self) -> Message {
        self.listener.look(clock::monotonic());
        let (seq, events) = self.cadence.mark(clock::monotonic());
        Message::Resolved(seq, events)
    }

    /// Until the seats are further than this, or until the next mark is due.
    async fn wait(&mut self, reach: Reach) {
        let rest = self.rest();
        let mark = self.mark.reached(reach.mark.next());
        let moved = async {
            match (self.eager, reach.bound) {
                (Some(seat), Bound::Committed(index)) => tokio::select! {
                    () = self.marks.committed_beyond(seat, index) => Ok(()),
                    marked = mark => marked,
                },
                (None, _) | (_, Bound::Resolved(_)) => mark.await,
            }
        };
        // A closed channel means that the node stops: the stream's owner ends it.
        if let Some(Err(_closed)) = clock::within(rest, moved).await {
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
