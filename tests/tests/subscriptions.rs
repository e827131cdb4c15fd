//! Named subscriptions: the database remembers how far each has come, and one consumer at a time moves it (DESIGN 7).
#![cfg(test)]

use rdb_client::{Client, Consumer, ConsumerOptions, Error, Message, Reason, Seq};
use rdb_proto::v1::{self, subscriptions_client::SubscriptionsClient};
use rdb_server::clock::utc_now;
use rdb_tests::cluster::{Cluster, key_of};
use rdb_tests::command::Cli;
use rdb_tests::process::{Node, Settings};
use rdb_tests::time::{Stopwatch, soon};
use rdb_tests::wire::{Refusal, assert_reason};
use std::collections::BTreeSet;
use std::time::Duration;

fn client(node: &Node) -> Client {
    Client::connect([node.grpc.to_string()]).unwrap()
}

fn from_the_beginning() -> ConsumerOptions {
    ConsumerOptions {
        from: Some(Seq::ZERO),
        ..ConsumerOptions::default()
    }
}

/// Without waiting for whoever has the name.
fn at_once() -> ConsumerOptions {
    ConsumerOptions {
        wait: Some(Duration::ZERO),
        ..from_the_beginning()
    }
}

/// Writes so many events, to many keys.
async fn write(node: &Node, count: usize) {
    let mut api = node.api().await;
    for n in 0..count {
        api.write(&format!("k{}", n % 7), "x").await.unwrap();
    }
}

/// The seqs of the next events, as many as are asked for or a batch more.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        if let Message::Events(batch) = soon("events", consumer.next()).await.unwrap() {
            seqs.extend(batch.decode().unwrap().iter().map(|event| event.seq.get()));
        }
    }
    seqs
}

fn reason<T>(answer: Result<T, Error>) -> Reason {
    answer
        .map(drop)
        .expect_err("it is refused")
        .reason()
        .expect("the server says why")
}

/// What was acknowledged does not come again, what was not does: after a release, a clean stop, and a kill.
#[tokio::test]
async fn a_position_that_was_acknowledged_survives() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path());
    let mut node = settings.start().await;
    write(&node, 30).await;
    let mut acknowledged = 0;
    for round in 0..4 {
        let mut consumer = client(&node)
            .consume("mails", from_the_beginning())
            .await
            .unwrap();
        assert_eq!(consumer.acknowledged(), Seq(acknowledged), "round {round}");
        let seen = take(&mut consumer, 5).await;
        assert_eq!(seen[0], acknowledged + 1, "round {round}");
        acknowledged += 3;
        consumer.acknowledge(Seq(acknowledged)).await.unwrap();
        // An older one changes nothing.
        consumer.acknowledge(Seq(1)).await.unwrap();
        assert_eq!(consumer.acknowledged(), Seq(acknowledged));
        match round {
            0 => {}
            1 => {
                node.stop().await;
                node = settings.start().await;
                continue;
            }
            _ => {
                node.kill().await;
                node = settings.start().await;
            }
        }
        if round == 0 {
            consumer.release().await.unwrap();
        } else {
            // Who had it is gone with the node's memory of it; an operator does not have to wait.
            let client = client(&node);
            let listed = client.subscriptions().await.unwrap();
            client
                .seek_subscription(&listed[0], Seq(acknowledged))
                .await
                .unwrap();
        }
    }
    let listed = client(&node).subscriptions().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&*listed[0].name, listed[0].position, listed[0].lag),
        ("mails", 12, 18)
    );
    node.stop().await;
}

