//! A subscriber of the change stream, as a node serves it: one part for each group, told by the node's own member where
//! there is one and else by another's, made one stream by the production code (DESIGN 7). What tells a part is a model of
//! how a node reads its logs: the committed entries of both seats up to the lower of their marks, by seq.

use super::checks::feed::Feed;
use super::checks::{Verdict, Violation};
use super::plan::{MILLI, Micros};
use super::world::{Event, World};
use crate::random::Random;
use bytes::BytesMut;
use rdb_proto::entry::{Entry, EntryBody};
use rdb_proto::event::{EventError, push_to_batch, seq_of, split_batch};
use rdb_proto::types::{GroupId, SeatId, Seq, Side};
use rdb_server::cdc::{Message, Order, Parts, Run};
use rdb_server::clock;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    node: usize,
    random: Random,
    pub(super) feed: Feed,
    stream: Stream,
}

/// One life of a stream: it ends with its node.
#[derive(Debug)]
struct Stream {
    parts: Parts,
    /// Up to where each part was told.
    told: Vec<Told>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// Who tells it; another one goes on where this one stopped.
    source: Option<usize>,
    is_open: bool,
    up_to: Seq,
    is_caught_up: bool,
}

impl Stream {
    fn after(seq: Seq, groups: u32, now: Instant) -> Self {
        let count = usize::try_from(groups).unwrap();
        let told = Told {
            up_to: seq,
            ..Told::default()
        };
        let mut parts = Parts::new(count, Some(seq), Order::Seqs, now);
        parts.catch_up_with(seq);
        Self {
            parts,
            told: vec![told; count],
        }
    }
}

impl Subscriber {
    pub(super) fn new(node: usize, groups: u32, random: Random) -> Self {
        Self {
            node,
            random,
            feed: Feed::new(Seq::ZERO),
            stream: Stream::after(Seq::ZERO, groups, instant(0)),
        }
    }

    /// Begins anew, after a position.
    pub(super) fn begin_after(&mut self, position: Seq, groups: u32, now: Micros) {
        self.feed = Feed::new(position);
        self.stream = Stream::after(position, groups, instant(now));
    }
}

/// The instant at a simulated time, in microseconds. Only differences of them count.
pub(super) fn instant(now: Micros) -> Instant {
    static BEGIN: LazyLock<Instant> = LazyLock::new(clock::monotonic);
    *BEGIN + Duration::from_micros(now)
}

fn unreadable(error: EventError) -> Violation {
    Violation {
        rule: "change stream (DESIGN 3, 7)",
        what: error.to_string(),
    }
}

impl World {
    pub(super) fn poll(&mut self, subscriber: usize) -> Verdict {
        let again = 20 * MILLI + self.subscribers[subscriber].random.below(200 * MILLI);
        self.queue.push(self.now + again, Event::Poll(subscriber));
        self.listen(subscriber)
    }

    /// Takes what the stream shows by now; where its node is gone, it is opened again at another.
    pub(super) fn listen(&mut self, subscriber: usize) -> Verdict {
        let now = instant(self.now);
        let count = self.nodes.len();
        let reader = &mut self.subscribers[subscriber];
        if reader.random.one_in(100) || !self.nodes[reader.node].is_up {
            reader.node = reader.random.position(count);
            reader.stream = Stream::after(reader.feed.position(), self.plan.groups, now);
            return Ok(());
        }
        loop {
            while let Some(message) = self.subscribers[subscriber].stream.parts.say(now) {
                self.subscribers[subscriber].receive(message)?;
            }
            let mut is_heard = false;
            for group in 0..self.plan.groups {
                is_heard |= self.hear(subscriber, group)?;
            }
            if !is_heard {
                return Ok(());
            }
        }
    }

    /// Lets a part say what comes next, if anything does.
    fn hear(&mut self, subscriber: usize, group: u32) -> Result<bool, Violation> {
        let part = usize::try_from(group).unwrap();
        let reader = &mut self.subscribers[subscriber];
        // Parts are not equally fast.
        if !reader.stream.parts.awaits(part) || reader.random.one_in(8) {
            return Ok(false);
        }
        if reader.random.one_in(50) {
            reader.stream.told[part].source = None;
        }
        let Some(source) = self.source(subscriber, GroupId(group)) else {
            return Ok(false);
        };
        let Some(message) = self.told_by(source, subscriber, GroupId(group)) else {
            return Ok(false);
        };
        let stream = &mut self.subscribers[subscriber].stream;
        stream.parts.hear(part, message).map_err(unreadable)?;
        Ok(true)
    }

