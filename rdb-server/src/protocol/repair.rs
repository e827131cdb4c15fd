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
