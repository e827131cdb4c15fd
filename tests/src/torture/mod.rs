//! Whole clusters of real processes under one fault after the other: which comes next, and whom it strikes, is drawn
//! from a seed. Clients write and read all the time, each node is followed, and the checkers judge after every round.
//!
//! | fault | what happens |
//! |---|---|
//! | [`kill`] | SIGKILL: one node, both leaders, a majority, all, all again while they start |
//! | [`power`] | all nodes lose what they had not synced, at one moment; etcd does not |
//! | [`mod@pause`] | SIGSTOP of one leader or both, for up to three times their lease |
//! | [`cut`] | packets are dropped, all or some: between members, one way or both, or to etcd |
//! | [`etcd`] | etcd is killed, loses members, has one that stands still, or goes back to an older copy of its data |
//! | [`mod@disk`] | a write or sync of one node fails, while it runs or starts |
//! | [`clock`] | clocks jump by up to a day, and back |
//!
//! A new cluster is begun every so many rounds, so that disks and records stay small; the seed draws whether its etcd has
//! one member or three. What a machine cannot do is not run, and says why: it never counts as passed.

pub mod arena;
pub mod clock;
pub mod cut;
pub mod disk;
pub mod etcd;
pub mod kill;
pub mod pause;
pub mod power;
pub mod report;
pub mod tally;

use crate::cluster::Site;
use crate::disk as machine_disk;
use crate::lan::Lan;
use crate::random::Random;
use crate::say;
use crate::shim::Library;
use crate::time::{Stopwatch, pause};
use arena::Arena;
use report::Report;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Processes die.
    Kill,
    /// Machines lose their power.
    Power,
    /// Processes stand still.
    Pause,
    /// Machines do not hear each other.
    Cut,
    /// Etcd dies, loses members, or goes back.
    Etcd,
    /// A write or sync fails.
    Disk,
    /// Clocks jump.
    Clock,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Kill,
        Self::Power,
        Self::Pause,
        Self::Cut,
        Self::Etcd,
        Self::Disk,
        Self::Clock,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Power => "power",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Etcd => "etcd",
            Self::Disk => "disk",
            Self::Clock => "clock",
        }
    }

    /// What it is, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL of one node, both leaders, a majority, all, or all again while they start",
            Self::Power => {
                "power loss of all nodes at once, with all that they had not synced; etcd keeps its own"
            }
            Self::Pause => "SIGSTOP of one leader or both, for up to three times the lease",
            Self::Cut => "packets dropped between members, one way or both, or to etcd, all of them or some",
            Self::Etcd => "etcd, or members of it, killed or standing still, or put back to an older copy",
            Self::Disk => "one write or sync of one node fails, at any of 200 calls, while it runs or starts",
            Self::Clock => "the clocks of one leader, both or all jump by up to a day, and back",
        }
    }

    /// Does it, and mends it. Returns what was done, and to whom.
    async fn strike(self, arena: &mut Arena) -> String {
        match self {
            Self::Kill => Box::pin(kill::strike(arena)).await,
            Self::Power => Box::pin(power::strike(arena)).await,
            Self::Pause => Box::pin(pause::strike(arena)).await,
            Self::Cut => Box::pin(cut::strike(arena)).await,
            Self::Etcd => Box::pin(etcd::strike(arena)).await,
            Self::Disk => Box::pin(disk::strike(arena)).await,
            Self::Clock => Box::pin(clock::strike(arena)).await,
        }
    }
}

/// Lease of the nodes, short so that many are lost.
const LEASE: Duration = Duration::from_secs(2);

/// A cluster is given up for a new one after so many rounds …
const ROUNDS_MAX: u64 = 10;

/// … or so many events: everything that happened is kept in memory, and judged after every round.
const EVENTS_MAX: usize = 30_000;

/// Where the data and logs of the cluster are that is under way, or was when a promise was broken.
const CLUSTER: &str = "cluster";

