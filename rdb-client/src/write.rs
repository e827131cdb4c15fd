//! Writes, appends and deletes: one event id for all attempts of an event, so that it is stored once.

use crate::clock;
use crate::connect::{Attempt, Client, Failed};
use crate::limits::SHARED_STREAM_BYTES_MAX;
use crate::retry::CallKind;
use crate::{Error, EventId, Expectation, KeyName, Seq, Version};
use bytes::Bytes;
use prost::Message as _;
use rdb_proto::convert::expectation_to_wire;
use rdb_proto::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, PAYLOAD_BYTES_MAX};
use rdb_proto::types::FieldError;
use rdb_proto::v1;
use std::collections::BTreeMap;
use tonic::Response;
use uuid::Uuid;

/// An event to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Event type; empty means none.
    pub event_type: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// Body. Empty for a delete.
    pub payload: Bytes,
    /// Makes a retry recognisable. Keep it to repeat a write whose outcome is unknown.
    pub event_id: EventId,
}

impl NewEvent {
    /// An event with this payload and a new event id (`UUIDv7`).
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            event_type: String::new(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            payload: payload.into(),
            event_id: clock::new_event_id(),
        }
    }

    /// Sets the event type.
    #[must_use]
    pub fn with_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = event_type.into();
        self
    }

    /// Sets the event id.
    #[must_use]
    pub const fn with_id(mut self, event_id: EventId) -> Self {
        self.event_id = event_id;
        self
    }

    fn weight(&self) -> usize {
        let tags: usize = self.tags.iter().map(String::len).sum();
        let meta: usize = self
            .meta
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.event_type.len() + tags + meta + self.payload.len() + size_of::<EventId>()
    }

    fn into_wire(self) -> v1::NewEvent {
        v1::NewEvent {
            r#type: self.event_type,
            tags: self.tags,
            meta: self.meta,
            payload: self.payload,
            event_id: Bytes::copy_from_slice(self.event_id.as_bytes()),
        }
    }
}

/// Namespace of event ids that are derived from the data. Never changes: a rerun must find its own events.
const DERIVED_ID_NAMESPACE: Uuid = Uuid::from_u128(0x5d3c_6c1a_8f0e_5b7e_9a54_0d1f_c2b7_4e21);

/// The event id of an event that has an id of its own in its key: the same id every time it is handed in.
///
/// **Shape**: `UUIDv5` of collection, a zero byte, key, a zero byte and id. A zero byte can stand in neither name.
pub fn derived_event_id(name: &KeyName, id: &str) -> EventId {
    let parts = [name.collection.as_str(), name.key.as_str(), id];
    EventId(Uuid::new_v5(&DERIVED_ID_NAMESPACE, parts.join("\0").as_bytes()))
}

/// Where an event was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Global sequence number of the event.
    pub seq: Seq,
    /// Version of the key that the event made.
    pub version: Version,
    /// Its id.
    pub event_id: EventId,
    /// Whether an earlier attempt with this event id had stored it.
    pub is_duplicate: bool,
}

/// An acknowledgement, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt<T> {
    /// What was stored.
    pub stored: T,
    /// How often the call was sent; 1 when nothing went wrong.
    pub attempts: u32,
}

impl Client {
    /// Writes one event to a key. When this returns, the event is durable.
    ///
    /// Dropping the future leaves the outcome unknown.
    ///
    /// # Errors
    /// Each [`Error`] says whether the event may be stored. Repeat it with the same event id in that case: a success says
    /// where it is. A conflict of such a repeat says that it was not stored before; that it never will be is certain only
    /// where an exact version was demanded and the key has gone past it, since the first call may be on its way still.
    pub async fn write(
        &self,
        name: &KeyName,
        event: NewEvent,
        expect: Expectation,
    ) -> Result<Receipt<Stored>, Error> {
        let Receipt { stored, attempts } = self.append(name, vec![event], expect).await?;
        Ok(Receipt {
            stored: only(&stored)?,
            attempts,
        })
    }

    /// Adds a delete event to a key. [`Expectation::Exists`] is the usual demand: without it a key that is not
    /// there is deleted once more. The event's payload must be empty.
    ///
    /// # Errors
    /// As for [`Client::write`]; `KEY_NOT_FOUND` when the key was demanded to exist.
    pub async fn delete(
        &self,
        name: &KeyName,
        event: NewEvent,
        expect: Expectation,
    ) -> Result<Receipt<Stored>, Error> {
        check_sizes(std::slice::from_ref(&event))?;
        let request = v1::DeleteRequest {
            collection: collection_to_wire(name),
            key: name.key.as_str().to_owned(),
            // Here, absent means EXISTS, and gets KEY_NOT_FOUND instead of a conflict.
            expect: (expect != Expectation::Exists).then(|| expectation_to_wire(expect)),
            event: Some(event.into_wire()),
            retried_since: None,
        };
        let make = |attempt: Attempt| {
            let retried_since = attempt.retried_since;
            let request = attempt.request(v1::DeleteRequest {
                retried_since,
                ..request.clone()
            });
            async move { attempt.node.data().delete(request).await }
        };
        let (answer, attempts) = self
            .call(CallKind::Write(expect), Some(name.slot()), make)
            .await?;
        let answer = answer.into_inner();
        self.note_led_at(&answer.led_at);
        let stored = stored(&answer.result.ok_or_else(|| Error::bad_answer("no result"))?)?;
        self.note_seq(stored.seq);
        Ok(Receipt { stored, attempts })
    }

