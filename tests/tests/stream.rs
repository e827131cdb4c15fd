//! The change stream of one node: complete, in order, resumable, filtered (DESIGN 3 "CDC", 7).
#![cfg(test)]

use rdb_proto::event::{Event, EventKind};
use rdb_proto::reason::Reason;
use rdb_proto::types::Seq;
use rdb_proto::v1::{self, subscribe_request::Start};
use rdb_tests::checkers::{judge, marks, stream};
use rdb_tests::process::Node;
use rdb_tests::random::Random;
use rdb_tests::wire::{Said, assert_reason, event};
use rdb_tests::workload::Ticks;
use rdb_tests::workload::writers::{Load, crew, record_of};
use std::sync::Arc;
use uuid::Uuid;

/// The stream is the same from any start, with filters, resumed in pieces, and its marks are never contradicted, also
/// while others write (DESIGN 3 "CDC", 7). Seeded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_is_complete_from_any_start_and_marks_are_never_contradicted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let mut random = Random::of_run(11);
    let ticks = Arc::new(Ticks::default());

    // Followers from the beginning and from now, while writers write.
    let mut following = api.subscribe(0).await.unwrap();
    let load = Load::start(crew(4, &mut random, &ticks), node.grpc);
    load.acknowledged(300).await;
    let from_now = v1::SubscribeRequest {
        start: Some(Start::FromNow(true)),
        ..Default::default()
    };
    let mut late = api.subscribe_request(from_now).await.unwrap();
    load.acknowledged(1_500).await;
    let record = record_of(load.stop().await);

    let all = api.events_after(0).await.unwrap();
    judge(&record, &all).unwrap();
    let last = all.last().unwrap().seq;

    for follower in [&mut following, &mut late] {
        let mut said = Vec::new();
        while !said
            .iter()
            .any(|said| matches!(said, Said::Resolved { seq, .. } if *seq >= last.get()))
        {
            said.push(follower.next().await.unwrap().unwrap());
        }
        marks::check(&said).unwrap();
        let Said::Opened { after, .. } = &said[0] else {
            panic!("a stream begins with Opened, not {:?}", said[0]);
        };
        let start = Seq(*after);
        let seen: Vec<_> = said.into_iter().filter_map(Said::event).collect();
        stream::check(&all, start, &seen).unwrap();
    }
    for _ in 0..20 {
        let start = random.below(last.get() + 1);
        let said = api
            .subscribe(start)
            .await
            .unwrap()
            .until_caught_up()
            .await
            .unwrap();
        marks::check(&said).unwrap();
        let seen: Vec<_> = said.into_iter().filter_map(Said::event).collect();
        stream::check(&all, Seq(start), &seen).unwrap();
    }

    // In pieces, each resumed at the last seq seen.
    let mut pieces = vec![Vec::new()];
    let mut at = 0;
    while at < last.get() {
        let mut changes = api.subscribe(at).await.unwrap();
        let mut piece = Vec::new();
        for _ in 0..=random.below(400) {
            if at < last.get() {
                piece.push(changes.next_event().await.unwrap());
                at = piece.last().unwrap().seq.get();
            }
        }
        pieces.push(piece);
    }
    stream::check_resumed(&all, Seq(0), &pieces).unwrap();
    node.stop().await;
}

type Passes = fn(&Event) -> bool;

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Filters, and what passes them.
fn filters() -> Vec<(v1::Filter, Passes)> {
    let filter = |change: fn(&mut v1::Filter)| {
        let mut filter = v1::Filter::default();
        change(&mut filter);
        filter
    };
    vec![
        (filter(|_| {}), |_| true),
        (filter(|f| f.collections = strings(&["orders"])), |e| {
            e.name.collection.as_str() == "orders"
        }),
        (filter(|f| f.collections = strings(&["default"])), |e| {
            e.name.collection.is_default()
        }),
        (filter(|f| f.key_prefixes = strings(&["a/", "b/1"])), |e| {
            e.name.key.as_str().starts_with("a/") || e.name.key.as_str().starts_with("b/1")
        }),
        (filter(|f| f.types = strings(&["t1", "t2"])), |e| {
            ["t1", "t2"].contains(&&*e.event_type)
        }),
        (filter(|f| f.tags = strings(&["tag3"])), |e| {
            e.tags.iter().any(|tag| tag == "tag3")
        }),
        (filter(|f| f.kinds = vec![v1::EventKind::Delete.into()]), |e| {
            e.kind == EventKind::Delete
        }),
        (
            filter(|f| {
                f.types = strings(&["t1"]);
                f.tags = strings(&["tag1", "tag2"]);
            }),
            |e| e.event_type == "t1" && e.tags.iter().any(|tag| tag == "tag1" || tag == "tag2"),
        ),
    ]
}

