//! Named subscriptions: who has one, and how far it is. [`consumers`] decides; here is asked and waited.

use super::error::NodeError;
use super::handle::{Handle, SeatHandle, not_taken};
use super::request::At;
use super::seat_driver::Command;
use crate::cdc::consumers::{self, Heard, Owner, Tenure};
use crate::clock;
use crate::limits::SUBSCRIPTION_NAMES_MAX;
use crate::protocol::Outcome;
use rdb_proto::cursor::{Cursor, CursorAct, CursorChange, check_subscription_name};
use rdb_proto::types::{FieldError, KeyName, SeatId, Seq};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

/// What a consumer asks for to have a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Name of the subscription.
    pub name: String,
    /// Who asks.
    pub consumer: Uuid,
    /// Position when the name is new; `None`: the last seq that was handed out.
    pub after: Option<Seq>,
    /// How long to wait for the consumer that has it.
    pub wait: Duration,
}

/// A named subscription as its seat's leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCursor {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub cursor: Cursor,
    /// Whether who has it was heard lately.
    pub is_heard: bool,
}

/// When the consumers of the names that are led here were last heard.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    heard: Mutex<Heard>,
    released: Notify,
}

impl Consumers {
    /// Never held across an await.
    fn heard(&self) -> MutexGuard<'_, Heard> {
        // A panic while the lock was held ends the process.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, seat: &SeatHandle, name: &str, generation: u64) {
        let tenure = tenure(seat, generation);
        self.heard().hear(name, tenure, clock::monotonic());
    }

    fn forget(&self, name: &str) {
        self.heard().forget(name);
        self.released.notify_waiters();
    }

    fn is_heard(&self, seat: &SeatHandle, name: &str, generation: u64) -> bool {
        let left = self
            .heard()
            .left(name, tenure(seat, generation), clock::monotonic());
        left.is_some_and(|left| !left.is_zero())
    }

    /// For how long the consumer of this generation may still be silent.
    fn left(&self, seat: &SeatHandle, name: &str, generation: u64) -> Duration {
        let tenure = tenure(seat, generation);
        self.heard().left_or_whole(name, tenure, clock::monotonic())
    }
}

fn tenure(seat: &SeatHandle, generation: u64) -> Tenure {
    let epoch = seat.view.borrow().epoch;
    Tenure { generation, epoch }
}

impl Handle {
    /// The seat that keeps a name: that of the key of the same name.
    ///
    /// # Errors
    /// [`FieldError`] for what cannot be a name.
    pub fn seat_of_subscription(&self, name: &str) -> Result<SeatId, FieldError> {
        check_subscription_name(name)?;
        Ok(self.seat_of(KeyName::new("", name)?.slot()))
    }

    /// Makes a consumer the one of a name, waiting for the one that has it to fall silent or let go.
    ///
    /// **Cancel safety**: dropping the future does not take the claim back; a repeated one finds itself.
    ///
    /// # Errors
    /// [`NodeError::SubscriptionHeld`], [`NodeError::SeqAhead`], or a refusal of the seat.
    pub async fn claim(&self, seat: SeatId, claim: Claim) -> Result<Cursor, NodeError> {
        let seat = self.member_here(seat)?;
        let deadline = clock::monotonic().checked_add(claim.wait);
        loop {
            let released = self.shared.consumers.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let cursor = self.cursor(&seat, &claim.name).await?;
            match consumers::owner(cursor, claim.consumer) {
                Owner::Itself(cursor) => {
                    self.shared.consumers.hear(&seat, &claim.name, cursor.generation);
                    return Ok(cursor);
                }
                Owner::Another { consumer, generation } => {
                    let silence = self.shared.consumers.left(&seat, &claim.name, generation);
                    let patience = deadline.map_or(Duration::ZERO, |deadline| {
                        deadline.saturating_duration_since(clock::monotonic())
                    });
                    if !silence.is_zero() {
                        if patience.is_zero() {
                            let name = claim.name;
                            return Err(NodeError::SubscriptionHeld { name, consumer });
                        }
                        clock::within(silence.min(patience), released).await;
                        continue;
                    }
                }
                Owner::Nobody => {}
            }
            let position = match claim.after {
                Some(seq) if cursor.is_none() => self.reached(&seat, seq).await?,
                Some(_) | None => self.counter(),
            };
            if cursor.is_none() && seat.index.cursor_count() >= SUBSCRIPTION_NAMES_MAX {
                return Err(NodeError::Overloaded("the seat's list of named subscriptions"));
            }
            let act = consumers::claim(cursor, claim.consumer, position);
            let after = self.change(&seat, &claim.name, act).await?;
            // Otherwise another claim came first.
            if let Owner::Itself(cursor) = consumers::owner(after, claim.consumer) {
                self.shared.consumers.hear(&seat, &claim.name, cursor.generation);
                return Ok(cursor);
            }
        }
    }

