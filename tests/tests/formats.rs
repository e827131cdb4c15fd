//! The lines of `rdb-client subscribe`, read by programs of others: the JSON schemas in `rdb-client/schemas` by
//! `jsonschema`, CloudEvents by their own SDK, both of PyPI. Where those cannot be had, the cases say so and pass.
#![cfg(test)]

use rdb_tests::command::Cli;
use rdb_tests::process::{Node, binary};
use rdb_tests::say;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const PACKAGES: [&str; 2] = ["cloudevents>=2,<3", "jsonschema>=4.18,<5"];

/// A Python that has the packages, in a folder of its own beside the binaries; `None` where it cannot be made.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = PYTHON.get_or_init(|| {
        let folder = binary("rdb-client").with_file_name("formats-venv");
        let python = folder.join("bin/python");
        let has_packages = |python: &Path| {
            let words = ["-c", "import jsonschema; import cloudevents.core.formats.json"];
            run(Command::new(python).args(words)).is_ok()
        };
        if !has_packages(&python) {
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
            let words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            run(Command::new(&python).args(words).args(PACKAGES))?;
        }
        Ok(python)
    });
    match made {
        Ok(python) => Some(python),
        Err(problem) => {
            say(&format!("skipped: no Python with {PACKAGES:?}: {problem}"));
            None
        }
    }
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What the program of others understood; or what it complains about.
fn read_as(form: &str, lines: &str) -> Option<Result<Vec<Value>, String>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(python()?)
        .arg(here.join("data/read_formats.py"))
        .arg(form)
        .arg(here.join(format!("../rdb-client/schemas/{form}.schema.json")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_owned();
    // It may stop reading at a line that it refuses.
    let writer = std::thread::spawn(move || drop(stdin.write_all(lines.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    if !output.status.success() {
        return Some(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    Some(Ok(String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(parse)
        .collect()))
}

/// Commands, their words divided by `|`, and what they read from standard input, where a zero byte may stand, too.
const WRITES: [(&str, &str); 8] = [
    ("write|-k|Deep|-p|-", "First write"),
    (
        "write|-k|Deep|-p|-|--type|quarry blast",
        "{\"a\": [1,\r\n 2.50],\n \"b\": null}",
    ),
    ("write|-k|Deep|-p|-|--tag|a|--tag|b,\"c\" \u{85}", ""),
    ("delete|-k|Deep", ""),
    ("write|-k|Deep|-p|-|--meta|by=me|--meta|größe=7", "-0.5e3"),
    (
        "write|-k|schlüssel/日本 🗝|-p|-|--type|ty\u{7}pe",
        "ß\u{0}\u{1b}[31m\u{fffe}",
    ),
    ("write|--collection|orders.v2|-k|17|-p|-", "null"),
    ("write|--collection|orders.v2|-k|17|-p|-", "\"\\ud800\""),
];

/// A database with every kind of event that there is.
struct World {
    cli: Cli,
    _node: Node,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(&dir.path().join("data")).await;
        let cli = Cli::new(node.grpc);
        for (words, payload) in WRITES {
            let answer = cli.run_with_input(words.split('|'), payload.as_bytes());
            answer.await.succeeded();
        }
        let bytes = cli.run_with_input(["write", "-k", "bytes", "-p", "-"], b"\xff\0\x01\n");
        bytes.await.succeeded();
        Self {
            cli,
            _node: node,
            _dir: dir,
        }
    }

    /// The lines of the stream, with marks.
    async fn lines(&self, flags: &str) -> String {
        let line = format!("subscribe --until-caught-up --resolved {flags}");
        self.cli.line(&line).await.succeeded().stdout
    }
}

/// The lines without marks, of which there must be some.
fn events(lines: Vec<Value>) -> Vec<Value> {
    let (marks, events): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.get("resolved").is_some());
    assert_eq!(marks.last(), Some(&json!({"resolved": 9})));
    assert_eq!(events.len(), 9);
    events
}

/// The line with one field changed, as JSON Pointer names it; `null` takes it away.
fn broken(line: &Value, pointer: &str, value: &Value) -> String {
    let mut line = line.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = line.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(field).unwrap();
    } else {
        parent.insert(field.to_owned(), value.clone());
    }
    format!("{line}\n")
}

/// Demands that the schema takes the line, and none of these changes of it.
fn refuses(form: &str, line: &str, changes: &[(&str, Value)]) {
    let whole: Value = serde_json::from_str(line).unwrap();
    read_as(form, line).unwrap().unwrap();
    for (pointer, value) in changes {
        let broken = broken(&whole, pointer, value);
        assert!(
            read_as(form, &broken).unwrap().is_err(),
            "{form}: {pointer} of {broken}"
        );
    }
}

#[tokio::test]
async fn json_lines_are_as_their_schema_says() {
    let world = World::new().await;
    let lines = world.lines("--format json").await;
    let Some(read) = read_as("json", &lines) else {
        return;
    };
    assert_eq!(events(read.unwrap())[8]["payload_base64"], "/wABCg==");
    let first = lines.lines().next().unwrap();
    refuses(
        "json",
        first,
        &[
            ("/seq", json!("1")),
            ("/payload", Value::Null),
            ("/payload_base64", json!("AA==")),
            ("/time", json!("2026-11-20")),
            ("/kind", json!("deleted")),
            ("/before", json!(7)),
        ],
    );
}

/// Red when an attribute has a name or a type that the specification does not allow, a payload changes on its way, or
/// two events share id and source.
#[tokio::test]
async fn cloud_events_are_understood_by_their_own_sdk() {
    let world = World::new().await;
    let lines = world.lines("--format cloudevents").await;
    let Some(read) = read_as("cloudevents", &lines) else {
        return;
    };
    let read = events(read.unwrap());
    let exported = world.cli.json("export").await;
    for (cloud_event, event) in read.iter().zip(&exported) {
        assert_eq!(cloud_event["id"], event["event_id"]);
        let source = cloud_event["source"].as_str().unwrap();
        let collection = event["collection"].as_str().unwrap();
        assert!(
            source.starts_with("/rdb/") && source.ends_with(&format!("/{collection}")),
            "{source}"
        );
        assert_eq!(cloud_event["subject"], event["key"]);
        assert_eq!(cloud_event["kind"], event["kind"]);
        assert_eq!(
            cloud_event["sequence"],
            format!("{:020}", event["seq"].as_u64().unwrap())
        );
        assert_eq!(cloud_event["version"], event["version"].to_string());
        let text = |value: &Value| {
            value
                .as_str()
                .map(|text| serde_json::from_str::<Value>(text).unwrap())
        };
        assert_eq!(
            text(&cloud_event["tags"]).unwrap_or_else(|| json!([])),
            event["tags"]
        );
        assert_eq!(
            text(&cloud_event["meta"]).unwrap_or_else(|| json!({})),
            event["meta"]
        );
    }
    let first = lines.lines().next().unwrap();
    refuses(
        "cloudevents",
        first,
        &[
            ("/sequence", json!("1")),
            ("/version", json!(1)),
            ("/type", json!("")),
            ("/data", Value::Null),
            ("/data_base64", json!("AA==")),
            ("/event_id", json!("x")),
        ],
    );
}

/// Red when a payload is not what was written, once the SDK has read it.
#[tokio::test]
async fn cloud_events_bring_the_payload_as_what_it_is() {
    let world = World::new().await;
    let lines = world.lines("--format cloudevents").await;
    let Some(read) = read_as("cloudevents", &lines) else {
        return;
    };
    let read = events(read.unwrap());
    let of = |field: &str| read.iter().map(|event| event[field].clone()).collect::<Vec<_>>();
    let (json, text, bytes) = ("application/json", "text/plain", "application/octet-stream");
    assert_eq!(
        of("content_type"),
        [
            json!(text),
            json!(json),
            Value::Null,
            Value::Null,
            json!(json),
            json!(text),
            json!(json),
            json!(text),
            json!(bytes)
        ]
    );
    assert_eq!(
        of("data"),
        [
            json!("First write"),
            json!({"a": [1, 2.5], "b": null}),
            Value::Null,
            Value::Null,
            json!(-500.0),
            json!("ß\u{0}\u{1b}[31m\u{fffe}"),
            Value::Null,
            json!("\"\\ud800\""),
            json!("/wABCg=="),
        ]
    );
    assert_eq!(
        of("type")[..4],
        ["rdb.write", "quarry blast", "rdb.write", "rdb.delete"]
    );
    assert_eq!(read[5]["type"], "ty\\u0007pe");
}

/// Red when an operation is told wrong, or a row is not the one that the key had.
#[tokio::test]
async fn debezium_envelopes_hold_the_rows_before_and_after() {
    let world = World::new().await;
    let lines = world.lines("--format debezium").await;
    let Some(read) = read_as("debezium", &lines) else {
        return;
    };
    let read = events(read.unwrap());
    let of = |pointer: &str| -> Vec<Value> {
        read.iter()
            .map(|line| line.pointer(pointer).cloned().unwrap_or_default())
            .collect()
    };
    assert_eq!(of("/op"), ["c", "u", "u", "d", "c", "c", "c", "u", "c"]);
    assert_eq!(of("/source/seq"), (1..=9).collect::<Vec<_>>());
    for key in ["Deep", "schlüssel/日本 🗝", "17", "bytes"] {
        let rows = read.iter().filter(|line| line["source"]["key"] == key);
        let mut last = Value::Null;
        for line in rows {
            assert_eq!(line["before"], last, "{line}");
            last = line["after"].clone();
        }
    }
    assert_eq!(of("/after/payload_base64")[8], "/wABCg==");
    let update = lines.lines().nth(1).unwrap();
    refuses(
        "debezium",
        update,
        &[
            ("/op", json!("c")),
            ("/op", json!("d")),
            ("/source/key", Value::Null),
            ("/source/seq", json!("2")),
            ("/after/payload_base64", json!("AA==")),
            ("/before", Value::Null),
        ],
    );
}

/// Red when a line tells another event than the one before, or a snapshot tells its events as changes.
#[tokio::test]
async fn what_was_before_and_what_was_read_for_a_snapshot_is_told() {
    let world = World::new().await;
    let with_before = world.lines("--before").await;
    let Some(with_before) = read_as("json", &with_before) else {
        return;
    };
    let before = events(with_before.unwrap())
        .into_iter()
        .map(|line| line["before"].clone());
    let expected = [
        None,
        Some(1),
        Some(2),
        Some(3),
        Some(4),
        None,
        None,
        Some(1),
        None,
    ];
    for (before, version) in before.zip(expected) {
        assert_eq!(before["version"].as_u64(), version, "{before}");
    }

    let snapshot = world.lines("--snapshot --format debezium").await;
    let snapshot = read_as("debezium", &snapshot).unwrap().unwrap();
    let seqs = snapshot
        .iter()
        .filter_map(|line| line.pointer("/source/seq").cloned());
    assert_eq!(seqs.collect::<Vec<_>>(), [5, 6, 8, 9]);
    let is_read = |line: &Value| line["resolved"].is_u64() || line["op"] == "r";
    assert!(snapshot.iter().all(is_read), "{snapshot:?}");
}
