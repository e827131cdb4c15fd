//! The forms of the lines of `subscribe`: which text each change becomes. What they hold is an interface, pinned by
//! the JSON schemas in `rdb-client/schemas`.

mod cloudevents;
mod debezium;

use crate::args::StreamFormat;
use crate::failure::Failure;
use crate::output::EventJson;
use rdb_client::clock::wall_time;
use rdb_client::{Change, Seq, Timestamp};
use serde::Serialize;
use serde_json::Value;

/// What a line says besides its change: where the stream comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(crate) database_id: String,
    /// Up to here the stream is a snapshot; [`Seq::ZERO`] without one.
    pub(crate) snapshot: Seq,
}

/// An event with the one before it of the same key.
#[derive(Debug, Serialize)]
struct ChangeJson<'a> {
    #[serde(flatten)]
    event: EventJson<'a>,
    before: Option<EventJson<'a>>,
}

/// The form of the lines of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineForm {
    format: StreamFormat,
    with_before: bool,
}

impl LineForm {
    pub(crate) const fn new(format: StreamFormat, with_before: bool) -> Self {
        Self { format, with_before }
    }

    /// Whether the stream must bring the event before each event.
    pub(crate) const fn needs_before(self) -> bool {
        self.with_before || matches!(self.format, StreamFormat::Debezium)
    }

    /// One line, without its end.
    ///
    /// # Errors
    /// When the stream did not bring what the line must say.
    pub(crate) fn line(self, change: &Change, origin: &Origin) -> Result<Vec<u8>, Failure> {
        let is_snapshot = change.event.seq <= origin.snapshot;
        let is_first = change.event.version.get() <= 1;
        if self.needs_before() && change.before.is_none() && !is_first && !is_snapshot {
            // Taken for the first of its key, a consumer would lose what it had of it.
            return Err(Failure::Answer(format!(
                "the server did not say what was before seq {}: is its release too old?",
                change.event.seq
            )));
        }
        let line = match self.format {
            StreamFormat::Json if self.with_before => serde_json::to_vec(&ChangeJson {
                event: EventJson::new(&change.event),
                before: change.before.as_ref().map(EventJson::new),
            }),
            StreamFormat::Json => serde_json::to_vec(&EventJson::new(&change.event)),
            StreamFormat::Cloudevents => cloudevents::line(&change.event, origin),
            StreamFormat::Debezium => debezium::line(change, origin, wall_time()),
        };
        line.map_err(|error| Failure::Output(error.into()))
    }
}

/// Whether a payload is JSON that every reader of JSON takes: strings that are Unicode, numbers that are finite.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

const fn millis(time: Timestamp) -> u64 {
    time.get() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_client::{Event, EventId, EventKind, KeyName, Version};
    use std::collections::BTreeMap;
    use uuid::Uuid;

    pub(super) fn event(seq: u64, version: u64, payload: &'static [u8]) -> Event {
        Event {
            seq: Seq(seq),
            name: KeyName::new("default", "Deep").unwrap(),
            version: Version(version),
            kind: EventKind::Write,
            event_type: "note".to_owned(),
            tags: vec!["a".to_owned(), "b,\"c".to_owned()],
            meta: BTreeMap::from([("by".to_owned(), "me".to_owned())]),
            payload: payload.into(),
            event_id: EventId(Uuid::from_u128(5)),
            time: Timestamp(1_795_210_200_123_456),
        }
    }

    pub(super) fn origin(snapshot: u64) -> Origin {
        Origin {
            database_id: "6a1f8f3e-0000-4000-8000-000000000001".to_owned(),
            snapshot: Seq(snapshot),
        }
    }

    pub(super) fn parsed(line: serde_json::Result<Vec<u8>>) -> Value {
        let line = line.unwrap();
        assert!(!line.contains(&b'\n'), "{line:?}");
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn the_event_before_is_the_last_field_and_null_when_there_is_none() {
        let form = LineForm::new(StreamFormat::Json, true);
        let before = Some(event(7, 1, b"x"));
        let second = Change {
            event: event(8, 2, b"y"),
            before,
        };
        let line = String::from_utf8(form.line(&second, &origin(0)).unwrap()).unwrap();
        assert!(line.starts_with(r#"{"seq":8,"collection":"default","#), "{line}");
        assert!(line.contains(r#","before":{"seq":7,"collection":"#), "{line}");
        let first = Change {
            event: event(7, 1, b"x"),
            before: None,
        };
        let line = String::from_utf8(form.line(&first, &origin(0)).unwrap()).unwrap();
        assert!(line.ends_with(r#","before":null}"#), "{line}");
    }

    #[test]
    fn a_server_that_does_not_say_what_was_before_is_an_error_and_no_first_event() {
        let change = Change {
            event: event(8, 2, b"y"),
            before: None,
        };
        for (format, with_before) in [(StreamFormat::Json, true), (StreamFormat::Debezium, false)] {
            let form = LineForm::new(format, with_before);
            assert!(form.line(&change, &origin(0)).is_err());
            assert!(
                form.line(&change, &origin(8)).is_ok(),
                "in a snapshot nothing is before"
            );
        }
        let plain = LineForm::new(StreamFormat::Json, false);
        assert!(plain.line(&change, &origin(0)).is_ok());
    }
}
