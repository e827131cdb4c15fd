//! The coordinator of a cluster against a real etcd (DESIGN 5, 6.5): what nodes agree on, whatever becomes of etcd.
#![cfg(test)]

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions, GetOptions,
};
use rdb_proto::types::{Epoch, GroupId, NodeId, SeatId, Seq, Side, Timestamp};
use rdb_server::coordination::etcd::{EtcdCoordinator, EtcdSettings, EtcdTls, connect};
use rdb_server::coordination::{Allocation, CoordinationError, Coordinator, Restart, SeatKey, View};
use rdb_tests::authority::{Authority, Signed};
use rdb_tests::etcd::{Etcd, free_port};
use rdb_tests::machine::Machine;
use rdb_tests::process::Settings;
use rdb_tests::relay::Relay;
use rdb_tests::time::{Stopwatch, pause, soon};
use rustix::process::Signal;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

const SEAT: SeatId = SeatId {
    group: GroupId(0),
    side: Side::Zero,
};

/// Longest that an allocation may take when etcd does not answer: a call that hangs before it, a look at the counter
/// and the txn, 2 s each, and some for a busy machine.
const ALLOCATION_MAX: Duration = Duration::from_secs(8);

/// What an operator does with an etcd that had no space left: removes these keys for good, and clears the alarm.
async fn make_space(client: &Client, prefix: &str) {
    let mut kv = client.kv_client();
    let all = DeleteOptions::new().with_prefix();
    let removed = kv.delete(prefix, Some(all)).await.unwrap();
    let revision = removed.header().unwrap().revision();
    let physically = CompactionOptions::new().with_physical();
    kv.compact(revision, Some(physically)).await.unwrap();
    let mut maintenance = client.maintenance_client();
    maintenance.defragment().await.unwrap();
    let told = maintenance.alarm(AlarmAction::Get, AlarmType::None, None);
    for alarm in told.await.unwrap().alarms() {
        let mut of_member = AlarmOptions::new();
        of_member.with_member(alarm.member_id());
        maintenance
            .alarm(AlarmAction::Deactivate, alarm.alarm(), Some(of_member))
            .await
            .unwrap();
    }
}

/// Names and number of writes of the keys below `prefix`, as etcd has them.
async fn keys(client: &Client, prefix: &str) -> Vec<(String, i64)> {
    let mut kv = client.kv_client();
    let got = kv.get(prefix, Some(GetOptions::new().with_prefix()));
    let got = soon("etcd's keys", got).await.unwrap();
    got.kvs()
        .iter()
        .map(|kv| (kv.key_str().unwrap().to_owned(), kv.version()))
        .collect()
}

async fn join_as(settings: EtcdSettings, directory: Uuid) -> Result<EtcdCoordinator, CoordinationError> {
    let connected = soon("etcd", connect(settings)).await?;
    soon("a node to join", connected.join(directory)).await
}

async fn join(settings: EtcdSettings) -> EtcdCoordinator {
    join_as(settings, Uuid::new_v4()).await.unwrap()
}

/// Waits until the node's view is as told.
async fn shows(node: &EtcdCoordinator, what: &str, is_so: impl Fn(&View) -> bool + Send + Sync) -> Arc<View> {
    let mut view = node.view();
    let seen = soon(what, view.wait_for(|view| is_so(view))).await;
    Arc::clone(&seen.unwrap())
}

/// Takes numbers up to 5, a copy of etcd's data, and numbers up to 30.
async fn took_numbers_since_a_backup(etcd: &mut Etcd, node: &EtcdCoordinator) -> TempDir {
    allocate(node, 5).await;
    let backup = etcd.back_up().await;
    shows(node, "the problem to be over", |view| view.problem.is_none()).await;
    for _ in 0..5 {
        allocate(node, 5).await;
    }
    backup
}

/// Waits until the group is placed, and returns the seat's key.
async fn placed(node: &EtcdCoordinator) -> SeatKey {
    shows(node, "the group to be placed", |view| {
        view.seats.contains_key(&SEAT)
    })
    .await
    .seats[&SEAT]
}

async fn holder(node: &EtcdCoordinator, epoch: Option<Epoch>) -> SeatKey {
    shows(node, "the holder of the seat", |view| {
        view.seats.get(&SEAT).is_some_and(|key| key.holder == epoch)
    })
    .await
    .seats[&SEAT]
}

/// Campaigns at what the node knows, and must win. Its view can show it as live a moment before it may use its new
/// lease.
async fn win(node: &EtcdCoordinator, key: SeatKey) -> Epoch {
    let granted = soon("an election", async {
        loop {
            match node.campaign(SEAT, Epoch::ZERO, key.revision).await {
                Err(CoordinationError::NoLease) => pause().await,
                granted => return granted,
            }
        }
    });
    granted.await.unwrap().expect("nobody else campaigns").epoch
}

