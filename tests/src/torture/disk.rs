//! A disk that fails: one write or sync of one node comes back with an error, while the node runs or while it starts. Whether
//! what it had written is there then, nobody knows; what it acknowledged is.

use super::arena::{Arena, names};
use crate::time::{pause, soon};
use rustix::io::Errno;
use std::time::Duration;

/// Most calls that go well before the one that fails.
const CALLS_MAX: u64 = 200;

/// How long a node may go on that does not end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Lets a call of a leader's disk fail, or of some other node's.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    // Of several groups, a node may have no seat, and write nothing.
    let victim = if arena.groups == 1 && arena.random.one_in(3) {
        arena.some_nodes(1)[0]
    } else {
        arena.leaders().await[0]
    };
    let calls = arena.random.below(CALLS_MAX);
    let (error, what) = if arena.random.one_in(2) {
        (Errno::IO, "an I/O error")
    } else {
        (Errno::NOSPC, "no space left")
    };
    let starts = arena.random.one_in(2);
    let mut node = Some(arena.cluster.take(victim));
    if starts && let Some(node) = node.take() {
        node.kill().await;
    }
    let shim = arena.cluster.shim(victim);
    let failed = shim.failed();
    shim.fail_after(i64::try_from(calls).expect("they are few"), error);
    if starts {
        let started = arena.cluster.settings(victim).try_start().await;
        node = started
            .map_err(|ended| assert!(shim.failed() > failed, "nothing failed, but: {ended:?}"))
            .ok();
    }
    let ended = match node {
        None => "it did not start",
        Some(node) => {
            // Clients are at work: they make a node write.
            let failing = async {
                while shim.failed() == failed {
                    pause().await;
                }
            };
            soon("a call that fails", failing).await;
            match node.ends_within(GRACE).await {
                Some(_ended) => "it ended by itself",
                None => "it went on, and was killed",
            }
        }
    };
    shim.fail_no_more();
    arena.cluster.start_all().await;
    let when = if starts { ", from its start on" } else { "" };
    format!("{}: {what} after {calls} calls{when}; {ended}", names(&[victim]))
}
