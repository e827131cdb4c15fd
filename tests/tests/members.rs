//! Members of groups move from node to node (DESIGN 6.3.8) while clients write: nothing is lost, and a lost node is
//! replaced by a spare.
#![cfg(test)]

use rdb_proto::reason::Reason;
use rdb_proto::v1;
use rdb_tests::cluster::Cluster;
use rdb_tests::time::{retry_pause, soon};
use rdb_tests::wire::assert_reason;

/// Nodes that are gone for long are found soon.
const IMPATIENT: [(&str, &str); 3] = [
    ("LEASE_TTL", "2"),
    ("REFRESH_INTERVAL", "1"),
    ("REPLACE_AFTER", "2"),
];

/// A node dies for good: a spare takes its place by itself, and then another node may die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_lost_is_replaced_by_a_spare() {
    let mut cluster = Cluster::start(3, &IMPATIENT).await;
    cluster.until_led(true).await;
    let spare = cluster.start_another(&IMPATIENT).await;
    let load = cluster.load(51);
    load.more(60).await;
    let lost = cluster.leader(0, 0).await;
    cluster.kill(lost).await;
    let stay: Vec<usize> = (0..3).filter(|n| *n != lost).collect();
    cluster.until_members(&[stay[0], stay[1], spare]).await;
    load.more(60).await;
    // The spare's copy is whole: with it and one more, nothing is missing.
    cluster.kill(stay[0]).await;
    cluster.until_led(true).await;
    load.more(60).await;
    cluster.judged(load, 100, &[stay[1], spare]).await;
}

/// A node is lost and none is free: every status says so for as long as that lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_cannot_be_replaced_is_complained_of_until_it_is() {
    let mut cluster = Cluster::start(3, &IMPATIENT).await;
    cluster.until_led(true).await;
    cluster.kill(2).await;
    let complains = |status: &v1::StatusResponse| {
        let complaint = "group 0: the member on n3 is to be replaced, and no live node is free for it";
        status.healthy && status.summary.contains(complaint) && status.unreplaced == [complaint]
    };
    for n in 0..2 {
        let mut api = cluster.api(n).await;
        let looking = async {
            while !complains(&api.status().await.unwrap()) {
                retry_pause().await;
            }
        };
        soon("a complaint", looking).await;
    }
    let spare = cluster.start_another(&IMPATIENT).await;
    cluster.until_members(&[0, 1, spare]).await;
    cluster
        .until("no complaint", |status| status.unreplaced.is_empty())
        .await;
}

/// A disk is emptied: the node comes back as a new one, which takes the place of the old one at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_empty_disk_comes_back_as_a_new_one() {
    let settings = [
        ("LEASE_TTL", "2"),
        ("REFRESH_INTERVAL", "1"),
        ("REPLACE_AFTER", "0"),
    ];
    let mut cluster = Cluster::start(3, &settings).await;
    cluster.until_led(true).await;
    let load = cluster.load(52);
    load.more(60).await;
    cluster.kill(1).await;
    cluster.wipe(1);
    let id_of_n2 = |status: &v1::StatusResponse| {
        let node = status.nodes.iter().find(|node| node.name == "n2");
        node.map(|node| node.id)
    };
    let before = id_of_n2(&cluster.status().await);
    // Its old lease must end first: until then the name is taken.
    cluster
        .until("the end of its lease", |status| {
            status.nodes.iter().any(|node| node.name == "n2" && !node.live)
        })
        .await;
    cluster.run(1).await;
    cluster.until_members(&[0, 1, 2]).await;
    assert_ne!(id_of_n2(&cluster.status().await), before);
    load.more(60).await;
    cluster.judged(load, 100, &[0, 1, 2]).await;
}

/// An operator drains a node under load: its seats and its members go elsewhere, and it can be stopped and forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_stopped_and_forgotten() {
    let settings = [
        ("SHARD_GROUPS", "2"),
        ("LEASE_TTL", "2"),
        ("REFRESH_INTERVAL", "1"),
    ];
    let mut cluster = Cluster::start(3, &settings).await;
    cluster.until_led(true).await;
    let load = cluster.load(53);
    load.more(60).await;
    let mut admin = cluster.api(0).await;
    let drain = |node: &str, dry_run| v1::DrainRequest {
        node: node.to_owned(),
        to: String::new(),
        dry_run,
    };
    // Three members need three nodes.
    assert_reason(admin.drain(drain("n3", false)).await, Reason::OrderRefused);
    assert_reason(admin.drain(drain("n9", false)).await, Reason::NodeUnknown);
    let spare = cluster.start_another(&settings).await;
    let planned = admin.drain(drain("n3", true)).await.unwrap();
    assert_eq!(planned.moves.len(), 2, "one of each group");
    cluster.until_members(&[0, 1, 2]).await;
    // Dry: nothing happened. Now in earnest, on a node that is asked to do it twice.
    let mut changes = cluster.api(2).await.subscribe(0).await.unwrap();
    admin.drain(drain("n3", false)).await.unwrap();
    admin.drain(drain("n3", false)).await.unwrap();
    cluster.until_members(&[0, 1, spare]).await;
    load.more(60).await;
    // A change stream that read from those members ends, and says why; a new one comes from elsewhere.
    let end = soon("the end of the stream", async {
        loop {
            if let Err(refusal) = changes.next().await {
                return refusal;
            }
        }
    });
    assert_eq!(end.await.reason, Some(Reason::NotMember));
    // A node without members serves everything all the same.
    let events = cluster.events(2).await;
    assert!(events.len() > 60);
    let remove = v1::RemoveRequest {
        node: "n3".to_owned(),
        dry_run: false,
    };
    assert_reason(admin.remove(remove.clone()).await, Reason::OrderRefused);
    cluster.take(2).stop().await;
    cluster
        .until("n3 not live", |status| {
            status.nodes.iter().any(|node| node.name == "n3" && !node.live)
        })
        .await;
    admin.remove(remove).await.unwrap();
    cluster
        .until("n3 forgotten", |status| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.name != "n3")
        })
        .await;
    load.more(60).await;
    cluster.judged(load, 100, &[0, 1, spare]).await;
}

/// An operator moves a seat around, through nodes that do not lead it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_moves_by_order() {
    let cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(54);
    load.more(30).await;
    for to in [0, 1, 2, 0] {
        let mut admin = cluster.api((to + 1) % 3).await;
        let order = |group| v1::MoveSeatRequest {
            group,
            seat: 0,
            to: format!("n{}", to + 1),
            dry_run: false,
        };
        // A node that is too busy to take it in time is passed over; an operator asks again.
        soon("a seat that moves", async {
            while let Err(refusal) = admin.move_seat(order(0)).await {
                assert!(refusal.reason.is_some(), "{refusal:?}");
                retry_pause().await;
            }
        })
        .await;
        assert_reason(admin.move_seat(order(7)).await, Reason::FieldInvalid);
        let leads = |status: &v1::StatusResponse| {
            let seat = &status.groups[0].seats[0];
            let node = status.nodes.iter().find(|node| node.id == seat.leader);
            seat.state == "leading" && node.is_some_and(|node| node.name == format!("n{}", to + 1))
        };
        cluster.until("the seat where it was sent", leads).await;
        load.more(30).await;
    }
    cluster.judged(load, 100, &[0, 1, 2]).await;
}
