//! Real `rdb-server` processes.
//!
//! A [`Node`] is ready when it says so on its log (`ready grpc=… http=…`); nothing polls. It is killed by its
//! process id when dropped, so a failing case leaves nothing running.

use crate::time::{PATIENCE, Stopwatch, maybe, soon};
use crate::wire::Api;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Path of a binary of this workspace, as built into the profile directory that the running test or tool stands in,
/// or into `RDB_BIN_DIR` when that is set.
///
/// # Panics
/// When it is not there.
pub fn binary(name: &str) -> PathBuf {
    let profile_dir = || {
        let own = std::env::current_exe().expect("a program knows its own path");
        let dirs = own.ancestors().skip(1);
        let is_profile = |dir: &&Path| !dir.ends_with("deps");
        let mut profiles = dirs.filter(is_profile);
        profiles
            .next()
            .expect("a test stands in <profile>/deps")
            .to_owned()
    };
    let dir = std::env::var_os("RDB_BIN_DIR").map_or_else(profile_dir, PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is missing: run scripts/test, or `cargo build --workspace --bins` before `cargo test`",
        path.display()
    );
    path
}

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Settings {
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    working_directory: Option<PathBuf>,
    namespace: Option<String>,
    log_file: Option<PathBuf>,
}

impl Settings {
    /// A standalone node on free ports with its data in `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_string_lossy();
        let environment = [
            ("NODE", "n1"),
            ("ADDRESS", "127.0.0.1"),
            ("PORT", "0"),
            ("HTTP_PORT", "0"),
            ("DATA_DIR", &data_dir),
            ("TRACE_LEVEL", "info"),
            ("RUST_BACKTRACE", "1"),
        ];
        let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            environment: owned.into(),
            arguments: Vec::new(),
            working_directory: None,
            namespace: None,
            log_file: None,
        }
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Removes a variable of the environment, so that its default holds.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets the working directory of the process.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        self.working_directory = Some(directory.to_owned());
        self
    }

    /// Sets the network namespace of the process.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Also writes what the process says to the end of this file.
    #[must_use]
    pub fn logging_to(mut self, file: &Path) -> Self {
        self.log_file = Some(file.to_owned());
        self
    }

    /// Starts the process and does not wait for anything.
    ///
    /// The environment of the test itself is not handed on, but for what names a mutation or collects coverage.
    pub fn spawn(&self) -> Starting {
        let mut command = match &self.namespace {
            // It becomes what it runs: the process id stays the same.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", namespace])
                    .arg(binary("rdb-server"));
                command
            }
            None => Command::new(binary("rdb-server")),
        };
        command.env_clear();
        for name in ["PATH", "TMPDIR", "RDB_SABOTAGE", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
            .envs(&self.environment)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(directory) = &self.working_directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().expect("rdb-server can be started");
        let log = Log::of(&mut child, self.log_file.as_deref());
        Starting { child, log }
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// [`Ended`] when it ended instead.
    pub async fn try_start(&self) -> Result<Node, Ended> {
        self.spawn().ready().await
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Panics
    /// When it ended instead, with its log.
    pub async fn start(&self) -> Node {
        self.try_start()
            .await
            .unwrap_or_else(|ended| panic!("rdb-server did not start: {ended:?}"))
    }

    /// Starts the process, which must end by itself.
    pub async fn must_not_start(&self) -> Ended {
        match self.try_start().await {
            Ok(node) => panic!("rdb-server started, with this log:\n{}", node.log.text()),
            Err(ended) => ended,
        }
    }
}

/// A process that has said nothing yet.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    log: Log,
}

impl Starting {
    /// Waits until the node is ready.
    ///
    /// # Errors
    /// [`Ended`] when it ended instead.
    pub async fn ready(mut self) -> Result<Node, Ended> {
        let ready = maybe(PATIENCE, self.log.line(|line| ready_line(line).is_some()));
        let Some(ready) = ready.await else {
            panic!(
                "waited {PATIENCE:?} for the ready line of this node:\n{}",
                self.log.text()
            );
        };
        if let Some(line) = ready {
            let (grpc, http) = ready_line(&line).expect("it was matched");
            let Self { child, log } = self;
            return Ok(Node {
                child,
                log,
                grpc,
                http,
            });
        }
        let status = soon("the end of the process", self.child.wait()).await;
        Err(Ended::new(status.unwrap(), Duration::ZERO, &self.log))
    }

    /// Waits for the first line of the log, whatever it says.
    pub async fn first_line(&mut self) {
        soon("a first line of the log", self.log.line(|_| true)).await;
    }

