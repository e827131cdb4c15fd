//! Events: as clients hand them in ([`NewEvent`]), as the log keeps them ([`StoredEvents`]) and one by one ([`Event`]).

pub use crate::fields::EventRef;
use crate::fields::events_in;
use crate::types::{Collection, EventId, FieldError, Key, KeyName, Seq, Timestamp, Version};
use crate::{convert, v1};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// What an event does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The key has this payload now.
    Write,
    /// The key does not exist any more.
    Delete,
}

impl EventKind {
    /// The word that users see: `write` or `delete`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// An event before it has a seq and a version. Within the limits of [`crate::limits`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewEvent {
    /// What it does.
    pub kind: EventKind,
    /// Event type; empty means none.
    pub event_type: String,
    /// Tags, in the caller's order.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// Body.
    pub payload: Bytes,
    /// Makes a retry recognisable.
    pub event_id: EventId,
}

impl NewEvent {
    /// Bytes of all its parts: what limits and queues count.
    pub fn weight(&self) -> usize {
        let tags: usize = self.tags.iter().map(String::len).sum();
        let meta: usize = self
            .meta
            .iter()
            .map(|(name, value)| name.len().saturating_add(value.len()))
            .sum();
        [
            self.event_type.len(),
            tags,
            meta,
            self.payload.len(),
            size_of::<EventId>(),
        ]
        .iter()
        .sum()
    }
}

/// What a write demands of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Expectation {
    /// Nothing.
    #[default]
    Any,
    /// Never written, or deleted.
    Absent,
    /// Written and not deleted.
    Exists,
    /// The latest event has exactly this version; [`Version::ZERO`] means never written.
    Exact(Version),
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Absent => f.write_str("absent"),
            Self::Exists => f.write_str("exists"),
            Self::Exact(version) => write!(f, "exactly {version}"),
        }
    }
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the global sequence.
    pub seq: Seq,
    /// The key it belongs to.
    pub name: KeyName,
    /// Position within the key.
    pub version: Version,
    /// What it did.
    pub kind: EventKind,
    /// Event type; empty means none.
    pub event_type: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// Body.
    pub payload: Bytes,
    /// Its UUID.
    pub event_id: EventId,
    /// When its number was allocated; never goes back along seq.
    pub time: Timestamp,
}

impl Event {
    /// Reads one event from its wire form.
    ///
    /// # Errors
    /// [`EventError`] when the bytes are not an event.
    pub fn decode(encoded: &Bytes) -> Result<Self, EventError> {
        Ok(EventRef::read(encoded)?.into_event(encoded, None)?)
    }
}

/// What filters ask of an event, read without looking at the rest of it or copying: each subscriber looks at each event.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Facets {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    collection: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    #[prost(enumeration = "v1::EventKind", tag = "5")]
    kind: i32,
    #[prost(bytes = "bytes", tag = "6")]
    event_type: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    tags: Vec<Bytes>,
}

impl Facets {
    /// Reads them of an event in its wire form.
    ///
    /// # Errors
    /// [`EventError::Encoding`] when the bytes are not an event. What stands in its fields is not checked.
    pub fn of(encoded: Bytes) -> Result<Self, EventError> {
        Ok(Self::decode(encoded)?)
    }

    /// Its seq.
    pub const fn seq(&self) -> Seq {
        Seq(self.seq)
    }

    /// Name of its collection, never empty.
    pub fn collection(&self) -> &[u8] {
        if self.collection.is_empty() {
            Collection::DEFAULT.as_bytes()
        } else {
            &self.collection
        }
    }

    /// Its key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: EventKind) -> bool {
        self.kind() == convert::event_kind_to_wire(kind)
    }

    /// Its type; empty means none.
    pub fn event_type(&self) -> &[u8] {
        &self.event_type
    }

    /// Its tags.
    pub fn tags(&self) -> impl Iterator<Item = &[u8]> {
        self.tags.iter().map(Bytes::as_ref)
    }
}

/// One message of the change stream: an event, and what its key was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub event: Event,
    /// The event of the same key before it, when the stream was asked for it; `None` too when there is none.
    pub before: Option<Event>,
}

impl Change {
    /// Reads one change from its wire form, an event that may carry another.
    ///
    /// # Errors
    /// [`EventError`] when the bytes are not that.
    pub fn decode(encoded: &Bytes) -> Result<Self, EventError> {
        let wire = EventRef::read(encoded)?;
        let before = wire.before.map(EventRef::read).transpose()?;
        let event = wire.into_event(encoded, None)?;
        let before = before.map(|before| before.into_event(encoded, Some(&event.name)));
        Ok(Self {
            before: before.transpose()?,
            event,
        })
    }
}