async fn allocate(node: &EtcdCoordinator, count: u64) -> Allocation {
    soon("numbers", node.allocate(count)).await.unwrap()
}

/// Ends the lease of a live node, as etcd does when it does not hear of the node.
async fn revoke_lease(client: &Client, node: NodeId) {
    let key = format!("/rdb/test/live/{}", node.0);
    let got = soon("the live key", client.kv_client().get(key, None))
        .await
        .unwrap();
    let lease = got.kvs()[0].lease();
    soon("a lease to be revoked", client.lease_client().revoke(lease))
        .await
        .unwrap();
}

/// Nodes that start at once make one database, with one placement that all of them see.
#[tokio::test]
async fn three_nodes_that_start_at_once_make_one_database() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let mut joining = JoinSet::new();
    for name in ["n1", "n2", "n3"] {
        let settings = EtcdSettings {
            shard_groups: 4,
            group_size: 3,
            writes: 2,
            ..etcd.settings(name)
        };
        joining.spawn(async move {
            let connected = connect(settings).await.unwrap();
            let database = connected.database();
            (database, Box::pin(connected.join(Uuid::new_v4())).await.unwrap())
        });
    }
    let joined = soon("three nodes to join", joining.join_all()).await;
    let mut views = Vec::new();
    for (database, node) in &joined {
        assert_eq!(*database, joined[0].0);
        let is_whole = |view: &View| {
            let live = view.nodes.values().filter(|info| info.is_live).count();
            view.groups.len() == 4 && live == 3 && view.controller.is_some()
        };
        let view = shows(node, "four groups on three nodes", is_whole).await;
        assert_eq!(view.problem, None);
        assert_eq!(
            view.address(node.node_id()),
            Some(view.nodes[&node.node_id()].name.clone() + ".test:1").as_deref()
        );
        views.push((view.groups.clone(), view.controller));
    }
    assert!(views.iter().all(|view| *view == views[0]), "{views:?}");
    let members = |group: &rdb_proto::types::Membership| (group.number, group.members.len());
    assert!(views[0].0.values().map(members).all(|it| it == (1, 3)));
    let client = etcd.client().await;
    let written = keys(&client, "/rdb/test/").await;
    let once = |name: &str| {
        let found = written
            .iter()
            .find(|(key, _)| key == &format!("/rdb/test/{name}"));
        assert_eq!(found.map(|(_, writes)| *writes), Some(1), "{name}");
    };
    once("config");
    (0..4).for_each(|group| once(&format!("groups/{group}/members")));
}

/// Makes the database, then connects with other settings, which must be refused by the name of the variable.
async fn refuses(variable: &str, change: impl Fn(&mut EtcdSettings)) {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let _first = join(etcd.settings("n1")).await;
    let mut other = etcd.settings("n2");
    change(&mut other);
    let refused = soon("etcd", connect(other)).await;
    let error = refused
        .err()
        .unwrap_or_else(|| panic!("another {variable} was taken"));
    assert!(
        matches!(error, CoordinationError::SettingsDiffer { .. }),
        "{error}"
    );
    assert!(error.to_string().starts_with(variable), "{error}");
}

/// A node whose settings are not the database's does not start, and says which.
#[tokio::test]
async fn settings_that_differ_are_refused_by_name() {
    refuses("SHARD_GROUPS", |settings| settings.shard_groups = 2).await;
    refuses("GROUP_SIZE", |settings| settings.group_size = 2).await;
    refuses("WRITES", |settings| settings.writes = 2).await;
}

/// Nodes that count at two places give every number out twice.
#[tokio::test]
async fn another_place_of_the_counter_is_refused() {
    refuses("COUNTER_KEY", |settings| {
        settings.counter_key = "/elsewhere".to_owned();
    })
    .await;
}

/// A name belongs to a live node. Its directory brings the id back, at once; an emptied disk is a new node.
#[tokio::test]
async fn a_name_is_one_node_and_an_emptied_disk_another() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let directory = Uuid::new_v4();
    let first = join_as(etcd.settings("n1"), directory).await.unwrap();
    let id = first.node_id();
    let error = join_as(etcd.settings("n1"), Uuid::new_v4()).await.unwrap_err();
    assert!(matches!(error, CoordinationError::NameTaken { .. }), "{error}");
    // Killed: the lease goes on, and the node is back before it ends.
    drop(first);
    let again = join_as(etcd.settings("n1"), directory).await.unwrap();
    assert_eq!(again.node_id(), id);
    soon("a node to close", again.close()).await;
    let emptied = join(etcd.settings("n1")).await;
    assert_ne!(emptied.node_id(), id);
    let view = shows(&emptied, "the new node", |view| {
        view.nodes.values().any(|info| info.is_live)
    })
    .await;
    assert_eq!(
        view.nodes.len(),
        1,
        "the name is the new node's: {:?}",
        view.nodes
    );
}

