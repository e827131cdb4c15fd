//! The model of etcd does what a real etcd does, and the coordinator of a cluster works with it.
#![cfg(test)]

use etcd_client::proto::{PbKeyValue, PbPutRequest, PbRangeRequest};
use rdb_proto::types::{Epoch, GroupId, SeatId, Seq, Side};
use rdb_server::coordination::etcd::{EtcdCoordinator, EtcdSettings, connect};
use rdb_server::coordination::{Coordinator as _, View};
use rdb_tests::cluster::{Cluster, Site};
use rdb_tests::etcd::{Etcd, settings_at};
use rdb_tests::model_etcd::differential::{Done, Plan, run};
use rdb_tests::model_etcd::served::{Faults, ModelEtcd};
use rdb_tests::model_etcd::state::Model;
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::{pause, soon};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

const SEAT: SeatId = SeatId {
    group: GroupId(0),
    side: Side::Zero,
};

/// The same operations on both, for a moment; `model-etcd` does it for as long as one likes.
#[tokio::test]
async fn the_model_answers_and_tells_what_etcd_does() {
    let Some(etcd) = Etcd::start_or_skip().await else {
        return;
    };
    let plan = Plan {
        operations: 2_000,
        lapses: 1,
        random: Random::of_run(7),
    };
    let (done, all) = Box::pin(run(&etcd, plan)).await;
    if let Err(difference) = all {
        panic!("{difference}");
    }
    say(&format!("{done:?}"));
    let Done {
        operations,
        changes_told,
        watches,
        compactions,
        lapses,
        refusals,
    } = done;
    assert!(
        operations >= 2_000 && changes_told > 500,
        "{operations}, {changes_told}"
    );
    assert!(
        watches > 10 && compactions > 3 && lapses == 1,
        "{watches}, {compactions}"
    );
    assert!(refusals.len() >= 5, "{refusals:?}");
}

async fn join(etcd: &ModelEtcd, name: &str) -> EtcdCoordinator {
    let settings = EtcdSettings {
        group_size: 3,
        writes: 2,
        ..settings_at(etcd.endpoint(), name)
    };
    let connected = soon("etcd", connect(settings)).await.unwrap();
    soon("a node to join", connected.join(Uuid::new_v4()))
        .await
        .unwrap()
}

async fn shows(node: &EtcdCoordinator, what: &str, is_so: impl Fn(&View) -> bool + Send + Sync) -> Arc<View> {
    let mut view = node.view();
    let seen = soon(what, view.wait_for(|view| is_so(view))).await;
    Arc::clone(&seen.unwrap())
}

/// Campaigns for as long as calls fail, or the node does not know of the last election yet.
async fn win(node: &EtcdCoordinator) -> Epoch {
    let winning = soon("an election", async {
        loop {
            let key = node.view().borrow().seats.get(&SEAT).copied();
            let revision = key.map_or(0, |key| key.revision);
            match node.campaign(SEAT, Epoch::ZERO, revision).await {
                Ok(Some(granted)) => return granted.epoch,
                Ok(None) | Err(_) => pause().await,
            }
        }
    });
    winning.await
}

/// Whole nodes, while etcd does what a real one does too seldom to wait for: it fails calls that it has done, loses the
/// lease of a leader that it goes on renewing in words, and compacts away what a broken watch has missed. Nobody loses or
/// doubles anything, and a leader without its lease harms nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_while_etcd_goes_wrong() {
    let etcd = ModelEtcd::start_with_clock(2).await;
    let site = Site {
        etcd: Some(etcd.endpoint()),
        ..Site::default()
    };
    let settings = [("LEASE_TTL", "2"), ("REFRESH_INTERVAL", "1")];
    let cluster = Cluster::start_at(site, 3, &settings).await;
    let load = cluster.load(7);
    load.more(200).await;
    for round in 0..2 {
        etcd.fail(Faults {
            one_in: 10,
            random: Random::new(round),
        });
        load.more(300).await;
        let leader = cluster.until_led(false).await.groups[0].seats[0].leader;
        let before = epoch_of(&etcd);
        forsake(&etcd, &format!("/rdb/rdb/live/{leader}"));
        soon("another epoch of the seat", async {
            while epoch_of(&etcd) == before {
                pause().await;
            }
        })
        .await;
        etcd.compact_unseen();
        load.more(300).await;
    }
    etcd.fail(None);
    cluster.judged(load, 1_000, &[0, 1, 2]).await;
}

