//! The change stream: every committed event once, in the order of seqs, over lost connections.
//!
//! A subscription holds one number, its position: nothing at or below it will come again, everything above it
//! will. The position is the seq of the last event handed out, or the last mark or caught-up notice. A new connection begins there and
//! names the database, so that a position is never used on another one.
//!
//! In the order of keys events are not in that of seqs, so only marks and notices move the position. What came above it
//! comes again over a new connection, and is left out here.
//!
//! Two checks run on every message, so that a broken promise is an error and never a silent loss: seqs rise, and a
//! mark's count of changes equals what arrived since the mark before.

use crate::clock::{self, Deadline};
use crate::connect::{Client, Node};
use crate::handed_out::HandedOut;
use crate::limits::STREAM_SILENCE_MAX;
use crate::retry::Backoff;
use crate::{Change, Error, Event, EventKind, EventRef, Seq, Timestamp};
use bytes::Bytes;
use futures::Stream;
use rdb_proto::convert::event_kind_to_wire;
use rdb_proto::event::{decode_batch, look_at_batch, next_seq, split_batch};
use rdb_proto::v1;
use rdb_proto::v1::subscribe_request::Start as WireStart;
use rdb_proto::v1::subscribe_response::Message as WireMessage;
use std::fmt;
use std::time::Instant;
use tonic::Streaming;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event whose seq is greater. [`Seq::ZERO`] means all events.
    After(Seq),
    /// With the first event after the call.
    Now,
    /// With the first event at or after this time.
    At(Timestamp),
}

/// In which order events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// All of them by their seqs.
    #[default]
    Seqs,
    /// Those of a key by their seqs, each as soon as its own seat has committed it: sooner, and also while another seat holds
    /// the stream. One subscription hands each event out once, also over lost connections. A new one that begins at the
    /// position of another gets what is above it again: the position is the last mark's.
    Keys,
}

/// Which events a subscription gets: those that pass each part that is not empty. Within a part, one match is
/// enough.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Names of collections.
    pub collections: Vec<String>,
    /// Prefixes of the key.
    pub key_prefixes: Vec<String>,
    /// Event types.
    pub types: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Write, delete, or both.
    pub kinds: Vec<EventKind>,
}

/// What a subscription says.
#[derive(Debug, Clone)]
pub enum Message {
    /// A connection is open. The first message, and the first one after [`Message::Interrupted`].
    Opened {
        /// Id of the database.
        database_id: String,
        /// The next event has a greater seq.
        after: Seq,
    },
    /// Events, in the order of their seqs; with [`Order::Keys`] of each key.
    Events(EventBatch),
    /// Nothing at or below this seq will come any more.
    Resolved {
        /// The mark.
        seq: Seq,
        /// Events that came since the mark before.
        changes: u64,
    },
    /// Everything that was acknowledged when the connection opened, or that [`Message::FellBehind`] named, has come. Like a
    /// mark, it says that nothing at or below its seq will come any more. A node that cannot ask etcd for seconds goes by
    /// what it has heard of.
    CaughtUp {
        /// Resolved seq at which that was so.
        seq: Seq,
    },
    /// This subscriber is slower than the writers and is now read from disk.
    FellBehind {
        /// Resolved seq of the database at that moment.
        seq: Seq,
    },
    /// The connection was lost. The subscription goes on by itself, at its position, with the next call.
    Interrupted(Error),
}

/// One or more events, still encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct EventBatch {
    encoded: Bytes,
    count: u64,
    first: Seq,
    last: Seq,
}

impl EventBatch {
    /// How many; at least 1.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Seq of the first; with [`Order::Keys`], the lowest.
    pub const fn first_seq(&self) -> Seq {
        self.first
    }

    /// Seq of the last; with [`Order::Keys`], the greatest, and no position to go on at.
    pub const fn last_seq(&self) -> Seq {
        self.last
    }

