//! The command line is an interface that people script against: these cases pin the JSON shape and the exit codes of
//! each command. More may come; what stands here stays.
#![cfg(test)]

use rdb_tests::command::{Answer, Cli, finish};
use rdb_tests::process::Node;
use rdb_tests::time::{Stopwatch, soon};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};

struct World {
    dir: tempfile::TempDir,
    cli: Cli,
    /// Ends the node when the test ends.
    _node: Node,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(&dir.path().join("data")).await;
        Self {
            cli: Cli::new(node.grpc),
            dir,
            _node: node,
        }
    }

    /// A file with this content.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn earthquakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/earthquakes.ndjson")
}

/// Names of the members, in their order.
fn shape(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("an object: {value}"))
        .keys()
        .map(String::as_str)
        .collect()
}

const WRITTEN: [&str; 5] = ["seq", "key", "version", "event_id", "duplicate"];
const EVENT: [&str; 11] = [
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

/// The error object of `-o json`, wherever it was printed.
fn error_object(answer: &Answer) -> Value {
    let lines = answer.stdout.lines().chain(answer.stderr.lines());
    let mut errors = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("error").cloned());
    let error = errors
        .next()
        .unwrap_or_else(|| panic!("an error object in {answer:?}"));
    assert_eq!(shape(&error), ["code", "reason", "message"]);
    error
}

/// The three commands of the first README, and what a deleted key answers.
#[tokio::test]
async fn write_read_and_delete_as_in_the_first_readme() {
    let World { cli, .. } = &World::new().await;
    cli.run(["-k", "Deep", "-p", "First write", "write"])
        .await
        .succeeded();
    let read = cli.run(["-k", "Deep", "read"]).await.succeeded();
    assert!(read.stdout.contains("First write"), "{read:?}");
    cli.line("-k Deep delete").await.succeeded();
    let gone = cli.line("-k Deep read").await.exited(3);
    assert_eq!(gone.stdout, "");
    assert!(gone.stderr.contains("Deep"), "{gone:?}");
}

/// Flags stand before or after the command.
#[tokio::test]
async fn flags_stand_before_or_after_the_command() {
    let World { cli, .. } = &World::new().await;
    let orders = [
        ["-k", "a", "-p", "x", "-o", "json", "write"],
        ["write", "-k", "a", "-p", "x", "-o", "json"],
        ["-k", "a", "write", "-p", "x", "-o", "json"],
        ["-o", "json", "write", "--key", "a", "--payload", "x"],
    ];
    for (version, arguments) in (1..).zip(orders) {
        let written = cli.run(arguments).await.succeeded().json();
        assert_eq!(written["version"], version, "{arguments:?}");
    }
    for line in ["-k a -o json read", "read -k a -o json", "-o json read -k a"] {
        assert_eq!(cli.line(line).await.succeeded().json()["version"], 4, "{line}");
    }
}

/// `write` and `delete`: shape, expectations, event ids, and everything that an event can carry.
#[tokio::test]
async fn write_prints_where_the_event_is() {
    let World { cli, .. } = &World::new().await;
    let id = "0192f0c4-1111-7abc-8def-0123456789ab";
    let line =
        format!("write -k a -p x --type note --tag t1 --tag t2 --meta by=me --meta q=a=b --event-id {id}");
    let written = &cli.json(&line).await[0];
    assert_eq!(shape(written), WRITTEN);
    assert_eq!((&written["seq"], &written["version"]), (&1.into(), &1.into()));
    assert_eq!((&written["key"], &written["event_id"]), (&"a".into(), &id.into()));
    assert_eq!(written["duplicate"], false);

    let again = &cli.json(&line).await[0];
    assert_eq!((&again["seq"], &again["duplicate"]), (&1.into(), &true.into()));

    let event = &cli.json("read -k a").await[0];
    assert_eq!(shape(event), EVENT);
    assert_eq!(event["tags"], serde_json::json!(["t1", "t2"]));
    assert_eq!(event["meta"], serde_json::json!({"by": "me", "q": "a=b"}));
    assert_eq!(
        (&event["type"], &event["kind"], &event["collection"]),
        (&"note".into(), &"write".into(), &"default".into())
    );
    let time = event["time"].as_str().unwrap();
    assert!(
        time.len() == 27 && time.ends_with('Z') && time.contains('T'),
        "microseconds, UTC: {time}"
    );

    for expect in ["exists", "1"] {
        cli.line(&format!("write -k {expect} -p y --expect {expect}"))
            .await
            .exited(4);
    }
    cli.line("write -k a -p y --expect any").await.succeeded();
    cli.line("write -k a -p y --expect absent").await.exited(4);
    let conflict = cli.line("write -k a -p y --expect 1").await.exited(4);
    assert!(
        conflict.stderr.contains("version 2"),
        "the current version is told: {conflict:?}"
    );
    cli.line("write -k a -p y --expect 2").await.succeeded();

    cli.line("delete -k a --expect 1").await.exited(4);
    let deleted = &cli.json("delete -k a --expect 3").await[0];
    assert_eq!(shape(deleted), WRITTEN);
    assert_eq!(deleted["version"], 4);
    cli.line("delete -k a").await.exited(3);
}

