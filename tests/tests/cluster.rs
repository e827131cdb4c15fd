//! Clusters of real nodes around a real etcd (DESIGN 3, 5, 6): what dies, stops or is cut off, and what clients see.
#![cfg(test)]

use rdb_proto::reason::Reason;
use rdb_proto::v1::ListKeysRequest;
use rdb_tests::checkers::judge;
use rdb_tests::cluster::Cluster;
use rdb_tests::machine::Machine;
use rdb_tests::process::Settings;
use rdb_tests::random::Random;
use rdb_tests::time::{Stopwatch, maybe, soon};
use rdb_tests::wire::{Said, assert_reason};
use rdb_tests::workload::Ticks;
use rdb_tests::workload::writers::{Load, crew, record_of};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Duration;

/// Within this a healthy node has done a write: a seat that does nothing for as long is another's soon.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// Three nodes, two leaders: each takes any request and answers the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_every_request() {
    let machine = Machine::watch();
    let cluster = Cluster::start(3, &[]).await;
    let status = cluster.until_led(true).await;
    assert!(status.healthy, "{status:?}");
    assert_eq!(status.nodes.len(), 3);
    for (n, version) in (0..3).zip(1..) {
        let mut api = cluster.api(n).await;
        for key in 0..20 {
            let key = format!("k{key}");
            let written = api.write(&key, &format!("by n{n}")).await.unwrap();
            assert_eq!(written.version, version, "{key}");
        }
    }
    for n in 0..3 {
        let mut api = cluster.api(n).await;
        for key in 0..20 {
            let read = api.read(&format!("k{key}")).await.unwrap();
            assert_eq!(read.payload, "by n2".as_bytes());
            assert_eq!(api.history(&format!("k{key}")).await.unwrap().len(), 3);
        }
        let listed = api.list_keys(ListKeysRequest::default()).await.unwrap();
        assert_eq!(listed.keys.len(), 20);
        let seqs: Vec<u64> = cluster
            .events(n)
            .await
            .iter()
            .map(|event| event.seq.get())
            .collect();
        assert_eq!(seqs.len(), 60);
        let is_dense = seqs == (1..=60).collect::<Vec<u64>>();
        // A write that a busy node tried again took two numbers.
        assert!(
            is_dense || machine.is_too_busy("whether seqs are dense", FIRST_TRY),
            "dense, as long as nothing fails: {seqs:?}"
        );
    }
    assert_reason(cluster.api(1).await.read("nowhere").await, Reason::KeyNotFound);
}

/// Leaders, both of them, and a plain member die under load, again and again, and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_event_is_lost_when_nodes_are_killed() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(31);
    load.more(50).await;
    for round in 0..6 {
        let victim = match round % 3 {
            0 => cluster.leader(0, 0).await,
            1 => cluster.leader(0, 1).await,
            _ => {
                let leaders = [cluster.leader(0, 0).await, cluster.leader(0, 1).await];
                (0..3).find(|n| !leaders.contains(n)).unwrap_or(leaders[0])
            }
        };
        cluster.kill(victim).await;
        load.more(60).await;
        cluster.run(victim).await;
        load.more(20).await;
    }
    cluster.judged(load, 100, &[0, 1, 2]).await;
}

/// Both leaders die one right after the other: what is left waits, and goes on with everything once one is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_dies_stops_writes_and_loses_nothing() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(32);
    load.more(60).await;
    let (first, second) = (cluster.leader(0, 0).await, cluster.leader(0, 1).await);
    cluster.kill(first).await;
    cluster.kill(second).await;
    cluster.run(second).await;
    load.more(60).await;
    cluster.run(first).await;
    load.more(20).await;
    cluster.judged(load, 100, &[0, 1, 2]).await;
}

/// A leader stops for longer than its lease lasts, and goes on as if nothing had been: nobody believes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_harms_nobody() {
    let cluster = Cluster::start(3, &[("LEASE_TTL", "2"), ("REFRESH_INTERVAL", "1")]).await;
    cluster.until_led(true).await;
    let ticks = Arc::new(Ticks::default());
    let crew_of = |seed| crew(5, &mut Random::of_run(seed), &ticks);
    let load = Load::start_everywhere(crew_of(33), &cluster.addresses());
    load.more(50).await;
    let paused = cluster.leader(0, 0).await;
    cluster.node(paused).signal(Signal::STOP);
    let others: Vec<_> = (0..3)
        .filter(|n| *n != paused)
        .map(|n| cluster.addresses()[n])
        .collect();
    let more = Load::start_everywhere(crew_of(34), &others);
    let watch = Stopwatch::start();
    // Longer than the lease, with the others at work all the time.
    while watch.elapsed() < Duration::from_millis(3_500) {
        more.more(20).await;
    }
    cluster.node(paused).signal(Signal::CONT);
    more.more(50).await;
    let mut record = record_of(more.stop().await);
    record.merge(record_of(load.stop().await));
    cluster.until_led(true).await;
    let all = cluster.events(paused).await;
    judge(&record, &all).unwrap();
}