    /// What a node's stream of a group says next.
    fn told_by(&mut self, source: usize, subscriber: usize, group: GroupId) -> Option<Message> {
        let part = usize::try_from(group.0).unwrap();
        let reader = &mut self.subscribers[subscriber];
        let most = 1 + reader.random.position(16);
        let told = &mut reader.stream.told[part];
        if !told.is_open {
            told.is_open = true;
            return Some(Message::Opened(told.up_to));
        }
        let members = Side::BOTH.map(|side| &self.nodes[source].members[&SeatId { group, side }]);
        let mut mark = members.iter().map(|member| member.resolved.0).min()?;
        let mut entries = Vec::new();
        for member in members {
            let committed = usize::try_from(member.shown.commit.get()).unwrap();
            let log = &member.disk.log()[..committed.min(member.disk.log().len())];
            let later = |entry: &&Arc<Entry>| entry.seqs().is_none_or(|(_, last)| last > told.up_to);
            for entry in log.iter().rev().take_while(later) {
                if let EntryBody::Events(events) = &entry.body {
                    // An entry is shown as a whole.
                    if events.first_seq <= mark && mark < events.last_seq() {
                        mark = events.first_seq.previous();
                    }
                    entries.push(events);
                }
            }
        }
        entries.retain(|events| events.last_seq() <= mark);
        entries.sort_by_key(|events| events.first_seq);
        entries.truncate(most);
        let Some(last) = entries.last() else {
            if told.is_caught_up && mark <= told.up_to {
                return None;
            }
            told.is_caught_up = true;
            told.up_to = told.up_to.max(mark);
            return Some(Message::CaughtUp(told.up_to));
        };
        let last_seq = last.last_seq();
        let mut encoded = BytesMut::new();
        let mut count = 0;
        for events in entries {
            // A source that comes after another one may begin in the middle of an entry.
            for event in split_batch(events.encoded.clone()).unwrap() {
                if seq_of(&event).unwrap() > told.up_to {
                    push_to_batch(&mut encoded, &event);
                    count += 1;
                }
            }
        }
        told.up_to = last_seq;
        Some(Message::Changes(Run {
            encoded: encoded.freeze(),
            count,
            last_seq,
        }))
    }

    /// The node that tells of a group; nobody while none that was chosen can be reached.
    fn source(&mut self, subscriber: usize, group: GroupId) -> Option<usize> {
        let part = usize::try_from(group.0).unwrap();
        let node = self.subscribers[subscriber].node;
        let members = &self.members[&group].members;
        let chosen = if members.contains(&self.nodes[node].id) {
            node
        } else {
            let reader = &mut self.subscribers[subscriber];
            let another = members[reader.random.position(members.len())];
            let last = reader.stream.told[part].source;
            // Who is no member any more tells nothing.
            let last = last.filter(|last| members.contains(&self.nodes[*last].id));
            last.unwrap_or_else(|| self.place_of(another))
        };
        let has_both = Side::BOTH.iter().all(|side| {
            let seat = SeatId { group, side: *side };
            self.nodes[chosen].members.contains_key(&seat)
        });
        let reaches = chosen == node || self.network.reaches(chosen, node);
        let is_there = self.nodes[chosen].is_up && reaches && has_both;
        let told = &mut self.subscribers[subscriber].stream.told[part];
        told.source = is_there.then_some(chosen);
        told.source
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = SeatId> + use<> {
        let groups = self.plan.groups;
        (0..groups).flat_map(|group| {
            Side::BOTH.map(|side| SeatId {
                group: GroupId(group),
                side,
            })
        })
    }
}

impl Subscriber {
    fn receive(&mut self, message: Message) -> Verdict {
        match message {
            Message::Changes(run) => {
                let events = split_batch(run.encoded).map_err(unreadable)?;
                let seqs: Result<Vec<Seq>, EventError> = events.iter().map(|event| seq_of(event)).collect();
                self.feed.arrives(&seqs.map_err(unreadable)?, run.last_seq)
            }
            Message::Opened(seq) | Message::Resolved(seq, _) | Message::CaughtUp(seq) => {
                self.feed.arrives(&[], seq)
            }
            Message::FellBehind(_) => Ok(()),
        }
    }
}
