//! Which seat a key belongs to: all seats share the slots evenly.

use super::handle::{Handle, SeatHandle};
use rdb_proto::limits::SLOTS;
use rdb_proto::types::{SeatId, Slot};

impl Handle {
    /// Slot ranges, first and last, with the seats that lead them.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, Slot, SeatId)> {
        let seats = &self.shared.seats;
        seats.iter().enumerate().map(|(position, seat)| {
            let first = first_slot(position, seats.len());
            let next = first_slot(position.saturating_add(1), seats.len());
            (Slot(first), Slot(next.saturating_sub(1)), seat.id)
        })
    }

    #[expect(
        clippy::expect_used,
        reason = "seats are made from at least one group, and slots are below SLOTS"
    )]
    pub(super) fn seat_of(&self, slot: Slot) -> &SeatHandle {
        let seats = &self.shared.seats;
        let owns = |position: usize| slot.0 < first_slot(position.saturating_add(1), seats.len());
        let owner = seats.iter().enumerate().find(|(position, _)| owns(*position));
        owner
            .map(|(_, seat)| seat)
            .expect("the last seat's range ends at SLOTS")
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
        }
    }
}
