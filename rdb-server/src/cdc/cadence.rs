//! When a subscriber is told a mark, what the mark counts, and when it has caught up. Pure: time comes from outside.

use crate::limits::MARK_INTERVAL_MAX;
use rdb_proto::types::Seq;
use std::time::{Duration, Instant};

/// How far a stream has come, and how far its marks have.
#[derive(Debug)]
pub(super) struct Cadence {
    /// Everything at or below this seq was sent, or did not pass the filter.
    position: Seq,
    marked: Seq,
    marked_at: Instant,
    sent_since_mark: u64,
    /// Least time between two marks.
    interval: Duration,
    /// It catches up with this seq, at least; not before this is known.
    goal: Option<Seq>,
}

impl Cadence {
    pub(super) fn from(position: Seq, interval: Duration, now: Instant) -> Self {
        Self {
            position,
            marked: position,
            marked_at: now,
            sent_since_mark: 0,
            interval,
            goal: None,
        }
    }

    pub(super) const fn position(&self) -> Seq {
        self.position
    }

    /// It begins after `position`, which was not known before.
    pub(super) const fn begin_after(&mut self, position: Seq, now: Instant) {
        self.position = position;
        self.marked = position;
        self.marked_at = now;
    }

    /// It has not caught up before everything at or below this seq was sent or filtered.
    pub(super) const fn catch_up_with(&mut self, goal: Seq) {
        self.goal = Some(goal);
    }

    /// Whether it is known what it catches up with, and that was sent or filtered.
    pub(super) fn is_at_goal(&self) -> bool {
        self.goal.is_some_and(|goal| self.position >= goal)
    }

    /// Notes that everything up to `seq` was sent or filtered, with so many events among it.
    pub(super) fn advance(&mut self, seq: Seq, events: u64) {
        self.position = self.position.max(seq);
        self.sent_since_mark = self.sent_since_mark.saturating_add(events);
    }

    /// Whether there is something that a mark would say.
    pub(super) fn has_news(&self) -> bool {
        self.position > self.marked
    }

    /// Whether a mark is due although events wait to be sent: a consumer must see progress.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.has_news() && self.is_due(MARK_INTERVAL_MAX, now)
    }

    /// Whether a mark is due now that nothing waits to be sent; without news it is a sign of life.
    pub(super) fn is_due_at_rest(&self, now: Instant) -> bool {
        self.is_due(self.interval(), now)
    }

    /// How long until [`Cadence::is_due_at_rest`].
    pub(super) fn rest(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.marked_at);
        self.interval().saturating_sub(passed)
    }

    /// The mark, and the number of events since the one before.
    pub(super) fn mark(&mut self, now: Instant) -> (Seq, u64) {
        self.marked = self.position;
        self.marked_at = now;
        (self.position, std::mem::take(&mut self.sent_since_mark))
    }

    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.marked_at) >= interval
    }

    fn interval(&self) -> Duration {
        if self.has_news() {
            self.interval
        } else {
            MARK_INTERVAL_MAX
        }
    }
}
