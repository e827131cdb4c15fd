//! Events as rows of a table, for people. The columns grow with what comes, so that a stream stays aligned.

use crate::look::{Look, Paint, escape, fill};
use crate::output::time_text;
use console::{measure_text_width, truncate_str};
use rdb_client::{Event, EventKind};

/// A column grows up to here; what is wider stands out alone, and does not push all others to the right for good.
const NAME_WIDTH_MAX: usize = 40;
/// See [`NAME_WIDTH_MAX`].
const TYPE_WIDTH_MAX: usize = 24;
/// So much of a payload is shown on a terminal, however little room is left.
const PAYLOAD_WIDTH_MIN: usize = 24;

/// Which columns a table of events has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    OfOneKey,
    OfManyKeys,
}

/// The table: how wide its columns are so far.
#[derive(Debug)]
pub(crate) struct Table {
    paint: Paint,
    seq: usize,
    name: usize,
    version: usize,
    event_type: usize,
}

impl Table {
    pub(crate) const fn new(paint: Paint) -> Self {
        Self {
            paint,
            seq: 0,
            name: 0,
            version: 0,
            event_type: 0,
        }
    }

    /// One row; on a terminal so many columns wide, and without a limit elsewhere.
    pub(crate) fn row(&mut self, event: &Event, columns: Columns, width: Option<usize>) -> String {
        let name = match columns {
            Columns::OfOneKey => String::new(),
            Columns::OfManyKeys if event.name.collection.is_default() => format!("{}  ", event.name.key),
            Columns::OfManyKeys => format!("{}  ", event.name),
        };
        let (look, event_type) = match (event.kind, event.event_type.as_str()) {
            (EventKind::Write, name) => (Look::Green, escape(name)),
            (EventKind::Delete, "") => (Look::Red, "(deleted)".to_owned()),
            (EventKind::Delete, name) => (Look::Red, format!("(deleted) {}", escape(name))),
        };
        let seq = event.seq.to_string();
        let version = format!("v{}", event.version);
        self.seq = self.seq.max(seq.len());
        self.name = self.name.max(measure_text_width(&name).min(NAME_WIDTH_MAX));
        self.version = self.version.max(version.len());
        self.event_type = self
            .event_type
            .max(measure_text_width(&event_type).min(TYPE_WIDTH_MAX));
        let tags = match event.tags.as_slice() {
            [] => String::new(),
            tags => {
                let tags = format!("[{}]  ", escape(&tags.join(", ")));
                self.paint.on(Look::Yellow, tags)
            }
        };
        let on = |look, text| self.paint.on(look, text);
        let head = format!(
            "{}  {}  {}{}  {}  {tags}",
            on(Look::Dim, format!("{seq:>0$}", self.seq)),
            on(Look::Dim, time_text(event.time)),
            on(Look::Bold, fill(&name, self.name)),
            on(look, fill(&version, self.version)),
            on(look, fill(&event_type, self.event_type)),
        );
        let room = width.map(|width| {
            let left = width.saturating_sub(measure_text_width(&head));
            left.max(PAYLOAD_WIDTH_MIN)
        });
        format!("{head}{}", preview(&event.payload, room))
            .trim_end()
            .to_owned()
    }
}

/// On one line, without anything that a terminal would obey.
fn preview(payload: &[u8], width: Option<usize>) -> String {
    let Ok(text) = std::str::from_utf8(payload) else {
        return format!("<{} bytes>", payload.len());
    };
    let Some(width) = width else {
        return escape(text);
    };
    // A payload may have megabytes: more characters than columns are not looked at.
    let start: String = text.chars().take(width.saturating_add(1)).collect();
    truncate_str(&escape(&start), width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_client::{EventId, KeyName, Seq, Timestamp, Version};
    use std::collections::BTreeMap;
    use uuid::Uuid;

    const PLAIN: Paint = Paint { has_color: false };

    fn event(seq: u64, key: &str, event_type: &str, payload: &'static str) -> Event {
        Event {
            seq: Seq(seq),
            name: KeyName::new("default", key).unwrap(),
            version: Version(1),
            kind: EventKind::Write,
            event_type: event_type.to_owned(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            payload: payload.into(),
            event_id: EventId(Uuid::from_u128(5)),
            time: Timestamp(1_795_210_200_123_456),
        }
    }

    #[test]
    fn columns_stay_where_the_widest_so_far_put_them() {
        let mut table = Table::new(PLAIN);
        let mut rows = vec![
            table.row(&event(9, "orders/17", "shipped", "a"), Columns::OfManyKeys, None),
            table.row(&event(10, "日本", "", "b"), Columns::OfManyKeys, None),
        ];
        let mut deleted = event(11, "x", "", "");
        deleted.kind = EventKind::Delete;
        deleted.tags = vec!["t".to_owned()];
        rows.push(table.row(&deleted, Columns::OfManyKeys, None));
        assert_eq!(
            rows,
            [
                "9  2026-11-20T21:30:00.123456Z  orders/17  v1  shipped  a",
                "10  2026-11-20T21:30:00.123456Z  日本       v1           b",
                "11  2026-11-20T21:30:00.123456Z  x          v1  (deleted)  [t]",
            ]
        );
    }

    #[test]
    fn a_name_that_is_too_wide_does_not_push_the_rows_after_it() {
        let mut table = Table::new(PLAIN);
        let long = "k".repeat(1_000);
        table.row(&event(1, &long, &long, "a"), Columns::OfManyKeys, None);
        let next = table.row(&event(2, "k", "t", "a"), Columns::OfManyKeys, None);
        let payload_at =
            "2  2026-11-20T21:30:00.123456Z  ".len() + NAME_WIDTH_MAX + "v1  ".len() + TYPE_WIDTH_MAX + 2;
        assert_eq!(next.find('a'), Some(payload_at));
    }

    #[test]
    fn a_row_is_as_wide_as_the_terminal_and_says_what_it_leaves_out() {
        let mut table = Table::new(PLAIN);
        let long = event(1, "k", "t", "0123456789012345678901234567890123456789");
        let row = table.row(&long, Columns::OfManyKeys, Some(70));
        assert_eq!(measure_text_width(&row), 70);
        assert!(row.ends_with("…"), "{row}");
        let narrow = table.row(&long, Columns::OfManyKeys, Some(10));
        assert!(narrow.ends_with("  01234567890123456789012…"), "{narrow}");
    }

    #[test]
    fn the_kind_has_a_colour() {
        let mut table = Table::new(Paint { has_color: true });
        let written = table.row(&event(1, "k", "t", ""), Columns::OfManyKeys, None);
        assert!(
            written.contains("\x1b[32mv1\x1b[0m  \x1b[32mt\x1b[0m"),
            "{written:?}"
        );
        let mut deleted = event(1, "k", "", "");
        deleted.kind = EventKind::Delete;
        let deleted = table.row(&deleted, Columns::OfManyKeys, None);
        assert!(deleted.contains("\x1b[31m(deleted)\x1b[0m"), "{deleted:?}");
    }

    #[test]
    fn a_preview_is_one_line_that_no_terminal_obeys() {
        assert_eq!(preview(b"a\n\x1b[31mb", Some(80)), r"a\n\u{1b}[31mb");
        assert_eq!(preview("ü".repeat(81).as_bytes(), Some(80)).chars().count(), 80);
        assert_eq!(preview(b"\xff", None), "<1 bytes>");
    }
}
