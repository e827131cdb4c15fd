//! Runs the tools, and reads what they print.

use crate::process::binary;
use crate::time::maybe;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// What a tool printed, or why there is nothing.
pub type Printed = Result<String, String>;

/// Exit code of a tool when this machine cannot do what was asked for.
const NOTHING_RUN: i32 = 3;

/// Runs a tool that stands beside this one, for at most `limit`. A tool that found something has printed it, and counts
/// as one that ran.
pub async fn run(tool: &str, arguments: &[&str], limit: Duration) -> Printed {
    let mut command = Command::new(binary(tool));
    command.args(arguments);
    output(command, limit).await
}

/// Runs one of the scripts.
pub async fn script(name: &str, arguments: &[&str], limit: Duration) -> Printed {
    let mut command = Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../scripts")
            .join(name),
    );
    command.args(arguments);
    output(command, limit).await
}

async fn output(mut command: Command, limit: Duration) -> Printed {
    let ended = maybe(limit, command.kill_on_drop(true).output()).await;
    let ended = ended.ok_or_else(|| format!("it did not end within {limit:?}"))?;
    let ended = ended.map_err(|error| error.to_string())?;
    let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
    if printed.trim().is_empty() || (ended.status.code() == Some(NOTHING_RUN) && !printed.starts_with('{')) {
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.lines().rfind(|line| !line.trim().is_empty());
        return Err(format!(
            "{}: {}",
            ended.status,
            said.unwrap_or("it said nothing").trim()
        ));
    }
    Ok(printed)
}

/// What `torture -o json` says of one fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Torture {
    /// How often it struck.
    pub times: u64,
    /// Events that were acknowledged meanwhile.
    pub acknowledged: u64,
    /// Acknowledged events that were not there.
    pub lost: u64,
    /// Events that were there twice.
    pub doubled: u64,
    /// Events that came before what they belong after.
    pub out_of_order: u64,
    /// Linearizable reads that saw too little or too much.
    pub stale_reads: u64,
    /// Events that followers of change streams were given.
    pub deliveries: u64,
    /// Everything that was broken, in words.
    pub violations: Vec<String>,
    /// Why it was not run.
    pub not_run: Option<String>,
}

impl Torture {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not what the tool prints.
    pub fn read(printed: &str, fault: &str) -> Result<Self, String> {
        let report: Value = serde_json::from_str(printed.trim()).map_err(|error| error.to_string())?;
        let of_fault = &report["faults"][fault];
        let number = |from: &Value, name: &str| {
            let number = from[name].as_u64();
            number.ok_or_else(|| format!("torture says nothing of {name}"))
        };
        let again = report["again"].as_str().unwrap_or_default();
        let texts = report["violations"]
            .as_array()
            .ok_or("torture says nothing of violations")?;
        Ok(Self {
            times: number(of_fault, "times")?,
            acknowledged: number(of_fault, "acknowledged")?,
            lost: number(of_fault, "lost")?,
            doubled: number(of_fault, "doubled")?,
            out_of_order: number(of_fault, "out_of_order")?,
            stale_reads: number(of_fault, "stale_reads")?,
            deliveries: number(&report, "deliveries")?,
            violations: texts
                .iter()
                .map(|text| format!("{} (again: {again})", text.as_str().unwrap_or_default()))
                .collect(),
            not_run: of_fault["not_run"].as_str().map(str::to_owned),
        })
    }

    /// Adds another run.
    pub fn add(&mut self, other: Self) {
        self.times += other.times;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.stale_reads += other.stale_reads;
        self.deliveries += other.deliveries;
        self.violations.extend(other.violations);
        self.not_run = self.not_run.take().or(other.not_run);
    }
}

/// A number that `sim sweep` prints behind a name, without what stands behind a point.
///
/// # Errors
/// When there is none of that name.
pub fn swept(printed: &str, name: &str) -> Result<u64, String> {
    let value = printed.lines().find_map(|line| {
        let (found, value) = line.split_at_checked(28)?;
        (found.trim() == name).then(|| value.trim())
    });
    let whole = value.and_then(|value| value.split('.').next()?.parse().ok());
    whole.ok_or_else(|| format!("sim says nothing of {name}"))
}

