//! Numbers that nodes ask of each other, against a real etcd (DESIGN 6.5): whatever becomes of the node that is asked,
//! each number is one event's, in real-time order.
#![cfg(test)]

use rdb_proto::numbers::{NumbersGranted, NumbersWanted};
use rdb_proto::types::{NodeId, Seq, Timestamp};
use rdb_server::coordination::etcd::{Colleagues, EtcdCoordinator, EtcdSettings, connect};
use rdb_server::coordination::{Allocation, CoordinationError, Coordinator};
use rdb_tests::cluster::Cluster;
use rdb_tests::etcd::Etcd;
use rdb_tests::machine::Machine;
use rdb_tests::say;
use rdb_tests::time::{Boxed, Stopwatch, soon};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

/// With a lease of the usual length.
fn settings(etcd: &Etcd, name: &str) -> EtcdSettings {
    EtcdSettings {
        lease_ttl: Duration::from_secs(10),
        refresh_interval: Duration::from_secs(1),
        ..etcd.settings(name)
    }
}

async fn join(etcd: &Etcd, name: &str) -> Arc<EtcdCoordinator> {
    join_with(settings(etcd, name)).await
}

async fn join_with(settings: EtcdSettings) -> Arc<EtcdCoordinator> {
    let joining = async {
        let connected = connect(settings).await?;
        Box::pin(connected.join(Uuid::new_v4())).await
    };
    Arc::new(soon("a node to join", joining).await.unwrap())
}

/// Ways to nodes of this process.
#[derive(Debug, Default)]
struct Office(OnceLock<BTreeMap<NodeId, Weak<EtcdCoordinator>>>);

impl Colleagues for Office {
    fn ask(&self, node: NodeId, wanted: NumbersWanted) -> Boxed<'static, Option<NumbersGranted>> {
        let node = self.0.get().and_then(|nodes| nodes.get(&node)?.upgrade());
        Box::pin(async move { node?.give(wanted).await })
    }
}

/// Nodes that ask each other.
async fn nodes(etcd: &Etcd, count: usize) -> Vec<Arc<EtcdCoordinator>> {
    let mut nodes = Vec::new();
    for n in 0..count {
        nodes.push(join(etcd, &format!("n{n}")).await);
    }
    let office = Arc::new(Office::default());
    let ways = nodes.iter().map(|node| (node.node_id(), Arc::downgrade(node)));
    office.0.set(ways.collect()).unwrap();
    for node in &nodes {
        let mut view = node.view();
        let whole = view.wait_for(|view| {
            view.controller.is_some() && view.nodes.values().filter(|info| info.is_live).count() == count
        });
        drop(soon("every node to know every other", whole).await.unwrap());
        let office: Arc<dyn Colleagues> = Arc::<Office>::clone(&office);
        node.pass_on_to(office);
    }
    nodes
}

/// Within this a node has numbers from an etcd that others ask too.
const IN_TIME: Duration = Duration::from_millis(250);

/// Numbers, and how often there were none: on a machine that is too busy a node may have none in time, and says so.
async fn numbers(node: &EtcdCoordinator, count: u64) -> (Allocation, u64) {
    let mut refused = 0;
    let asking = async {
        loop {
            match node.allocate(count).await {
                Err(CoordinationError::Unavailable { .. }) => refused += 1,
                answer => return answer.unwrap(),
            }
        }
    };
    let allocation = soon("numbers", asking).await;
    (allocation, refused)
}

/// Asks one time after the other, and returns what came. Nothing may be at or below what somebody had before.
async fn ask(
    node: Arc<EtcdCoordinator>,
    times: u64,
    done: Arc<AtomicU64>,
    machine: Arc<Machine>,
) -> Vec<(Seq, u64, Timestamp)> {
    let mut taken = Vec::new();
    let mut refused = 0;
    for n in 0..times {
        let count = 1 + n % 7;
        let before = done.load(Ordering::SeqCst);
        let (Allocation { first, time }, in_vain) = numbers(&node, count).await;
        refused += in_vain;
        assert!(first.get() > before, "{first} came after {before} had been told");
        done.fetch_max(first.get() + count - 1, Ordering::SeqCst);
        taken.push((first, count, time));
    }
    assert!(
        refused < 5 || machine.is_too_busy("how often a node has no number in time", IN_TIME),
        "{refused} of {times} refused"
    );
    taken
}

fn assert_each_once(mut taken: Vec<(Seq, u64, Timestamp)>) {
    taken.sort_unstable();
    let (mut last, mut clock) = (Seq::ZERO, Timestamp::ZERO);
    for (first, count, time) in taken {
        assert!(first > last, "{first} was given twice");
        assert!(time >= clock, "time went back at {first}");
        last = Seq(first.get() + count - 1);
        clock = time;
    }
}

