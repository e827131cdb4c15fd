//! How far every seat is committed and resolved, for readers on this node.
//!
//! A seat's mark is valid only together with the commit index that it was confirmed for (DESIGN 7): the commit is
//! stored first and read last, so that whoever sees a mark finds every entry at or below it.

use rdb_proto::types::{LogIndex, Seq};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Marks and commit indexes of all seats of the node, and the database's mark: the lowest of the seats'.
#[derive(Debug)]
pub struct Marks {
    seats: Vec<SeatMarks>,
    database: watch::Sender<Seq>,
}

#[derive(Debug, Default)]
struct SeatMarks {
    commit: AtomicU64,
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
            seat.commit.fetch_max(index.get(), Ordering::Release);
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

    #[test]
    fn a_mark_never_goes_back() {
        let marks = Marks::new(1);
        marks.resolve(0, Seq(9));
        marks.resolve(0, Seq(3));
        assert_eq!(marks.resolved(), Seq(9));
    }
}
