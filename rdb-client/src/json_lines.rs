//! Lines of JSON as the command line takes them: each is one event. Here and not with the command line, so that fuzzing gets
//! at them.

use crate::{Collection, EventId, Key, KeyName, NewEvent, derived_event_id};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A line of `append --file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEventLine {
    payload: Option<Value>,
    payload_base64: Option<String>,
    #[serde(default, rename = "type")]
    event_type: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    event_id: Option<String>,
}

impl NewEventLine {
    /// Text is taken as it is; any other JSON value is stored as its JSON text.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &str) -> Result<NewEvent, String> {
        let line: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let payload = match (line.payload, line.payload_base64) {
            (Some(Value::String(text)), None) => text.into_bytes(),
            (Some(value), None) => value.to_string().into_bytes(),
            (None, Some(base64)) => BASE64
                .decode(base64)
                .map_err(|error| format!("payload_base64 is not base64: {error}"))?,
            (None, None) => return Err("neither payload nor payload_base64".to_owned()),
            (Some(_), Some(_)) => return Err("both payload and payload_base64".to_owned()),
        };
        let mut event = NewEvent::new(payload).with_type(line.event_type);
        event.tags = line.tags;
        event.meta = line.meta;
        if let Some(id) = line.event_id {
            let id = Uuid::parse_str(&id).map_err(|error| format!("event_id is not a UUID: {error}"))?;
            let id = EventId::from_bytes(id.as_bytes()).map_err(|error| error.to_string())?;
            event.event_id = id;
        }
        Ok(event)
    }
}

/// What `import` takes from where.
#[derive(Debug, Clone, Default)]
pub struct ImportFields {
    /// Field that the key is in.
    pub key: String,
    /// Type of all events.
    pub event_type: Option<String>,
    /// Field that an event's type is in, when they have no common one.
    pub event_type_field: Option<String>,
    /// Field that the event id is derived from.
    pub id: Option<String>,
}

/// A line of `import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportLine {
    /// The key that it is an event of.
    pub key: Key,
    /// The event: its payload is the line.
    pub event: NewEvent,
    /// Its event id, when that was derived from the line.
    pub derived_id: Option<EventId>,
}

impl ImportLine {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str, fields: &ImportFields, collection: &Collection) -> Result<Self, String> {
        let object: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| format!("not a JSON object: {error}"))?;
        let key = field(&object, &fields.key)?;
        let key = key.ok_or_else(|| format!("no field {:?} for the key", fields.key))?;
        let key = Key::new(&key).map_err(|error| error.to_string())?;
        let mut event = NewEvent::new(line.to_owned());
        if let Some(event_type) = &fields.event_type {
            event.event_type.clone_from(event_type);
        } else if let Some(name) = &fields.event_type_field {
            event.event_type = field(&object, name)?.unwrap_or_default();
        }
        let mut derived_id = None;
        if let Some(name) = &fields.id {
            let id = field(&object, name)?.ok_or_else(|| format!("no field {name:?} for the event id"))?;
            let name = KeyName {
                collection: collection.clone(),
                key: key.clone(),
            };
            event.event_id = derived_event_id(&name, &id);
            derived_id = Some(event.event_id);
        }
        Ok(Self {
            key,
            event,
            derived_id,
        })
    }
}

/// Text, or the digits of a number.
fn field(object: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("field {name:?} is neither text nor a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_any_json_or_base64() {
        let payload = |line: &str| NewEventLine::parse(line).map(|event| event.payload);
        assert_eq!(payload(r#"{"payload":"a"}"#).unwrap(), "a");
        assert_eq!(
            payload(r#"{"payload":{"b":1,"a":2}}"#).unwrap(),
            r#"{"b":1,"a":2}"#
        );
        assert_eq!(
            payload(r#"{"payload_base64":"/wAB"}"#).unwrap(),
            &b"\xff\x00\x01"[..]
        );
        assert!(payload("{}").unwrap_err().contains("neither"));
        assert!(
            payload(r#"{"payload":"a","tag":["b"]}"#)
                .unwrap_err()
                .contains("unknown field `tag`")
        );
    }

    #[test]
    fn a_field_is_text_or_a_number() {
        let object = serde_json::from_str(r#"{"a":"x","b":7,"c":1.50,"d":true,"e":null}"#).unwrap();
        assert_eq!(field(&object, "a"), Ok(Some("x".to_owned())));
        assert_eq!(field(&object, "b"), Ok(Some("7".to_owned())));
        assert_eq!(field(&object, "e"), Ok(None));
        assert_eq!(field(&object, "none"), Ok(None));
        assert!(field(&object, "d").is_err());
    }
}
