//! Wire types to words and back: the only place that sees both. What comes from a stranger is checked here.

use crate::event::{EventKind, Expectation, NewEvent};
use crate::limits::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, META_NAME_BYTES_MAX, META_PAIRS_MAX, META_VALUE_BYTES_MAX,
    PAYLOAD_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX, TYPE_BYTES_MAX,
};
use crate::types::{EventId, FieldError, KeyName, Seq, Timestamp, Version};
use crate::v1;
use uuid::Uuid;

/// Reads a kind of event.
///
/// # Errors
/// [`FieldError`] for field `kind` when it is not one.
pub fn event_kind(wire: i32) -> Result<EventKind, FieldError> {
    match v1::EventKind::try_from(wire) {
        Ok(v1::EventKind::Write) => Ok(EventKind::Write),
        Ok(v1::EventKind::Delete) => Ok(EventKind::Delete),
        Ok(v1::EventKind::Unspecified) | Err(_) => Err(FieldError::invalid(
            "kind",
            format!("must be write (1) or delete (2), not {wire}"),
        )),
    }
}

/// Writes a kind of event.
pub const fn event_kind_to_wire(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::Write => v1::EventKind::Write,
        EventKind::Delete => v1::EventKind::Delete,
    }
}

/// Writes an event with its numbers, taking its parts over without copying them.
pub(crate) fn numbered_event_to_wire(
    event: NewEvent,
    name: &KeyName,
    seq: Seq,
    version: Version,
    time: Timestamp,
) -> v1::Event {
    let collection = if name.collection.is_default() {
        String::new()
    } else {
        name.collection.as_str().to_owned()
    };
    v1::Event {
        seq: seq.get(),
        collection,
        key: name.key.as_str().to_owned(),
        version: version.get(),
        kind: event_kind_to_wire(event.kind).into(),
        r#type: event.event_type,
        tags: event.tags,
        meta: event.meta,
        payload: event.payload,
        event_id: event.event_id.as_bytes().to_vec().into(),
        time_us: time.get(),
        before: None,
    }
}

/// Reads an event that a client hands in. Without an event id it gets one from `make_id`.
///
/// # Errors
/// [`FieldError`] naming the first field that is over its limit or not valid.
pub fn new_event(
    wire: v1::NewEvent,
    kind: EventKind,
    make_id: impl FnOnce() -> Uuid,
) -> Result<NewEvent, FieldError> {
    FieldError::check_limit("type", wire.r#type.len(), TYPE_BYTES_MAX, "bytes")?;
    FieldError::check_limit("tags", wire.tags.len(), TAGS_MAX, "tags")?;
    for tag in &wire.tags {
        FieldError::check_limit("tag", tag.len(), TAG_BYTES_MAX, "bytes")?;
        if tag.is_empty() {
            return Err(FieldError::invalid("tag", "must not be empty"));
        }
    }
    FieldError::check_limit("meta", wire.meta.len(), META_PAIRS_MAX, "pairs")?;
    for (name, value) in &wire.meta {
        FieldError::check_limit("meta name", name.len(), META_NAME_BYTES_MAX, "bytes")?;
        FieldError::check_limit("meta value", value.len(), META_VALUE_BYTES_MAX, "bytes")?;
        if name.is_empty() {
            return Err(FieldError::invalid("meta name", "must not be empty"));
        }
    }
    FieldError::check_limit("payload", wire.payload.len(), PAYLOAD_BYTES_MAX, "bytes")?;
    if kind == EventKind::Delete && !wire.payload.is_empty() {
        return Err(FieldError::invalid("payload", "must be empty for a delete"));
    }
    let event_id = if wire.event_id.is_empty() {
        EventId(make_id())
    } else {
        EventId::from_bytes(&wire.event_id)?
    };
    Ok(NewEvent {
        kind,
        event_type: wire.r#type,
        tags: wire.tags,
        meta: wire.meta,
        payload: wire.payload,
        event_id,
    })
}

/// Reads the events of an append.
///
/// # Errors
/// [`FieldError`]: no events, too many, too large together, an event id twice, or an event that is not valid.
pub fn new_events(
    wire: Vec<v1::NewEvent>,
    mut make_id: impl FnMut() -> Uuid,
) -> Result<Vec<NewEvent>, FieldError> {
    if wire.is_empty() {
        return Err(FieldError::invalid("events", "must not be empty"));
    }
    FieldError::check_limit("events", wire.len(), APPEND_EVENTS_MAX, "events")?;
    let events: Vec<NewEvent> = wire
        .into_iter()
        .map(|event| new_event(event, EventKind::Write, &mut make_id))
        .collect::<Result<_, _>>()?;
    let bytes = events.iter().map(NewEvent::weight).sum();
    FieldError::check_limit("events", bytes, APPEND_BYTES_MAX, "bytes")?;
    let mut ids: Vec<EventId> = events.iter().map(|event| event.event_id).collect();
    ids.sort_unstable();
    if let Some([twice, ..]) = ids.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(FieldError::invalid(
            "event_id",
            format!("{twice} stands twice in one append"),
        ));
    }
    Ok(events)
}

