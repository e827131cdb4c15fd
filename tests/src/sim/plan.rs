//! What a run is made of, drawn from its seed: the shape of the cluster, its load, and which faults happen how often.
//!
//! Every run enables its own subset of the faults ("swarm"): a fault that is always on hides what only happens
//! without it. All rates are drawn whatever is enabled, so that taking one fault away leaves the others as they were.

use super::mistakes::Mistake;
use crate::random::Random;
use std::collections::BTreeSet;
use std::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in tables, and in `--faults`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

faults! {
    /// Messages between members are lost.
    Loss = "loss";
    /// Messages take up to a second.
    Delay = "delay";
    /// Messages overtake each other.
    Reorder = "reorder";
    /// Messages arrive twice.
    Duplicate = "duplicate";
    /// Some nodes cannot talk to the others.
    Partition = "partition";
    /// One direction between two nodes is cut.
    OneWay = "one-way";
    /// A node is cut off from the coordinator.
    CoordinatorCut = "coordinator-cut";
    /// A process dies; what was not synced is lost from some point on.
    Crash = "crash";
    /// All processes die at once.
    PowerLoss = "power-loss";
    /// A process dies at a named point of the protocol.
    CrashPoint = "crash-point";
    /// What is unsynced at a crash survives in part, also the middle of one write.
    TornTail = "torn-tail";
    /// A process stops for a while, and goes on.
    Pause = "pause";
    /// A disk takes long for every write.
    SlowDisk = "slow-disk";
    /// A disk does nothing for a while.
    StalledDisk = "stalled-disk";
    /// The key index falls behind.
    IndexLag = "index-lag";
    /// Clocks run at different speeds.
    ClockDrift = "clock-drift";
    /// Wall clocks jump.
    ClockStep = "clock-step";
    /// A member runs the election although it hears the leader: nothing about safety may depend on who stands when.
    Usurper = "usurper";
    /// The coordinator forgets the latest epoch numbers, and grants them again.
    EpochRollback = "epoch-rollback";
    /// A lease ends although its node is alive.
    LeaseLoss = "lease-loss";
    /// The coordinator is away.
    Outage = "outage";
    /// The coordinator does what it is asked, and the answer is lost.
    ReplyLost = "reply-lost";
    /// What a node learns of the coordinator's keys is late.
    WatchLate = "watch-late";
    /// A watch breaks, and lists anew.
    WatchBroken = "watch-broken";
    /// A node takes the place of another in a group.
    MembersChange = "members-change";
    /// A seat is handed over gracefully.
    HandOver = "hand-over";
    /// Requests and answers of clients are lost.
    ClientLoss = "client-loss";
    /// The window of event ids is short.
    ShortWindow = "short-window";
    /// Much happens to one seat within a second: winners follow each other within milliseconds, while its members are
    /// divided anew all the time.
    Storm = "storm";
    /// The coordinator brings back older members of a group, all of whose members know better.
    MembersRollback = "members-rollback";
    /// The coordinator is restored from an older backup of itself, as a whole. Nodes have their guard in runs with it,
    /// and in some with bit rot: the others show that the core keeps its promises without.
    CoordinatorRollback = "coordinator-rollback";
    /// A durable entry on a disk becomes unreadable. At most W - 1 members of a seat are damaged at a time, so that R
    /// intact ones remain.
    BitRot = "bit-rot";
    /// A disk is full for a while: what clients write there is refused before the core sees it, since room is claimed
    /// ahead. Everything else has its room, and goes on.
    FullDisk = "full-disk";
    /// A consumer of a named subscription stands still, also for longer than it keeps the name, and goes on; or it dies.
    ConsumerGone = "consumer-gone";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Microseconds of simulated time.
pub type Micros = u64;

/// One simulated second.
pub const SECOND: Micros = 1_000_000;

/// One simulated millisecond.
pub const MILLI: Micros = 1_000;

/// Deviations from what the seed says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these of the faults that the seed enables.
    pub only: Option<BTreeSet<Fault>>,
    /// Length of the part with faults.
    pub faults_for: Option<Micros>,
    /// Fewer clients.
    pub clients: Option<usize>,
    /// So many consumers of the named subscription.
    pub consumers: Option<usize>,
    /// What the simulator does wrong.
    pub mistake: Option<Mistake>,
}

