//! The change stream in the order of keys (DESIGN 7, "order = key"): each key's events in their order, without waiting for
//! other seats, and marks that are as true as ever.
#![cfg(test)]

use rdb_client::{Client, Filter, Message, Order, Seq, Start};
use rdb_proto::event::Event;
use rdb_proto::v1::{self, subscribe_request};
use rdb_tests::checkers::by_keys;
use rdb_tests::cluster::{Cluster, key_of};
use rdb_tests::process::{Node, Settings};
use rdb_tests::time::{pause, soon, within};
use rdb_tests::wire::{Api, Changes, Said, append_of};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Two groups of three members on five nodes: no node has all.
const TWO_GROUPS: (&str, &str) = ("SHARD_GROUPS", "2");

fn request(after: Seq, order: v1::Order) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        start: Some(subscribe_request::Start::AfterSeq(after.get())),
        order: order.into(),
        ..Default::default()
    }
}

/// What one connection after the other said, each with the mark that it began after.
type Pieces = Vec<(Seq, Vec<Said>)>;

/// Follows the stream by one node, over its deaths, until a mark has reached a seq; of every few connections it gives one up
/// by itself.
async fn follow(address: SocketAddr, upto: watch::Receiver<Option<Seq>>) -> Pieces {
    let mut pieces: Pieces = Vec::new();
    let mut mark = Seq::ZERO;
    loop {
        let opened = match Api::try_connect(address).await {
            Ok(mut api) => api.subscribe_request(request(mark, v1::Order::Keys)).await.ok(),
            Err(_gone) => None,
        };
        let Some(mut changes) = opened else {
            pause().await;
            continue;
        };
        let mut said = Vec::new();
        let start = mark;
        while let Ok(Some(message)) = changes.next().await {
            if let Said::Resolved { seq, .. } | Said::CaughtUp(seq) = &message {
                mark = Seq(*seq);
            }
            said.push(message);
            let is_done = upto.borrow().is_some_and(|upto| mark >= upto);
            // Not before a mark came: it would begin there again, for ever.
            if is_done || (said.len() > 150 && mark > start) {
                break;
            }
        }
        pieces.push((start, said));
        if upto.borrow().is_some_and(|upto| mark >= upto) {
            return pieces;
        }
    }
}

/// The same by the client library, which goes from node to node: every event is handed out once.
async fn follow_everywhere(addresses: Vec<SocketAddr>, upto: watch::Receiver<Option<Seq>>) -> Vec<Event> {
    let client = Client::connect(addresses.iter().map(ToString::to_string)).unwrap();
    let subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    let mut subscription = subscription.in_order_of(Order::Keys);
    let mut seen = Vec::new();
    while upto
        .borrow()
        .is_none_or(|upto| subscription.position() < Some(upto))
    {
        if let Message::Events(batch) = subscription.next().await.unwrap() {
            seen.extend(batch.decode().unwrap());
        }
    }
    seen
}

/// Subscribers at every node, while leaders die and come back, see each key's events in their order, each once on a
/// connection, and nothing is missing at a mark. Red when a mark speaks for one seat only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_each_keys_events_in_order_while_nodes_die() {
    let mut cluster = Cluster::start(5, &[TWO_GROUPS]).await;
    cluster.until_led(true).await;
    let (done, upto) = watch::channel(None);
    let mut followers = JoinSet::new();
    for (n, address) in cluster.addresses().into_iter().enumerate() {
        let upto = upto.clone();
        followers.spawn(async move { (n, follow(address, upto).await) });
    }
    let mut everywhere = JoinSet::new();
    everywhere.spawn(follow_everywhere(cluster.addresses(), upto));
    let load = cluster.load(46);
    load.more(100).await;
    for (group, seat) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
        let victim = cluster.leader(group, seat).await;
        cluster.kill(victim).await;
        load.more(60).await;
        cluster.run(victim).await;
        load.more(20).await;
    }
    let all = cluster.judged(load, 100, &[0, 1, 2, 3, 4]).await;
    done.send_replace(all.last().map(|event| event.seq));
    let limit = Duration::from_mins(1);
    for (n, pieces) in within(limit, "the followers to be done", followers.join_all()).await {
        let mut mark = Seq::ZERO;
        for (start, said) in pieces {
            assert_eq!(start, mark, "each begins at the mark before");
            let judged = by_keys::check(&all, start, &said);
            mark = judged.unwrap_or_else(|fault| panic!("by node {n}: {fault}"));
        }
        assert!(mark >= all.last().unwrap().seq);
    }
    let seen = within(
        limit,
        "the one that goes from node to node",
        everywhere.join_all(),
    );
    by_keys::check_whole(&all, &seen.await[0]).unwrap();
    cluster.stop_all().await;
}

/// The stream of a node, from a seq on, once it has caught up.
async fn caught_up(node: &Node, after: Seq, order: v1::Order) -> Changes {
    let mut api = node.api().await;
    let mut changes = api.subscribe_request(request(after, order)).await.unwrap();
    changes.until_caught_up().await.unwrap();
    changes
}

