//! What waits for a peer: bounded in messages and in bytes, first in, first out. Many put, the one stream takes.

use crate::limits::{PEER_BATCH_BYTES, PEER_QUEUE_BYTES_MAX, PEER_QUEUE_MESSAGES_MAX};
use crate::protocol::Message;
use crate::transport::wire;
use rdb_proto::types::SeatId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to take; told when the queue was empty before.
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(SeatId, Message)>,
    bytes: usize,
}

impl Queue {
    /// Puts a message last; `false` when there is no room for it.
    pub(super) fn put(&self, seat: SeatId, message: Message) -> bool {
        let weight = wire::weight(&message);
        let mut waiting = self.waiting();
        let is_full = waiting.messages.len() >= PEER_QUEUE_MESSAGES_MAX
            || waiting.bytes.saturating_add(weight) > PEER_QUEUE_BYTES_MAX;
        if is_full {
            return false;
        }
        let was_empty = waiting.messages.is_empty();
        waiting.bytes = waiting.bytes.saturating_add(weight);
        waiting.messages.push_back((seat, message));
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
        true
    }

    /// Everything that waits, up to a bound in bytes; at least one message. Cancel safe.
    pub(super) async fn batch(&self) -> Vec<(SeatId, Message)> {
        loop {
            let batch = self.waiting().batch();
            if !batch.is_empty() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Drops everything that waits, and returns how many messages that were.
    pub(super) fn clear(&self) -> usize {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.messages.len()
    }

    /// Nothing that holds the lock can leave the queue half changed.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn batch(&mut self) -> Vec<(SeatId, Message)> {
        let mut bytes = 0_usize;
        let within = |(_, message): &&(SeatId, Message)| {
            let is_within = bytes < PEER_BATCH_BYTES;
            bytes = bytes.saturating_add(wire::weight(message));
            is_within
        };
        let count = self.messages.iter().take_while(within).count();
        let batch: Vec<_> = self.messages.drain(..count).collect();
        let taken: usize = batch.iter().map(|(_, message)| wire::weight(message)).sum();
        self.bytes = self.bytes.saturating_sub(taken);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MESSAGE_WEIGHT_MIN;
    use crate::transport::tests::{append_of, heartbeat, seat};

    #[tokio::test]
    async fn what_is_put_is_taken_in_order_and_all_at_once() {
        let queue = Queue::default();
        for round in 1..=3 {
            assert!(queue.put(seat(1), heartbeat(round)));
        }
        let batch = queue.batch().await;
        assert_eq!(batch, [1, 2, 3].map(|round| (seat(1), heartbeat(round))));
        assert_eq!(queue.waiting().bytes, 0);
    }

    #[test]
    fn one_message_too_many_is_refused_and_the_first_ones_stay() {
        let queue = Queue::default();
        for _ in 0..PEER_QUEUE_MESSAGES_MAX {
            assert!(queue.put(seat(1), heartbeat(1)));
        }
        assert!(!queue.put(seat(1), heartbeat(0)));
        assert_eq!(queue.waiting().messages.len(), PEER_QUEUE_MESSAGES_MAX);
        assert_eq!(queue.clear(), PEER_QUEUE_MESSAGES_MAX);
        assert!(queue.put(seat(1), heartbeat(0)));
        assert_eq!(queue.waiting().bytes, MESSAGE_WEIGHT_MIN);
    }

    #[tokio::test]
    async fn bytes_bound_the_queue_and_the_batch() {
        let queue = Queue::default();
        let large = append_of(1, 1 << 20);
        let weight = wire::weight(&large);
        let fit = PEER_QUEUE_BYTES_MAX / weight;
        for _ in 0..fit {
            assert!(queue.put(seat(1), large.clone()));
        }
        assert!(!queue.put(seat(1), large.clone()));
        assert_eq!(queue.batch().await.len(), PEER_BATCH_BYTES.div_ceil(weight));
        assert!(queue.put(seat(1), large));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_first_message() {
        let queue = Queue::default();
        let (batch, ()) = tokio::join!(queue.batch(), async {
            assert!(queue.put(seat(1), heartbeat(1)));
        });
        assert_eq!(batch, [(seat(1), heartbeat(1))]);
    }
}
