//! Many seeds on all cores, and what came of them: the table, a failing seed made smaller, mutants found.

use super::plan::{Fault, MILLI, Options, SECOND};
use super::trace::Trace;
use super::{Counts, Run, run};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a sweep came to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Seeds that were run.
    pub seeds: u64,
    /// Sums over all of them.
    pub total: Counts,
    /// Seeds with a violation, and what it was, in the order of seeds.
    pub failed: Vec<(u64, String)>,
}

impl Sweep {
    fn add(&mut self, seed: u64, run: Run) {
        self.seeds += 1;
        let Run {
            counts, violation, ..
        } = run;
        let total = &mut self.total;
        for (fault, count) in counts.faults {
            *total.faults.entry(fault).or_default() += count;
        }
        for (told, count) in counts.told {
            *total.told.entry(told).or_default() += count;
        }
        total.steps += counts.steps;
        total.micros += counts.micros;
        total.acknowledged += counts.acknowledged;
        total.committed += counts.committed;
        total.failovers += counts.failovers;
        total.streamed += counts.streamed;
        total.claims += counts.claims;
        total.positions += counts.positions;
        total.fenced += counts.fenced;
        total.effects += counts.effects;
        total.changes += counts.changes;
        total.searched += counts.searched;
        total.unsearched += counts.unsearched;
        total.served += counts.served;
        total.rotten += counts.rotten;
        total.repaired += counts.repaired;
        total.rollbacks += counts.rollbacks;
        total.generations += counts.generations;
        total.guards_without += counts.guards_without;
        self.failed
            .extend(violation.map(|violation| (seed, violation.to_string())));
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let total = &self.total;
        let mut row = |name: &str, value: String| writeln!(text, "{name:<28} {value:>14}").unwrap();
        row("seeds", self.seeds.to_string());
        let minutes = total.micros / SECOND / 60;
        row(
            "simulated hours",
            format!("{}.{:02}", minutes / 60, minutes % 60 * 100 / 60),
        );
        row("steps of the core", total.steps.to_string());
        row("events acknowledged", total.acknowledged.to_string());
        row("events committed", total.committed.to_string());
        row("failovers", total.failovers.to_string());
        row("members keys written", total.changes.to_string());
        row("entries that rotted", total.rotten.to_string());
        row("logs repaired", total.repaired.to_string());
        row("coordinators restored", total.rollbacks.to_string());
        row("coordinators put right", total.generations.to_string());
        row("guards without a group", total.guards_without.to_string());
        for (told, count) in &total.told {
            row(&format!("operations {told}"), count.to_string());
        }
        row("operations searched", total.searched.to_string());
        row("operations not searched", total.unsearched.to_string());
        row("reads of one member's index", total.served.to_string());
        row("events at subscribers", total.streamed.to_string());
        row("names claimed", total.claims.to_string());
        row("positions acknowledged", total.positions.to_string());
        row("consumers fenced", total.fenced.to_string());
        row("events done by consumers", total.effects.to_string());
        for fault in Fault::ALL {
            let count = total.faults.get(fault).copied().unwrap_or_default();
            row(&format!("fault {fault}"), count.to_string());
        }
        row("violations", self.failed.len().to_string());
        text
    }
}

/// Runs seeds on so many threads, until they are done, `stop` says so, or a failure is found and `first_only` is set.
pub fn sweep(
    seeds: Range<u64>,
    threads: usize,
    options: &Options,
    first_only: bool,
    stop: &(dyn Fn() -> bool + Sync),
) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    let ends = AtomicBool::new(false);
    let sum = Mutex::new(Sweep::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) && !stop() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let run = run(seed, options, Trace::Off);
                    if first_only && run.violation.is_some() {
                        ends.store(true, Ordering::Relaxed);
                    }
                    sum.lock().unwrap().add(seed, run);
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap();
    sum.failed.sort();
    sum
}

/// Takes away faults, clients and time from a failing seed for as long as it still fails. Returns what is left.
pub fn shrink(seed: u64) -> Option<(Options, Run)> {
    let fails = |options: &Options| {
        let run = run(seed, options, Trace::Off);
        run.violation.is_some().then_some(run)
    };
    let mut best = Options::default();
    let mut last = fails(&best)?;
    let enabled: BTreeSet<Fault> = last.plan.faults.clone();
    let mut left = enabled.clone();
    for fault in enabled {
        let mut less = left.clone();
        less.remove(&fault);
        let options = Options {
            only: Some(less.clone()),
            ..best.clone()
        };
        if let Some(run) = fails(&options) {
            (best, last, left) = (options, run, less);
        }
    }
    for clients in 1..last.plan.clients {
        let options = Options {
            clients: Some(clients),
            ..best.clone()
        };
        if let Some(run) = fails(&options) {
            (best, last) = (options, run);
            break;
        }
    }
    let mut length = last.plan.faults_until;
    while length > SECOND / 2 {
        // In whole milliseconds, as `--length` takes it: another length is another run.
        length = length * 3 / 4 / MILLI * MILLI;
        let options = Options {
            faults_for: Some(length),
            ..best.clone()
        };
        if let Some(run) = fails(&options) {
            (best, last) = (options, run);
        }
    }
    Some((best, last))
}
