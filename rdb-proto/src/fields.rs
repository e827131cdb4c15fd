//! The wire form of events, read field by field: no message is built of what is only looked at or taken over.
//!
//! Fields that this release does not know are left out, as gRPC demands. Bytes that are no fields are an error, never a panic.

use crate::event::{Event, EventError, EventKind};
use crate::types::{Collection, EventId, FieldError, Key, KeyName, Seq, Timestamp, Version};
use bytes::Bytes;
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Numbers of the fields of `rdb.v1.EventBatch` and `rdb.v1.Event`, which are for ever.
pub(crate) mod number {
    use std::ops::RangeInclusive;

    /// What protobuf allows.
    pub(crate) const ALL: RangeInclusive<u64> = 1..=(1 << 29) - 1;
    pub(crate) const OF_BATCH: RangeInclusive<u64> = BATCH_EVENTS..=BATCH_EVENTS;
    pub(crate) const OF_EVENT: RangeInclusive<u64> = SEQ..=BEFORE;
    pub(crate) const OF_PAIR: RangeInclusive<u64> = NAME..=VALUE;

    pub(crate) const BATCH_EVENTS: u64 = 1;
    pub(crate) const SEQ: u64 = 1;
    pub(crate) const COLLECTION: u64 = 2;
    pub(crate) const KEY: u64 = 3;
    pub(crate) const VERSION: u64 = 4;
    pub(crate) const KIND: u64 = 5;
    pub(crate) const TYPE: u64 = 6;
    pub(crate) const TAGS: u64 = 7;
    pub(crate) const META: u64 = 8;
    pub(crate) const PAYLOAD: u64 = 9;
    pub(crate) const EVENT_ID: u64 = 10;
    pub(crate) const TIME: u64 = 11;
    pub(crate) const BEFORE: u64 = 12;
    /// Of a pair in `Event.meta`.
    pub(crate) const NAME: u64 = 1;
    /// Of a pair in `Event.meta`.
    pub(crate) const VALUE: u64 = 2;
}

/// A field with its number.
pub(crate) enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
    /// One of a type that no field here has.
    Fixed(u64),
}

impl Field<'_> {
    /// Leaves out a field that a later release invented. One that is known, but not of this type, is an error.
    pub(crate) fn leave_out(&self, known: RangeInclusive<u64>) -> Result<(), Malformed> {
        let (Self::Number(number, _) | Self::Bytes(number, _) | Self::Fixed(number)) = self;
        if known.contains(number) {
            Err(Malformed::NoField)
        } else {
            Ok(())
        }
    }
}

/// Bytes that are no fields. Smaller than an [`EventError`], and so quicker to hand on for each of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    CutShort,
    EndlessNumber,
    NoField,
    NoText,
    NoKind,
    NoId,
}

impl From<Malformed> for EventError {
    fn from(malformed: Malformed) -> Self {
        Self::Batch(match malformed {
            Malformed::CutShort => "events are cut short",
            Malformed::EndlessNumber => "a number that does not end",
            Malformed::NoField => "a field of no known type",
            Malformed::NoText => "a text that is not UTF-8",
            Malformed::NoKind => "an event that neither writes nor deletes",
            Malformed::NoId => "an event without an id",
        })
    }
}

/// Reads protobuf fields one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn next_field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if !number::ALL.contains(&number) {
            return Err(Malformed::NoField);
        }
        Ok(Some(match tag & 7 {
            0 => Field::Number(number, self.varint()?),
            2 => {
                let length = self.varint()?;
                Field::Bytes(number, self.take(length)?)
            }
            1 => self.take(8).map(|_fixed| Field::Fixed(number))?,
            5 => self.take(4).map(|_fixed| Field::Fixed(number))?,
            _ => return Err(Malformed::NoField),
        }))
    }

    /// The next event of a batch, encoded.
    fn next_event(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        while let Some(field) = self.next_field()? {
            match field {
                Field::Bytes(number::BATCH_EVENTS, event) => return Ok(Some(event)),
                other @ (Field::Bytes(..) | Field::Number(..) | Field::Fixed(_)) => {
                    other.leave_out(number::OF_BATCH)?;
                }
            }
        }
        Ok(None)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all are tags and short lengths.
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed::CutShort)?;
            self.0 = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::EndlessNumber)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_huge| Malformed::CutShort)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::CutShort)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Reads a text.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_invalid| Malformed::NoText)
}

