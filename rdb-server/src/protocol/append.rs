//! What a member does with the entries of a leader, and what it acknowledges (rules 6.3.1 to 6.3.3, section 7).
//!
//! ```text
//! Append ─► epoch obeyed? ─► log matching ─► Persist … Persisted ─► AppendAck
//!              └ Reject         └ Mismatch     └ a higher epoch in between: never acknowledged
//! ```
//! What it knows of the leader's log stands in [`Following`], which is of one epoch and begins anew with the next.

use super::effect::Effect;
use super::member::{Mark, Member};
use super::message::{Append, Message};
use super::reads::Round;
use crate::sabotage::{self, Sabotage};
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::types::{Epoch, LogIndex, NodeId};
use std::sync::Arc;

/// What a member knows of the log of the leader that it obeys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Following {
    /// The leader's epoch; the promise, but for a mistake made on purpose.
    pub(super) epoch: Epoch,
    /// Whether that leader has sent anything since the promise.
    pub(super) is_led: bool,
    /// Up to here the logs are the same: what Appends of this epoch were found to match, never the end of the log
    /// (C2 of the review: a stale suffix would be counted as the leader's entries).
    pub(super) verified: LogIndex,
    /// Highest commit that the leader told.
    commit: LogIndex,
    /// Latest round of the leader that arrived.
    round: Round,
    /// What was acknowledged last.
    acked: (Round, LogIndex),
}

impl Following {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }
}

impl Member {
    /// Takes the entries of the leader whose epoch is promised, durably.
    pub(super) fn append(&mut self, append: Append, effects: &mut Vec<Effect>) {
        let Append {
            epoch,
            round,
            prev,
            entries,
            commit,
            mark,
            config: _,
        } = append;
        if self.following.epoch != epoch {
            self.following = Following::new(epoch);
        }
        self.following.is_led = true;
        let matched = match self.follow(prev, entries, effects) {
            Ok(matched) => matched,
            Err(hint) => {
                let message = Message::Mismatch {
                    epoch,
                    refused: prev,
                    hint,
                };
                effects.push(Effect::Send {
                    to: epoch.node,
                    message,
                });
                return;
            }
        };
        let following = &mut self.following;
        following.verified = following.verified.max(matched);
        following.commit = following.commit.max(commit);
        following.round = following.round.max(round);
        self.learn_mark(mark);
        self.advance_following(effects);
    }

    /// Makes the log the same as another up to `entries`, and notes the membership that they name.
    pub(super) fn follow(
        &mut self,
        prev: super::LogEnd,
        entries: Vec<Arc<Entry>>,
        effects: &mut Vec<Effect>,
    ) -> Result<LogIndex, super::LogEnd> {
        let newest = entries.iter().rev().find_map(|entry| match &entry.body {
            EntryBody::EpochStart(membership) => Some(membership.clone()),
            EntryBody::Events(_) | EntryBody::Cursor(_) => None,
        });
        let matched = self.log.follow(prev, entries, effects)?;
        assert!(
            self.log.last() >= self.following.verified,
            "6.3.2: an entry that the leader of {} had sent was removed",
            self.following.epoch
        );
        if let Some(newest) = newest
            && newest.number > self.membership.number
        {
            self.config_seen = self.config_seen.max(newest.number);
            self.membership = newest;
        }
        Ok(matched)
    }

    /// Keeps the leader's mark until the own commit has reached the index that it is valid for.
    ///
    /// Of two that are not usable yet the older one stays: under load the newer would always be replaced by one
    /// still newer before it becomes usable.
    fn learn_mark(&mut self, mark: Mark) {
        self.known_mark = self.known_mark.max(mark.seq);
        let is_usable = mark.commit <= self.log.commit();
        if mark.seq > self.mark.seq && (is_usable || self.pending_mark.is_none()) {
            self.pending_mark = Some(mark);
        }
    }

    /// Everything that follows from a new Append, and from a write that became durable: commit, mark, ack.
    pub(super) fn advance_following(&mut self, effects: &mut Vec<Effect>) {
        let durable = if sabotage::is(Sabotage::AckBeforeFsync) {
            self.log.last()
        } else {
            self.log.durable()
        };
        let reached = if sabotage::is(Sabotage::AckLogEnd) && self.following.is_led {
            durable
        } else {
            self.following.verified.min(durable)
        };
        let commit = reached.min(self.following.commit);
        if commit > self.log.commit() {
            let entries = self.log.commit_to(commit);
            effects.push(Effect::Committed {
                index: commit,
                entries,
            });
        }
        if let Some(mark) = self.pending_mark
            && mark.commit <= self.log.commit()
        {
            self.pending_mark = None;
            self.resolve(mark, effects);
        }
        self.acknowledge(reached, effects);
        self.repaired_up_to(reached, effects);
    }

    /// Acknowledges what is new: a round at once, an index when it is durable.
    fn acknowledge(&mut self, matched: LogIndex, effects: &mut Vec<Effect>) {
        let Following {
            epoch, round, acked, ..
        } = self.following;
        if !self.following.is_led || (round <= acked.0 && matched <= acked.1) {
            return;
        }
        assert!(
            self.promised == epoch || sabotage::is(Sabotage::AckAfterFence),
            "6.3.3: an ack for {epoch} after {} was promised",
            self.promised
        );
        self.following.acked = (round, matched.max(acked.1));
        let message = Message::AppendAck {
            epoch,
            round,
            matched,
        };
        effects.push(Effect::Send {
            to: epoch.node,
            message,
        });
    }

    /// Who leads, as far as a member knows.
    pub(super) fn leader(&self) -> Option<(NodeId, Epoch)> {
        let epoch = self.following.epoch;
        self.following.is_led.then_some((epoch.node, epoch))
    }
}
