//! `rdb-client admin verify`: all logs read from disk, checked and compared, while the database serves (DESIGN 8). What is
//! on one disk and should not be is found, and named; what is well is called whole, whatever else goes on.
#![cfg(test)]

use rdb_proto::v1;
use rdb_tests::cluster::{Cluster, key_of};
use rdb_tests::command::{Answer, Cli};
use rdb_tests::files::log_segments;
use rdb_tests::process::Node;
use rdb_tests::time::{retry_pause, soon};
use rdb_tests::wire::append_of;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

fn shape(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn cli(cluster: &Cluster, n: usize) -> Cli {
    Cli::new(cluster.addresses()[n])
}

/// What a verify that succeeds says of the whole.
async fn whole(cli: &Cli) -> Value {
    let mut lines = cli.json("admin verify").await;
    let summary = lines.pop().unwrap();
    assert!(
        summary["whole"] == true && summary["complete"] == true,
        "{summary} {lines:?}"
    );
    for seat in &lines {
        assert!(seat["up_to"].as_u64() > Some(0), "{seat}");
        assert_eq!(seat["up_to"], seat["compared"], "all is compared: {seat}");
        for member in seat["members"].as_array().unwrap() {
            assert_eq!(member["last"], seat["up_to"], "all of it is read: {seat}");
        }
    }
    summary
}

/// The seat reports of a verify that finds something, and its text for people.
async fn found(cli: &Cli) -> (Vec<Value>, Answer) {
    let answer = cli.line("-o json admin verify").await.exited(6);
    let mut lines = answer.json_lines();
    let error = lines.pop().unwrap();
    assert_eq!(error["error"]["reason"], "DATA_DAMAGED", "{error}");
    assert_eq!(lines.pop().unwrap()["whole"], false);
    (lines, cli.line("admin verify").await.exited(6))
}

fn member<'a>(seat: &'a Value, node: &str) -> &'a Value {
    let members = seat["members"].as_array().unwrap();
    members.iter().find(|member| member["node"] == node).unwrap()
}

/// The log segment that holds some text, and where.
fn place_of(data_dir: &Path, text: &str) -> (PathBuf, usize) {
    let found = log_segments(data_dir).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(text.len()).position(|part| part == text.as_bytes());
        Some((path, at?))
    });
    found.unwrap_or_else(|| panic!("no log holds {text:?}"))
}

fn write_at(path: &Path, bytes: &[u8], offset: usize) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, u64::try_from(offset).unwrap()).unwrap();
}

/// Writes other text of the same length over some text in an entry, with the check that the entry then must have: as
/// `rdb-server/src/storage/log/frame.rs` lays it out.
fn rewrite(data_dir: &Path, text: &str, other: &str) {
    assert_eq!(text.len(), other.len());
    let (path, at) = place_of(data_dir, text);
    let mut bytes = fs::read(&path).unwrap();
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let seed = number(&bytes, 60);
    let mut start = 64;
    let end = loop {
        let length = usize::try_from(number(&bytes, start)).unwrap();
        let end = start + length.next_multiple_of(8);
        if at < end {
            break end;
        }
        start = end;
    };
    bytes[at..at + text.len()].copy_from_slice(other.as_bytes());
    let crc = crc32c::crc32c_append(seed, &u64::try_from(start).unwrap().to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &bytes[start..start + 4]);
    let crc = crc32c::crc32c_append(crc, &bytes[start + 8..end]);
    bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    write_at(&path, &bytes[start..end], start);
}

