//! `scripts/sabotage [--whole] [NAME…]`: shows that the tests notice. Builds the server with its named mutations, lets it
//! make one after the other, and demands that the case that guards the promise goes red, and is green without; with
//! `--whole`, that one of a few simulated clusters goes red.

use rdb_tests::mutations::{MUTATIONS, Mutation, WHOLE_SEEDS};
use rdb_tests::whole::sweep::{Wanted, sweep};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::available_parallelism;
use tokio::runtime::Runtime;

fn main() -> io::Result<ExitCode> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let is_whole = names.iter().any(|name| name == "--whole");
    names.retain(|name| name != "--whole");
    let is_chosen = |mutation: &&Mutation| {
        let is_named = names.iter().any(|name| name == mutation.name);
        is_named || (names.is_empty() && (mutation.is_seen_whole || !is_whole))
    };
    let chosen: Vec<&Mutation> = MUTATIONS.iter().filter(is_chosen).collect();
    let unknown = names
        .iter()
        .find(|name| !MUTATIONS.iter().any(|mutation| mutation.name == **name));
    if let Some(name) = unknown {
        writeln!(io::stderr(), "error: there is no mutation {name}")?;
        return Ok(ExitCode::from(2));
    }
    let is_all_noticed = if is_whole {
        let whole = [
            "-p",
            "rdb-tests",
            "--bin",
            "whole",
            "--features",
            "rdb-tests/sabotage",
        ];
        let program = build(&whole)?.join("whole");
        let runtime = Runtime::new()?;
        table(&chosen, |mutation| {
            runtime.block_on(by_simulation(mutation, &program))
        })?
    } else {
        let server = [
            "-p",
            "rdb-server",
            "-p",
            "rdb-client",
            "--features",
            "rdb-server/sabotage",
        ];
        let bin_dir = build(&server)?;
        table(&chosen, |mutation| by_case(mutation, &bin_dir))?
    };
    Ok(if is_all_noticed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Judges one after the other, each with a row that says by what; whether none was missed.
fn table(
    chosen: &[&Mutation],
    judged: impl Fn(&Mutation) -> io::Result<(Verdict, String)>,
) -> io::Result<bool> {
    let mut out = io::stdout();
    writeln!(out, "{:<26} {:<40} {:<9} noticed by", "mutation", "promise", "")?;
    let mut missed = 0;
    for mutation in chosen {
        let (verdict, by) = judged(mutation)?;
        missed += u32::from(!matches!(verdict, Verdict::Noticed | Verdict::NotRun));
        let Mutation { name, promise, .. } = mutation;
        writeln!(out, "{name:<26} {promise:<40} {:<9} {by}", verdict.word())?;
    }
    Ok(missed == 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Noticed,
    Missed,
    /// The case is red without the mutation too, so that red says nothing.
    RedAnyway,
    /// This machine cannot do what the case does.
    NotRun,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Green,
    Red,
    NotRun,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Noticed => "noticed",
            Self::Missed => "MISSED",
            Self::RedAnyway => "BROKEN",
            Self::NotRun => "not run",
        }
    }
}

/// Whether a run of a whole simulated cluster notices it, which the sweep tells about.
async fn by_simulation(mutation: &Mutation, program: &Path) -> io::Result<(Verdict, String)> {
    let wanted = Wanted {
        seeds: WHOLE_SEEDS,
        jobs: available_parallelism()?.get(),
        limit: None,
        mistake: Some(mutation.name),
        ends_when_broken: true,
    };
    let sum = sweep(program, wanted).await?;
    Ok(match sum.violations.first() {
        Some((seed, _)) => (Verdict::Noticed, format!("whole: seed {seed}")),
        None => (Verdict::Missed, format!("whole: none of {} runs", sum.runs)),
    })
}

/// How often a case is run that does not notice: processes die at moments that no seed draws.
const TRIES: u32 = 5;

/// Whether the case that guards the promise notices it.
fn by_case(mutation: &Mutation, bin_dir: &Path) -> io::Result<(Verdict, String)> {
    let (mut colour_of_mistake, mut tries) = (Colour::Green, 0);
    while colour_of_mistake == Colour::Green && tries < TRIES {
        colour_of_mistake = colour(mutation, bin_dir, true)?;
        tries += 1;
    }
    let verdict = match colour_of_mistake {
        Colour::Green => Verdict::Missed,
        Colour::NotRun => Verdict::NotRun,
        Colour::Red if is_green_without(mutation, bin_dir, tries)? => Verdict::Noticed,
        Colour::Red => Verdict::RedAnyway,
    };
    let mut by = format!("{}: {}", mutation.test, mutation.case);
    if tries > 1 {
        by = format!("{by}, run {tries} times");
    }
    Ok((verdict, by))
}

/// Whether the case is green without the mutation as often as it was run with it: one that is red now and then says nothing.
fn is_green_without(mutation: &Mutation, bin_dir: &Path, tries: u32) -> io::Result<bool> {
    for _ in 0..tries {
        if colour(mutation, bin_dir, false)? != Colour::Green {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How the case ends, with the mutation or without.
fn colour(mutation: &Mutation, bin_dir: &Path, sabotaged: bool) -> io::Result<Colour> {
    let mut command = cargo();
    command.args([
        "test",
        "--quiet",
        "--locked",
        "--workspace",
        "--test",
        mutation.test,
        "--",
        "--exact",
        mutation.case,
    ]);
    command.env("RDB_BIN_DIR", bin_dir);
    if sabotaged {
        command.env("RDB_SABOTAGE", mutation.name);
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains(" 1 passed") {
        let is_run = !String::from_utf8_lossy(&output.stderr).contains(" not run: ");
        return Ok(if is_run { Colour::Green } else { Colour::NotRun });
    }
    if text.contains(" 1 failed") {
        return Ok(Colour::Red);
    }
    let what = format!("{} {} did not run:\n{text}", mutation.test, mutation.case);
    Err(io::Error::other(what))
}

/// Builds these, with the mutations in them, beside the usual ones; where they are.
fn build(what: &[&str]) -> io::Result<PathBuf> {
    let target = workspace().join("target/sabotage");
    let mut command = cargo();
    command
        .args(["build", "--locked"])
        .args(what)
        .arg("--target-dir")
        .arg(&target);
    if command.status()?.success() {
        Ok(target.join("debug"))
    } else {
        Err(io::Error::other("the server with its mutations cannot be built"))
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
