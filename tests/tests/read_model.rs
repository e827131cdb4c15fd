//! The example of a consumer, `rdb-client/examples/read_model.rs`, killed again and again.
#![cfg(test)]

use rdb_client::{Client, Event, EventKind, Expectation, Filter, KeyName, Message, NewEvent, Seq, Start};
use rdb_tests::process::{Node, binary};
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::{Stopwatch, pause, soon};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

const KILLS: u64 = 100;
const ACCOUNTS: u64 = 7;

fn spawn(server: &str, file: &Path) -> Child {
    Command::new(binary("examples/read_model"))
        .env_clear()
        .arg(server)
        .arg(file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Writes amounts, and deletes an account now and then, one event at a time.
async fn write(client: Client, mut random: Random, acknowledged: watch::Sender<u64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let account = KeyName::new("default", &format!("account {}", random.below(ACCOUNTS))).unwrap();
        if random.one_in(20) {
            let marker = NewEvent::new("");
            client.delete(&account, marker, Expectation::Any).await.unwrap();
        } else {
            let amount = NewEvent::new(random.below(1_000).to_string());
            client.write(&account, amount, Expectation::Any).await.unwrap();
        }
        acknowledged.send_modify(|count| *count += 1);
    }
}

/// How far the model is; 0 before it has tables.
fn position(file: &Path) -> u64 {
    let model = Connection::open(file).unwrap();
    let seq = model.query_row("SELECT seq FROM position", [], |row| row.get::<_, i64>(0));
    seq.map_or(0, |seq| u64::try_from(seq).unwrap())
}

/// Everything that is there.
async fn events(client: &Client) -> Vec<Event> {
    let mut changes = client.subscribe(Start::After(Seq::ZERO), Filter::default());
    let mut events = Vec::new();
    loop {
        let message = soon("a message", changes.next()).await.unwrap();
        if let Message::Events(batch) = &message {
            events.extend(batch.decode().unwrap());
        }
        if matches!(message, Message::CaughtUp { .. }) {
            return events;
        }
    }
}

fn amount(event: &Event) -> Option<i64> {
    let text = || std::str::from_utf8(&event.payload).unwrap();
    (event.kind == EventKind::Write).then(|| text().parse().unwrap())
}

/// Each event's effect is in the model once, and the balances are those of the events.
fn check(file: &Path, events: &[Event]) {
    let model = Connection::open(file).unwrap();
    let mut statement = model
        .prepare("SELECT seq, account, amount FROM entry ORDER BY rowid")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let entries: Vec<(i64, String, Option<i64>)> = rows.unwrap().map(Result::unwrap).collect();
    let expected: Vec<_> = events
        .iter()
        .map(|event| {
            let seq = i64::try_from(event.seq.get()).unwrap();
            (seq, event.name.key.to_string(), amount(event))
        })
        .collect();
    for (n, (entry, expected)) in entries.iter().zip(&expected).enumerate() {
        assert_eq!(entry, expected, "entry {n}");
    }
    assert_eq!(entries.len(), expected.len());

    let mut statement = model
        .prepare("SELECT account, amount, entries FROM balance")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
    let balances: BTreeMap<String, (i64, i64)> = rows.unwrap().map(Result::unwrap).collect();
    let mut expected = BTreeMap::<String, (i64, i64)>::new();
    for event in events {
        let account = event.name.key.to_string();
        match amount(event) {
            None => drop(expected.remove(&account)),
            Some(amount) => {
                let balance = expected.entry(account).or_default();
                *balance = (balance.0 + amount, balance.1 + 1);
            }
        }
    }
    assert_eq!(balances, expected);
}

/// A consumer that writes its position with what it made of the events is as if it had never been killed.
///
/// - Clients write all the time. The example is killed with SIGKILL, mostly after it has got on, at a moment drawn from
///   the seed, and started again.
/// - In the end, each event has one entry in its model, in order, and the balances are those of the events.
///
/// Red when the example writes its position before or after the rows, or the library repeats or skips an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_takes_effect_once_however_often_its_consumer_is_killed() {
    let watch = Stopwatch::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.sqlite");
    let node = Node::start(&dir.path().join("data")).await;
    let server = node.grpc.to_string();
    let client = Client::connect([&server]).unwrap();
    let mut random = Random::of_run(31);
    let (acknowledged, mut acknowledgements) = watch::channel(0);
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..3 {
        writers.spawn(write(
            client.clone(),
            random.fork(),
            acknowledged.clone(),
            Arc::clone(&stop),
        ));
    }

    let mut got_on = 0;
    let mut last = 0;
    for kill in 0..KILLS {
        let mut consumer = spawn(&server, &file);
        while kill > 0 && !random.one_in(8) && position(&file) == last {
            assert_eq!(consumer.try_wait().unwrap(), None, "it ended by itself");
            pause().await;
        }
        let moment = *acknowledgements.borrow() + random.below(60);
        let reached = acknowledgements.wait_for(|count| *count >= moment);
        drop(soon("acknowledgements", reached).await.unwrap());
        consumer.kill().await.unwrap();
        let now = position(&file);
        assert!(now >= last, "the position went back from {last} to {now}");
        got_on += u64::from(now > last);
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }

    let events = events(&client).await;
    let end = events.last().unwrap().seq.get();
    let mut consumer = spawn(&server, &file);
    let all = async {
        while position(&file) < end {
            assert_eq!(consumer.try_wait().unwrap(), None, "it ended by itself");
            pause().await;
        }
    };
    soon("the end of the stream", all).await;
    consumer.kill().await.unwrap();
    check(&file, &events);
    node.stop().await;
    assert!(got_on > KILLS / 3, "{got_on} of {KILLS} lives got on");
    let (count, took) = (events.len(), watch.elapsed());
    say(&format!(
        "{KILLS} kills, {got_on} after it got on, {count} events, {took:?}"
    ));
}
