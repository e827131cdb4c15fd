//! What a member does whose disk lost a part of the log that was durable (section 8, C6 and M4 of the review).
//!
//! ```text
//! damaged ─► promises nothing to a winner, does not stand, takes no entries
//!         ─► Fetch from the leader ─► Repair … ─► the driver opens the seat anew
//! ```
//! Entries that it acknowledged may be missing. Counted in a recovery, it could elect them away: so it says nothing
//! about its log before it has them again. It still obeys: a promise about the future is as good as any.

use super::effect::Effect;
use super::log::LogEnd;
use super::member::Member;
use super::message::Message;
use super::replication::Resignation;
use super::seat::Seat;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Epoch, LogIndex};
use std::sync::Arc;

/// What is missing on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Damage {
    /// The entry before what is still missing.
    prev: LogEnd,
    /// The last entry that was durable and is missing.
    last: LogIndex,
}

impl Member {
    pub(super) fn damaged(&mut self, first: LogIndex, last: LogIndex) {
        let first = first.min(self.log.last().next());
        self.damage = Some(Damage {
            prev: self.log.at(first.previous()),
            last,
        });
    }

    /// Whether a part of the log that was durable cannot be read: such a member promises nothing to a winner, and
    /// does not stand, until its seat is opened anew with a whole log.
    pub(super) const fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Asks the leader for what is missing. Repeated each heartbeat.
    pub(super) fn ask_for_repair(&self, effects: &mut Vec<Effect>) {
        let Some(Damage { prev, last }) = self.damage else {
            return;
        };
        if let Some((to, epoch)) = self.leader()
            && prev.index < last
        {
            let message = Message::Fetch { epoch, prev, last };
            effects.push(Effect::Send { to, message });
        }
    }

    /// Entries of the leader's log came: what is committed is the same there, and what is not is what an Append
    /// would have put here.
    pub(super) fn repaired(&mut self, prev: LogEnd, entries: Vec<Arc<Entry>>, effects: &mut Vec<Effect>) {
        let Some(damage) = self.damage.as_mut().filter(|damage| damage.prev == prev) else {
            return;
        };
        let Some(last) = entries.last() else {
            return;
        };
        damage.prev = LogEnd {
            epoch: last.epoch,
            index: last.index,
        };
        effects.push(Effect::Repair { entries });
        self.ask_for_repair(effects);
    }
}

impl Member {
    /// The leader's log is another one before the damage already: what stands there was never committed, and the
    /// repair begins where the two can be the same.
    pub(super) fn repair_from_before(&mut self, refused: LogEnd, hint: LogEnd, effects: &mut Vec<Effect>) {
        let before = self.log.last_not_after(hint);
        if let Some(damage) = self.damage.as_mut().filter(|damage| damage.prev == refused)
            && before.index < refused.index
        {
            assert!(
                before.index >= self.log.commit().min(refused.index.previous()),
                "6.4: the leader has another entry than {refused}, which is committed"
            );
            damage.prev = before;
            self.ask_for_repair(effects);
        }
    }
}

impl Seat {
    /// The driver cannot read a part of the log. Whoever leads or takes the seat over leaves it to another.
    pub(super) fn damaged(&mut self, first: LogIndex, last: LogIndex, effects: &mut Vec<Effect>) {
        self.member.damaged(first, last);
        self.resign(Resignation { successor: None }, effects);
    }

    /// Entries for a repair are of the epoch that is obeyed; later ones could not be told from a higher leader's.
    pub(super) fn repair(
        &mut self,
        epoch: Epoch,
        prev: LogEnd,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) {
        if epoch == self.member.promised && self.member.promised_durable == epoch {
            self.member.repaired(prev, entries, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Durable, Input, Seat, SeatConfig, Tick};
    use super::*;
    use rdb_proto::types::NodeId;

    /// Its epoch stands in the entry, and nowhere else.
    #[test]
    fn a_member_whose_first_entry_cannot_be_read_starts() {
        let durable = Durable {
            promised: Epoch {
                number: 1,
                node: NodeId(2),
            },
            commit: LogIndex(1),
            damaged: Some((LogIndex(1), LogIndex(1))),
            ..Durable::default()
        };
        let mut seat = Seat::new(SeatConfig::new(NodeId(1), 2), durable);
        seat.step(Tick(0), Input::Tick, &mut vec![]);
        assert!(seat.member.is_damaged());
    }
}