/// A second consumer waits for the first, takes over when that lets go or falls silent, and the first is told so. No seq is
/// ever used up by any of this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_a_name_over_fences_who_had_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Settings::new(dir.path()).start().await;
    write(&node, 10).await;
    let client = client(&node);
    let mut first = client.consume("mails", from_the_beginning()).await.unwrap();
    assert_eq!(
        reason(client.consume("mails", at_once()).await),
        Reason::SubscriptionHeld
    );
    take(&mut first, 3).await;
    first.acknowledge(Seq(3)).await.unwrap();

    // It lets go: the one that waits has it at once.
    let watch = Stopwatch::start();
    let (second, released) = tokio::join!(client.consume("mails", from_the_beginning()), first.release());
    released.unwrap();
    let mut second = second.unwrap();
    assert!(watch.elapsed() < Duration::from_secs(3), "{:?}", watch.elapsed());
    assert_eq!(second.acknowledged(), Seq(3));

    // It is silent: the one that waits has it after a while, and the silent one nothing more to say.
    let mut third = soon(
        "a silent consumer's name",
        client.consume("mails", from_the_beginning()),
    )
    .await
    .unwrap();
    assert_eq!(reason(second.acknowledge(Seq(3)).await), Reason::ConsumerFenced);
    assert_eq!(take(&mut third, 7).await, [4, 5, 6, 7, 8, 9, 10]);
    third.acknowledge(Seq(10)).await.unwrap();

    // Somebody moves it: whoever has it is told. Of a state that is no more, nothing is moved.
    let listed = client.subscriptions().await.unwrap().remove(0);
    assert_eq!((listed.position, listed.heard), (10, true));
    client.seek_subscription(&listed, Seq(2)).await.unwrap();
    assert_eq!(
        reason(client.seek_subscription(&listed, Seq(4)).await),
        Reason::ConsumerFenced
    );
    assert_eq!(reason(third.acknowledge(Seq(10)).await), Reason::ConsumerFenced);
    let mut fourth = client.consume("mails", at_once()).await.unwrap();
    assert_eq!(take(&mut fourth, 8).await, [3, 4, 5, 6, 7, 8, 9, 10]);

    assert_eq!(reason(fourth.acknowledge(Seq(1_000)).await), Reason::FieldInvalid);
    let listed = client.subscriptions().await.unwrap().remove(0);
    assert_eq!(
        reason(client.seek_subscription(&listed, Seq(1_000)).await),
        Reason::SeqAhead
    );
    client.forget_subscription(&listed).await.unwrap();
    assert_eq!(
        reason(fourth.acknowledge(Seq(10)).await),
        Reason::SubscriptionUnknown
    );
    assert_eq!(
        reason(client.forget_subscription(&listed).await),
        Reason::SubscriptionUnknown
    );
    assert_eq!(
        reason(client.seek_subscription(&listed, Seq(1)).await),
        Reason::SubscriptionUnknown
    );
    assert_eq!(reason(client.consume("", at_once()).await), Reason::FieldInvalid);
    assert_eq!(
        reason(client.consume(&"n".repeat(257), at_once()).await),
        Reason::LimitExceeded
    );

    let written = node.api().await.write("k", "x").await.unwrap();
    assert_eq!(written.seq, 11, "nothing of this took a number");
    node.stop().await;
}

/// Nodes die while consumers of several names work: every event comes to each name, and no position ever goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_go_on_while_nodes_die() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(45);
    let addresses = cluster.addresses();
    let (done, upto) = tokio::sync::watch::channel(None::<Seq>);
    let mut consumers = tokio::task::JoinSet::new();
    for name in ["mails", "bills", "search"] {
        let client = Client::connect(addresses.iter().map(ToString::to_string)).unwrap();
        let upto = upto.clone();
        consumers.spawn(async move {
            let mut seen = BTreeSet::new();
            let mut acknowledged = Seq::ZERO;
            loop {
                // Each life is short, as if the process was killed: only what was acknowledged counts for the next.
                let mut consumer = client.consume(name, from_the_beginning()).await.unwrap();
                assert!(
                    consumer.acknowledged() >= acknowledged,
                    "the position of {name} went back"
                );
                for _ in 0..20 {
                    if let Message::Events(batch) = consumer.next().await.unwrap() {
                        seen.extend(batch.decode().unwrap().iter().map(|event| event.seq));
                        let done = batch.last_seq();
                        if consumer.acknowledge(done).await.is_ok() {
                            acknowledged = done;
                        }
                    }
                    if upto.borrow().is_some_and(|upto| acknowledged >= upto) {
                        return (name, seen);
                    }
                }
                drop(consumer.release().await);
            }
        });
    }
    for seat in [0, 1, 0] {
        load.more(40).await;
        let victim = cluster.leader(0, seat).await;
        cluster.kill(victim).await;
        load.more(40).await;
        cluster.run(victim).await;
    }
    let all = cluster.judged(load, 100, &[0, 1, 2]).await;
    done.send_replace(all.last().map(|event| event.seq));
    let all: BTreeSet<Seq> = all.iter().map(|event| event.seq).collect();
    while let Some(finished) = soon("a consumer", consumers.join_next()).await {
        let (name, seen) = finished.unwrap();
        assert_eq!(seen, all, "{name}");
    }
    let client = Client::connect(addresses.iter().map(ToString::to_string)).unwrap();
    assert_eq!(client.subscriptions().await.unwrap().len(), 3);
    cluster.stop_all().await;
}

