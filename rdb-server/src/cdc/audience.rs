//! How many listen to live events here, and how long each waits between two messages for that: what a message costs does
//! not depend on how many events are in it, and writers share the machine with those who listen.
//!
//! Who has been told nothing for a while is told at once: only a stream of events is gathered. Pure: time comes from
//! outside.

use crate::limits::{AUDIENCE_FREE, LISTENER_TURN, LISTENER_WAIT_MAX, STREAM_MESSAGE_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Everybody who listens to live events of a node.
#[derive(Debug, Default)]
pub struct Audience(AtomicU32);

impl Audience {
    /// Least time between two messages to each.
    fn wait(&self) -> Duration {
        let beyond = self.0.load(Ordering::Relaxed).saturating_sub(AUDIENCE_FREE);
        LISTENER_TURN.saturating_mul(beyond).min(LISTENER_WAIT_MAX)
    }
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(super) struct Listener {
    audience: Arc<Audience>,
    told_at: Option<Instant>,
}

impl Listener {
    pub(super) fn join(audience: &Arc<Audience>) -> Self {
        audience.0.fetch_add(1, Ordering::Relaxed);
        Self {
            audience: Arc::clone(audience),
            told_at: None,
        }
    }

    /// Notes that events were sent. A message that is well filled has been gathered already.
    pub(super) fn told(&mut self, bytes: usize, now: Instant) {
        self.told_at = (bytes < STREAM_MESSAGE_BYTES / 2).then_some(now);
    }

    /// How long until it is this one's turn again.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.told_at.map_or(Duration::ZERO, |told_at| {
            let passed = now.saturating_duration_since(told_at);
            self.audience.wait().saturating_sub(passed)
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.audience.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn listeners(count: u32) -> Vec<Listener> {
        let audience = Arc::default();
        (0..count).map(|_| Listener::join(&audience)).collect()
    }

    #[test]
    fn the_more_listen_the_longer_events_are_gathered() {
        let now = clock::monotonic();
        for (count, turns) in [(1, 0), (AUDIENCE_FREE, 0), (AUDIENCE_FREE + 40, 40)] {
            let mut all = listeners(count);
            assert_eq!(all[0].rest(now), Duration::ZERO, "nothing was told yet");
            all[0].told(100, now);
            assert_eq!(all[0].rest(now), LISTENER_TURN * turns);
            assert_eq!(all[0].rest(now + LISTENER_TURN * turns), Duration::ZERO);
            all.truncate(1);
            assert_eq!(all[0].rest(now), Duration::ZERO, "the others have left");
        }
        let mut all = listeners(100_000);
        all[0].told(100, now);
        assert_eq!(all[0].rest(now), LISTENER_WAIT_MAX);
    }

    #[test]
    fn a_message_that_is_full_is_followed_by_the_next() {
        let now = clock::monotonic();
        let mut all = listeners(100);
        all[0].told(STREAM_MESSAGE_BYTES, now);
        assert_eq!(all[0].rest(now), Duration::ZERO);
    }
}
