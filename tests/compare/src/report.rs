//! The result: as JSON with everything, as Markdown with medians, and as a picture.

use crate::chart;
use crate::machine::Machine;
use crate::meter::Cell;
use crate::peers::Entry;
use crate::work::{PAYLOAD, Plan, Work};
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What came of one work in one round.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Numbers.
    Measured(Cell),
    /// It went wrong.
    Failed(String),
}

/// One round of one database.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Load average of the last minute before it.
    pub load_before: f64,
    /// Each work.
    pub works: Vec<(Work, Outcome)>,
    /// The highest of what its servers had in memory after each work, bytes.
    pub memory: u64,
    /// Payload bytes that were loaded for the catch-up read.
    pub loaded: u64,
    /// Bytes of disk that the data took then.
    pub disk: u64,
}

/// One database in one setting.
#[derive(Serialize)]
pub struct Compared {
    /// Name for `--peers`.
    pub peer: &'static str,
    /// Name in the tables.
    pub title: &'static str,
    /// In the database's own words.
    pub setting: &'static str,
    /// Whether an acknowledged event survives a loss of power.
    pub survives_power_loss: bool,
    /// 3 when several nodes keep each event, else 1.
    pub nodes: u16,
    /// How the work is done with it.
    pub how: &'static str,
    /// Why it cannot do a work.
    #[serde(skip)]
    pub lacks: fn(Work) -> Option<&'static str>,
    /// What ran.
    pub version: String,
    /// Why nothing ran.
    pub missing: Option<String>,
    /// What came of it.
    pub rounds: Vec<Round>,
}

impl Compared {
    /// Nothing was measured yet.
    pub fn new(entry: &Entry) -> Self {
        let Entry {
            peer,
            title,
            setting,
            survives_power_loss,
            nodes,
            how,
            lacks,
            version,
            missing,
            ..
        } = *entry;
        let (version, missing) = match version() {
            Ok(version) => (version, missing()),
            Err(error) => (String::new(), Some(format!("{error:#}"))),
        };
        let rounds = Vec::new();
        Self {
            peer,
            title,
            setting,
            survives_power_loss,
            nodes,
            how,
            lacks,
            version,
            missing,
            rounds,
        }
    }

    /// What came of a work, in each round.
    fn outcomes(&self, work: Work) -> impl Iterator<Item = &Outcome> {
        let all = self.rounds.iter().flat_map(|round| &round.works);
        all.filter(move |(done, _)| *done == work)
            .map(|(_, outcome)| outcome)
    }

    fn cells(&self, work: Work) -> Vec<&Cell> {
        let measured = self.outcomes(work).filter_map(|outcome| match outcome {
            Outcome::Measured(cell) => Some(cell),
            Outcome::Failed(_) => None,
        });
        measured.collect()
    }

    /// The number of a work in each round: events a second, or a latency.
    fn values(&self, work: Work) -> Vec<f64> {
        let value = |cell: &Cell| {
            if work.is_latency() {
                cell.p50_ms
            } else {
                Some(cell.rate)
            }
        };
        self.cells(work).into_iter().filter_map(value).collect()
    }

    /// Their median; `None` when there are none.
    pub fn middle(&self, work: Work) -> Option<f64> {
        median(&self.values(work))
    }

    /// Why there is no number.
    fn reason(&self, work: Work) -> String {
        if let Some(missing) = &self.missing {
            return format!("not here: {missing}");
        }
        if let Some(reason) = (self.lacks)(work) {
            return reason.to_owned();
        }
        let failed = self.outcomes(work).find_map(|outcome| match outcome {
            Outcome::Failed(error) => Some(format!("failed: {error}")),
            Outcome::Measured(_) => None,
        });
        failed.unwrap_or_else(|| "not run".to_owned())
    }

    /// How many rounds went wrong, when others did not.
    fn failures(&self, work: Work) -> usize {
        let is_failed = |outcome: &&Outcome| matches!(outcome, Outcome::Failed(_));
        self.outcomes(work).filter(is_failed).count()
    }
}

