//! Real nodes around a real etcd whose data goes back (DESIGN 6.5): restored from an older copy, or emptied. Numbers
//! never go back and never come twice, nothing that was acknowledged is lost, and writes go on, or say why not.
//!
//! Red when the guard is off: `RDB_SABOTAGE=rollback_unguarded` with the feature `sabotage` (`scripts/sabotage`).
#![cfg(test)]

use rdb_proto::reason::Reason;
use rdb_proto::v1;
use rdb_tests::checkers::judge;
use rdb_tests::cluster::Cluster;
use rdb_tests::time::soon;
use rdb_tests::wire::assert_reason;
use rdb_tests::workload::writers::{Load, record_of};
use std::collections::BTreeSet;

/// By how much numbers leap at least when etcd is put right.
const LEAP: u64 = 1 << 40;

/// What an operator says: only to be told what would come of it, and whoever is silent.
const fn restored(dry_run: bool, anyway: bool) -> v1::EtcdRestoredRequest {
    v1::EtcdRestoredRequest { dry_run, anyway }
}

/// Seats change hands: every node dies once and comes back.
async fn fail_over(cluster: &mut Cluster, load: &Load) {
    for seat in [0, 1] {
        let victim = cluster.leader(0, seat).await;
        cluster.kill(victim).await;
        load.more(30).await;
        cluster.run(victim).await;
        load.more(10).await;
    }
}

/// Under load, with failovers after the copy was made, so that counter, epochs and revision all go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_etcd_is_put_right_under_load() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(61);
    load.more(50).await;
    let backup = cluster.etcd.back_up().await;
    load.more(50).await;
    fail_over(&mut cluster, &load).await;
    let before = cluster.status().await.counter;
    cluster.etcd.put_back(&backup).await;
    load.more(50).await;
    let after = cluster.status().await.counter;
    assert!(after > before + LEAP, "{before}, then {after}");
    fail_over(&mut cluster, &load).await;
    let all = cluster.judged(load, 150, &[0, 1, 2]).await;
    assert!(all.last().unwrap().seq.get() > before + LEAP);
    // And once more, from the same copy.
    let before = cluster.status().await.counter;
    cluster.etcd.put_back(&backup).await;
    let mut api = cluster.api(0).await;
    let written = api.write("after", "x").await.unwrap();
    assert!(written.seq > before + LEAP, "{written:?} after {before}");
    cluster.until("a healthy cluster", |status| status.healthy).await;
}

/// All nodes stand still while etcd goes back: what they remember is on their disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_were_stopped_notice_that_etcd_went_back() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(62);
    load.more(50).await;
    let backup = cluster.etcd.back_up().await;
    load.more(50).await;
    for n in 0..3 {
        cluster.kill(n).await;
    }
    cluster.etcd.put_back(&backup).await;
    cluster.start_all().await;
    load.more(100).await;
    let all = cluster.judged(load, 150, &[0, 1, 2]).await;
    assert!(all.last().unwrap().seq.get() > LEAP);
}

/// C8 of the design review: who knows less than the copy of etcd is the first to ask for numbers. Each node has a
/// group of its own, so nothing but what the other one tells shows that the numbers were given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_less_than_the_copy_gets_no_number_twice() {
    let settings = [("SHARD_GROUPS", "2"), ("GROUP_SIZE", "1"), ("WRITES", "1")];
    let (mut cluster, leaders) = loop {
        let cluster = Cluster::start(2, &settings).await;
        cluster.until_led(false).await;
        let leaders = [cluster.leader(0, 0).await, cluster.leader(1, 0).await];
        // Both groups go to one node, when that one is there first.
        if leaders[0] != leaders[1] {
            break (cluster, leaders);
        }
    };
    let mut api = cluster.api(0).await;
    let mut seqs = BTreeSet::new();
    for n in 0..20 {
        seqs.insert(api.write(&format!("k{n}"), "before").await.unwrap().seq);
    }
    let idle = leaders[0];
    let busy = leaders[1];
    // The idle one is away, so that it learns of nothing more.
    cluster.kill(idle).await;
    let mut hasty = cluster.node(busy).api().await;
    let mut write_some = async |count: usize| {
        let mut written = Vec::new();
        for n in 0.. {
            if written.len() == count {
                return written;
            }
            if let Ok(answer) = hasty.write(&format!("k{}", n % 20), "more").await {
                written.push(answer.seq);
            }
        }
        written
    };
    seqs.extend(write_some(10).await);
    let backup = cluster.etcd.back_up().await;
    let given: Vec<u64> = soon("writes of one group", write_some(10)).await;
    assert!(given.iter().all(|seq| seqs.insert(*seq)), "{given:?}");
    cluster.kill(busy).await;
    cluster.etcd.put_back(&backup).await;
    cluster.start_all().await;
    cluster.until_led(false).await;
    let mut api = cluster.api(idle).await;
    for n in 0..20 {
        let key = format!("k{n}");
        let seq = api.write(&key, "after").await.unwrap().seq;
        assert!(seqs.insert(seq), "seq {seq} was given before");
        assert!(seq > LEAP, "{seq} is in the order of time");
    }
}

