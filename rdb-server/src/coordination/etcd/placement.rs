//! Which nodes get members of which groups: as evenly as can be. Pure.

use rdb_proto::types::{GroupId, NodeId};
use std::collections::BTreeMap;

/// Chooses `size` nodes for each of the `missing` groups, those with the fewest members first; `None` when there are
/// fewer nodes than that. `taken` is how many members each node has already.
pub(super) fn place(
    missing: &[GroupId],
    size: usize,
    nodes: &[NodeId],
    taken: &BTreeMap<NodeId, usize>,
) -> Option<BTreeMap<GroupId, Vec<NodeId>>> {
    if nodes.len() < size {
        return None;
    }
    let mut load: BTreeMap<NodeId, usize> = nodes
        .iter()
        .map(|node| (*node, taken.get(node).copied().unwrap_or(0)))
        .collect();
    let mut placed = BTreeMap::new();
    for group in missing {
        let mut order: Vec<NodeId> = load.keys().copied().collect();
        // Stable, so that nodes with as many stay in the order of their ids.
        order.sort_by_key(|node| load.get(node).copied());
        let mut members: Vec<NodeId> = order.into_iter().take(size).collect();
        for node in &members {
            if let Some(count) = load.get_mut(node) {
                *count = count.saturating_add(1);
            }
        }
        members.sort_unstable();
        placed.insert(*group, members);
    }
    Some(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn members_are_spread_evenly() {
        for (groups, size, count) in [(1, 3, 3), (2, 3, 5), (3, 3, 4), (5, 2, 7), (8, 3, 6)] {
            let missing: Vec<GroupId> = (0..groups).map(GroupId).collect();
            let placed = place(&missing, size, &nodes(count), &BTreeMap::new()).unwrap();
            let mut load: BTreeMap<NodeId, u32> = nodes(count).into_iter().map(|node| (node, 0)).collect();
            for members in placed.values() {
                let mut distinct = members.clone();
                distinct.dedup();
                assert_eq!(distinct.len(), size);
                for node in members {
                    *load.get_mut(node).unwrap() += 1;
                }
            }
            let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
            assert!(
                most - least <= 1,
                "{groups} groups of {size} on {count}: {load:?}"
            );
        }
    }

    #[test]
    fn too_few_nodes_get_nothing() {
        assert_eq!(place(&[GroupId(0)], 3, &nodes(2), &BTreeMap::new()), None);
    }

    #[test]
    fn what_nodes_have_already_counts() {
        let taken = BTreeMap::from([(NodeId(1), 4), (NodeId(2), 1)]);
        let placed = place(&[GroupId(0)], 2, &nodes(3), &taken).unwrap();
        assert_eq!(placed[&GroupId(0)], [NodeId(2), NodeId(3)]);
    }
}