/// Eight nodes with four seats each, all of which ask all the time: each number once, in real-time order. How many
/// requests are served in a second is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_nodes_that_ask_at_once_get_each_number_once() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let nodes = nodes(&etcd, 8).await;
    let (done, machine) = (Arc::<AtomicU64>::default(), Arc::new(Machine::watch()));
    let watch = Stopwatch::start();
    let mut asking = JoinSet::new();
    for node in &nodes {
        for _ in 0..4 {
            asking.spawn(ask(Arc::clone(node), 50, Arc::clone(&done), Arc::clone(&machine)));
        }
    }
    let taken: Vec<_> = soon("all numbers", asking.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    let took = watch.elapsed();
    let sum = |count: fn(&EtcdCoordinator) -> u64| nodes.iter().map(|node| count(node)).sum::<u64>();
    let txns = sum(|node| node.numbers_stats().txns.get());
    let lost = sum(|node| node.numbers_stats().races_lost.get());
    let passed_on = sum(|node| node.numbers_stats().passed_on.get());
    let requests = u128::try_from(taken.len()).unwrap();
    let rate = requests * 1_000 / took.as_millis().max(1);
    say(&format!(
        "{requests} requests, {rate} a second: {txns} txns, {lost} races lost, {passed_on} passed on"
    ));
    assert_each_once(taken);
    assert!(passed_on > 0, "nobody asked anybody");
}

/// For 400 numbers of nodes that race: a txn takes 10 ms then, which is much on any machine that has time for it.
const SLOW: Duration = Duration::from_secs(4);

/// Nodes that cannot ask each other race for the counter, and are not in each other's way: eight that ask again at once
/// lose three races or more for each that one wins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_race_give_way_to_each_other() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let mut nodes = Vec::new();
    for n in 0..8 {
        nodes.push(join(&etcd, &format!("n{n}")).await);
    }
    let (done, machine) = (Arc::<AtomicU64>::default(), Arc::new(Machine::watch()));
    let watch = Stopwatch::start();
    let mut asking = JoinSet::new();
    for node in &nodes {
        asking.spawn(ask(Arc::clone(node), 50, Arc::clone(&done), Arc::clone(&machine)));
    }
    let taken = soon("all numbers", asking.join_all()).await;
    assert_each_once(taken.into_iter().flatten().collect());
    let sum = |count: fn(&EtcdCoordinator) -> u64| nodes.iter().map(|node| count(node)).sum::<u64>();
    let txns = sum(|node| node.numbers_stats().txns.get());
    let lost = sum(|node| node.numbers_stats().races_lost.get());
    let took = watch.elapsed();
    say(&format!("{txns} txns in {took:?}, {lost} races lost"));
    if took > SLOW {
        say("not judged: txns took longer than nodes wait for each other");
        return;
    }
    assert!(lost < 2 * txns, "{lost} races lost for {txns} txns");
}

/// A node whose own connection is closed gets its numbers from another one, though not from one that has none either.
#[tokio::test]
async fn a_node_without_etcd_gets_numbers_from_one_that_has_it() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let nodes = nodes(&etcd, 3).await;
    let mut last = Seq::ZERO;
    let mut above = async |node: &EtcdCoordinator| {
        let first = numbers(node, 2).await.0.first;
        assert!(first > last, "{first} after {last}");
        last = first.next();
    };
    for closed in 0..2 {
        nodes[closed].guard();
        nodes[closed].close_numbers(false);
        let wanted = NumbersWanted {
            count: 1,
            generation: 1,
        };
        assert_eq!(
            nodes[closed].give(wanted).await,
            None,
            "not over a connection that nobody judged"
        );
        for node in &nodes {
            above(node).await;
        }
    }
    nodes[2].guard();
    nodes[2].close_numbers(false);
    let error = soon("a refusal", nodes[0].allocate(1)).await.unwrap_err();
    assert!(matches!(error, CoordinationError::Unavailable { .. }), "{error}");
}

/// Answers with the same numbers again and again.
#[derive(Debug)]
struct Parrot(NumbersGranted);

impl Colleagues for Parrot {
    fn ask(&self, _node: NodeId, _wanted: NumbersWanted) -> Boxed<'static, Option<NumbersGranted>> {
        let granted = self.0;
        Box::pin(async move { Some(granted) })
    }
}

/// Numbers at or below what the node has seen, of another generation or in another count are void (rule 6.3.6).
#[tokio::test]
async fn numbers_that_cannot_be_right_are_void() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let right = NumbersGranted {
        first: Seq(6),
        count: 1,
        time: Timestamp(1),
        generation: 1,
    };
    for (what, granted, is_void) in [
        (
            "seen before",
            NumbersGranted {
                first: Seq(5),
                ..right
            },
            true,
        ),
        (
            "another generation",
            NumbersGranted {
                generation: 2,
                ..right
            },
            true,
        ),
        ("too many", NumbersGranted { count: 2, ..right }, true),
        ("right", right, false),
    ] {
        let (asker, other) = (join(&etcd, "asker").await, join(&etcd, "other").await);
        let mut view = asker.view();
        let both = view.wait_for(|view| view.nodes.values().filter(|info| info.is_live).count() == 2);
        drop(soon("both nodes", both).await.unwrap());
        asker.note_durable(Seq(5));
        asker.pass_on_to(Arc::new(Parrot(granted)));
        asker.guard();
        asker.close_numbers(false);
        let answer = soon("an answer", asker.allocate(1)).await;
        assert_eq!(answer.is_err(), is_void, "{what}: {answer:?}");
        soon("the nodes to leave", async {
            asker.close().await;
            other.close().await;
        })
        .await;
    }
}