/// A cluster that is well is whole: while clients write, with a node that is gone (which is told), and with all back.
///
/// Red when what is under way counts as a difference, or a node that cannot be asked is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_well_is_whole_under_load_and_after_a_crash() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(71);
    load.more(100).await;
    for n in 0..3 {
        let summary = whole(&cli(&cluster, n)).await;
        assert_eq!((&summary["seats"], &summary["nodes"]), (&2.into(), &3.into()));
        load.more(40).await;
    }
    cluster.kill(1).await;
    cluster.until_led(false).await;
    load.more(40).await;
    {
        let answer = cli(&cluster, 0).line("-o json admin verify").await.exited(5);
        let lines = answer.json_lines();
        assert!(
            lines[2]["whole"] == true && lines[2]["complete"] == false,
            "{lines:?}"
        );
        for seat in &lines[..2] {
            let gone = member(seat, "n2");
            assert!(gone["state"] == "silent" && gone["why"].is_string(), "{seat}");
            assert_eq!(member(seat, "n1")["state"], "verified", "{seat}");
            assert_eq!(member(seat, "n3")["state"], "verified", "{seat}");
            assert_eq!(seat["up_to"], seat["compared"], "{seat}");
        }
        assert!(
            answer.stderr.contains("not verified everywhere: seat 0.0, 0.1"),
            "{answer:?}"
        );
    }
    cluster.run(1).await;
    cluster.until_led(false).await;
    load.more(40).await;
    // It may still be catching up, which is told.
    let cli = cli(&cluster, 2);
    let caught_up = async {
        while cli.line("admin verify").await.code != 0 {
            retry_pause().await;
        }
    };
    soon("everything is verified", caught_up).await;
    whole(&cli).await;
    cluster.judged(load, 200, &[0, 1, 2]).await;
}

/// A byte of a payload changes on one disk while the node runs: a verify says where, and nothing else happens. The node
/// is started again, and gets it from the others.
///
/// Red when frames are not checked, when damage ends the process that told of it, or when it is not told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_on_one_disk_is_found_and_repaired() {
    let mut cluster = Cluster::start(3, &[]).await;
    let status = cluster.until_led(true).await;
    let mut api = cluster.api(0).await;
    for seat in 0..2 {
        let key = key_of(&status, 0, seat);
        for n in 0..40 {
            api.write(&key, &format!("payload {n} of seat {seat}."))
                .await
                .unwrap();
        }
    }
    whole(&cli(&cluster, 0)).await;
    let (path, at) = place_of(&cluster.data_dir(1), "payload 20 of seat 1.");
    write_at(&path, b"P", at);
    let (seats, text) = found(&cli(&cluster, 0)).await;
    {
        assert_eq!(
            (&seats[0]["whole"], &seats[1]["whole"]),
            (&true.into(), &false.into())
        );
        let damaged = member(&seats[1], "n2");
        assert_eq!(damaged["state"], "damaged");
        let index = damaged["damaged"].as_u64().unwrap();
        assert!(
            (21..=24).contains(&index) && damaged["last"] == index - 1,
            "{damaged}"
        );
        let why = damaged["why"].as_str().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(why.contains(name) && why.contains("offset"), "{why}");
        for other in ["n1", "n3"] {
            assert_eq!(member(&seats[1], other)["state"], "verified");
        }
        let place = format!("seat 0.1, entry {index} on node n2: ");
        let advice = "start node n2 again";
        assert!(
            text.stdout.contains(&place) && text.stdout.contains(advice),
            "{text:?}"
        );
        assert!(text.stderr.contains("damaged: seat 0.1"), "{text:?}");
        cluster.node(1).logged("a verify found damage").await;
    }
    // It goes on, and is asked again by name.
    cli(&cluster, 1)
        .line("admin verify n2 --seat 0.1")
        .await
        .exited(6);
    cli(&cluster, 1)
        .line("admin verify n2 --seat 0.0")
        .await
        .succeeded();
    cluster.take(1).stop().await;
    cluster.run(1).await;
    cluster.node(1).logged("the log is whole again").await;
    cluster.until_led(false).await;
    whole(&cli(&cluster, 1)).await;
}

/// An entry with other contents and a check that fits them stands on one disk: no member can know by itself, and the
/// members compared tell.
///
/// Red when digests leave the bodies out (sabotage `verify_by_heads`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_differs_with_a_right_check_is_found_by_comparing() {
    let mut cluster = Cluster::start(3, &[]).await;
    let status = cluster.until_led(true).await;
    let key = key_of(&status, 0, 0);
    let mut api = cluster.api(0).await;
    for n in 0..30 {
        api.write(&key, &format!("payload {n}.")).await.unwrap();
    }
    cluster.take(2).stop().await;
    rewrite(&cluster.data_dir(2), "payload 17.", "payload 71.");
    cluster.run(2).await;
    cluster.until_led(false).await;
    let (seats, text) = found(&cli(&cluster, 0)).await;
    let up_to = &seats[0]["up_to"];
    for node in ["n1", "n2", "n3"] {
        let member = member(&seats[0], node);
        assert!(
            member["state"] == "verified" && &member["last"] == up_to,
            "{member}"
        );
    }
    let differences = seats[0]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1);
    let difference = &differences[0];
    assert!(
        difference["first"] == 1 && &difference["last"] == up_to,
        "{difference}"
    );
    assert_eq!(difference["alike"], serde_json::json!([["n1", "n2"], ["n3"]]));
    assert_eq!(
        (&seats[1]["whole"], &seats[1]["differences"]),
        (&true.into(), &Value::Array(vec![]))
    );
    let sentence = format!("seat 0.0, entries 1 to {up_to} are not the same on all nodes: n1, n2 | n3");
    assert!(text.stdout.contains(&sentence), "{text:?}");
    // Those that have the same are whole among themselves.
    cli(&cluster, 0).line("admin verify n1 n2").await.succeeded();
    cli(&cluster, 0).line("admin verify n3 n2").await.exited(6);
}

