//! One stream of several that each show other seats: from this node's logs, and from nodes that have the others.
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
use crate::clock;
use crate::limits::{MARK_INTERVAL, MARK_INTERVAL_MAX, STREAM_MESSAGE_BYTES};
use crate::sabotage::{self, Sabotage};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use rdb_proto::event::{EventError, push_to_batch, seq_of, split_batch};
use rdb_proto::types::Seq;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The stream of some seats, never over: it begins with [`Message::Opened`] and may be interrupted, but repeats nothing.
pub type Part<E> = Pin<Box<dyn Stream<Item = Result<Message, E>> + Send>>;

/// See the module. `E` is what a part can fail with; the whole stream is over then.
pub struct Gather<E> {
    parts: Vec<Heard<E>>,
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

/// A part, and what it said that was not shown yet.
struct Heard<E> {
    part: Part<E>,
    opened: Option<Seq>,
    events: VecDeque<(Seq, Bytes)>,
    /// All its events at or below this seq were heard.
    up_to: Seq,
    is_caught_up: bool,
    /// Where the database stood when it fell behind.
    behind: Seq,
}

impl<E: From<EventError>> Gather<E> {
    /// Gathers parts that all begin after `after`, or, without it, each after the seq that it names.
    pub fn new(parts: impl IntoIterator<Item = Part<E>>, after: Option<Seq>, order: Order) -> Self {
        let heard = |part| Heard {
            part,
            opened: None,
            events: VecDeque::new(),
            up_to: Seq::ZERO,
            is_caught_up: false,
            behind: Seq::ZERO,
        };
        Self {
            parts: parts.into_iter().map(heard).collect(),
            order,
            phase: Phase::Opening(after),
            cadence: Cadence::from(after.unwrap_or_default(), MARK_INTERVAL),
        }
    }

    /// Everything at or below this seq was sent, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.cadence.position()
    }

    /// The next message. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// What a part failed with.
    pub async fn next(&mut self) -> Result<Message, E> {
        loop {
            if let Some(message) = self.say() {
                return Ok(message);
            }
            let rest = match self.phase {
                Phase::Opening(_) => MARK_INTERVAL_MAX,
                Phase::CatchingUp | Phase::Live => self.cadence.rest(),
            };
            if let Some(heard) = clock::within(rest, poll_fn(|context| self.poll_parts(context))).await {
                heard?;
            }
        }
    }

    /// Hears one message of a part of which nothing is left to be shown; the others come first the next time.
    fn poll_parts(&mut self, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        for (at, heard) in self.parts.iter_mut().enumerate() {
            if !heard.events.is_empty() {
                continue;
            }
            match heard.part.as_mut().poll_next(context) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(message))) => {
                    let taken = heard.take_in(message).map_err(E::from);
                    self.parts.rotate_left(at.saturating_add(1));
                    return Poll::Ready(taken);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(EventError::Batch("a part of the stream ended").into()));
                }
            }
        }
        Poll::Pending
    }

    /// What is worth saying of what was heard.
    fn say(&mut self) -> Option<Message> {
        if let Phase::Opening(after) = self.phase {
            let opened = self.parts.iter().map(|heard| heard.opened);
            let all: Option<Vec<Seq>> = opened.collect();
            let after = after.or_else(|| all?.into_iter().min())?;
            self.phase = Phase::CatchingUp;
            self.cadence = Cadence::from(after, MARK_INTERVAL);
            return Some(Message::Opened(after));
        }
        if self.cadence.is_overdue() {
            return Some(self.mark());
        }
        let is_caught_up = self.parts.iter().all(|heard| heard.is_caught_up);
        if self.phase == Phase::Live && !is_caught_up {
            self.phase = Phase::CatchingUp;
            let ahead = self.parts.iter().map(|heard| heard.behind).max();
            return Some(Message::FellBehind(ahead.unwrap_or_default()));
        }
        if let Some(run) = self.take_run() {
            self.cadence.advance(self.shown_up_to(), run.count);
            return Some(Message::Changes(run));
        }
        self.cadence.advance(self.shown_up_to(), 0);
        if self.phase == Phase::CatchingUp && is_caught_up {
            if self.cadence.has_news() {
                return Some(self.mark());
            }
            self.phase = Phase::Live;
            return Some(Message::CaughtUp(self.position()));
        }
        self.cadence.is_due_at_rest().then(|| self.mark())
    }

    /// Events that no part can precede any more, or, by keys, any that were heard, until a message is full.
    fn take_run(&mut self) -> Option<Run> {
        let mut encoded = BytesMut::new();
        let (mut count, mut last) = (0_u64, None);
        while encoded.len() < STREAM_MESSAGE_BYTES {
            let silent = self.parts.iter().filter(|heard| heard.events.is_empty());
            let bound = silent.map(|heard| heard.up_to).min();
            let is_awaited = match self.order {
                Order::Seqs => !sabotage::is(Sabotage::PartsUnawaited),
                Order::Keys => sabotage::is(Sabotage::KeysAwaitOthers),
            };
            let bound = bound.filter(|_| is_awaited);
            let first = self
                .parts
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
        let next = |heard: &Heard<E>| match heard.events.front() {
            Some((seq, _)) => seq.previous(),
            None => heard.up_to,
        };
        let shown = self.parts.iter().map(next);
        let shown = if self.order == Order::Keys && sabotage::is(Sabotage::MarkOfAnyPart) {
            shown.max()
        } else {
            shown.min()
        };
        shown.unwrap_or_default()
    }

    fn mark(&mut self) -> Message {
        let (seq, events) = self.cadence.mark();
        Message::Resolved(seq, events)
    }
}