/// What `whole sweep -o json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Runs that came to an end.
    pub runs: u64,
    /// Simulated time, in whole hours.
    pub hours: u64,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Events that subscribers got.
    pub delivered: u64,
    /// Faults that came.
    pub faults: u64,
    /// Everything that was broken, in words.
    pub violations: Vec<String>,
}

impl Swept {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not what the tool prints.
    pub fn read(printed: &str) -> Result<Self, String> {
        let report: Value = serde_json::from_str(printed.trim()).map_err(|error| error.to_string())?;
        let number = |name: &str| {
            let number = report[name].as_u64();
            number.ok_or_else(|| format!("whole says nothing of {name}"))
        };
        let violations = report["violations"].as_array();
        let violations = violations.ok_or("whole says nothing of violations")?.iter();
        let told = |found: &Value| format!("whole run --seed {}: {}", found["seed"], found["what"]);
        Ok(Self {
            runs: number("runs")?,
            hours: number("simulated_s")? / 3_600,
            acknowledged: number("acknowledged")?,
            reads: number("reads")?,
            delivered: number("delivered")?,
            faults: number("faults")?,
            violations: violations.map(told).collect(),
        })
    }
}

/// What `model-etcd -o json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modelled {
    /// How many operations were asked of both.
    pub operations: u64,
    /// How many changes watches told.
    pub told: u64,
    /// What all of it followed from.
    pub seed: u64,
    /// The first difference.
    pub difference: Option<String>,
}

impl Modelled {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not what the tool prints.
    pub fn read(printed: &str) -> Result<Self, String> {
        let report: Value = serde_json::from_str(printed.trim()).map_err(|error| error.to_string())?;
        let number = |name: &str| {
            let number = report[name].as_u64();
            number.ok_or_else(|| format!("model-etcd says nothing of {name}"))
        };
        Ok(Self {
            operations: number("operations")?,
            told: number("told")?,
            seed: number("seed")?,
            difference: report["difference"].as_str().map(str::to_owned),
        })
    }
}

/// What `failover` says of one way to lose a leader, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// How often it was lost.
    pub times: u64,
    /// The pause that 99 of 100 do not exceed.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// The slowest write to the other seat.
    pub other: u64,
}

impl Failover {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not what the tool prints.
    pub fn read(printed: &str, way: &str) -> Result<Self, String> {
        let mut lines = printed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let words = lines.find(|words| words.first() == Some(&way) && words.len() == 6);
        let words = words.ok_or_else(|| format!("failover says nothing of {way}"))?;
        let number = |n: usize| words[n].parse().map_err(|error| format!("{}: {error}", words[n]));
        Ok(Self {
            times: number(1)?,
            p99: number(3)?,
            max: number(4)?,
            other: number(5)?,
        })
    }
}

/// What `fuzz run -o json` says: inputs that were tried, and faults in words.
///
/// # Errors
/// When it is not what the tool prints.
pub fn fuzzed(printed: &str) -> Result<(u64, Vec<String>), String> {
    let report: Value = serde_json::from_str(printed.trim()).map_err(|error| error.to_string())?;
    let targets = report["targets"]
        .as_array()
        .ok_or("fuzz says nothing of targets")?;
    let executions = targets
        .iter()
        .filter_map(|target| target["executions"].as_u64())
        .sum();
    let faults = targets
        .iter()
        .filter_map(|target| target["fault"].as_str())
        .map(str::to_owned);
    Ok((executions, faults.collect()))
}

