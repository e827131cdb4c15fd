//! The library against a server in memory: what is promised over lost answers and broken streams.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use futures::{StreamExt as _, TryStreamExt as _};
use rdb_client::{
    AppenderOptions, Client, Expectation, Filter, Happened, HistoryOptions, KeyName, Message, NewEvent,
    Order, ReadOptions, Reason, Seq, Start, Version,
};
use rdb_proto::v1;
use std::time::Duration;
use support::{DATABASE_ID, Fake, Fault};

fn key(key: &str) -> KeyName {
    KeyName::new("default", key).unwrap()
}

fn client(fake: &Fake) -> Client {
    Client::connect([&fake.address]).unwrap()
}

async fn write(client: &Client, name: &str, payload: &'static str) -> Seq {
    let receipt = client
        .write(&key(name), NewEvent::new(payload), Expectation::Any)
        .await;
    receipt.unwrap().stored.seq
}

#[tokio::test]
async fn a_write_is_read_back() {
    let fake = Fake::start();
    let client = client(&fake);
    let event = NewEvent::new("First write").with_type("note");
    let receipt = client
        .write(&key("Deep"), event.clone(), Expectation::Absent)
        .await
        .unwrap();
    assert_eq!((receipt.attempts, receipt.stored.is_duplicate), (1, false));
    assert_eq!(receipt.stored.event_id, event.event_id);
    let answer = client.read(&key("Deep"), ReadOptions::default()).await.unwrap();
    assert_eq!((answer.event.payload, answer.as_of), (event.payload, Seq(1)));
    assert_eq!(client.known_seq(), Seq(1));
}

/// The promise: an answer that is lost never makes a second event, and the server hears that it is a retry.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_event_id() {
    let fake = Fake::start();
    let client = client(&fake);
    fake.fail_next(&[Fault::None]);
    write(&client, "other", "known before").await;
    fake.fail_next(&[Fault::LoseAnswer, Fault::Refuse(Reason::SeatRecovering)]);
    let receipt = client
        .write(&key("Deep"), NewEvent::new("x"), Expectation::Any)
        .await
        .unwrap();
    assert_eq!((receipt.attempts, receipt.stored.is_duplicate), (3, true));
    assert_eq!(fake.state().events.len(), 2);
    assert_eq!(fake.state().retried_since, [None, None, Some(1), Some(1)]);
}

/// The appends of all callers share a stream. Red when one of them gets another's answer, or is forgotten when that breaks.
#[tokio::test]
async fn callers_that_share_a_stream_each_get_their_own_answer() {
    let fake = Fake::start();
    let client = client(&fake);
    let lost = [
        Fault::LoseAnswer,
        Fault::None,
        Fault::LoseRequest,
        Fault::Refuse(Reason::SeatRecovering),
    ];
    fake.fail_next(&lost.repeat(4));
    let writes = (0..50).map(|n| {
        let (client, name) = (&client, key(&format!("k{n}")));
        async move {
            let event = NewEvent::new("x");
            let receipt = client
                .write(&name, event.clone(), Expectation::Any)
                .await
                .unwrap();
            assert_eq!(receipt.stored.event_id, event.event_id);
            let answer = client.read(&name, ReadOptions::default()).await.unwrap();
            assert_eq!(answer.event.seq, receipt.stored.seq);
        }
    });
    futures::future::join_all(writes).await;
    assert_eq!(fake.state().events.len(), 50);
}

/// Red when an append that was given up holds up the next one.
#[tokio::test]
async fn who_gives_up_leaves_the_stream_behind() {
    let fake = Fake::start();
    let client = client(&fake);
    fake.fail_next(&[Fault::Hang]);
    let hasty = client.with_timeout(Some(Duration::from_millis(100)));
    let error = hasty
        .write(&key("a"), NewEvent::new("x"), Expectation::Any)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::OutcomeUnknown));
    assert_eq!(write(&client, "b", "x").await, Seq(1));
}

