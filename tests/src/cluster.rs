//! Whole clusters of real processes: an etcd and nodes, all on loopback.

use crate::checkers::judge;
use crate::disk::{self, Disk};
use crate::etcd::{Etcd, free_port};
use crate::files::scratch;
use crate::lan::{self, Lan};
use crate::process::{Node, Settings, Starting};
use crate::random::Random;
use crate::say;
use crate::shim::{Library, Shim};
use crate::time::{pause, soon};
use crate::wire::Api;
use crate::workload::Ticks;
use crate::workload::writers::{Load, crew, record_of};
use etcd_client::GetOptions;
use rdb_proto::event::Event;
use rdb_proto::types::KeyName;
use rdb_proto::v1;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// What a cluster stands on. Usually loopback, and directories that go with it.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Machines that can be cut off from each other.
    pub lan: Option<Lan>,
    /// Data and logs are kept below it.
    pub directory: Option<PathBuf>,
    /// Each node has a disk of its own that can lose its power.
    pub has_disks: bool,
    /// Before each node stands what can make its disk fail and its clock jump.
    pub has_shims: bool,
    /// Etcd has three members, and not one.
    pub has_three_etcds: bool,
    /// Where etcd is, when it is not one of the cluster's own.
    pub etcd: Option<String>,
}

/// Nodes by their number from 0; each is there, or was killed.
#[derive(Debug)]
pub struct Cluster {
    /// Where they meet, unless the site says otherwise.
    pub etcd: Etcd,
    site: Site,
    settings: Vec<Settings>,
    addresses: Vec<SocketAddr>,
    // In this order, since what is above uses what is below.
    nodes: Vec<Option<Node>>,
    disks: Vec<Disk>,
    shims: Vec<Shim>,
    library: Option<Library>,
    data: TempDir,
}

impl Cluster {
    /// Starts etcd and nodes with these settings besides the usual ones, and waits until all are ready.
    pub async fn start(nodes: usize, more: &[(&str, &str)]) -> Self {
        Self::start_at(Site::default(), nodes, more).await
    }

    /// The same on machines that can be cut off from each other.
    pub async fn start_on(lan: &Lan, nodes: usize, more: &[(&str, &str)]) -> Self {
        let site = Site {
            lan: Some(lan.clone()),
            ..Site::default()
        };
        Self::start_at(site, nodes, more).await
    }

    /// The same where it is told to stand.
    pub async fn start_at(site: Site, nodes: usize, more: &[(&str, &str)]) -> Self {
        let host = site.lan.as_ref().map_or(Ipv4Addr::LOCALHOST, |_| lan::HUB);
        let members = if site.has_three_etcds { 3 } else { 1 };
        let mut etcd = Etcd::stopped(host, site.directory.as_deref(), members);
        if site.etcd.is_none() {
            etcd.run().await;
        }
        let mut cluster = Self {
            etcd,
            settings: Vec::new(),
            addresses: Vec::new(),
            nodes: Vec::new(),
            disks: Vec::new(),
            shims: Vec::new(),
            library: site.has_shims.then(|| Library::new().unwrap()),
            data: scratch(site.directory.as_deref()),
            site,
        };
        for n in 0..nodes {
            cluster.add(n, more);
        }
        cluster.start_all().await;
        cluster
    }

    /// Adds a node to those that there are, and starts it.
    pub async fn start_another(&mut self, more: &[(&str, &str)]) -> usize {
        let n = self.nodes.len();
        self.add(n, more);
        self.run(n).await;
        n
    }

    /// Throws away what a node that is not there has on disk.
    pub fn wipe(&self, n: usize) {
        assert!(self.nodes[n].is_none(), "the node is there");
        fs::remove_dir_all(self.data_dir(n)).unwrap();
    }

    /// Waits until the groups' members are just these nodes, nothing about them is changing, and every seat is led.
    pub async fn until_members(&self, nodes: &[usize]) {
        self.until(&format!("members {nodes:?}"), |status| {
            let is_so = |group: &v1::GroupStatus| {
                let members = group.members.iter().map(|id| number_of(status, *id));
                let members: Option<BTreeSet<usize>> = members.collect();
                group.previous_members.is_empty()
                    && group.learners.is_empty()
                    && members == Some(nodes.iter().copied().collect())
            };
            status.groups.iter().all(is_so)
        })
        .await;
        self.until_led(false).await;
    }

