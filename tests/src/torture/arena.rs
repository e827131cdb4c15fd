//! A cluster with clients at work and followers at every node: what faults strike.

use super::Options;
use super::report::Report;
use super::tally::Tally;
use crate::cluster::{Cluster, Site};
use crate::random::Random;
use crate::time::{pause, soon, within};
use crate::workload::follower::Follower;
use crate::workload::writers::{Load, Writer, crew, readers, record_of};
use crate::workload::{History, Ticks};
use rdb_proto::event::Event;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Writers at work.
const WRITERS: usize = 6;

/// Readers that visit a node.
const READERS: usize = 4;

/// Longest wait for followers to get what they have not got yet, after the cluster is healthy.
const CATCHING_UP: Duration = Duration::from_mins(1);

/// One cluster, from its start to its last judgement.
#[derive(Debug)]
pub struct Arena {
    // First, so that they end before the nodes.
    load: Option<Load>,
    visits: Vec<Load>,
    followers: JoinSet<Follower>,
    upto: watch::Sender<Option<u64>>,
    /// The cluster.
    pub cluster: Cluster,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many groups.
    pub groups: usize,
    /// Draws whom a fault strikes, and when.
    pub random: Random,
    ticks: Arc<Ticks>,
    /// Of clients that do not go on.
    record: History,
    /// Of the loads that have ended.
    acknowledged: usize,
}

impl Arena {
    /// Starts everything, and waits until it works.
    pub async fn open(options: &Options, site: &Site, mut random: Random) -> Self {
        let settings = options.settings();
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
        let cluster = Cluster::start_at(site.clone(), options.nodes, &settings).await;
        let groups = cluster.until_led(true).await.groups.len();
        let (upto, followed) = watch::channel(None);
        let mut followers = JoinSet::new();
        // One stays with its node; one begins there, and goes on at the next whenever its stream ends.
        let mut all = cluster.addresses();
        for _ in 0..options.nodes {
            for nodes in [vec![all[0]], all.clone()] {
                followers.spawn(Follower::default().follow_up_to(nodes, followed.clone()));
            }
            all.rotate_left(1);
        }
        let ticks = Arc::default();
        let writers = crew(WRITERS, &mut random, &ticks);
        let mut arena = Self {
            load: None,
            visits: Vec::new(),
            followers,
            upto,
            cluster,
            nodes: options.nodes,
            groups,
            random,
            ticks,
            record: History::default(),
            acknowledged: 0,
        };
        arena.work(writers);
        arena
    }

    fn work(&mut self, writers: Vec<Writer>) {
        self.load = Some(Load::start_everywhere(writers, &self.cluster.addresses()));
    }

    /// Events that were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged + self.load.as_ref().map_or(0, Load::count)
    }

    /// Waits for a number of acknowledged events that the seed draws, so that nothing strikes at a fixed moment.
    pub async fn some_events(&mut self) {
        let events = 1 + self.random.position(100);
        self.load
            .as_ref()
            .expect("clients are at work")
            .more(events)
            .await;
    }

    /// Lets new clients read from a node, and from no other, until the next judgement. What they ask one that stands still is
    /// the first that it answers when it goes on.
    pub fn visit(&mut self, node: usize) {
        let readers = readers(READERS, &mut self.random, &self.ticks);
        let address = self.cluster.addresses()[node];
        self.visits.push(Load::start(readers, address));
    }

    /// Both leaders of a group that the seed draws. It may be one node.
    pub async fn leaders(&mut self) -> Vec<usize> {
        let group = self.random.position(self.groups);
        let mut leaders = vec![
            self.cluster.leader(group, 0).await,
            self.cluster.leader(group, 1).await,
        ];
        leaders.dedup();
        leaders
    }

    /// Some nodes that the seed draws.
    pub fn some_nodes(&mut self, count: usize) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.nodes).collect();
        while nodes.len() > count {
            nodes.remove(self.random.position(nodes.len()));
        }
        nodes
    }

    /// Waits until all is well again, lets the clients finish, judges everything that they were told, and lets them go on.
    pub async fn judge(&mut self) -> Tally {
        self.some_events().await;
        self.until_healthy().await;
        let load = self.load.take().expect("clients are at work");
        let writers = load.stop().await;
        for visit in std::mem::take(&mut self.visits) {
            self.record.merge(record_of(visit.stop().await));
        }
        let mut history = self.record.clone();
        for writer in &writers {
            history.merge(writer.record());
        }
        self.acknowledged = history.acknowledged();
        let node = self.random.position(self.nodes);
        let all = self.events(node).await;
        let tally = Tally::of(&history, &all);
        self.work(writers);
        tally
    }

    async fn until_healthy(&self) {
        self.cluster.until_led(true).await;
        self.cluster
            .until("a healthy cluster", |status| status.healthy)
            .await;
    }

    /// Every event that there is, as a node shows them. Its stream may break off where seats still move.
    async fn events(&self, node: usize) -> Vec<Event> {
        let reading = async {
            let upto = self.cluster.status().await.counter;
            loop {
                if let Ok(events) = self.cluster.api(node).await.events_up_to(upto).await {
                    return events;
                }
                pause().await;
            }
        };
        soon("the whole stream", reading).await
    }

    /// Ends it: all that was ever told holds, every node shows the same stream, and showed it to its followers all along.
    /// Whether that is so.
    pub async fn close(mut self, report: &mut Report) -> bool {
        let load = self.load.take().expect("clients are at work");
        let mut history = self.record.clone();
        history.merge(record_of(load.stop().await));
        self.until_healthy().await;
        let all = self.events(0).await;
        for violation in Tally::of(&history, &all).violations {
            report.violated(&violation);
        }
        for node in 1..self.nodes {
            if self.events(node).await != all {
                report.violated(&format!("n{} shows another stream than n1", node + 1));
            }
        }
        // The time may be over before anything was written.
        let last = all.last().map_or(0, |event| event.seq.get());
        self.upto.send_replace(Some(last));
        let followers = std::mem::take(&mut self.followers);
        let followers = within(CATCHING_UP, "the followers to catch up", followers.join_all()).await;
        for follower in followers {
            if let Err(violation) = follower.judge(&all) {
                report.violated(&violation.to_string());
            }
            report.delivered(follower.delivered());
        }
        self.cluster.kill_all().await;
        self.cluster.etcd.stop().await;
        report.is_clean()
    }
}

/// Nodes by their names, for people.
pub fn names(nodes: &[usize]) -> String {
    let names: Vec<String> = nodes.iter().map(|n| format!("n{}", n + 1)).collect();
    names.join(", ")
}
