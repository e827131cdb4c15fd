//! Change streams of the seats that this node has members of.

use super::error::NodeError;
use super::handle::Handle;
use crate::blocking;
use crate::cdc::{SeatSource, Seats, Selection, Start, Subscription};
use crate::clock::{self, BackOff};
use crate::limits::{COUNTER_WAIT_FIRST, COUNTER_WAIT_LONGEST, COUNTER_WAIT_MAX};
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{SeatId, Seq, Timestamp};
use std::sync::Arc;
use std::time::Duration;

impl Handle {
    /// Refuses a position of another database; an empty `database_id` is not checked.
    ///
    /// # Errors
    /// [`NodeError::WrongDatabase`].
    pub fn check_database(&self, database_id: &str) -> Result<(), NodeError> {
        let expected = self.database_id().to_string();
        if database_id.is_empty() || database_id == expected {
            return Ok(());
        }
        Err(NodeError::WrongDatabase {
            expected,
            actual: database_id.to_owned(),
        })
    }

    /// The latest seq that this node knows to be handed out.
    pub fn counter(&self) -> Seq {
        *self.shared.coordinator.counter().borrow()
    }

    /// A seq at or above every event that was acknowledged before this call, wherever. Where etcd cannot be asked for a while,
    /// the latest that this node has heard of.
    pub async fn acknowledged_before(&self) -> Seq {
        if sabotage::is(Sabotage::CaughtUpAtMark) {
            return Seq::ZERO;
        }
        let asked = async {
            let mut back_off = BackOff::new(COUNTER_WAIT_FIRST, COUNTER_WAIT_LONGEST);
            loop {
                match self.latest_seq().await {
                    Ok(seq) => return seq,
                    Err(_unread) => back_off.wait().await,
                }
            }
        };
        let seq = clock::within(COUNTER_WAIT_MAX, asked).await;
        seq.unwrap_or_else(|| self.counter())
    }

    /// Which of these seats this node has a member of, and which it has not. One that catches up before it is a member
    /// has nothing to show yet.
    pub fn divide(&self, seats: impl IntoIterator<Item = SeatId>) -> (Vec<SeatId>, Vec<SeatId>) {
        let members = self.members();
        let view = Arc::clone(&self.shared.coordinator.view().borrow());
        let learns = |seat: &SeatId| {
            let learners = view.learners.get(&seat.group);
            learners.is_some_and(|nodes| nodes.contains(&self.id()))
        };
        seats
            .into_iter()
            .partition(|seat| members.contains_key(seat) && !learns(seat))
    }

    /// Begins a change stream of these seats, with marks no more often than each `mark_interval`. Only that of one seat can
    /// be in the order of keys: one of several is in the order of seqs.
    ///
    /// # Errors
    /// [`NodeError::SeqAhead`] for a start or a snapshot that was never handed out, [`NodeError::NotResolved`] when the
    /// members here do not reach a snapshot in time, [`NodeError::NotHere`], or [`NodeError::Storage`].
    pub async fn subscribe(
        &self,
        seats: &[SeatId],
        start: Start,
        selection: Selection,
        mark_interval: Duration,
    ) -> Result<Subscription, NodeError> {
        let sources = seats.iter().map(|seat| self.source(*seat));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let (marks, audience) = (Arc::clone(&self.shared.marks), Arc::clone(&self.shared.audience));
        let seats = Seats::new(sources, marks, audience);
        let resolved = seats.mark().seq();
        let wait_for = match start {
            Start::After(seq) if self.check_handed_out(seq, resolved).await? => Seq::ZERO,
            // A position that was never handed out would skip what comes.
            Start::After(seq) => seq,
            // A member that starts knows no mark yet, and would begin with the first event there is.
            Start::At(_) => self.counter().min(Seq(1)),
        };
        // What keys hold as of a seq is known once nothing at or below it can be added.
        self.resolved_up_to(wait_for.max(selection.snapshot), seats.mark().clone())
            .await?;
        Ok(Subscription::new(seats, selection, start, mark_interval)?)
    }

    /// For each seq the time of the first event of these seats that has a greater one, as the members here know it.
    ///
    /// # Errors
    /// [`NodeError::NotHere`], or [`NodeError::Storage`].
    pub async fn times_after(
        &self,
        seats: &[SeatId],
        seqs: &[Seq],
    ) -> Result<Vec<Option<Timestamp>>, NodeError> {
        let mut times = vec![None; seqs.len()];
        for seat in seats {
            let source = self.source(*seat)?;
            let commit = self.shared.marks.committed(source.position);
            for (first, seq) in times.iter_mut().zip(seqs) {
                let time = blocking::read(|| source.time_after(*seq, commit))?;
                *first = first.iter().copied().chain(time).min();
                // Many seqs are many reads: whoever gave up on the answer is heard in between.
                tokio::task::yield_now().await;
            }
        }
        Ok(times)
    }

    fn source(&self, seat: SeatId) -> Result<SeatSource, NodeError> {
        let member = self.member_here(seat)?;
        Ok(SeatSource {
            position: member.position,
            log: member.log.clone(),
            index: Arc::clone(&member.index),
            applied: member.applied.clone(),
        })
    }

    /// Completes when this node has not a member of each of these seats any more: a change stream of them would stand
    /// still.
    pub async fn seat_gone(&self, seats: &[SeatId]) -> NodeError {
        let mut members = self.shared.seats.clone();
        loop {
            let missing = {
                let members = members.borrow_and_update();
                seats.iter().find(|seat| !members.contains_key(seat)).copied()
            };
            if let Some(seat) = missing {
                return NodeError::NotHere(seat);
            }
            if members.changed().await.is_err() {
                return NodeError::ShuttingDown;
            }
        }
    }
}
