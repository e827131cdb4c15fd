//! Etcd dies, loses members, has one that stands still, or goes back to an older copy of its data: no number comes twice, and
//! writes go on.

use super::arena::{Arena, names};
use super::lasts;
use rustix::process::Signal;
use std::time::Duration;

/// Longest time without etcd, or without some of it: longer than a lease.
const AWAY_MS: u64 = 4_000;

/// Does one of them.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    let ways = if arena.cluster.etcd.members() > 1 { 4 } else { 2 };
    match arena.random.below(ways) {
        0 => killed(arena).await,
        1 => put_back(arena).await,
        2 => member_killed(arena).await,
        _ => member_paused(arena).await,
    }
}

async fn killed(arena: &mut Arena) -> String {
    let mut members: Vec<usize> = (0..arena.cluster.etcd.members()).collect();
    if members.len() > 1 && arena.random.one_in(2) {
        members.remove(arena.random.position(members.len()));
    }
    for n in &members {
        arena.cluster.etcd.stop_member(*n).await;
    }
    let limit = away(arena).await;
    arena.cluster.etcd.run().await;
    format!("{} killed, away for {limit:?}", members_of(&members))
}

/// A majority is left: once it has a leader, writes go on.
async fn member_killed(arena: &mut Arena) -> String {
    let n = arena.random.position(arena.cluster.etcd.members());
    arena.cluster.etcd.stop_member(n).await;
    let limit = away(arena).await;
    arena.some_events().await;
    arena.cluster.etcd.run().await;
    format!("{} killed, away for {limit:?} and some events", members_of(&[n]))
}

/// Connections to it stay, and nobody answers on them.
async fn member_paused(arena: &mut Arena) -> String {
    let n = arena.random.position(arena.cluster.etcd.members());
    arena.cluster.etcd.signal_member(n, Signal::STOP);
    let limit = away(arena).await;
    arena.some_events().await;
    arena.cluster.etcd.signal_member(n, Signal::CONT);
    format!("{} stood still for {limit:?} and some events", members_of(&[n]))
}

async fn away(arena: &mut Arena) -> Duration {
    let limit = Duration::from_millis(arena.random.below(AWAY_MS));
    lasts(limit).await;
    limit
}

fn members_of(etcd: &[usize]) -> String {
    let names: Vec<String> = etcd.iter().map(|n| format!("e{}", n + 1)).collect();
    names.join(", ")
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
