//! What one node promises, from the outside: a real process, raw gRPC.
#![cfg(test)]

use rdb_proto::event::EventKind;
use rdb_proto::reason::Reason;
use rdb_proto::v1;
use rdb_tests::checkers::judge;
use rdb_tests::process::{Node, Settings};
use rdb_tests::random::Random;
use rdb_tests::wire::{append_of, assert_reason, event, event_with_id, write_of};
use rdb_tests::workload::Ticks;
use rdb_tests::workload::writers::{Load, crew, record_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::Code;
use uuid::Uuid;

fn expect(kind: v1::ExpectationKind, version: u64) -> v1::Expectation {
    let kind = kind.into();
    v1::Expectation { kind, version }
}

/// The three calls of the README (DESIGN 3). Red when a write is not readable, or a delete leaves the key readable.
#[tokio::test]
async fn a_key_is_written_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;

    let written = api.write("Deep", "First write").await.unwrap();
    assert_eq!((written.seq, written.version, written.duplicate), (1, 1, false));
    assert_eq!(written.event_id.len(), 16);

    let read = api.read("Deep").await.unwrap();
    assert_eq!(
        (read.seq.get(), read.version.get(), read.kind),
        (1, 1, EventKind::Write)
    );
    assert_eq!(read.payload, "First write");
    assert_eq!(read.event_id.as_bytes().as_slice(), &written.event_id[..]);

    let deleted = api.delete("Deep").await.unwrap();
    assert_eq!((deleted.seq, deleted.version), (2, 2));
    let refusal = assert_reason(api.read("Deep").await, Reason::KeyNotFound);
    assert_eq!(refusal.metadata.get("key").map(String::as_str), Some("Deep"));
    assert_reason(api.delete("Deep").await, Reason::KeyNotFound);

    let again = api.write("Deep", "back").await.unwrap();
    assert_eq!(
        (again.seq, again.version),
        (3, 3),
        "a refused delete takes no number, and the history goes on"
    );
    node.stop().await;
}

/// Type, tags and metadata come back as they were sent, from a read and from the stream.
#[tokio::test]
async fn an_event_comes_back_as_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let id = Uuid::new_v4();
    let meta: BTreeMap<String, String> = [("by", "me"), ("trace", "ü\n\u{0}")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let request = v1::WriteRequest {
        collection: "orders".to_owned(),
        key: "17/ß".to_owned(),
        event: Some(v1::NewEvent {
            r#type: "placed".to_owned(),
            tags: vec!["eu".to_owned(), "new".to_owned()],
            meta: meta.clone(),
            payload: vec![0, 255, 1].into(),
            event_id: id.as_bytes().to_vec().into(),
        }),
        ..Default::default()
    };
    api.write_request(request).await.unwrap();

    let read = v1::ReadRequest {
        collection: "orders".to_owned(),
        key: "17/ß".to_owned(),
        ..Default::default()
    };
    let read = api.read_request(read).await.unwrap();
    assert_eq!(
        (read.name.collection.as_str(), read.name.key.as_str()),
        ("orders", "17/ß")
    );
    assert_eq!(
        (read.event_type.as_str(), &read.tags[..]),
        ("placed", &["eu".to_owned(), "new".to_owned()][..])
    );
    assert_eq!(
        (read.meta.clone(), &read.payload[..], read.event_id.0),
        (meta, &[0, 255, 1][..], id)
    );
    assert!(read.time.get() > 1_700_000_000_000_000, "microseconds since 1970");
    assert_eq!(api.events_after(0).await.unwrap(), [read]);
    assert_reason(api.read("17/ß").await, Reason::KeyNotFound);
}