    fn add(&mut self, n: usize, more: &[(&str, &str)]) {
        let (grpc, http) = (free_port(), free_port());
        if self.site.has_disks {
            let name = format!("disk{}", n + 1);
            self.disks.push(Disk::make(self.data.path(), &name).unwrap());
        }
        let etcd = self.site.etcd.clone();
        // Each begins at another member: a node stays with one for as long as it answers.
        let mut endpoints = self.etcd.endpoints();
        let first = n % endpoints.len();
        endpoints.rotate_left(first);
        let etcd = etcd.unwrap_or_else(|| endpoints.join(","));
        let mut settings = Settings::new(&self.data_dir(n))
            .with("ETCD", &etcd)
            .with("NODE", &format!("n{}", n + 1))
            .with("PORT", &grpc.to_string())
            .with("HTTP_PORT", &http.to_string());
        for (name, value) in more {
            settings = settings.with(name, value);
        }
        if let Some(library) = &self.library {
            let shim = Shim::new(&self.data.path().join(format!("n{}.shim", n + 1))).unwrap();
            settings = shim.before(settings, library);
            self.shims.push(shim);
        }
        let mut host = Ipv4Addr::LOCALHOST;
        if self.site.directory.is_some() {
            settings = settings.logging_to(&self.data.path().join(format!("n{}.log", n + 1)));
        }
        if let Some(lan) = &self.site.lan {
            host = Lan::address(n);
            settings = settings
                .with("ADDRESS", &host.to_string())
                .with("LISTEN", &host.to_string())
                .in_namespace(&lan.machine(n));
        }
        self.settings.push(settings);
        self.addresses.push(SocketAddr::from((host, grpc)));
        self.nodes.push(None);
    }

    /// Where the node keeps its data.
    pub fn data_dir(&self, n: usize) -> PathBuf {
        let disk = self.disks.get(n).map(Disk::path);
        disk.unwrap_or_else(|| self.data.path())
            .join(format!("n{}", n + 1))
    }

    /// What stands before the node, in a site that has it.
    pub fn shim(&self, n: usize) -> &Shim {
        &self.shims[n]
    }

    /// The network that the nodes are in, when it can be cut.
    pub const fn lan(&self) -> Option<&Lan> {
        self.site.lan.as_ref()
    }

    /// The node's settings.
    pub fn settings(&self, n: usize) -> Settings {
        self.settings[n].clone()
    }