/// All of it.
#[derive(Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How long and how much.
    pub plan: Plan,
    /// Bytes of an event's payload, where the work says nothing else.
    pub payload: usize,
    /// What.
    pub compared: Vec<Compared>,
}

impl Report {
    /// Writes all forms of it.
    pub fn store(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("compare.md"), self.markdown())?;
        fs::write(folder.join("compare.json"), serde_json::to_string_pretty(self)?)?;
        fs::write(folder.join("compare.svg"), chart::svg(self))?;
        Ok(())
    }

    /// As it is read.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.head(&mut text);
        for (nodes, title, works) in [
            (1, "One node", &Work::ONE_NODE[..]),
            (3, "Several nodes on this one machine", &Work::THREE_NODES[..]),
        ] {
            let of_kind: Vec<&Compared> = self
                .compared
                .iter()
                .filter(|entry| entry.nodes == nodes)
                .collect();
            if of_kind.is_empty() {
                continue;
            }
            line(&mut text, &format!("\n## {title}"));
            for work in works {
                table(&mut text, *work, &of_kind);
            }
            footprint(&mut text, &of_kind);
        }
        self.tail(&mut text);
        text
    }

    fn head(&self, text: &mut String) {
        let Plan {
            seconds,
            rounds,
            events,
            ..
        } = self.plan;
        line(text, "# RDB beside what people would use instead\n");
        line(
            text,
            &format!(
                "Events that do not compress, of {PAYLOAD} bytes where a table says nothing else. Rounds over all databases in \
                 turn, each on new data: {rounds}; {seconds} s a measurement; up to {} events loaded. Load generator and servers \
                 share the machine: {}.",
                count(events as f64),
                self.machine
            ),
        );
        let cells: Vec<f64> = self
            .compared
            .iter()
            .flat_map(|entry| &entry.rounds)
            .flat_map(|round| &round.works)
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Measured(cell) => Some(cell.others),
                Outcome::Failed(_) => None,
            })
            .collect();
        if let (Some(others), Some(most)) = (median(&cells), cells.iter().copied().reduce(f64::max)) {
            line(
                text,
                &format!(
                    "\nOthers on the machine (the kernel's own threads included) used {:.0} % of its processors while this was \
                     measured (median; at most {:.0} %). Above some 10 %, numbers say little, and ratios not much more.",
                    others * 100.0,
                    most * 100.0
                ),
            );
        }
        line(
            text,
            "\nMedians of the rounds, lowest and highest in brackets. `x RDB` is the number divided by RDB's in the same table: \
             above 1 is better than RDB, for latencies too (there it is RDB's divided by the number). CPU is processor time an \
             event. *Italics*: an acknowledged event may be lost with the power.",
        );
    }

    fn tail(&self, text: &mut String) {
        line(text, "\n## What ran, and how\n");
        line(
            text,
            "| database | release | setting | survives power loss | how the work is done |",
        );
        line(text, "|---|---|---|---|---|");
        for entry in &self.compared {
            let Compared {
                title,
                setting,
                how,
                version,
                ..
            } = entry;
            let safe = if entry.survives_power_loss { "yes" } else { "no" };
            let version = entry.missing.as_deref().unwrap_or(version);
            line(
                text,
                &format!("| {title} | {version} | {setting} | {safe} | {how} |"),
            );
        }
    }
}