    /// Moves a name's position forward, and notes that its consumer was heard. Returns the position.
    ///
    /// # Errors
    /// [`NodeError::ConsumerFenced`], [`NodeError::SubscriptionUnknown`], [`NodeError::SeqAhead`], or a refusal of the
    /// seat.
    pub async fn acknowledge(
        &self,
        seat: SeatId,
        name: &str,
        generation: u64,
        seq: Seq,
    ) -> Result<Seq, NodeError> {
        let seat = self.member_here(seat)?;
        let fits = consumers::moves(seat.index.cursor(name), generation, seq);
        let cursor = if fits {
            let position = self.reached(&seat, seq).await?;
            let act = CursorAct::Acknowledge { generation, position };
            self.change(&seat, name, act).await?
        } else {
            self.cursor(&seat, name).await?
        };
        let cursor = fenced_unless(cursor, name, generation)?;
        if !fits && cursor.position < seq {
            // The index was behind: now it is not.
            return Box::pin(self.acknowledge(seat.id, name, generation, seq)).await;
        }
        self.shared.consumers.hear(&seat, name, generation);
        Ok(cursor.position)
    }

    /// Lets go of a name; nothing happens when this generation has not got it.
    ///
    /// # Errors
    /// A refusal of the seat.
    pub async fn release(&self, seat: SeatId, name: &str, generation: u64) -> Result<(), NodeError> {
        let seat = self.member_here(seat)?;
        let cursor = self.cursor(&seat, name).await?;
        if cursor.is_some_and(|cursor| cursor.is_held_by(generation)) {
            self.change(&seat, name, CursorAct::Release { generation })
                .await?;
            self.shared.consumers.forget(name);
        }
        Ok(())
    }

    /// Sets a name's position; whoever has it is fenced. Returns where it was. `seen` is the generation that it is
    /// known to have, 0 when none is.
    ///
    /// # Errors
    /// [`NodeError::SubscriptionUnknown`], [`NodeError::ConsumerFenced`] when it has another generation,
    /// [`NodeError::SeqAhead`], or a refusal of the seat.
    pub async fn seek(&self, seat: SeatId, name: &str, seq: Seq, seen: u64) -> Result<Seq, NodeError> {
        let seat = self.member_here(seat)?;
        let before = self.seen(&seat, name, seen).await?;
        let position = self.reached(&seat, seq).await?;
        let replaces = before.generation;
        let after = self
            .change(&seat, name, CursorAct::Seek { position, replaces })
            .await?;
        match after {
            None => return Err(NodeError::SubscriptionUnknown(name.to_owned())),
            // Somebody was first.
            Some(cursor) if cursor.consumer.is_some() => return Err(fenced(name, cursor)),
            Some(_) => {}
        }
        self.shared.consumers.forget(name);
        Ok(before.position)
    }

    /// Forgets a name. `seen` as for [`Handle::seek`].
    ///
    /// # Errors
    /// [`NodeError::SubscriptionUnknown`], [`NodeError::ConsumerFenced`] when it has another generation, or a refusal of
    /// the seat.
    pub async fn forget(&self, seat: SeatId, name: &str, seen: u64) -> Result<(), NodeError> {
        let seat = self.member_here(seat)?;
        let replaces = self.seen(&seat, name, seen).await?.generation;
        let after = self.change(&seat, name, CursorAct::Forget { replaces }).await?;
        if let Some(cursor) = after {
            return Err(fenced(name, cursor));
        }
        self.shared.consumers.forget(name);
        Ok(())
    }

