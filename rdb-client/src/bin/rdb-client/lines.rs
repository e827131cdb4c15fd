//! Files of JSON lines: read line by line, each with its number, so that an error can name it.

use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdb_client::{EventId, NewEvent};
use rdb_proto::limits::PAYLOAD_BYTES_MAX;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A line is at most the largest payload in base64, and the rest of an event.
const LINE_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// A file of lines, or standard input.
pub(crate) struct Lines {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
    number: u64,
    bytes_read: u64,
    bytes_total: Option<u64>,
}

/// One line that is not blank.
pub(crate) struct Line<'a> {
    pub(crate) text: &'a str,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::Input(format!("cannot read {}: {error}", path.display()));
        let (input, bytes_total): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path).map_err(cannot)?;
            let metadata = file.metadata().map_err(cannot)?;
            if metadata.is_dir() {
                return Err(Failure::Input(format!(
                    "cannot read {}: it is a folder",
                    path.display()
                )));
            }
            let bytes = metadata.is_file().then_some(metadata.len());
            (Box::new(BufReader::with_capacity(256 << 10, file)), bytes)
        };
        Ok(Self {
            path: path.to_owned(),
            input,
            buffer: Vec::new(),
            number: 0,
            bytes_read: 0,
            bytes_total,
        })
    }

    /// The next line that is not blank.
    pub(crate) fn next(&mut self) -> Result<Option<Line<'_>>, Failure> {
        loop {
            self.buffer.clear();
            let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
            let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| {
                let path = self.path.display();
                Failure::Input(format!("cannot read {path}: {error}"))
            })?;
            if read == 0 {
                return Ok(None);
            }
            self.number = self.number.saturating_add(1);
            self.bytes_read = self
                .bytes_read
                .saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if read == LINE_BYTES_MAX {
                return Err(self.problem(&format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(self.buffer.trim_ascii()) {
            Ok(text) => Ok(Some(Line { text })),
            Err(_) => Err(Self::problem_at(&self.path, self.number, "not UTF-8")),
        }
    }

    /// Number of the line that was read last, from 1.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// `None` when it is not known.
    pub(crate) const fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// What is wrong with the line that was read last.
    pub(crate) fn problem(&self, problem: &str) -> Failure {
        Self::problem_at(&self.path, self.number, problem)
    }

    fn problem_at(path: &Path, number: u64, problem: &str) -> Failure {
        Failure::Input(format!("{} line {number}: {problem}", path.display()))
    }
}

/// A line of `append --file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEventLine {
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
    pub(crate) fn parse(line: &str) -> Result<NewEvent, String> {
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
    fn blank_lines_count_but_are_not_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "a\n\n  \r\nb\r\n\n").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.next().unwrap().unwrap().text, "a");
        assert_eq!(lines.next().unwrap().unwrap().text, "b");
        assert_eq!(lines.number(), 4);
        assert!(lines.next().unwrap().is_none());
    }
}