/// What a key holds.
fn kv(model: &Model, key: &str) -> PbKeyValue {
    let range = PbRangeRequest {
        key: key.into(),
        ..PbRangeRequest::default()
    };
    model.range(&range).unwrap().kvs.pop().expect("the key is there")
}

/// From now on the lease of a key is renewed in words only.
fn forsake(etcd: &ModelEtcd, key: &str) {
    etcd.with(|model| model.forsake(kv(model, key).lease));
}

/// Revision of the last election of a seat.
fn epoch_of(etcd: &ModelEtcd) -> i64 {
    etcd.with(|model| kv(model, "/rdb/rdb/groups/0/seats/0/epoch").mod_revision)
}

/// Elections and numbers of three nodes while one call in four fails, half of them after they were done: no epoch and no
/// number is given twice. Then a compaction behind a broken watch, and a lease that ends although it is renewed.
#[tokio::test]
async fn the_coordinator_of_a_cluster_works_with_the_model() {
    let etcd = ModelEtcd::start_with_clock(3).await;
    let (one, two, three) = tokio::join!(join(&etcd, "n1"), join(&etcd, "n2"), join(&etcd, "n3"));
    let nodes = [&one, &two, &three];
    for node in nodes {
        let is_whole = |view: &View| view.groups.len() == 1 && view.nodes.len() == 3;
        shows(node, "a group of three", is_whole).await;
    }
    etcd.fail(Faults {
        one_in: 4,
        random: Random::of_run(7),
    });
    let (mut numbers, mut epochs) = (BTreeSet::new(), Vec::new());
    for turn in 0..30 {
        let node = nodes[turn % nodes.len()];
        epochs.push(win(node).await);
        if let Ok(allocation) = soon("numbers", node.allocate(2)).await {
            let last = numbers.last().copied().unwrap_or(Seq::ZERO);
            assert!(allocation.first > last, "{allocation:?} after {last}");
            numbers.extend([allocation.first, allocation.first.next()]);
        }
    }
    assert!(
        epochs.is_sorted_by(|one, next| one.number < next.number),
        "{epochs:?}"
    );
    assert!(numbers.len() > 10, "{numbers:?}");
    etcd.fail(None);

    etcd.with(|model| {
        for value in 0..10 {
            let put = PbPutRequest {
                key: b"/rdb/test/noise".to_vec(),
                value: vec![value],
                ..PbPutRequest::default()
            };
            model.put(&put).unwrap();
        }
    });
    etcd.compact_unseen();
    let epoch = win(&two).await;
    assert!(
        epochs.last().is_some_and(|last| last.number < epoch.number),
        "{epoch}"
    );
    for node in nodes {
        let is_known = |view: &View| view.seats[&SEAT].holder == Some(epoch);
        shows(node, "the holder of the seat", is_known).await;
    }
    let first = soon("numbers", one.allocate(1)).await.unwrap().first;
    assert!(Some(&first) > numbers.last(), "{first}");

    forsake(&etcd, &format!("/rdb/test/live/{}", three.node_id().0));
    let is_live = |view: &View| view.nodes[&three.node_id()].is_live;
    shows(&one, "a node whose lease ended", |view| !is_live(view)).await;
    shows(&one, "that node with another lease", is_live).await;
    for node in nodes {
        soon("the node to leave", node.close()).await;
    }
}