/// Red when the stream ends, or stands still, with the runtime of who wrote first.
#[tokio::test]
async fn a_runtime_that_ends_leaves_the_client_to_others() {
    let fake = Fake::start();
    let client = client(&fake);
    let elsewhere = client.clone();
    let first = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(write(&elsewhere, "a", "there"))
    });
    assert_eq!(first.await.unwrap(), Seq(1));
    assert_eq!(write(&client, "b", "here").await, Seq(2));
}

#[tokio::test]
async fn a_refusal_for_the_moment_is_repeated_blindly() {
    let fake = Fake::start();
    fake.fail_next(&[
        Fault::Refuse(Reason::SeatVacant),
        Fault::Refuse(Reason::Overloaded),
    ]);
    let receipt = client(&fake)
        .write(&key("Deep"), NewEvent::new("x"), Expectation::Any)
        .await
        .unwrap();
    assert_eq!((receipt.attempts, receipt.stored.is_duplicate), (3, false));
    assert_eq!(fake.state().retried_since, [None, None, None]);
}

#[tokio::test]
async fn unknown_is_said_at_the_deadline_and_nothing_happened_is_said_without_a_server() {
    let fake = Fake::start();
    let client = client(&fake).with_timeout(Some(Duration::from_millis(150)));
    fake.fail_next(&[Fault::LoseRequest; 100]);
    let error = client
        .write(&key("Deep"), NewEvent::new("x"), Expectation::Any)
        .await
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.happened()),
        (Some(Reason::OutcomeUnknown), Happened::Maybe)
    );
    assert!(error.attempts() > 1);

    // A new client: on the connection of the old one, the request may have left before the reset was seen.
    let client = Client::connect([&fake.address])
        .unwrap()
        .with_timeout(Some(Duration::from_millis(150)));
    drop(fake);
    let error = client
        .write(&key("Deep"), NewEvent::new("x"), Expectation::Any)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code_name(), error.happened()),
        ("UNAVAILABLE", Happened::No)
    );
    assert!(
        error.message().starts_with("cannot connect to 127.0.0.1:"),
        "{error}"
    );
}

#[tokio::test]
async fn a_conflict_names_the_current_version() {
    let fake = Fake::start();
    let client = client(&fake);
    write(&client, "Deep", "x").await;
    let expect = Expectation::Exact(Version(7));
    let error = client
        .write(&key("Deep"), NewEvent::new("y"), expect)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::VersionConflict));
    assert_eq!(error.current_version(), Some(Version(1)));
}

#[tokio::test]
async fn with_a_dead_node_first_the_next_one_is_used() {
    let fake = Fake::start();
    let client = Client::connect(["127.0.0.1:1", fake.address.as_str()]).unwrap();
    assert_eq!(write(&client, "Deep", "x").await, Seq(1));
}

#[tokio::test]
async fn a_deleted_key_is_not_found_and_keeps_its_history() {
    let fake = Fake::start();
    let client = client(&fake);
    for payload in ["1", "2", "3"] {
        write(&client, "Deep", payload).await;
    }
    let deleted = client
        .delete(&key("Deep"), NewEvent::new(""), Expectation::Exists)
        .await;
    assert_eq!(deleted.unwrap().stored.version, Version(4));
    let error = client
        .read(&key("Deep"), ReadOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::KeyNotFound));
    let again = client
        .delete(&key("Deep"), NewEvent::new(""), Expectation::Exists)
        .await;
    assert_eq!(again.unwrap_err().reason(), Some(Reason::KeyNotFound));

    let versions = async |options: HistoryOptions| {
        // Each history breaks off after its first message and must go on behind it.
        fake.state().break_stream_after = Some(0);
        let events: Vec<_> = client
            .history(&key("Deep"), options)
            .into_stream()
            .try_collect()
            .await
            .unwrap();
        events.iter().map(|event| event.version.get()).collect::<Vec<_>>()
    };
    let all = HistoryOptions::default();
    assert_eq!(versions(all).await, [1, 2, 3, 4]);
    assert_eq!(
        versions(HistoryOptions {
            backwards: true,
            ..all
        })
        .await,
        [4, 3, 2, 1]
    );
    assert_eq!(
        versions(HistoryOptions {
            from: Version(2),
            limit: Some(2),
            ..all
        })
        .await,
        [2, 3]
    );
    assert_eq!(
        versions(HistoryOptions {
            limit: Some(0),
            ..all
        })
        .await,
        Vec::<u64>::new()
    );
}

