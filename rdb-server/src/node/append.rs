//! Appends: to the key's seat, and back with the outcome.

use super::error::NodeError;
use super::handle::{Handle, SeatHandle, not_taken};
use super::request::{Append, Stored};
use super::seat_driver::{AppendCommand, Command};
use crate::clock;
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::protocol::Outcome;
use rdb_proto::event::Expectation;
use rdb_proto::types::{EventId, KeyName, SeatId};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// An append that was handed to its seat.
#[derive(Debug)]
pub struct PendingAppend {
    outcome: oneshot::Receiver<Result<Outcome, NodeError>>,
    seat: SeatId,
    name: KeyName,
    expect: Expectation,
    event_ids: Vec<EventId>,
}

impl Handle {
    /// Appends events to one key: all or none. Returns where each was stored, once they are durable.
    ///
    /// **Cancel safety**: dropping the future does not take the append back.
    ///
    /// # Errors
    /// [`NodeError`]; its reason says whether anything happened.
    pub async fn append(&self, append: Append) -> Result<Vec<Stored>, NodeError> {
        let permit = self.room_for(append.body_bytes())?;
        let (seat, command, pending) = self.prepare(append, permit)?;
        seat.commands
            .try_send(command)
            .map_err(|error| not_taken(&error))?;
        pending.stored().await
    }

    /// Takes so many bytes of the node's budget of bytes in flight, until the permit is dropped.
    ///
    /// # Errors
    /// [`NodeError::Overloaded`].
    pub fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, NodeError> {
        Arc::clone(&self.shared.in_flight)
            .try_acquire_many_owned(weight(bytes))
            .map_err(|_full| NodeError::Overloaded("the budget of bytes in flight"))
    }

    /// Hands an append to its seat, waiting for a place in its queue. Appends of one key that are submitted one
    /// after the other are decided in that order.
    ///
    /// # Errors
    /// [`NodeError`]; nothing happened.
    pub async fn submit(&self, append: Append) -> Result<PendingAppend, NodeError> {
        let permit = Arc::clone(&self.shared.in_flight)
            .acquire_many_owned(weight(append.body_bytes()))
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        let (seat, command, pending) = self.prepare(append, permit)?;
        seat.commands
            .send(command)
            .await
            .map_err(|_closed| NodeError::ShuttingDown)?;
        Ok(pending)
    }

    fn prepare(
        &self,
        append: Append,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Arc<SeatHandle>, Command, PendingAppend), NodeError> {
        let seat = self.member_here(self.seat_of(append.name.slot()))?;
        let (reply, outcome) = oneshot::channel();
        let pending = PendingAppend {
            outcome,
            seat: seat.id,
            name: append.name.clone(),
            expect: append.expect,
            event_ids: append.events.iter().map(|event| event.event_id).collect(),
        };
        let command = Command::Append(AppendCommand {
            append,
            arrived: clock::monotonic(),
            reply,
            permit,
        });
        Ok((seat, command, pending))
    }
}

impl PendingAppend {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`NodeError`]; its reason says whether anything happened.
    pub async fn stored(self) -> Result<Vec<Stored>, NodeError> {
        let first_id = self.event_ids.first().copied().ok_or(NodeError::ShuttingDown)?;
        // The seat's task ends without an answer only when the process ends.
        let outcome = self
            .outcome
            .await
            .map_err(|_gone| NodeError::Unknown(first_id))??;
        match outcome {
            Outcome::Written(written) => Ok(self
                .event_ids
                .iter()
                .zip(0..)
                .map(|(&event_id, n)| Stored {
                    seq: written.first_seq.plus(n),
                    version: written.first_version.plus(n),
                    event_id,
                    is_duplicate: false,
                })
                .collect()),
            Outcome::Duplicate(known) => Ok(known
                .into_iter()
                .map(|known| Stored {
                    seq: known.seq,
                    version: known.version,
                    event_id: known.event_id,
                    is_duplicate: true,
                })
                .collect()),
            Outcome::Conflict(current) => Err(NodeError::Conflict {
                name: self.name,
                expect: self.expect,
                current,
            }),
            Outcome::EventIdReused(id) => Err(NodeError::EventIdReused(id)),
            Outcome::RetryTooOld(id) => Err(NodeError::RetryTooOld(id)),
            Outcome::Refused(refusal) => Err(NodeError::Refused {
                seat: self.seat,
                refusal,
            }),
            // An append is never answered as a change of a cursor.
            Outcome::Changed(_) | Outcome::Unknown => Err(NodeError::Unknown(first_id)),
        }
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes.min(IN_FLIGHT_BYTES_MAX)).unwrap_or(u32::MAX)
}
