//! What a member does whose disk lost a part of the log that was durable (section 8, C6 and M4 of the review).
//!
//! ```text
//! starts with the log as it is before the damage, and with Lost: the last index that was durable, the promise then
//!         ─► promises nothing to a winner, does not stand; takes and acknowledges entries as one that was away
//!         ─► the log is the leader's up to the last lost index, or to an entry of a later epoch ─► Repaired
//! ```
//! **Why it says nothing to a winner.** R members tell the winner of what they have, and by R + W > N one of them has
//! each entry that W acknowledged. A member that lost entries could be that one, and elect them away. Without it, R of
//! the others are needed, and W - 1 of those have the entry: R + W - 1 > N - 1.
//!
//! **Why it may acknowledge.** An ack tells of the entries that are here, and a round of a promise, which was not lost. The
//! acks that it gave before the damage still stand where they were counted: an entry with W acks is at W - 1 others,
//! and this member is not asked.
//!
//! **When it is whole again.** What it acknowledged, it acknowledged under epochs up to the promise that it held when the
//! damage was found, and at indexes up to the last one that was durable. From then on it obeys that epoch or higher
//! ones, so what an Append is found to match is the log of a leader that recovered everything that was committed
//! before its own epoch. Then either of these is enough:
//!
//! - The log is the leader's up to the last lost index: whatever was acknowledged of this or an earlier epoch, and can
//!   still be committed, stands there.
//! - The leader's log has an entry of a later epoch. R members without this one, which told no winner after the damage
//!   anything, decided what stands before that entry; what stood beyond is void, though this member acknowledged it.
//!   Else it would wait for ever for entries that nobody has (seed 10266: N = W = 2).
//!
//! Not enough is an entry of the very epoch that was promised: of that, it may have acknowledged more.

use super::effect::Effect;
use super::member::Member;
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{Epoch, LogIndex};

/// What is known of entries that were durable and are lost. They follow the log as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lost {
    /// The last entry that may have been durable.
    pub last: LogIndex,
    /// Highest epoch that was promised when the damage was found.
    pub promised: Epoch,
}

impl Member {
    /// Whether entries are missing that it may have acknowledged: it promises nothing to a winner then, and does not
    /// stand.
    pub(super) fn is_damaged(&self) -> bool {
        self.lost.is_some() && !sabotage::is(Sabotage::DamagedVotes)
    }

    /// The log is the leader's up to `reached`, durably.
    pub(super) fn repaired_up_to(&mut self, reached: LogIndex, effects: &mut Vec<Effect>) {
        let epoch = self.log.epoch_at(reached);
        if self.lost.is_some_and(|lost| lost.is_made_good((reached, epoch))) {
            self.lost = None;
            effects.push(Effect::Repaired);
        }
    }
}

impl Lost {
    /// Whether a log is whole that follows a leader's up to this entry. See the module.
    pub(super) fn is_made_good(&self, (reached, epoch): (LogIndex, Epoch)) -> bool {
        let is_early = epoch == self.promised && sabotage::is(Sabotage::RepairedTooEarly);
        reached >= self.last || epoch > self.promised || is_early
    }
}