/// The events of a batch, encoded, in order. Over after an error.
pub(crate) fn events_in(batch: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut fields = Fields(batch);
    std::iter::from_fn(move || {
        let event = fields.next_event();
        if event.is_err() {
            fields.0 = &[];
        }
        event.transpose()
    })
}

/// An event as it stands on the wire, nothing of it copied: for who looks at events and keeps few of them.
///
/// Its texts are UTF-8; whether its names are within their limits is up to who stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Position in the global sequence.
    pub seq: Seq,
    /// Collection of its key, never empty.
    pub collection: &'a str,
    /// The key within it.
    pub key: &'a str,
    /// Position within the key.
    pub version: Version,
    /// What it did.
    pub kind: EventKind,
    /// Event type; empty means none.
    pub event_type: &'a str,
    /// Tags.
    pub tags: Vec<&'a str>,
    /// Metadata, each a name and a value.
    pub meta: Vec<(&'a str, &'a str)>,
    /// Body.
    pub payload: &'a [u8],
    /// Its UUID.
    pub event_id: EventId,
    /// When its number was allocated; never goes back along seq.
    pub time: Timestamp,
    /// The event of the same key before it, encoded, when it came along.
    pub(crate) before: Option<&'a [u8]>,
}

impl<'a> EventRef<'a> {
    /// Reads one event.
    pub(crate) fn read(encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut event = Self {
            seq: Seq::ZERO,
            collection: "",
            key: "",
            version: Version::ZERO,
            kind: EventKind::Write,
            event_type: "",
            tags: Vec::new(),
            meta: Vec::new(),
            payload: &[],
            event_id: EventId(Uuid::nil()),
            time: Timestamp::ZERO,
            before: None,
        };
        let (mut kind, mut id): (u64, &[u8]) = (0, &[]);
        let mut fields = Fields(encoded);
        while let Some(field) = fields.next_field()? {
            match field {
                Field::Number(number::SEQ, seq) => event.seq = Seq(seq),
                Field::Bytes(number::COLLECTION, name) => event.collection = text(name)?,
                Field::Bytes(number::KEY, key) => event.key = text(key)?,
                Field::Number(number::VERSION, version) => event.version = Version(version),
                Field::Number(number::KIND, number) => kind = number,
                Field::Bytes(number::TYPE, name) => event.event_type = text(name)?,
                Field::Bytes(number::TAGS, tag) => event.tags.push(text(tag)?),
                Field::Bytes(number::META, pair) => event.meta.push(read_pair(pair)?),
                Field::Bytes(number::PAYLOAD, payload) => event.payload = payload,
                Field::Bytes(number::EVENT_ID, bytes) => id = bytes,
                Field::Number(number::TIME, time) => event.time = Timestamp(time),
                Field::Bytes(number::BEFORE, before) => event.before = Some(before),
                other @ (Field::Bytes(..) | Field::Number(..) | Field::Fixed(_)) => {
                    other.leave_out(number::OF_EVENT)?;
                }
            }
        }
        if event.collection.is_empty() {
            event.collection = Collection::DEFAULT;
        }
        event.kind = match kind {
            KIND_WRITE => EventKind::Write,
            KIND_DELETE => EventKind::Delete,
            _ => return Err(Malformed::NoKind),
        };
        event.event_id = EventId::from_bytes(id).map_err(|_invalid| Malformed::NoId)?;
        Ok(event)
    }