/// Payloads from a flag, from standard input, from a file; as text or as base64.
#[tokio::test]
async fn a_payload_comes_from_a_flag_a_pipe_or_a_file() {
    let world = World::new().await;
    let cli = &world.cli;
    cli.run_with_input(["write", "-k", "pipe", "-p", "-"], "from a pipe\n".as_bytes())
        .await
        .succeeded();
    let piped = &cli.json("read -k pipe").await[0];
    assert!(
        piped["payload"].as_str().unwrap().starts_with("from a pipe"),
        "{piped}"
    );

    let file = world.file("payload", "from a file");
    cli.run(["write", "-k", "file", "--file", &file])
        .await
        .succeeded();
    assert_eq!(cli.json("read -k file").await[0]["payload"], "from a file");

    cli.run_with_input(["write", "-k", "binary", "-p", "-"], &[0xff, 0, 1])
        .await
        .succeeded();
    let binary = &cli.json("read -k binary").await[0];
    assert_eq!(binary["payload_base64"], "/wAB");
    assert!(binary.get("payload").is_none(), "{binary}");

    cli.run(["write", "-k", "empty", "-p", ""]).await.succeeded();
    assert_eq!(cli.json("read -k empty").await[0]["payload"], "");
    cli.run(["write", "-k", "ü 日本", "-p", "ß"]).await.succeeded();
    assert_eq!(
        cli.run(["-o", "json", "read", "-k", "ü 日本"])
            .await
            .succeeded()
            .json()["payload"],
        "ß"
    );
}

/// `read` as of a seq, and its consistency levels.
#[tokio::test]
async fn read_answers_as_of_a_seq() {
    let World { cli, .. } = &World::new().await;
    cli.line("write -k a -p one").await.succeeded();
    cli.line("write -k a -p two").await.succeeded();
    assert_eq!(cli.json("read -k a --at 1").await[0]["payload"], "one");
    assert_eq!(
        cli.json("read -k a --consistency local").await[0]["payload"],
        "two"
    );
    assert_eq!(
        cli.json("read -k a --consistency linearizable").await[0]["payload"],
        "two"
    );
    let ahead = cli.line("-o json read -k a --at 999").await.exited(1);
    assert_eq!(error_object(&ahead)["reason"], "SEQ_AHEAD");
    cli.line("read -k a --consistency sometimes").await.exited(2);
}

