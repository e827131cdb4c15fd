//! Starting and stopping: what cannot work is said in one clear line and with an exit code that is not 0; SIGTERM
//! ends a node cleanly.
#![cfg(test)]

use rdb_proto::types::Seq;
use rdb_tests::checkers::{judge, marks, stream};
use rdb_tests::process::{Ended, Node, Settings};
use rdb_tests::random::Random;
use rdb_tests::time::soon;
use rdb_tests::wire::{Answer, Said};
use rdb_tests::workload::writers::{Load, Style, Writer, record_of};
use rdb_tests::workload::{Ticks, Told};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Demands one line that has all `parts`, and an exit code that is not 0 and not a crash.
fn assert_refused(ended: &Ended, parts: &[&str]) {
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    let line = ended
        .log
        .lines()
        .find(|line| parts.iter().all(|part| line.contains(part)));
    assert!(line.is_some(), "a line with {parts:?} in:\n{}", ended.log);
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
}

/// Two servers on one data directory would write over each other.
#[tokio::test]
async fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path());
    let first = settings.start().await;
    let ended = settings.must_not_start().await;
    assert_refused(&ended, &[dir.path().to_str().unwrap(), "already used"]);
    first
        .api()
        .await
        .write("a", "the first one goes on")
        .await
        .unwrap();

    // After a crash the lock is gone with the process.
    first.kill().await;
    settings.start().await.stop().await;
}

/// A port that somebody else listens on, for each of the two.
#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for variable in ["PORT", "HTTP_PORT"] {
        let dir = tempfile::tempdir().unwrap();
        let ended = Settings::new(dir.path())
            .with(variable, &port)
            .must_not_start()
            .await;
        assert_refused(&ended, &[&port, variable]);
    }
}

/// A directory that cannot be made or written, and one that holds something else.
#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    for path in [file.clone(), file.join("below"), "/proc/rdb".into()] {
        let ended = Settings::new(&path).must_not_start().await;
        assert_refused(&ended, &[path.to_str().unwrap()]);
    }
    let elsewhere = dir.path().join("photos");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("cat.jpg"), "meow").unwrap();
    let ended = Settings::new(&elsewhere).must_not_start().await;
    assert_refused(&ended, &[elsewhere.to_str().unwrap()]);
    let names: Vec<_> = fs::read_dir(&elsewhere)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["cat.jpg"], "nothing was put there");
}

/// A setting that cannot be is named with its value; exit code 78 (or clap's 2) says "settings" to a supervisor.
#[tokio::test]
async fn a_setting_that_cannot_be_is_named_with_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let bad = [
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("HTTP_PORT", "http"),
        ("TRACE_LEVEL", "rdb=loud"),
        ("SEGMENT_BYTES", "1"),
        ("SEGMENT_BYTES", "many"),
        ("EVENT_ID_WINDOW", "-5"),
        ("GROUP_SIZE", "2"),
        ("WRITES", "0"),
        ("WRITES", "3"),
        ("SHARD_GROUPS", "0"),
        ("NODE", ""),
        ("DB", "a/b"),
    ];
    for (variable, value) in bad {
        let ended = Settings::new(dir.path())
            .with(variable, value)
            .must_not_start()
            .await;
        let text = &ended.log;
        assert!(text.contains(variable), "{variable}={value} is named in:\n{text}");
        assert!(
            value.is_empty() || text.contains(value),
            "{variable}={value}: its value in:\n{text}"
        );
        assert!(
            matches!(ended.code(), Some(2 | 78)),
            "{variable}={value}: {ended:?}"
        );
        assert!(!text.contains("panicked"), "{text}");
        assert!(
            fs::read_dir(dir.path()).unwrap().next().is_none(),
            "{variable}={value}: nothing was made"
        );
    }
    let ended = Settings::new(dir.path())
        .argument("--no-such-flag")
        .must_not_start()
        .await;
    assert_refused(&ended, &["--no-such-flag"]);
    assert_eq!(ended.code(), Some(78));
}