impl Options {
    /// Takes `--faults a,b`, `--length MILLISECONDS`, `--clients N`, `--consumers N` and `--mistake NAME`; other words are
    /// not its own.
    ///
    /// # Errors
    /// When a fault or a mistake is unknown, or a number is none.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let value = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let number = |name: &str| {
            let text = value(name).map(|text| {
                text.parse::<u64>()
                    .map_err(|error| format!("{name} {text}: {error}"))
            });
            text.transpose()
        };
        let fault = |name: &str| {
            let known = Fault::ALL.iter().copied().find(|fault| fault.as_str() == name);
            known.ok_or_else(|| format!("there is no fault {name}"))
        };
        let faults = |names: &str| match names {
            "none" => Ok(BTreeSet::new()),
            names => names.split(',').map(fault).collect(),
        };
        Ok(Self {
            only: value("--faults").map(faults).transpose()?,
            faults_for: number("--length")?.map(|milliseconds| milliseconds * MILLI),
            clients: number("--clients")?.map(|clients| usize::try_from(clients).unwrap()),
            consumers: number("--consumers")?.map(|consumers| usize::try_from(consumers).unwrap()),
            mistake: value("--mistake").map(Mistake::named).transpose()?,
        })
    }
}

/// As [`Options::parse`] takes it, with a blank before each word.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(only) = &self.only {
            let names: Vec<_> = only.iter().map(|fault| fault.as_str()).collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(",")
            };
            write!(f, " --faults {names}")?;
        }
        if let Some(length) = self.faults_for {
            write!(f, " --length {}", length / MILLI)?;
        }
        if let Some(clients) = self.clients {
            write!(f, " --clients {clients}")?;
        }
        if let Some(consumers) = self.consumers {
            write!(f, " --consumers {consumers}")?;
        }
        self.mistake
            .map_or(Ok(()), |mistake| write!(f, " --mistake {}", mistake.as_str()))
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Groups.
    pub groups: u32,
    /// N.
    pub group_size: usize,
    /// W.
    pub writes: usize,
    /// Clients, each with one operation at a time.
    pub clients: usize,
    /// Consumers that contend for the named subscription; none in some runs.
    pub consumers: usize,
    /// What the simulator does wrong.
    pub mistake: Option<Mistake>,
    /// Keys of each seat.
    pub keys_per_seat: usize,
    /// Longest pause of a client between two operations.
    pub think: Micros,
    /// What can go wrong.
    pub faults: BTreeSet<Fault>,
    /// How often, in parts of a million: one for each of [`Fault::ALL`]. What it means is the fault's own.
    rates: Vec<u64>,
    /// Until then faults happen.
    pub faults_until: Micros,
    /// Until then everything must have healed.
    pub healed_until: Micros,
    /// Events that the window of event ids holds for each seat.
    pub window: usize,
    /// Leases live this long without a sign of life.
    pub lease_ttl: Micros,
    /// A leader that is not heard for so long may be deposed.
    pub failover_after: Micros,
}

/// Between two ticks of a member.
pub const HEARTBEAT: Micros = 100 * MILLI;