/// One verify at a time reads a node's disk; one whose client went away is over, and one that is under way holds up no
/// stop.
///
/// Red when a verify goes on for nobody, or two read at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verify_is_alone_on_a_node_and_ends_with_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data")).await;
    let mut api = node.api().await;
    for n in 0..3 {
        api.write("key", &format!("{n}{}", "x".repeat(1 << 20)))
            .await
            .unwrap();
    }
    let status = api.status().await.unwrap();
    let seats = status.groups[0].seats.iter().map(|seat| v1::VerifySeat {
        group: 0,
        seat: seat.seat,
        up_to: seat.commit_index,
    });
    // At a byte a second it does not end.
    let endless = v1::VerifyRequest {
        node: "n1".to_owned(),
        seats: seats.collect(),
        bytes_per_second: 1,
    };
    let cli = Cli::new(node.grpc);
    let begun = soon("a verify", api.admin.verify(endless.clone())).await.unwrap();
    let answer = cli.line("admin verify --timeout 500ms").await.exited(5);
    assert!(
        answer.stdout.contains("it was not verified in time"),
        "{answer:?}"
    );
    drop(begun);
    // It waits until the other is over.
    cli.line("admin verify").await.succeeded();
    let mut begun = soon("a verify", api.admin.verify(endless))
        .await
        .unwrap()
        .into_inner();
    node.stop().await;
    let end = async {
        loop {
            match begun.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it did not come to its end"),
                Err(_) => break,
            }
        }
    };
    soon("the end of the verify", end).await;
}

/// A node alone: nobody to compare with, the rate is kept, the shape of the JSON stays, and damage is told before a
/// restart would be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_node_is_verified_at_the_rate_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let node = Node::start(&data_dir).await;
    let mut api = node.api().await;
    let cli = Cli::new(node.grpc);
    for n in 0..3 {
        let large = format!("payload {n}.{}", "x".repeat(1 << 20));
        api.write("key", &large).await.unwrap();
    }
    api.append(append_of("key", &["a", "b", "c"])).await.unwrap();

    let answer = cli.line("-o json admin verify --rate 1").await.succeeded();
    let lines = answer.json_lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let seat = [
        "group",
        "seat",
        "up_to",
        "whole",
        "complete",
        "compared",
        "members",
        "differences",
    ];
    assert_eq!(shape(&lines[0]), seat);
    assert_eq!(
        shape(&lines[0]["members"][0]),
        ["node", "role", "state", "last", "bytes"]
    );
    let summary = &lines[2];
    let words = [
        "whole", "complete", "summary", "seats", "nodes", "entries", "bytes", "seconds",
    ];
    assert_eq!(shape(summary), words);
    // Three entries of a MiB each: the second and the third wait for the one before.
    assert!(summary["seconds"].as_f64() > Some(1.9), "{summary}");
    assert!(summary["bytes"].as_u64() > Some(3 << 20), "{summary}");
    let text = cli.line("admin verify --rate 1000").await.succeeded().stdout;
    assert!(text.contains("nobody to be compared with"), "{text}");

    cli.line("admin verify n9").await.exited(2);
    cli.line("admin verify --seat 7.0").await.exited(2);

    let (path, at) = place_of(&data_dir, "payload 1.");
    write_at(&path, b"P", at);
    let text = cli.line("admin verify").await.exited(6).stdout;
    assert!(text.contains("no other member is sure to have it"), "{text}");
    node.kill().await;
}
