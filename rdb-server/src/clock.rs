//! The only reader of time and entropy, for which a simulation may stand in.

use rdb_proto::simulation;
use rdb_proto::types::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Wall-clock time. May jump; never decides about safety.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn utc_now() -> Timestamp {
    let since_epoch = match simulation::world() {
        Some(world) => world.time_of_day(),
        None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    Timestamp(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
}

/// Monotonic time, for measuring: by the clock of the timers, which a simulation owns.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits. Cancel safe: dropping the future forgets the wait.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits for a future, at most for `limit`; `None` when that passed first.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Fires first after one `period`, then once each; late ticks are skipped, not caught up.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

/// Waits that double from a first to a longest one.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl BackOff {
    /// The first wait, and the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Waits; the next time twice as long.
    pub async fn wait(&mut self) {
        sleep(self.next).await;
        self.next = self.next.saturating_mul(2).min(self.longest);
    }

    /// The next wait is the first again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A new UUID whose order follows time.
pub fn new_uuid() -> Uuid {
    let Some(bits) = simulation::random_bits() else {
        return Uuid::now_v7();
    };
    let [random @ .., _, _, _, _, _, _] = bits.to_be_bytes();
    uuid::Builder::from_unix_timestamp_millis(utc_now().get() / 1_000, &random).into_uuid()
}

/// A random number that is not 0.
pub fn random_u64() -> u64 {
    let drawn = simulation::random_bits().map(|bits| uuid::Builder::from_u128(bits).into_uuid());
    let (high, low) = drawn.unwrap_or_else(Uuid::new_v4).as_u64_pair();
    // A version 4 UUID has six fixed bits; both halves together leave none of the 64 bits fixed.
    (high ^ low.rotate_left(32)).max(1)
}
