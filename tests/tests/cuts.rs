//! Nodes that are cut off from each other, or from etcd, in network namespaces (DESIGN 5): the seat of a leader that
//! nobody hears goes to another, and nobody believes both.
#![cfg(test)]

use rdb_proto::event::Event;
use rdb_tests::checkers::judge;
use rdb_tests::cluster::{Cluster, key_of};
use rdb_tests::lan::{HUB, Lan};
use rdb_tests::machine::Machine;
use rdb_tests::random::Random;
use rdb_tests::say;
use rdb_tests::time::{Stopwatch, pause, retry_pause, soon};
use rdb_tests::wire::Api;
use rdb_tests::workload::Ticks;
use rdb_tests::workload::writers::{Load, crew, record_of};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A cluster of three, its load, and whom it is about.
struct Case {
    machine: Machine,
    cluster: Cluster,
    load: Load,
    /// Leads seat 0.0.
    victim: usize,
    others: [usize; 2],
}

impl Case {
    /// The load goes through the nodes that stay together.
    async fn start(lan: &Lan, seed: u64, settings: &[(&str, &str)]) -> Self {
        let cluster = Cluster::start_on(lan, 3, settings).await;
        cluster.until_led(true).await;
        let victim = cluster.leader(0, 0).await;
        let others: Vec<usize> = (0..3).filter(|n| *n != victim).collect();
        let others = [others[0], others[1]];
        let addresses: Vec<SocketAddr> = others.iter().map(|n| cluster.addresses()[*n]).collect();
        let crew = crew(5, &mut Random::of_run(seed), &Arc::new(Ticks::default()));
        let load = Load::start_everywhere(crew, &addresses);
        load.more(50).await;
        Self {
            machine: Machine::watch(),
            cluster,
            load,
            victim,
            others,
        }
    }

    /// Waits until a key of the victim's seat, which is not one of the load's, is written through another node, and says how long that took.
    async fn taken_over(&self, what: &str) -> Duration {
        let watch = Stopwatch::start();
        let mut api = self.cluster.api(self.others[0]).await;
        let key = key_of(&api.status().await.unwrap(), 0, 0);
        soon("a write to the seat", written(&mut api, &key)).await;
        let took = watch.elapsed();
        say(&format!("{what}: the seat takes writes again after {took:?}"));
        took
    }

    /// The same, which takes no lease: it is over before one ends.
    async fn taken_over_in_time(&self, what: &str) {
        let took = self.taken_over(what).await;
        self.machine
            .judge("taking the seat over", took, Duration::from_secs(8));
    }

    /// Which node leads the victim's seat, as the others know it.
    async fn leader_of_the_seat(&self) -> Option<usize> {
        self.cluster.leader_as_known_to(self.others[0], 0).await
    }

    /// Waits until the seat is another node's.
    async fn until_another_leads(&self) {
        let looking = async {
            while self.leader_of_the_seat().await.is_none_or(|n| n == self.victim) {
                pause().await;
            }
        };
        soon("another leader of the seat", looking).await;
    }

    /// Heals everything, and judges the whole run against the stream of every node.
    async fn end(self, lan: &Lan) {
        self.load.more(50).await;
        for n in 0..3 {
            lan.heal(n);
        }
        self.load.more(50).await;
        let record = record_of(self.load.stop().await);
        self.cluster.until_led(true).await;
        let all = self.cluster.events(self.victim).await;
        let is_of_load = |event: &&Event| !event.name.key.to_string().starts_with("probe");
        let of_load: Vec<Event> = all.iter().filter(is_of_load).cloned().collect();
        judge(&record, &of_load).unwrap();
        for n in self.others {
            assert_eq!(
                self.cluster.events(n).await,
                all,
                "node {n} shows the same stream"
            );
        }
        assert!(record.acknowledged() > 100, "the load was real");
    }
}

async fn written(api: &mut Api, key: &str) {
    loop {
        match api.write(key, "x").await {
            Ok(_) => return,
            Err(refusal) => {
                let is_told = refusal.is_unavailable() || refusal.reason.is_some();
                assert!(is_told, "{refusal:?}");
                retry_pause().await;
            }
        }
    }
}

/// The leader still reaches etcd and keeps its lease; that helps it nothing.
#[test]
fn a_leader_that_is_cut_off_from_the_members_is_followed_by_another() {
    let name = "a_leader_that_is_cut_off_from_the_members_is_followed_by_another";
    in_lan(name, async |lan| {
        let case = Case::start(lan, 61, &[]).await;
        for other in case.others {
            lan.part(case.victim, other);
        }
        case.taken_over_in_time("cut off from the members").await;
        case.end(lan).await;
    });
}

/// The members hear nothing of the leader, which hears them.
#[test]
fn a_leader_that_nobody_hears_is_followed_by_another() {
    let name = "a_leader_that_nobody_hears_is_followed_by_another";
    in_lan(name, async |lan| {
        let case = Case::start(lan, 62, &[]).await;
        for other in case.others {
            lan.cut(Lan::address(case.victim), other);
        }
        case.taken_over_in_time("not heard by the members").await;
        case.end(lan).await;
    });
}