/// Bytes that are not events.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EventError {
    /// Not protobuf.
    #[error("event cannot be decoded: {0}")]
    Encoding(#[from] prost::DecodeError),
    /// A field that no server writes so.
    #[error("stored event is not valid: {0}")]
    Field(#[from] FieldError),
    /// A batch of no events, or one whose seqs or versions are not dense.
    #[error("stored batch is not valid: {0}")]
    Batch(&'static str),
}

/// The numbered events of one append to one key: the body of one log entry.
///
/// **Shape**: one or more events of one key, with dense seqs from `first_seq` and dense versions from
/// `first_version`. `encoded` is a wire `EventBatch` of exactly these events; such batches can be joined by
/// concatenation, which is how streams pass them on without decoding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StoredEvents {
    /// The key that all of them belong to.
    pub name: KeyName,
    /// Seq of the first event.
    pub first_seq: Seq,
    /// Version of the first event.
    pub first_version: Version,
    /// Event ids, in order; as many as there are events.
    pub event_ids: Arc<[EventId]>,
    /// Whether the last of them deletes the key.
    pub deletes: bool,
    /// Time of all of them.
    pub time: Timestamp,
    /// Wire form.
    pub encoded: Bytes,
}

impl StoredEvents {
    /// Numbers the events of one append.
    ///
    /// # Errors
    /// [`EventError::Batch`] when `events` is empty.
    pub fn number(
        name: KeyName,
        first_seq: Seq,
        first_version: Version,
        time: Timestamp,
        events: Vec<NewEvent>,
    ) -> Result<Self, EventError> {
        let deletes = events.last().ok_or(EventError::Batch("no events"))?.kind == EventKind::Delete;
        let event_ids = events.iter().map(|event| event.event_id).collect();
        let mut seq = first_seq;
        let mut version = first_version;
        let mut batch = Vec::with_capacity(events.len());
        for event in events {
            batch.push(convert::numbered_event_to_wire(event, &name, seq, version, time));
            seq = seq.next();
            version = version.next();
        }
        let encoded = v1::EventBatch { events: batch }.encode_to_vec().into();
        Ok(Self {
            name,
            first_seq,
            first_version,
            event_ids,
            deletes,
            time,
            encoded,
        })
    }

    /// Reads the wire form back, checking its shape.
    ///
    /// # Errors
    /// [`EventError`] when the bytes are not such a batch.
    pub fn decode(encoded: Bytes) -> Result<Self, EventError> {
        let mut events = events_in(&encoded);
        let read = |encoded| match EventRef::read(encoded)? {
            EventRef { before: Some(_), .. } => Err(EventError::Batch("a stored event carries another")),
            event => Ok(event),
        };
        let first = read(events.next().ok_or(EventError::Batch("no events"))??)?;
        let mut event_ids = vec![first.event_id];
        let mut kind = first.kind;
        // Nobody counts on from what no database reaches: these bytes may be of anybody.
        let next = |number: u64| {
            number
                .checked_add(1)
                .ok_or(EventError::Batch("numbers beyond the last"))
        };
        let (mut seq, mut version) = (next(first.seq.get())?, next(first.version.get())?);
        for event in events {
            let event = read(event?)?;
            if (event.seq, event.version, event.time) != (Seq(seq), Version(version), first.time)
                || (event.collection, event.key) != (first.collection, first.key)
            {
                return Err(EventError::Batch("events are not dense in one key"));
            }
            event_ids.push(event.event_id);
            kind = event.kind;
            (seq, version) = (next(seq)?, next(version)?);
        }
        Ok(Self {
            name: KeyName::new(first.collection, first.key)?,
            first_seq: first.seq,
            first_version: first.version,
            event_ids: event_ids.into(),
            deletes: kind == EventKind::Delete,
            time: first.time,
            encoded,
        })
    }

    /// How many events; at least 1.
    pub fn count(&self) -> u64 {
        u64::try_from(self.event_ids.len()).unwrap_or(u64::MAX)
    }

    /// Seq of the last event.
    pub fn last_seq(&self) -> Seq {
        self.first_seq.plus(self.count().saturating_sub(1))
    }

    /// Version of the last event.
    pub fn last_version(&self) -> Version {
        self.first_version.plus(self.count().saturating_sub(1))
    }

    /// The key within its collection.
    pub fn key(&self) -> &Key {
        &self.name.key
    }
}

impl fmt::Debug for StoredEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}..{}", self.name, self.first_version, self.last_version())?;
        write!(f, " seq {}..{}", self.first_seq, self.last_seq())
    }
}

