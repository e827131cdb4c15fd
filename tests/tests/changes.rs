//! The change stream of a cluster, as every node shows it: also one that has no member of some groups (DESIGN 3 "CDC", 7).
#![cfg(test)]

use rdb_client::{Client, Filter, Message, Seq, Start, Subscription};
use rdb_proto::event::{Change, Event, split_batch};
use rdb_proto::v1::{self, subscribe_request, subscribe_response};
use rdb_tests::checkers::{held, stream};
use rdb_tests::cluster::Cluster;
use rdb_tests::time::{soon, within};
use rdb_tests::wire::Said;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;

/// Two groups of three members on five nodes: no node has all.
const TWO_GROUPS: (&str, &str) = ("SHARD_GROUPS", "2");

/// Follows the stream by one node, from the beginning up to a seq. Whenever the node is away it waits and goes on where it
/// was; of every few connections it gives one up by itself.
async fn follow(address: String, upto: tokio::sync::watch::Receiver<Option<Seq>>) -> Vec<Event> {
    let open = |start| -> Subscription {
        let client = Client::connect([address.clone()]).unwrap();
        client.subscribe(start, Filter::default())
    };
    let mut subscription = open(Start::After(Seq::ZERO));
    let mut events: Vec<Event> = Vec::new();
    let mut batches = 0_u32;
    loop {
        let is_done = upto
            .borrow()
            .is_some_and(|upto| subscription.position() >= Some(upto));
        if is_done {
            return events;
        }
        if let Message::Events(batch) = subscription.next().await.unwrap() {
            events.extend(batch.decode().unwrap());
            batches += 1;
            if batches.is_multiple_of(50) {
                subscription = open(Start::After(events.last().unwrap().seq));
            }
        }
    }
}

/// Subscribers at every node, while leaders die and come back, receive the same list: every event once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_the_whole_stream_while_nodes_die() {
    let mut cluster = Cluster::start(5, &[TWO_GROUPS]).await;
    cluster.until_led(true).await;
    let (done, upto) = tokio::sync::watch::channel(None);
    let mut followers = JoinSet::new();
    for (n, address) in cluster.addresses().into_iter().enumerate() {
        let upto = upto.clone();
        followers.spawn(async move { (n, follow(address.to_string(), upto).await) });
    }
    let load = cluster.load(41);
    load.more(100).await;
    for (group, seat) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
        let victim = cluster.leader(group, seat).await;
        cluster.kill(victim).await;
        load.more(60).await;
        cluster.run(victim).await;
        load.more(20).await;
    }
    let all = cluster.judged(load, 100, &[0, 1, 2, 3, 4]).await;
    done.send(all.last().map(|event| event.seq)).unwrap();
    let followed = within(
        Duration::from_mins(1),
        "the followers to be done",
        followers.join_all(),
    )
    .await;
    assert_eq!(followed.len(), 5);
    for (n, followed) in followed {
        let verdict = stream::check(&all, Seq::ZERO, &followed);
        verdict.unwrap_or_else(|fault| panic!("by node {n}: {fault}"));
    }
    cluster.stop_all().await;
}

/// The changes that a request gets, up to a seq, with what it was told first.
async fn changes(
    cluster: &Cluster,
    n: usize,
    request: v1::SubscribeRequest,
    upto: u64,
) -> (v1::Opened, Vec<Change>) {
    let address = format!("http://{}", cluster.addresses()[n]);
    let mut client = v1::changes_client::ChangesClient::connect(address)
        .await
        .unwrap()
        .max_decoding_message_size(rdb_proto::limits::MESSAGE_BYTES_MAX);
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let mut opened = None;
    let mut changes = Vec::new();
    let mut reached = 0;
    loop {
        let said = soon("the change stream", stream.message())
            .await
            .unwrap()
            .unwrap();
        match said.message.unwrap() {
            subscribe_response::Message::Opened(first) => opened = Some(first),
            subscribe_response::Message::Changes(batch) => {
                let events = split_batch(batch).unwrap().into_iter();
                changes.extend(events.map(|event| Change::decode(&event).unwrap()));
            }
            subscribe_response::Message::Resolved(mark) => reached = mark.seq,
            subscribe_response::Message::CaughtUp(at) => reached = at.seq,
            subscribe_response::Message::FellBehind(_) => {}
        }
        if reached >= upto {
            return (opened.unwrap(), changes);
        }
    }
}

/// A snapshot has no seam: what keys hold as of one seq, then every event after it; also gone on with in its middle, at
/// another node, while others write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_over_into_changes_without_a_seam() {
    let mut cluster = Cluster::start(5, &[TWO_GROUPS]).await;
    cluster.until_led(true).await;
    let load = cluster.load(42);
    load.more(150).await;
    let request = v1::SubscribeRequest {
        snapshot: true,
        ..Default::default()
    };
    let mut begun = Vec::new();
    for n in 0..5 {
        begun.push(changes(&cluster, n, request.clone(), 1).await.0.snapshot_seq);
        load.more(30).await;
    }
    let all = cluster.judged(load, 100, &[0]).await;
    let last = all.last().unwrap().seq;
    for (n, snapshot_seq) in begun.into_iter().enumerate() {
        assert!(snapshot_seq > 0);
        let held = held::held(&all, Seq(snapshot_seq));
        let rest = all.iter().filter(|event| event.seq.get() > snapshot_seq);
        let expected: Vec<Event> = held.iter().chain(rest).cloned().collect();
        let middle = held[held.len() / 2].seq;
        for after in [Seq::ZERO, middle, Seq(snapshot_seq)] {
            let request = v1::SubscribeRequest {
                start: Some(subscribe_request::Start::AfterSeq(after.get())),
                snapshot_seq,
                ..request.clone()
            };
            let (_, shown) = changes(&cluster, (n + 1) % 5, request, last.get()).await;
            let shown: Vec<Event> = shown.into_iter().map(|change| change.event).collect();
            let expected: Vec<Event> = expected
                .iter()
                .filter(|event| event.seq > after)
                .cloned()
                .collect();
            assert_eq!(shown, expected, "snapshot {snapshot_seq} after {after}, node {n}");
        }
    }
    cluster.stop_all().await;
}