/// Never answers, and tells when it is asked and when that is over.
#[derive(Debug, Default)]
struct Silent {
    asked: Notify,
    is_over: Arc<AtomicBool>,
}

struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Colleagues for Silent {
    fn ask(&self, _node: NodeId, _wanted: NumbersWanted) -> Boxed<'static, Option<NumbersGranted>> {
        self.asked.notify_one();
        let over = Over(Arc::clone(&self.is_over));
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(over);
            None
        })
    }
}

/// Two that ask each other would wait for each other: who asks another one refuses at once.
#[tokio::test]
async fn a_node_that_asks_another_one_lets_nobody_wait_for_that() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    // A long timeout: what takes it is seen.
    let slow = EtcdSettings {
        heartbeat_interval: Duration::from_secs(10),
        ..settings(&etcd, "asker")
    };
    let asker = join_with(slow).await;
    let _other = join(&etcd, "other").await;
    let mut view = asker.view();
    let both = view.wait_for(|view| view.nodes.values().filter(|info| info.is_live).count() == 2);
    drop(soon("both nodes", both).await.unwrap());
    let silent = Arc::new(Silent::default());
    asker.pass_on_to(Arc::<Silent>::clone(&silent));
    etcd.signal(Signal::STOP);
    let mut asking = JoinSet::new();
    let asks = Arc::clone(&asker);
    asking.spawn(async move { asks.allocate(1).await });
    soon("the other node to be asked", silent.asked.notified()).await;
    let wanted = NumbersWanted {
        count: 1,
        generation: 1,
    };
    assert_eq!(soon("a refusal", asker.give(wanted)).await, None);
    assert!(
        !silent.is_over.load(Ordering::SeqCst),
        "it waited for the other node"
    );
    etcd.signal(Signal::CONT);
}

/// A node that races and is cut off from the one that serves all who race asks etcd itself, soon.
#[tokio::test]
async fn a_silent_controller_is_not_waited_for_where_etcd_answers() {
    let machine = Machine::watch();
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let controller = join(&etcd, "controller").await;
    // Its patience is half a second, and it would wait for two.
    let slow = EtcdSettings {
        heartbeat_interval: Duration::from_secs(1),
        ..settings(&etcd, "racer")
    };
    let racer = join_with(slow).await;
    let id = controller.node_id();
    let mut view = racer.view();
    let whole = view.wait_for(|view| view.controller == Some(id));
    drop(soon("a controller", whole).await.unwrap());
    let silent = Arc::new(Silent::default());
    racer.pass_on_to(Arc::<Silent>::clone(&silent));
    let slowest = soon("numbers", async {
        let mut slowest = Duration::ZERO;
        // Until it lost a race, asked in vain, and got numbers by itself.
        while !silent.is_over.load(Ordering::SeqCst) {
            let (watch, stats) = (Stopwatch::start(), racer.numbers_stats());
            let (one, other) = tokio::join!(racer.allocate(1), controller.allocate(1));
            assert!(one.unwrap().first != other.unwrap().first);
            assert_eq!(stats.passed_on.get(), 0);
            slowest = slowest.max(watch.elapsed());
        }
        slowest
    })
    .await;
    say(&format!("the slowest request took {slowest:?}"));
    machine.judge("the slowest request", slowest, Duration::from_millis(1_500));
}

/// Reads of the counter that wait are one read: a thousand of them ask etcd a few times.
#[tokio::test]
async fn the_counter_is_read_once_for_all_who_wait() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(&etcd, "n0").await;
    soon("numbers", node.allocate(5)).await.unwrap();
    let before = etcd.calls("Range").await;
    let mut asking = JoinSet::new();
    for _ in 0..1_000 {
        let node = Arc::clone(&node);
        asking.spawn(async move { node.latest().await });
    }
    let told = soon("the counter", asking.join_all()).await;
    assert!(told.into_iter().all(|latest| matches!(latest, Ok(Seq(5)))));
    let calls = etcd.calls("Range").await - before;
    assert!((1..100).contains(&calls), "{calls} reads");
}

/// Four groups on three nodes, so that every node leads: whoever is asked for numbers dies under load, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_comes_twice_when_the_node_that_is_asked_is_killed() {
    let mut cluster = Cluster::start(
        3,
        &[
            ("SHARD_GROUPS", "4"),
            ("LEASE_TTL", "3"),
            ("REFRESH_INTERVAL", "1"),
        ],
    )
    .await;
    cluster.until_led(false).await;
    let load = cluster.load(71);
    load.more(100).await;
    for _ in 0..3 {
        let victim = cluster.controller().await;
        cluster.kill(victim).await;
        load.more(60).await;
        cluster.run(victim).await;
        load.more(60).await;
    }
    cluster.judged(load, 200, &[0, 1, 2]).await;
}
