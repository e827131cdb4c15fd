//! Named subscriptions: who has one, and how far it is. Cursors are entries of a seat's log; who was heard lately is
//! known to the seat's leader only, and a new leader gives everybody the whole time again.

use super::error::NodeError;
use super::handle::{Handle, SeatHandle, not_taken};
use super::request::At;
use super::seat_driver::Command;
use crate::clock;
use crate::limits::{CONSUMER_HEARD_FOR, SUBSCRIPTION_NAMES_MAX};
use crate::protocol::Outcome;
use crate::sabotage::{self, Sabotage};
use rdb_proto::cursor::{Cursor, CursorAct, CursorChange, check_subscription_name};
use rdb_proto::types::{FieldError, KeyName, SeatId, Seq};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
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
    heard: Mutex<BTreeMap<String, (u64, Instant)>>,
    released: Notify,
}

impl Consumers {
    /// Never held across an await.
    fn heard(&self) -> MutexGuard<'_, BTreeMap<String, (u64, Instant)>> {
        // A panic while the lock was held ends the process.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, name: &str, generation: u64) {
        self.heard()
            .insert(name.to_owned(), (generation, clock::monotonic()));
    }

    fn forget(&self, name: &str) {
        self.heard().remove(name);
        self.released.notify_waiters();
    }

    /// For how long the consumer of this generation may still be silent. One that was never heard here may have been
    /// elsewhere just now.
    fn left(&self, name: &str, generation: u64) -> Duration {
        let now = clock::monotonic();
        let mut heard = self.heard();
        let known = heard.get(name).copied().filter(|(known, _)| *known == generation);
        let (_, at) = known.unwrap_or_else(|| {
            heard.insert(name.to_owned(), (generation, now));
            (generation, now)
        });
        CONSUMER_HEARD_FOR.saturating_sub(now.saturating_duration_since(at))
    }
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
            if let Some((cursor, consumer)) = cursor.and_then(|cursor| Some((cursor, cursor.consumer?))) {
                if consumer == claim.consumer {
                    self.shared.consumers.hear(&claim.name, cursor.generation);
                    return Ok(cursor);
                }
                let silence = self.shared.consumers.left(&claim.name, cursor.generation);
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
            let position = match claim.after {
                Some(seq) if cursor.is_none() => self.reached(&seat, seq).await?,
                Some(_) | None => self.counter(),
            };
            if cursor.is_none() && seat.index.cursors().len() >= SUBSCRIPTION_NAMES_MAX {
                return Err(NodeError::Overloaded("the seat's list of named subscriptions"));
            }
            let act = CursorAct::Claim {
                consumer: claim.consumer,
                replaces: cursor.map_or(0, |cursor| cursor.generation),
                position,
            };
            let after = self.change(&seat, &claim.name, act).await?;
            // Otherwise another claim came first.
            if let Some(cursor) = after.filter(|cursor| cursor.consumer == Some(claim.consumer)) {
                self.shared.consumers.hear(&claim.name, cursor.generation);
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
        let known = seat.index.cursor(name);
        let is_news = known.is_none_or(|cursor| cursor.generation != generation || cursor.position < seq);
        let cursor = if is_news {
            let position = self.reached(&seat, seq).await?;
            let act = CursorAct::Acknowledge { generation, position };
            self.change(&seat, name, act).await?
        } else {
            self.cursor(&seat, name).await?
        };
        let cursor = fenced_unless(cursor, name, generation)?;
        self.shared.consumers.hear(name, generation);
        Ok(cursor.position)
    }

    /// Lets go of a name.
    ///
    /// # Errors
    /// As [`Handle::acknowledge`].
    pub async fn release(&self, seat: SeatId, name: &str, generation: u64) -> Result<(), NodeError> {
        let seat = self.member_here(seat)?;
        let after = self
            .change(&seat, name, CursorAct::Release { generation })
            .await?;
        fenced_unless(after, name, generation)?;
        self.shared.consumers.forget(name);
        Ok(())
    }

    /// Sets a name's position; whoever has it is fenced. Returns where it was.
    ///
    /// # Errors
    /// [`NodeError::SubscriptionUnknown`], [`NodeError::SeqAhead`], or a refusal of the seat.
    pub async fn seek(&self, seat: SeatId, name: &str, seq: Seq) -> Result<Seq, NodeError> {
        let seat = self.member_here(seat)?;
        let before = self.cursor(&seat, name).await?;
        let before = before.ok_or_else(|| NodeError::SubscriptionUnknown(name.to_owned()))?;
        let position = self.reached(&seat, seq).await?;
        let after = self.change(&seat, name, CursorAct::Seek { position }).await?;
        after.ok_or_else(|| NodeError::SubscriptionUnknown(name.to_owned()))?;
        self.shared.consumers.forget(name);
        Ok(before.position)
    }

    /// Forgets a name.
    ///
    /// # Errors
    /// [`NodeError::SubscriptionUnknown`], or a refusal of the seat.
    pub async fn forget(&self, seat: SeatId, name: &str) -> Result<(), NodeError> {
        let seat = self.member_here(seat)?;
        if self.cursor(&seat, name).await?.is_none() {
            return Err(NodeError::SubscriptionUnknown(name.to_owned()));
        }
        self.change(&seat, name, CursorAct::Forget).await?;
        self.shared.consumers.forget(name);
        Ok(())
    }

    /// The names that these seats keep, which this node leads.
    ///
    /// # Errors
    /// A refusal of a seat.
    pub async fn subscriptions(
        &self,
        seats: impl IntoIterator<Item = SeatId> + Send,
    ) -> Result<Vec<NamedCursor>, NodeError> {
        let mut found = Vec::new();
        for seat in seats {
            let seat = self.member_here(seat)?;
            self.catch_up(&seat, At::Latest).await?;
            let heard = self.shared.consumers.heard();
            found.extend(seat.index.cursors().into_iter().map(|(name, cursor)| {
                let at = heard
                    .get(&name)
                    .filter(|(generation, _)| *generation == cursor.generation);
                let is_heard = at.is_some_and(|(_, at)| at.elapsed() < CONSUMER_HEARD_FOR);
                NamedCursor {
                    is_heard: is_heard && cursor.consumer.is_some(),
                    name,
                    cursor,
                }
            }));
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
            .map_err(|_closed| NodeError::ShuttingDown)?;
        Ok(seat.index.cursor(&change.name))
    }
}

fn fenced_unless(cursor: Option<Cursor>, name: &str, generation: u64) -> Result<Cursor, NodeError> {
    let name = || name.to_owned();
    let cursor = cursor.ok_or_else(|| NodeError::SubscriptionUnknown(name()))?;
    if cursor.generation == generation || sabotage::is(Sabotage::ConsumerUnfenced) {
        Ok(cursor)
    } else {
        Err(NodeError::ConsumerFenced {
            name: name(),
            generation: cursor.generation,
        })
    }
}
