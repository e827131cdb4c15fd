//! Power loss of all nodes at once: what was acknowledged was on disk, not only on its way there.

use super::arena::Arena;

/// Takes the power from every node, and gives it back.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    arena.cluster.lose_power().await;
    arena.cluster.start_all().await;
    "all nodes".to_owned()
}
