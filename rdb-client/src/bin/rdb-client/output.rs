//! The only writer to standard output and standard error: data goes to the one, everything else to the other.
//!
//! On a terminal: aligned and in colour. Else: no colour, no truncation. A reader that goes away is not an error.

use crate::args::Format;
use crate::failure::Failure;
use crate::look::{Look, Paint, escape};
use crate::table::{Columns, Table};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use console::Term;
use jiff::Timestamp as Time;
use rdb_client::{Event, KeyState, KeyThen, Receipt, Stored, Timestamp, Version};
use serde::Serialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

/// Width of a terminal that does not tell.
const WIDTH_DEFAULT: usize = 80;
/// Buffer before standard output; one system call writes many lines of a stream.
const BUFFER_BYTES: usize = 64 << 10;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    format: Format,
    /// The user asked for JSON, so programs read the errors too.
    has_json_errors: bool,
    is_terminal: bool,
    paint: Paint,
    table: Table,
    /// Whether the last line of the terminal is the footer.
    has_footer: bool,
}

impl Output {
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let paint = Paint {
            has_color: is_terminal && !no_color,
        };
        Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, stdout),
            format,
            has_json_errors: format == Format::Json,
            is_terminal,
            paint,
            table: Table::new(paint),
            has_footer: false,
        }
    }

    pub(crate) const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// From here on, data is one JSON object a line.
    pub(crate) const fn switch_to_json(&mut self) {
        self.format = Format::Json;
    }

    /// Writes one line of text.
    pub(crate) fn text(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        self.clear_footer();
        self.out.write_fmt(line)?;
        self.out.write_all(b"\n")
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Writes one JSON object on one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Dresses a word for a terminal with colours; leaves it alone elsewhere.
    pub(crate) fn paint(&self, look: Look, text: impl fmt::Display) -> String {
        self.paint.on(look, text)
    }

    /// Whether there is a bottom line to rewrite: not when anything of this goes elsewhere than to a terminal.
    pub(crate) fn can_have_footer(&self) -> bool {
        self.is_terminal && !self.is_json() && io::stderr().is_terminal()
    }

    /// Whether it is there.
    pub(crate) const fn has_footer(&self) -> bool {
        self.has_footer
    }

    /// Rewrites the bottom line, after what was written so far.
    pub(crate) fn footer(&mut self, text: &str) -> io::Result<()> {
        self.flush()?;
        // The last column stays free: a full line would make some terminals begin another.
        let text = escape(text);
        let text = console::truncate_str(&text, width().saturating_sub(1), "…");
        let text = self.paint.on(Look::Dim, text);
        self.has_footer = true;
        let mut stderr = io::stderr().lock();
        write!(stderr, "\r\x1b[2K{text}").and_then(|()| stderr.flush())
    }

    /// Takes the bottom line away, so that something else can be written there.
    pub(crate) fn clear_footer(&mut self) {
        if std::mem::take(&mut self.has_footer) {
            // Where it cannot be written, it did not come to be.
            drop(io::stderr().write_all(b"\r\x1b[2K"));
        }
    }

    /// Writes that a key was not there.
    pub(crate) fn absent(&mut self, key: &KeyThen) -> io::Result<()> {
        if self.is_json() {
            return self.json(&AbsentJson {
                collection: key.name.collection.as_str(),
                key: key.name.key.as_str(),
                version: key.version.get(),
                absent: true,
            });
        }
        let name = self.paint(Look::Bold, &key.name.key);
        let why = if key.version == Version::ZERO {
            "never written".to_owned()
        } else {
            format!("deleted, at version {}", key.version)
        };
        let why = self.paint(Look::Dim, why);
        self.text(format_args!("{name}  {why}"))
    }

    /// Writes an acknowledgement.
    pub(crate) fn stored(&mut self, verb: &str, key: &str, receipt: &Receipt<Stored>) -> io::Result<()> {
        let stored = receipt.stored;
        if self.is_json() {
            return self.json(&StoredJson::new(key, &stored));
        }
        let again = if stored.is_duplicate {
            " by an earlier attempt"
        } else {
            ""
        };
        let what = self.paint(Look::Bold, key);
        self.text(format_args!(
            "{verb} {what}{again}: version {} at seq {}, event id {}",
            stored.version, stored.seq, stored.event_id
        ))?;
        if receipt.attempts > 1 {
            self.text(format_args!("  it took {} attempts", receipt.attempts))?;
        }
        Ok(())
    }

    /// Writes an event as a JSON line, or as a row of a table.
    pub(crate) fn event(&mut self, event: &Event, columns: Columns) -> io::Result<()> {
        if self.is_json() {
            self.json(&EventJson::new(event))
        } else {
            let width = self.is_terminal.then(width);
            let row = self.table.row(event, columns, width);
            self.text(format_args!("{row}"))
        }
    }

    /// Writes one event at length.
    pub(crate) fn whole_event(&mut self, event: &Event) -> io::Result<()> {
        let key = self.paint(Look::Bold, &event.name.key);
        self.text(format_args!(
            "{key}  version {}  seq {}",
            event.version, event.seq
        ))?;
        let mut fact = |name: &str, value: String| {
            let name = self.paint(Look::Dim, format_args!("{name:<10}"));
            self.text(format_args!("{name}  {value}"))
        };
        if !event.name.collection.is_default() {
            fact("collection", event.name.collection.to_string())?;
        }
        if !event.event_type.is_empty() {
            fact("type", escape(&event.event_type))?;
        }
        if !event.tags.is_empty() {
            fact("tags", escape(&event.tags.join(", ")))?;
        }
        for (name, value) in &event.meta {
            fact("meta", escape(&format!("{name}={value}")))?;
        }
        fact("time", time_text(event.time))?;
        fact("event id", event.event_id.to_string())?;
        if event.payload.is_empty() {
            return Ok(());
        }
        self.text(format_args!(""))?;
        self.payload(&event.payload)
    }

    /// Text as it is, JSON indented, bytes as a dump.
    fn payload(&mut self, payload: &[u8]) -> io::Result<()> {
        let Ok(text) = std::str::from_utf8(payload) else {
            return self.dump(payload);
        };
        let pretty = indented(text);
        let text = pretty.as_deref().unwrap_or(text);
        if self.is_terminal {
            for line in text.lines() {
                self.text(format_args!("{}", escape(line)))?;
            }
            Ok(())
        } else {
            self.text(format_args!("{text}"))
        }
    }

    fn dump(&mut self, payload: &[u8]) -> io::Result<()> {
        const SHOWN: usize = 256;
        self.text(format_args!(
            "{} bytes that are not text (-o json has them in base64):",
            payload.len()
        ))?;
        for (row, bytes) in payload.chunks(16).take(SHOWN / 16).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.text(format_args!("{:08x}  {}", row * 16, hex.join(" ")))?;
        }
        if payload.len() > SHOWN {
            self.text(format_args!("…"))?;
        }
        Ok(())
    }

    /// Tells a failure to people on standard error, and to programs that read JSON.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.clear_footer();
        // Where even this cannot be written there is nobody left to tell; the exit code still says it.
        let is_told = self.has_json_errors && !matches!(failure, Failure::Output(_));
        let told = self.flush().and_then(|()| {
            if is_told {
                self.json(&failure.to_json())?;
            }
            self.flush()
        });
        drop(told);
        if !failure.is_broken_pipe() {
            let is_terminal = io::stderr().is_terminal();
            let word = if is_terminal && self.paint.has_color {
                "\x1b[31merror:\x1b[0m"
            } else {
                "error:"
            };
            notice(format_args!("{word} {failure}"));
        }
    }
}