/// An election compares what the candidate saw: one of many wins, and every epoch is above those before.
#[tokio::test]
async fn one_of_many_wins_at_one_revision() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        nodes.push(Arc::new(join(etcd.settings(name)).await));
    }
    let mut last = Epoch::ZERO;
    for round in 0..5 {
        let mut revisions = Vec::new();
        for node in &nodes {
            let key = if round == 0 {
                placed(node).await
            } else {
                holder(node, Some(last)).await
            };
            revisions.push(key.revision);
        }
        assert!(
            revisions.iter().all(|revision| *revision == revisions[0]),
            "{revisions:?}"
        );
        let mut campaigns = JoinSet::new();
        for node in &nodes {
            let (node, revision) = (Arc::clone(node), revisions[0]);
            campaigns.spawn(async move { node.campaign(SEAT, Epoch::ZERO, revision).await.unwrap() });
        }
        let won: Vec<_> = soon("the election", campaigns.join_all())
            .await
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(won.len(), 1, "{won:?}");
        assert!(won[0].epoch.number > last.number);
        assert_eq!(won[0].membership.members.len(), 1);
        last = won[0].epoch;
    }
    let key = holder(&nodes[0], Some(last)).await;
    let above = Epoch {
        number: 41,
        node: NodeId(1),
    };
    let granted = nodes[0]
        .campaign(SEAT, above, key.revision)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        granted.epoch,
        Epoch {
            number: 42,
            node: nodes[0].node_id()
        }
    );
}

/// The holder raises its epoch without a vacancy; nobody else can, and no older epoch can.
#[tokio::test]
async fn only_the_holder_raises_its_epoch() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let (one, two) = (join(etcd.settings("n1")).await, join(etcd.settings("n2")).await);
    let first = win(&one, placed(&one).await).await;
    let above = Epoch {
        number: 10,
        node: NodeId(9),
    };
    // At once: the node's own view may not show what it won yet.
    let raised = one.raise(SEAT, first, above).await.unwrap().unwrap().epoch;
    assert_eq!(
        raised,
        Epoch {
            number: 11,
            node: one.node_id()
        }
    );
    holder(&two, Some(raised)).await;
    assert_eq!(two.raise(SEAT, raised, above).await.unwrap(), None);
    assert_eq!(one.raise(SEAT, first, above).await.unwrap(), None);
    let next = win(&two, holder(&two, Some(raised)).await).await;
    assert!(next.number > raised.number);
    assert_eq!(one.raise(SEAT, raised, above).await.unwrap(), None);
}

/// Giving up names a successor to all, makes the revision of before useless, and touches no other epoch.
#[tokio::test]
async fn a_seat_that_was_given_up_names_its_successor() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let (one, two) = (join(etcd.settings("n1")).await, join(etcd.settings("n2")).await);
    let vacant = placed(&one).await;
    let epoch = win(&one, vacant).await;
    let held = holder(&two, Some(epoch)).await;
    let stale = Epoch {
        number: epoch.number + 1,
        ..epoch
    };
    one.give_up(SEAT, stale, Some(two.node_id())).await.unwrap();
    two.give_up(SEAT, epoch, Some(two.node_id())).await.unwrap();
    assert_eq!(holder(&two, Some(epoch)).await, held, "neither holds the seat");
    one.give_up(SEAT, epoch, Some(two.node_id())).await.unwrap();
    for node in [&one, &two] {
        let key = holder(node, None).await;
        assert_eq!(key.successor, Some(two.node_id()));
        assert!(key.revision > held.revision && held.revision > vacant.revision);
    }
    for old in [vacant, held] {
        assert_eq!(two.campaign(SEAT, Epoch::ZERO, old.revision).await.unwrap(), None);
    }
    let next = win(&two, holder(&two, None).await).await;
    assert!(next.number > epoch.number);
    assert_eq!(holder(&one, Some(next)).await.successor, None);
}

/// A node that closes is gone at once, with its seat and the controller's work.
#[tokio::test]
async fn a_node_that_closes_leaves_nothing_to_wait_for() {
    let machine = Machine::watch();
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let one = join(etcd.settings("n1")).await;
    let epoch = win(&one, placed(&one).await).await;
    let two = join(etcd.settings("n2")).await;
    holder(&two, Some(epoch)).await;
    let id = one.node_id();
    let watch = Stopwatch::start();
    soon("a node to close", one.close()).await;
    shows(&two, "the other to be gone", |view| {
        !view.nodes[&id].is_live
            && view.seats[&SEAT].holder.is_none()
            && view.controller == Some(two.node_id())
    })
    .await;
    machine.judge("telling the others", watch.elapsed(), Duration::from_secs(2));
}

