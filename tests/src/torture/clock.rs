//! Clocks that jump: one leader's, both, or all, by up to a day. Nothing depends on them but the times of events, which never
//! go back.

use super::arena::{Arena, names};
use super::lasts;
use crate::time::{pause, soon};
use std::time::Duration;

/// Longest time that clocks are off.
const OFF_MS: u64 = 4_000;

/// How far they jump.
const JUMPS: [(Duration, &str); 4] = [
    (Duration::from_secs(1), "a second"),
    (Duration::from_mins(1), "a minute"),
    (Duration::from_hours(1), "an hour"),
    (Duration::from_hours(24), "a day"),
];

/// Sets clocks later or earlier, and right again.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    let victims = match arena.random.below(3) {
        0 => arena.leaders().await[..1].to_vec(),
        1 => arena.leaders().await,
        _ => arena.some_nodes(arena.nodes),
    };
    let (jump, how_far) = JUMPS[arena.random.position(JUMPS.len())];
    let is_later = arena.random.one_in(2);
    let (later, earlier) = if is_later {
        (jump, Duration::ZERO)
    } else {
        (Duration::ZERO, jump)
    };
    let before: i64 = victims.iter().map(|n| arena.cluster.shim(*n).looks()).sum();
    for n in &victims {
        arena.cluster.shim(*n).set_clock(later, earlier);
    }
    let limit = Duration::from_millis(arena.random.below(OFF_MS));
    lasts(limit).await;
    let looks = |arena: &Arena| {
        victims
            .iter()
            .map(|n| arena.cluster.shim(*n).looks())
            .sum::<i64>()
    };
    let looking = async {
        while looks(arena) == before {
            pause().await;
        }
    };
    soon("a node that looks at its clock", looking).await;
    for n in &victims {
        arena.cluster.shim(*n).set_clock(Duration::ZERO, Duration::ZERO);
    }
    let way = if is_later { "later" } else { "earlier" };
    format!("{} {how_far} {way}, for {limit:?}", names(&victims))
}