    /// Starts every node that is not there, all at once, and waits until they are ready.
    pub async fn start_all(&mut self) {
        let missing: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].is_none())
            .collect();
        let starting: Vec<(usize, Starting)> = missing
            .into_iter()
            .map(|n| (n, self.settings[n].spawn()))
            .collect();
        for (n, starting) in starting {
            self.nodes[n] = Some(starting.ready().await.unwrap_or_else(|ended| panic!("{ended:?}")));
        }
    }

    /// Starts a node and waits until it is ready.
    pub async fn run(&mut self, n: usize) {
        self.nodes[n] = Some(self.settings[n].start().await);
    }

    /// A node that is there.
    pub fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().expect("the node is there")
    }

    /// Takes a node out, to end it in some way.
    pub fn take(&mut self, n: usize) -> Node {
        self.nodes[n].take().expect("the node is there")
    }

    /// Kills a node with SIGKILL.
    pub async fn kill(&mut self, n: usize) {
        self.take(n).kill().await;
    }

    /// Kills every node that is there with SIGKILL, one right after the other.
    pub async fn kill_all(&mut self) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].is_some() {
                self.kill(n).await;
            }
        }
    }

    /// Takes the power from all disks at once, then kills what still runs. What no node had synced is gone.
    pub async fn lose_power(&mut self) {
        disk::cut_power(&self.disks).unwrap();
        self.kill_all().await;
        for disk in &self.disks {
            disk.plug_in().await.unwrap();
        }
    }

    /// Where gRPC is served, by all nodes, there or not.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// A connection to a node, of a patient client.
    pub async fn api(&self, n: usize) -> Api {
        self.node(n).api().await.patient()
    }

    /// Some node that is there.
    pub fn anyone(&self) -> usize {
        (0..self.nodes.len())
            .find(|n| self.nodes[*n].is_some())
            .expect("a node is there")
    }

    /// The status, as a node that is there tells it.
    pub async fn status(&self) -> v1::StatusResponse {
        self.api(self.anyone()).await.status().await.unwrap()
    }

    /// Waits for a status that is as wanted.
    pub async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&v1::StatusResponse) -> bool + Send + Sync,
    ) -> v1::StatusResponse {
        let looking = async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                pause().await;
            }
        };
        Box::pin(soon(what, looking)).await
    }

    /// Waits until every seat is led by a node that is there, under its newest epoch, and both of a group by different
    /// ones when `spread`.
    pub async fn until_led(&self, spread: bool) -> v1::StatusResponse {
        let are_there = |status: &v1::StatusResponse| {
            status.groups.iter().all(|group| {
                let leaders: Vec<Option<usize>> = group
                    .seats
                    .iter()
                    .map(|seat| number_of(status, seat.leader))
                    .collect();
                let is_led = group.seats.iter().all(|seat| seat.state == "leading");
                let are_up = leaders.iter().all(|n| n.is_some_and(|n| self.nodes[n].is_some()));
                is_led && are_up && (!spread || leaders[0] != leaders[1])
            })
        };
        self.until("a leader for every seat", are_there).await
    }

    /// Waits until every member has all that its leaders have; nobody may write meanwhile.
    pub async fn until_followed(&self) -> v1::StatusResponse {
        let have_all = |status: &v1::StatusResponse| {
            status.groups.iter().all(|group| {
                group.seats.iter().all(|seat| {
                    let has_all = |member: &v1::MemberProgress| member.matched_index >= seat.last_index;
                    seat.progress.len() + 1 == group.members.len() && seat.progress.iter().all(has_all)
                })
            })
        };
        self.until("members that have all", have_all).await
    }

    /// Which node leads a seat.
    pub async fn leader(&self, group: usize, seat: usize) -> usize {
        let status = self.until_led(false).await;
        number_of(&status, status.groups[group].seats[seat].leader).expect("it is led")
    }

    /// Which node is the controller, as etcd has it.
    pub async fn controller(&self) -> usize {
        let mut kv = self.etcd.client().await.kv_client();
        let looking = async {
            loop {
                let all = GetOptions::new().with_prefix();
                let found = kv.get("/rdb/rdb/controller", Some(all)).await.unwrap();
                let record = found.kvs().first().map(|kv| serde_json::from_slice(kv.value()));
                let record: Option<serde_json::Value> = record.transpose().expect("values are JSON");
                if let Some(id) = record.and_then(|record| record["node"].as_u64()) {
                    return id;
                }
                pause().await;
            }
        };
        let id = soon("a controller", looking).await;
        number_of(&self.status().await, id).expect("it is one of the nodes")
    }

    /// Which node leads a seat of group 0, as node `n` knows it; `None` when nobody does.
    pub async fn leader_as_known_to(&self, n: usize, seat: usize) -> Option<usize> {
        let status = self.api(n).await.status().await.unwrap();
        number_of(&status, status.groups[0].seats[seat].leader)
    }

    /// Every event that there is now, as a node shows them: it may have to learn of some first.
    pub async fn events(&self, n: usize) -> Vec<Event> {
        let upto = self.status().await.counter;
        self.api(n).await.events_up_to(upto).await.unwrap()
    }

    /// Starts five writers, whose choices follow from the seed, through every node.
    pub fn load(&self, seed: u64) -> Load {
        let crew = crew(5, &mut Random::of_run(seed), &Arc::new(Ticks::default()));
        Load::start_everywhere(crew, &self.addresses())
    }

    /// Ends a load of more than so many acknowledged events, and judges the whole run against the stream, which is the
    /// same through each of these nodes. Returns it.
    pub async fn judged(&self, load: Load, more_than: usize, nodes: &[usize]) -> Vec<Event> {
        let record = record_of(load.stop().await);
        self.until_led(false).await;
        let all = self.events(nodes[0]).await;
        judge(&record, &all).unwrap();
        for n in &nodes[1..] {
            assert_eq!(self.events(*n).await, all, "node {n} shows the same stream");
        }
        let (acknowledged, stored) = (record.acknowledged(), all.len());
        say(&format!("{acknowledged} events acknowledged, {stored} stored"));
        assert!(acknowledged > more_than, "the load was real");
        all
    }

    /// Stops every node cleanly.
    pub async fn stop_all(&mut self) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].is_some() {
                self.take(n).stop().await;
            }
        }
    }
}

/// A key that belongs to a seat.
pub fn key_of(status: &v1::StatusResponse, group: u32, seat: u32) -> String {
    let is_of = |key: &String| {
        let name = KeyName::new("default", key).expect("it is short");
        let slot = u32::from(name.slot().0);
        let mut ranges = status.slots.iter();
        ranges.any(|range| {
            (range.first..=range.last).contains(&slot) && (range.group, range.seat) == (group, seat)
        })
    };
    let mut keys = (0..).map(|n| format!("probe{n}"));
    keys.find(is_of).expect("keys spread over all slots")
}

/// Number of a node by its id, from its name.
fn number_of(status: &v1::StatusResponse, id: u64) -> Option<usize> {
    let node = status.nodes.iter().find(|node| node.id == id)?;
    let number: usize = node.name.strip_prefix('n')?.parse().ok()?;
    Some(number - 1)
}