/// A lost lease ends what was held with it, for all; the process takes another lease and stands again.
#[tokio::test]
async fn a_lost_lease_is_replaced_without_a_restart() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let (one, two) = (join(etcd.settings("n1")).await, join(etcd.settings("n2")).await);
    let epoch = win(&one, placed(&one).await).await;
    holder(&two, Some(epoch)).await;
    let mut view = two.view();
    view.borrow_and_update();
    revoke_lease(&etcd.client().await, one.node_id()).await;
    let id = one.node_id();
    soon(
        "the node to be gone",
        view.wait_for(|view| !view.nodes[&id].is_live),
    )
    .await
    .unwrap();
    for node in [&one, &two] {
        holder(node, None).await;
        shows(node, "the node to be live again", |view| view.nodes[&id].is_live).await;
    }
    let again = win(&one, holder(&one, None).await).await;
    assert!(again.number > epoch.number);
    holder(&two, Some(again)).await;
}

/// Numbers are handed out once, without holes while all goes well, and time goes along with them (DESIGN 6.5).
///
/// Eight nodes, each with four seats that ask at once for 1 to 7 numbers, 25 times.
#[tokio::test]
async fn eight_nodes_share_one_sequence() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let mut nodes = Vec::new();
    for i in 0..8 {
        nodes.push(Arc::new(join(etcd.settings(&format!("n{i}"))).await));
    }
    let failed = Arc::<AtomicBool>::default();
    let mut asking = JoinSet::new();
    for node in &nodes {
        for seat in 0..4 {
            let (node, failed) = (Arc::clone(node), Arc::clone(&failed));
            asking.spawn(async move {
                let mut counter = node.counter();
                let mut taken: Vec<(Seq, u64, Timestamp)> = Vec::new();
                for i in 0..25 {
                    let count = 1 + (i + seat) % 7;
                    let before = *counter.borrow_and_update();
                    // Nobody combines here: on a busy machine one of eight may lose every race for long.
                    let Allocation { first, time } = loop {
                        match node.allocate(count).await {
                            Ok(allocation) => break allocation,
                            Err(CoordinationError::Unavailable { .. }) => {
                                failed.store(true, Ordering::SeqCst);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    };
                    assert!(first > before, "{first} was shown as taken: {before}");
                    assert!(*counter.borrow() >= first.plus(count - 1), "{first} is not shown");
                    taken.push((first, count, time));
                }
                taken
            });
        }
    }
    let mut taken: Vec<_> = soon("all numbers", asking.join_all())
        .await
        .into_iter()
        .flatten()
        .collect();
    taken.sort_unstable();
    let (mut next, mut clock) = (Seq(1), Timestamp::ZERO);
    for (first, count, time) in taken {
        assert!(first >= next, "each number once");
        assert!(
            first == next || failed.load(Ordering::SeqCst),
            "numbers are dense"
        );
        assert!(time >= clock, "time went back at {first}");
        (next, clock) = (first.plus(count), time);
    }
    for node in &nodes {
        let mut counter = node.counter();
        let last = soon("the counter", counter.wait_for(|seq| seq.next() >= next)).await;
        let last = last.unwrap().next();
        assert!(
            last == next || failed.load(Ordering::SeqCst),
            "{last}, not {next}"
        );
    }
}

/// The counter may stand outside of the database's keys, and is followed there too.
#[tokio::test]
async fn the_counter_may_stand_elsewhere() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let settings = |name| EtcdSettings {
        counter_key: "/elsewhere/seq".to_owned(),
        ..etcd.settings(name)
    };
    let (one, two) = (join(settings("n1")).await, join(settings("n2")).await);
    assert_eq!(allocate(&one, 5).await.first, Seq(1));
    let mut counter = two.counter();
    soon("the other's numbers", counter.wait_for(|seq| *seq == Seq(5)))
        .await
        .unwrap();
    assert_eq!(allocate(&two, 1).await.first, Seq(6));
    let outside = keys(&etcd.client().await, "/elsewhere/").await;
    assert_eq!(outside.len(), 1, "{outside:?}");
}

/// Numbers are never given out twice, so a counter that is gone is not begun anew, not even by a fresh node.
#[tokio::test]