    /// Waits for a line of the log that contains `part`.
    pub async fn logged(&self, part: &str) -> String {
        let what = format!("a line of the log with {part:?}");
        let line = soon(&what, self.log.line(|line| line.contains(part))).await;
        line.unwrap_or_else(|| panic!("the node ended before {what}:\n{}", self.log.text()))
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A node that is ready.
#[derive(Debug)]
pub struct Node {
    child: Child,
    log: Log,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where health, readiness and metrics are served.
    pub http: SocketAddr,
}

impl Node {
    /// Starts a node with the usual settings.
    pub async fn start(data_dir: &Path) -> Self {
        Settings::new(data_dir).start().await
    }

    /// A new connection to it.
    pub async fn api(&self) -> Api {
        Api::connect(self.grpc).await
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a line of the log that contains `part`.
    pub async fn logged(&self, part: &str) -> String {
        let what = format!("a line of the log with {part:?}");
        let line = soon(&what, self.log.line(|line| line.contains(part))).await;
        line.unwrap_or_else(|| panic!("the node ended before {what}:\n{}", self.log.text()))
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child.id().expect("it is still running")
    }

    /// Kills it with SIGKILL, as a crash of the process would.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits so long for its end; kills it with SIGKILL when there is none.
    pub async fn ends_within(mut self, limit: Duration) -> Option<Ended> {
        let watch = Stopwatch::start();
        let Some(status) = maybe(limit, self.child.wait()).await else {
            self.kill().await;
            return None;
        };
        self.log.closed().await;
        Some(Ended::new(status.unwrap(), watch.elapsed(), &self.log))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.process_id(), signal);
    }

    /// Sends SIGTERM and waits for its end.
    pub async fn terminate(self) -> Ended {
        let watch = Stopwatch::start();
        self.signal(Signal::TERM);
        self.ended(watch).await
    }

    /// Sends SIGTERM, waits for its end, and demands that it was a clean one.
    pub async fn stop(self) {
        let ended = self.terminate().await;
        assert_eq!(ended.code(), Some(0), "a clean stop, but: {ended:?}");
    }

    async fn ended(mut self, watch: Stopwatch) -> Ended {
        let status = maybe(PATIENCE, self.child.wait()).await;
        let Some(status) = status else {
            panic!("the node does not end; its log:\n{}", self.log.text());
        };
        self.log.closed().await;
        Ended::new(status.unwrap(), watch.elapsed(), &self.log)
    }

    /// Sends a GET to its HTTP port; status code and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        soon("an HTTP answer", get(self.http, path)).await
    }
}

/// Sends a process a signal. One that is stopped stands still when this returns: on a busy machine its threads run on for a
/// moment.
pub fn signal_to(process: u32, signal: Signal) {
    let id = i32::try_from(process).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    while signal == Signal::STOP && !stands_still(process) {
        std::thread::yield_now();
    }
}

/// Whether every thread of a process is stopped, or gone.
fn stands_still(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which may hold anything.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        state.is_none_or(|state| "TtZX".contains(state))
    })
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).await.expect("an HTTP answer")
}

/// Sends a GET; status code and body, or `None` when nobody answers.
pub async fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?;
    Some((code.parse().ok()?, body.to_owned()))
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Time from the request to stop.
    pub took: Duration,
    /// All that it said.
    pub log: String,
}

impl Ended {
    fn new(status: ExitStatus, took: Duration, log: &Log) -> Self {
        let log = log.text();
        Self { status, took, log }
    }

    /// Its exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// What a process says on standard output and standard error, line by line.
#[derive(Debug)]
struct Log {
    lines: watch::Receiver<Lines>,
    /// Owns the readers: they end with the pipes, or with this.
    _readers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    open_pipes: u8,
}

impl Log {
    fn of(child: &mut Child, file: Option<&Path>) -> Self {
        let open = |path| File::options().create(true).append(true).open(path).unwrap();
        let (sender, lines) = watch::channel(Lines {
            all: Vec::new(),
            open_pipes: 2,
        });
        let mut readers = JoinSet::new();
        let stdout = child.stdout.take().unwrap();
        readers.spawn(read(stdout, sender.clone(), file.map(open)));
        readers.spawn(read(child.stderr.take().unwrap(), sender, file.map(open)));
        Self {
            lines,
            _readers: readers,
        }
    }

    fn text(&self) -> String {
        self.lines.borrow().all.join("\n")
    }

    /// First line that is wanted; `None` when the process ended without one.
    async fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut lines = self.lines.clone();
        let find = |lines: &Lines| lines.all.iter().find(|line| wanted(line)).cloned();
        let seen = lines.wait_for(|lines| find(lines).is_some() || lines.open_pipes == 0);
        find(&*seen.await.ok()?)
    }

    async fn closed(&self) {
        let mut lines = self.lines.clone();
        // An error says that both readers are gone, which is what is waited for.
        drop(
            soon(
                "the end of the log",
                lines.wait_for(|lines| lines.open_pipes == 0),
            )
            .await,
        );
    }
}

async fn read(pipe: impl AsyncRead + Unpin, sender: watch::Sender<Lines>, mut file: Option<File>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(file) = &mut file {
            writeln!(file, "{line}").unwrap();
        }
        sender.send_modify(|lines| lines.all.push(line));
    }
    sender.send_modify(|lines| lines.open_pipes = lines.open_pipes.saturating_sub(1));
}

/// Addresses in a line such as `… ready grpc=127.0.0.1:2048 http=127.0.0.1:2049 …`.
fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "ready")?;
    let mut address = |name: &str| {
        let text = words.find_map(|word| word.strip_prefix(name))?;
        let mut address: SocketAddr = text.parse().ok()?;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Some(address)
    };
    Some((address("grpc=")?, address("http=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_names_both_addresses() {
        let line = "2026-11-20T21:30:00Z  INFO ready grpc=0.0.0.0:34567 http=127.0.0.1:34568   try: rdb-client status";
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(ready_line(line), Some((local(34_567), local(34_568))));
        assert_eq!(ready_line("INFO not yet grpc=127.0.0.1:1 http=127.0.0.1:2"), None);
        assert_eq!(ready_line("ready"), None);
    }
}
