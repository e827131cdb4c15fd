//! SIGKILL: what a node acknowledged it has written, and what is left of the others goes on without it.

use super::arena::{Arena, names};

/// Kills some or all nodes, and starts them again.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    let (what, victims) = match arena.random.below(5) {
        0 => ("one node", arena.some_nodes(1)),
        1 => ("both leaders", arena.leaders().await),
        2 => ("a majority", arena.some_nodes(arena.nodes / 2 + 1)),
        3 => ("all", arena.some_nodes(arena.nodes)),
        _ => return while_they_start(arena).await,
    };
    for n in &victims {
        arena.cluster.kill(*n).await;
    }
    if victims.len() == 1 {
        // A majority of every group is left: nobody has to wait for the one that is gone.
        arena.some_events().await;
    }
    arena.cluster.start_all().await;
    format!("{what} ({})", names(&victims))
}

/// All of them die, and again while they start, some before they have read their logs.
async fn while_they_start(arena: &mut Arena) -> String {
    arena.cluster.kill_all().await;
    let all = arena.some_nodes(arena.nodes);
    let mut starting: Vec<_> = all.iter().map(|n| arena.cluster.settings(*n).spawn()).collect();
    for node in &mut starting {
        node.first_line().await;
    }
    for node in starting {
        node.kill().await;
    }
    arena.cluster.start_all().await;
    "all, and again while they start".to_owned()
}
