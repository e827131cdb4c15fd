//! A real etcd, on loopback, with its data in a folder of the test's own. Killed by its process id when dropped.

use crate::authority::Authority;
use crate::files::scratch;
use crate::process::signal_to;
use crate::time::soon;
use etcd_client::Client;
use rdb_server::coordination::etcd::EtcdSettings;
use rustix::process::Signal;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A port of loopback that nobody listens on now, and that this process has not named before. Those that the system
/// gives out by itself are left to it: a connection could take one before whoever is to listen there has started.
pub fn free_port() -> u16 {
    static NAMED: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(7_919);
    loop {
        let turn = begin.wrapping_add(NAMED.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(turn % 20_000).expect("it is below");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Settings of a node `name` that joins, in this process, the etcd that listens there: one group of one member, a short
/// lease.
pub fn settings_at(endpoint: String, name: &str) -> EtcdSettings {
    EtcdSettings {
        endpoints: vec![endpoint],
        user: None,
        password: None,
        tls: None,
        database: "test".to_owned(),
        counter_key: "/rdb/test/counter".to_owned(),
        shard_groups: 1,
        group_size: 1,
        writes: 1,
        lease_ttl: Duration::from_secs(3),
        refresh_interval: Duration::from_millis(500),
        replace_after: None,
        heartbeat_interval: Duration::from_millis(100),
        look_every: Duration::from_mins(3),
        node_name: name.to_owned(),
        address: format!("{name}.test:1"),
        release: "0.0.0".to_owned(),
    }
}

/// One etcd, of one member or of several.
#[derive(Debug)]
pub struct Etcd {
    data: TempDir,
    host: Ipv4Addr,
    members: Vec<Member>,
    /// `http`, or `https`.
    scheme: &'static str,
    flags: Vec<OsString>,
}

/// One member of it: its ports, and its process when it runs.
#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    /// Where it is asked, without TLS, whether it is well.
    health: u16,
    child: Option<Child>,
}

impl Member {
    fn new() -> Self {
        Self {
            client: free_port(),
            peer: free_port(),
            health: free_port(),
            child: None,
        }
    }
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, None).await
    }

    /// Starts one at this address, with its data below a directory of the caller's, if there is one.
    pub async fn start_at(host: Ipv4Addr, within: Option<&Path>) -> Self {
        let mut etcd = Self::stopped(host, within, 1);
        etcd.run().await;
        etcd
    }

    /// Starts one that speaks TLS, with a certificate of this authority, and asks clients for one of it.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        let signed = authority.sign("etcd").await;
        let files = [
            ("--cert-file", signed.certificate),
            ("--key-file", signed.key),
            ("--trusted-ca-file", authority.certificate()),
        ];
        let mut etcd = Self::stopped(Ipv4Addr::LOCALHOST, None, 1);
        etcd.scheme = "https";
        etcd.flags = files
            .into_iter()
            .flat_map(|(flag, file)| [flag.into(), file.into()])
            .collect();
        etcd.flags.push("--client-cert-auth".into());
        etcd.run().await;
        etcd
    }

    /// Starts one that may have so many bytes; `None` as [`Etcd::start_or_skip`].
    pub async fn start_small_or_skip(bytes: u64) -> Option<Self> {
        let mut etcd = Self::start_or_skip().await?;
        etcd.stop().await;
        etcd.flags = vec!["--quota-backend-bytes".into(), bytes.to_string().into()];
        etcd.run().await;
        Some(etcd)
    }

    /// One of so many members that does not run yet.
    pub fn stopped(host: Ipv4Addr, within: Option<&Path>, members: usize) -> Self {
        Self {
            data: scratch(within),
            host,
            members: (0..members).map(|_| Member::new()).collect(),
            scheme: "http",
            flags: Vec::new(),
        }
    }

    /// Starts one, but for those who set `RDB_TEST_NO_ETCD` since they have none: they are told that the case is
    /// skipped.
    pub async fn start_or_skip() -> Option<Self> {
        if std::env::var_os("RDB_TEST_NO_ETCD").is_some() {
            crate::say("skipped: RDB_TEST_NO_ETCD is set");
            return None;
        }
        Some(Self::start().await)
    }

    /// Settings of a node `name` that joins in this process: see [`settings_at`].
    pub fn settings(&self, name: &str) -> EtcdSettings {
        settings_at(self.endpoint(), name)
    }

    /// host:port of its only member, as `ETCD` takes it.
    pub fn endpoint(&self) -> String {
        assert_eq!(self.members(), 1, "it has several");
        self.endpoints().join(",")
    }

    /// host:port of every member.
    pub fn endpoints(&self) -> Vec<String> {
        self.ports().map(|port| format!("{}:{port}", self.host)).collect()
    }

    /// Ports that clients use.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.members.iter().map(|member| member.client)
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    fn data_dir(&self) -> PathBuf {
        self.data.path().join("etcd")
    }

    /// Starts every member that does not run, and waits until all of them answer.
    pub async fn run(&mut self) {
        for n in 0..self.members.len() {
            if self.members[n].child.is_none() {
                self.members[n].child = Some(self.spawn(n));
            }
        }
        for member in &self.members {
            soon("an etcd that answers", self.answers(member)).await;
        }
    }

    fn spawn(&self, n: usize) -> Child {
        let client_url = format!("{}://{}:{}", self.scheme, self.host, self.members[n].client);
        let peer_url = |member: &Member| format!("http://{}:{}", self.host, member.peer);
        let all = self.members.iter().enumerate();
        let all: Vec<String> = all
            .map(|(n, member)| format!("e{}={}", n + 1, peer_url(member)))
            .collect();
        let peer_url = peer_url(&self.members[n]);
        Command::new("etcd")
            .args(["--name", &format!("e{}", n + 1), "--data-dir"])
            .arg(self.data_dir().join(format!("e{}", n + 1)))
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args([
                "--listen-metrics-urls",
                &format!("http://{}:{}", self.host, self.members[n].health),
            ])
            .args(&self.flags)
            .args(["--initial-cluster", &all.join(",")])
            // The machine may be busy: a slow heartbeat is not what these cases are about.
            .args([
                "--log-level",
                "error",
                "--heartbeat-interval",
                "200",
                "--election-timeout",
                "2000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("etcd is installed (Debian: etcd-server); scripts/test does it")
    }

    /// Starts its only member again at an endpoint that nobody else knows, and returns a client of it: what is changed
    /// there is changed behind everybody's back. [`Etcd::stop`] it before the next [`Etcd::run`].
    pub async fn run_elsewhere(&mut self) -> Client {
        assert_eq!(self.members(), 1, "it has several");
        let known = std::mem::replace(&mut self.members[0].client, free_port());
        self.run().await;
        let client = self.client().await;
        self.members[0].client = known;
        client
    }

    async fn answers(&self, member: &Member) {
        loop {
            let address = SocketAddr::from((self.host, member.health));
            let health = crate::process::try_get(address, "/health").await;
            if health.is_some_and(|(code, body)| code == 200 && body.contains("true")) {
                return;
            }
            crate::time::pause().await;
        }
    }

    /// How many calls of a method of its key-value service its only member has answered.
    pub async fn calls(&self, method: &str) -> u64 {
        assert_eq!(self.members(), 1, "it has several");
        let address = SocketAddr::from((self.host, self.members[0].health));
        let metrics = crate::process::try_get(address, "/metrics").await;
        let (_, text) = metrics.expect("etcd tells its metrics");
        let is_of = |line: &&str| {
            line.starts_with("grpc_server_handled_total")
                && line.contains("\"etcdserverpb.KV\"")
                && line.contains(&format!("grpc_method=\"{method}\""))
        };
        let count = |line: &str| {
            line.rsplit(' ')
                .next()
                .and_then(|count| count.parse::<f64>().ok())
        };
        let sum: f64 = text.lines().filter(is_of).filter_map(count).sum();
        format!("{sum}").parse().expect("a count is whole")
    }

    /// Kills every member; its data stays.
    pub async fn stop(&mut self) {
        for n in 0..self.members.len() {
            self.stop_member(n).await;
        }
    }

    /// Kills one member, if it runs; [`Etcd::run`] starts it again.
    pub async fn stop_member(&mut self, n: usize) {
        if let Some(mut child) = self.members[n].child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Sends every member a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        for n in 0..self.members.len() {
            self.signal_member(n, signal);
        }
    }

    /// Sends one member a signal.
    pub fn signal_member(&self, n: usize, signal: Signal) {
        let child = self.members[n].child.as_ref();
        signal_to(child.and_then(Child::id).expect("etcd runs"), signal);
    }

    /// Stops it, copies its data, and starts it again.
    pub async fn back_up(&mut self) -> TempDir {
        self.stop().await;
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&self.data_dir(), copy.path());
        self.run().await;
        copy
    }

    /// Stops it, puts a copy in the place of its data, and starts it again.
    pub async fn put_back(&mut self, copy: &TempDir) {
        self.stop().await;
        self.restore(copy);
        self.run().await;
    }

    /// Puts a copy in the place of the data. Call while it is stopped.
    pub fn restore(&self, backup: &TempDir) {
        std::fs::remove_dir_all(self.data_dir()).unwrap();
        std::fs::create_dir(self.data_dir()).unwrap();
        copy_tree(backup.path(), &self.data_dir());
    }

    /// Removes all data. Call while it is stopped.
    pub fn empty(&self) {
        std::fs::remove_dir_all(self.data_dir()).unwrap();
    }

    /// A client that is nobody's node, without TLS.
    pub async fn client(&self) -> Client {
        soon("a client of etcd", Client::connect(self.endpoints(), None))
            .await
            .unwrap()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