/// History in both directions, from a version, with a limit (DESIGN 2: versions are dense from 1).
#[tokio::test]
async fn the_history_of_a_key_is_read_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for n in 1..=5 {
        api.write("other", "x").await.unwrap();
        api.write("a", &format!("payload {n}")).await.unwrap();
    }
    api.delete("a").await.unwrap();
    let mut versions = async |from_version, backwards, limit| {
        let request = v1::HistoryRequest {
            key: "a".to_owned(),
            from_version,
            backwards,
            limit,
            ..Default::default()
        };
        let events = api.history_request(request).await.unwrap();
        events
            .into_iter()
            .map(|event| event.version.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(0, false, 0).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(versions(0, true, 0).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(versions(3, false, 2).await, [3, 4]);
    assert_eq!(versions(3, true, 2).await, [3, 2]);
    assert_eq!(versions(0, true, 1).await, [6]);
    assert_eq!(versions(9, false, 0).await, [0; 0]);
    assert_eq!(
        versions(u64::MAX, true, 1).await,
        [6],
        "backwards from beyond the end begins at the end"
    );

    let history = api.history("a").await.unwrap();
    assert_eq!(history[4].payload, "payload 5");
    assert_eq!(history[5].kind, EventKind::Delete);
    assert_reason(api.history("never written").await, Reason::KeyNotFound);
}

/// The past is never overwritten (DESIGN 1.4): a read at a seq is the same for ever.
#[tokio::test]
async fn a_key_is_read_as_it_was_at_any_seq() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let first = api.write("a", "one").await.unwrap().seq;
    api.write("b", "x").await.unwrap();
    let second = api.write("a", "two").await.unwrap().seq;
    let deleted = api.delete("a").await.unwrap().seq;

    assert_eq!(api.read_at("a", first).await.unwrap().payload, "one");
    assert_eq!(api.read_at("a", second - 1).await.unwrap().payload, "one");
    assert_eq!(api.read_at("a", second).await.unwrap().payload, "two");
    assert_reason(api.read_at("a", deleted).await, Reason::KeyNotFound);
    assert_reason(api.read_at("a", 0).await, Reason::KeyNotFound);
    let ahead = assert_reason(api.read_at("a", deleted + 1_000).await, Reason::SeqAhead);
    assert_eq!(ahead.number("seq"), deleted + 1_000);
    assert!(ahead.number("resolved") >= deleted, "{ahead:?}");
    assert_reason(api.read_at("a", u64::MAX).await, Reason::SeqAhead);
}

/// Keys in byte order, by prefix, a page at a time; deleted ones are told as such.
#[tokio::test]
async fn keys_are_listed_in_byte_order_a_page_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for key in ["b", "a/2", "a/10", "a/1", "a", "ä"] {
        api.write(key, "x").await.unwrap();
    }
    api.delete("a/2").await.unwrap();
    let elsewhere = v1::WriteRequest {
        collection: "other".to_owned(),
        ..write_of("a/9", event("x"))
    };
    api.write_request(elsewhere).await.unwrap();

    let mut pages = async |prefix: &str, limit| {
        let mut request = v1::ListKeysRequest {
            prefix: prefix.to_owned(),
            limit,
            ..Default::default()
        };
        let mut pages = Vec::new();
        loop {
            let page = api.list_keys(request.clone()).await.unwrap();
            pages.push(
                page.keys
                    .iter()
                    .map(|key| (key.key.clone(), key.deleted))
                    .collect::<Vec<_>>(),
            );
            if page.next_after.is_empty() {
                return pages;
            }
            request.after = page.next_after;
        }
    };
    let keys = |pairs: &[(&str, bool)]| {
        pairs
            .iter()
            .map(|(key, gone)| ((*key).to_owned(), *gone))
            .collect::<Vec<_>>()
    };
    let all = [
        ("a", false),
        ("a/1", false),
        ("a/10", false),
        ("a/2", true),
        ("b", false),
        ("ä", false),
    ];
    assert_eq!(pages("", 0).await, [keys(&all)]);
    assert_eq!(pages("", 4).await, [keys(&all[..4]), keys(&all[4..])]);
    assert_eq!(pages("a/", 0).await, [keys(&all[1..4])]);
    assert_eq!(pages("none", 0).await, [keys(&[])]);

    let page = api.list_keys(v1::ListKeysRequest::default()).await.unwrap();
    let deleted = &page.keys[3];
    assert_eq!((deleted.version, deleted.seq), (2, 7));
}