/// Adds a line.
pub fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn table(text: &mut String, work: Work, entries: &[&Compared]) {
    line(text, &format!("\n### {work}\n"));
    let (first, second) = match work {
        Work::Restart => ("ms", "-"),
        _ if work.is_latency() => ("p50 ms", "p99 ms"),
        _ => ("events/s", "p50 / p99 ms"),
    };
    line(
        text,
        &format!("| | setting | {first} | x RDB | {second} | CPU servers us | CPU client us |"),
    );
    line(text, "|---|---|---|---|---|---|---|");
    let rdb = entries
        .iter()
        .find(|entry| entry.peer == "rdb")
        .and_then(|entry| entry.middle(work));
    for entry in entries {
        let emphasis = if entry.survives_power_loss { "" } else { "*" };
        let name = format!("{emphasis}{}{emphasis}", entry.title);
        let numbers = entry.middle(work).map_or_else(
            || format!("- ({}) | | | | |", entry.reason(work)),
            |middle| row(work, entry, middle, rdb),
        );
        line(text, &format!("| {name} | {} | {numbers}", entry.setting));
    }
}

fn row(work: Work, entry: &Compared, middle: f64, rdb: Option<f64>) -> String {
    let cells = entry.cells(work);
    let values = entry.values(work);
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    let mut rounds = format!(
        "{} ({} to {})",
        shown(work, middle),
        shown(work, low),
        shown(work, high)
    );
    if entry.failures(work) > 0 {
        _ = write!(rounds, "; {} rounds failed", entry.failures(work));
    }
    let ratio = rdb.map_or_else(String::new, |rdb| {
        format!(
            "{:.2}",
            if work.is_latency() {
                rdb / middle
            } else {
                middle / rdb
            }
        )
    });
    let of = |part: fn(&Cell) -> Option<f64>| {
        median(&cells.iter().filter_map(|cell| part(cell)).collect::<Vec<_>>())
    };
    let latency = match (of(|cell| cell.p50_ms), of(|cell| cell.p99_ms)) {
        _ if work == Work::Restart => "-".to_owned(),
        (Some(_), Some(p99)) if work.is_latency() => milliseconds(p99),
        (Some(p50), Some(p99)) => format!("{} / {}", milliseconds(p50), milliseconds(p99)),
        _ => "-".to_owned(),
    };
    let cpu = |part| of(part).map_or_else(|| "-".to_owned(), microseconds);
    let (server, client) = (cpu(|cell| Some(cell.server_us)), cpu(|cell| Some(cell.client_us)));
    format!("{rounds} | {ratio} | {latency} | {server} | {client} |")
}

/// The number of a work as people read it.
pub fn shown(work: Work, number: f64) -> String {
    if work.is_latency() {
        milliseconds(number)
    } else {
        count(number)
    }
}

fn footprint(text: &mut String, entries: &[&Compared]) {
    line(text, "\n### memory, and disk after the load\n");
    line(
        text,
        "Files that are made larger ahead of what is written weigh much after a small load.\n",
    );
    line(
        text,
        "| | setting | memory MiB | loaded events | disk bytes a payload byte |",
    );
    line(text, "|---|---|---|---|---|");
    for entry in entries {
        let of = |part: fn(&Round) -> f64| {
            median(
                &entry
                    .rounds
                    .iter()
                    .filter(|round| round.loaded > 0)
                    .map(part)
                    .collect::<Vec<_>>(),
            )
        };
        let (Some(memory), Some(loaded), Some(disk)) = (
            of(|round| round.memory as f64 / f64::from(1 << 20)),
            of(|round| (round.loaded / PAYLOAD as u64) as f64),
            of(|round| round.disk as f64 / round.loaded.max(1) as f64),
        ) else {
            continue;
        };
        let Compared { title, setting, .. } = entry;
        line(
            text,
            &format!(
                "| {title} | {setting} | {memory:.0} | {} | {disk:.2} |",
                count(loaded)
            ),
        );
    }
}

/// The number in the middle, or between the two; `None` when there are none.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// A whole number with its digits in groups.
pub fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A number of which small ones have more digits.
pub fn milliseconds(number: f64) -> String {
    if number < 10.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.1}")
    }
}

fn microseconds(number: f64) -> String {
    if number < 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_between_the_middle_ones() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(999.6), "1,000");
        assert_eq!(count(12.0), "12");
        assert_eq!(count(1_234_567.0), "1,234,567");
    }
}
