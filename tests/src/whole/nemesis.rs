//! Which fault comes next, and whom it strikes.

use super::clients::CLIENTS;
use super::ground::Ground;
use super::site::{ETCD, Site};
use crate::model_etcd::served::Faults;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use turmoil::Sim;

/// So far a clock is set at most.
const DAY: Duration = Duration::from_hours(24);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One node dies, or several, or all; they come back later.
    Kill,
    /// A node is stopped in order, and comes back later.
    Stop,
    /// Two hosts do not hear each other; what was sent comes when they do again.
    Hold,
    /// What a host sends to another is lost, one way or both.
    Cut,
    /// A node is held from everybody.
    Isolate,
    /// Messages take long between two hosts.
    Slow,
    /// etcd dies and comes back.
    EtcdDies,
    /// Calls of etcd fail, half of them after they were done.
    EtcdErrs,
    /// etcd lets a node's lease end while it renews it in words.
    LeaseLost,
    /// etcd breaks off all watches and forgets what they have missed.
    Compaction,
    /// Every clock on the wall is set forward or back, by up to a day.
    Clocks,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::Stop,
        Self::Hold,
        Self::Cut,
        Self::Isolate,
        Self::Slow,
        Self::EtcdDies,
        Self::EtcdErrs,
        Self::LeaseLost,
        Self::Compaction,
        Self::Clocks,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Hold => "hold",
            Self::Cut => "cut",
            Self::Isolate => "isolate",
            Self::Slow => "slow",
            Self::EtcdDies => "etcd-dies",
            Self::EtcdErrs => "etcd-errs",
            Self::LeaseLost => "lease-lost",
            Self::Compaction => "compaction",
            Self::Clocks => "clocks",
        }
    }
}

/// A fault that is over at some time.
#[derive(Debug)]
enum Mend {
    Start(String),
    Release(String, String),
    Repair(String, String),
    Quicken(String, String),
    EtcdAnswers,
}

/// See the module.
pub(super) struct Nemesis {
    ground: Rc<Ground>,
    random: Random,
    faults: Vec<Fault>,
    latency: Duration,
    next: Duration,
    /// What is mended when; the second number tells apart what is mended at the same time.
    mends: BTreeMap<(Duration, u64), Mend>,
    count: u64,
    /// Hosts that are down.
    down: BTreeSet<String>,
    /// Pairs whose link is disturbed.
    disturbed: BTreeSet<(String, String)>,
    /// How often each fault came.
    pub(super) struck: BTreeMap<Fault, u64>,
}

impl Nemesis {
    pub(super) fn new(ground: Rc<Ground>, random: Random, faults: &[Fault], latency: Duration) -> Self {
        Self {
            ground,
            random,
            faults: faults.to_vec(),
            latency,
            next: Duration::ZERO,
            mends: BTreeMap::new(),
            count: 0,
            down: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            struck: BTreeMap::new(),
        }
    }

    /// Mends what is due, and strikes when it is time.
    pub(super) fn act(&mut self, sim: &mut Sim<'_>, site: &Site) {
        let now = sim.elapsed();
        while let Some(first) = self.mends.first_entry()
            && first.key().0 <= now
        {
            let mend = first.remove();
            self.mend(sim, site, mend);
        }
        if now >= self.next {
            let fault = self.faults[self.random.position(self.faults.len())];
            if self.strike(fault, sim, site) {
                tracing::info!(at = ?now, fault = fault.name(), down = ?self.down, disturbed = ?self.disturbed, "a fault");
                *self.struck.entry(fault).or_default() += 1;
            }
            self.next = now + self.between(100, 2_500);
        }
    }

    /// Mends everything at once.
    pub(super) fn end(&mut self, sim: &mut Sim<'_>, site: &Site) {
        for mend in std::mem::take(&mut self.mends).into_values() {
            self.mend(sim, site, mend);
        }
    }

    fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    fn later(&mut self, sim: &Sim<'_>, from: u64, to: u64, mend: Mend) {
        let at = sim.elapsed() + self.between(from, to);
        self.count += 1;
        self.mends.insert((at, self.count), mend);
    }

    fn mend(&mut self, sim: &mut Sim<'_>, site: &Site, mend: Mend) {
        match mend {
            Mend::Start(host) => {
                self.down.remove(&host);
                sim.bounce(host);
            }
            Mend::Release(one, other) => {
                sim.release(one.as_str(), other.as_str());
                self.disturbed.remove(&(one, other));
            }
            Mend::Repair(one, other) => {
                sim.repair(one.as_str(), other.as_str());
                self.disturbed.remove(&(one, other));
            }
            Mend::Quicken(one, other) => {
                sim.set_link_max_message_latency(one.as_str(), other.as_str(), self.latency);
                self.disturbed.remove(&(one, other));
            }
            Mend::EtcdAnswers => site.etcd.fail(None),
        }
    }

