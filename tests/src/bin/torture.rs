//! `torture`: real nodes under one fault after the other, drawn from a seed. `torture --help` says how.

use rdb_tests::arguments::Arguments;
use rdb_tests::lan::Lan;
use rdb_tests::random::new_seed;
use rdb_tests::torture::report::Report;
use rdb_tests::torture::{Fault, Options, node_logs, run};
use std::any::Any;
use std::fs;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
Breaks real clusters on purpose, again and again, while clients write and read, and judges what they were told.

Usage: torture [--seed N] [--rounds N | --duration D] [--nodes N] [--only FAULT,...] [-o json]
       torture --list

  --seed N        what is drawn is drawn from it: which fault comes next, whom it strikes [default: a new one]
  --rounds N      how many faults [default: 20, or what the duration allows]
  --duration D    no fault is begun later than that, such as 90s, 10m or 8h
  --nodes N       nodes of a cluster, 3 to 9; more than 3 are of two groups [default: 3]
  --only FAULTS   of these faults only, with commas between
  --list          the faults
  -o json         the report as one JSON object

It needs rdb-server beside it, as `cargo build --release --workspace --bins` puts it there, and etcd. Power loss takes
root, mkfs.ext4, loop devices and python3; cuts take root, ip and iptables; a failing disk and jumping clocks take a C
compiler, cc. What this machine cannot do is not run, and the report says why.

Exit codes: 0 nothing was broken; 1 a promise was broken, the report says which, how to repeat it and where data and logs
are kept; 2 wrong arguments; 3 nothing could be run; 130 interrupted.
";

fn main() -> io::Result<ExitCode> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout();
    let arguments = Arguments(&words);
    if arguments.ask_for_help() {
        write!(out, "{HELP}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.has("--list") {
        for fault in Fault::ALL {
            writeln!(out, "{:<6} {}", fault.name(), fault.about())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options = match options(arguments) {
        Ok(options) => options,
        Err(why) => {
            writeln!(io::stderr(), "error: {why}; see torture --help")?;
            return Ok(ExitCode::from(2));
        }
    };
    if let Some(lan) = Lan::inside() {
        return torture(&options, Ok(lan), arguments);
    }
    // In a network of its own also for other faults: with it comes a table of mounts that ends with this process.
    words.extend(["--seed".to_owned(), options.seed.to_string()]);
    let again: Vec<&str> = words.iter().map(String::as_str).collect();
    match Lan::run(options.nodes, &again) {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(ExitCode::from(code.unwrap_or(1)))
        }
        Err(why) => torture(&options, Err(why), Arguments(&words)),
    }
}

fn options(arguments: Arguments<'_>) -> Result<Options, String> {
    let number = |name| {
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|error| format!("{name} {text}: {error}"))
        };
        arguments.value(name).map(number).transpose()
    };
    let duration = arguments.value("--duration").map(duration).transpose()?;
    let usual = if duration.is_some() { u64::MAX } else { 20 };
    let nodes = number("--nodes")?.unwrap_or(3);
    if !(3..=9).contains(&nodes) {
        return Err(format!("--nodes {nodes}: 3 to 9"));
    }
    Ok(Options {
        seed: number("--seed")?.unwrap_or_else(|| new_seed(1_000_000)),
        rounds: number("--rounds")?.unwrap_or(usual),
        duration,
        nodes: usize::try_from(nodes).map_err(|error| error.to_string())?,
        faults: faults(arguments.value("--only"))?,
    })
}

fn faults(only: Option<&str>) -> Result<Vec<Fault>, String> {
    let Some(only) = only else {
        return Ok(Fault::ALL.to_vec());
    };
    let named = |name: &str| {
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| format!("--only {name}: there is no such fault"))
    };
    only.split(',').map(named).collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    let seconds = seconds.ok_or_else(|| format!("--duration {text}: such as 90s, 10m or 8h"))?;
    Ok(Duration::from_secs(seconds))
}

/// Runs it in this process, and prints what came of it.
fn torture(options: &Options, lan: Result<Lan, String>, arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let directory = tempfile::Builder::new().prefix("rdb-torture-").tempdir()?;
    let mut report = Report::new(options);
    writeln!(io::stderr(), "seed {}", options.seed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let running = async {
        let (mut interrupted, mut ended) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            () = run(options, lan, directory.path(), &mut report) => Ok(true),
            _ = interrupted.recv() => Ok(false),
            _ = ended.recv() => Ok(false),
        }
    };
    let ended: Result<io::Result<bool>, _> = catch_unwind(AssertUnwindSafe(|| runtime.block_on(running)));
    let is_whole = match ended {
        Ok(ended) => ended?,
        Err(panic) => {
            report.violated(&message_of(panic.as_ref()));
            true
        }
    };
    drop(runtime);
    let mut out = io::stdout();
    if arguments.value("-o") == Some("json") {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "{report}")?;
    }
    if !report.is_clean() {
        let kept = directory.keep();
        last_words(&kept)?;
        writeln!(io::stderr(), "data and logs are kept in {}", kept.display())?;
        return Ok(ExitCode::from(1));
    }
    Ok(match (is_whole, report.rounds) {
        (false, _) => ExitCode::from(130),
        (true, 0) => ExitCode::from(3),
        (true, _) => ExitCode::SUCCESS,
    })
}

/// What each node logged last: one that ended by itself says why.
fn last_words(directory: &Path) -> io::Result<()> {
    for file in node_logs(directory)? {
        let log = fs::read_to_string(&file)?;
        let lines: Vec<&str> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(3)) {
            writeln!(io::stderr(), "{}: {line}", file.display())?;
        }
    }
    Ok(())
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the run ended by a panic").to_owned()
}
