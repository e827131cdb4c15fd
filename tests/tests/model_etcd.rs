//! The model of etcd does what a real etcd does, and the coordinator of a cluster works with it.
#![cfg(test)]

use etcd_client::proto::{PbCompactionRequest, PbPutRequest, PbRangeRequest};
use rdb_proto::types::{Epoch, GroupId, SeatId, Seq, Side};
use rdb_server::coordination::etcd::{EtcdCoordinator, EtcdSettings, connect};
use rdb_server::coordination::{Coordinator as _, SeatKey, View};
use rdb_tests::etcd::{Etcd, settings_at};
use rdb_tests::model_etcd::differential::{Done, Plan, run};
use rdb_tests::model_etcd::served::{Faults, ModelEtcd};
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::{pause, soon};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
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
    } = done;
    assert!(operations >= 2_000 && changes_told > 500, "{done:?}");
    assert!(watches > 10 && compactions > 3 && lapses == 1, "{done:?}");
}

async fn join(etcd: &ModelEtcd, name: &str) -> EtcdCoordinator {
    let settings = EtcdSettings {
        group_size: 3,
        writes: 2,
        lease_ttl: Duration::from_secs(1),
        refresh_interval: Duration::from_millis(200),
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

/// The seat's key, once the node knows this holder of it, or a later one.
async fn held(node: &EtcdCoordinator, by: Option<Epoch>) -> SeatKey {
    let is_known = |view: &View| {
        let key = view.seats.get(&SEAT);
        key.is_some_and(|key| key.holder >= by)
    };
    shows(node, "the holder of the seat", is_known).await.seats[&SEAT]
}

/// Campaigns for as long as calls fail.
async fn win(node: &EtcdCoordinator, above: Option<Epoch>) -> Epoch {
    let winning = soon("an election", async {
        loop {
            let key = held(node, above).await;
            match node.campaign(SEAT, Epoch::ZERO, key.revision).await {
                Ok(Some(granted)) => return granted.epoch,
                Ok(None) | Err(_) => pause().await,
            }
        }
    });
    winning.await
}

/// Elections and numbers of three nodes while one call in four fails, half of them after they were done: no epoch and no
/// number is given twice. Then a compaction behind a broken watch, and a lease that ends although it is renewed.
#[tokio::test]
async fn the_coordinator_of_a_cluster_works_with_the_model() {
    let etcd = ModelEtcd::start_with_clock(1).await;
    let (one, two, three) = tokio::join!(join(&etcd, "n1"), join(&etcd, "n2"), join(&etcd, "n3"));
    let nodes = [&one, &two, &three];
    for node in nodes {
        let is_whole = |view: &View| view.groups.len() == 1 && view.nodes.len() == 3;
        shows(node, "a group of three", is_whole).await;
    }
    etcd.fail(Faults {
        next: None,
        drawn: Some((Random::of_run(7), 4)),
    });
    let (mut numbers, mut epochs) = (BTreeSet::new(), Vec::new());
    for turn in 0..30 {
        let node = nodes[turn % nodes.len()];
        epochs.push(win(node, epochs.last().copied()).await);
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
    etcd.fail(Faults::default());

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
    etcd.break_watches(|model| {
        let revision = model.revision();
        let physical = true;
        model
            .compact(&PbCompactionRequest { revision, physical })
            .unwrap();
    });
    let epoch = win(&two, epochs.last().copied()).await;
    for node in nodes {
        held(node, Some(epoch)).await;
    }
    let first = soon("numbers", one.allocate(1)).await.unwrap().first;
    assert!(Some(&first) > numbers.last(), "{first}");

    let live = format!("/rdb/test/live/{}", three.node_id().0).into_bytes();
    etcd.with(|model| {
        let range = PbRangeRequest {
            key: live,
            ..PbRangeRequest::default()
        };
        let lease = model.range(&range).unwrap().kvs[0].lease;
        model.forsake(lease);
    });
    let is_live = |view: &View| view.nodes[&three.node_id()].is_live;
    shows(&one, "a node whose lease ended", |view| !is_live(view)).await;
    shows(&one, "that node with another lease", is_live).await;
    for node in nodes {
        soon("the node to leave", node.close()).await;
    }
}
