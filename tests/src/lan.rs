//! Machines that can be cut off from each other: network namespaces, joined by a bridge, with dropped packets between
//! them where a case says so.
//!
//! ```text
//! the case itself, etcd ── bridge 10.77.0.254 ── 10.77.0.1 node n1
//!        (one namespace)                      ├─ 10.77.0.2 node n2
//!                                             └─ …  (a namespace each)
//! ```
//! Sockets belong to the namespace of the thread that makes them, and a runtime has many threads. So a case runs itself
//! again, as a process that was born in the namespace of the bridge. Nothing of it touches the machine's own network.

use crate::process::signal_to;
use crate::say;
use rustix::process::Signal;
use std::env;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Set for the process that runs in the namespaces: their common name.
const INSIDE: &str = "RDB_TEST_LAN";

/// Exit code of a program that was asked to end.
const INTERRUPTED: i32 = 130;

/// Where the case itself and etcd are.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// Cases of this process so far: each gets names of its own.
static CASES: AtomicUsize = AtomicUsize::new(0);

/// The namespaces of one case.
#[derive(Debug, Clone)]
pub struct Lan {
    prefix: String,
}

impl Lan {
    /// Returns the network to the process that is in it. To everybody else `None`, after the case `name` has run in a
    /// process of its own with so many machines, or after it was said why it cannot on this machine.
    ///
    /// # Panics
    /// When the case has failed there.
    pub fn enter(name: &str, machines: usize) -> Option<Self> {
        if let Some(lan) = Self::inside() {
            return Some(lan);
        }
        match Self::run(machines, &["--exact", name, "--nocapture"]) {
            Ok(status) => assert!(status.success(), "{name} failed in its namespaces"),
            Err(why) => say(&format!("skipped: no network namespaces here: {why}")),
        }
        None
    }

    /// The network that this process is in.
    pub fn inside() -> Option<Self> {
        let prefix = env::var_os(INSIDE)?.to_string_lossy().into_owned();
        Some(Self { prefix })
    }

    /// Runs this program again in namespaces of its own, with these arguments.
    ///
    /// # Errors
    /// Why that cannot be done on this machine.
    pub fn run(machines: usize, arguments: &[&str]) -> Result<ExitStatus, String> {
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            prefix: format!("rdb-{}-{case}", std::process::id()),
        };
        let guard = Guard(&lan, machines);
        lan.make(machines)?;
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &lan.hub()])
            .arg(program)
            .args(arguments)
            .env(INSIDE, &lan.prefix);
        let (status, asked_to_end) = to_its_end(command).map_err(|error| error.to_string())?;
        drop(guard);
        if asked_to_end {
            #[expect(
                clippy::disallowed_methods,
                reason = "a signal to end this program was held back until here"
            )]
            std::process::exit(INTERRUPTED);
        }
        Ok(status)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// Name of the namespace of a machine, by its number from 0.
    pub fn machine(&self, n: usize) -> String {
        format!("{}-{}", self.prefix, n + 1)
    }

    /// Address of a machine.
    pub fn address(n: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(n + 1).expect("there are few machines"))
    }

    fn make(&self, machines: usize) -> Result<(), String> {
        let hub = self.hub();
        run(&["ip", "netns", "add", &hub])?;
        run(&["ip", "-n", &hub, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "addr", "add", "10.77.0.254/24", "dev", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "bridge", "up"])?;
        for n in 0..machines {
            let (machine, port) = (self.machine(n), format!("port{n}"));
            run(&["ip", "netns", "add", &machine])?;
            let pair = [
                "ip", "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "lan",
            ];
            run(&[&pair[..], &["netns", &machine]].concat())?;
            run(&["ip", "-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            let address = format!("{}/24", Self::address(n));
            run(&["ip", "-n", &machine, "addr", "add", &address, "dev", "lan"])?;
            run(&["ip", "-n", &machine, "link", "set", "lan", "up"])?;
            run(&["ip", "-n", &machine, "link", "set", "lo", "up"])?;
        }
        // Whether packets can be dropped, all or some.
        let iptables = ["ip", "netns", "exec", &hub, "iptables"];
        run(&[&iptables[..], &["-A", "INPUT"], &some("0.01"), &["-j", "DROP"]].concat())?;
        run(&[&iptables[..], &["-F"]].concat())
    }

    /// From now on `to` gets nothing that `from` sends.
    pub fn cut(&self, from: Ipv4Addr, to: usize) {
        let rule = ["INPUT", "-s", &from.to_string(), "-j", "DROP"].map(str::to_owned);
        self.rule(to, "-A", &rule);
    }

    /// Of all that is sent to a machine, so much is lost, whatever comes.
    pub fn lose(&self, to: usize, percent: u64) {
        let chance = format!("0.{percent:02}");
        let rule = [&["INPUT"], &some(&chance)[..], &["-j", "DROP"]].concat();
        self.rule(to, "-A", &rule.into_iter().map(str::to_owned).collect::<Vec<_>>());
    }

    /// Cuts a machine off from another, both ways.
    pub fn part(&self, a: usize, b: usize) {
        self.cut(Self::address(a), b);
        self.cut(Self::address(b), a);
    }

    /// Cuts a machine off from ports of the hub, both ways.
    pub fn cut_ports(&self, n: usize, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            let port = port.to_string();
            for (chain, direction) in [("OUTPUT", "--dport"), ("INPUT", "--sport")] {
                let rule = [chain, "-p", "tcp", direction, &port, "-j", "DROP"].map(str::to_owned);
                self.rule(n, "-A", &rule);
            }
        }
    }

    /// Takes every cut at a machine back.
    pub fn heal(&self, n: usize) {
        self.iptables(n, &["-F".to_owned()]);
    }

    fn rule(&self, n: usize, command: &str, rule: &[String]) {
        let arguments = [&[command.to_owned()], rule].concat();
        self.iptables(n, &arguments);
    }

    fn iptables(&self, n: usize, arguments: &[String]) {
        let machine = self.machine(n);
        let mut all = vec!["ip", "netns", "exec", &machine, "iptables", "-w"];
        all.extend(arguments.iter().map(String::as_str));
        run(&all).expect("rules can be changed, as they could before");
    }
}

/// The part of a rule that makes it hold for some packets only.
const fn some(chance: &str) -> [&str; 6] {
    ["-m", "statistic", "--mode", "random", "--probability", chance]
}

/// Runs a command. A signal to end this process ends the command instead, so that this one can take its namespaces away;
/// whether there was one.
fn to_its_end(mut command: tokio::process::Command) -> io::Result<(ExitStatus, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut ended = signal(SignalKind::terminate())?;
        let mut child = command.spawn()?;
        let mut asked_to_end = false;
        loop {
            tokio::select! {
                status = child.wait() => return Ok((status?, asked_to_end)),
                _ = interrupted.recv() => {}
                _ = ended.recv() => {}
            }
            asked_to_end = true;
            if let Some(id) = child.id() {
                signal_to(id, Signal::TERM);
            }
        }
    })
}

fn run(command: &[&str]) -> Result<(), String> {
    let [program, arguments @ ..] = command else {
        return Ok(());
    };
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("`{}` says: {why}", command.join(" ")))
}

/// Takes the namespaces away, whatever happened. What runs in them belongs to the case, which has ended.
struct Guard<'a>(&'a Lan, usize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let machines = (0..self.1).map(|n| self.0.machine(n));
        for name in machines.chain([self.0.hub()]) {
            // One that was not made cannot be taken away.
            drop(run(&["ip", "netns", "del", &name]));
        }
    }
}