/// However many answers it takes.
#[tokio::test]
async fn a_snapshot_is_of_one_seq() {
    let fake = Fake::start();
    let client = client(&fake);
    for name in ["a", "b", "a"] {
        write(&client, name, "x").await;
    }
    client
        .delete(&key("b"), NewEvent::new(""), Expectation::Exists)
        .await
        .unwrap();
    let names = ["a", "b", "never", "a", "b"].map(key);
    let versions = async |at| {
        let snapshot = client.snapshot(&names, at).await.unwrap();
        assert!(snapshot.keys.iter().map(|key| &key.name).eq(&names));
        let keys = snapshot.keys.iter();
        let keys = keys.map(|key| (key.version.get(), key.event.is_some()));
        (snapshot.as_of.get(), keys.collect::<Vec<_>>())
    };
    let (there, deleted, never) = ((2, true), (2, false), (0, false));
    assert_eq!(
        versions(None).await,
        (4, vec![there, deleted, never, there, deleted])
    );
    let (a, b) = ((1, true), (1, true));
    assert_eq!(versions(Some(Seq(2))).await, (2, vec![a, b, never, a, b]));
}

#[tokio::test]
async fn keys_come_in_pages() {
    let fake = Fake::start();
    let client = client(&fake);
    for name in ["b", "a", "c", "a"] {
        write(&client, name, "x").await;
    }
    let collection = key("a").collection;
    let first = client.list_keys(&collection, "", None, 2).await.unwrap();
    assert_eq!(
        first
            .keys
            .iter()
            .map(|k| (k.key.as_str(), k.version.get()))
            .collect::<Vec<_>>(),
        [("a", 2), ("b", 1)]
    );
    let after = first.next_after.unwrap();
    let second = client.list_keys(&collection, "", Some(&after), 2).await.unwrap();
    assert_eq!((second.keys.len(), second.next_after), (1, None));
}

/// The promise: a stream of appends survives a lost answer; nothing is added twice and nothing is left out.
#[tokio::test]
async fn an_append_stream_goes_on_after_its_connection_broke() {
    let fake = Fake::start();
    let client = client(&fake);
    let appender = client.append_stream(AppenderOptions {
        window: 8,
        ..AppenderOptions::default()
    });
    fake.fail_next(&[Fault::LoseAnswer]);
    let mut pending = Vec::new();
    for n in 0..50 {
        let events = vec![NewEvent::new(n.to_string()), NewEvent::new("second")];
        pending.push(
            appender
                .append(&key("Deep"), events, Expectation::Any)
                .await
                .unwrap(),
        );
    }
    for (n, pending) in pending.into_iter().enumerate() {
        let receipt = pending.await.unwrap();
        assert_eq!(receipt.stored.len(), 2);
        assert_eq!(receipt.stored[0].version.get(), 2 * u64::try_from(n).unwrap() + 1);
        assert_eq!(receipt.stored[0].is_duplicate, n == 0);
    }
    appender.finish().await;
    assert_eq!(fake.state().events.len(), 100);
}