impl<E> Heard<E> {
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

impl<E> fmt::Debug for Gather<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("parts", &self.parts.len())
            .field("order", &self.order)
            .field("phase", &self.phase)
            .field("cadence", &self.cadence)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
    use rdb_proto::event::{EventKind, NewEvent, StoredEvents, decode_batch};
    use rdb_proto::types::{EventId, KeyName, Timestamp, Version};
    use std::collections::BTreeMap;
    use std::ops::RangeInclusive;
    use uuid::Uuid;

    fn run(seqs: RangeInclusive<u64>) -> Message {
        let event = |seq: u64| NewEvent {
            kind: EventKind::Write,
            event_type: String::new(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            payload: Bytes::new(),
            event_id: EventId(Uuid::from_u128(u128::from(seq))),
        };
        let first = Seq(*seqs.start());
        let name = KeyName::new("", "k").unwrap();
        let events: Vec<_> = seqs.map(event).collect();
        let stored = StoredEvents::number(name, first, Version(1), Timestamp(1), events).unwrap();
        Message::Changes(Run {
            count: stored.count(),
            last_seq: stored.last_seq(),
            encoded: stored.encoded,
        })
    }

    /// Parts that say this and then nothing more.
    fn gather<const N: usize>(said: [Vec<Message>; N], after: Option<Seq>) -> Gather<EventError> {
        gather_by(Order::Seqs, said, after)
    }

    fn gather_by<const N: usize>(
        order: Order,
        said: [Vec<Message>; N],
        after: Option<Seq>,
    ) -> Gather<EventError> {
        let part = |said: Vec<Message>| -> Part<EventError> {
            Box::pin(futures::stream::iter(said.into_iter().map(Ok)).chain(futures::stream::pending()))
        };
        Gather::new(said.map(part), after, order)
    }

    /// Everything that is said before it waits, a line each.
    #[tokio::main(flavor = "current_thread")]
    async fn said(mut gather: Gather<EventError>) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(message) = gather.next().now_or_never() {
            lines.push(match message.unwrap() {
                Message::Opened(seq) => format!("opened {seq}"),
                Message::Changes(run) => {
                    let events = decode_batch(run.encoded).unwrap();
                    assert_eq!(run.count, u64::try_from(events.len()).unwrap());
                    let seqs: Vec<_> = events.iter().map(|event| event.seq.to_string()).collect();
                    seqs.join(" ")
                }
                Message::Resolved(seq, count) => format!("resolved {seq}, {count} events"),
                Message::CaughtUp(seq) => format!("caught up {seq}"),
                Message::FellBehind(seq) => format!("fell behind {seq}"),
            });
        }
        lines
    }

    /// DESIGN 7. Red when a part that has said nothing yet is not waited for.
    #[test]
    fn an_event_waits_until_no_part_can_precede_it() {
        let first = vec![Message::Opened(Seq(0)), run(1..=2), run(6..=7)];
        let second = vec![Message::Opened(Seq(0)), run(3..=4), Message::Resolved(Seq(6), 2)];
        assert_eq!(
            said(gather([first, second], Some(Seq(0)))),
            ["opened 0", "1 2", "3 4", "6"],
            "7 waits: the second part may still have a 7"
        );
    }

    /// DESIGN 7. Red when a part that says nothing is waited for, or when a mark passes what it may still say.
    #[test]
    fn by_keys_an_event_waits_for_no_other_part_and_a_mark_for_all() {
        let caught_up = |seq| Message::CaughtUp(Seq(seq));
        let first = vec![
            Message::Opened(Seq(0)),
            run(1..=2),
            run(6..=7),
            Message::Resolved(Seq(9), 4),
            caught_up(9),
        ];
        let second = vec![Message::Opened(Seq(0)), run(3..=4), caught_up(4)];
        assert_eq!(
            said(gather_by(Order::Keys, [first, second], Some(Seq(0)))),
            [
                "opened 0",
                "1 2",
                "3 4",
                "6 7",
                "resolved 4, 6 events",
                "caught up 4"
            ]
        );
    }

    #[test]
    fn it_is_caught_up_when_all_parts_are_and_behind_when_one_is() {
        let caught_up = |seq| Message::CaughtUp(Seq(seq));
        let first = vec![Message::Opened(Seq(2)), run(3..=3), caught_up(9)];
        let second = vec![
            Message::Opened(Seq(2)),
            caught_up(8),
            Message::FellBehind(Seq(30)),
            run(20..=20),
        ];
        assert_eq!(
            said(gather([first, second], Some(Seq(2)))),
            [
                "opened 2",
                "3",
                "resolved 8, 1 events",
                "caught up 8",
                "fell behind 30"
            ]
        );
    }

    #[test]
    fn without_a_start_of_its_own_it_begins_with_the_earliest_part() {
        let first = vec![Message::Opened(Seq(7)), run(8..=8)];
        let second = vec![Message::Opened(Seq(4)), run(5..=5), Message::Resolved(Seq(8), 1)];
        assert_eq!(said(gather([first, second], None)), ["opened 4", "5", "8"]);
    }

    #[tokio::test]
    async fn a_part_that_fails_ends_it() {
        let part: Part<EventError> = Box::pin(futures::stream::iter([Err(EventError::Batch("x"))]));
        let mut gather = Gather::new([part], None, Order::Seqs);
        let failed = gather.next().now_or_never();
        assert!(matches!(failed, Some(Err(EventError::Batch("x")))));
    }
}