/// Several events of one key append atomically, and an expectation holds for the first of them (DESIGN 3).
#[tokio::test]
async fn an_append_is_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    api.write("a", "zero").await.unwrap();

    let results = api
        .append(append_of("a", &["one", "two", "three"]))
        .await
        .unwrap();
    let places: Vec<_> = results
        .iter()
        .map(|result| (result.seq, result.version, result.duplicate))
        .collect();
    assert_eq!(places, [(2, 2, false), (3, 3, false), (4, 4, false)]);

    let conflicting = v1::AppendRequest {
        expect: Some(expect(v1::ExpectationKind::Exact, 2)),
        ..append_of("a", &["four", "five"])
    };
    let refusal = assert_reason(api.append(conflicting).await, Reason::VersionConflict);
    assert_eq!(
        (refusal.number("current_version"), refusal.number("current_seq")),
        (4, 4)
    );
    assert_eq!(api.history("a").await.unwrap().len(), 4, "nothing was written");

    let next = v1::AppendRequest {
        expect: Some(expect(v1::ExpectationKind::Exact, 4)),
        ..append_of("a", &["four", "five"])
    };
    assert_eq!(
        api.append(next).await.unwrap()[1].seq,
        6,
        "the conflict took no number"
    );
}

/// Every expectation against every state of a key (DESIGN 3, "Conditional").
#[tokio::test]
async fn an_expectation_that_does_not_hold_is_a_conflict() {
    use v1::ExpectationKind::{Absent, Any, Exact, Exists};
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    // Keys that were never written; that exist at version 1; that are deleted at version 2.
    let cases = [
        ((Any, 0), [true, true, true]),
        ((Absent, 0), [true, false, true]),
        ((Exists, 0), [false, true, false]),
        ((Exact, 0), [true, false, false]),
        ((Exact, 1), [false, true, false]),
        ((Exact, 2), [false, false, true]),
        ((Exact, u64::MAX), [false, false, false]),
    ];
    for ((kind, version), holds) in cases {
        for (state, holds) in (0..).zip(holds) {
            let key = format!("{kind:?}-{version}-{state}");
            if state > 0 {
                api.write(&key, "x").await.unwrap();
            }
            if state > 1 {
                api.delete(&key).await.unwrap();
            }
            let request = v1::WriteRequest {
                expect: Some(expect(kind, version)),
                ..write_of(&key, event("y"))
            };
            let answer = api.write_request(request).await;
            if holds {
                assert_eq!(answer.unwrap().version, state + 1, "{key}");
            } else {
                let refusal = assert_reason(answer, Reason::VersionConflict);
                assert_eq!(refusal.number("current_version"), state, "{key}");
            }
        }
    }
    api.write("d", "x").await.unwrap();
    let delete = |version| v1::DeleteRequest {
        key: "d".to_owned(),
        expect: Some(expect(Exact, version)),
        ..Default::default()
    };
    assert_reason(api.delete_request(delete(3)).await, Reason::VersionConflict);
    assert_eq!(api.delete_request(delete(1)).await.unwrap().version, 2);
}

/// A retry with the same event id gives the first outcome and adds nothing (DESIGN 3, "Exactly once on retry"), also
/// when the expectation of the first attempt does not hold any more, and after a restart.
#[tokio::test]
async fn a_retry_with_the_same_event_id_never_doubles() {
    let dir = tempfile::tempdir().unwrap();
    let id = Uuid::new_v4();
    let first = v1::WriteRequest {
        expect: Some(expect(v1::ExpectationKind::Absent, 0)),
        ..write_of("a", event_with_id(id, "once"))
    };
    let append = append_of("b", &["one", "two"]);
    let (written, appended) = {
        let node = Node::start(dir.path()).await;
        let mut api = node.api().await;
        let written = api.write_request(first.clone()).await.unwrap();
        let appended = api.append(append.clone()).await.unwrap();
        let again = api.write_request(first.clone()).await.unwrap();
        assert_eq!(
            (again.seq, again.version, again.duplicate),
            (written.seq, written.version, true)
        );
        node.stop().await;
        (written, appended)
    };
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let retry = v1::WriteRequest {
        retried_since: Some(0),
        ..first
    };
    let again = api.write_request(retry).await.unwrap();
    assert_eq!(
        (again.seq, again.version, again.duplicate),
        (written.seq, written.version, true)
    );
    let again = api.append(append.clone()).await.unwrap();
    let seqs = |results: &[v1::WriteResult]| results.iter().map(|result| result.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&again), seqs(&appended));
    assert!(again.iter().all(|result| result.duplicate));
    assert_eq!(api.events_after(0).await.unwrap().len(), 3, "nothing was added");

    let elsewhere = write_of("c", event_with_id(id, "another key"));
    assert_reason(api.write_request(elsewhere).await, Reason::EventIdReused);
    let part = v1::AppendRequest {
        events: vec![append.events[0].clone(), event("three")],
        ..append
    };
    assert_reason(api.append(part).await, Reason::EventIdReused);
}

