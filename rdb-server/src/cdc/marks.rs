//! How far every seat is committed and resolved, for readers on this node.
//!
//! A seat's mark is valid only together with the commit index that it was confirmed for (DESIGN 7): the commit is
//! stored first and read last, so that whoever sees a mark finds every entry at or below it.

use crate::limits::MARK_STRIDE;
use rdb_proto::types::{LogIndex, Seq};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

/// Marks and commit indexes of all seats of the node, and the database's mark: the lowest of the seats'.
#[derive(Debug)]
pub struct Marks {
    seats: Vec<SeatMarks>,
    database: Mark,
}

#[derive(Debug, Default)]
struct SeatMarks {
    commit: AtomicU64,
    committed: Notify,
    mark: Mark,
}

/// A mark, and what tells those who wait for it.
#[derive(Debug, Default)]
struct Mark {
    seq: watch::Sender<Seq>,
    /// The same, told each [`MARK_STRIDE`] only: whoever lets many events gather is not woken for each of them.
    strides: watch::Sender<Seq>,
}

impl Mark {
    /// Goes on to what `next` says; never back.
    fn advance(&self, next: impl FnOnce() -> Seq) {
        let mut reached = Seq::ZERO;
        self.seq.send_if_modified(|seq| {
            reached = next();
            let is_later = reached > *seq;
            *seq = reached.max(*seq);
            is_later
        });
        self.strides.send_if_modified(|seq| {
            let is_stride = reached.since(*seq) >= MARK_STRIDE;
            if is_stride {
                *seq = reached;
            }
            is_stride
        });
    }

    fn seq(&self) -> Seq {
        *self.seq.borrow()
    }

    fn watch(&self) -> WatchedMark {
        WatchedMark {
            seq: self.seq.subscribe(),
            strides: self.strides.subscribe(),
        }
    }
}

impl Marks {
    /// Marks for this many seats, nothing committed.
    pub fn new(seats: usize) -> Self {
        Self {
            seats: (0..seats).map(|_| SeatMarks::default()).collect(),
            database: Mark::default(),
        }
    }

    /// Notes that entries of the seat at this position are committed up to `index`.
    pub fn commit(&self, seat: usize, index: LogIndex) {
        if let Some(seat) = self.seats.get(seat) {
            let before = seat.commit.fetch_max(index.get(), Ordering::Release);
            if before < index.get() {
                seat.committed.notify_waiters();
            }
        }
    }

    /// Notes the seat's mark, valid once the commit index given before it is visible.
    pub fn resolve(&self, seat: usize, mark: Seq) {
        if let Some(seat) = self.seats.get(seat) {
            seat.mark.advance(|| mark);
        }
        // Looked up under the lock: of two seats that move at once, the later one sees both.
        let lowest = || self.seats.iter().map(|seat| seat.mark.seq()).min();
        self.database.advance(|| lowest().unwrap_or_default());
    }

    /// Commit index of the seat at this position.
    pub fn committed(&self, seat: usize) -> LogIndex {
        self.seats.get(seat).map_or(LogIndex::ZERO, |seat| {
            LogIndex(seat.commit.load(Ordering::Acquire))
        })
    }

    /// Waits until entries of the seat at this position are committed beyond `index`. Cancel safe.
    pub async fn committed_beyond(&self, seat: usize, index: LogIndex) {
        let Some(marks) = self.seats.get(seat) else {
            return std::future::pending().await;
        };
        loop {
            // Before the look: what is committed in between wakes, too.
            let committed = marks.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if self.committed(seat) > index {
                return;
            }
            committed.await;
        }
    }

    /// No event at or below this seq is still to come.
    pub fn resolved(&self) -> Seq {
        self.database.seq()
    }

    /// Follows the mark of some seats, by their positions.
    pub fn watch_seats(&self, positions: impl ExactSizeIterator<Item = usize>) -> SeatsMark {
        let is_all = positions.len() == self.seats.len();
        SeatsMark(if is_all {
            vec![self.database.watch()]
        } else {
            positions.map(|position| self.watch_seat(position)).collect()
        })
    }

    /// Follows the mark of the seat at this position; one that is over when there is no such seat.
    fn watch_seat(&self, seat: usize) -> WatchedMark {
        let gone = || Mark::default().watch();
        self.seats.get(seat).map_or_else(gone, |seat| seat.mark.watch())
    }
}

#[derive(Debug, Clone)]
struct WatchedMark {
    seq: watch::Receiver<Seq>,
    strides: watch::Receiver<Seq>,
}

/// The mark of some seats together: the lowest of theirs.
#[derive(Debug, Clone)]
pub struct SeatsMark(Vec<WatchedMark>);

impl SeatsMark {
    /// No event of these seats at or below this seq is still to come.
    pub fn seq(&self) -> Seq {
        let marks = self.0.iter().map(|mark| *mark.seq.borrow());
        marks.min().unwrap_or_default()
    }

    /// Waits until the mark has reached `seq`. Cancel safe.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn reached(&mut self, seq: Seq) -> Result<(), watch::error::RecvError> {
        for mark in &mut self.0 {
            mark.seq.wait_for(|mark| *mark >= seq).await?;
        }
        Ok(())
    }

    /// Waits until the mark has reached `seq` and at most [`MARK_STRIDE`] more, and is seldom woken meanwhile. Cancel
    /// safe.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn passed(&mut self, seq: Seq) -> Result<(), watch::error::RecvError> {
        for mark in &mut self.0 {
            mark.strides.wait_for(|mark| *mark >= seq).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl Wakes {
        fn count(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_database_is_resolved_as_far_as_its_slowest_seat() {
        let marks = Marks::new(2);
        marks.resolve(0, Seq(9));
        assert_eq!(marks.resolved(), Seq(0));
        marks.resolve(1, Seq(4));
        assert_eq!(marks.resolved(), Seq(4));
        marks.resolve(1, Seq(12));
        assert_eq!(marks.resolved(), Seq(9));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_commit_is_woken_by_it_and_by_no_other() {
        let marks = Marks::new(2);
        let mut waiting = Box::pin(marks.committed_beyond(0, LogIndex(3)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        marks.commit(0, LogIndex(3));
        marks.commit(1, LogIndex(9));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        marks.commit(0, LogIndex(4));
        waiting.await;
        marks.committed_beyond(0, LogIndex(3)).await;
    }

    #[test]
    fn whoever_lets_events_gather_is_woken_once_a_stride() {
        let marks = Marks::new(1);
        let mut seats = marks.watch_seats([0].into_iter());
        let enough = Seq(5 * MARK_STRIDE);
        let wakes = Arc::<Wakes>::default();
        let alarm = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&alarm);
        let mut passed = pin!(seats.passed(enough));
        assert!(passed.as_mut().poll(&mut context).is_pending());
        let resolved = (1..=enough.get()).map(Seq).find(|&seq| {
            let before = wakes.count();
            marks.resolve(0, seq);
            wakes.count() > before && passed.as_mut().poll(&mut context).is_ready()
        });
        assert_eq!((resolved, wakes.count()), (Some(enough), 5));
    }

    #[test]
    fn a_mark_never_goes_back() {
        let marks = Marks::new(1);
        marks.resolve(0, Seq(9));
        marks.resolve(0, Seq(3));
        assert_eq!(marks.resolved(), Seq(9));
    }
}
