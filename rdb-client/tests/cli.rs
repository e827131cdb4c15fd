//! The command line against a server in memory: names, shapes and exit codes that people script against.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use rdb_proto::reason::Reason;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use support::{Fake, Fault};

/// What a run of the program left behind.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.out.trim_end()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn command(address: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdb-client"));
    command
        .env_clear()
        .env("RDB_SERVER", address)
        .args(args)
        .stdin(Stdio::null());
    command
}

fn run(fake: &Fake, args: &[&str]) -> Ran {
    Ran::of(&command(&fake.address, args).output().unwrap())
}

fn run_with_input(fake: &Fake, args: &[&str], input: &str) -> Ran {
    let mut child = command(&fake.address, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(&child.wait_with_output().unwrap())
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const EVENT_FIELDS: [&str; 11] = [
    "seq",
    "collection",
    "key",
    "version",
    "kind",
    "type",
    "tags",
    "meta",
    "payload",
    "event_id",
    "time",
];

/// The first thing that a person does, in the words of the README.
#[test]
fn write_read_delete_and_read_again() {
    let fake = Fake::start();
    let wrote = run(&fake, &["-k", "Deep", "-p", "First write", "write"]).ok();
    assert!(
        wrote.out.starts_with("wrote Deep: version 1 at seq 1, event id "),
        "{}",
        wrote.out
    );
    let read = run(&fake, &["-k", "Deep", "read"]).ok();
    assert!(read.out.starts_with("Deep  version 1  seq 1\n"), "{}", read.out);
    assert!(read.out.ends_with("\n\nFirst write\n"), "{}", read.out);
    run(&fake, &["-k", "Deep", "delete"]).ok();

    let gone = run(&fake, &["-k", "Deep", "read"]);
    assert_eq!((gone.code, gone.out.as_str()), (3, ""));
    assert_eq!(
        gone.err,
        "error: read of `Deep` failed: key `Deep` does not exist\n  if it was deleted, its events are still \
         there:  rdb-client history -k Deep\n"
    );
}

/// One line a key, in the order of the arguments; what is not there is said.
#[test]
fn a_snapshot_prints_a_line_for_each_key() {
    let fake = Fake::start();
    for key in ["a", "b"] {
        run(&fake, &["write", "-k", key, "-p", "x"]).ok();
    }
    run(&fake, &["delete", "-k", "b"]).ok();
    let lines = run(&fake, &["snapshot", "-o", "json", "never", "a", "b"])
        .ok()
        .lines();
    assert_eq!(names(&lines[1]), EVENT_FIELDS);
    assert_eq!(
        [lines[0].to_string(), lines[2].to_string()],
        [
            r#"{"collection":"default","key":"never","version":0,"absent":true}"#,
            r#"{"collection":"default","key":"b","version":2,"absent":true}"#,
        ]
    );
    let then = run(&fake, &["snapshot", "-o", "json", "b", "--at", "2"])
        .ok()
        .json();
    assert_eq!(
        (then["version"].as_u64(), then["payload"].as_str()),
        (Some(1), Some("x"))
    );
    let text = run(&fake, &["snapshot", "b", "never"]).ok();
    assert_eq!(text.out, "b  deleted, at version 2\nnever  never written\n");
    assert_eq!(text.err, "as of seq 3\n");
}

#[test]
fn write_and_delete_answer_in_json() {
    let fake = Fake::start();
    let id = "0198f0aa-0000-7000-8000-000000000001";
    let args = ["-o", "json", "write", "-k", "Deep", "-p", "x", "--event-id", id];
    let wrote = run(&fake, &args).ok();
    assert_eq!(
        wrote.out,
        format!("{{\"seq\":1,\"key\":\"Deep\",\"version\":1,\"event_id\":\"{id}\",\"duplicate\":false}}\n")
    );
    assert_eq!(run(&fake, &args).ok().json()["duplicate"], true);
    let deleted = run(&fake, &["-o", "json", "delete", "-k", "Deep"]).ok().json();
    assert_eq!(
        names(&deleted),
        ["seq", "key", "version", "event_id", "duplicate"]
    );
    assert_eq!(deleted["version"], 2);
}

#[test]
fn an_event_in_json_has_every_field_in_its_place() {
    let fake = Fake::start();
    let written = [
        "write",
        "-k",
        "Deep",
        "-p",
        "First write",
        "--type",
        "note",
        "--tag",
        "a",
        "--tag",
        "b",
    ];
    run(
        &fake,
        &[&written[..], &["--meta", "by=me", "--meta", "eq=1=1"]].concat(),
    )
    .ok();
    let event = run(&fake, &["read", "-k", "Deep", "-o", "json"]).ok().json();
    assert_eq!(names(&event), EVENT_FIELDS);
    assert_eq!(
        (&event["kind"], &event["type"]),
        (&Value::from("write"), &Value::from("note"))
    );
    assert_eq!(event["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(event["meta"], serde_json::json!({"by": "me", "eq": "1=1"}));
    assert_eq!(event["time"], "2026-11-20T21:30:00.123456Z");
}

#[test]
fn a_payload_comes_from_standard_input_or_a_file_and_may_be_any_bytes() {
    let fake = Fake::start();
    run_with_input(&fake, &["write", "-k", "a", "-p", "-"], "from input\n").ok();
    assert_eq!(
        run(&fake, &["read", "-k", "a", "-o", "json"]).ok().json()["payload"],
        "from input\n"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload");
    std::fs::write(&file, b"\xff\x00\x01").unwrap();
    run(&fake, &["write", "-k", "b", "--file", file.to_str().unwrap()]).ok();
    let event = run(&fake, &["read", "-k", "b", "-o", "json"]).ok().json();
    assert_eq!(event["payload_base64"], "/wAB");
    assert_eq!(event.get("payload"), None);
    let text = run(&fake, &["read", "-k", "b"]).ok();
    assert!(text.out.ends_with("00000000  ff 00 01\n"), "{}", text.out);
}

#[test]
fn a_conflict_exits_4_and_names_the_current_version() {
    let fake = Fake::start();
    run(&fake, &["write", "-k", "Deep", "-p", "x", "--expect", "absent"]).ok();
    let conflict = run(&fake, &["write", "-k", "Deep", "-p", "x", "--expect", "7"]);
    assert_eq!(conflict.code, 4);
    assert_eq!(
        conflict.err,
        "error: write to `Deep` conflicted: key `Deep` is at version 1\n  nothing was written\n  see the newer \
         events:  rdb-client history -k Deep --from 1\n"
    );
    let conflict = run(
        &fake,
        &[
            "-o", "json", "write", "-k", "Deep", "-p", "x", "--expect", "absent",
        ],
    );
    let error = conflict.json();
    assert_eq!(
        (conflict.code, names(&error["error"])),
        (4, vec!["code", "reason", "message"])
    );
    assert_eq!(error["error"]["code"], "FAILED_PRECONDITION");
    assert_eq!(error["error"]["reason"], "VERSION_CONFLICT");
}

#[test]
fn wrong_usage_exits_2_and_writes_no_data() {
    let fake = Fake::start();
    for args in [
        &["write", "-p", "x"][..],
        &["write", "-k", "a"],
        &["write", "-k", "a", "-p", "x", "--expect", "-1"],
        &[
            "write",
            "-k",
            "a",
            "-p",
            "x",
            "--expect",
            "99999999999999999999999",
        ],
        &["write", "-k", "a", "-p", "x", "--event-id", "7"],
        &["delete", "-k", "a", "-p", "x"],
        &["nonsense"],
        &["read", "-k", "a", "--timeout", "10 parsecs"],
        &["subscribe", "--name", "mine", "--from-now"],
        &["subscribe", "--name", "mine", "--snapshot"],
        &["subscribe", "--name", "mine", "--order", "key"],
        &["subscribe", "--order", "keys"],
        &["subscriptions"],
        &["subscriptions", "seek", "mine"],
        &["subscribe", "--format", "xml"],
        &["subscribe", "--before", "--format", "cloudevents"],
        &["subscribe", "--before", "-o", "text"],
        &["subscribe", "--format", "json", "-o", "text"],
        &["subscribe", "--from-time", "yesterday"],
        &["subscribe", "--snapshot", "--from", "1"],
        &["subscribe", "--snapshot-of", "1"],
        &["subscribe", "--from", "1", "--from-now"],
        &[],
    ] {
        let ran = run(&fake, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
}

/// An address that nobody listens at: its port was free a moment ago.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn an_etcd_that_does_not_answer_exits_5_and_says_so() {
    let closed = closed();
    let ran = command("", &["--etcd", &closed, "status"]).output();
    let ran = Ran::of(&ran.unwrap());
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(
        ran.err
            .contains("finding the nodes failed: etcd does not answer: 127.0.0.1:"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("Connection refused"), "{}", ran.err);
}

#[test]
fn a_refused_field_exits_1_and_says_which() {
    let fake = Fake::start();
    let ran = run(&fake, &["-o", "json", "write", "-k", "", "-p", "x"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["error"]["reason"], "FIELD_INVALID");
    assert!(ran.err.contains("key must not be empty"), "{}", ran.err);
}

#[test]
fn without_a_server_it_exits_5_and_says_what_to_do() {
    let ran = Ran::of(
        &command("127.0.0.1:1", &["--timeout", "200ms", "read", "-k", "a"])
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("cannot connect to 127.0.0.1:1: "), "{}", ran.err);
    assert!(ran.err.contains("--server HOST:PORT"), "{}", ran.err);
    for endless in ["subscribe", "export"] {
        let ran = Ran::of(
            &command("127.0.0.1:1", &["--timeout", "200ms", endless])
                .output()
                .unwrap(),
        );
        assert_eq!(ran.code, 5, "{endless}: {}", ran.err);
    }
}

#[test]
fn an_unknown_outcome_exits_5_and_gives_the_event_id_to_repeat() {
    for faults in [&[Fault::LoseRequest; 200][..], &[Fault::Hang]] {
        let fake = Fake::start();
        fake.fail_next(faults);
        let ran = run(
            &fake,
            &["-o", "json", "write", "-k", "a", "-p", "x", "--timeout", "200ms"],
        );
        assert_eq!(ran.code, 5);
        assert_eq!(ran.json()["error"]["reason"], "OUTCOME_UNKNOWN");
        assert!(ran.err.contains("it may have been written"), "{}", ran.err);
        assert!(
            ran.err.contains("the same write again with --event-id "),
            "{}",
            ran.err
        );
    }
}

#[test]
fn the_environment_stands_in_for_flags_and_flags_win() {
    let fake = Fake::start();
    let (ip, port) = fake.address.split_once(':').unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdb-client"));
    command.env_clear().env("SERVER_IP", ip).env("SERVER_PORT", port);
    command
        .env("RDB_COLLECTION", "orders")
        .env("RDB_OUTPUT", "json")
        .env("RDB_TIMEOUT", "3s");
    let wrote = Ran::of(&command.args(["write", "-k", "a", "-p", "x"]).output().unwrap()).ok();
    assert_eq!(wrote.json()["version"], 1);
    assert_eq!(run(&fake, &["read", "-k", "a"]).code, 3);
    assert_eq!(run(&fake, &["read", "-k", "a", "--collection", "orders"]).code, 0);
}

#[test]
fn history_and_keys_list_line_by_line() {
    let fake = Fake::start();
    for payload in ["1", "2", "3"] {
        run(&fake, &["write", "-k", "b", "-p", payload]).ok();
    }
    run(&fake, &["write", "-k", "a", "-p", "x"]).ok();
    run(&fake, &["delete", "-k", "a"]).ok();

    let history = run(
        &fake,
        &["history", "-k", "b", "--backwards", "--limit", "2", "-o", "json"],
    )
    .ok()
    .lines();
    assert_eq!(
        history.iter().map(|event| &event["version"]).collect::<Vec<_>>(),
        [3, 2]
    );
    assert_eq!(names(&history[0]), EVENT_FIELDS);
    let text = run(&fake, &["history", "-k", "b", "--from", "3"]).ok();
    assert_eq!(text.out, "3  2026-11-20T21:30:00.123456Z  v3    3\n");
    assert_eq!(run(&fake, &["history", "-k", "none"]).code, 3);
    assert_eq!(run(&fake, &["history", "-k", "b", "--from", "9"]).code, 0);

    let keys = run(&fake, &["keys", "-o", "json"]).ok();
    assert_eq!(
        keys.out,
        "{\"key\":\"a\",\"version\":2,\"seq\":5,\"deleted\":true}\n\
         {\"key\":\"b\",\"version\":3,\"seq\":3,\"deleted\":false}\n"
    );
    let keys = run(&fake, &["keys", "--prefix", "a"]).ok();
    assert_eq!(keys.out, "a  version 2  seq 5  (deleted)\n");
    assert_eq!(
        run(&fake, &["keys", "--limit", "1", "-o", "json"])
            .ok()
            .lines()
            .len(),
        1
    );
}

#[test]
fn append_takes_a_file_whole_or_not_at_all() {
    let fake = Fake::start();
    let lines = "{\"payload\":\"a\",\"type\":\"note\",\"tags\":[\"t\"]}\n{\"payload\":{\"n\":1}}\n";
    let appended = run_with_input(&fake, &["append", "-k", "a", "--file", "-", "-o", "json"], lines).ok();
    assert_eq!(
        appended
            .lines()
            .iter()
            .map(|line| &line["version"])
            .collect::<Vec<_>>(),
        [1, 2]
    );

    let bad = "{\"payload\":\"a\"}\n{\"payloat\":\"b\"}\n";
    let refused = run_with_input(&fake, &["append", "-k", "a", "--file", "-"], bad);
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("line 2: unknown field `payloat`"),
        "{}",
        refused.err
    );
    let conflict = run_with_input(
        &fake,
        &["append", "-k", "a", "--file", "-", "--expect", "absent"],
        lines,
    );
    assert_eq!(conflict.code, 4);
    assert_eq!(fake.state().events.len(), 2);
}

#[test]
fn subscribe_prints_events_as_json_lines_when_piped() {
    let fake = Fake::start();
    for key in ["orders/1", "users/1", "orders/2"] {
        run(&fake, &["write", "-k", key, "-p", "x"]).ok();
    }
    let all = run(&fake, &["subscribe", "--until-caught-up"]).ok();
    assert_eq!(
        all.lines().iter().map(|event| &event["seq"]).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(names(&all.lines()[0]), EVENT_FIELDS);
    let some = [
        "subscribe",
        "--from",
        "1",
        "--prefix",
        "orders/",
        "--until-caught-up",
        "--resolved",
    ];
    let some = run(&fake, &some).ok();
    assert!(some.out.ends_with("}\n{\"resolved\":3}\n"), "{}", some.out);
    assert_eq!(some.lines()[0]["key"], "orders/2");
    let limited = run(&fake, &["subscribe", "--limit", "2"]).ok();
    assert_eq!(limited.lines().len(), 2);
    let one_key = run(&fake, &["subscribe", "-k", "users/1", "--until-caught-up"]).ok();
    assert_eq!(one_key.lines().len(), 1);
    let text = run(&fake, &["subscribe", "--until-caught-up", "-o", "text"]).ok();
    assert!(
        text.out.starts_with("1  2026-11-20T21:30:00.123456Z  orders/1"),
        "{}",
        text.out
    );
    let ahead = run(&fake, &["subscribe", "--from", "99"]);
    assert_eq!(ahead.code, 1);
}

#[test]
fn a_subscription_that_is_cut_off_by_its_timeout_says_how_to_go_on() {
    let fake = Fake::start();
    run(&fake, &["write", "-k", "a", "-p", "x"]).ok();
    let ended = run(&fake, &["subscribe", "--timeout", "300ms"]).ok();
    assert_eq!(ended.lines().len(), 1);
    assert_eq!(
        ended.err,
        "go on with: rdb-client subscribe --timeout 300ms --from 1\n"
    );
    let missed = run(&fake, &["subscribe", "--timeout", "300ms", "--limit", "2"]);
    assert_eq!((missed.code, missed.lines().len()), (5, 1));
}

/// A run that ends, and the run that it names, show everything once; of a snapshot, too.
#[test]
fn what_a_run_says_goes_on_where_it_ended() {
    for (start, expected) in [("--from=0", &[1, 2, 3, 4][..]), ("--snapshot", &[2, 3, 4])] {
        let fake = Fake::start();
        for key in ["a", "b", "a"] {
            run(&fake, &["write", "-k", key, "-p", "x"]).ok();
        }
        let mut words = format!("subscribe --timeout 1s {start}");
        let mut seen = Vec::new();
        for _ in 0..2 {
            let ended = run(&fake, &words.split(' ').collect::<Vec<_>>()).ok();
            seen.extend(ended.lines().iter().map(|event| event["seq"].as_u64().unwrap()));
            let next = ended.err.strip_prefix("go on with: rdb-client ").unwrap();
            next.trim_end().clone_into(&mut words);
            run(&fake, &["write", "-k", "a", "-p", "x"]).ok();
        }
        assert_eq!(words, "subscribe --timeout 1s --from 4");
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_snapshot_is_gone_on_with_in_its_middle() {
    let fake = Fake::start();
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        run(&fake, &["write", "-k", key, "-p", payload]).ok();
    }
    let seqs = |ran: &Ran| -> Vec<u64> {
        let lines = ran.lines();
        lines.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let begun = run(&fake, &["subscribe", "--snapshot", "--until-caught-up"]).ok();
    assert_eq!(seqs(&begun), [2, 3, 4]);
    run(&fake, &["write", "-k", "a", "-p", "5"]).ok();
    let args = [
        "subscribe",
        "--snapshot-of",
        "4",
        "--from",
        "2",
        "--until-caught-up",
    ];
    assert_eq!(seqs(&run(&fake, &args).ok()), [3, 4, 5]);
}

#[test]
fn a_subscription_begins_at_a_time_or_so_long_ago() {
    let fake = Fake::start();
    for time in ["2026-11-20T21:30:00Z", "2h"] {
        run(&fake, &["subscribe", "--from-time", time, "--until-caught-up"]).ok();
    }
    let asked = fake.state().times_asked.clone();
    assert_eq!(asked[0], 1_795_210_200_000_000);
    let ago = rdb_client::clock::wall_time().get() - asked[1];
    assert!(
        (7_200_000_000..7_260_000_000).contains(&ago),
        "{ago} microseconds"
    );
}

#[test]
fn a_line_has_the_form_that_was_asked_for() {
    let fake = Fake::start();
    for payload in ["{\"n\":1}", "text"] {
        run(&fake, &["write", "-k", "a", "-p", payload]).ok();
    }
    run(&fake, &["delete", "-k", "a"]).ok();
    run(&fake, &["write", "-k", "a", "-p", ""]).ok();
    let lines = |flags: &[&str]| {
        let args = [&["subscribe", "--until-caught-up", "--resolved"][..], flags].concat();
        let mut lines = run(&fake, &args).ok().lines();
        assert_eq!(lines.pop().unwrap(), serde_json::json!({"resolved": 4}));
        lines
    };
    let of = |lines: &[Value], field: &str| -> Vec<Value> {
        lines
            .iter()
            .map(|line| line.pointer(field).cloned().unwrap_or_default())
            .collect()
    };
    let before = lines(&["--before"]);
    assert_eq!(names(&before[1])[..11], EVENT_FIELDS);
    assert_eq!(
        of(&before, "/before/version"),
        [Value::Null, 1.into(), 2.into(), 3.into()]
    );
    let envelopes = lines(&["--format", "debezium"]);
    assert_eq!(of(&envelopes, "/op"), ["c", "u", "d", "c"]);
    assert_eq!(
        of(&envelopes, "/before/payload"),
        [Value::Null, "{\"n\":1}".into(), "text".into(), Value::Null]
    );
    let cloud_events = lines(&["--format", "cloudevents"]);
    assert_eq!(
        of(&cloud_events, "/type"),
        ["rdb.write", "rdb.write", "rdb.delete", "rdb.write"]
    );
    assert_eq!(
        of(&cloud_events, "/data"),
        [
            serde_json::json!({"n": 1}),
            "text".into(),
            Value::Null,
            Value::Null
        ]
    );
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let fake = Fake::start();
    let payload = "x".repeat(60_000);
    for _ in 0..20 {
        run(&fake, &["write", "-k", "a", "-p", &payload]).ok();
    }
    let mut child = command(&fake.address, &["subscribe", "--until-caught-up"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = child.wait_with_output().unwrap();
    assert_eq!((ran.status.code(), ran.stderr), (Some(0), Vec::new()));
}

#[test]
fn export_is_bounded_by_seqs() {
    let fake = Fake::start();
    for payload in ["1", "2", "3", "4"] {
        run(&fake, &["write", "-k", "a", "-p", payload]).ok();
    }
    let seqs = |args: &[&str]| {
        let lines = run(&fake, args).ok().lines();
        lines
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs(&["export"]), [1, 2, 3, 4]);
    assert_eq!(seqs(&["export", "--from", "1", "--to", "3"]), [2, 3]);
    assert_eq!(seqs(&["export", "--to", "99"]), [1, 2, 3, 4]);
    assert_eq!(seqs(&["export", "--from", "4"]), Vec::<u64>::new());
}

const LINES: &str = r#"{"id":"a1","net":"us","mag":2,"type":"earthquake"}
{"id":"a2","net":"uw","mag":0.31,"type":"earthquake"}

{"id":"a3","net":"us","mag":5.3,"type":"quarry blast"}
{"id":"a4","net":7,"mag":1}
"#;

const IMPORT: [&str; 9] = [
    "-o",
    "json",
    "import",
    "--key-field",
    "net",
    "--type-field",
    "type",
    "--id-field",
    "id",
];

#[test]
fn import_stores_each_line_once_however_often_it_runs() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quakes.ndjson");
    std::fs::write(&file, LINES).unwrap();
    let args = [&IMPORT[..], &[file.to_str().unwrap()]].concat();
    let summary = run(&fake, &args).ok().json();
    assert_eq!(
        names(&summary)[..5],
        ["events", "seconds", "first_seq", "last_seq", "duplicates"]
    );
    assert_eq!(
        (&summary["events"], &summary["first_seq"], &summary["last_seq"]),
        (&4.into(), &1.into(), &4.into())
    );
    let again = run(&fake, &args).ok().json();
    assert_eq!((&again["events"], &again["duplicates"]), (&0.into(), &4.into()));
    assert_eq!(again["first_seq"], Value::Null);

    let us = run(&fake, &["history", "-k", "us", "-o", "json"]).ok().lines();
    assert_eq!(us[0]["payload"], LINES.lines().next().unwrap());
    assert_eq!(
        (&us[0]["type"], &us[1]["type"]),
        (&"earthquake".into(), &"quarry blast".into())
    );
    assert_eq!(run(&fake, &["read", "-k", "7"]).ok().code, 0);
}

/// The promise: lines of a key are stored in the order of the file, whatever is refused or lost in between.
#[test]
fn import_keeps_the_order_of_each_key_over_refusals_and_lost_answers() {
    let fake = Fake::start();
    let lines: Vec<String> = (0..600)
        .map(|n| format!("{{\"key\":\"k{}\",\"n\":{n}}}\n", n / 3 % 7))
        .collect();
    let lines = lines.concat();
    let mut faults = Vec::new();
    for n in 0..60 {
        faults.extend([Fault::None; 3]);
        faults.push(
            [
                Fault::Refuse(Reason::Overloaded),
                Fault::LoseAnswer,
                Fault::Refuse(Reason::SeatVacant),
            ][n % 3],
        );
    }
    fake.fail_next(&faults);
    let summary = run_with_input(&fake, &["import", "-", "-o", "json"], &lines)
        .ok()
        .json();
    assert_eq!(fake.state().events.len(), 600);
    assert_eq!(
        (&summary["events"], &summary["duplicates"]),
        (&600.into(), &0.into())
    );
    assert!(summary["retries"].as_u64().unwrap() > 0, "{summary}");
    for key in 0..7 {
        let history = run(&fake, &["history", "-k", &format!("k{key}"), "-o", "json"])
            .ok()
            .lines();
        let order: Vec<u64> = history
            .iter()
            .map(|event| serde_json::from_str::<Value>(event["payload"].as_str().unwrap()).unwrap())
            .map(|payload| payload["n"].as_u64().unwrap())
            .collect();
        assert!(order.is_sorted(), "k{key}: {order:?}");
    }
}

#[test]
fn import_stops_at_a_bad_line_and_says_what_was_stored() {
    let fake = Fake::start();
    let bad = format!("{LINES}{{\"id\":\"a5\"}}\n{{\"id\":\"a6\",\"net\":\"us\"}}\n");
    let ran = run_with_input(&fake, &[&IMPORT[..], &["-"]].concat(), &bad);
    assert_eq!(ran.code, 1);
    let lines = ran.lines();
    assert_eq!(lines[0]["events"], 4);
    assert_eq!(
        lines[1]["error"]["message"],
        "- line 6: no field \"net\" for the key"
    );
    assert_eq!(fake.state().events.len(), 4);
}

#[test]
fn a_status_is_watched_until_the_time_is_over_also_while_nobody_answers() {
    let fake = Fake::start();
    let watched = run(
        &fake,
        &["status", "--watch=50ms", "--timeout", "400ms", "-o", "json"],
    )
    .ok();
    let lines = watched
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(
        lines.filter(|status| status["healthy"] == true).count() > 2,
        "{}",
        watched.out
    );
    let closed = closed();
    let ran = command(&closed, &["status", "--watch=50ms", "--timeout", "300ms"]).output();
    let ran = Ran::of(&ran.unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.contains("no status: cannot connect"), "{}", ran.err);
}

#[test]
fn a_script_waits_until_the_database_is_healthy_or_exits_5() {
    let fake = Fake::start();
    let ran = run(&fake, &["status", "--until-healthy", "-o", "json"]).ok();
    assert_eq!(ran.json()["healthy"], true);
    let closed = closed();
    let ran = command(&closed, &["status", "--until-healthy", "--timeout", "500ms"]).output();
    let ran = Ran::of(&ran.unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (5, ""), "{}", ran.err);
    assert!(
        ran.err
            .contains("the database is not healthy yet: cannot connect"),
        "{}",
        ran.err
    );
}

#[test]
fn status_is_one_object_or_one_screen() {
    let fake = Fake::start();
    let status = run(&fake, &["status", "-o", "json"]).ok().json();
    let fields = [
        "healthy",
        "summary",
        "database",
        "database_id",
        "counter",
        "resolved",
        "nodes",
        "groups",
        "slots",
        "warnings",
        "held",
        "unreplaced",
    ];
    assert_eq!(names(&status), fields);
    let seat = &status["groups"][0]["seats"][0];
    for field in ["leader", "epoch", "commit", "resolved", "lag"] {
        assert!(seat[field].is_u64(), "{field}: {seat}");
    }
    let screen = run(&fake, &["status"]).ok();
    assert!(
        screen
            .out
            .starts_with("healthy: 2 of 2 seats take writes\ndatabase rdb ("),
        "{}",
        screen.out
    );
    assert!(
        screen.out.contains("0      1     leading  n1      1"),
        "{}",
        screen.out
    );
}

#[test]
fn bench_reports_one_object() {
    let fake = Fake::start();
    let fields = [
        "events",
        "requests",
        "seconds",
        "events_per_s",
        "p50_us",
        "p90_us",
        "p99_us",
        "max_us",
        "errors",
    ];
    for args in [
        &["append", "--clients", "2", "--events", "10"][..],
        &[
            "append", "--stream", "--events", "100", "--batch", "10", "--window", "4",
        ],
        &["append", "--events", "10", "--rate", "1000"],
        &[
            "append",
            "--stream",
            "--events",
            "10",
            "--rate",
            "1000",
            "--shared",
            "--clients",
            "2",
        ],
        &["read", "--events", "20", "--clients", "2"],
        &["latency", "--events", "20", "--rate", "1000"],
    ] {
        let report = run(&fake, &[&["-o", "json", "bench"], args].concat()).ok().json();
        assert_eq!(names(&report)[..fields.len()], fields, "{args:?}");
        let events: u64 = args[args.iter().position(|arg| *arg == "--events").unwrap() + 1]
            .parse()
            .unwrap();
        assert_eq!(
            (&report["events"], &report["errors"]),
            (&events.into(), &0.into()),
            "{args:?}"
        );
    }
    for args in [&["subscribe"][..], &["subscribe", "--decode", "--clients", "2"]] {
        let report = run(&fake, &[&["-o", "json", "bench"], args].concat()).ok().json();
        assert!(report["events"].as_u64().unwrap() >= 150, "{report}");
    }
    assert_eq!(run(&fake, &["bench", "read", "--collection", "empty"]).code, 1);
}

#[test]
fn help_and_completions_need_no_server() {
    for args in [
        &["--help"][..],
        &["write", "--help"],
        &["completions", "bash"],
        &["--version"],
    ] {
        let ran = Ran::of(&command("127.0.0.1:1", args).output().unwrap()).ok();
        assert!(!ran.out.is_empty(), "{args:?}");
    }
}
