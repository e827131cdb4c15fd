//! The only reader of time and entropy in this crate, for which a simulation may stand in.

use rdb_proto::simulation;
use rdb_proto::types::{EventId, Timestamp};
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use uuid::{Builder, Uuid};

/// Reads the monotonic clock: that of the timers, which a simulation owns.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    tokio::time::Instant::now().into_std()
}

/// Reads the clock on the wall, which may be set and may be wrong.
pub fn wall_time() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    let since_epoch = match simulation::world() {
        Some(world) => world.time_of_day(),
        None => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    };
    Timestamp(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
}

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
    tokio::time::sleep(duration).await;
}

/// Waits until `instant`; not at all when it is past.
pub async fn sleep_until(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

/// Event ids drawn from one draw of the system's entropy. One system call for each id would be a sixth of the cost
/// of a pipelined append.
const IDS_OF_ONE_DRAW: u64 = 1_024;

thread_local! {
    /// 80 random bits that count up, and how many ids they are still good for.
    static EVENT_IDS: Cell<(u128, u64)> = const { Cell::new((0, 0)) };
}

/// Makes an event id: a `UUIDv7` of the time in milliseconds and 74 bits that no two clients share.
pub(crate) fn new_event_id() -> EventId {
    let millis = wall_time().get() / 1_000;
    let bits = EVENT_IDS.with(|ids| {
        let (bits, left) = match ids.get() {
            (_, 0) => (random_bits(), IDS_OF_ONE_DRAW),
            drawn => drawn,
        };
        ids.set((bits.wrapping_add(1), left.saturating_sub(1)));
        bits
    });
    let [.., b0, b1, b2, b3, b4, b5, b6, b7, b8, b9] = bits.to_be_bytes();
    let random = [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9];
    EventId(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// Draws a UUID that is nobody else's.
pub(crate) fn new_uuid() -> Uuid {
    Builder::from_random_bytes(random_bits().to_be_bytes()).into_uuid()
}

/// Draws a random number.
pub(crate) fn random() -> u64 {
    let (high, low) = Uuid::from_u128(random_bits()).as_u64_pair();
    high ^ low.rotate_left(17)
}

fn random_bits() -> u128 {
    simulation::random_bits().unwrap_or_else(|| Uuid::new_v4().as_u128())
}

/// The moment by which something must be done; or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

/// A deadline passed before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the deadline passed")]
pub struct DeadlinePassed;

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self(None);

    /// `timeout` from now; `None` means never.
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| now().checked_add(timeout)))
    }

    /// Time left; `None` means without end.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now()))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// The earlier of this one and `timeout` from now.
    #[must_use]
    pub fn at_most(self, timeout: Duration) -> Self {
        let other = Self::after(Some(timeout));
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Runs `work`, dropping it when the deadline passes.
    ///
    /// # Errors
    /// [`DeadlinePassed`].
    pub async fn run<F: Future>(self, work: F) -> Result<F::Output, DeadlinePassed> {
        match self.0 {
            None => Ok(work.await),
            Some(at) => tokio::time::timeout_at(at.into(), work)
                .await
                .map_err(|_elapsed| DeadlinePassed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn event_ids_differ_over_draws_and_threads() {
        let make = || (0..5_000).map(|_| new_event_id()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: Vec<EventId> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert!(ids.iter().all(|id| id.0.get_version_num() == 7));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 20_000);
    }
}
