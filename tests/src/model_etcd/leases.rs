//! Leases: how long they are, and when they end.

use super::refusal::Refusal;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest lease, in seconds.
const LONGEST: i64 = 9_000_000_000;

/// Where ids begin of those who leave the choice to etcd.
const CHOSEN_FROM: i64 = 1 << 40;

#[derive(Debug, Clone)]
struct Lease {
    seconds: i64,
    ends: Duration,
    is_forsaken: bool,
}

/// See the module. Which keys end with a lease is said by the keys.
#[derive(Debug, Clone)]
pub struct Leases {
    /// A shorter one lasts for so many seconds, too.
    shortest: i64,
    chosen: i64,
    leases: BTreeMap<i64, Lease>,
}

impl Leases {
    /// None yet.
    pub const fn new(shortest: i64) -> Self {
        Self {
            shortest,
            chosen: CHOSEN_FROM,
            leases: BTreeMap::new(),
        }
    }

    /// Makes one, and returns its id and its seconds. The id 0 leaves the choice to etcd.
    pub fn grant(&mut self, now: Duration, id: i64, seconds: i64) -> Result<(i64, i64), Refusal> {
        if seconds > LONGEST {
            return Err(Refusal::TooLong);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let id = if id == 0 {
            self.chosen += 1;
            self.chosen
        } else {
            id
        };
        let seconds = seconds.max(self.shortest);
        let lease = Lease {
            seconds,
            ends: end(now, seconds),
            is_forsaken: false,
        };
        self.leases.insert(id, lease);
        Ok((id, seconds))
    }

    /// Whether there is one; the id 0 means none, and is always there.
    pub fn check(&self, id: i64) -> Result<(), Refusal> {
        if id == 0 || self.leases.contains_key(&id) {
            Ok(())
        } else {
            Err(Refusal::NoLease)
        }
    }

    /// All of them.
    pub fn ids(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }

    /// Ends one. Its keys are the caller's.
    pub fn end(&mut self, id: i64) -> Result<(), Refusal> {
        self.leases.remove(&id).map(drop).ok_or(Refusal::NoLease)
    }

    /// Gives one its whole time again, and returns it; 0 when there is none.
    pub fn renew(&mut self, now: Duration, id: i64) -> i64 {
        let Some(lease) = self.leases.get_mut(&id) else {
            return 0;
        };
        if !lease.is_forsaken {
            lease.ends = end(now, lease.seconds);
        }
        lease.seconds
    }

    /// From now on it is renewed in words only: so does a leader of etcd that was deposed and does not know it.
    pub fn forsake(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.is_forsaken = true;
        }
    }

    /// Seconds that one has left, and how many it was given.
    pub fn left(&self, now: Duration, id: i64) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        let left = lease.ends.saturating_sub(now).as_secs();
        Some((i64::try_from(left).unwrap(), lease.seconds))
    }

    /// The one that has been over for longest, if any is.
    pub fn over(&self, now: Duration) -> Option<i64> {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        over.min_by_key(|(id, lease)| (lease.ends, **id))
            .map(|(id, _)| *id)
    }
}

fn end(now: Duration, seconds: i64) -> Duration {
    now + Duration::from_secs(u64::try_from(seconds).unwrap())
}