/// The logs of the nodes of that cluster.
///
/// # Errors
/// When they cannot be listed.
pub fn node_logs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.join(CLUSTER))? {
        let path = entry?.path();
        let logs = (1..).map(|n| path.join(format!("n{n}.log")));
        found.extend(logs.take_while(|log| log.exists()));
    }
    Ok(found)
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything that is drawn is drawn from it.
    pub seed: u64,
    /// How many faults.
    pub rounds: u64,
    /// No round begins later than that.
    pub duration: Option<Duration>,
    /// How many nodes; 3 or more.
    pub nodes: usize,
    /// What may be drawn.
    pub faults: Vec<Fault>,
}

impl Options {
    /// The nodes' settings besides the usual ones. More nodes than three are of two groups, so that none has all data.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let groups = if self.nodes > 3 { "2" } else { "1" };
        vec![
            ("LEASE_TTL", LEASE.as_secs().to_string()),
            ("REFRESH_INTERVAL", "1".to_owned()),
            ("SEGMENT_BYTES", (32_u32 << 20).to_string()),
            ("SHARD_GROUPS", groups.to_owned()),
        ]
    }
}

/// Runs it, with all data and logs below a directory; what came of it stands in the report, also when it ends by a panic.
/// Stops at the first violation. `lan` is the network that this process is in, or why it is in none.
pub async fn run(options: &Options, lan: Result<Lan, String>, directory: &Path, report: &mut Report) {
    let able = faults_of_this_machine(options, &lan, directory, report).await;
    let site = Site {
        lan: lan.ok(),
        directory: Some(directory.join(CLUSTER)),
        has_disks: able.contains(&Fault::Power),
        has_shims: able.contains(&Fault::Disk) || able.contains(&Fault::Clock),
        ..Site::default()
    };
    let mut random = Random::new(options.seed);
    let watch = Stopwatch::start();
    let is_over = |rounds| {
        let is_late = options.duration.is_some_and(|limit| watch.elapsed() >= limit);
        rounds >= options.rounds || is_late
    };
    while !able.is_empty() && !is_over(report.rounds) {
        fs::create_dir(directory.join(CLUSTER)).unwrap();
        let site = Site {
            has_three_etcds: random.one_in(2),
            ..site.clone()
        };
        let members = if site.has_three_etcds {
            "three members"
        } else {
            "one member"
        };
        say(&format!("a new cluster, its etcd of {members}"));
        let mut arena = Arena::open(options, &site, random.fork()).await;
        let mut rounds = 0;
        while !is_over(report.rounds) && rounds < ROUNDS_MAX && arena.acknowledged() < EVENTS_MAX {
            rounds += 1;
            let fault = able[random.position(able.len())];
            if !round(fault, &mut arena, report).await {
                return;
            }
        }
        if !arena.close(report).await {
            return;
        }
        // What was found whole needs no room any more.
        fs::remove_dir_all(directory.join(CLUSTER)).unwrap();
    }
}

/// Lets a fault last.
async fn lasts(time: Duration) {
    let watch = Stopwatch::start();
    while watch.elapsed() < time {
        pause().await;
    }
}

/// One fault, and the judgement after it; whether all is well.
async fn round(fault: Fault, arena: &mut Arena, report: &mut Report) -> bool {
    let before = arena.acknowledged();
    report.begin(fault);
    let done = fault.strike(arena).await;
    let tally = arena.judge().await;
    let acknowledged = arena.acknowledged() - before;
    say(&format!(
        "round {}: {}: {done}; {acknowledged} events",
        report.rounds,
        fault.name()
    ));
    report.end(acknowledged, &tally);
    tally.is_clean()
}

/// Those of the wanted faults that this machine can do. The report says why not of the others.
async fn faults_of_this_machine(
    options: &Options,
    lan: &Result<Lan, String>,
    directory: &Path,
    report: &mut Report,
) -> Vec<Fault> {
    let mut able = Vec::new();
    for fault in &options.faults {
        let verdict = match fault {
            Fault::Kill | Fault::Pause | Fault::Etcd => Ok(()),
            Fault::Power => machine_disk::bites(directory).await,
            Fault::Disk | Fault::Clock => Library::new().map(drop).map_err(|error| error.to_string()),
            Fault::Cut => lan.as_ref().map(|_| ()).map_err(Clone::clone),
        };
        match verdict {
            Ok(()) => able.push(*fault),
            Err(why) => report.not_run(*fault, &why),
        }
    }
    able
}