/// What `sabotage` says: how many mistakes were noticed, which were not, and which could not be tried.
pub fn sabotaged(printed: &str) -> (u64, Vec<String>, Vec<String>) {
    let (mut noticed, mut missed, mut not_run) = (0, Vec::new(), Vec::new());
    for line in printed.lines().skip(1) {
        let name = line.split_whitespace().next().unwrap_or_default().to_owned();
        let has = |word: &str| line.contains(&format!(" {word} "));
        if has("noticed") {
            noticed += 1;
        } else if has("not run") {
            not_run.push(name);
        } else if has("MISSED") || has("BROKEN") {
            missed.push(name);
        }
    }
    (noticed, missed, not_run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Measured;
    use crate::model_etcd::differential::Done;
    use crate::sim::sweep::Sweep;
    use crate::torture::report::Report;
    use crate::torture::{Fault, Options};

    /// What the tool itself prints: a field that is renamed there is missed here.
    #[test]
    fn the_report_of_torture_is_read() {
        let options = Options {
            seed: 1,
            rounds: 2,
            duration: None,
            nodes: 3,
            faults: vec![Fault::Kill],
        };
        let mut report = Report::new(&options);
        let read = |report: &Report| Torture::read(&report.json().to_string(), "kill");
        assert_eq!(read(&report), Ok(Torture::default()));
        report.violated("an event is lost");
        let mut all = read(&report).unwrap();
        let told =
            "after round 0: an event is lost (again: torture --seed 1 --rounds 1 --nodes 3 --only kill)";
        assert_eq!(all.violations, [told]);
        all.add(Torture {
            times: 3,
            deliveries: 5,
            not_run: Some("no disks".to_owned()),
            ..Torture::default()
        });
        assert_eq!(
            (all.times, all.deliveries, all.not_run.as_deref()),
            (3, 5, Some("no disks"))
        );
        assert!(Torture::read(&report.json().to_string(), "flood").is_err());
        assert!(Torture::read("error: no etcd", "kill").is_err());
    }

    #[test]
    fn the_report_of_the_model_etcd_is_read() {
        let done = Done {
            operations: 7,
            changes_told: 5,
            ..Done::default()
        };
        let mut modelled = Modelled {
            operations: 7,
            told: 5,
            seed: 3,
            difference: None,
        };
        let read = |difference| Modelled::read(&done.json(3, difference).to_string());
        assert_eq!(read(None), Ok(modelled.clone()));
        modelled.difference = Some("another revision".to_owned());
        assert_eq!(read(Some("another revision")), Ok(modelled));
        assert!(Modelled::read("error: no etcd").is_err());
    }

    #[test]
    fn the_table_of_a_sweep_is_read() {
        let table = Sweep {
            seeds: 300,
            ..Sweep::default()
        }
        .table();
        assert_eq!(swept(&table, "seeds"), Ok(300));
        assert_eq!(swept(&table, "simulated hours"), Ok(0));
        assert_eq!(swept(&table, "violations"), Ok(0));
        assert!(swept(&table, "miracles").is_err());
    }

    #[test]
    fn the_table_of_failovers_is_read() {
        let millis = Duration::from_millis;
        let mut measured = Measured::default();
        measured.pauses.extend([millis(10), millis(90)]);
        measured.other = millis(7);
        let printed = format!("way  times p50 p99 max other\n{}\n", measured.line("kill"));
        let expected = Failover {
            times: 2,
            p99: 90,
            max: 90,
            other: 7,
        };
        assert_eq!(Failover::read(&printed, "kill"), Ok(expected));
        assert!(Failover::read(&printed, "pause").is_err());
    }

    #[test]
    fn the_report_of_fuzz_is_read() {
        let printed = r#"{"seed":1,"targets":[{"target":"a","executions":5,"fault":null},
            {"target":"b","executions":6,"fault":"it panicked"}]}"#;
        assert_eq!(fuzzed(printed), Ok((11, vec!["it panicked".to_owned()])));
    }

    #[test]
    fn the_table_of_sabotage_is_read() {
        let printed = "mutation promise noticed by\n\
                       no_fsync   durability over a loss of power   noticed   torture: a\n\
                       damage_cut damage is never cut               MISSED    damage: b\n\
                       torn_tail  torn tail                         not run   damage: c\n";
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            sabotaged(printed),
            (1, texts(&["damage_cut"]), texts(&["torn_tail"]))
        );
    }
}