async fn a_counter_that_is_gone_is_not_begun_anew() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let one = join(etcd.settings("n1")).await;
    allocate(&one, 10).await;
    let client = etcd.client().await;
    soon(
        "the counter to be deleted",
        client.kv_client().delete("/rdb/test/counter", None),
    )
    .await
    .unwrap();
    let fresh = match join_as(etcd.settings("n2"), Uuid::new_v4()).await {
        Ok(node) => soon("an answer", node.allocate(1)).await,
        Err(error) => Err(error),
    };
    assert!(fresh.is_err(), "a fresh node took {fresh:?}");
    let old = soon("an answer", one.allocate(1)).await;
    assert!(old.is_err(), "a node that knew better took {old:?}");
}

/// etcd away: allocations fail in bounded time, the view says so. etcd back: all goes on, nothing is restarted.
#[tokio::test]
async fn etcd_may_go_away_and_come_back() {
    let Some(mut etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    let epoch = win(&node, placed(&node).await).await;
    let before = allocate(&node, 3).await;
    etcd.stop().await;
    let watch = Stopwatch::start();
    let error = soon("a failure", node.allocate(1)).await.unwrap_err();
    assert!(watch.elapsed() < ALLOCATION_MAX, "{:?}", watch.elapsed());
    assert!(matches!(error, CoordinationError::Unavailable { .. }), "{error}");
    shows(&node, "the problem to be told", |view| view.problem.is_some()).await;
    assert_eq!(*node.counter().borrow(), Seq(3), "nothing was taken");
    etcd.run().await;
    let view = shows(&node, "the problem to be over", |view| view.problem.is_none()).await;
    assert!(view.groups.contains_key(&GroupId(0)));
    let after = allocate(&node, 2).await;
    assert!(after.first > before.first.plus(2), "{after:?}");
    assert!(after.time >= before.time);
    let key = node.view().borrow().seats[&SEAT];
    let next = match node.campaign(SEAT, epoch, key.revision).await.unwrap() {
        Some(granted) => granted.epoch,
        // The lease ended meanwhile, or a new one is being taken.
        None => win(&node, holder(&node, None).await).await,
    };
    assert!(next.number > epoch.number);
}

/// An etcd that hangs with its connections open is noticed too, and is used again once it goes on.
#[tokio::test]
async fn an_etcd_that_hangs_is_noticed() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    allocate(&node, 1).await;
    etcd.signal(Signal::STOP);
    let watch = Stopwatch::start();
    let error = soon("a failure", node.allocate(1)).await.unwrap_err();
    assert!(watch.elapsed() < ALLOCATION_MAX, "{:?}", watch.elapsed());
    assert!(matches!(error, CoordinationError::Unavailable { .. }), "{error}");
    shows(&node, "the problem to be told", |view| view.problem.is_some()).await;
    etcd.signal(Signal::CONT);
    shows(&node, "the problem to be over", |view| view.problem.is_none()).await;
    let first = allocate(&node, 1).await.first;
    // The allocation that failed may have been carried out: a hole, and never a number twice.
    assert!([Seq(2), Seq(3)].contains(&first), "{first}");
}