#[tokio::test]
async fn a_refused_append_is_told_and_those_behind_it_go_on() {
    let fake = Fake::start();
    let client = client(&fake);
    fake.fail_next(&[Fault::Refuse(Reason::Overloaded)]);
    let appender = client.append_stream(AppenderOptions::default());
    let refused = appender
        .append(&key("a"), vec![NewEvent::new("x")], Expectation::Any)
        .await
        .unwrap();
    let stored = appender
        .append(&key("b"), vec![NewEvent::new("x")], Expectation::Any)
        .await
        .unwrap();
    assert_eq!(refused.await.unwrap_err().reason(), Some(Reason::Overloaded));
    assert!(stored.await.is_ok());

    fake.fail_next(&[Fault::Refuse(Reason::Overloaded)]);
    let patient = AppenderOptions {
        retries_refused: true,
        ..AppenderOptions::default()
    };
    let appender = client.append_stream(patient);
    let retried = appender
        .append(&key("a"), vec![NewEvent::new("x")], Expectation::Any)
        .await
        .unwrap();
    assert_eq!(retried.await.unwrap().attempts, 2);
}

#[tokio::test]
async fn an_append_stream_without_a_server_ends_at_the_deadline() {
    let client = Client::connect(["127.0.0.1:1"])
        .unwrap()
        .with_timeout(Some(Duration::from_millis(100)));
    let appender = client.append_stream(AppenderOptions::default());
    let pending = appender
        .append(&key("a"), vec![NewEvent::new("x")], Expectation::Any)
        .await
        .unwrap();
    let error = pending.await.unwrap_err();
    assert_eq!(
        (error.happened(), error.code_name()),
        (Happened::No, "UNAVAILABLE")
    );
    appender.finish().await;
}

/// The promise: over a broken stream, every event comes once and in order. Red when the position is not kept.
#[tokio::test]
async fn a_subscription_goes_on_without_loss_and_without_repetition() {
    let fake = Fake::start();
    let client = client(&fake);
    for _ in 0..10 {
        write(&client, "Deep", "x").await;
    }
    fake.state().break_stream_after = Some(4);
    let mut subscription = client.subscribe(Start::After(Seq(2)), Filter::default());
    let mut seqs = Vec::new();
    let mut interruptions = 0;
    loop {
        match subscription.next().await.unwrap() {
            Message::Opened { database_id, .. } => assert_eq!(database_id, DATABASE_ID),
            Message::Events(batch) => {
                seqs.extend(batch.decode().unwrap().iter().map(|event| event.seq.get()));
            }
            Message::Interrupted(_) => interruptions += 1,
            Message::Resolved { .. } | Message::FellBehind { .. } => {}
            Message::CaughtUp { seq } => break assert_eq!(seq, Seq(10)),
        }
    }
    assert_eq!(seqs, (3..=10).collect::<Vec<_>>());
    assert_eq!(interruptions, 1);
    assert_eq!(fake.state().subscribed_after, [Some(2), Some(6)]);
    assert_eq!(subscription.position(), Some(Seq(10)));
}

/// The promise: in the order of keys, what is above the last mark comes again over a new connection, and is handed out once.
/// Red when an event moves the position, or when what came before is not left out.
#[tokio::test]
async fn a_subscription_by_keys_goes_on_after_its_last_mark_and_repeats_nothing() {
    let fake = Fake::start();
    let client = client(&fake);
    for n in 0..10 {
        write(&client, &format!("k{}", n % 3), "x").await;
    }
    fake.state().break_stream_after = Some(4);
    let subscription = client.subscribe(Start::After(Seq(2)), Filter::default());
    let mut subscription = subscription.in_order_of(Order::Keys);
    let (mut seqs, mut marked) = (Vec::new(), 0);
    loop {
        match subscription.next().await.unwrap() {
            Message::Events(batch) => {
                seqs.extend(batch.decode().unwrap().iter().map(|event| event.seq.get()));
                assert_eq!(subscription.position(), Some(Seq(2)), "no event moves it");
            }
            Message::Resolved { changes, .. } => marked += changes,
            Message::Opened { .. } | Message::Interrupted(_) | Message::FellBehind { .. } => {}
            Message::CaughtUp { seq } => break assert_eq!(seq, Seq(10)),
        }
    }
    assert_eq!(seqs, (3..=10).collect::<Vec<_>>());
    assert_eq!(marked, 4, "of the second connection four were new");
    assert_eq!(fake.state().subscribed_after, [Some(2), Some(2)]);
    assert_eq!(subscription.position(), Some(Seq(10)));
}