/// Each event comes with the one before it of its key, and a start at a time is the first event of that time, by any node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_with_what_was_before_and_from_a_time() {
    let mut cluster = Cluster::start(5, &[TWO_GROUPS]).await;
    cluster.until_led(true).await;
    let load = cluster.load(43);
    load.more(200).await;
    let all = cluster.judged(load, 100, &[0]).await;
    let last = all.last().unwrap().seq;
    let mut latest: BTreeMap<String, Event> = BTreeMap::new();
    let with_before = |event: &Event| Change {
        before: latest.insert(event.name.to_string(), event.clone()),
        event: event.clone(),
    };
    let expected: Vec<Change> = all.iter().map(with_before).collect();
    for n in 0..5 {
        let request = v1::SubscribeRequest {
            with_before: true,
            ..Default::default()
        };
        let (_, shown) = changes(&cluster, n, request, last.get()).await;
        assert_eq!(shown, expected, "node {n}");

        let time = all[all.len() / (n + 2)].time;
        let request = v1::SubscribeRequest {
            start: Some(subscribe_request::Start::FromTimeUs(time.get())),
            ..Default::default()
        };
        let (opened, shown) = changes(&cluster, n, request, last.get()).await;
        let from = all.iter().filter(|event| event.time >= time);
        assert!(
            shown.iter().map(|change| &change.event).eq(from),
            "node {n}, from {time:?}, opened after {}",
            opened.after_seq
        );
    }
    cluster.stop_all().await;
}

/// Whoever had an answer from one node and then asks another one for all there is gets what was answered, too, also while
/// others write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_caught_up_has_shown_what_any_node_acknowledged_before_it() {
    let mut cluster = Cluster::start(5, &[TWO_GROUPS]).await;
    cluster.until_led(true).await;
    let load = cluster.load(45);
    load.more(50).await;
    let mut nodes = Vec::new();
    for n in 0..5 {
        nodes.push(cluster.api(n).await);
    }
    for round in 0..8 {
        for n in 0..5 {
            let written = nodes[(n + 1) % 5]
                .write(&format!("new/{round}"), "x")
                .await
                .unwrap();
            for order in [v1::Order::Seqs, v1::Order::Keys] {
                let request = v1::SubscribeRequest {
                    start: Some(subscribe_request::Start::AfterSeq(written.seq - 1)),
                    order: order.into(),
                    ..Default::default()
                };
                let mut stream = nodes[n].subscribe_request(request).await.unwrap();
                let shown = stream.until_caught_up().await.unwrap();
                let mut shown = shown.into_iter().filter_map(Said::event);
                assert!(
                    shown.any(|event| event.seq == Seq(written.seq)),
                    "node {n} has caught up without {}",
                    written.seq
                );
            }
        }
    }
    load.stop().await;
    cluster.stop_all().await;
}

/// When the mark stands still while the counter moves, `status` says which seat holds it and why, and that it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_names_the_seat_that_holds_the_stream() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(44);
    load.more(20).await;
    let stays = cluster.leader(0, 0).await;
    for n in (0..3).filter(|n| *n != stays) {
        cluster.kill(n).await;
    }
    let status = cluster
        .until("a mark that is held", |status| !status.held.is_empty())
        .await;
    let held = &status.held[0];
    assert_eq!(held.mark, status.resolved, "{status:?}");
    assert!(
        status.counter > held.mark && held.milliseconds >= 1_000,
        "{status:?}"
    );
    assert!(
        !held.why.is_empty() && status.summary.contains(&held.why),
        "{status:?}"
    );
    let (_, metrics) = cluster.node(stays).get("/metrics").await;
    let seconds = metrics
        .lines()
        .find_map(|line| line.strip_prefix("rdb_resolved_held_seconds "));
    assert!(seconds.unwrap().parse::<u64>().unwrap() >= 1, "{metrics}");

    // What there was comes, and nobody is told that this was all.
    let mut stream = cluster.api(stays).await.subscribe(0).await.unwrap();
    let mut marks_at_rest = 0;
    while marks_at_rest < 3 {
        match stream.next().await.unwrap().unwrap() {
            Said::Resolved { seq, .. } if seq >= held.mark => marks_at_rest += 1,
            Said::CaughtUp(seq) => panic!("caught up at {seq}, of {}", status.counter),
            Said::Resolved { .. } | Said::Opened { .. } | Said::Change(_) | Said::FellBehind(_) => {}
        }
    }

    cluster.start_all().await;
    let said = stream.until_caught_up().await.unwrap();
    assert!(
        matches!(said.last(), Some(Said::CaughtUp(seq)) if *seq >= status.counter),
        "{status:?}"
    );
    cluster
        .until("a mark that follows", |status| {
            status.held.is_empty() && status.resolved >= held.mark
        })
        .await;
    cluster.judged(load, 10, &[0, 1, 2]).await;
}
