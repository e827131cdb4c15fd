//! How far every seat is committed and resolved, for readers on this node.
//!
//! A seat's mark is valid only together with the commit index that it was confirmed for (DESIGN 7): the commit is
//! stored first and read last, so that whoever sees a mark finds every entry at or below it.

use rdb_proto::types::{LogIndex, Seq};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

/// Marks and commit indexes of all seats of the node, and the database's mark: the lowest of the seats'.
#[derive(Debug)]
pub struct Marks {
    seats: Vec<SeatMarks>,
    database: watch::Sender<Seq>,
}

#[derive(Debug, Default)]
struct SeatMarks {
    commit: AtomicU64,
    committed: Notify,
    mark: watch::Sender<Seq>,
}

impl Marks {
    /// Marks for this many seats, nothing committed.
    pub fn new(seats: usize) -> Self {
        Self {
            seats: (0..seats).map(|_| SeatMarks::default()).collect(),
            database: watch::Sender::new(Seq::ZERO),
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
            seat.mark.send_if_modified(|known| {
                let is_later = mark > *known;
                *known = mark.max(*known);
                is_later
            });
        }
        // Looked up under the lock: of two seats that move at once, the later one sees both.
        self.database.send_if_modified(|mark| {
            let lowest = self.seats.iter().map(|seat| *seat.mark.borrow()).min();
            let lowest = lowest.unwrap_or_default();
            let is_later = lowest > *mark;
            *mark = lowest.max(*mark);
            is_later
        });
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
        *self.database.borrow()
    }

    /// Follows the mark of some seats, by their positions.
    pub fn watch_seats(&self, positions: impl ExactSizeIterator<Item = usize>) -> SeatsMark {
        let is_all = positions.len() == self.seats.len();
        SeatsMark(if is_all {
            vec![self.watch()]
        } else {
            positions.map(|position| self.watch_seat(position)).collect()
        })
    }

    /// Follows the mark of the seat at this position; one that is over when there is no such seat.
    fn watch_seat(&self, seat: usize) -> watch::Receiver<Seq> {
        let gone = || watch::channel(Seq::ZERO).1;
        self.seats
            .get(seat)
            .map_or_else(gone, |seat| seat.mark.subscribe())
    }

    /// Follows the database's mark.
    fn watch(&self) -> watch::Receiver<Seq> {
        self.database.subscribe()
    }
}

/// The mark of some seats together: the lowest of theirs.
#[derive(Debug, Clone)]
pub struct SeatsMark(Vec<watch::Receiver<Seq>>);

impl SeatsMark {
    /// No event of these seats at or below this seq is still to come.
    pub fn seq(&self) -> Seq {
        self.0.iter().map(|mark| *mark.borrow()).min().unwrap_or_default()
    }

    /// Waits until the mark has reached `seq`. Cancel safe.
    ///
    /// # Errors
    /// When the node stops.
    pub async fn reached(&mut self, seq: Seq) -> Result<(), watch::error::RecvError> {
        for mark in &mut self.0 {
            mark.wait_for(|mark| *mark >= seq).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

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
    fn a_mark_never_goes_back() {
        let marks = Marks::new(1);
        marks.resolve(0, Seq(9));
        marks.resolve(0, Seq(3));
        assert_eq!(marks.resolved(), Seq(9));
    }
}