/// `history` and `keys`.
#[tokio::test]
async fn history_and_keys_print_a_line_each() {
    let World { cli, .. } = &World::new().await;
    for n in 1..=4 {
        cli.line(&format!("write -k a/1 -p {n}")).await.succeeded();
    }
    cli.line("write -k a/2 -p x").await.succeeded();
    cli.line("delete -k a/2").await.succeeded();
    cli.line("write -k b -p x").await.succeeded();
    let versions = async |line: &str| {
        let events = cli.json(line).await;
        assert!(events.iter().all(|event| shape(event) == EVENT), "{events:?}");
        events
            .iter()
            .map(|event| event["version"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(versions("history -k a/1").await, [1, 2, 3, 4]);
    assert_eq!(versions("history -k a/1 --from 2 --limit 2").await, [2, 3]);
    assert_eq!(versions("history -k a/1 --backwards --limit 3").await, [4, 3, 2]);
    assert_eq!(cli.json("history -k a/2").await[1]["kind"], "delete");
    cli.line("history -k none").await.exited(3);

    let keys = cli.json("keys").await;
    assert!(
        keys.iter()
            .all(|key| shape(key) == ["key", "version", "seq", "deleted"]),
        "{keys:?}"
    );
    let names: Vec<_> = keys.iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert_eq!(names, ["a/1", "a/2", "b"]);
    assert_eq!((&keys[1]["deleted"], &keys[1]["seq"]), (&true.into(), &6.into()));
    assert_eq!(cli.json("keys --prefix a/").await.len(), 2);
    assert_eq!(cli.json("keys --limit 1").await.len(), 1);
    assert_eq!(cli.json("keys --prefix none").await.len(), 0);
}

/// `append`: all events of the file or none.
#[tokio::test]
async fn append_stores_all_of_a_file_or_nothing() {
    let world = World::new().await;
    let cli = &world.cli;
    let lines = "{\"payload\":\"one\",\"type\":\"t\",\"tags\":[\"x\"]}\n{\"payload\":\"two\"}\n";
    let file = world.file("events.ndjson", lines);
    let results = cli
        .run([
            "-o", "json", "append", "-k", "a", "--file", &file, "--expect", "absent",
        ])
        .await;
    let results = results.succeeded().json_lines();
    assert_eq!(results.iter().map(shape).collect::<Vec<_>>(), [WRITTEN, WRITTEN]);
    assert_eq!(results[1]["version"], 2);
    let events = cli.json("history -k a").await;
    assert_eq!(
        (&events[0]["type"], &events[0]["tags"]),
        (&"t".into(), &serde_json::json!(["x"]))
    );

    cli.run(["append", "-k", "a", "--file", &file, "--expect", "absent"])
        .await
        .exited(4);
    let broken = world.file("broken.ndjson", "{\"payload\":\"three\"}\nnot json\n");
    let answer = cli.run(["append", "-k", "a", "--file", &broken]).await;
    assert!([1, 2].contains(&answer.code), "{answer:?}");
    assert!(
        answer.stderr.contains("line 2") || answer.stderr.contains(":2"),
        "the line is named: {answer:?}"
    );
    assert_eq!(
        cli.json("history -k a").await.len(),
        2,
        "nothing of it was stored"
    );
}

/// `import` of the 1,707 real events: once, however often it runs.
#[tokio::test]
async fn an_import_that_runs_again_adds_nothing() {
    let World { cli, .. } = &World::new().await;
    let file = earthquakes();
    let arguments = [
        "-o",
        "json",
        "import",
        file.to_str().unwrap(),
        "--key-field",
        "net",
        "--id-field",
        "id",
        "--type-field",
        "type",
    ];
    let summary = cli.run(arguments).await.succeeded().json();
    assert_eq!(
        shape(&summary),
        ["events", "seconds", "first_seq", "last_seq", "duplicates"]
    );
    let numbers =
        ["events", "first_seq", "last_seq", "duplicates"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(numbers, [1_707, 1, 1_707, 0]);

    let again = cli.run(arguments).await.succeeded().json();
    assert_eq!(again["duplicates"], 1_707, "{again}");
    let status = &cli.json("status").await[0];
    assert_eq!(status["counter"], 1_707, "nothing was added: {status}");

    let networks = cli.json("keys").await;
    assert_eq!(networks.len(), 12);
    let california = networks.iter().find(|key| key["key"] == "ci").unwrap();
    assert_eq!(california["version"], 386);
    let latest = &cli.json("read -k ci").await[0];
    assert_eq!(latest["type"], "earthquake");
    let payload: Value = serde_json::from_str(latest["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload["id"], "ci37868143");
    let quarry = cli
        .run([
            "-o",
            "json",
            "subscribe",
            "--until-caught-up",
            "--type",
            "quarry blast",
        ])
        .await;
    assert_eq!(quarry.succeeded().json_lines().len(), 13);
}

/// An import names the line that it cannot take.
#[tokio::test]
async fn an_import_names_the_line_that_is_wrong() {
    let world = World::new().await;
    let cli = &world.cli;
    let file = world.file("bad.ndjson", "{\"k\":\"a\"}\n{\"other\":1}\n");
    let answer = cli.run(["import", &file, "--key-field", "k"]).await;
    assert!([1, 2].contains(&answer.code), "{answer:?}");
    assert!(
        answer.stderr.contains("line 2") || answer.stderr.contains(":2"),
        "{answer:?}"
    );
    let missing = cli.run(["import", "/no/such/file", "--key-field", "k"]).await;
    assert!([1, 2].contains(&missing.code), "{missing:?}");
    assert!(missing.stderr.contains("/no/such/file"), "{missing:?}");
}

/// `export` and `subscribe` print the same events, from and to any seq.
#[tokio::test]
async fn export_and_subscribe_print_an_event_a_line() {
    let World { cli, .. } = &World::new().await;
    for n in 1..=6 {
        cli.line(&format!(
            "write -k k{} -p {n} --type t{} --tag g{}",
            n % 3,
            n % 2,
            n % 2
        ))
        .await
        .succeeded();
    }
    let seqs = async |line: &str| {
        let events = cli.json(line).await;
        assert!(events.iter().all(|event| shape(event) == EVENT), "{events:?}");
        events
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs("export").await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs("export --from 2 --to 4").await, [3, 4]);
    assert_eq!(
        seqs("subscribe --from 0 --until-caught-up").await,
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(seqs("subscribe --from 4 --until-caught-up").await, [5, 6]);
    assert_eq!(seqs("subscribe --from 0 --limit 2").await, [1, 2]);
    assert_eq!(
        seqs("subscribe --from 0 --until-caught-up --type t1").await,
        [1, 3, 5]
    );
    assert_eq!(
        seqs("subscribe --from 0 --until-caught-up --tag g0").await,
        [2, 4, 6]
    );
    assert_eq!(
        seqs("subscribe --from 0 --until-caught-up --prefix k1").await,
        [1, 4]
    );

    let with_marks = cli.json("subscribe --from 0 --until-caught-up --resolved").await;
    let marks: Vec<_> = with_marks
        .iter()
        .filter(|line| shape(line) == ["resolved"])
        .collect();
    assert!(
        !marks.is_empty() && marks.last().unwrap()["resolved"] == 6,
        "{with_marks:?}"
    );

    let ahead = cli.line("-o json subscribe --from 999 --limit 1").await.exited(1);
    assert_eq!(error_object(&ahead)["reason"], "SEQ_AHEAD");
}

/// A subscription shows what is written while it runs; a reader that goes away ends it in silence.
#[tokio::test]
async fn a_subscription_goes_on_and_a_closed_pipe_ends_it() {
    let World { cli, .. } = &World::new().await;
    cli.line("write -k a -p one").await.succeeded();
    let mut command = cli.command(["-o", "json", "subscribe", "--from", "0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for n in 1..=3_u64 {
        let line = soon("a line of the subscription", lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["seq"], n);
        cli.line("write -k a -p more").await.succeeded();
    }
    drop(lines);
    cli.line("write -k a -p into-nothing").await.succeeded();
    let ended = soon("the end of the subscription", child.wait_with_output())
        .await
        .unwrap();
    assert_eq!(
        (
            ended.status.code(),
            String::from_utf8_lossy(&ended.stderr).as_ref()
        ),
        (Some(0), "")
    );
}

/// `status`: one object that tells where everything is.
#[tokio::test]
async fn status_is_one_object() {
    let World { cli, .. } = &World::new().await;
    cli.line("write -k a -p x").await.succeeded();
    let status = cli.line("-o json status").await.succeeded().json();
    for name in ["healthy", "nodes", "groups", "counter", "slots"] {
        assert!(status.get(name).is_some(), "{name} in {status}");
    }
    let seat = &status["groups"][0]["seats"][0];
    for name in ["seat", "leader", "epoch"] {
        assert!(seat.get(name).is_some(), "{name} in {seat}");
    }
    let for_people = cli.line("status").await.succeeded().stdout;
    assert!(
        for_people.contains("healthy") && for_people.contains("n1"),
        "{for_people}"
    );
    assert!(!for_people.contains('\u{1b}'), "no colour where no terminal is");
}

/// `bench`: each kind prints one object with its rates.
#[tokio::test]
async fn bench_prints_one_object() {
    let World { cli, .. } = &World::new().await;
    for kind in ["append", "read", "subscribe", "latency"] {
        let result = cli
            .line(&format!(
                "-o json bench {kind} --clients 2 --events 200 --size 64"
            ))
            .await;
        let result = result.succeeded().json();
        for name in ["events_per_s", "p50_us", "p90_us", "p99_us", "max_us", "seconds"] {
            assert!(
                result[name].as_f64().is_some_and(|n| n >= 0.0),
                "{name} of bench {kind} in {result}"
            );
        }
        assert_eq!(result["errors"], 0, "{result}");
        let appends = &result["append_p50_us"];
        let is_told = appends.as_u64().is_some_and(|us| (1..20_000_000).contains(&us));
        assert_eq!(is_told, kind == "latency", "{result}");
    }
}

/// Exit codes 1, 2 and 5, each with one line that says what to do.
#[tokio::test]
async fn each_failure_has_its_exit_code() {
    let World { cli, .. } = &World::new().await;
    let wrong_usage = [
        "",
        "frobnicate",
        "read",
        "write -p x",
        "write -k a -p x --expect maybe",
        "write -k a -p x --event-id nonsense",
        "write -k a -p x --meta novalue",
        "-o xml read -k a",
        "--timeout soon read -k a",
        "read -k a --at -1",
    ];
    for line in wrong_usage {
        let answer = cli.line(line).await.exited(2);
        assert!(
            answer.stdout.is_empty() && !answer.stderr.is_empty(),
            "{line:?}: {answer:?}"
        );
    }
    let long = "k".repeat(1_025);
    let refused = cli
        .run(["-o", "json", "write", "-k", &long, "-p", "x"])
        .await
        .exited(1);
    let error = error_object(&refused);
    assert_eq!(
        (&error["code"], &error["reason"]),
        (&"INVALID_ARGUMENT".into(), &"LIMIT_EXCEEDED".into())
    );
    assert!(
        refused.stderr.contains("1025") && refused.stderr.contains("1024"),
        "{refused:?}"
    );
    cli.run(["write", "-k", "a\nb", "-p", "x"]).await.exited(1);

    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let away = Cli::new(free).line("read -k a").await.exited(5);
    assert!(away.stderr.contains(&free.to_string()), "{away:?}");

    // Somebody listens there and never answers: the command ends when its time is over.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let watch = Stopwatch::start();
    let unanswered = Cli::new(silent.local_addr().unwrap())
        .line("--timeout 300ms write -k a -p x")
        .await;
    unanswered.exited(5);
    assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
}

/// The environment says what flags can say.
#[tokio::test]
async fn the_environment_sets_what_flags_set() {
    let World { cli, .. } = &World::new().await;
    let mut command = cli.command(["write", "-k", "a", "-p", "x"]);
    command.envs([
        ("RDB_COLLECTION", "orders"),
        ("RDB_OUTPUT", "json"),
        ("RDB_TIMEOUT", "5s"),
    ]);
    let written = finish(command).await.succeeded().json();
    assert_eq!(written["version"], 1);
    assert_eq!(
        cli.json("read -k a --collection orders").await[0]["collection"],
        "orders"
    );
    cli.line("read -k a").await.exited(3);

    let (ip, port) = cli.server().rsplit_once(':').unwrap();
    let mut command = cli.command(["read", "-k", "a", "--collection", "orders"]);
    command
        .env_remove("RDB_SERVER")
        .env("SERVER_IP", ip)
        .env("SERVER_PORT", port);
    finish(command).await.succeeded();
}

/// Help, version and completions need no server.
#[tokio::test]
async fn help_version_and_completions_need_no_server() {
    let cli = Cli::new(([127, 0, 0, 1], 1).into());
    let help = cli.line("--help").await.succeeded().stdout;
    for command in [
        "write",
        "delete",
        "read",
        "history",
        "keys",
        "append",
        "import",
        "export",
        "subscribe",
        "status",
        "bench",
        "completions",
    ] {
        assert!(help.contains(command), "{command} in {help}");
        let own = cli.run([command, "--help"]).await.succeeded().stdout;
        assert!(own.contains("Usage"), "{command}: {own}");
    }
    assert!(
        cli.line("--version")
            .await
            .succeeded()
            .stdout
            .contains(env!("CARGO_PKG_VERSION"))
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = cli.run(["completions", shell]).await.succeeded().stdout;
        assert!(script.contains("rdb-client"), "{shell}");
    }
}