impl Plan {
    /// Draws a run.
    pub fn new(seed: u64, options: &Options) -> Self {
        let mut random = Random::new(seed);
        let nodes = 3 + random.position(5);
        let groups = 1 + u32::try_from(random.below(if nodes > 5 { 2 } else { 4 })).unwrap();
        let sizes: &[usize] = if nodes >= 5 {
            &[3, 3, 3, 5, 4]
        } else {
            &[3, 3, 3, 3, 2]
        };
        let group_size = sizes[random.position(sizes.len())];
        let majority = group_size / 2 + 1;
        let writes = match random.below(6) {
            0 => 1 + random.position(group_size),
            _ => majority,
        };
        let clients = 2 + random.position(7);
        let keys_per_seat = 1 + random.position(3);
        let think = [20, 60, 200][random.position(3)] * MILLI;
        let mut faults = BTreeSet::new();
        let mut rates = Vec::new();
        // Now and then a run without any fault, or with few: those must work too.
        let share = [0, 15, 30, 50, 70][random.position(5)];
        // Drawn apart: adding a fault leaves the runs without it as they were.
        let mut added = Random::new(seed ^ 0xadde_d1a7);
        for fault in Fault::ALL {
            let random = if *fault >= Fault::Storm {
                &mut added
            } else {
                &mut random
            };
            let is_on = random.below(100) < share;
            rates.push(1 + random.below(1_000_000));
            if is_on && options.only.as_ref().is_none_or(|only| only.contains(fault)) {
                faults.insert(*fault);
            }
        }
        // Drawn apart, too.
        let drawn = [0, 2, 3, 4][Random::new(seed ^ 0xc0_4513).position(4)];
        let consumers = options.consumers.unwrap_or(drawn);
        if consumers == 0 {
            faults.remove(&Fault::ConsumerGone);
        }
        let drawn = (20 + random.below(30)) * SECOND;
        let short_window = 8 + random.position(40);
        let is_short = faults.contains(&Fault::ShortWindow);
        let faults_until = options.faults_for.unwrap_or(drawn);
        Self {
            seed,
            nodes,
            groups,
            group_size,
            writes,
            clients: options.clients.unwrap_or(clients),
            consumers,
            mistake: options.mistake,
            keys_per_seat,
            think,
            faults,
            rates,
            faults_until,
            healed_until: faults_until + 60 * SECOND - drawn,
            window: if is_short { short_window } else { 100_000 },
            lease_ttl: [2, 3, 10][random.position(3)] * SECOND,
            failover_after: 600 * MILLI,
        }
    }

    /// Whether this kind of fault happens in this run.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// The rate of a fault, between `low` and `high`, leaning to the low end; 0 when it does not happen.
    pub fn rate(&self, fault: Fault, low: u64, high: u64) -> u64 {
        if !self.has(fault) {
            return 0;
        }
        let place = Fault::ALL.iter().position(|one| *one == fault).unwrap();
        let drawn = self.rates[place];
        let leaning = drawn * drawn / 1_000_000;
        low + (high - low) * leaning / 1_000_000
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} groups of {}, W = {}, {} clients, {} consumers, {} s of faults:",
            self.nodes,
            self.groups,
            self.group_size,
            self.writes,
            self.clients,
            self.consumers,
            self.faults_until / SECOND
        )?;
        if self.faults.is_empty() {
            return f.write_str(" none");
        }
        self.faults.iter().try_for_each(|fault| write!(f, " {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_they_are_written() {
        let lines = [
            "",
            " --faults none",
            " --faults loss,storm --length 2500 --clients 1",
            " --consumers 3 --mistake cursor_before_effect",
        ];
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            assert_eq!(Options::parse(&words).unwrap().to_string(), line);
        }
        Options::parse(&["--faults", "los"]).unwrap_err();
        Options::parse(&["--clients", "few"]).unwrap_err();
        Options::parse(&["--mistake", "none"]).unwrap_err();
    }

    #[test]
    fn taking_a_fault_away_leaves_the_rest_of_the_run_as_it_was() {
        for seed in 0..50 {
            let whole = Plan::new(seed, &Options::default());
            let only: BTreeSet<_> = whole.faults.iter().skip(1).copied().collect();
            let options = Options {
                only: Some(only.clone()),
                ..Options::default()
            };
            let less = Plan::new(seed, &options);
            assert_eq!(less.faults, only);
            assert_eq!(
                (less.nodes, less.clients, &less.rates),
                (whole.nodes, whole.clients, &whole.rates)
            );
        }
    }
}