    /// The event itself. Its payload is a part of `bytes`, of which it was read. What it shares with `last`, the name of the
    /// event before it, is not made anew: events that follow each other often are of one collection, and some of one key.
    pub(crate) fn into_event(self, bytes: &Bytes, last: Option<&KeyName>) -> Result<Event, FieldError> {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(Event {
            seq: self.seq,
            name: self.name(last)?,
            version: self.version,
            kind: self.kind,
            event_type: self.event_type.to_owned(),
            tags: self.tags.into_iter().map(str::to_owned).collect(),
            meta: self.meta.into_iter().map(own).collect(),
            payload: bytes.slice_ref(self.payload),
            event_id: self.event_id,
            time: self.time,
        })
    }

    fn name(&self, last: Option<&KeyName>) -> Result<KeyName, FieldError> {
        let collection = last.map(|last| &last.collection);
        let key = last.map(|last| &last.key);
        Ok(KeyName {
            collection: match collection.filter(|last| last.as_str() == self.collection) {
                Some(last) => last.clone(),
                None => Collection::new(self.collection)?,
            },
            key: match key.filter(|last| last.as_str() == self.key) {
                Some(last) => last.clone(),
                None => Key::new(self.key)?,
            },
        })
    }
}

/// Values of `rdb.v1.EventKind`.
const KIND_WRITE: u64 = 1;
pub(crate) const KIND_DELETE: u64 = 2;