/// A list comes in pages, and says by any node how long each name has been behind, also when what is not done yet is in a
/// group that this node has no member of. Red when only the groups of one node are asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_lists_names_in_pages_and_tells_how_long_each_is_behind() {
    let mut cluster = Cluster::start(5, &[("SHARD_GROUPS", "2")]).await;
    let status = cluster.until_led(true).await;
    let mut api = cluster.api(0).await;
    let (early, late) = (key_of(&status, 0, 0), key_of(&status, 1, 0));
    let mut seqs = Vec::new();
    for key in [&early, &early, &late, &early] {
        seqs.push(api.write(key, "x").await.unwrap().seq);
    }
    let upto = *seqs.last().unwrap();
    let events = api.events_up_to(upto).await.unwrap();
    let client = Client::connect([cluster.node(0).grpc.to_string()]).unwrap();
    for (n, seq) in [0].into_iter().chain(seqs.clone()).enumerate() {
        let options = ConsumerOptions {
            from: Some(Seq(seq)),
            ..at_once()
        };
        let consumer = client.consume(&format!("name {n}"), options).await.unwrap();
        consumer.release().await.unwrap();
    }
    for n in 0..5 {
        let mut subscriptions = SubscriptionsClient::new(cluster.api(n).await.channel);
        let mut found = Vec::new();
        let mut after = String::new();
        let before = utc_now();
        loop {
            let request = v1::ListSubscriptionsRequest { after, limit: 2 };
            let page = subscriptions.list(request).await.unwrap().into_inner();
            assert!(page.subscriptions.len() <= 2);
            found.extend(page.subscriptions);
            after = page.next_after;
            if after.is_empty() {
                break;
            }
        }
        let passed = utc_now().get() - before.get();
        let names: Vec<_> = found.iter().map(|info| &*info.name).collect();
        assert_eq!(names, ["name 0", "name 1", "name 2", "name 3", "name 4"]);
        for info in found {
            let next = events.iter().find(|event| event.seq.get() > info.position);
            let age = next.map_or(0, |event| (before.get() - event.time.get()) / 1_000);
            let told = info.lag_ms.unwrap();
            let name = &info.name;
            assert!(
                (age..=age + passed / 1_000 + 1).contains(&told) || (next.is_none() && told == 0),
                "by node {n}, {name} at {}: {told} ms, not {age} to {passed} us more",
                info.position
            );
        }
        let wrong = v1::ListSubscriptionsRequest {
            limit: 1_001,
            ..Default::default()
        };
        assert_reason(
            subscriptions.list(wrong).await.map_err(Refusal::from),
            Reason::LimitExceeded,
        );
    }
    cluster.stop_all().await;
}

/// The command line: what was printed is acknowledged, and an operator looks, seeks and forgets.
#[tokio::test]
async fn the_command_line_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let node = Settings::new(dir.path()).start().await;
    let cli = Cli::new(node.grpc);
    write(&node, 5).await;
    let seqs = async |line: &str| -> Vec<u64> {
        let printed = cli.json(line).await;
        printed
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect()
    };
    let follow = "subscribe --name mails --from 0 --until-caught-up";
    assert_eq!(seqs("subscribe --name mails --from 0 --limit 2").await, [1, 2]);
    assert_eq!(seqs(follow).await, [3, 4, 5]);
    assert!(seqs(follow).await.is_empty());
    write(&node, 2).await;
    assert_eq!(seqs(follow).await, [6, 7]);

    let listed = cli.json("subscriptions list").await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["position"]),
        (&"mails".into(), &7.into())
    );
    assert_eq!(listed[0]["consumer"], serde_json::Value::Null, "it let go");
    assert_eq!(listed[0]["lag_seconds"], 0.0, "{listed:?}");
    let table = cli.line("subscriptions list -o text").await.succeeded().stdout;
    assert!(table.contains("mails") && table.contains("nobody"), "{table}");
    assert!(table.contains("BEHIND") && table.contains("0.0 s"), "{table}");

    let dry = &cli.json("subscriptions seek mails 4 --dry-run").await[0];
    assert_eq!((&dry["before"], &dry["dry_run"]), (&7.into(), &true.into()));
    assert!(seqs(follow).await.is_empty(), "nothing was done");
    let moved = &cli.json("subscriptions seek mails 4").await[0];
    assert_eq!((&moved["before"], &moved["position"]), (&7.into(), &4.into()));
    assert_eq!(seqs(follow).await, [5, 6, 7]);

    // Another consumer has it: this one says so, and waits for as long as it may.
    let held = client(&node).consume("mails", at_once()).await.unwrap();
    let waited = cli.line("subscribe --name mails --timeout 1s").await.exited(5);
    assert!(waited.stderr.contains("waiting for it"), "{}", waited.stderr);
    held.release().await.unwrap();
    cli.line("subscriptions forget mails").await.succeeded();
    let gone = cli.line("subscriptions forget mails").await.exited(1);
    assert!(
        gone.stderr.contains("no subscription is named"),
        "{}",
        gone.stderr
    );
    node.stop().await;
}