/// Columns of the terminal.
fn width() -> usize {
    let size = Term::stdout().size_checked();
    size.map_or(WIDTH_DEFAULT, |(_, columns)| usize::from(columns))
}

/// Writes a line to standard error.
pub(crate) fn notice(line: fmt::Arguments<'_>) {
    let mut stderr = io::stderr().lock();
    // A standard error that is closed is the user's wish not to hear.
    drop(stderr.write_fmt(line).and_then(|()| stderr.write_all(b"\n")));
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn time_text(time: Timestamp) -> String {
    let time = i64::try_from(time.get())
        .ok()
        .and_then(|us| Time::from_microsecond(us).ok());
    time.map_or_else(|| "time out of range".to_owned(), |time| format!("{time:.6}"))
}

/// JSON objects and lists over several lines; `None` for anything else.
///
/// Works on the text and not on parsed values: a number with more digits than a float has stays as it is.
fn indented(text: &str) -> Option<String> {
    let is_json = text.starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok();
    if !is_json {
        return None;
    }
    let mut out = String::new();
    let mut depth = 0_usize;
    let is_break = |c: &char| matches!(c, '\n' | '\r' | '\t');
    let mut chars = text.chars().filter(|c| !is_break(c)).peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push('"');
                copy_string(&mut chars, &mut out);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth = depth.saturating_add(1);
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            ' ' => {}
            other => out.push(other),
        }
    }
    Some(out)
}