    /// Appends events to one key: all of them or none, with dense seqs and versions.
    ///
    /// # Errors
    /// As for [`Client::write`].
    pub async fn append(
        &self,
        name: &KeyName,
        events: Vec<NewEvent>,
        expect: Expectation,
    ) -> Result<Receipt<Vec<Stored>>, Error> {
        let request = append_to_wire(name, events, expect)?;
        let is_small = request.encoded_len() <= SHARED_STREAM_BYTES_MAX;
        let make = |attempt: Attempt| {
            let mut request = request.clone();
            request.retried_since = attempt.retried_since;
            async move {
                if is_small {
                    attempt.node.append(request).await.map_err(Failed::from)
                } else {
                    let answer = attempt.node.data().append(attempt.request(request)).await;
                    answer.map(Response::into_inner).map_err(Failed::from)
                }
            }
        };
        let (answer, attempts) = self
            .call(CallKind::Write(expect), Some(name.slot()), make)
            .await?;
        self.note_led_at(&answer.led_at);
        let stored = stored_all(&answer.results)?;
        if let Some(last) = stored.last() {
            self.note_seq(last.seq);
        }
        Ok(Receipt { stored, attempts })
    }
}

/// Makes the wire form of an append.
pub(crate) fn append_to_wire(
    name: &KeyName,
    events: Vec<NewEvent>,
    expect: Expectation,
) -> Result<v1::AppendRequest, Error> {
    if events.is_empty() {
        return Err(FieldError::invalid("events", "must not be empty").into());
    }
    check_sizes(&events)?;
    Ok(v1::AppendRequest {
        collection: collection_to_wire(name),
        key: name.key.as_str().to_owned(),
        expect: expect_to_wire(expect),
        events: events.into_iter().map(NewEvent::into_wire).collect(),
        retried_since: None,
    })
}

/// Refuses here what the transport would not carry to the server: it would break off without our reason.
fn check_sizes(events: &[NewEvent]) -> Result<(), FieldError> {
    FieldError::check_limit("events", events.len(), APPEND_EVENTS_MAX, "events")?;
    for event in events {
        FieldError::check_limit("payload", event.payload.len(), PAYLOAD_BYTES_MAX, "bytes")?;
    }
    let bytes = events.iter().map(NewEvent::weight).sum();
    FieldError::check_limit("events", bytes, APPEND_BYTES_MAX, "bytes")
}

/// The default collection is absent on the wire, which is shorter.
pub(crate) fn collection_to_wire(name: &KeyName) -> String {
    if name.collection.is_default() {
        String::new()
    } else {
        name.collection.as_str().to_owned()
    }
}

fn expect_to_wire(expect: Expectation) -> Option<v1::Expectation> {
    (expect != Expectation::Any).then(|| expectation_to_wire(expect))
}

pub(crate) fn stored_all(results: &[v1::WriteResult]) -> Result<Vec<Stored>, Error> {
    results.iter().map(stored).collect()
}

fn only(stored: &[Stored]) -> Result<Stored, Error> {
    match stored {
        [only] => Ok(*only),
        _ => Err(Error::bad_answer("not one result for one event")),
    }
}

fn stored(result: &v1::WriteResult) -> Result<Stored, Error> {
    Ok(Stored {
        seq: Seq(result.seq),
        version: Version(result.version),
        event_id: EventId::from_bytes(&result.event_id).map_err(Error::bad_answer)?,
        is_duplicate: result.duplicate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_event_ids_never_change_and_tell_keys_apart() {
        let name = |key| KeyName::new("default", key).unwrap();
        let id = derived_event_id(&name("us"), "us2000crkq");
        assert_eq!(id.to_string(), "c389dfce-f1d6-5872-bdcb-50c51f4eea72");
        assert_ne!(id, derived_event_id(&name("uw"), "us2000crkq"));
        assert_eq!(id, derived_event_id(&name("us"), "us2000crkq"));
    }

    #[test]
    fn what_no_message_can_carry_is_refused_before_it_is_sent() {
        let event = NewEvent::new(vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(
            check_sizes(&[event]).unwrap_err().to_string(),
            "payload has 4194305 bytes, the limit is 4194304"
        );
        let events = vec![NewEvent::new(vec![0; PAYLOAD_BYTES_MAX]); 3];
        assert!(
            check_sizes(&events)
                .unwrap_err()
                .to_string()
                .contains("the limit is 8388608")
        );
    }
}