#[tokio::test]
async fn a_subscription_from_now_keeps_its_place_over_a_broken_stream() {
    let fake = Fake::start();
    let client = client(&fake);
    write(&client, "Deep", "before").await;
    let mut stream = Box::pin(client.subscribe(Start::Now, Filter::default()).into_stream());
    let opened = stream.next().await.unwrap().unwrap();
    assert!(
        matches!(opened, Message::Opened { after: Seq(1), .. }),
        "{opened:?}"
    );
    fake.state().break_stream_after = Some(0);
    write(&client, "Deep", "after").await;
    let event = loop {
        if let Message::Events(batch) = stream.next().await.unwrap().unwrap() {
            break batch.decode().unwrap().remove(0);
        }
    };
    assert_eq!((event.seq, &event.payload[..]), (Seq(2), &b"after"[..]));
    assert_eq!(fake.state().subscribed_after, [None, Some(1)]);
}

/// Two nodes with the same six events, and a client of both.
async fn two_nodes() -> ([Fake; 2], Client) {
    let fakes = [Fake::start(), Fake::start()];
    for name in ["a", "b", "a", "b", "a", "b"] {
        write(&client(&fakes[0]), name, "x").await;
    }
    fakes[1].state().events.clone_from(&fakes[0].state().events);
    let client = Client::connect(fakes.each_ref().map(|fake| &fake.address)).unwrap();
    (fakes, client)
}

/// What the nodes were asked for, whichever was asked first.
fn asked(fakes: &[Fake]) -> Vec<Vec<Option<u64>>> {
    let mut asked: Vec<_> = fakes
        .iter()
        .map(|fake| fake.state().subscribed_after.clone())
        .collect();
    asked.sort();
    asked
}

