//! What a member does whose disk lost a part of the log that was durable (section 8, C6 and M4 of the review).
//!
//! ```text
//! starts with the log as it is before the damage, and knows the epoch that was promised when the damage was found
//!         ─► obeys later epochs only; tells no winner where its log ends, and does not stand
//!         ─► takes and acknowledges entries like a member that was away
//!         ─► has an entry of a later epoch, durably ─► Repaired
//! ```
//! **Why it says nothing to a winner.** R members tell the winner of what they have, and by R + W > N one of them has
//! each entry that W acknowledged. A member that lost entries could be that one, and elect them away. Without it, R of
//! the others are needed, and W - 1 of those have the entry: R + W - 1 > N - 1. So with W = 1 there is no repair.
//!
//! **When it is whole again.** What it acknowledged, it acknowledged under epochs up to the promised one. R members
//! without this one decided what stands before the first entry of a later epoch: everything up to there that was or can
//! be committed. With that entry, this member has all of it. How much it lost need not be known; and nobody can, since
//! an end of a log that cannot be read does not tell where the log ended.
//!
//! An answer to a winner from before the damage is of such an epoch, too, and changes nothing in that.
//!
//! **Why it refuses the epoch that was promised.** The leader of that epoch would show entries that this member may have
//! acknowledged before, and there is no telling when all of those are there again. Refused, the leader takes the seat
//! under a higher number at once ([`super::fencing`]). The promise itself stays what it was: it is a fact about what the
//! coordinator has given, which others judge the coordinator by.

use super::effect::Effect;
use super::member::Member;
use crate::sabotage::{self, Sabotage};
use rdb_proto::types::{Epoch, LogIndex, NodeId};

impl Member {
    /// Whether entries are missing that it may have acknowledged: it promises nothing to a winner then, and does not
    /// stand.
    pub(super) fn is_damaged(&self) -> bool {
        self.lost.is_some() && !sabotage::is(Sabotage::DamagedVotes)
    }

    /// Nothing below is obeyed: the promise, or what is above the one of when entries were lost. No node has the id 0.
    pub(super) fn lowest_obeyed(&self) -> Epoch {
        let after_loss = self.lost.map_or(Epoch::ZERO, first_after);
        self.promised.max(after_loss)
    }

    /// The log is the leader's up to `reached`, durably.
    pub(super) fn repaired_up_to(&mut self, reached: LogIndex, effects: &mut Vec<Effect>) {
        let has = self.log.epoch_at(reached);
        if self.lost.is_some_and(|lost| is_made_good(lost, has)) {
            self.lost = None;
            effects.push(Effect::Repaired);
        }
    }
}

/// Whether a log is whole that lost entries while `lost` was promised, and now has an entry of `epoch`. Entries of later
/// epochs come from their leaders only, behind what these have.
pub(super) fn is_made_good(lost: Epoch, epoch: Epoch) -> bool {
    epoch >= first_after(lost)
}

fn first_after(lost: Epoch) -> Epoch {
    if sabotage::is(Sabotage::RepairedTooEarly) {
        return lost;
    }
    Epoch {
        number: lost.number.saturating_add(1),
        node: NodeId(0),
    }
}