/// Reads an expectation; `None` on the wire means `absent_means`.
///
/// # Errors
/// [`FieldError`] for field `expect`: an unknown kind, or a version where none belongs.
pub fn expectation(
    wire: Option<v1::Expectation>,
    absent_means: Expectation,
) -> Result<Expectation, FieldError> {
    let Some(v1::Expectation { kind, version }) = wire else {
        return Ok(absent_means);
    };
    let Ok(kind) = v1::ExpectationKind::try_from(kind) else {
        return Err(FieldError::invalid(
            "expect",
            format!("must be a known kind, not {kind}"),
        ));
    };
    if kind != v1::ExpectationKind::Exact && version != 0 {
        return Err(FieldError::invalid("expect", "takes a version only with EXACT"));
    }
    Ok(match kind {
        v1::ExpectationKind::Any => Expectation::Any,
        v1::ExpectationKind::Absent => Expectation::Absent,
        v1::ExpectationKind::Exists => Expectation::Exists,
        v1::ExpectationKind::Exact => Expectation::Exact(Version(version)),
    })
}

/// Writes an expectation.
pub fn expectation_to_wire(expectation: Expectation) -> v1::Expectation {
    let (kind, version) = match expectation {
        Expectation::Any => (v1::ExpectationKind::Any, Version::ZERO),
        Expectation::Absent => (v1::ExpectationKind::Absent, Version::ZERO),
        Expectation::Exists => (v1::ExpectationKind::Exists, Version::ZERO),
        Expectation::Exact(version) => (v1::ExpectationKind::Exact, version),
    };
    v1::Expectation {
        kind: kind.into(),
        version: version.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(wire: v1::NewEvent) -> String {
        new_event(wire, EventKind::Write, Uuid::new_v4)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn each_part_of_a_new_event_has_its_limit() {
        let over = |n: usize| "x".repeat(n + 1);
        let event = v1::NewEvent::default;
        assert_eq!(
            refused(v1::NewEvent {
                r#type: over(TYPE_BYTES_MAX),
                ..event()
            }),
            "type has 257 bytes, the limit is 256"
        );
        assert_eq!(
            refused(v1::NewEvent {
                tags: vec!["t".into(); TAGS_MAX + 1],
                ..event()
            }),
            "tags has 33 tags, the limit is 32"
        );
        assert_eq!(
            refused(v1::NewEvent {
                tags: vec![over(TAG_BYTES_MAX)],
                ..event()
            }),
            "tag has 257 bytes, the limit is 256"
        );
        assert_eq!(
            refused(v1::NewEvent {
                meta: [("n".into(), over(META_VALUE_BYTES_MAX))].into(),
                ..event()
            }),
            "meta value has 4097 bytes, the limit is 4096"
        );
        assert_eq!(
            refused(v1::NewEvent {
                payload: vec![0; PAYLOAD_BYTES_MAX + 1].into(),
                ..event()
            }),
            "payload has 4194305 bytes, the limit is 4194304"
        );
        assert!(
            refused(v1::NewEvent {
                event_id: vec![1; 3].into(),
                ..event()
            })
            .starts_with("event_id must be")
        );
    }

    #[test]
    fn an_append_refuses_no_events_too_many_and_an_id_twice() {
        let some = |n: usize| new_events(vec![v1::NewEvent::default(); n], Uuid::new_v4);
        assert_eq!(some(0).unwrap_err().to_string(), "events must not be empty");
        assert_eq!(
            some(1_001).unwrap_err().to_string(),
            "events has 1001 events, the limit is 1000"
        );
        assert_eq!(some(1_000).unwrap().len(), 1_000);
        let event = v1::NewEvent {
            event_id: vec![5; 16].into(),
            ..Default::default()
        };
        assert!(
            new_events(vec![event.clone(), event], Uuid::new_v4)
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }

    #[test]
    fn unknown_enum_values_are_refused() {
        assert!(event_kind(0).is_err());
        assert!(event_kind(7).is_err());
        let wire = Some(v1::Expectation { kind: 9, version: 0 });
        assert_eq!(
            expectation(wire, Expectation::Any).unwrap_err().to_string(),
            "expect must be a known kind, not 9"
        );
    }

    #[test]
    fn round_trip_of_expectations() {
        for e in [
            Expectation::Any,
            Expectation::Absent,
            Expectation::Exists,
            Expectation::Exact(Version(0)),
            Expectation::Exact(Version(7)),
        ] {
            assert_eq!(expectation(Some(expectation_to_wire(e)), Expectation::Any), Ok(e));
        }
    }
}
