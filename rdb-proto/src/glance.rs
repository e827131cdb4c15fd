//! A glance at the body of an events entry: what an index needs, without building the events.
//!
//! Copies nothing but event ids. What it reads was written by [`StoredEvents::number`](crate::event::StoredEvents::number) and has passed
//! the log's check; anything else is an error and never a panic.

use crate::event::EventError;
use crate::fields::{Field, Fields, KIND_DELETE, events_in, number, text};
use crate::types::{Collection, EventId, Version};
use uuid::Uuid;

/// What an entry of events is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance<'a> {
    /// Collection of the key; never empty.
    pub collection: &'a str,
    /// The key within it.
    pub key: &'a str,
    /// Version of the first event; the others follow densely.
    pub first_version: Version,
    /// Whether the last event deletes the key.
    pub deletes: bool,
}

/// Looks at an encoded batch and puts the ids of its events, in order, in place of what `ids` holds.
///
/// # Errors
/// [`EventError::Batch`] when the bytes are not a batch of at least one event.
pub fn glance<'a>(encoded: &'a [u8], ids: &mut Vec<EventId>) -> Result<Glance<'a>, EventError> {
    ids.clear();
    let mut first = None;
    let mut deletes = false;
    for event in events_in(encoded) {
        let (event, id) = read_event(event?)?;
        ids.push(id);
        deletes = event.deletes;
        first.get_or_insert(event);
    }
    let first: Glance<'_> = first.ok_or(EventError::Batch("no events"))?;
    Ok(Glance { deletes, ..first })
}

fn read_event(encoded: &[u8]) -> Result<(Glance<'_>, EventId), EventError> {
    let mut event = Fields(encoded);
    let mut found = Glance {
        collection: Collection::DEFAULT,
        key: "",
        first_version: Version::ZERO,
        deletes: false,
    };
    let mut id = None;
    while let Some(field) = event.next_field()? {
        match field {
            Field::Bytes(number::COLLECTION, bytes) if !bytes.is_empty() => found.collection = text(bytes)?,
            Field::Bytes(number::KEY, bytes) => found.key = text(bytes)?,
            Field::Number(number::VERSION, version) => found.first_version = Version(version),
            Field::Number(number::KIND, kind) => found.deletes = kind == KIND_DELETE,
            Field::Bytes(number::EVENT_ID, bytes) => id = Uuid::from_slice(bytes).ok(),
            Field::Bytes(..) | Field::Number(..) | Field::Fixed(_) => {}
        }
    }
    if found.key.is_empty() {
        return Err(EventError::Batch("an event without a key"));
    }
    let id = id.ok_or(EventError::Batch("an event without an id"))?;
    Ok((found, EventId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventKind, NewEvent, StoredEvents};
    use crate::types::{KeyName, Seq, Timestamp};
    use std::collections::BTreeMap;

    fn new_event(n: u128, kind: EventKind) -> NewEvent {
        NewEvent {
            kind,
            event_type: "note".to_owned(),
            tags: vec!["a".to_owned(), "b".to_owned()],
            meta: BTreeMap::from([("by".to_owned(), "me".to_owned())]),
            payload: vec![7; 300].into(),
            event_id: EventId(Uuid::from_u128(n)),
        }
    }

    fn stored(collection: &str, kinds: &[EventKind]) -> StoredEvents {
        let name = KeyName::new(collection, "orders/17").unwrap();
        let events = kinds
            .iter()
            .zip(1..)
            .map(|(kind, n)| new_event(n, *kind))
            .collect();
        StoredEvents::number(name, Seq(40), Version(300), Timestamp(9), events).unwrap()
    }

    #[test]
    fn a_glance_sees_what_the_decoder_sees() {
        use EventKind::{Delete, Write};
        for collection in ["", "c"] {
            for kinds in [&[Write][..], &[Write, Write, Write], &[Delete], &[Write, Delete]] {
                let stored = stored(collection, kinds);
                let mut ids = vec![EventId(Uuid::max())];
                let seen = glance(&stored.encoded, &mut ids).unwrap();
                let expected = Glance {
                    collection: stored.name.collection.as_str(),
                    key: "orders/17",
                    first_version: Version(300),
                    deletes: stored.deletes,
                };
                assert_eq!(seen, expected);
                assert_eq!(ids, *stored.event_ids);
            }
        }
    }

    #[test]
    fn rejects_what_is_cut_short_or_no_batch() {
        let stored = stored("c", &[EventKind::Write; 2]);
        let one = stored.encoded.len() / 2;
        let mut ids = Vec::new();
        for length in (0..stored.encoded.len()).filter(|length| *length != one) {
            assert!(
                glance(&stored.encoded[..length], &mut ids).is_err(),
                "length {length}"
            );
        }
        for garbage in [&[0xff; 40][..], &[0x0a, 0x00], &[0x0b], &[0x0a, 0x05, 0x12]] {
            assert!(glance(garbage, &mut ids).is_err(), "{garbage:?}");
        }
    }
}