/// The promise: another node is asked for what comes after the last event. Red when the node that broke off is asked
/// again, or for something else.
#[tokio::test]
async fn a_subscription_goes_on_at_another_node_after_its_last_event() {
    let (fakes, client) = two_nodes().await;
    for fake in &fakes {
        fake.state().break_stream_after = Some(4);
    }
    let mut subscription = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    let mut seqs = Vec::new();
    loop {
        let message = subscription.next().await.unwrap();
        if let Message::Events(batch) = &message {
            seqs.extend(batch.decode().unwrap().iter().map(|event| event.seq.get()));
        }
        if matches!(message, Message::CaughtUp { .. }) {
            break;
        }
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert_eq!(asked(&fakes), [[Some(0)], [Some(4)]]);
}

/// The promise: when no event passes the filter, another node is asked for what comes after the last mark. Red when a
/// mark does not move the position.
#[tokio::test]
async fn a_subscription_goes_on_at_another_node_after_its_last_mark() {
    let (fakes, client) = two_nodes().await;
    let filter = Filter {
        key_prefixes: vec!["none".to_owned()],
        ..Filter::default()
    };
    let mut subscription = client.subscribe(Start::After(Seq::ZERO), filter);
    while subscription.position() < Some(Seq(6)) {
        subscription.next().await.unwrap();
    }
    for fake in &fakes {
        let mut state = fake.state();
        state.break_stream_after = Some(0);
        let mut next = state.events[5].clone();
        next.seq = 7;
        state.events.push(next);
    }
    while subscription.position() < Some(Seq(7)) {
        subscription.next().await.unwrap();
    }
    // Each of them broke off once.
    assert_eq!(asked(&fakes), [vec![Some(0), Some(6)], vec![Some(6)]]);
}

#[tokio::test]
async fn a_position_of_another_database_or_ahead_of_it_is_an_error() {
    let fake = Fake::start();
    let client = client(&fake);
    let start = Start::After(Seq::ZERO);
    let mut other = client.subscribe(start, Filter::default()).of_database("another");
    assert_eq!(
        other.next().await.unwrap_err().reason(),
        Some(Reason::WrongDatabase)
    );
    let mut ahead = client.subscribe(Start::After(Seq(9)), Filter::default());
    assert_eq!(ahead.next().await.unwrap_err().reason(), Some(Reason::SeqAhead));
}

#[tokio::test]
async fn a_filter_is_applied_by_the_server() {
    let fake = Fake::start();
    let client = client(&fake);
    for name in ["orders/1", "users/1", "orders/2"] {
        write(&client, name, "x").await;
    }
    let filter = Filter {
        key_prefixes: vec!["orders/".to_owned()],
        ..Filter::default()
    };
    let mut subscription = client.subscribe(Start::After(Seq::ZERO), filter);
    let mut count = 0;
    while count < 2 {
        if let Message::Events(batch) = subscription.next().await.unwrap() {
            count += batch.count();
        }
    }
    let mark = subscription.next().await.unwrap();
    assert!(
        matches!(
            mark,
            Message::Resolved {
                seq: Seq(3),
                changes: 2
            }
        ),
        "{mark:?}"
    );
}

/// Node 1 at `asked` and node 2 at `leader`, which leads everything; as node `node` of this database tells it.
fn map(node: u64, database: &str, [asked, leader]: [&Fake; 2]) -> v1::MapResponse {
    let at = |id, fake: &Fake| v1::MapNode {
        id,
        address: fake.address.clone(),
    };
    v1::MapResponse {
        database_id: database.to_owned(),
        node,
        nodes: vec![at(1, asked), at(2, leader)],
        led: vec![v1::LedSlots {
            first: 0,
            last: 1023,
            leader: 2,
            epoch: 5,
        }],
    }
}

/// Writes until `done`, which must not take long.
async fn write_until(client: &Client, done: impl Fn() -> bool) {
    let deadline = rdb_client::clock::Deadline::after(Some(Duration::from_secs(20)));
    while !done() {
        assert!(!deadline.has_passed(), "it took too long");
        write(client, "Deep", "x").await;
        rdb_client::clock::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_write_goes_to_the_node_that_leads_its_key() {
    let (asked, leader) = (Fake::start(), Fake::start());
    asked.state().map = Some(map(1, "d", [&asked, &leader]));
    leader.state().map = Some(map(2, "d", [&asked, &leader]));
    let client = client(&asked);
    write_until(&client, || !leader.state().events.is_empty()).await;
    let before = asked.state().events.len();
    for _ in 0..20 {
        write(&client, "Deep", "x").await;
    }
    assert_eq!(asked.state().events.len(), before);
    // It dies: the client goes on with the node that it was given, and tries the other one again later.
    let address = leader.address.clone();
    drop(leader);
    write(&client, "Deep", "x").await;
    assert_eq!(asked.state().events.len(), before + 1);
    let leader = Fake::start_at(&address);
    leader.state().map = Some(map(2, "d", [&asked, &leader]));
    write_until(&client, || !leader.state().events.is_empty()).await;
}

/// An address of the map may lead elsewhere from where the client stands, to a node of another database even.
#[tokio::test]
async fn a_node_that_is_not_the_one_meant_gets_no_request() {
    for (node, database) in [(2, "another"), (3, "d")] {
        let (asked, stranger) = (Fake::start(), Fake::start());
        asked.state().map = Some(map(1, "d", [&asked, &stranger]));
        stranger.state().map = Some(map(node, database, [&asked, &stranger]));
        let client = client(&asked);
        write_until(&client, || stranger.state().maps_asked > 0).await;
        for _ in 0..20 {
            write(&client, "Deep", "x").await;
        }
        assert!(
            stranger.state().events.is_empty(),
            "a write went to node {node} of {database}"
        );
    }
}