    /// Bytes of all of them, encoded.
    pub const fn encoded_bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Looks at the events one after the other, without copying anything of them: for who keeps few, or little of them.
    /// Ends after an error.
    ///
    /// # Errors
    /// Of an item, when the server sent something that is not an event.
    pub fn iter(&self) -> impl Iterator<Item = Result<EventRef<'_>, Error>> {
        look_at_batch(&self.encoded).map(|event| event.map_err(Error::bad_answer))
    }

    /// Reads the events, each as one of its own.
    ///
    /// # Errors
    /// When the server sent something that is not an event.
    pub fn decode(&self) -> Result<Vec<Event>, Error> {
        decode_batch(&self.encoded).map_err(Error::bad_answer)
    }

    /// Reads the events, each with the one before it of the same key when [`Subscription::with_before`] asked for it.
    ///
    /// # Errors
    /// When the server sent something that is not an event.
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        self.split()?
            .iter()
            .map(Change::decode)
            .collect::<Result<_, _>>()
            .map_err(Error::bad_answer)
    }

    /// The events one by one, each still encoded as the message `rdb.v1.Event`, without copying them.
    ///
    /// # Errors
    /// When the server sent something that is not a batch.
    pub fn split(&self) -> Result<Vec<Bytes>, Error> {
        split_batch(self.encoded.clone()).map_err(Error::bad_answer)
    }

    /// A batch of these seqs, in any order; `None` when there are none.
    pub(crate) fn of(encoded: Bytes, seqs: &[Seq]) -> Option<Self> {
        Some(Self {
            encoded,
            count: u64::try_from(seqs.len()).unwrap_or(u64::MAX),
            first: seqs.iter().copied().min()?,
            last: seqs.iter().copied().max()?,
        })
    }

    /// Checks the order while it counts; `None` when there are no events.
    fn scan(encoded: Bytes, after: Seq) -> Result<Option<Self>, Error> {
        let mut rest: &[u8] = &encoded;
        let mut count = 0_u64;
        let mut first = None;
        let mut last = after;
        while !rest.is_empty() {
            let seq = next_seq(&mut rest).map_err(Error::bad_answer)?;
            if seq <= last {
                return Err(Error::bad_answer(format_args!("seq {seq} came after seq {last}")));
            }
            first = first.or(Some(seq));
            last = seq;
            count = count.saturating_add(1);
        }
        Ok(first.map(|first| Self {
            encoded,
            count,
            first,
            last,
        }))
    }
}

impl fmt::Debug for EventBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events, seq {}..{}", self.count, self.first, self.last)
    }
}

/// A subscription to the change stream.
pub struct Subscription {
    client: Client,
    filter: Filter,
    database_id: Option<String>,
    start: Start,
    with_before: bool,
    /// Seq of the snapshot that it begins with; `None` without one, [`Seq::ZERO`] before the first connection.
    snapshot: Option<Seq>,
    /// With [`Order::Keys`]: what came above the position.
    handed_out: Option<HandedOut>,
    stream: Option<(Node, Streaming<v1::SubscribeResponse>)>,
    /// Events since the last mark on this connection.
    changes: u64,
    /// Those of them that had been handed out before.
    repeated: u64,
    backoff: Backoff,
    /// Not before this moment is a new connection opened.
    retry_at: Option<Instant>,
    attempts: u32,
}

impl Client {
    /// Subscribes to the change stream. Nothing is sent before the first [`Subscription::next`].
    pub fn subscribe(&self, start: Start, filter: Filter) -> Subscription {
        Subscription {
            client: self.clone(),
            filter,
            database_id: None,
            start,
            with_before: false,
            snapshot: None,
            handed_out: None,
            stream: None,
            changes: 0,
            repeated: 0,
            backoff: Backoff::new(),
            retry_at: None,
            attempts: 0,
        }
    }
}

impl Subscription {
    /// Demands that the start is a position of this database.
    #[must_use]
    pub fn of_database(mut self, id: impl Into<String>) -> Self {
        self.database_id = Some(id.into());
        self
    }

    /// Asks for each event together with the one before it of the same key: [`EventBatch::changes`].
    #[must_use]
    pub const fn with_before(mut self) -> Self {
        self.with_before = true;
        self
    }

    /// Asks for events in this order.
    #[must_use]
    pub fn in_order_of(mut self, order: Order) -> Self {
        self.handed_out = match order {
            Order::Seqs => None,
            Order::Keys => Some(HandedOut::default()),
        };
        self
    }

    /// Begins with a snapshot: of everything up to one seq, which the database chooses when the subscription is opened, only
    /// the latest event of each key comes, and none of deleted keys; then every event after it.
    #[must_use]
    pub const fn with_snapshot(self) -> Self {
        self.with_snapshot_of(Seq::ZERO)
    }

    /// Goes on in the middle of a snapshot: with the [`Subscription::snapshot`] and the position of the one that began it.
    #[must_use]
    pub const fn with_snapshot_of(mut self, seq: Seq) -> Self {
        self.snapshot = Some(seq);
        self
    }

    /// The seq of the snapshot that it begins with; `None` without one, or before the first connection.
    pub fn snapshot(&self) -> Option<Seq> {
        self.snapshot.filter(|seq| *seq > Seq::ZERO)
    }

    /// Where a new subscription would go on without loss and, but for [`Order::Keys`], without repetition. `None` when it did not begin with
    /// [`Start::After`] and no connection was open yet.
    pub const fn position(&self) -> Option<Seq> {
        match self.start {
            Start::After(seq) => Some(seq),
            Start::Now | Start::At(_) => None,
        }
    }

