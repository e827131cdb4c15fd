//! SIGSTOP for about as long as a lease lasts: who goes on as if nothing had been is believed by nobody.

use super::arena::{Arena, names};
use super::{LEASE, lasts};
use rustix::process::Signal;
use std::time::Duration;

/// Stops one leader or both of a group, while others may take over, and lets them go on.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    let mut leaders = arena.leaders().await;
    if arena.random.one_in(2) {
        leaders.truncate(1);
    }
    let lease = u64::try_from(LEASE.as_millis()).expect("it is short");
    let limit = Duration::from_millis(lease / 2 + arena.random.below(lease * 5 / 2));
    for n in &leaders {
        arena.cluster.node(*n).signal(Signal::STOP);
    }
    // What is read of them late in the pause must not be answered from what they knew before it.
    lasts(limit * 3 / 4).await;
    for n in &leaders {
        arena.visit(*n);
    }
    lasts(limit / 4).await;
    for n in &leaders {
        arena.cluster.node(*n).signal(Signal::CONT);
    }
    format!("{} for {limit:?}", names(&leaders))
}