fn read_pair(encoded: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut pair = ("", "");
    let mut fields = Fields(encoded);
    while let Some(field) = fields.next_field()? {
        match field {
            Field::Bytes(number::NAME, name) => pair.0 = text(name)?,
            Field::Bytes(number::VALUE, value) => pair.1 = text(value)?,
            other @ (Field::Bytes(..) | Field::Number(..) | Field::Fixed(_)) => {
                other.leave_out(number::OF_PAIR)?;
            }
        }
    }
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert;
    use crate::event::{Change, StoredEvents, decode_batch, look_at_batch};
    use crate::v1;
    use prost::Message as _;
    use std::sync::Arc;

    fn wire() -> v1::Event {
        let of = |text: &str| text.to_owned();
        let first = v1::Event {
            seq: 300,
            collection: of("orders"),
            key: of("Käse/17"),
            version: 1,
            kind: v1::EventKind::Write.into(),
            r#type: of("placed"),
            tags: vec![of("a"), of("b")],
            meta: [(of("by"), of("me")), (of("empty"), String::new())].into(),
            payload: vec![7; 200].into(),
            event_id: Uuid::from_u128(5).as_bytes().to_vec().into(),
            time_us: 1_700_000_000_000_000,
            before: None,
        };
        v1::Event {
            seq: 301,
            kind: v1::EventKind::Delete.into(),
            version: 2,
            before: Some(Box::new(first.clone())),
            ..first
        }
    }

    /// The same by the generated code.
    fn generated(encoded: &[u8]) -> Result<Change, EventError> {
        let mut wire = v1::Event::decode(encoded)?;
        let before = wire.before.take().map(|before| event_of(*before));
        Ok(Change {
            event: event_of(wire)?,
            before: before.transpose()?,
        })
    }

    fn event_of(wire: v1::Event) -> Result<Event, EventError> {
        Ok(Event {
            seq: Seq(wire.seq),
            name: KeyName::new(&wire.collection, &wire.key)?,
            version: Version(wire.version),
            kind: convert::event_kind(wire.kind)?,
            event_type: wire.r#type,
            tags: wire.tags,
            meta: wire.meta,
            payload: wire.payload,
            event_id: EventId::from_bytes(&wire.event_id)?,
            time: Timestamp(wire.time_us),
        })
    }

    #[test]
    fn reads_what_the_generated_code_reads() {
        for event in [
            wire(),
            v1::Event {
                collection: String::new(),
                before: None,
                ..wire()
            },
        ] {
            let encoded = Bytes::from(event.encode_to_vec());
            let change = generated(&encoded).unwrap();
            assert_eq!(Change::decode(&encoded).unwrap(), change);
            assert_eq!(Event::decode(&encoded).unwrap(), change.event);
        }
    }

    /// With a bit flipped or the end missing, nothing is taken that the generated code refuses: stored events are for clients of
    /// every language. Only groups, which are not of this version of protobuf, are refused here and not there.
    #[test]
    fn reads_of_damaged_bytes_what_the_generated_code_reads() {
        // Without maps: the generated code takes them of fields of any type.
        let mut event = wire();
        event.meta.clear();
        event.before = None;
        let encoded = event.encode_to_vec();
        let flipped = (0..encoded.len() * 8).map(|bit| {
            let mut damaged = encoded.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            damaged
        });
        let cut = (0..encoded.len()).map(|length| encoded[..length].to_vec());
        let mut same = 0;
        for damaged in flipped.chain(cut).map(Bytes::from) {
            let seen = Change::decode(&damaged);
            if seen != Err(Malformed::NoField.into()) {
                let expected = generated(&damaged);
                assert_eq!(
                    seen.as_ref().ok(),
                    expected.as_ref().ok(),
                    "{damaged:?}: {seen:?}"
                );
                same += usize::from(seen.is_ok());
            }
        }
        assert!(same > encoded.len(), "{same} were the same");
    }

    #[test]
    fn fields_of_later_releases_are_left_out() {
        // Field 99 as a number, as bytes, and as 8 and 4 bytes that are not looked at.
        const LATER: [&[u8]; 4] = [
            &[0x98, 0x06, 0x96, 0x01],
            &[0x9a, 0x06, 2, 1, 2],
            &[0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x9d, 0x06, 1, 2, 3, 4],
        ];
        let event = Bytes::from(wire().encode_to_vec());
        let alone = v1::Event {
            before: None,
            ..wire()
        };
        let batch = Bytes::from(v1::EventBatch { events: vec![alone] }.encode_to_vec());
        let stored = StoredEvents::decode(batch.clone()).unwrap();
        for later in LATER {
            let longer = [&event, later].concat();
            assert_eq!(Change::decode(&longer.into()), Change::decode(&event));
            let longer = Bytes::from([later, &batch].concat());
            assert_eq!(decode_batch(&longer), decode_batch(&batch));
            let longer = StoredEvents::decode(longer).unwrap();
            assert_eq!(
                (longer.name, longer.event_ids),
                (stored.name.clone(), Arc::clone(&stored.event_ids))
            );
        }
    }

    #[test]
    fn a_look_at_events_sees_what_they_are_and_ends_with_an_error() {
        let second = v1::Event {
            collection: String::new(),
            ..wire()
        };
        let batch = v1::EventBatch {
            events: vec![wire(), second],
        };
        let batch = Bytes::from(batch.encode_to_vec());
        let events = decode_batch(&batch).unwrap();
        let looked = look_at_batch(&batch).map(|event| event.unwrap().into_event(&batch, None));
        assert_eq!(looked.collect::<Result<Vec<_>, _>>().unwrap(), events);

        let cut = &batch[..batch.len() - 1];
        let looked: Vec<bool> = look_at_batch(cut).map(|event| event.is_ok()).collect();
        assert_eq!(looked, [true, false]);
        let no_event = [0x0a, 1, 0xff, 0x0a, 0];
        let looked: Vec<bool> = look_at_batch(&no_event).map(|event| event.is_ok()).collect();
        assert_eq!(looked, [false]);
    }

    #[test]
    fn events_share_names_only_with_their_equals() {
        let of = |collection: &str, key: &str| v1::Event {
            collection: collection.to_owned(),
            key: key.to_owned(),
            ..wire()
        };
        let names = [
            ("", "a"),
            ("", "a"),
            ("default", "b"),
            ("c", "b"),
            ("c", "a"),
            ("", "a"),
        ];
        let events = names
            .iter()
            .map(|(collection, key)| of(collection, key))
            .collect();
        let batch = v1::EventBatch { events }.encode_to_vec();
        let read = decode_batch(&batch.into()).unwrap();
        let read: Vec<KeyName> = read.into_iter().map(|event| event.name).collect();
        let expected = names.map(|(collection, key)| KeyName::new(collection, key).unwrap());
        assert_eq!(read, expected);
    }
}
