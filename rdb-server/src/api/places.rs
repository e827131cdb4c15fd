//! Connections to other nodes that change streams share.
//!
//! What a slow subscriber does not take lies unread in its stream's window, and counts for its connection too. So a
//! connection has places for as many streams as can lie unread all at once: none of them ever holds up another.

use super::forward;
use super::status::CallError;
use crate::limits::{PART_STREAMS_MAX, PART_WINDOW_BYTES};
use rdb_proto::limits::MESSAGE_BYTES_MAX;
use rdb_proto::network;
use rdb_proto::v1::changes_client::ChangesClient;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tonic::transport::Channel;

/// The connections that are in use, by address. One is closed when its last place is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<String, Vec<Weak<Shared>>>>>);

#[derive(Debug)]
struct Shared {
    channel: Channel,
    /// Whether a stream of it failed: those that go on may, new ones begin elsewhere.
    is_doubted: AtomicBool,
}

/// A place on a connection.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

impl Places {
    /// A place on a connection to this address, which is made when it is first used.
    pub(super) fn take(&self, address: &str) -> Result<Place, CallError> {
        // A panic while the lock was held left no half-made change.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, connections| {
            connections.retain(|connection| connection.strong_count() > 0);
            !connections.is_empty()
        });
        let connections = places.entry(address.to_owned()).or_default();
        let free = connections
            .iter()
            .filter(|connection| connection.strong_count() < PART_STREAMS_MAX)
            .filter_map(Weak::upgrade)
            .find(|connection| !connection.is_doubted.load(Ordering::Relaxed));
        if let Some(connection) = free {
            return Ok(Place(connection));
        }
        let endpoint = forward::endpoint(address)?.initial_stream_window_size(PART_WINDOW_BYTES);
        let connection = Arc::new(Shared {
            channel: network::connect_lazily(&endpoint),
            is_doubted: AtomicBool::new(false),
        });
        connections.push(Arc::downgrade(&connection));
        Ok(Place(connection))
    }
}

impl Place {
    /// Calls over the connection.
    pub(super) fn changes(&self) -> ChangesClient<Channel> {
        ChangesClient::new(self.0.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Notes that a stream over it failed.
    pub(super) fn doubt(&self) {
        self.0.is_doubted.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_so_many_places_and_gives_none_once_it_failed() {
        let places = Places::default();
        let take = || places.take("127.0.0.1:1").unwrap();
        let is_same = |one: &Place, other: &Place| Arc::ptr_eq(&one.0, &other.0);
        let mut taken: Vec<Place> = (0..PART_STREAMS_MAX).map(|_| take()).collect();
        assert!(taken.iter().all(|place| is_same(place, &taken[0])));
        let one_more = take();
        assert!(!is_same(&one_more, &taken[0]), "it is full");
        taken.pop();
        let again = take();
        assert!(is_same(&again, &taken[0]), "a place was free");
        assert!(!is_same(&places.take("127.0.0.1:2").unwrap(), &one_more));
        drop(again);
        taken[0].doubt();
        assert!(is_same(&take(), &one_more));
        drop((taken, one_more));
        drop(take());
        assert_eq!(places.0.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }
}