/// The leader hears nobody, and everybody hears it: it gives its seat up.
#[test]
fn a_leader_that_hears_nobody_gives_its_seat_up() {
    let name = "a_leader_that_hears_nobody_gives_its_seat_up";
    in_lan(name, async |lan| {
        let case = Case::start(lan, 63, &[]).await;
        for other in case.others {
            lan.cut(Lan::address(other), case.victim);
        }
        case.taken_over_in_time("hears nobody").await;
        case.end(lan).await;
    });
}

/// A whole machine vanishes without a word: no connection is refused, packets are just gone.
#[test]
fn a_node_that_vanishes_is_followed_by_another() {
    let name = "a_node_that_vanishes_is_followed_by_another";
    in_lan(name, async |lan| {
        let case = Case::start(lan, 64, &[]).await;
        for other in case.others {
            lan.part(case.victim, other);
        }
        lan.cut(HUB, case.victim);
        case.taken_over_in_time("vanished").await;
        case.end(lan).await;
    });
}

/// One member out of three cannot hear one other: everybody can still work.
#[test]
fn two_members_that_do_not_hear_each_other_harm_nobody() {
    let name = "two_members_that_do_not_hear_each_other_harm_nobody";
    in_lan(name, async |lan| {
        let case = Case::start(lan, 65, &[]).await;
        lan.part(case.victim, case.others[0]);
        case.load.more(200).await;
        case.end(lan).await;
    });
}

/// The leader reaches the members and not etcd: it still answers reads, and takes numbers through another node, until
/// its lease has ended and its seat is another's (DESIGN 6.5).
#[test]
fn a_leader_that_is_cut_off_from_etcd_goes_on_until_its_seat_goes_to_another() {
    let name = "a_leader_that_is_cut_off_from_etcd_goes_on_until_its_seat_goes_to_another";
    in_lan(name, async |lan| {
        let settings = [("LEASE_TTL", "3"), ("REFRESH_INTERVAL", "1")];
        let case = Case::start(lan, 66, &settings).await;
        let key = key_of(&case.cluster.status().await, 0, 0);
        let mut api = case.cluster.api(case.victim).await;
        written(&mut api, &key).await;
        lan.cut_ports(case.victim, case.cluster.etcd.ports());
        let read = api.read(&key).await.unwrap();
        assert_eq!(read.payload, "x".as_bytes(), "linearizable, without etcd");
        let watch = Stopwatch::start();
        written(&mut api, &key).await;
        let took = watch.elapsed();
        say(&format!(
            "cut off from etcd: the leader takes writes again after {took:?}"
        ));
        case.machine
            .judge("a write without etcd", took, Duration::from_millis(1_200));
        assert_eq!(
            case.leader_of_the_seat().await,
            Some(case.victim),
            "its lease lasts"
        );
        case.until_another_leads().await;
        case.taken_over("after the lease of the leader").await;
        case.end(lan).await;
    });
}

/// An idle seat of a leader that lost etcd alone does not hold the stream: the others' events in the node's own logs show
/// how far the counter is.
#[test]
fn the_stream_goes_on_past_an_idle_seat_whose_leader_lost_etcd() {
    let name = "the_stream_goes_on_past_an_idle_seat_whose_leader_lost_etcd";
    in_lan(name, async |lan| {
        let machine = Machine::watch();
        let cluster = Cluster::start_on(lan, 3, &[]).await;
        let status = cluster.until_led(true).await;
        let (victim, writer) = (cluster.leader(0, 0).await, cluster.leader(0, 1).await);
        let mut api = cluster.api(writer).await;
        let key = key_of(&status, 0, 1);
        written(&mut api, &key).await;
        lan.cut_ports(victim, cluster.etcd.ports());
        let watch = Stopwatch::start();
        let seq = api.write(&key, "past").await.unwrap().seq;
        cluster
            .until("the mark to pass the write", |status| status.resolved >= seq)
            .await;
        let took = watch.elapsed();
        say(&format!("the mark passed the write after {took:?}"));
        let leader = cluster.leader_as_known_to(writer, 0).await;
        assert_eq!(leader, Some(victim), "its lease lasts");
        machine.judge("a mark that passes a write", took, Duration::from_secs(2));
        for n in 0..3 {
            lan.heal(n);
        }
    });
}

/// The same with the node that others ask for numbers first: they ask each other.
#[test]
fn a_controller_that_is_cut_off_from_etcd_stops_nobodys_writes() {
    let name = "a_controller_that_is_cut_off_from_etcd_stops_nobodys_writes";
    in_lan(name, async |lan| {
        let machine = Machine::watch();
        let cluster = Cluster::start_on(lan, 3, &[("SHARD_GROUPS", "4")]).await;
        cluster.until_led(false).await;
        let load = cluster.load(67);
        load.more(100).await;
        let victim = cluster.controller().await;
        lan.cut_ports(victim, cluster.etcd.ports());
        for _ in 0..10 {
            let watch = Stopwatch::start();
            load.more(20).await;
            machine.judge(
                "20 writes without etcd",
                watch.elapsed(),
                Duration::from_millis(1_500),
            );
        }
        lan.heal(victim);
        load.more(50).await;
        cluster.judged(load, 200, &[0, 1, 2]).await;
    });
}

/// Runs a case in namespaces of three machines.
fn in_lan(name: &str, case: impl AsyncFnOnce(&Lan)) {
    let Some(lan) = Lan::enter(name, 3) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(case(&lan));
}
