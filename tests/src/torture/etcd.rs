//! Etcd dies, or goes back to an older copy of its data: no number comes twice, and writes go on.

use super::arena::{Arena, names};
use super::lasts;
use std::time::Duration;

/// Longest time without etcd: longer than a lease.
const AWAY_MS: u64 = 4_000;

/// Does one or the other.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    if arena.random.one_in(2) {
        killed(arena).await
    } else {
        put_back(arena).await
    }
}

async fn killed(arena: &mut Arena) -> String {
    arena.cluster.etcd.stop().await;
    let limit = Duration::from_millis(arena.random.below(AWAY_MS));
    lasts(limit).await;
    arena.cluster.etcd.run().await;
    format!("killed, away for {limit:?}")
}

/// The copy is older by some events, and often by an election.
async fn put_back(arena: &mut Arena) -> String {
    let copy = arena.cluster.etcd.back_up().await;
    arena.some_events().await;
    let leaders = arena.leaders().await;
    let mut what = "put back".to_owned();
    if arena.random.one_in(2) {
        what = format!("put back over the death of {}", names(&leaders[..1]));
        arena.cluster.kill(leaders[0]).await;
        arena.some_events().await;
        arena.cluster.start_all().await;
    }
    arena.cluster.etcd.put_back(&copy).await;
    what
}
