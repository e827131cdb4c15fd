//! `model`: a few members of a seat, in every order of what can happen.
//!
//! ```text
//! model check [--config NAME] [--depth D] [--states N] [--seconds S] [--threads T]
//! model mutants [--only NAME] [--seconds S]     every wrong variant of the core, and what finds it
//! ```
use rdb_tests::arguments::Arguments;
use rdb_tests::model::report::{Bounds, check};
use rdb_tests::mutations::select;
use rdb_tests::sim::keep_panics;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> io::Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.collect();
    let arguments = Arguments(&arguments);
    keep_panics();
    if let Some(name) = arguments.value("--sabotage") {
        select(name)?;
    }
    match command.as_str() {
        "check" => run(arguments),
        "mutants" => mutants(arguments),
        _ => {
            writeln!(
                io::stderr(),
                "usage: model check [--config NAME] [--depth D] [--states N] [--seconds S] | model mutants"
            )?;
            Ok(ExitCode::from(2))
        }
    }
}

fn run(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let seconds = arguments.number("--seconds").unwrap_or(60);
    let bounds = Bounds {
        depth: arguments.number("--depth"),
        states: arguments.number("--states"),
        time: Duration::from_secs(seconds),
        threads: arguments.number("--threads").unwrap_or(2),
    };
    let is_first = arguments.has("--first");
    let mut is_whole = true;
    for config in rdb_tests::model::all() {
        let wanted = arguments.value("--config");
        if wanted.is_some_and(|names| !names.split(',').any(|name| name == config.name)) {
            continue;
        }
        let report = check(config, bounds);
        writeln!(out, "{report}")?;
        writeln!(out, "  reached: {}", report.reached.join(", "))?;
        if let Some(found) = &report.violation {
            let (name, states) = (report.config.name, report.unique);
            let what: String = format!("{}: {}", found.rule, found.what)
                .chars()
                .take(150)
                .collect();
            writeln!(out, "found: {name:<14} {:>5} {states:>9}  {what}", found.steps)?;
        }
        out.flush()?;
        is_whole &= report.violation.is_none();
        if is_first && !is_whole {
            break;
        }
    }
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Mistakes in what the model leaves out.
const NOT_MODELLED: &[(&str, &str)] = &[
    ("decide_ignores_waiting", "conditions"),
    ("conflict_from_uncommitted", "conditions"),
    ("duplicate_unchecked", "retries"),
    ("expectation_unchecked", "conditions"),
    ("split_append", "writes of several events"),
    ("no_fsync", "below the core"),
    ("disk_error_ignored", "below the core"),
    ("torn_tail_kept", "below the core"),
    ("damage_cut", "below the core"),
    ("window_not_recovered", "below the core"),
];

/// Runs itself for every mutant, since a process makes one mistake for all of its life.
fn mutants(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut survived = 0;
    writeln!(
        out,
        "{:<34} {:<14} {:>5} {:>9}  found by",
        "mutant", "model", "steps", "states"
    )?;
    for mutant in rdb_server::sabotage::Sabotage::ALL {
        let name = mutant.as_str();
        let only = arguments.value("--only");
        if only.is_some_and(|only| !only.split(',').any(|one| one == name)) {
            continue;
        }
        if let Some((_, what)) = NOT_MODELLED.iter().find(|(other, _)| *other == name) {
            writeln!(
                out,
                "{name:<34} {:<14} {:>5} {:>9}  not modelled: {what}",
                "-", "-", "-"
            )?;
            continue;
        }
        let found = find(name, arguments)?;
        survived += u64::from(found.is_none());
        let found =
            found.unwrap_or_else(|| format!("{:<14} {:>5} {:>9}  NOTHING: it survives", "-", "-", "-"));
        writeln!(out, "{name:<34} {found}")?;
        out.flush()?;
    }
    Ok(if survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Checks all models until one finds the mutant.
fn find(name: &str, arguments: Arguments<'_>) -> io::Result<Option<String>> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["check", "--first", "--sabotage", name]);
    for option in ["--seconds", "--config", "--threads"] {
        command.args(
            arguments
                .value(option)
                .into_iter()
                .flat_map(|value| [option, value]),
        );
    }
    let done = command.output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix("found: "))
        .map(str::to_owned))
}
