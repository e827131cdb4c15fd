//! CloudEvents 1.0, structured mode, JSON event format: one object a line.
//!
//! Extension attributes may be text, 32-bit integers and booleans, and no lists or objects: a version is text, tags
//! and metadata are the text of a JSON list and a JSON object. `sequence` is the extension of that name; its text
//! sorts as the numbers do.

use super::{Origin, is_json};
use crate::output::time_text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdb_client::{Event, EventKind};
use serde::Serialize;
use std::borrow::Cow;

const JSON: &str = "application/json";

#[derive(Debug, Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: Cow<'a, str>,
    subject: Cow<'a, str>,
    time: String,
    sequence: String,
    version: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
}

/// How a payload is put into the line.
enum Data<'a> {
    None,
    Json(&'a str),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Data<'a> {
    fn of(payload: &'a [u8]) -> Self {
        match std::str::from_utf8(payload) {
            Ok("") => Self::None,
            Ok(text) if is_json(text) => Self::Json(text),
            Ok(text) => Self::Text(text),
            Err(_) => Self::Bytes(payload),
        }
    }

    const fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Json(_) => Some(JSON),
            Self::Text(_) => Some("text/plain"),
            Self::Bytes(_) => Some("application/octet-stream"),
        }
    }
}

pub(super) fn line(event: &Event, origin: &Origin) -> serde_json::Result<Vec<u8>> {
    let data = Data::of(&event.payload);
    let event_type = match (event.event_type.as_str(), event.kind) {
        ("", EventKind::Write) => Cow::Borrowed("rdb.write"),
        ("", EventKind::Delete) => Cow::Borrowed("rdb.delete"),
        (event_type, _) => attribute(event_type),
    };
    let cloud_event = CloudEvent {
        specversion: "1.0",
        id: event.event_id.to_string(),
        source: format!("/rdb/{}/{}", origin.database_id, event.name.collection),
        event_type,
        subject: attribute(event.name.key.as_str()),
        time: time_text(event.time),
        sequence: format!("{:020}", event.seq.get()),
        version: event.version.to_string(),
        kind: event.kind.as_str(),
        tags: json_text(&event.tags, event.tags.is_empty())?,
        meta: json_text(&event.meta, event.meta.is_empty())?,
        datacontenttype: data.content_type(),
        data_base64: match data {
            Data::Bytes(bytes) => Some(BASE64.encode(bytes)),
            Data::None | Data::Json(_) | Data::Text(_) => None,
        },
        data: match data {
            Data::Text(text) => Some(text),
            Data::None | Data::Json(_) | Data::Bytes(_) => None,
        },
    };
    let mut line = serde_json::to_vec(&cloud_event)?;
    if let Data::Json(text) = data {
        // As it was written, and not parsed and printed again: a number keeps all of its digits.
        line.pop();
        line.extend_from_slice(b",\"data\":");
        let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        line.extend(text.bytes().filter(|byte| !is_break(byte)));
        line.push(b'}');
    }
    Ok(line)
}

fn json_text(value: &impl Serialize, is_empty: bool) -> serde_json::Result<Option<String>> {
    if is_empty {
        return Ok(None);
    }
    let text = serde_json::to_string(value)?;
    Ok(Some(attribute(&text).into_owned()))
}

/// Attributes must not contain control characters and noncharacters; they are written as JSON writes them, `\u0007`.
fn attribute(text: &str) -> Cow<'_, str> {
    let is_forbidden = |c: char| {
        let code = u32::from(c);
        c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    };
    if !text.chars().any(is_forbidden) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_forbidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                clean.extend(["\\u", &format!("{unit:04x}")]);
            }
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, origin, parsed};
    use super::*;
    use serde_json::{Value, json};

    fn of(payload: &'static [u8]) -> Value {
        parsed(line(&event(7, 1, payload), &origin(0)))
    }

    #[test]
    fn an_event_becomes_a_cloud_event() {
        assert_eq!(
            of(br#"{"n":1}"#),
            json!({
                "specversion": "1.0",
                "id": "00000000-0000-0000-0000-000000000005",
                "source": "/rdb/6a1f8f3e-0000-4000-8000-000000000001/default",
                "type": "note",
                "subject": "Deep",
                "time": "2026-11-20T21:30:00.123456Z",
                "sequence": "00000000000000000007",
                "version": "1",
                "kind": "write",
                "tags": r#"["a","b,\"c"]"#,
                "meta": r#"{"by":"me"}"#,
                "datacontenttype": "application/json",
                "data": {"n": 1},
            })
        );
    }

    #[test]
    fn the_content_type_says_how_the_payload_is_there() {
        let cases: [(&'static [u8], Value, Value, Value); 5] = [
            (b"7", json!("application/json"), json!(7), Value::Null),
            (b"{no", json!("text/plain"), json!("{no"), Value::Null),
            (
                br#""\ud800""#,
                json!("text/plain"),
                json!(r#""\ud800""#),
                Value::Null,
            ),
            (
                b"\xff\0",
                json!("application/octet-stream"),
                Value::Null,
                json!("/wA="),
            ),
            (b"", Value::Null, Value::Null, Value::Null),
        ];
        for (payload, content_type, data, base64) in cases {
            let got = of(payload);
            assert_eq!(got["datacontenttype"], content_type, "{got}");
            assert_eq!((&got["data"], &got["data_base64"]), (&data, &base64), "{got}");
        }
    }

    #[test]
    fn json_over_several_lines_becomes_one_and_keeps_its_digits() {
        let payload = b"{\r\n \"a\": [1,\n2], \"n\": 12345678901234567890.50\n}";
        let line = line(&event(7, 1, payload), &origin(0)).unwrap();
        let text = String::from_utf8(line).unwrap();
        assert!(
            text.ends_with(r#","data":{ "a": [1,2], "n": 12345678901234567890.50}}"#),
            "{text}"
        );
    }

    #[test]
    fn an_attribute_has_no_control_characters_and_is_never_empty() {
        let mut event = event(7, 1, b"");
        event.event_type = "a\u{7}\u{1fffe}".to_owned();
        event.tags = vec!["\u{85}".to_owned()];
        event.meta.clear();
        let got = parsed(line(&event, &origin(0)));
        assert_eq!(got["type"], "a\\u0007\\ud83f\\udffe");
        assert_eq!(
            serde_json::from_str::<Value>(got["tags"].as_str().unwrap()).unwrap(),
            json!(["\u{85}"])
        );
        assert_eq!(got.get("meta"), None);
        event.event_type.clear();
        event.kind = EventKind::Delete;
        assert_eq!(parsed(line(&event, &origin(0)))["type"], "rdb.delete");
    }
}
