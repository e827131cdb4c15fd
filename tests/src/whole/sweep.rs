//! Many runs, each in a process of its own.

use super::again::Place;
use crate::say;
use crate::time::{Stopwatch, maybe};
use serde_json::{Value, json};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;

/// How long a run may take. One that takes longer hangs.
const RUN_WITHIN: Duration = Duration::from_mins(10);

/// After so many runs it is said how far it is.
const SAID_AFTER: u64 = 100;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// The first seed, and the one after the last.
    pub seeds: Range<u64>,
    /// Runs that came to an end.
    pub runs: u64,
    /// Simulated time of all of them.
    pub simulated: Duration,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Events that subscribers got.
    pub delivered: u64,
    /// Faults that came.
    pub faults: u64,
    /// Longest time from the end of the faults until all was well, in milliseconds.
    pub well_after_ms: u64,
    /// Seeds, and what was broken.
    pub violations: Vec<(u64, String)>,
}

impl Sum {
    /// As one JSON object.
    pub fn json(&self) -> Value {
        let violations = self.violations.iter();
        json!({
            "from": self.seeds.start,
            "runs": self.runs,
            "simulated_s": self.simulated.as_secs(),
            "acknowledged": self.acknowledged,
            "reads": self.reads,
            "delivered": self.delivered,
            "faults": self.faults,
            "well_after_ms": self.well_after_ms,
            "violations": violations.map(|(seed, what)| json!({"seed": seed, "what": what})).collect::<Vec<_>>(),
        })
    }

    fn add(&mut self, seed: u64, done: Result<Value, String>) {
        let done = match done {
            Ok(done) => done,
            Err(why) => {
                say(&format!("seed {seed}: {why}"));
                self.violations.push((seed, why));
                return;
            }
        };
        let number = |name: &str| done[name].as_u64().unwrap_or_default();
        self.runs += 1;
        self.simulated += Duration::from_millis(number("simulated_ms"));
        self.acknowledged += number("acknowledged");
        self.reads += number("reads");
        self.delivered += number("delivered");
        self.faults += number("faults");
        self.well_after_ms = self.well_after_ms.max(number("well_after_ms"));
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs from seed {}: {:.1} simulated hours, {} faults, {} acknowledged events, {} reads, {} deliveries; \
             well again after {} ms at most; {} violations",
            self.runs,
            self.seeds.start,
            self.simulated.as_secs_f64() / 3_600.0,
            self.faults,
            self.acknowledged,
            self.reads,
            self.delivered,
            self.well_after_ms,
            self.violations.len()
        )?;
        for (seed, what) in &self.violations {
            writeln!(f, "seed {seed}: {what}")?;
        }
        Ok(())
    }
}

/// Which runs are wanted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// One run of each.
    pub seeds: Range<u64>,
    /// So many at once.
    pub jobs: usize,
    /// None is begun later than that.
    pub limit: Option<Duration>,
    /// The server makes this mistake.
    pub mistake: Option<&'a str>,
    /// None is begun once a promise was broken.
    pub ends_when_broken: bool,
}

/// Runs what is wanted, by the program at `program`, which is `whole`.
///
/// # Errors
/// When no process can be started.
pub async fn sweep(program: &Path, wanted: Wanted<'_>) -> io::Result<Sum> {
    let place = Place::new()?;
    let begun = Stopwatch::start();
    let is_late = || wanted.limit.is_some_and(|limit| begun.elapsed() >= limit);
    let mut sum = Sum {
        seeds: wanted.seeds.start..wanted.seeds.start,
        ..Sum::default()
    };
    let mut running = JoinSet::new();
    let mut waiting = wanted.seeds;
    loop {
        while running.len() < wanted.jobs
            && !is_late()
            && (sum.violations.is_empty() || !wanted.ends_when_broken)
            && let Some(seed) = waiting.next()
        {
            let mut command = command(&place, program, seed);
            let mistake = wanted.mistake.into_iter();
            command.args(mistake.flat_map(|mistake| ["--sabotage", mistake]));
            sum.seeds.end = seed + 1;
            running.spawn(async move { (seed, one(command).await) });
        }
        let Some(ended) = running.join_next().await else {
            return Ok(sum);
        };
        let (seed, done) = ended.map_err(io::Error::other)?;
        sum.add(seed, done);
        if sum.runs.is_multiple_of(SAID_AFTER) {
            let (runs, broken) = (sum.runs, sum.violations.len());
            say(&format!(
                "{runs} runs, {} to go, {broken} violations",
                waiting.clone().count()
            ));
        }
    }
}

fn command(place: &Place, program: &Path, seed: u64) -> Command {
    let mut command = Command::from(place.command(program, seed));
    command.args(["run", "--seed", &seed.to_string(), "-o", "json"]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What one run said.
async fn one(mut command: Command) -> Result<Value, String> {
    let ended = maybe(RUN_WITHIN, command.output()).await;
    let ended = ended.ok_or_else(|| format!("it does not end within {RUN_WITHIN:?}"))?;
    let ended = ended.map_err(|error| error.to_string())?;
    let said: Option<Value> = serde_json::from_slice(&ended.stdout).ok();
    if let Some(said) = said {
        return match said["violation"].as_str() {
            Some(violation) => Err(violation.to_owned()),
            None => Ok(said["done"].clone()),
        };
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let lines: Vec<&str> = said.lines().rev().take(4).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    Err(format!("{}: {}", ended.status, lines.join(" | ")))
}