/// Looks at every event of a wire `EventBatch`, one after the other. Over after the first error: [`EventError::Batch`] when the
/// bytes are not events.
pub fn look_at_batch(encoded: &[u8]) -> impl Iterator<Item = Result<EventRef<'_>, EventError>> {
    let mut events = Some(events_in(encoded));
    std::iter::from_fn(move || {
        let event = events.as_mut()?.next()?;
        let event = event.and_then(EventRef::read);
        if event.is_err() {
            events = None;
        }
        Some(event.map_err(EventError::from))
    })
}

/// Reads every event of a wire `EventBatch`.
///
/// # Errors
/// [`EventError`] when the bytes are not events.
pub fn decode_batch(encoded: &Bytes) -> Result<Vec<Event>, EventError> {
    let mut events: Vec<Event> = Vec::with_capacity(events_in(encoded).count());
    for event in events_in(encoded) {
        let last = events.last().map(|last| &last.name);
        events.push(EventRef::read(event?)?.into_event(encoded, last)?);
    }
    Ok(events)
}

/// Splits a wire `EventBatch` into its events, still encoded, without copying.
///
/// # Errors
/// [`EventError`] when the bytes are not a batch.
pub fn split_batch(encoded: Bytes) -> Result<Vec<Bytes>, EventError> {
    events_of(encoded).collect()
}

/// The events of a wire `EventBatch`, still encoded, without copying. Over after the first error:
/// [`EventError::Encoding`] or [`EventError::Batch`] when the bytes are not a batch.
pub fn events_of(encoded: Bytes) -> impl Iterator<Item = Result<Bytes, EventError>> {
    let mut rest = Some(encoded).filter(|encoded| !encoded.is_empty());
    std::iter::from_fn(move || {
        let mut batch = rest.take()?;
        let event = take_event(&mut batch);
        rest = (event.is_ok() && !batch.is_empty()).then_some(batch);
        Some(event)
    })
}

fn take_event(batch: &mut Bytes) -> Result<Bytes, EventError> {
    let tag = prost::decode_length_delimiter(&mut *batch)?;
    let length = prost::decode_length_delimiter(&mut *batch)?;
    if tag != EVENT_FIELD_TAG || length > batch.len() {
        return Err(NO_BATCH);
    }
    Ok(batch.split_to(length))
}

/// Joins encoded events into a wire `EventBatch`.
pub fn join_batch<'a>(events: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut batch = BytesMut::new();
    for event in events {
        push_to_batch(&mut batch, event);
    }
    batch.freeze()
}

/// Adds one encoded event to a wire `EventBatch`.
pub fn push_to_batch(batch: &mut BytesMut, event: &[u8]) {
    push_field(batch, EVENT_FIELD, event);
}

/// Takes one event off the front of a wire `EventBatch`, and reads its seq.
///
/// # Errors
/// [`EventError`] when the bytes are not a batch.
pub fn next_seq(batch: &mut &[u8]) -> Result<Seq, EventError> {
    let tag = prost::decode_length_delimiter(&mut *batch)?;
    let length = prost::decode_length_delimiter(&mut *batch)?;
    let event = batch.split_off(..length).filter(|_| tag == EVENT_FIELD_TAG);
    seq_of(event.ok_or(NO_BATCH)?)
}

/// Reads the seq of an encoded event.
///
/// # Errors
/// [`EventError::Encoding`] when the bytes are not an event.
pub fn seq_of(event: &[u8]) -> Result<Seq, EventError> {
    // Servers write the seq first; decoding the whole event for one number would halve the speed of catching up.
    let seq = match event.split_first() {
        Some((&SEQ_FIELD_TAG, mut rest)) => prost::decode_length_delimiter(&mut rest)
            .ok()
            .and_then(|seq| u64::try_from(seq).ok()),
        _ => None,
    };
    match seq {
        Some(seq) => Ok(Seq(seq)),
        None => Ok(Seq(SeqOnly::decode(event)?.seq)),
    }
}

/// The one field that every event of a stream is looked at for.
#[derive(Clone, PartialEq, prost::Message)]
struct SeqOnly {
    #[prost(uint64, tag = "1")]
    seq: u64,
}

