//! Who stands for a seat first (DESIGN 5): a preference and nothing more, since the election's txn decides.

use crate::coordination::View;
use crate::limits::STAND_STEP_MS;
use rdb_proto::types::{Membership, NodeId, SeatId, Side};

/// The other seat of the group.
pub(super) const fn other_seat(seat: SeatId) -> SeatId {
    let side = match seat.side {
        Side::Zero => Side::One,
        Side::One => Side::Zero,
    };
    SeatId { side, ..seat }
}

/// Who holds a seat, by its leader key.
pub(super) fn holder(view: &View, seat: SeatId) -> Option<NodeId> {
    let key = view.seats.get(&seat)?;
    key.holder.map(|epoch| epoch.node)
}

/// For how long `me` lets others stand first, in milliseconds: live members in an order that rotates with the seat, so
/// that seats spread over nodes, and those that lead the group's other seat after all that do not.
pub(super) fn stand_after_ms(view: &View, seat: SeatId, me: NodeId) -> u64 {
    let Some(membership) = view.groups.get(&seat.group) else {
        return 0;
    };
    let order = preferred(view, seat, membership);
    let rank = order.iter().position(|node| *node == me).unwrap_or(order.len());
    u64::try_from(rank)
        .unwrap_or(u64::MAX)
        .saturating_mul(STAND_STEP_MS)
}

fn preferred(view: &View, seat: SeatId, membership: &Membership) -> Vec<NodeId> {
    let mut members = membership.members.clone();
    members.sort_unstable();
    let turn = u64::from(seat.group.0)
        .saturating_mul(2)
        .saturating_add(u64::from(seat.side.number()));
    if let Some(turn) = turn.checked_rem(u64::try_from(members.len()).unwrap_or(1)) {
        members.rotate_left(usize::try_from(turn).unwrap_or_default());
    }
    let leads_other = holder(view, other_seat(seat));
    // Who holds the seat is the one that is gone when somebody stands.
    members.retain(|node| view.is_live(*node) && holder(view, seat) != Some(*node));
    // Stable: the order stays within each half.
    members.sort_by_key(|node| Some(*node) == leads_other);
    members
}

/// Whether a leader of both seats of a group should give this one away once another member has everything: with two
/// or more live members a group has two different leaders.
pub(super) fn is_one_too_many(view: &View, seat: SeatId, me: NodeId) -> bool {
    seat.side == Side::One && holder(view, seat) == Some(me) && holder(view, other_seat(seat)) == Some(me)
}

/// To whom a seat is best handed over: of the live others, one that does not lead the group's other seat, and of those
/// the one that has most. `matched` is how far each has the log.
pub(super) fn successor<T: Ord + Copy>(
    view: &View,
    seat: SeatId,
    me: NodeId,
    matched: &[(NodeId, T)],
) -> Option<(NodeId, T)> {
    let members = &view.groups.get(&seat.group)?.members;
    let leads_other = holder(view, other_seat(seat));
    matched
        .iter()
        .filter(|(node, _)| *node != me && members.contains(node) && view.is_live(*node))
        .max_by_key(|(node, matched)| (Some(*node) != leads_other, *matched))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{NodeInfo, SeatKey};
    use rdb_proto::types::{Epoch, GroupId};

    const SEAT: SeatId = SeatId {
        group: GroupId(0),
        side: Side::Zero,
    };

    fn view(live: &[u64]) -> View {
        let info = |is_live| NodeInfo {
            is_live,
            ..NodeInfo::default()
        };
        let members: Vec<NodeId> = (1..=3).map(NodeId).collect();
        View {
            nodes: members
                .iter()
                .map(|node| (*node, info(live.contains(&node.0))))
                .collect(),
            groups: (0..2)
                .map(|group| {
                    let membership = Membership {
                        number: 1,
                        members: members.clone(),
                        previous: vec![],
                    };
                    (GroupId(group), membership)
                })
                .collect(),
            ..View::default()
        }
    }

    fn led(mut view: View, seat: SeatId, node: u64) -> View {
        let epoch = Epoch {
            number: 1,
            node: NodeId(node),
        };
        let key = SeatKey {
            holder: Some(epoch),
            ..SeatKey::default()
        };
        view.seats.insert(seat, key);
        view
    }

    fn order(view: &View, seat: SeatId) -> Vec<u64> {
        let mut nodes = vec![1, 2, 3];
        nodes.sort_by_key(|node| stand_after_ms(view, seat, NodeId(*node)));
        nodes
    }

    #[test]
    fn seats_spread_over_nodes() {
        let view = view(&[1, 2, 3]);
        let second = SeatId {
            group: GroupId(1),
            side: Side::Zero,
        };
        assert_eq!(order(&view, SEAT), [1, 2, 3]);
        assert_eq!(order(&view, other_seat(SEAT)), [2, 3, 1]);
        assert_eq!(order(&view, second), [3, 1, 2]);
    }

    #[test]
    fn the_co_leader_stands_last_and_a_dead_node_after_it() {
        let view = led(view(&[1, 2]), other_seat(SEAT), 1);
        assert_eq!(order(&view, SEAT), [2, 1, 3]);
    }

    #[test]
    fn whoever_comes_after_the_holder_need_not_wait_for_it() {
        let view = led(view(&[1, 2, 3]), SEAT, 1);
        assert_eq!(stand_after_ms(&view, SEAT, NodeId(2)), 0);
        assert_eq!(order(&view, SEAT), [2, 3, 1]);
    }

    #[test]
    fn one_of_two_seats_goes_to_a_member_that_leads_none() {
        let view = led(led(view(&[1, 2]), SEAT, 1), other_seat(SEAT), 1);
        let me = NodeId(1);
        assert!(!is_one_too_many(&view, SEAT, me));
        assert!(is_one_too_many(&view, other_seat(SEAT), me));
        let matched = [(NodeId(2), 5), (NodeId(3), 9)];
        let successor = successor(&view, other_seat(SEAT), me, &matched);
        assert_eq!(successor, Some((NodeId(2), 5)), "the third is not live");
    }
}