/// What was compacted away while a node did not watch is found in a new listing: also what is gone.
#[tokio::test]
async fn changes_that_were_compacted_away_are_learned() {
    let Some(mut etcd) = Etcd::start_or_skip().await else {
        return;
    };
    // A lease that outlasts the test: only what is done from outside changes anything.
    let settings = EtcdSettings {
        lease_ttl: Duration::from_mins(1),
        ..etcd.settings("n1")
    };
    let node = join(settings.clone()).await;
    let epoch = win(&node, placed(&node).await).await;
    allocate(&node, 5).await;
    holder(&node, Some(epoch)).await;
    etcd.stop().await;
    shows(&node, "the problem to be told", |view| view.problem.is_some()).await;
    {
        let client = etcd.run_elsewhere().await;
        let mut kv = client.kv_client();
        let counter = kv.get("/rdb/test/counter", None).await.unwrap();
        let moved = counter.kvs()[0]
            .value_str()
            .unwrap()
            .replace(r#""seq":5"#, r#""seq":90"#);
        kv.put("/rdb/test/counter", moved, None).await.unwrap();
        let gone = kv
            .delete("/rdb/test/groups/0/seats/0/leader", None)
            .await
            .unwrap();
        assert_eq!(gone.deleted(), 1);
        for i in 0..50 {
            kv.put("/rdb/test/noise", i.to_string(), None).await.unwrap();
        }
        let revision = kv
            .get("/rdb/test/noise", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision();
        let physical = CompactionOptions::new().with_physical();
        kv.compact(revision, Some(physical)).await.unwrap();
    }
    etcd.stop().await;
    etcd.run().await;
    shows(&node, "the problem to be over", |view| view.problem.is_none()).await;
    let key = holder(&node, None).await;
    assert_eq!(*node.counter().borrow(), Seq(90));
    assert_eq!(allocate(&node, 1).await.first, Seq(91));
    assert!(win(&node, key).await.number > epoch.number);
}

/// An etcd that was restored to an older state is noticed by what the node has seen: no number is given out, and the
/// view says why (DESIGN 6.5).
#[tokio::test]
async fn an_etcd_that_went_back_gives_no_numbers() {
    let Some(mut etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    let backup = took_numbers_since_a_backup(&mut etcd, &node).await;
    let last = *node.counter().borrow();
    etcd.stop().await;
    shows(&node, "the problem to be told", |view| view.problem.is_some()).await;
    etcd.restore(&backup);
    etcd.run().await;
    let went_back = |view: &View| {
        view.problem
            .as_ref()
            .is_some_and(|problem| problem.contains("went back"))
    };
    shows(&node, "the rollback to be told", went_back).await;
    let error = soon("a refusal", node.allocate(1)).await.unwrap_err();
    assert!(matches!(error, CoordinationError::RolledBack { .. }), "{error}");
    assert_eq!(*node.counter().borrow(), last, "the counter never goes back");
}

/// The same when its revision has caught up meanwhile, which is all that a watch would notice.
#[tokio::test]
async fn an_etcd_that_went_back_and_caught_up_is_not_followed() {
    let Some(mut etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    let backup = took_numbers_since_a_backup(&mut etcd, &node).await;
    etcd.stop().await;
    shows(&node, "the problem to be told", |view| view.problem.is_some()).await;
    etcd.restore(&backup);
    {
        let client = etcd.run_elsewhere().await;
        let mut kv = client.kv_client();
        for i in 0..200 {
            kv.put("/rdb/test/noise", i.to_string(), None).await.unwrap();
        }
    }
    etcd.stop().await;
    etcd.run().await;
    let is_told = |view: &View| {
        view.problem
            .as_ref()
            .is_some_and(|problem| problem.contains("its counter was 30 and is 5"))
    };
    shows(&node, "the rollback to be told", is_told).await;
    assert!(soon("a refusal", node.allocate(1)).await.is_err());
}

/// A session is of one process of etcd: when that ends, so does the session, whoever listens there later; and numbers
/// are taken over open sessions only.
#[tokio::test]
async fn a_session_ends_with_the_process_that_it_is_of() {
    let Some(mut etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    node.guard();
    node.close_numbers(false);
    let refused = soon("a refusal", node.allocate(1)).await;
    assert!(refused.is_err(), "nobody let numbers be taken");
    let session = node.begin_session(0).await.unwrap();
    let generation = session.progress().await.unwrap().generation;
    session.open(generation);
    assert_eq!(allocate(&node, 3).await.first, Seq(1));
    let restarted = async {
        etcd.stop().await;
        etcd.run().await;
    };
    let ended = soon("the end of the session", session.clone().ended());
    tokio::join!(ended, restarted);
    assert!(soon("an error", session.progress()).await.is_err());
    assert!(soon("a refusal", node.allocate(1)).await.is_err());
    let next = node.begin_session(0).await.unwrap();
    assert_eq!(next.progress().await.unwrap().counter, Seq(3));
    next.open(generation);
    assert_eq!(allocate(&node, 1).await.first, Seq(4));
}

/// Only one of several nodes puts an etcd right, and numbers of the generation before are not to be had any more.
#[tokio::test]
async fn etcd_is_put_right_once() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    let epoch = win(&node, placed(&node).await).await;
    allocate(&node, 3).await;
    node.guard();
    let session = node.begin_session(0).await.unwrap();
    let before = session.progress().await.unwrap();
    assert_eq!(before.epochs[&SEAT], epoch.number);
    session.open(before.generation);
    let restart = |seq| {
        let mut to = before.clone();
        to.generation += 1;
        to.counter = Seq(seq);
        to.epochs.insert(SEAT, 40);
        to.members.get_mut(&SEAT.group).unwrap().number = 7;
        Restart {
            compares: before.generation,
            as_of: before.revision,
            to,
        }
    };
    session.restart(&restart(1_000)).await.unwrap();
    session.restart(&restart(2_000)).await.unwrap();
    let after = session.progress().await.unwrap();
    assert_eq!(after.counter, Seq(1_000));
    assert_eq!(after.epochs[&SEAT], 40);
    assert_eq!(after.members[&SEAT.group].number, 7);
    assert!(after.time >= before.time);
    assert!(soon("a refusal", node.allocate(1)).await.is_err());
    session.open(after.generation);
    assert_eq!(allocate(&node, 1).await.first, Seq(1_001));
    let key = holder(&node, None).await;
    assert_eq!(win(&node, key).await.number, 41);
}

/// The controller tells of an etcd that is almost full, or, where that does not tell its quota, full, and of one that is not
/// any more; nobody else looks.
#[tokio::test]
async fn an_etcd_that_is_almost_full_is_told_of_until_it_is_mended() {
    let Some(etcd) = Etcd::start_small_or_skip(20_000_000).await else {
        return;
    };
    let often = |name| EtcdSettings {
        look_every: Duration::from_millis(100),
        lease_ttl: Duration::from_secs(10),
        ..etcd.settings(name)
    };
    let one = join(often("n1")).await;
    shows(&one, "a controller", |view| {
        view.controller == Some(one.node_id())
    })
    .await;
    let two = join(often("n2")).await;
    let is_full = |view: &View| {
        view.warnings
            .iter()
            .any(|warning| warning.contains("20000000 bytes") || warning.contains("NOSPACE"))
    };
    let outsider = etcd.client().await;
    // Until it is told, or nothing more fits.
    for n in 0.. {
        let is_told = is_full(&one.view().borrow());
        let mut kv = outsider.kv_client();
        let put = kv.put(format!("fill{n}"), vec![7; 100_000], None);
        if is_told || soon("a value", put).await.is_err() {
            break;
        }
    }
    shows(&one, "an etcd that is almost full", is_full).await;
    assert!(!is_full(&two.view().borrow()), "only the controller looks");
    soon("an operator", make_space(&outsider, "fill")).await;
    shows(&one, "an etcd that has space again", |view| !is_full(view)).await;
}

/// An order to leave outlives neither the node's members nor its name: nobody could take it back any more.
#[tokio::test]
async fn an_order_of_a_node_that_nobody_knows_any_more_is_forgotten() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    placed(&node).await;
    let (own, departed) = (node.node_id(), NodeId(7));
    let to = |id: NodeId| format!("/rdb/test/leaving/{}", id.0);
    let mut kv = etcd.client().await.kv_client();
    for id in [own, departed] {
        let put = kv.put(to(id), r#"{"format":1,"to":null}"#, None);
        soon("an order", put).await.unwrap();
    }
    shows(&node, "only the order of a node that is there", |view| {
        view.leaving.contains_key(&own) && !view.leaving.contains_key(&departed)
    })
    .await;
    let left = soon("an order", kv.get(to(departed), None)).await.unwrap();
    assert!(left.kvs().is_empty());
}

/// Members that changed since etcd was read are not taken back: what was committed since rests on the new ones.
#[tokio::test]
async fn etcd_is_not_put_right_by_what_is_out_of_date() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let node = join(etcd.settings("n1")).await;
    placed(&node).await;
    let session = node.begin_session(0).await.unwrap();
    let before = session.progress().await.unwrap();
    let restart = |as_of| {
        let mut to = before.clone();
        to.generation += 1;
        to.counter = Seq(1_000);
        Restart {
            compares: before.generation,
            as_of,
            to,
        }
    };
    let key = "/rdb/test/groups/0/members";
    let mut kv = etcd.client().await.kv_client();
    let stored = soon("the members", kv.get(key, None)).await.unwrap();
    let mut members: serde_json::Value = serde_json::from_slice(stored.kvs()[0].value()).unwrap();
    members["number"] = 2.into();
    let put = kv.put(key, members.to_string(), None);
    soon("other members", put).await.unwrap();
    session.restart(&restart(before.revision)).await.unwrap();
    let now = session.progress().await.unwrap();
    assert_eq!(now.members[&SEAT.group].number, 2);
    assert_eq!((now.generation, now.counter), (before.generation, before.counter));
    session.restart(&restart(now.revision)).await.unwrap();
    assert_eq!(session.progress().await.unwrap().counter, Seq(1_000));
}

/// Numbers that are asked for one after the other; how many requests failed.
async fn failures(node: &EtcdCoordinator, requests: u32) -> u32 {
    let mut failed = 0;
    for _ in 0..requests {
        failed += u32::from(soon("numbers", node.allocate(1)).await.is_err());
    }
    failed
}

/// One endpoint of several that is down costs nothing: calls go to those that answer.
#[tokio::test]
async fn an_endpoint_that_is_down_is_left_out() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let down = format!("127.0.0.1:{}", free_port());
    for endpoints in [vec![down.clone(), etcd.endpoint()], vec![etcd.endpoint(), down]] {
        let settings = EtcdSettings {
            endpoints,
            ..etcd.settings("n1")
        };
        let node = join(settings).await;
        assert_eq!(failures(&node, 100).await, 0, "of 100 allocations");
        soon("the node to leave", node.close()).await;
    }
}

/// An endpoint that takes connections and says nothing is left for one that answers.
#[tokio::test]
async fn an_endpoint_that_is_silent_is_left_for_the_next() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = EtcdSettings {
        endpoints: vec![silent.local_addr().unwrap().to_string(), etcd.endpoint()],
        ..etcd.settings("n1")
    };
    let node = join(settings).await;
    assert_eq!(failures(&node, 20).await, 0, "of 20 allocations");
}

/// A member of etcd that dies under a node costs it the calls under way and no more: what it follows goes on at
/// another endpoint, its lease too.
#[tokio::test]
async fn a_node_goes_on_at_another_endpoint() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    for way in [Relay::end, Relay::hang] {
        let (first, second) = (
            Relay::start(&etcd.endpoint()).await,
            Relay::start(&etcd.endpoint()).await,
        );
        let settings = |name, relays: [&Relay; 2]| EtcdSettings {
            endpoints: relays.map(Relay::endpoint).into(),
            ..etcd.settings(name)
        };
        let node = join(settings("n1", [&first, &second])).await;
        let other = join(settings("n2", [&second, &first])).await;
        let before = allocate(&node, 1).await;
        way(&first);
        // What fails is what was under way there, and what a hanging connection holds up for its two seconds.
        let failed = failures(&node, 5).await;
        assert!(failed <= 2, "{failed} of 5 allocations failed");
        assert_eq!(failures(&node, 50).await, 0, "of 50 allocations");
        assert!(allocate(&node, 1).await.first > before.first);
        shows(&node, "the problem to be over", |view| view.problem.is_none()).await;
        let last = allocate(&other, 1).await.first;
        let mut counter = node.counter();
        let learned = soon("the other's numbers", counter.wait_for(|seq| *seq >= last));
        drop(learned.await.unwrap());
        shows(&other, "the node to be live still", |view| {
            view.nodes[&node.node_id()].is_live
        })
        .await;
        soon("the nodes to leave", async {
            node.close().await;
            other.close().await;
        })
        .await;
    }
}

