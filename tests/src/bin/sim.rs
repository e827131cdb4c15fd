//! `sim`: whole clusters of the core from one seed.
//!
//! ```text
//! sim run --seed N                             one run, and what came of it
//! sim replay --seed N --trace                  the same run with every line of its trace
//! sim sweep --seeds A..B [--seconds S]         many runs on all cores, and the table
//! sim shrink --seed N                          the least of faults, clients and time with which N still fails
//! sim mutants [--seeds A..B] [--only NAME]     every wrong variant of the core, and how soon it is found
//! ```
//! `--faults a,b`, `--length S`, `--clients N` and `--consumers N` narrow a run down, as `shrink` prints them;
//! `--mistake NAME` makes one of the simulator's own.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a tool of the tests: a wrong argument ends it, and it measures how long it takes"
)]

use rdb_tests::arguments::Arguments;
use rdb_tests::mutations::select;
use rdb_tests::sim::mistakes::Mistake;
use rdb_tests::sim::plan::{Options, Plan};
use rdb_tests::sim::sweep::{Sweep, shrink, sweep};
use rdb_tests::sim::trace::Trace;
use rdb_tests::sim::{Run, keep_panics, run};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> io::Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.collect();
    let arguments = Arguments(&arguments);
    if !arguments.has("--loud") {
        keep_panics();
    }
    if let Some(name) = arguments.value("--sabotage") {
        select(name)?;
    }
    match command.as_str() {
        "run" | "replay" => one(arguments, arguments.has("--trace")),
        "sweep" => many(arguments),
        "shrink" => smaller(arguments),
        "mutants" => mutants(arguments),
        _ => usage(),
    }
}

fn usage() -> io::Result<ExitCode> {
    writeln!(
        io::stderr(),
        "usage: sim run|replay|shrink --seed N [--trace] | sim sweep --seeds A..B [--seconds S] | sim mutants"
    )?;
    Ok(ExitCode::from(2))
}

fn seeds(arguments: Arguments<'_>) -> std::ops::Range<u64> {
    let text = arguments.value("--seeds").unwrap_or("0..2000");
    let (from, to) = text.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

fn options(arguments: Arguments<'_>) -> io::Result<Options> {
    let words: Vec<&str> = arguments.0.iter().map(String::as_str).collect();
    Options::parse(&words).map_err(io::Error::other)
}

fn one(arguments: Arguments<'_>, is_traced: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let options = options(arguments)?;
    let seed = arguments.number("--seed").unwrap();
    writeln!(out, "seed {seed}: {}", Plan::new(seed, &options))?;
    let trace = if is_traced { Trace::whole() } else { Trace::Off };
    let done = run(seed, &options, trace);
    for line in &done.lines {
        writeln!(out, "{line}")?;
    }
    match &done.violation {
        None => {
            writeln!(out, "{:?}", done.counts)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(_) if is_traced => verdict(&mut out, seed, &options, &done),
        Some(_) => explain(&mut out, seed, &options),
    }
}

/// Runs a failing seed again with the end of its trace.
fn explain(out: &mut impl io::Write, seed: u64, options: &Options) -> io::Result<ExitCode> {
    let again = run(seed, options, Trace::tail(50));
    for line in &again.lines {
        writeln!(out, "{line}")?;
    }
    verdict(out, seed, options, &again)
}

fn verdict(out: &mut impl io::Write, seed: u64, options: &Options, done: &Run) -> io::Result<ExitCode> {
    if let Some(violation) = &done.violation {
        writeln!(out, "seed {seed}, step {}: {violation}", done.counts.steps)?;
    }
    writeln!(out, "replay: sim replay --trace --seed {seed}{options}")?;
    Ok(ExitCode::FAILURE)
}

fn many(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let begun = Instant::now();
    let limit = arguments.number("--seconds").map(Duration::from_secs);
    let options = options(arguments)?;
    let threads = arguments.number("--threads").unwrap_or(2);
    let stop = || limit.is_some_and(|limit| begun.elapsed() > limit);
    let sum = sweep(
        seeds(arguments),
        threads,
        &options,
        arguments.has("--first"),
        &stop,
    );
    let mut out = io::stdout().lock();
    write!(out, "{}", sum.table())?;
    writeln!(
        out,
        "wall seconds                 {:>14}",
        begun.elapsed().as_secs()
    )?;
    let Sweep { failed, .. } = &sum;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out)?;
    for (seed, what) in failed.iter().take(40) {
        writeln!(out, "seed {seed}: {what}")?;
    }
    writeln!(out)?;
    let first = failed.first().map(|(seed, _)| *seed).unwrap();
    explain(&mut out, first, &options)
}

fn smaller(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let seed = arguments.number("--seed").unwrap();
    let Some((options, done)) = shrink(seed) else {
        writeln!(out, "seed {seed} does not fail")?;
        return Ok(ExitCode::SUCCESS);
    };
    writeln!(out, "seed {seed}: {}", done.plan)?;
    explain(&mut out, seed, &options)
}

/// Runs itself for every mutant, since a process makes one mistake for all of its life.
fn mutants(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let seeds = arguments.value("--seeds").unwrap_or("0..2000");
    let seconds = arguments.value("--seconds").unwrap_or("120");
    let mut survived = 0;
    writeln!(out, "{:<36} {:>12}  found by", "mutant", "seeds needed")?;
    let own: Vec<&str> = Mistake::ALL.iter().map(|mistake| mistake.as_str()).collect();
    let mutants = rdb_server::sabotage::Sabotage::ALL.iter();
    // What stands in a piece that is modelled here, the model does wrong.
    let mutants = mutants
        .map(|mutant| mutant.as_str())
        .filter(|name| !own.contains(name));
    for name in mutants.chain(own.iter().copied()) {
        if arguments
            .value("--only")
            .is_some_and(|only| !only.split(',').any(|one| one == name))
        {
            continue;
        }
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args([
            "sweep",
            "--seeds",
            seeds,
            "--seconds",
            seconds,
            "--first",
            if own.contains(&name) {
                "--mistake"
            } else {
                "--sabotage"
            },
            name,
        ]);
        let done = command.output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let needed = text
            .lines()
            .find_map(|line| line.strip_prefix("seeds "))
            .map_or("?", str::trim);
        let found = text
            .lines()
            .find(|line| line.starts_with("seed ") && line.contains(": "));
        let by = found.map_or("NOTHING: it survives", |line| {
            line.split_once(": ").map_or(line, |(_, by)| by)
        });
        survived += u64::from(found.is_none());
        let by: String = by.chars().take(150).collect();
        writeln!(out, "{name:<36} {needed:>12}  {by}")?;
        out.flush()?;
    }
    Ok(if survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