/// A retry older than the window of remembered ids is refused, never executed (DESIGN 6.6).
#[tokio::test]
async fn a_retry_older_than_the_window_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Settings::new(dir.path())
        .with("EVENT_ID_WINDOW", "1000")
        .start()
        .await;
    let mut api = node.api().await;
    let request = write_of("a", event("long ago"));
    api.write_request(request.clone()).await.unwrap();
    // Keys of both seats: each seat has a window of its own.
    for n in 0..8 {
        let payloads: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        api.append(append_of(&format!("filler {n}"), &payloads))
            .await
            .unwrap();
    }
    let retry = v1::WriteRequest {
        retried_since: Some(0),
        ..request
    };
    assert_reason(api.write_request(retry).await, Reason::RetryTooOld);
    assert_eq!(api.read("a").await.unwrap().version.get(), 1);
}

/// Appends of many callers on one stream have their own answers, and a refused one does not stop others.
#[tokio::test]
async fn a_stream_of_separate_appends_answers_each_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let (requests, mut answers) = api.append_each(64).await.unwrap();
    let sending = async {
        for number in 0..500_u64 {
            let mut append = append_of(&format!("k{number}"), &["x", "y"]);
            match number % 100 {
                50 => append.expect = Some(expect(v1::ExpectationKind::Exact, 1_000_000)),
                51 => append.key = String::new(),
                _ => {}
            }
            let append = (number % 100 != 52).then_some(append);
            let request = v1::AppendEachRequest { number, append };
            requests.send(request).await.unwrap();
        }
        drop(requests);
    };
    let taking = async {
        let mut outstanding: BTreeSet<u64> = (0..500).collect();
        while let Some((number, answer)) = answers.next().await.unwrap() {
            assert!(outstanding.remove(&number), "{number} has one answer");
            match number % 100 {
                50 => drop(assert_reason(answer, Reason::VersionConflict)),
                51 | 52 => drop(assert_reason(answer, Reason::FieldInvalid)),
                _ => assert_eq!(answer.unwrap().len(), 2),
            }
        }
        assert_eq!(outstanding, BTreeSet::new(), "every request has an answer");
    };
    tokio::join!(sending, taking);
    let key = node.api().await.read("k77").await.unwrap();
    assert_eq!(key.version.get(), 2);
}

/// Appends on one stream are answered in their order, and a refused one does not stop those behind it.
#[tokio::test]
async fn a_stream_of_appends_is_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let (requests, mut answers) = api.append_stream(64).await.unwrap();
    let sending = async {
        for n in 0..500_u32 {
            let mut request = append_of(&format!("k{}", n % 7), &["x", "y"]);
            match n % 100 {
                50 => request.expect = Some(expect(v1::ExpectationKind::Exact, 1_000_000)),
                51 => request.key = String::new(),
                _ => {}
            }
            requests.send(request).await.unwrap();
        }
        drop(requests);
    };
    let taking = async {
        // Requests that are under way together may be numbered in any order; those of one key are not.
        let mut versions = [0; 7];
        let mut stored = Vec::new();
        for n in 0..500_u32 {
            let answer = answers
                .next()
                .await
                .unwrap()
                .expect("one answer for each request");
            match n % 100 {
                50 => drop(assert_reason(answer, Reason::VersionConflict)),
                51 => drop(assert_reason(answer, Reason::FieldInvalid)),
                _ => {
                    let results = answer.unwrap();
                    let version = &mut versions[usize::try_from(n % 7).unwrap()];
                    let got: Vec<u64> = results.iter().map(|result| result.version).collect();
                    assert_eq!(got, [*version + 1, *version + 2], "request {n}");
                    *version += 2;
                    stored.extend(results.iter().map(|result| result.seq));
                }
            }
        }
        assert!(
            answers.next().await.unwrap().is_none(),
            "the stream ends after the last answer"
        );
        stored.sort_unstable();
        assert_eq!(
            stored,
            (1..=980).collect::<Vec<u64>>(),
            "numbers are dense and used once"
        );
    };
    tokio::join!(sending, taking);
}