    /// Whether a connection is open. While it is, [`Subscription::next`] may be polled without starting one.
    pub const fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The next message. Never ends by itself: after a lost connection it says so and goes on.
    ///
    /// Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// What calling again does not cure: `WRONG_DATABASE`, `SEQ_AHEAD`, `FIELD_INVALID`, `DATA_DAMAGED`, and a
    /// stream that breaks its own promises (`BUG`).
    pub async fn next(&mut self) -> Result<Message, Error> {
        match self.receive().await {
            Ok(message) => Ok(message),
            Err((node, error)) if error.is_transient() => {
                self.stream = None;
                if let Some(node) = node {
                    self.client.leave(&node, &error);
                }
                let delay = error.retry_after().unwrap_or_else(|| self.backoff.next_delay());
                self.retry_at = clock::now().checked_add(delay);
                Ok(Message::Interrupted(
                    error.of_a_read().with_attempts(self.attempts),
                ))
            }
            Err((_node, error)) => {
                self.stream = None;
                Err(error.of_a_read().with_attempts(self.attempts))
            }
        }
    }

    /// The subscription as a [`Stream`] that ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Message, Error>> + Send {
        futures::stream::try_unfold(self, |mut subscription| async {
            let message = subscription.next().await?;
            Ok(Some((message, subscription)))
        })
    }

    async fn receive(&mut self) -> Result<Message, (Option<Node>, Error)> {
        loop {
            if self.stream.is_none() {
                // Boxed: opening is rare, and would make the future of every message as large as itself.
                Box::pin(self.open()).await?;
            }
            let Some((node, stream)) = &mut self.stream else {
                continue;
            };
            let silence = Deadline::after(Some(STREAM_SILENCE_MAX));
            let broken = |error| (Some(node.clone()), error);
            let message = match silence.run(stream.message()).await {
                Ok(Ok(Some(message))) => message.message,
                Ok(Ok(None)) => return Err(broken(Error::stream_ended())),
                Ok(Err(status)) => return Err(broken(Error::from_status(&status, &node.address))),
                Err(_passed) => return Err(broken(Error::silent(STREAM_SILENCE_MAX))),
            };
            // A kind of message that a later release invented says nothing that this one must know.
            let Some(message) = message else { continue };
            if let Some(message) = self.understand(message).map_err(|error| (None, error))? {
                return Ok(message);
            }
        }
    }

    async fn open(&mut self) -> Result<(), (Option<Node>, Error)> {
        if let Some(at) = self.retry_at {
            clock::sleep_until(at).await;
        }
        let node = self.client.node().map_err(|error| (None, error))?;
        self.attempts = self.attempts.saturating_add(1);
        let request = v1::SubscribeRequest {
            start: Some(match self.start {
                Start::After(seq) => WireStart::AfterSeq(seq.get()),
                Start::Now => WireStart::FromNow(true),
                Start::At(time) => WireStart::FromTimeUs(time.get()),
            }),
            filter: self.filter.to_wire(),
            database_id: self.database_id.clone().unwrap_or_default(),
            with_before: self.with_before,
            snapshot: self.snapshot.is_some(),
            snapshot_seq: self.snapshot.unwrap_or_default().get(),
            order: match self.handed_out {
                None => v1::Order::Seqs,
                Some(_) => v1::Order::Keys,
            }
            .into(),
        };
        let silence = Deadline::after(Some(STREAM_SILENCE_MAX));
        let mut client = node.changes();
        match silence.run(client.subscribe(request)).await {
            Ok(Ok(stream)) => {
                self.stream = Some((node, stream.into_inner()));
                self.changes = 0;
                self.repeated = 0;
                if let Some(handed_out) = &mut self.handed_out {
                    handed_out.begin_connection();
                }
                self.retry_at = None;
                Ok(())
            }
            Ok(Err(status)) => {
                let error = Error::from_status(&status, &node.address);
                Err((Some(node), error))
            }
            Err(_passed) => Err((Some(node), Error::silent(STREAM_SILENCE_MAX))),
        }
    }

    fn understand(&mut self, message: WireMessage) -> Result<Option<Message>, Error> {
        match message {
            WireMessage::Opened(opened) => self.opened(opened).map(Some),
            WireMessage::Changes(encoded) => self.events(encoded),
            WireMessage::Resolved(mark) => self.resolved(&mark).map(Some),
            WireMessage::CaughtUp(at) => {
                self.progress(Seq(at.seq));
                Ok(Some(Message::CaughtUp { seq: Seq(at.seq) }))
            }
            WireMessage::FellBehind(at) => Ok(Some(Message::FellBehind { seq: Seq(at.seq) })),
        }
    }

    fn opened(&mut self, opened: v1::Opened) -> Result<Message, Error> {
        let after = Seq(opened.after_seq);
        match self.start {
            Start::After(position) if after > position => {
                let problem =
                    format_args!("asked for events after {position}, the stream begins after {after}");
                return Err(Error::bad_answer(problem));
            }
            Start::After(_) => {}
            Start::Now | Start::At(_) => self.start = Start::After(after),
        }
        // An empty database has nothing to take a snapshot of.
        self.snapshot = self
            .snapshot
            .and(Some(Seq(opened.snapshot_seq)))
            .filter(|seq| *seq > Seq::ZERO);
        self.database_id = Some(opened.database_id.clone());
        Ok(Message::Opened {
            database_id: opened.database_id,
            after,
        })
    }

    fn events(&mut self, encoded: Bytes) -> Result<Option<Message>, Error> {
        let position = self.position().unwrap_or(Seq::ZERO);
        if let Some(handed_out) = &mut self.handed_out {
            let (came, batch) = handed_out.take_in(encoded, position)?;
            let new = batch.as_ref().map_or(0, EventBatch::count);
            self.changes = self.changes.saturating_add(came);
            self.repeated = self.repeated.saturating_add(came.saturating_sub(new));
            self.note(batch.as_ref().map_or(position, EventBatch::last_seq));
            return Ok(batch.map(Message::Events));
        }
        let Some(batch) = EventBatch::scan(encoded, position)? else {
            return Ok(None);
        };
        self.changes = self.changes.saturating_add(batch.count);
        self.progress(batch.last);
        Ok(Some(Message::Events(batch)))
    }

    fn resolved(&mut self, mark: &v1::Resolved) -> Result<Message, Error> {
        let changes = std::mem::take(&mut self.changes);
        let repeated = std::mem::take(&mut self.repeated);
        if changes != mark.changes_since_previous {
            let sent = mark.changes_since_previous;
            let problem = format_args!(
                "{sent} changes were sent before mark {}, {changes} came",
                mark.seq
            );
            return Err(Error::bad_answer(problem));
        }
        self.progress(Seq(mark.seq));
        Ok(Message::Resolved {
            seq: Seq(mark.seq),
            changes: changes.saturating_sub(repeated),
        })
    }

    fn progress(&mut self, to: Seq) {
        let position = self.position().unwrap_or(Seq::ZERO);
        self.start = Start::After(position.max(to));
        if let Some(handed_out) = &mut self.handed_out {
            handed_out.move_on(position.max(to));
        }
        self.note(to);
    }

    /// Notes that the database has reached a seq, and that the connection is of use.
    fn note(&mut self, to: Seq) {
        self.client.note_seq(to);
        self.backoff.reset();
        self.attempts = 0;
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("start", &self.start)
            .field("filter", &self.filter)
            .field("is_open", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}

impl Filter {
    /// Absent on the wire when it lets everything through.
    fn to_wire(&self) -> Option<v1::Filter> {
        (*self != Self::default()).then(|| v1::Filter {
            collections: self.collections.clone(),
            key_prefixes: self.key_prefixes.clone(),
            types: self.types.clone(),
            tags: self.tags.clone(),
            kinds: self
                .kinds
                .iter()
                .map(|kind| event_kind_to_wire(*kind).into())
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn batch(seqs: &[u64]) -> Bytes {
        let event = |seq: &u64| v1::Event {
            seq: *seq,
            key: "k".to_owned(),
            payload: vec![9; 200].into(),
            ..Default::default()
        };
        let events = seqs.iter().map(event).collect();
        v1::EventBatch { events }.encode_to_vec().into()
    }

    #[test]
    fn a_batch_is_counted_without_decoding_it() {
        let scanned = EventBatch::scan(batch(&[5, 6, 300]), Seq(4)).unwrap().unwrap();
        assert_eq!(
            (scanned.count(), scanned.first_seq(), scanned.last_seq()),
            (3, Seq(5), Seq(300))
        );
        assert_eq!(EventBatch::scan(Bytes::new(), Seq(4)).unwrap(), None);
    }

    #[test]
    fn a_seq_that_does_not_rise_is_an_error() {
        for (seqs, after) in [(&[5, 5][..], 4), (&[6, 5], 4), (&[4], 4)] {
            let error = EventBatch::scan(batch(seqs), Seq(after)).unwrap_err();
            assert!(error.message().contains("came after"), "{error}");
        }
    }

    #[test]
    fn rejects_bytes_that_are_no_batch() {
        for bytes in [&[0x0a, 9, 1][..], &[0x12, 0], &[0xff]] {
            assert!(EventBatch::scan(Bytes::copy_from_slice(bytes), Seq(0)).is_err());
        }
    }
}