/// An etcd that was emptied cannot be put right by nodes: they refuse writes, say why, and lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_etcd_is_refused_by_name_and_its_copy_put_right() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let mut api = cluster.api(0).await;
    for n in 0..10 {
        api.write(&format!("k{n}"), "before").await.unwrap();
    }
    let backup = cluster.etcd.back_up().await;
    api.write("k0", "again").await.unwrap();
    // A seat whose recovery is not over when etcd is emptied gets no number to end it with, and answers nothing.
    cluster.until("a healthy cluster", |status| status.healthy).await;
    cluster.etcd.stop().await;
    cluster.etcd.empty();
    cluster.etcd.run().await;
    let status = cluster
        .until("a status that names what is missing", |status| {
            status.summary.contains("emptied")
        })
        .await;
    assert!(!status.healthy);
    let mut hasty = cluster.node(0).api().await;
    assert_reason(hasty.write("k1", "during").await, Reason::CoordinatorAway);
    assert_eq!(api.read("k1").await.unwrap().payload, "before".as_bytes());
    cluster.etcd.put_back(&backup).await;
    cluster.until("a healthy cluster", |status| status.healthy).await;
    assert_eq!(api.write("k1", "after").await.unwrap().version, 2);
    assert_eq!(api.read("k0").await.unwrap().payload, "again".as_bytes());
}

/// Members changed after the copy was made: one node is gone, and the one that took its place is not even known to the
/// copy. The members of now stay, under a number above those of any change that somebody may know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_now_outlast_an_older_copy_of_etcd() {
    let settings = [
        ("LEASE_TTL", "2"),
        ("REFRESH_INTERVAL", "1"),
        ("REPLACE_AFTER", "2"),
    ];
    let mut cluster = Cluster::start(3, &settings).await;
    cluster.until_led(true).await;
    let load = cluster.load(63);
    load.more(50).await;
    let backup = cluster.etcd.back_up().await;
    let spare = cluster.start_another(&settings).await;
    let lost = cluster.leader(0, 0).await;
    cluster.kill(lost).await;
    let stay: Vec<usize> = (0..3).filter(|n| *n != lost).collect();
    let members = [stay[0], stay[1], spare];
    cluster.until_members(&members).await;
    load.more(50).await;
    cluster.etcd.put_back(&backup).await;
    load.more(50).await;
    cluster.until_members(&members).await;
    cluster.until_led(true).await;
    // With the node that the copy did not know and one more, nothing is missing.
    cluster.kill(stay[0]).await;
    load.more(30).await;
    let record = record_of(load.stop().await);
    cluster.until_led(false).await;
    let all = cluster.events(spare).await;
    judge(&record, &all).unwrap();
    assert!(all.last().unwrap().seq.get() > LEAP);
    assert_eq!(cluster.events(stay[1]).await, all);
}

/// A copy so young that nobody notices: numbers leap since an operator says so, under load, and nothing else changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_says_that_etcd_was_restored_is_believed() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.until_led(true).await;
    let load = cluster.load(64);
    load.more(50).await;
    let mut api = cluster.api(1).await;
    let planned = api.etcd_restored(restored(true, false)).await.unwrap();
    assert_eq!((planned.generation, planned.behind), (2, false));
    assert_eq!(planned.told.len(), 3);
    assert!(planned.silent.is_empty() && planned.groups_unheard.is_empty());
    assert!(planned.counter > LEAP);
    load.more(20).await;
    let before = cluster.status().await.counter;
    assert!(before < LEAP, "dry: nothing happened");
    let done = api.etcd_restored(restored(false, false)).await.unwrap();
    assert_eq!(done.generation, 2);
    assert!(done.counter >= before + LEAP);
    load.more(100).await;
    cluster.until_led(true).await;
    let again = api.etcd_restored(restored(false, false)).await.unwrap();
    assert_eq!(again.generation, 3);
    assert!(again.counter > done.counter + LEAP);
    load.more(50).await;
    fail_over(&mut cluster, &load).await;
    let all = cluster.judged(load, 150, &[0, 1, 2]).await;
    assert!(all.last().unwrap().seq.get() > again.counter);
    cluster.until("a healthy cluster", |status| status.healthy).await;
}

/// What a group knows of which too few members can be asked is missing: the order is refused, and names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_not_put_right_without_a_group_unless_that_is_asked_for() {
    let settings = [("SHARD_GROUPS", "2"), ("GROUP_SIZE", "1"), ("WRITES", "1")];
    let mut cluster = Cluster::start(2, &settings).await;
    let status = cluster.until_led(false).await;
    let silent = cluster.leader(1, 0).await;
    let of_it = |group: &&v1::GroupStatus| group.members == status.groups[1].members;
    let groups: Vec<u32> = status
        .groups
        .iter()
        .filter(of_it)
        .map(|group| group.group)
        .collect();
    let mut api = cluster.api(1 - silent).await;
    cluster.kill(silent).await;
    let planned = api.etcd_restored(restored(true, false)).await.unwrap();
    assert_eq!(planned.groups_unheard, groups);
    assert_eq!(planned.silent, [format!("n{}", silent + 1)]);
    let refused = api.etcd_restored(restored(false, false)).await.unwrap_err();
    assert_eq!(refused.reason, Some(Reason::OrderRefused), "{refused:?}");
    assert!(refused.message.contains("group"), "{refused:?}");
    assert!(cluster.status().await.counter < LEAP, "nothing happened");
    let done = api.etcd_restored(restored(false, true)).await.unwrap();
    assert_eq!(done.groups_unheard, groups);
    cluster.run(silent).await;
    cluster.until("a healthy cluster", |status| status.healthy).await;
    let mut api = cluster.api(silent).await;
    for n in 0..20 {
        let written = api.write(&format!("k{n}"), "after").await.unwrap();
        assert!(written.seq > done.counter, "{written:?}");
    }
}
