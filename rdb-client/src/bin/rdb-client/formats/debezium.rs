//! The envelope of Debezium change events, without schema: one object a line.
//!
//! `before` and `after` are the key's row; their fields are always the same, so that a consumer can make columns of
//! them. A row of a deleted key is `null`. There is no tombstone after a delete and no separate message key: the key
//! stands in `source` and in the row.

use super::{Origin, millis};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdb_client::{Change, Event, EventKind, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
struct Envelope<'a> {
    before: Option<Row<'a>>,
    after: Option<Row<'a>>,
    source: Source<'a>,
    op: &'static str,
    ts_ms: u64,
}

/// What a key holds.
#[derive(Debug, Serialize)]
struct Row<'a> {
    key: &'a str,
    version: u64,
    #[serde(rename = "type")]
    event_type: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    /// Text; `null` when it is none.
    payload: Option<&'a str>,
    /// Bytes that are not text; else `null`.
    payload_base64: Option<String>,
}

/// Where the change comes from, and which event it is.
#[derive(Debug, Serialize)]
struct Source<'a> {
    version: &'static str,
    connector: &'static str,
    name: &'a str,
    ts_ms: u64,
    snapshot: &'static str,
    db: &'a str,
    collection: &'a str,
    key: &'a str,
    seq: u64,
    ts_us: u64,
    event_id: String,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// `None` when the event deleted the key.
fn row(event: &Event) -> Option<Row<'_>> {
    let payload = std::str::from_utf8(&event.payload).ok();
    (event.kind == EventKind::Write).then(|| Row {
        key: event.name.key.as_str(),
        version: event.version.get(),
        event_type: &event.event_type,
        tags: &event.tags,
        meta: &event.meta,
        payload,
        payload_base64: payload.is_none().then(|| BASE64.encode(&event.payload)),
    })
}

pub(super) fn line(change: &Change, origin: &Origin, now: Timestamp) -> serde_json::Result<Vec<u8>> {
    let event = &change.event;
    let is_snapshot = event.seq <= origin.snapshot;
    let after = row(event);
    // In a snapshot the state is read, and what led to it is not told.
    let before = change.before.as_ref().filter(|_| !is_snapshot).and_then(row);
    let op = match (&before, &after) {
        (_, None) => "d",
        (_, Some(_)) if is_snapshot => "r",
        (None, Some(_)) => "c",
        (Some(_), Some(_)) => "u",
    };
    serde_json::to_vec(&Envelope {
        before,
        after,
        source: Source {
            version: env!("CARGO_PKG_VERSION"),
            connector: "rdb",
            name: &origin.database_id,
            ts_ms: millis(event.time),
            snapshot: if is_snapshot { "true" } else { "false" },
            db: &origin.database_id,
            collection: event.name.collection.as_str(),
            key: event.name.key.as_str(),
            seq: event.seq.get(),
            ts_us: event.time.get(),
            event_id: event.event_id.to_string(),
            event_type: &event.event_type,
        },
        op,
        ts_ms: millis(now),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, origin, parsed};
    use super::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp(1_795_210_201_000_999);

    fn deleted(seq: u64, version: u64) -> Event {
        let mut event = event(seq, version, b"");
        event.kind = EventKind::Delete;
        event
    }

    fn of(event: Event, before: Option<Event>) -> Value {
        parsed(line(&Change { event, before }, &origin(0), NOW))
    }

    #[test]
    fn an_update_has_both_rows_and_where_it_comes_from() {
        let row = |version: u64, payload: Value, base64: Value| {
            json!({
                "key": "Deep", "version": version, "type": "note", "tags": ["a", "b,\"c"], "meta": {"by": "me"},
                "payload": payload, "payload_base64": base64,
            })
        };
        assert_eq!(
            of(event(8, 2, b"\xff"), Some(event(7, 1, b"x"))),
            json!({
                "before": row(1, json!("x"), Value::Null),
                "after": row(2, Value::Null, json!("/w==")),
                "source": {
                    "version": env!("CARGO_PKG_VERSION"), "connector": "rdb",
                    "name": "6a1f8f3e-0000-4000-8000-000000000001", "ts_ms": 1_795_210_200_123_u64,
                    "snapshot": "false", "db": "6a1f8f3e-0000-4000-8000-000000000001",
                    "collection": "default", "key": "Deep", "seq": 8, "ts_us": 1_795_210_200_123_456_u64,
                    "event_id": "00000000-0000-0000-0000-000000000005", "type": "note",
                },
                "op": "u",
                "ts_ms": 1_795_210_201_000_u64,
            })
        );
    }

    #[test]
    fn the_operation_follows_from_both_rows() {
        let cases = [
            (event(7, 1, b"x"), None, "c"),
            (event(8, 2, b"y"), Some(event(7, 1, b"x")), "u"),
            (deleted(8, 2), Some(event(7, 1, b"x")), "d"),
            (event(9, 3, b"z"), Some(deleted(8, 2)), "c"),
            (deleted(9, 3), Some(deleted(8, 2)), "d"),
        ];
        for (event, before, op) in cases {
            let has_before = before
                .as_ref()
                .is_some_and(|before| before.kind == EventKind::Write);
            let is_write = event.kind == EventKind::Write;
            let got = of(event, before);
            assert_eq!(got["op"], op, "{got}");
            assert_eq!(
                (got["before"].is_object(), got["after"].is_object()),
                (has_before, is_write),
                "{got}"
            );
        }
    }

    #[test]
    fn what_a_snapshot_brings_was_read_and_what_comes_after_it_was_changed() {
        let of = |event, before| parsed(line(&Change { event, before }, &origin(8), NOW));
        let read = of(event(8, 2, b"y"), Some(event(7, 1, b"x")));
        assert_eq!(
            (&read["op"], &read["before"], &read["source"]["snapshot"]),
            (&json!("r"), &Value::Null, &json!("true"))
        );
        let changed = of(event(9, 3, b"y"), Some(event(8, 2, b"x")));
        assert_eq!(
            (&changed["op"], &changed["source"]["snapshot"]),
            (&json!("u"), &json!("false"))
        );
    }
}