/// A connection to etcd may be encrypted, and each side may ask who the other is.
#[tokio::test]
async fn etcd_is_reached_by_tls_with_a_certificate_on_either_side() {
    let Some(authority) = authority_or_skip().await else {
        return;
    };
    let etcd = Etcd::start_with_tls(&authority).await;
    let Signed { certificate, key } = authority.sign("n1").await;
    for endpoint in [etcd.endpoint(), format!("https://{}", etcd.endpoint())] {
        let settings = EtcdSettings {
            endpoints: vec![endpoint],
            tls: Some(EtcdTls {
                ca: authority.certificate(),
                identity: Some((certificate.clone(), key.clone())),
            }),
            ..etcd.settings("n1")
        };
        let node = join(settings).await;
        assert_eq!(failures(&node, 10).await, 0, "of 10 allocations");
        soon("the node to leave", node.close()).await;
    }
}

/// What is wrong with a certificate is said, with the variable to look at.
#[tokio::test]
async fn a_certificate_that_does_not_fit_is_told_with_what_to_look_at() {
    let Some(authority) = authority_or_skip().await else {
        return;
    };
    let etcd = Etcd::start_with_tls(&authority).await;
    let stranger = Authority::new().await;
    let Signed { certificate, key } = stranger.sign("n1").await;
    let data = tempfile::tempdir().unwrap();
    let node = Settings::new(data.path()).with("ETCD", &etcd.endpoint());
    let with = |name, path: &Path| node.clone().with(name, &path.to_string_lossy());
    let ended = with("ETCD_CA", &data.path().join("none")).must_not_start().await;
    assert_eq!(ended.code(), Some(78), "{ended:?}");
    assert!(
        ended.log.contains("which cannot be read: No such file"),
        "{ended:?}"
    );
    // The library may learn of a refusal by an alert, or only that the connection was closed: one try after the other
    // is told.
    let of_etcd = "(does ETCD_CA name who signed it";
    let of_node = "(does etcd ask for ETCD_CERT and ETCD_KEY";
    let trusting = with("ETCD_CA", &authority.certificate());
    let strange = trusting
        .clone()
        .with("ETCD_CERT", &certificate.to_string_lossy())
        .with("ETCD_KEY", &key.to_string_lossy());
    for (settings, told) in [
        (with("ETCD_CA", &stranger.certificate()), of_etcd),
        (trusting, of_node),
        (strange, of_node),
    ] {
        let starting = settings.spawn();
        let line = starting.logged(told).await;
        assert!(line.contains("waiting for etcd"), "{line}");
        starting.kill().await;
    }
}

async fn authority_or_skip() -> Option<Authority> {
    if std::env::var_os("RDB_TEST_NO_ETCD").is_some() {
        rdb_tests::say("skipped: RDB_TEST_NO_ETCD is set");
        return None;
    }
    Some(Authority::new().await)
}
