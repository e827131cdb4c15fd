//! A node that dies at any moment: `kill -9` under load, again and again (DESIGN 3, 8).
#![cfg(test)]

use rdb_proto::event::Event;
use rdb_tests::checkers::judge;
use rdb_tests::process::{Node, Settings};
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::Stopwatch;
use rdb_tests::workload::follower::Follower;
use rdb_tests::workload::writers::{Load, Writer, crew, record_of};
use rdb_tests::workload::{Ticks, Told};
use std::sync::Arc;
use tokio::task::JoinSet;

const KILLS: usize = 60;

/// One life: starts, is written to and followed, and dies in the middle of it.
async fn live_and_die(
    node: Node,
    crew: Vec<Writer>,
    follower: Follower,
    events: usize,
) -> (Vec<Writer>, Follower) {
    let mut following = JoinSet::new();
    following.spawn(follower.follow(node.api().await));
    let load = Load::start(crew, node.grpc);
    load.acknowledged(events).await;
    node.kill().await;
    let crew = load.ended().await;
    let follower = following.join_next().await.unwrap().unwrap();
    (crew, follower)
}

/// Every acknowledged event is there, in order, none twice; what was not acknowledged is there whole or not at all;
/// a retry with the same event id never doubles; a stream resumed at its last seq or mark loses and repeats nothing.
///
/// - Writers of both styles append, delete and read on keys of their own and on shared ones. The node is killed after
///   a number of acknowledgements drawn from the seed, sometimes before it is ready.
/// - At each start writers repeat most of what was unknown, with the same event ids.
/// - After each start, what was seen before is still there, unchanged; at the end all checkers judge the whole run.
///
/// Red when an acknowledgement does not wait for the log, an append is written in parts, the window of event ids does
/// not survive, or a number is used twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_survives_kill_9_and_none_doubles() {
    let watch = Stopwatch::start();
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path());
    let mut random = Random::of_run(21);
    let mut writers = crew(5, &mut random, &Arc::new(Ticks::default()));
    let mut follower = Follower::default();
    let mut seen: Vec<Event> = Vec::new();
    for kill in 0..KILLS {
        if random.one_in(8) {
            let mut starting = settings.spawn();
            starting.first_line().await;
            starting.kill().await;
            continue;
        }
        let node = settings.start().await;
        let now = node.api().await.events_after(0).await.unwrap();
        assert_eq!(
            now.get(..seen.len()),
            Some(&seen[..]),
            "before kill {kill}, what was seen is there, unchanged"
        );
        seen = now;
        let events = 1 + random.position(150);
        (writers, follower) = live_and_die(node, writers, follower, events).await;
    }

    let node = settings.start().await;
    let all = node.api().await.events_after(0).await.unwrap();
    node.stop().await;
    let record = record_of(writers);
    judge(&record, &all).unwrap();
    follower.judge(&all).unwrap();

    let unknown = record
        .operations
        .iter()
        .filter(|operation| operation.told == Told::Unknown)
        .count();
    let (acknowledged, stored) = (record.acknowledged(), all.len());
    assert!(
        acknowledged > KILLS * 20,
        "the load was real: {acknowledged} events"
    );
    assert!(unknown > 0, "some kills came at a moment that matters");
    let took = watch.elapsed();
    say(&format!(
        "{KILLS} kills, {acknowledged} events acknowledged, {stored} stored, {unknown} unknown, {took:?}"
    ));
}

/// A node that is killed again and again while it starts loses nothing and starts in the end.
#[tokio::test]
async fn a_node_killed_while_it_starts_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path());
    let node = settings.start().await;
    let mut api = node.api().await;
    for n in 0..50 {
        api.write(&format!("k{}", n % 5), "x").await.unwrap();
    }
    let before = api.events_after(0).await.unwrap();
    node.kill().await;
    for _ in 0..10 {
        let mut starting = settings.spawn();
        starting.first_line().await;
        starting.kill().await;
    }
    let node = settings.start().await;
    let mut api = node.api().await;
    assert_eq!(api.events_after(0).await.unwrap(), before);
    assert_eq!(api.write("k0", "y").await.unwrap().version, 11);
    node.stop().await;
}
