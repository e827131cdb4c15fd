//! `fuzz`: what reads bytes of others, fed with bytes that nobody wrote. `fuzz --help` says how.

use rdb_tests::arguments::Arguments;
use rdb_tests::fuzz::{TARGETS, Target, kept, run, target, write_seeds};
use rdb_tests::random::{Random, new_seed};
use rdb_tests::say;
use serde_json::json;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
Feeds what reads bytes of others with changes of kept inputs. Guided by coverage: scripts/fuzz.

Usage: fuzz run [TARGET] [--seconds N] [--seed N] [--trace FILE] [-o json]
       fuzz replay TARGET FILE
       fuzz seeds            writes tests/data/fuzz/*/seed-*
       fuzz list

  --seconds N    for each target [default: 10]
  --seed N       what is drawn is drawn from it [default: a new one]
  --trace FILE   holds the input that is being tried, for faults that end the process

Exit codes: 0 no fault; 1 a fault, the input is kept in the folder that is named; 2 wrong arguments.
";

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = Arguments(&words);
    let mut out = io::stdout();
    match words.first().map(String::as_str) {
        Some("run") => return run_some(arguments, &mut out),
        Some("replay") => match (words.get(1).and_then(|name| target(name)), words.get(2)) {
            (Some(target), Some(file)) => {
                (target.run)(&fs::read(file)?);
                writeln!(out, "no fault")?;
            }
            _ => return usage(),
        },
        Some("seeds") => write_seeds(),
        Some("list") => {
            for Target { name, what, .. } in TARGETS {
                writeln!(out, "{name:10} {what}")?;
            }
        }
        Some("--help" | "-h") => out.write_all(HELP.as_bytes())?,
        _ => return usage(),
    }
    Ok(ExitCode::SUCCESS)
}

fn usage() -> io::Result<ExitCode> {
    io::stderr().write_all(HELP.as_bytes())?;
    Ok(ExitCode::from(2))
}

fn run_some(arguments: Arguments<'_>, out: &mut dyn io::Write) -> io::Result<ExitCode> {
    let named = arguments.0.get(1).filter(|word| !word.starts_with('-'));
    let targets: Vec<&Target> = match named {
        None => TARGETS.iter().collect(),
        Some(name) => match target(name) {
            Some(target) => vec![target],
            None => return usage(),
        },
    };
    let seconds = arguments.number("--seconds").unwrap_or(10);
    let seed: Option<u64> = arguments.number("--seed");
    let seed = seed.unwrap_or_else(|| new_seed(1_000_000));
    say(&format!("seed {seed}"));
    let mut done = Vec::new();
    let mut faults: u32 = 0;
    for one in targets {
        let inputs: Vec<Vec<u8>> = kept(one).into_iter().map(|(_, bytes)| bytes).collect();
        let mut trace = |input: &[u8]| {
            if let Some(file) = arguments.value("--trace")
                && let Err(error) = fs::write(file, input)
            {
                say(&format!("{file}: {error}"));
            }
        };
        let limit = Duration::from_secs(seconds);
        let outcome = run(one, &inputs, (limit, Random::new(seed)), &mut trace);
        let mut fault = None;
        if let Some((input, problem)) = outcome.fault {
            faults = faults.saturating_add(1);
            let file = Path::new("target").join(format!("fuzz-{}-{seed}", one.name));
            fs::write(&file, input)?;
            fault = Some(format!("{problem}; the input is {}", file.display()));
        }
        if !arguments.has("json") {
            let said = fault.as_deref().unwrap_or("no fault");
            let rate = u128::from(outcome.executions) * 1_000 / outcome.took.as_millis().max(1);
            writeln!(
                out,
                "{:10} {:>10} executions, {rate}/s: {said}",
                one.name, outcome.executions
            )?;
        }
        done.push(json!({"target": one.name, "executions": outcome.executions, "fault": fault}));
    }
    if arguments.has("json") {
        writeln!(out, "{}", json!({"seed": seed, "targets": done}))?;
    }
    Ok(ExitCode::from(u8::from(faults > 0)))
}
