//! Lines of files that users import.
//!
//! Input: a line with the names of the fields (key, type, id; with commas between, empty for none), then lines of JSON.

use super::{Target, named};
use rdb_client::Collection;
use rdb_client::json_lines::{ImportFields, ImportLine, NewEventLine};
use serde_json::json;

pub(super) const TARGET: Target = Target {
    name: "import",
    what: "JSON lines of `import` and `append --file`",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (names, lines) = text.split_once('\n').unwrap_or(("key,,", text));
    let mut names = names.split(',').map(str::to_owned);
    let mut name = || names.next().filter(|name| !name.is_empty());
    let fields = ImportFields {
        key: name().unwrap_or_else(|| "key".to_owned()),
        event_type: None,
        event_type_field: name(),
        id: name(),
    };
    let collection = Collection::new("shop").unwrap();
    for line in lines.lines() {
        if let Ok(read) = ImportLine::parse(line, &fields, &collection) {
            assert_eq!(read.event.payload, line.as_bytes(), "the line is the payload");
            let again = ImportLine::parse(line, &fields, &collection).expect("it was read before");
            assert_eq!(
                (again.key, again.derived_id),
                (read.key, read.derived_id),
                "importing again is known"
            );
        }
        if let Ok(event) = NewEventLine::parse(line) {
            let written = json!({
                "payload_base64": base64(&event.payload),
                "type": event.event_type,
                "tags": event.tags,
                "meta": event.meta,
                "event_id": event.event_id.to_string(),
            });
            assert_eq!(NewEventLine::parse(&written.to_string()), Ok(event));
        }
    }
}

/// Bytes in base64, written here anew: the product's own could err in both directions.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |n: usize| u32::from(three.get(n).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let letter = usize::try_from(bits >> (18 - 6 * n) & 63).unwrap();
            let is_padding = usize::try_from(n).unwrap() > three.len();
            text.push(if is_padding {
                '='
            } else {
                char::from(LETTERS[letter])
            });
        }
    }
    text
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let earthquake =
        r#"{"id":"us2000crkq","time":1517449799000,"net":"us","type":"earthquake","mag":4.5,"lon":-1.5e2}"#;
    vec![
        named("import", format!("net,type,id\n{earthquake}\n{earthquake}")),
        named(
            "numbers",
            "key,,id\n{\"key\":17,\"id\":1.50,\"more\":[{},null,true]}",
        ),
        named("no-key", "key,,\n{\"value\":\"\\u00e9\\ud83d\\ude00\"}\n[1]\n"),
        named(
            "append",
            "\n{\"payload\":{\"b\":1},\"type\":\"placed\",\"tags\":[\"eu\"],\"meta\":{\"by\":\"me\"},\
             \"event_id\":\"018f0000-0000-7000-8000-000000000001\"}\n{\"payload_base64\":\"/wAB\"}\n{\"payload\":\"a\"}",
        ),
    ]
}