/// The leader of one seat stands still: the events of another seat's key come at every node, in the order of keys, and the
/// ordered stream waits. Once it goes on, that shows them too. Of appends of many callers on one stream, the one to the
/// seat that stands still holds up no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_stands_still_delays_only_its_own_keys() {
    let patient = [TWO_GROUPS, ("FAILOVER_AFTER", "120000"), ("LEASE_TTL", "120")];
    let mut cluster = Cluster::start(5, &patient).await;
    let status = cluster.until_led(true).await;
    let writer = cluster.leader(0, 0).await;
    // A seat of the other group that is led elsewhere.
    let (mut stands, mut silent_key) = (cluster.leader(1, 0).await, key_of(&status, 1, 0));
    if stands == writer {
        (stands, silent_key) = (cluster.leader(1, 1).await, key_of(&status, 1, 1));
    }
    let key = key_of(&status, 0, 0);
    let mut api = cluster.api(writer).await;
    let before = Seq(api.write(&key, "before").await.unwrap().seq);
    let awake: Vec<usize> = (0..5).filter(|n| *n != stands).collect();
    let mut streams = Vec::new();
    for n in awake {
        let by_keys = caught_up(cluster.node(n), before, v1::Order::Keys).await;
        let by_seqs = caught_up(cluster.node(n), before, v1::Order::Seqs).await;
        streams.push((n, by_keys, by_seqs));
    }

    cluster.node(stands).signal(Signal::STOP);
    let (requests, mut answers) = api.append_each(1).await.unwrap();
    let ask = async |number: u64, key: &str| {
        let append = Some(append_of(key, &[&number.to_string()]));
        let request = v1::AppendEachRequest { number, append };
        requests.send(request).await.unwrap();
    };
    ask(99, &silent_key).await;
    let mut written = Vec::new();
    for n in 0..20 {
        ask(n, &key).await;
        let (number, answer) = answers.next().await.unwrap().unwrap();
        assert_eq!(number, n);
        written.push(answer.unwrap()[0].seq);
    }
    for (n, by_keys, by_seqs) in &mut streams {
        let mut shown = Vec::new();
        while shown.len() < written.len() {
            match by_keys.next().await.unwrap().unwrap() {
                Said::Change(event) => shown.push(event.seq.get()),
                Said::Resolved { seq, .. } => assert!(seq < written[0], "node {n} marks {seq}"),
                Said::Opened { .. } | Said::CaughtUp(_) | Said::FellBehind(_) => {}
            }
        }
        assert_eq!(shown, written, "node {n}");
        // A mark that was said after that.
        let mut marks = 0;
        while marks < 2 {
            match by_seqs.next().await.unwrap().unwrap() {
                Said::Change(event) => panic!("node {n} shows seq {} before its turn", event.seq),
                Said::Resolved { seq, .. } => {
                    assert!(seq < written[0], "node {n} marks {seq}");
                    marks += 1;
                }
                Said::Opened { .. } | Said::CaughtUp(_) | Said::FellBehind(_) => {}
            }
        }
    }

    cluster.node(stands).signal(Signal::CONT);
    // Appended, or refused by a node that does not find its coordinator at once.
    let (number, _) = answers.next().await.unwrap().unwrap();
    assert_eq!(number, 99);
    for (n, _, by_seqs) in &mut streams {
        let mut shown = Vec::new();
        while shown.len() < written.len() {
            shown.push(by_seqs.next_event().await.unwrap().seq.get());
        }
        assert_eq!(shown, written, "node {n}");
    }
    drop(streams);
    cluster.stop_all().await;
}

/// With a filter, with what was before, after a snapshot: what comes is what comes in the order of seqs.
#[tokio::test]
async fn what_comes_by_keys_is_what_comes_by_seqs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Settings::new(dir.path()).start().await;
    let mut api = node.api().await;
    for n in 0..60 {
        let key = format!("{}/{}", ["a", "b"][n % 2], n % 7);
        api.write(&key, &n.to_string()).await.unwrap();
    }
    let filter = v1::Filter {
        key_prefixes: vec!["a/".to_owned()],
        ..Default::default()
    };
    let requests = [
        v1::SubscribeRequest::default(),
        v1::SubscribeRequest {
            filter: Some(filter),
            ..Default::default()
        },
        v1::SubscribeRequest {
            with_before: true,
            ..Default::default()
        },
        v1::SubscribeRequest {
            snapshot: true,
            ..Default::default()
        },
        request(Seq(40), v1::Order::Seqs),
    ];
    for request in requests {
        let mut shown = Vec::new();
        for order in [v1::Order::Seqs, v1::Order::Keys] {
            let request = v1::SubscribeRequest {
                order: order.into(),
                ..request.clone()
            };
            let mut changes = api.subscribe_request(request).await.unwrap();
            let said = changes.until_caught_up().await.unwrap();
            let mut events: Vec<Event> = said.into_iter().filter_map(Said::event).collect();
            events.sort_by_key(|event| event.seq);
            shown.push(events);
        }
        assert!(!shown[0].is_empty());
        assert_eq!(shown[0], shown[1], "{request:?}");
    }
    let unknown = v1::SubscribeRequest {
        order: 7,
        ..Default::default()
    };
    let refused = soon("a refusal", api.changes.subscribe(unknown))
        .await
        .unwrap_err();
    assert!(refused.message().contains("order"), "{refused}");
    node.stop().await;
}