/// A restart keeps everything: events, versions, seqs dense from 1 (DESIGN 2), the stream, and who the database is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_numbers_stay_dense() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::of_run(12);
    let ticks = Arc::new(Ticks::default());
    let mut crew = crew(4, &mut random, &ticks);
    let mut seen = Vec::new();
    let mut database_id = String::new();
    for _ in 0..4 {
        let node = Node::start(dir.path()).await;
        let mut api = node.api().await;
        let status = api.status().await.unwrap();
        assert!(
            database_id.is_empty() || database_id == status.database_id,
            "it is the same database"
        );
        database_id = status.database_id;
        assert_eq!(
            api.events_after(0).await.unwrap(),
            seen,
            "everything is there after a restart"
        );

        let load = Load::start(crew, node.grpc);
        load.acknowledged(300).await;
        crew = load.stop().await;
        seen = api.events_after(0).await.unwrap();
        node.stop().await;
    }
    judge(&record_of(crew), &seen).unwrap();
    let seqs: Vec<u64> = seen.iter().map(|event| event.seq.get()).collect();
    let dense: Vec<u64> = (1..).take(seqs.len()).collect();
    assert_eq!(seqs, dense, "clean restarts leave no hole");
}

/// Small segments roll over and are read back in order.
#[tokio::test]
async fn a_log_of_many_segments_is_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path()).with("SEGMENT_BYTES", "33554432");
    let node = settings.start().await;
    let mut api = node.api().await;
    let payload = "p".repeat(100_000);
    for n in 0..50 {
        api.write(&format!("k{}", n % 3), &payload).await.unwrap();
    }
    let before = api.events_after(0).await.unwrap();
    assert_eq!(before.len(), 50);
    node.stop().await;
    let node = settings.start().await;
    let mut api = node.api().await;
    assert_eq!(api.events_after(0).await.unwrap(), before);
    assert_eq!(api.events_after(33).await.unwrap(), before[33..]);
    assert_eq!(api.write("k0", "next").await.unwrap().seq, 51);
    assert_eq!(api.history("k1").await.unwrap().len(), 17);
}

/// Status, health, readiness and metrics say what is.
#[tokio::test]
async fn a_node_tells_how_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    api.write("a", "x").await.unwrap();

    let status = api.status().await.unwrap();
    assert!(status.healthy, "{status:?}");
    assert_eq!(
        (status.database.as_str(), status.counter, status.nodes.len()),
        ("rdb", 1, 1)
    );
    assert_eq!(status.nodes[0].name, "n1");
    assert_eq!(status.nodes[0].refuses_writes, "");
    let seats: Vec<_> = status.groups.iter().flat_map(|group| &group.seats).collect();
    assert_eq!(seats.len(), 2);
    assert!(
        seats
            .iter()
            .all(|seat| seat.state == "leading" && seat.leader == status.nodes[0].id)
    );
    let slots: u32 = status
        .slots
        .iter()
        .map(|range| range.last - range.first + 1)
        .sum();
    assert_eq!(
        slots,
        u32::from(rdb_proto::limits::SLOTS),
        "every slot belongs to a seat"
    );

    assert_eq!(node.get("/health").await.0, 200);
    assert_eq!(node.get("/ready").await.0, 200);
    let (code, metrics) = node.get("/metrics").await;
    assert_eq!(code, 200);
    let names = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with("rdb_"));
    assert!(names.count() > 5, "metrics of this database in:\n{metrics}");
    assert!(
        metrics.trim_end().ends_with("# EOF"),
        "OpenMetrics text is complete"
    );
    assert_eq!(node.get("/nothing").await.0, 404);
}

/// Any gRPC tool can ask for health and for the services (health and reflection).
#[tokio::test]
async fn health_and_reflection_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let api = node.api().await;
    // HealthCheckResponse { status: SERVING }
    let health = api.raw("/grpc.health.v1.Health/Check", b"").await.unwrap();
    assert_eq!(&health[..], [8, 1]);
    let unknown = api.raw("/rdb.v1.Data/NoSuchMethod", b"").await.unwrap_err();
    assert_eq!(unknown.code, Code::Unimplemented);
    // ServerReflectionRequest { list_services: "" }
    let services = api
        .raw(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            b"\x3a\x00",
        )
        .await
        .unwrap();
    let services = String::from_utf8_lossy(&services).into_owned();
    for service in ["rdb.v1.Data", "rdb.v1.Changes", "rdb.v1.Cluster"] {
        assert!(services.contains(service), "{service} in {services}");
    }
}