/// Copies up to the quote that ends the string.
fn copy_string(chars: &mut impl Iterator<Item = char>, out: &mut String) {
    let mut is_escaped = false;
    for c in chars {
        out.push(c);
        match c {
            '"' if !is_escaped => return,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
}

fn break_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// A key without an event, in a snapshot.
#[derive(Debug, Serialize)]
struct AbsentJson<'a> {
    collection: &'a str,
    key: &'a str,
    /// Of the delete; 0 when the key was never written.
    version: u64,
    absent: bool,
}

/// An event, as every command prints it.
#[derive(Debug, Serialize)]
pub(crate) struct EventJson<'a> {
    seq: u64,
    collection: &'a str,
    key: &'a str,
    version: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    event_type: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    event_id: String,
    time: String,
}

impl<'a> EventJson<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        let payload = std::str::from_utf8(&event.payload).ok();
        Self {
            seq: event.seq.get(),
            collection: event.name.collection.as_str(),
            key: event.name.key.as_str(),
            version: event.version.get(),
            kind: event.kind.as_str(),
            event_type: &event.event_type,
            tags: &event.tags,
            meta: &event.meta,
            payload,
            payload_base64: payload.is_none().then(|| BASE64.encode(&event.payload)),
            event_id: event.event_id.to_string(),
            time: time_text(event.time),
        }
    }
}

/// An acknowledgement.
#[derive(Debug, Serialize)]
pub(crate) struct StoredJson<'a> {
    seq: u64,
    key: &'a str,
    version: u64,
    event_id: String,
    duplicate: bool,
}

impl<'a> StoredJson<'a> {
    pub(crate) fn new(key: &'a str, stored: &Stored) -> Self {
        Self {
            seq: stored.seq.get(),
            key,
            version: stored.version.get(),
            event_id: stored.event_id.to_string(),
            duplicate: stored.is_duplicate,
        }
    }
}

/// A key in a list.
#[derive(Debug, Serialize)]
pub(crate) struct KeyJson<'a> {
    key: &'a str,
    version: u64,
    seq: u64,
    deleted: bool,
}

impl<'a> KeyJson<'a> {
    pub(crate) fn new(key: &'a KeyState) -> Self {
        Self {
            key: &key.key,
            version: key.version.get(),
            seq: key.seq.get(),
            deleted: key.is_deleted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_client::{EventId, EventKind, KeyName, Seq, Version};
    use uuid::Uuid;

    fn event(payload: &'static [u8]) -> Event {
        Event {
            seq: Seq(7),
            name: KeyName::new("default", "Deep").unwrap(),
            version: Version(1),
            kind: EventKind::Write,
            event_type: "note".to_owned(),
            tags: vec!["a".to_owned()],
            meta: BTreeMap::from([("by".to_owned(), "me".to_owned())]),
            payload: payload.into(),
            event_id: EventId(Uuid::from_u128(5)),
            time: Timestamp(1_795_210_200_123_456),
        }
    }

    #[test]
    fn an_event_has_the_fields_of_the_interface_in_their_order() {
        assert_eq!(
            serde_json::to_string(&EventJson::new(&event(b"First write"))).unwrap(),
            r#"{"seq":7,"collection":"default","key":"Deep","version":1,"kind":"write","type":"note","tags":["a"],"meta":{"by":"me"},"payload":"First write","event_id":"00000000-0000-0000-0000-000000000005","time":"2026-11-20T21:30:00.123456Z"}"#
        );
    }

    #[test]
    fn a_payload_that_is_not_text_comes_in_base64() {
        let json = serde_json::to_string(&EventJson::new(&event(b"\xff\x00\x01"))).unwrap();
        assert!(json.contains(r#""payload_base64":"/wAB","event_id""#), "{json}");
        assert!(!json.contains(r#""payload":"#), "{json}");
    }

    #[test]
    fn a_time_always_has_six_digits_of_a_second() {
        assert_eq!(time_text(Timestamp(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time_text(Timestamp(u64::MAX)), "time out of range");
    }

    #[test]
    fn json_is_indented_without_changing_a_value() {
        let text = r#"{"a":[1,{}, []],"b":"x, {\"y\": \\","n":12345678901234567890.50}"#;
        let lines = [
            "{",
            r#"  "a": ["#,
            "    1,",
            "    {},",
            "    []",
            "  ],",
            r#"  "b": "x, {\"y\": \\","#,
            r#"  "n": 12345678901234567890.50"#,
            "}",
        ];
        assert_eq!(indented(text).unwrap(), lines.join("\n"));
        assert_eq!(indented("{not json"), None);
        assert_eq!(indented("7"), None);
    }
}
