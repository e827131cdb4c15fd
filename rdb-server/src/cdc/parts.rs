//! What several streams said that each show other seats, and what of it may be shown as one. Pure: time comes from outside.
//!
//! An event is shown once every other part has shown what comes before it: an event with a greater seq, or a mark at or
//! above it. A part is asked for more only when all it said was shown, so each holds one message at most, and a slow
//! subscriber slows the parts and nothing else.
//!
//! Where the order of each key is enough, an event is shown as soon as it is heard. Each part must then be of one seat:
//! its events rise, so that what a part has shown still tells up to where all of its events were.

use super::cadence::Cadence;
use super::merge::Run;
use super::selection::Order;
use super::subscription::Message;
use crate::limits::{MARK_INTERVAL, MARK_INTERVAL_MAX, STREAM_MESSAGE_BYTES};
use crate::sabotage::{self, Sabotage};
use bytes::{Bytes, BytesMut};
use rdb_proto::event::{EventError, push_to_batch, seq_of, split_batch};
use rdb_proto::types::Seq;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// See the module. Parts are told apart by their position.
#[derive(Debug)]
pub struct Parts {
    heard: Vec<Heard>,
    order: Order,
    phase: Phase,
    cadence: Cadence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// With the seq that events come after, when it is known before the parts have said theirs.
    Opening(Option<Seq>),
    CatchingUp,
    Live,
}

/// What a part said.
#[derive(Debug, Clone, Default)]
struct Heard {
    opened: Option<Seq>,
    /// What was not shown yet.
    events: VecDeque<(Seq, Bytes)>,
    /// All its events at or below this seq were heard.
    up_to: Seq,
    is_caught_up: bool,
    /// Where the database stood when it fell behind.
    behind: Seq,
}

impl Parts {
    /// So many parts that all begin after `after`, or, without it, each after the seq that it names.
    pub fn new(count: usize, after: Option<Seq>, order: Order, now: Instant) -> Self {
        Self {
            heard: vec![Heard::default(); count],
            order,
            phase: Phase::Opening(after),
            cadence: Cadence::from(after.unwrap_or_default(), MARK_INTERVAL, now),
        }
    }

    /// It says that it has caught up when all parts have, and everything at or below this seq was said; and not before it is
    /// told so.
    pub const fn catch_up_with(&mut self, goal: Seq) {
        self.cadence.catch_up_with(goal);
    }

    /// Everything at or below this seq was said, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.cadence.position()
    }

    /// Whether all that a part said was shown.
    pub fn awaits(&self, part: usize) -> bool {
        self.heard.get(part).is_some_and(|heard| heard.events.is_empty())
    }

    /// How long it may say nothing, unless a part does.
    pub fn rest(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Opening(_) => MARK_INTERVAL_MAX,
            Phase::CatchingUp | Phase::Live => self.cadence.rest(now),
        }
    }

    /// A part, of which nothing is left to be shown, says more.
    ///
    /// # Errors
    /// When that cannot be read, or repeats something.
    pub fn hear(&mut self, part: usize, message: Message) -> Result<(), EventError> {
        let heard = self.heard.get_mut(part);
        heard.map_or(Err(EventError::Batch("of no part of the stream")), |heard| {
            heard.take_in(message)
        })
    }

    /// What is worth saying of what was heard.
    pub fn say(&mut self, now: Instant) -> Option<Message> {
        if let Phase::Opening(after) = self.phase {
            let opened = self.heard.iter().map(|heard| heard.opened);
            let all: Option<Vec<Seq>> = opened.collect();
            let after = after.or_else(|| all?.into_iter().min())?;
            self.phase = Phase::CatchingUp;
            self.cadence.begin_after(after, now);
            return Some(Message::Opened(after));
        }
        if self.cadence.is_overdue(now) {
            return Some(self.mark(now));
        }
        let is_caught_up = self.heard.iter().all(|heard| heard.is_caught_up);
        if self.phase == Phase::Live && !is_caught_up {
            self.phase = Phase::CatchingUp;
            let ahead = self
                .heard
                .iter()
                .map(|heard| heard.behind)
                .max()
                .unwrap_or_default();
            self.cadence.catch_up_with(ahead);
            return Some(Message::FellBehind(ahead));
        }
        if let Some(run) = self.take_run() {
            self.cadence.advance(self.shown_up_to(), run.count);
            return Some(Message::Changes(run));
        }
        self.cadence.advance(self.shown_up_to(), 0);
        if self.phase == Phase::CatchingUp && is_caught_up && self.cadence.is_at_goal() {
            if self.cadence.has_news() {
                return Some(self.mark(now));
            }
            self.phase = Phase::Live;
            return Some(Message::CaughtUp(self.position()));
        }
        self.cadence.is_due_at_rest(now).then(|| self.mark(now))
    }

    /// Events that no part can precede any more, or, by keys, any that were heard, until a message is full.
    fn take_run(&mut self) -> Option<Run> {
        let mut encoded = BytesMut::new();
        let (mut count, mut last) = (0_u64, None);
        while encoded.len() < STREAM_MESSAGE_BYTES {
            let silent = self.heard.iter().filter(|heard| heard.events.is_empty());
            let bound = silent.map(|heard| heard.up_to).min();
            let is_awaited = match self.order {
                Order::Seqs => !sabotage::is(Sabotage::PartsUnawaited),
                Order::Keys => sabotage::is(Sabotage::KeysAwaitOthers),
            };
            let bound = bound.filter(|_| is_awaited);
            let first = self
                .heard
                .iter_mut()
                .filter_map(|heard| Some((heard.events.front()?.0, heard)))
                .min_by_key(|(seq, _)| *seq);
            let Some((seq, heard)) = first.filter(|(seq, _)| bound.is_none_or(|bound| *seq <= bound)) else {
                break;
            };
            if let Some((_, event)) = heard.events.pop_front() {
                push_to_batch(&mut encoded, &event);
            }
            count = count.saturating_add(1);
            last = Some(seq);
        }
        last.map(|last_seq| Run {
            encoded: encoded.freeze(),
            count,
            last_seq,
        })
    }

    /// Nothing at or below this seq is left to be shown, or still to be heard.
    fn shown_up_to(&self) -> Seq {
        let next = |heard: &Heard| match heard.events.front() {
            Some((seq, _)) => seq.previous(),
            None => heard.up_to,
        };
        let shown = self.heard.iter().map(next);
        let shown = if self.order == Order::Keys && sabotage::is(Sabotage::MarkOfAnyPart) {
            shown.max()
        } else {
            shown.min()
        };
        shown.unwrap_or_default()
    }

    fn mark(&mut self, now: Instant) -> Message {
        let (seq, events) = self.cadence.mark(now);
        Message::Resolved(seq, events)
    }
}

impl Heard {
    fn take_in(&mut self, message: Message) -> Result<(), EventError> {
        let up_to = match message {
            Message::Opened(after) => {
                self.opened = Some(after);
                after
            }
            Message::Changes(run) => {
                for event in split_batch(run.encoded)? {
                    let seq = seq_of(&event)?;
                    if seq <= self.up_to {
                        return Err(EventError::Batch("a part of the stream goes back"));
                    }
                    self.up_to = seq;
                    self.events.push_back((seq, event));
                }
                run.last_seq
            }
            Message::Resolved(seq, _) => seq,
            Message::CaughtUp(seq) => {
                self.is_caught_up = true;
                seq
            }
            Message::FellBehind(seq) => {
                self.is_caught_up = false;
                self.behind = seq;
                self.up_to
            }
        };
        self.up_to = self.up_to.max(up_to);
        Ok(())
    }
}
