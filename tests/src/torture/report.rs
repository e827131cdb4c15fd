//! What came of it: a table for people, JSON for programs.

use super::tally::Tally;
use super::{Fault, Options};
use serde_json::{Value, json};
use std::fmt;

/// Of one fault.
#[derive(Debug, Clone, Default)]
struct Row {
    times: u64,
    acknowledged: usize,
    lost: usize,
    doubled: usize,
    out_of_order: usize,
    stale_reads: usize,
    not_run: Option<String>,
}

impl Row {
    const fn add(&mut self, other: &Self) {
        self.times += other.times;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.stale_reads += other.stale_reads;
    }
}

/// Of a run so far.
#[derive(Debug, Clone)]
pub struct Report {
    options: Options,
    rows: Vec<(Fault, Row)>,
    /// Faults that were begun.
    pub rounds: u64,
    deliveries: usize,
    violations: Vec<String>,
    current: Option<Fault>,
}

impl Report {
    /// Nothing was done yet.
    pub fn new(options: &Options) -> Self {
        let rows = options.faults.iter().map(|fault| (*fault, Row::default()));
        Self {
            rows: rows.collect(),
            options: options.clone(),
            rounds: 0,
            deliveries: 0,
            violations: Vec::new(),
            current: None,
        }
    }

    /// A fault is about to strike.
    pub(super) fn begin(&mut self, fault: Fault) {
        self.rounds += 1;
        self.current = Some(fault);
        self.row(fault).times += 1;
    }

    /// The fault that struck is over, and judged.
    pub(super) fn end(&mut self, acknowledged: usize, tally: &Tally) {
        let Some(fault) = self.current.take() else {
            return;
        };
        let of_it = Row {
            acknowledged,
            lost: tally.lost,
            doubled: tally.doubled,
            out_of_order: tally.out_of_order,
            stale_reads: tally.stale_reads,
            ..Row::default()
        };
        self.row(fault).add(&of_it);
        let round = self.rounds;
        let told = tally.violations.iter();
        self.violations
            .extend(told.map(|what| format!("round {round}, {}: {what}", fault.name())));
    }

    /// A fault is not possible on this machine.
    pub(super) fn not_run(&mut self, fault: Fault, why: &str) {
        self.row(fault).not_run = Some(why.to_owned());
    }

    /// So many events of change streams were judged.
    pub(super) const fn delivered(&mut self, events: usize) {
        self.deliveries += events;
    }

    /// A promise was broken, or the run itself did not end as it should.
    pub fn violated(&mut self, what: &str) {
        let round = self.rounds;
        self.violations.push(match self.current {
            Some(fault) => format!("round {round}, {}: {what}", fault.name()),
            None => format!("after round {round}: {what}"),
        });
    }

    fn row(&mut self, fault: Fault) -> &mut Row {
        let row = self.rows.iter_mut().find(|(of, _)| *of == fault);
        &mut row.expect("it is one of the wanted").1
    }

    /// Whether no promise was broken.
    pub const fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    fn total(&self) -> Row {
        let mut total = Row::default();
        self.rows.iter().for_each(|(_, row)| total.add(row));
        total
    }

    /// What to run to have the same faults strike in the same order. When they strike is up to the machine.
    pub fn again(&self) -> String {
        let Options { seed, nodes, .. } = self.options;
        let faults: Vec<&str> = self.options.faults.iter().map(|fault| fault.name()).collect();
        let (rounds, faults) = (self.rounds.max(1), faults.join(","));
        format!("torture --seed {seed} --rounds {rounds} --nodes {nodes} --only {faults}")
    }

    /// The report for programs.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "times": row.times, "acknowledged": row.acknowledged, "lost": row.lost, "doubled": row.doubled,
                "out_of_order": row.out_of_order, "stale_reads": row.stale_reads, "not_run": row.not_run,
            })
        };
        let rows = self
            .rows
            .iter()
            .map(|(fault, of)| (fault.name().to_owned(), row(of)));
        json!({
            "seed": self.options.seed,
            "nodes": self.options.nodes,
            "faults": Value::Object(rows.collect()),
            "all": row(&self.total()),
            "deliveries": self.deliveries,
            "violations": self.violations,
            "again": self.again(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "fault  times  acknowledged  lost  doubled  out of order  stale reads"
        )?;
        for (fault, row) in &self.rows {
            match &row.not_run {
                Some(why) => writeln!(out, "{:<6} not run: {why}", fault.name())?,
                None => line(out, fault.name(), row)?,
            }
        }
        line(out, "all", &self.total())?;
        writeln!(out, "{} events in order on the change streams", self.deliveries)?;
        for violation in &self.violations {
            writeln!(out, "VIOLATED: {violation}")?;
        }
        if !self.is_clean() {
            writeln!(out, "again: {}", self.again())?;
        }
        Ok(())
    }
}

fn line(out: &mut fmt::Formatter<'_>, name: &str, row: &Row) -> fmt::Result {
    let Row {
        times,
        acknowledged,
        lost,
        doubled,
        out_of_order,
        stale_reads,
        ..
    } = row;
    writeln!(
        out,
        "{name:<6} {times:>5} {acknowledged:>13} {lost:>5} {doubled:>8} {out_of_order:>13} {stale_reads:>12}"
    )
}