/// Files of a later release are refused and left as they are (DESIGN 8).
#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path());
    let node = settings.start().await;
    node.api().await.write("a", "x").await.unwrap();
    node.stop().await;
    let path = dir.path().join("format.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut format: serde_json::Value = serde_json::from_str(&text).unwrap();
    let version = format
        .as_object_mut()
        .unwrap()
        .iter_mut()
        .find(|(name, _)| name.contains("format"));
    *version.expect("a format version").1 = 999.into();
    let newer = format.to_string();
    fs::write(&path, &newer).unwrap();

    let ended = settings.must_not_start().await;
    assert_refused(&ended, &["format.json", "999"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    fs::write(&path, text).unwrap();
    let node = settings.start().await;
    assert_eq!(node.api().await.read("a").await.unwrap().payload, "x");
}

/// With no settings at all the server starts standalone on its usual ports, in `./rdb-data`.
#[tokio::test]
async fn the_server_starts_without_settings() {
    let usual_ports_are_free = [2048, 2049]
        .iter()
        .all(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok());
    if !usual_ports_are_free {
        return rdb_tests::say("skipped: port 2048 or 2049 is in use on this machine");
    }
    let dir = tempfile::tempdir().unwrap();
    let names = ["NODE", "ADDRESS", "PORT", "HTTP_PORT", "DATA_DIR", "TRACE_LEVEL"];
    let settings = names
        .iter()
        .fold(Settings::new(dir.path()), |settings, name| settings.without(name));
    let node = settings.within(dir.path()).start().await;
    assert_eq!((node.grpc.port(), node.http.port()), (2048, 2049));
    assert_eq!(
        node.api().await.write("Deep", "First write").await.unwrap().seq,
        1
    );
    assert!(dir.path().join("rdb-data").is_dir());
    node.stop().await;
}

/// What a follower of the stream saw, and how the stream ended.
async fn follow(node: &Node) -> JoinSet<(Vec<Said>, Answer<()>)> {
    let mut changes = node.api().await.subscribe(0).await.unwrap();
    let mut following = JoinSet::new();
    following.spawn(async move {
        let mut said = Vec::new();
        loop {
            match changes.next().await {
                Ok(Some(next)) => said.push(next),
                Ok(None) => return (said, Ok(())),
                Err(refusal) => return (said, Err(refusal)),
            }
        }
    });
    following
}

/// SIGTERM under load: writes under way finish or are refused, streams end with a position to resume at, exit 0 within
/// five seconds. Red when the node hangs, drops a write that it had taken, or acknowledges one that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_ends_cleanly_within_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::of_run(41);
    let ticks = Arc::new(Ticks::default());
    let mut writers = Vec::new();
    for n in 0..8 {
        let style = match n {
            0..5 => Style::OneByOne,
            5 => Style::Each(32),
            _ => Style::Pipelined(32),
        };
        writers.push(Writer::new(&format!("w{n}"), style, 2, random.fork(), &ticks));
    }
    let node = Node::start(dir.path()).await;
    let mut following = follow(&node).await;
    let load = Load::start(writers, node.grpc);
    load.acknowledged(500).await;

    let ended = node.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.took < Duration::from_secs(5), "it took {:?}", ended.took);
    let record = record_of(load.ended().await);
    let (said, end) = soon("the end of the stream", following.join_next())
        .await
        .unwrap()
        .unwrap();
    if let Err(refusal) = end {
        assert_eq!(
            refusal.reason,
            Some(rdb_proto::reason::Reason::ShuttingDown),
            "{refusal:?}"
        );
    }
    marks::check(&said).unwrap();

    let node = Node::start(dir.path()).await;
    let all = node.api().await.events_after(0).await.unwrap();
    judge(&record, &all).unwrap();
    let at = said.iter().fold(0, |at, said| match said {
        Said::Change(event) => at.max(event.seq.get()),
        Said::Resolved { seq, .. } => at.max(*seq),
        Said::Opened { .. } | Said::CaughtUp(_) | Said::FellBehind(_) => at,
    });
    let seen: Vec<_> = said.into_iter().filter_map(Said::event).collect();
    let rest = all.iter().filter(|event| event.seq.get() > at).cloned().collect();
    stream::check_resumed(&all, Seq(0), &[seen, rest]).unwrap();

    // A write that was done was told so, as long as its client waited for the answer.
    for operation in record
        .operations
        .iter()
        .filter(|operation| operation.told == Told::Unknown)
    {
        let is_pipelined = ["w6", "w7"]
            .iter()
            .any(|name| operation.events[0].payload.starts_with(name));
        let is_there = all
            .iter()
            .any(|event| event.event_id == operation.events[0].event_id);
        assert!(
            is_pipelined || !is_there,
            "{operation:?} was done, and its client was not told"
        );
    }
    node.stop().await;
}

/// SIGTERM with nothing to do, with idle connections and with a subscriber that does not read.
#[tokio::test]
async fn an_idle_node_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    api.write("a", &"x".repeat(1 << 20)).await.unwrap();
    let _does_not_read = api.subscribe(0).await.unwrap();
    let _says_nothing = tokio::net::TcpStream::connect(node.grpc).await.unwrap();
    let _says_nothing_either = tokio::net::TcpStream::connect(node.http).await.unwrap();
    let ended = node.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.took < Duration::from_secs(5), "it took {:?}", ended.took);
}

/// The log of a healthy life is a few lines, and none of them cries.
#[tokio::test]
async fn a_healthy_life_logs_no_warning_but_about_weak_choices() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.api().await.write("a", "x").await.unwrap();
    let ended = node.terminate().await;
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
    assert!(ended.log.lines().count() < 40, "{}", ended.log);
    assert!(Path::new(dir.path()).join("format.json").exists());
}