    /// A name that an operator has seen under this generation.
    async fn seen(&self, seat: &SeatHandle, name: &str, generation: u64) -> Result<Cursor, NodeError> {
        let cursor = self.cursor(seat, name).await?;
        let cursor = cursor.ok_or_else(|| NodeError::SubscriptionUnknown(name.to_owned()))?;
        if generation != 0 && generation != cursor.generation {
            return Err(fenced(name, cursor));
        }
        Ok(cursor)
    }

    /// Of each of these seats, which this node leads, the first names after one.
    ///
    /// # Errors
    /// A refusal of a seat.
    pub async fn subscriptions(
        &self,
        seats: impl IntoIterator<Item = SeatId> + Send,
        (after, limit): (&str, usize),
    ) -> Result<Vec<NamedCursor>, NodeError> {
        let mut found = Vec::new();
        for seat in seats {
            let seat = self.member_here(seat)?;
            self.catch_up(&seat, At::Latest).await?;
            found.extend(
                seat.index
                    .cursors(after, limit)
                    .into_iter()
                    .map(|(name, cursor)| {
                        let is_heard = self.shared.consumers.is_heard(&seat, &name, cursor.generation);
                        NamedCursor {
                            is_heard: is_heard && cursor.consumer.is_some(),
                            name,
                            cursor,
                        }
                    }),
            );
        }
        Ok(found)
    }

    /// Where a name stands, and every change of it that was answered before.
    async fn cursor(&self, seat: &SeatHandle, name: &str) -> Result<Option<Cursor>, NodeError> {
        self.catch_up(seat, At::Latest).await?;
        Ok(seat.index.cursor(name))
    }

    /// A position that may be written down: one that the database has reached.
    async fn reached(&self, seat: &SeatHandle, seq: Seq) -> Result<Seq, NodeError> {
        let mark = self.shared.marks.watch_seats([seat.position].into_iter());
        self.resolved_up_to(seq, mark).await?;
        Ok(seq)
    }

    /// Has a change appended, and waits until it is applied. Returns what the cursor is then.
    async fn change(
        &self,
        seat: &SeatHandle,
        name: &str,
        act: CursorAct,
    ) -> Result<Option<Cursor>, NodeError> {
        let (reply, outcome) = oneshot::channel();
        let name = name.to_owned();
        let change = Arc::new(CursorChange { name, act });
        let command = Command::ChangeCursor {
            change: Arc::clone(&change),
            reply,
        };
        seat.commands
            .try_send(command)
            .map_err(|error| not_taken(&error))?;
        let index = match outcome
            .await
            .map_err(|_gone| NodeError::ChangeUnknown(seat.id))??
        {
            Outcome::Changed(index) => index,
            Outcome::Refused(refusal) => {
                let seat = seat.id;
                return Err(NodeError::Refused { seat, refusal });
            }
            // No other outcome is of a change of a cursor.
            Outcome::Unknown
            | Outcome::Written(_)
            | Outcome::Duplicate(_)
            | Outcome::Conflict(_)
            | Outcome::EventIdReused(_)
            | Outcome::RetryTooOld(_) => return Err(NodeError::ChangeUnknown(seat.id)),
        };
        let mut applied = seat.applied.clone();
        applied
            .wait_for(|applied| *applied >= index)
            .await
            .map_err(|_closed| NodeError::ChangeUnknown(seat.id))?;
        Ok(seat.index.cursor(&change.name))
    }
}

fn fenced_unless(cursor: Option<Cursor>, name: &str, generation: u64) -> Result<Cursor, NodeError> {
    let cursor = cursor.ok_or_else(|| NodeError::SubscriptionUnknown(name.to_owned()))?;
    if consumers::has(cursor, generation) {
        Ok(cursor)
    } else {
        Err(fenced(name, cursor))
    }
}

fn fenced(name: &str, cursor: Cursor) -> NodeError {
    NodeError::ConsumerFenced {
        name: name.to_owned(),
        generation: cursor.generation,
    }
}