/// Adds the event before it to an encoded event, both as the log holds them: fields of a message join by concatenation.
pub fn with_before(event: &[u8], before: &[u8]) -> Bytes {
    let mut joined = BytesMut::with_capacity(event.len().saturating_add(before.len()).saturating_add(16));
    joined.extend_from_slice(event);
    push_field(&mut joined, BEFORE_FIELD, before);
    joined.freeze()
}

fn push_field(message: &mut BytesMut, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, message);
    encode_varint(u64::try_from(value.len()).unwrap_or(u64::MAX), message);
    message.extend_from_slice(value);
}

const NO_BATCH: EventError = EventError::Batch("not a list of events");

/// Tag of `Event.seq`: field 1, varint.
const SEQ_FIELD_TAG: u8 = 1 << 3;

/// `Event.before`.
const BEFORE_FIELD: u32 = 12;

/// `EventBatch.events`.
const EVENT_FIELD: u32 = 1;

/// Its tag: length-delimited.
const EVENT_FIELD_TAG: usize = (1 << 3) | 2;

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn new_event(n: u128) -> NewEvent {
        NewEvent {
            kind: EventKind::Write,
            event_type: "note".to_owned(),
            tags: vec!["a".to_owned()],
            meta: BTreeMap::from([("by".to_owned(), "me".to_owned())]),
            payload: Bytes::from(vec![7; 300]),
            event_id: EventId(Uuid::from_u128(n)),
        }
    }

    fn stored(count: u128) -> StoredEvents {
        let name = KeyName::new("default", "orders/17").unwrap();
        let events = (1..=count).map(new_event).collect();
        StoredEvents::number(name, Seq(40), Version(3), Timestamp(9), events).unwrap()
    }

    #[test]
    fn round_trip_of_stored_events() {
        let events = stored(3);
        assert_eq!((events.last_seq(), events.last_version()), (Seq(42), Version(5)));
        assert_eq!(StoredEvents::decode(events.encoded.clone()).unwrap(), events);
    }

    #[test]
    fn batches_join_by_concatenation() {
        let joined = [stored(2).encoded, stored(1).encoded].concat();
        let seqs: Vec<_> = decode_batch(&joined.into())
            .unwrap()
            .iter()
            .map(|event| event.seq.get())
            .collect();
        assert_eq!(seqs, [40, 41, 40]);
    }

    #[test]
    fn a_batch_splits_and_joins_to_the_same_bytes() {
        let events = stored(3);
        let split = split_batch(events.encoded.clone()).unwrap();
        assert_eq!(split.len(), 3);
        assert_eq!(Event::decode(&split[1]).unwrap().version, Version(4));
        assert_eq!(join_batch(&split), events.encoded);
    }

    #[test]
    fn an_event_carries_the_one_before_it() {
        let events = split_batch(stored(2).encoded).unwrap();
        let joined = with_before(&events[1], &events[0]);
        assert_eq!(seq_of(&joined).unwrap(), Seq(41));
        let change = Change::decode(&joined).unwrap();
        assert_eq!(change.event, Event::decode(&events[1]).unwrap());
        assert_eq!(change.before, Some(Event::decode(&events[0]).unwrap()));
        assert_eq!(Change::decode(&events[0]).unwrap().before, None);
    }

    #[test]
    fn a_seq_that_is_not_the_first_field_is_found_too() {
        // Field 3 (key "k"), then field 1 (seq 9), as other encoders may order them.
        assert_eq!(seq_of(&[0x1a, 1, b'k', 0x08, 9]).unwrap(), Seq(9));
        assert!(seq_of(&[0xff]).is_err());
    }

    #[test]
    fn rejects_batches_that_are_not_dense() {
        let joined: Bytes = [stored(1).encoded, stored(1).encoded].concat().into();
        assert!(matches!(StoredEvents::decode(joined), Err(EventError::Batch(_))));
        assert!(matches!(
            StoredEvents::decode(Bytes::new()),
            Err(EventError::Batch(_))
        ));
        assert!(StoredEvents::decode(Bytes::from_static(b"\xff\xff")).is_err());
        let event = stored(1).encoded;
        let events = split_batch(event).unwrap();
        let with_another = join_batch([&with_before(&events[0], &events[0])]);
        assert!(matches!(
            StoredEvents::decode(with_another),
            Err(EventError::Batch(_))
        ));
    }
}