/// etcd is away: writes are refused by name, reads and the stream go on, and all is well when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_reads_go_on_and_writes_say_why_not() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let mut api = cluster.api(0).await;
    for n in 0..10 {
        api.write(&format!("k{n}"), "before").await.unwrap();
    }
    cluster.etcd.stop().await;
    for n in 0..3 {
        let mut hasty = cluster.node(n).api().await;
        for key in 0..10 {
            let read = hasty.read(&format!("k{key}")).await.unwrap();
            assert_eq!(read.payload, "before".as_bytes(), "linearizable, without etcd");
        }
        assert_eq!(cluster.events(n).await.len(), 10);
        assert_reason(hasty.write("k1", "during").await, Reason::CoordinatorAway);
    }
    // Nobody can be asked what was acknowledged elsewhere: a new stream goes by what its node knows.
    let mut stream = cluster.node(0).api().await.subscribe(0).await.unwrap();
    let caught_up = stream.until_caught_up().await.unwrap();
    assert_eq!(caught_up.into_iter().filter_map(Said::event).count(), 10);
    let status = cluster
        .until("a status that names etcd", |status| !status.healthy)
        .await;
    assert!(status.summary.contains("etcd"), "{}", status.summary);
    cluster.etcd.run().await;
    cluster.until("a healthy cluster", |status| status.healthy).await;
    assert_eq!(api.write("k1", "after").await.unwrap().version, 2);
}

/// Everything stops, in every order that matters, and all data is there afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_everything_was_restarted() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(35);
    load.more(150).await;
    for n in 0..3 {
        cluster.kill(n).await;
    }
    cluster.etcd.stop().await;
    cluster.etcd.run().await;
    cluster.start_all().await;
    load.more(50).await;
    cluster.judged(load, 100, &[0, 1, 2]).await;
    let before = cluster.events(0).await;
    cluster.stop_all().await;
    cluster.start_all().await;
    cluster.until_led(true).await;
    assert_eq!(cluster.events(0).await, before);
}

/// A node whose lease is taken away goes on without leaving the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_is_taken_anew() {
    let cluster = Cluster::start(3, &[("LEASE_TTL", "2"), ("REFRESH_INTERVAL", "1")]).await;
    cluster.until_led(true).await;
    let load = cluster.load(36);
    load.more(30).await;
    let mut etcd = cluster.etcd.client().await.lease_client();
    let leases = soon("the leases", etcd.leases()).await.unwrap();
    assert!(leases.leases().len() >= 3, "every node has one");
    for lease in leases.leases() {
        soon("a lease to end", etcd.revoke(lease.id())).await.unwrap();
        load.more(30).await;
    }
    cluster
        .until("all nodes live again", |status| {
            status.nodes.iter().all(|node| node.live)
        })
        .await;
    load.more(30).await;
    cluster.judged(load, 100, &[0, 1, 2]).await;
}

/// Nodes that do not belong together are told so when they start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_fit_is_refused_when_it_starts() {
    let cluster = Cluster::start(3, &[]).await;
    let other = tempfile::tempdir().unwrap();
    let fourth = |name: &str| {
        Settings::new(&other.path().join(name))
            .with("ETCD", &cluster.etcd.endpoint())
            .with("NODE", "n4")
    };
    let refused = fourth("a").with("SHARD_GROUPS", "2").must_not_start().await;
    assert_eq!(refused.code(), Some(78), "{refused:?}");
    assert!(
        refused
            .log
            .contains("SHARD_GROUPS is 2, but the database was made with 1"),
        "{}",
        refused.log
    );
    let refused = fourth("b").with("NODE", "n1").must_not_start().await;
    assert!(
        refused.log.contains("a live node with another data directory"),
        "{}",
        refused.log
    );
    // A directory of a standalone node is another database.
    let alone = Settings::new(&other.path().join("c")).start().await;
    alone.stop().await;
    let refused = fourth("c").must_not_start().await;
    assert!(refused.log.contains("belongs to database"), "{}", refused.log);
    // One that fits is a spare: it has no members, and takes every request all the same.
    let spare = fourth("d").start().await;
    let mut api = spare.api().await;
    let written = api.write("a", "x").await.unwrap();
    assert_eq!(written.version, 1);
    assert_eq!(api.read("a").await.unwrap().payload, "x".as_bytes());
    // The member that shows it may know of the mark a moment later.
    assert_eq!(api.events_up_to(written.seq).await.unwrap().len(), 1);
    spare.stop().await;
}

/// Five nodes, two groups: seats are spread, keys of both groups are found through every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_spread_over_nodes() {
    let mut cluster = Cluster::start(5, &[("SHARD_GROUPS", "2")]).await;
    let status = cluster.until_led(true).await;
    assert_eq!(status.groups.len(), 2);
    let load = cluster.load(37);
    load.more(60).await;
    let victim = cluster.leader(1, 0).await;
    cluster.kill(victim).await;
    load.more(60).await;
    cluster.run(victim).await;
    cluster.judged(load, 100, &[0, 1, 2, 3, 4]).await;
    let reached = maybe(Duration::from_secs(5), cluster.until_led(true)).await;
    assert!(reached.is_some(), "every seat is led");
}

/// A clean stop hands the seats over: a rolling restart under load loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(38);
    load.more(50).await;
    for n in 0..3 {
        cluster.take(n).stop().await;
        load.more(30).await;
        cluster.run(n).await;
        load.more(30).await;
    }
    cluster.judged(load, 100, &[0, 1, 2]).await;
}
