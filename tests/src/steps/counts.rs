//! How many instructions each step takes, counted by callgrind, and how many it took when that was kept.

use super::{STEPS, Step};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// What was counted last, of the build that `scripts/test` makes: `target/debug/steps count --keep` writes it.
pub const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/steps.txt");

/// What is counted: see [`super::counted`].
const COUNTED: &str = "rdb_tests::steps::counted";

/// How often each step is made for one count.
const TIMES: u32 = 20;

/// Instructions of one step.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// The step.
    pub step: &'static Step,
    /// Instructions, those of other threads of the process meanwhile among them.
    pub instructions: u64,
}

/// Whether they could be counted.
#[derive(Debug)]
pub enum Counted {
    /// Of all steps.
    All(Vec<Count>),
    /// Why not.
    NotRun(String),
}

impl Count {
    /// How many percent of what was kept it is; `None` when nothing was.
    pub fn percent(&self, kept: &BTreeMap<String, u64>) -> Option<u64> {
        let kept = kept.get(self.step.name)?;
        (100 * self.instructions).checked_div(*kept)
    }

    /// Whether it takes half as many again as what was kept, or nothing was: other compilers make other instructions of the
    /// same code.
    pub fn is_too_much(&self, kept: &BTreeMap<String, u64>) -> bool {
        self.percent(kept).is_none_or(|percent| percent >= 150)
    }
}

/// Counts the instructions of every step, made by `steps run` of this build.
///
/// # Errors
/// When a step failed, or what was counted cannot be read.
pub fn count(steps: &Path) -> io::Result<Counted> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("counts");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .args(["--zero-before", "--dump-after"].map(|when| format!("{when}={COUNTED}")))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(steps)
        .args(["run", "--times", &TIMES.to_string()]);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Counted::NotRun("valgrind is not installed".to_owned()));
        }
        Err(error) => return Err(error),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(said));
    }
    let dumps = (1..).zip(STEPS).map(|(number, step)| {
        let dump = fs::read_to_string(format!("{}.{number}", out.display()))?;
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: "));
        let total: Option<u64> = total.and_then(|total| total.trim().parse().ok());
        let total = total.ok_or_else(|| io::Error::other(format!("no total of {}", step.name)))?;
        let instructions = total / u64::from(TIMES);
        Ok(Count { step, instructions })
    });
    Ok(Counted::All(dumps.collect::<io::Result<_>>()?))
}

/// What was kept.
///
/// # Errors
/// When the file cannot be read.
pub fn kept() -> io::Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(KEPT)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| {
            let (count, name) = line.trim().split_once("  ")?;
            Some((name.to_owned(), count.parse().ok()?))
        })
        .collect())
}

/// The file that keeps these counts.
pub fn written(counts: &[Count]) -> String {
    let mut text = "# Instructions of one step, by callgrind, of the build that scripts/test makes: `target/debug/steps count --keep`.\n".to_owned();
    for Count { step, instructions } in counts {
        writeln!(text, "{instructions:>9}  {}", step.name).unwrap();
    }
    text
}
