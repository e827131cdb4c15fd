//! What is counted, for metrics. Read at any time; the counts need not be of one moment.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that tasks add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: usize) {
        self.0
            .fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// One more for as long as the guard lives.
    pub(super) fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// See [`Count::hold`].
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Count);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the transport moved and dropped since it began. Bytes are of messages as written, without framing.
#[derive(Debug, Default)]
pub struct TransportStats {
    /// Messages given to a stream; whether they arrived is not known.
    pub messages_sent: Count,
    /// Their bytes.
    pub bytes_sent: Count,
    /// Messages to send that were dropped: the queue was full, the peer unknown or not to be reached.
    pub outbound_dropped: Count,
    /// Messages that arrived.
    pub messages_received: Count,
    /// Their bytes.
    pub bytes_received: Count,
    /// Messages that arrived and were dropped: the seat's queue was full, or the seat is not here.
    pub inbound_dropped: Count,
    /// Messages that arrived and cannot be read by this release.
    pub undecodable: Count,
    /// Streams of other nodes that were refused.
    pub streams_refused: Count,
    /// Peers that this node has a stream to, now.
    pub peers_connected: Count,
    /// Times that a connection to a peer was refused: its process is gone.
    pub connections_refused: Count,
}
