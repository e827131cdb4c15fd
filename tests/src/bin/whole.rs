//! `whole`: clusters of server and client as they are, simulated from a seed. `whole --help` says how.

use rdb_server::fatal::end_on_panic;
use rdb_tests::arguments::Arguments;
use rdb_tests::mutations::select;
use rdb_tests::random::new_seed;
use rdb_tests::whole::again::{Place, is_same_each_time};
use rdb_tests::whole::sweep::{Wanted, sweep};
use rdb_tests::whole::{Done, Plan, run};
use serde_json::json;
use std::env::current_exe;
use std::io::{self, Write as _};
use std::ops::Range;
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const HELP: &str = "\
Runs whole clusters in one thread, over a simulated network and by simulated clocks: server and client library as they
are, around a model of etcd. Everything goes wrong for a while; then all must be well within seconds, and nothing lost.

Usage: whole run --seed N [--trace FILTER] [--sabotage NAME] [-o json]
       whole sweep [--seeds A..B] [--seconds S] [--jobs N] [--sabotage NAME] [-o json]

  run              one run, the same each time
  --seed N         what is drawn is drawn from it
  --trace FILTER   prints what server and client log, such as rdb_server=debug
  sweep            many runs, each in a process of its own
  --seeds A..B     which seeds [default: 100 from a new one on]
  --seconds S      no run is begun later than that
  --jobs N         so many at once [default: 2]
  --sabotage NAME  the server makes this mistake; only in a build with the feature `sabotage`
  -o json          what came of it as one JSON object

Runs are the same each time only with a C compiler, cc: the system's entropy and clock are replaced by a small library.
Without one, `run` says so and goes on, and `sweep` does not.

Exit codes: 0 nothing was broken; 1 a promise was broken; 2 wrong arguments; 3 nothing was run.
";

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = Arguments(&words);
    if arguments.ask_for_help() {
        write!(io::stdout(), "{HELP}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(mistake) = arguments.value("--sabotage") {
        select(mistake)?;
    }
    match (words.first().map(String::as_str), arguments.number("--seed")) {
        (Some("run"), Some(seed)) if is_same_each_time() => one(seed, arguments),
        (Some("run"), Some(seed)) => the_same_again(seed, &words),
        (Some("sweep"), None) => many(arguments),
        _ => {
            writeln!(io::stderr(), "error: see whole --help")?;
            Ok(ExitCode::from(2))
        }
    }
}

/// The same program with the same words, in a process whose entropy follows from the seed.
fn the_same_again(seed: u64, words: &[String]) -> io::Result<ExitCode> {
    let place = match Place::new() {
        Ok(place) => place,
        Err(why) => {
            writeln!(io::stderr(), "not the same each time: {why}")?;
            return one(seed, Arguments(words));
        }
    };
    let ended = place.command(&current_exe()?, seed).args(words).status()?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn one(seed: u64, arguments: Arguments<'_>) -> io::Result<ExitCode> {
    // Also in tasks whose handles nobody keeps.
    end_on_panic();
    let plan = Plan::new(seed);
    let is_json = arguments.value("-o") == Some("json");
    if let Some(filter) = arguments.value("--trace") {
        let log = tracing_subscriber::fmt().with_env_filter(filter);
        log.without_time().with_ansi(false).init();
    }
    let mut out = io::stdout();
    if !is_json {
        writeln!(out, "seed {seed}: {plan}")?;
    }
    // On a thread of its own: what this one does before, such as to prepare the log, would change what is drawn.
    let done = thread::spawn(|| run(plan))
        .join()
        .unwrap_or_else(|panic| resume_unwind(panic));
    let violation = done.as_ref().err().cloned();
    if is_json {
        let done = done.as_ref().map(Done::json).ok();
        writeln!(
            out,
            "{}",
            json!({"seed": seed, "violation": violation, "done": done})
        )?;
    } else {
        match &done {
            Ok(done) => writeln!(out, "{done}")?,
            Err(violation) => writeln!(out, "violated: {violation}")?,
        }
    }
    Ok(ExitCode::from(u8::from(violation.is_some())))
}

fn many(arguments: Arguments<'_>) -> io::Result<ExitCode> {
    let Some(seeds) = seeds(arguments.value("--seeds")) else {
        writeln!(io::stderr(), "error: --seeds A..B; see whole --help")?;
        return Ok(ExitCode::from(2));
    };
    let jobs = usize::try_from(arguments.number("--jobs").unwrap_or(2))
        .unwrap_or(2)
        .max(1);
    let limit = arguments.number("--seconds").map(Duration::from_secs);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = Wanted {
        seeds,
        jobs,
        limit,
        mistake: arguments.value("--sabotage"),
        ends_when_broken: false,
    };
    let sum = runtime.block_on(sweep(&current_exe()?, wanted))?;
    let mut out = io::stdout();
    if arguments.value("-o") == Some("json") {
        writeln!(out, "{}", sum.json())?;
    } else {
        write!(out, "{sum}")?;
    }
    let code = match (sum.violations.is_empty(), sum.runs) {
        (false, _) => 1,
        (true, 0) => 3,
        (true, _) => 0,
    };
    Ok(ExitCode::from(code))
}

fn seeds(text: Option<&str>) -> Option<Range<u64>> {
    let Some(text) = text else {
        let first = new_seed(1_000_000_000);
        return Some(first..first + 100);
    };
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}