    /// Whether there was something to strike.
    fn strike(&mut self, fault: Fault, sim: &mut Sim<'_>, site: &Site) -> bool {
        match fault {
            Fault::Kill => self.kill(sim, site),
            Fault::Stop => {
                let stopped = self.up(site, 1);
                for node in &stopped {
                    site.stop(node);
                    self.goes_down(sim, node);
                }
                !stopped.is_empty()
            }
            Fault::Hold => self.disturb(sim, site, 8_000, |sim, one, other| {
                sim.hold(one, other);
                Mend::Release(one.to_owned(), other.to_owned())
            }),
            Fault::Cut => {
                let ways = self.random.below(3);
                self.disturb(sim, site, 8_000, |sim, one, other| {
                    match ways {
                        0 => sim.partition_oneway(one, other),
                        1 => sim.partition_oneway(other, one),
                        _ => sim.partition(one, other),
                    }
                    Mend::Repair(one.to_owned(), other.to_owned())
                })
            }
            Fault::Isolate => self.isolate(sim, site),
            Fault::Slow => {
                let slow = self.between(50, 600);
                self.disturb(sim, site, 6_000, |sim, one, other| {
                    sim.set_link_max_message_latency(one, other, slow);
                    Mend::Quicken(one.to_owned(), other.to_owned())
                })
            }
            Fault::EtcdDies => {
                let is_up = self.down.insert(ETCD.to_owned());
                if is_up {
                    sim.crash(ETCD);
                    self.later(sim, 200, 6_000, Mend::Start(ETCD.to_owned()));
                }
                is_up
            }
            Fault::EtcdErrs => {
                site.etcd.fail(Faults {
                    one_in: 2 + self.random.below(10),
                    random: self.random.fork(),
                });
                self.later(sim, 500, 6_000, Mend::EtcdAnswers);
                true
            }
            Fault::LeaseLost => self.lose_a_lease(site),
            Fault::Compaction => {
                site.etcd.compact_unseen();
                true
            }
            Fault::Clocks => {
                let ahead = self.random.below(DAY.as_secs());
                self.ground.set_clocks(Duration::from_secs(ahead));
                true
            }
        }
    }

    fn kill(&mut self, sim: &mut Sim<'_>, site: &Site) -> bool {
        let count = match self.random.below(4) {
            0 => site.nodes.len(),
            1 => 2,
            _ => 1,
        };
        let struck = self.up(site, count);
        for node in &struck {
            sim.crash(node.as_str());
            self.goes_down(sim, node);
        }
        !struck.is_empty()
    }

    fn isolate(&mut self, sim: &Sim<'_>, site: &Site) -> bool {
        let node = site.nodes[self.random.position(site.nodes.len())].as_str();
        let until = sim.elapsed() + self.between(500, 8_000);
        let others = site.nodes.iter().map(String::as_str).chain([ETCD]);
        let mut is_any = false;
        for other in others.filter(|other| *other != node) {
            let pair = pair(node, other);
            if self.disturbed.insert(pair.clone()) {
                is_any = true;
                sim.hold(pair.0.as_str(), pair.1.as_str());
                self.count += 1;
                self.mends
                    .insert((until, self.count), Mend::Release(pair.0, pair.1));
            }
        }
        is_any
    }

    /// Some nodes that are not down.
    fn up(&mut self, site: &Site, count: usize) -> Vec<String> {
        let mut up: Vec<String> = site
            .nodes
            .iter()
            .filter(|node| !self.down.contains(*node))
            .cloned()
            .collect();
        while up.len() > count {
            up.remove(self.random.position(up.len()));
        }
        up
    }

    fn goes_down(&mut self, sim: &Sim<'_>, node: &str) {
        self.down.insert(node.to_owned());
        self.later(sim, 50, 6_000, Mend::Start(node.to_owned()));
    }

    /// Disturbs the link of a node and another host: a node, etcd, or one that clients are on.
    fn disturb(
        &mut self,
        sim: &mut Sim<'_>,
        site: &Site,
        longest: u64,
        how: impl FnOnce(&mut Sim<'_>, &str, &str) -> Mend,
    ) -> bool {
        let one = site.nodes[self.random.position(site.nodes.len())].as_str();
        let others = site.nodes.iter().map(String::as_str).chain([ETCD]).chain(CLIENTS);
        let others: Vec<&str> = others.filter(|other| *other != one).collect();
        let pair = pair(one, others[self.random.position(others.len())]);
        if !self.disturbed.insert(pair.clone()) {
            return false;
        }
        let mend = how(sim, &pair.0, &pair.1);
        self.later(sim, 300, longest, mend);
        true
    }

    /// From now on the lease of a node is renewed in words only.
    fn lose_a_lease(&mut self, site: &Site) -> bool {
        let leases = site.etcd.with(|model| model.leases());
        if leases.is_empty() {
            return false;
        }
        let lease = leases[self.random.position(leases.len())];
        site.etcd.with(|model| model.forsake(lease));
        true
    }
}

/// The same pair whoever is named first.
fn pair(one: &str, other: &str) -> (String, String) {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    (first.to_owned(), second.to_owned())
}
