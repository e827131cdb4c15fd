//! Which seat a key belongs to: all seats share the slots evenly.

use super::handle::Handle;
use rdb_proto::limits::SLOTS;
use rdb_proto::types::{GroupId, SeatId, Side, Slot};

/// Every seat of a database with this many groups, in the order of their slots.
pub(super) fn seats(groups: u32) -> impl Iterator<Item = SeatId> {
    (0..groups)
        .map(GroupId)
        .flat_map(|group| Side::BOTH.map(|side| SeatId { group, side }))
}

/// The seat's place in that order.
pub(super) fn position_of(seat: SeatId) -> usize {
    let position = u64::from(seat.group.0)
        .saturating_mul(2)
        .saturating_add(u64::from(seat.side.number()));
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// The seat that a slot belongs to.
fn seat_of(slot: Slot, groups: u32) -> SeatId {
    // The last position whose first slot is not above it.
    let reach = (u32::from(slot.0).saturating_add(1)).saturating_mul(groups.saturating_mul(2));
    let position = reach.saturating_sub(1) / u32::from(SLOTS);
    let side = if position.is_multiple_of(2) {
        Side::Zero
    } else {
        Side::One
    };
    SeatId {
        group: GroupId(position / 2),
        side,
    }
}

impl Handle {
    /// Every seat of the database, in the order of their slots.
    pub fn seats(&self) -> impl Iterator<Item = SeatId> {
        seats(self.shared.groups)
    }

    /// Slot ranges, first and last, with the seats that lead them.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, Slot, SeatId)> {
        let count = self.seats().count();
        self.seats().map(move |seat| {
            let position = position_of(seat);
            let first = first_slot(position, count);
            let next = first_slot(position.saturating_add(1), count);
            (Slot(first), Slot(next.saturating_sub(1)), seat)
        })
    }

    /// The seat that a slot belongs to.
    pub fn seat_of(&self, slot: Slot) -> SeatId {
        seat_of(slot, self.shared.groups)
    }
}

/// First slot of the seat at this position, when `seats` share all slots evenly.
fn first_slot(position: usize, seats: usize) -> u16 {
    let slot = position
        .saturating_mul(usize::from(SLOTS))
        .checked_div(seats)
        .unwrap_or_default();
    u16::try_from(slot).unwrap_or(SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_seat_whatever_their_number() {
        for seats in [2, 4, 6, 14, 128] {
            assert_eq!(first_slot(0, seats), 0);
            assert_eq!(first_slot(seats, seats), SLOTS);
            for position in 0..seats {
                assert!(first_slot(position, seats) < first_slot(position + 1, seats));
            }
            let groups = u32::try_from(seats / 2).unwrap();
            for slot in 0..SLOTS {
                let position = position_of(seat_of(Slot(slot), groups));
                assert!(first_slot(position, seats) <= slot && slot < first_slot(position + 1, seats));
            }
        }
    }
}
