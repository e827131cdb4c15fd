//! How many are told events here, and how long each waits between two messages for that: what a message costs does not
//! depend on how many events are in it, and writers share the machine with those who listen.
//!
//! Who has been told nothing for a while is told at once: only a stream of events is gathered. Pure: time comes from
//! outside.

use crate::limits::{AUDIENCE_FREE, LISTENER_QUIET, LISTENER_TURN, LISTENER_WAIT_MAX, STREAM_MESSAGE_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many were told events lately, of those who listen at a node.
#[derive(Debug, Default)]
pub struct Audience(AtomicU32);

impl Audience {
    /// Least time between two messages to each.
    fn wait(&self) -> Duration {
        let beyond = self.0.load(Ordering::Relaxed).saturating_sub(AUDIENCE_FREE);
        LISTENER_TURN.saturating_mul(beyond).min(LISTENER_WAIT_MAX)
    }
}

/// One who listens: one of the audience from when it is told events until it is quiet.
#[derive(Debug)]
pub(super) struct Listener {
    audience: Arc<Audience>,
    told_at: Option<Instant>,
    is_full: bool,
}

impl Listener {
    pub(super) const fn of(audience: Arc<Audience>) -> Self {
        Self {
            audience,
            told_at: None,
            is_full: false,
        }
    }

    /// Notes that events were sent. A message that is well filled has been gathered already.
    pub(super) fn told(&mut self, bytes: usize, now: Instant) {
        self.is_full = bytes >= STREAM_MESSAGE_BYTES / 2;
        if self.told_at.replace(now).is_none() {
            self.audience.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// To be asked now and then: whoever was told nothing for long is not counted any more.
    pub(super) fn look(&mut self, now: Instant) {
        let is_quiet = |told_at: &mut Instant| now.saturating_duration_since(*told_at) >= LISTENER_QUIET;
        if self.told_at.take_if(is_quiet).is_some() {
            self.audience.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How long until it is this one's turn again.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        match self.told_at {
            Some(told_at) if !self.is_full => {
                let passed = now.saturating_duration_since(told_at);
                self.audience.wait().saturating_sub(passed)
            }
            Some(_) | None => Duration::ZERO,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.told_at.is_some() {
            self.audience.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// So many who were told a little now.
    fn listeners(count: u32, now: Instant) -> Vec<Listener> {
        let audience = Arc::<Audience>::default();
        let mut all: Vec<Listener> = (0..count).map(|_| Listener::of(Arc::clone(&audience))).collect();
        tell(&mut all, now);
        all
    }

    fn tell(all: &mut [Listener], now: Instant) {
        for one in all {
            one.told(100, now);
        }
    }

    #[test]
    fn the_more_are_told_events_the_longer_these_are_gathered() {
        let now = clock::monotonic();
        for (count, turns) in [(1, 0), (AUDIENCE_FREE, 0), (AUDIENCE_FREE + 40, 40)] {
            let mut all = listeners(count, now);
            assert_eq!(all[0].rest(now), LISTENER_TURN * turns);
            assert_eq!(all[0].rest(now + LISTENER_TURN * turns), Duration::ZERO);
            let new = Listener::of(Arc::clone(&all[0].audience));
            assert_eq!(new.rest(now), Duration::ZERO, "nothing was told yet");
            all.truncate(1);
            assert_eq!(all[0].rest(now), Duration::ZERO, "the others have left");
        }
        assert_eq!(listeners(100_000, now)[0].rest(now), LISTENER_WAIT_MAX);
    }

    #[test]
    fn a_message_that_is_full_is_followed_by_the_next() {
        let now = clock::monotonic();
        let mut all = listeners(100, now);
        all[0].told(STREAM_MESSAGE_BYTES, now);
        assert_eq!(all[0].rest(now), Duration::ZERO);
    }

    #[test]
    fn whoever_is_quiet_does_not_count() {
        let now = clock::monotonic();
        let mut all = listeners(AUDIENCE_FREE + 40, now);
        let later = now + LISTENER_QUIET;
        all[0].told(100, later);
        for one in &mut all {
            one.look(later);
        }
        assert_eq!(all[0].rest(later), Duration::ZERO);
        tell(&mut all, later);
        assert_eq!(all[0].rest(later), LISTENER_TURN * 40);
    }
}
