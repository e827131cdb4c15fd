//! One stream of several that each show other seats: from this node's logs, and from nodes that have the others. What of
//! them may be shown, and when, [`Parts`] decides.

use super::parts::Parts;
use super::selection::Order;
use super::subscription::Message;
use crate::clock;
use futures::Stream;
use rdb_proto::event::EventError;
use rdb_proto::types::Seq;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The stream of some seats, never over: it begins with [`Message::Opened`] and may be interrupted, but repeats nothing.
pub type Part<E> = Pin<Box<dyn Stream<Item = Result<Message, E>> + Send>>;

/// See the module. `E` is what a part can fail with; the whole stream is over then.
pub struct Gather<E> {
    streams: Vec<Part<E>>,
    parts: Parts,
    /// Whose turn it is to be heard first.
    first: usize,
}

impl<E: From<EventError>> Gather<E> {
    /// Gathers parts that all begin after `after`, or, without it, each after the seq that it names.
    pub fn new(parts: impl IntoIterator<Item = Part<E>>, after: Option<Seq>, order: Order) -> Self {
        let streams: Vec<Part<E>> = parts.into_iter().collect();
        Self {
            parts: Parts::new(streams.len(), after, order, clock::monotonic()),
            streams,
            first: 0,
        }
    }

    /// See [`Parts::catch_up_with`].
    pub const fn catch_up_with(&mut self, goal: Seq) {
        self.parts.catch_up_with(goal);
    }

    /// Everything at or below this seq was sent, or did not pass the filter: where to resume.
    pub const fn position(&self) -> Seq {
        self.parts.position()
    }

    /// The next message. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// What a part failed with.
    pub async fn next(&mut self) -> Result<Message, E> {
        loop {
            let now = clock::monotonic();
            if let Some(message) = self.parts.say(now) {
                return Ok(message);
            }
            let rest = self.parts.rest(now);
            if let Some(heard) = clock::within(rest, poll_fn(|context| self.poll_parts(context))).await {
                heard?;
            }
        }
    }

    /// Hears one message of a part of which nothing is left to be shown; the others come first the next time.
    fn poll_parts(&mut self, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        let count = self.streams.len();
        let turns = (self.first..count).chain(0..self.first);
        for part in turns.filter(|part| self.parts.awaits(*part)) {
            let Some(stream) = self.streams.get_mut(part) else {
                break;
            };
            match stream.as_mut().poll_next(context) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(message))) => {
                    self.first = part.saturating_add(1).min(count);
                    return Poll::Ready(self.parts.hear(part, message).map_err(E::from));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(EventError::Batch("a part of the stream ended").into()));
                }
            }
        }
        Poll::Pending
    }
}

impl<E> fmt::Debug for Gather<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdc::Run;
    use bytes::Bytes;
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
        let mut gather = Gather::new(said.map(part), after, order);
        gather.catch_up_with(Seq(4));
        gather
    }

    /// Everything that is said before it waits, a line each.
    #[tokio::main(flavor = "current_thread")]
    async fn said(mut gather: Gather<EventError>) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(message) = gather.next().now_or_never() {
            lines.push(match message.unwrap() {
                Message::Opened(seq) => format!("opened {seq}"),
                Message::Changes(run) => {
                    let events = decode_batch(&run.encoded).unwrap();
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
    fn it_has_caught_up_when_everything_that_was_there_was_said() {
        let first = vec![Message::Opened(Seq(0)), run(1..=2), Message::CaughtUp(Seq(2))];
        let marks = [2, 3, 4].map(|mark| Message::Resolved(Seq(mark), 0));
        let second = [
            vec![Message::Opened(Seq(0)), Message::CaughtUp(Seq(0))],
            marks.to_vec(),
        ]
        .concat();
        let said = |first: Vec<Message>| said(gather([first, second.clone()], Some(Seq(0))));
        assert_eq!(said(first.clone()), ["opened 0", "1 2"], "the goal is 4");
        let on = [first, vec![Message::Resolved(Seq(4), 0)]].concat();
        assert_eq!(
            said(on),
            ["opened 0", "1 2", "resolved 4, 2 events", "caught up 4"]
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
