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
use rdb_proto::types::{Epoch, LogIndex, NodeId};
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
    /// Only the leader whose heartbeat was heard in this life is asked. The promise alone does not tell: it may be of
    /// an epoch that this member led itself before it restarted, and what others said to it then comes late.
    pub(super) fn is_repaired_by(&self, leader: (NodeId, Epoch)) -> bool {
        self.leader() == Some(leader) && leader.1 == self.promised && self.promised_durable == leader.1
    }

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

    /// Entries for a repair are of the leader that is obeyed; later ones could not be told from a higher leader's.
    pub(super) fn repair(
        &mut self,
        leader: (NodeId, Epoch),
        prev: LogEnd,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) {
        if self.member.is_repaired_by(leader) {
            self.member.repaired(prev, entries, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Durable, EpochRun, Input, Seat, SeatConfig, Tick};
    use super::*;
    use rdb_proto::entry::EntryBody;
    use rdb_proto::types::Membership;

    const EPOCH: Epoch = Epoch {
        number: 9,
        node: NodeId(1),
    };

    const fn end(index: u64) -> LogEnd {
        LogEnd {
            index: LogIndex(index),
            epoch: EPOCH,
        }
    }

    /// They were for the winner or leader that it was before: of logs that it had not chosen, or that lag.
    #[test]
    fn answers_to_what_it_said_as_a_leader_before_it_restarted_repair_nothing() {
        let durable = Durable {
            promised: EPOCH,
            runs: vec![EpochRun {
                first: LogIndex(1),
                epoch: EPOCH,
            }],
            commit: LogIndex(12),
            damaged: Some((LogIndex(13), LogIndex(13))),
            ..Durable::default()
        };
        let mut seat = Seat::new(SeatConfig::new(NodeId(1), 2), durable);
        let entry = Entry {
            index: LogIndex(13),
            epoch: EPOCH,
            body: EntryBody::EpochStart(Membership::default()),
        };
        let mismatch = Message::Mismatch {
            epoch: EPOCH,
            refused: end(12),
            hint: end(10),
        };
        let fetched = Message::Fetched {
            epoch: EPOCH,
            prev: end(12),
            entries: vec![Arc::new(entry)],
        };
        let mut effects = vec![];
        for message in [mismatch, fetched] {
            let from = NodeId(2);
            seat.step(Tick(0), Input::Received { from, message }, &mut effects);
        }
        assert_eq!(effects, []);
    }

    /// Its epoch stands in the entry, and nowhere else.
    #[test]
    fn a_member_whose_first_entry_cannot_be_read_starts() {
        let durable = Durable {
            promised: EPOCH,
            commit: LogIndex(1),
            damaged: Some((LogIndex(1), LogIndex(1))),
            ..Durable::default()
        };
        let mut seat = Seat::new(SeatConfig::new(NodeId(1), 2), durable);
        seat.step(Tick(0), Input::Tick, &mut vec![]);
        assert!(seat.member.is_damaged());
    }
}