/// A filter leaves out what it must and nothing else.
#[tokio::test]
async fn a_filtered_stream_shows_what_passes() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    for n in 0..60_usize {
        let request = v1::WriteRequest {
            collection: ["", "orders"][n % 2].to_owned(),
            key: format!("{}/{}", ["a", "b", "c"][n % 3], n % 5),
            event: Some(v1::NewEvent {
                r#type: format!("t{}", n % 4),
                tags: vec![format!("tag{}", n % 5), "all".to_owned()],
                ..event("x")
            }),
            ..Default::default()
        };
        api.write_request(request).await.unwrap();
    }
    api.delete("a/0").await.unwrap();
    let all = api.events_after(0).await.unwrap();
    for (filter, passes) in filters() {
        let request = v1::SubscribeRequest {
            start: Some(Start::AfterSeq(7)),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        let said = api
            .subscribe_request(request)
            .await
            .unwrap()
            .until_caught_up()
            .await
            .unwrap();
        marks::check(&said).unwrap();
        let seen: Vec<_> = said.into_iter().filter_map(Said::event).collect();
        let verdict = stream::check_filtered(&all, Seq(7), passes, &seen);
        verdict.unwrap_or_else(|fault| panic!("{filter:?}: {fault}"));
    }
}

/// Marks come also when a filter lets nothing through, so that a consumer knows that it is not stuck.
#[tokio::test]
async fn marks_come_also_when_nothing_passes() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    let request = v1::SubscribeRequest {
        filter: Some(v1::Filter {
            types: strings(&["none such"]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut changes = api.subscribe_request(request).await.unwrap();
    let written = api.write("a", "x").await.unwrap();
    let mut mark = 0;
    let mut count = 0;
    while count < 2 || mark < written.seq {
        match changes.next().await.unwrap().unwrap() {
            Said::Resolved { seq, changes } => {
                assert_eq!(changes, 0, "nothing was sent");
                mark = seq;
                count += 1;
            }
            Said::Change(event) => panic!("{event:?} does not pass"),
            Said::Opened { .. } | Said::CaughtUp(_) | Said::FellBehind(_) => {}
        }
    }
}

/// A start that cannot be is a typed error, never "from now" (DESIGN 7).
#[tokio::test]
async fn a_start_of_another_database_or_ahead_of_this_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut api = node.api().await;
    api.write("a", "x").await.unwrap();
    let mut open = async |after, database_id: &str| {
        let request = v1::SubscribeRequest {
            start: Some(Start::AfterSeq(after)),
            database_id: database_id.to_owned(),
            ..Default::default()
        };
        match api.subscribe_request(request).await {
            Ok(mut changes) => changes.next().await.map(Option::unwrap),
            Err(refusal) => Err(refusal),
        }
    };
    let Said::Opened { database_id, after } = open(1, "").await.unwrap() else {
        panic!("a stream begins with Opened");
    };
    assert_eq!(after, 1);
    assert!(matches!(open(1, &database_id).await, Ok(Said::Opened { .. })));
    let ahead = assert_reason(open(1_000, &database_id).await, Reason::SeqAhead);
    assert_eq!(ahead.number("seq"), 1_000);
    let other = Uuid::new_v4().to_string();
    let wrong = assert_reason(open(0, &other).await, Reason::WrongDatabase);
    assert_eq!(wrong.metadata.get("expected"), Some(&database_id), "{wrong:?}");
}
