//! Where a message goes on this node: to the bounded queue of its seat, or nowhere.

use super::stats::Count;
use crate::protocol::Message;
use rdb_proto::types::{NodeId, SeatId};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};

/// What the transport tells a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeatMail {
    /// Another member says something.
    Message {
        /// The node of that member.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A connection to this node was refused: its process is gone. Told anew with every attempt.
    Unreachable(NodeId),
}

/// The seats that this node has a member of.
#[derive(Debug, Default)]
pub(super) struct Seats(watch::Sender<BTreeMap<SeatId, mpsc::Sender<SeatMail>>>);

impl Seats {
    pub(super) fn register(&self, seat: SeatId, mail: mpsc::Sender<SeatMail>) {
        self.0.send_modify(|seats| {
            seats.insert(seat, mail);
        });
    }

    pub(super) fn unregister(&self, seat: SeatId) {
        self.0.send_modify(|seats| {
            seats.remove(&seat);
        });
    }

    /// Hands messages of one sender to their seats; those that no seat takes are dropped and counted.
    pub(super) fn deliver(
        &self,
        from: NodeId,
        messages: impl Iterator<Item = (SeatId, Message)>,
        dropped: &Count,
    ) {
        let seats = self.0.borrow();
        for (seat, message) in messages {
            let mail = SeatMail::Message { from, message };
            let is_taken = seats.get(&seat).is_some_and(|seat| seat.try_send(mail).is_ok());
            if !is_taken {
                dropped.add(1);
            }
        }
    }

    /// Tells every seat. A seat whose queue is full learns it from the next attempt.
    pub(super) fn unreachable(&self, node: NodeId) {
        for seat in self.0.borrow().values() {
            if seat.try_send(SeatMail::Unreachable(node)).is_err() {
                tracing::debug!(%node, "a seat is too busy to hear that a node is gone");
            }
        }
    }
}
