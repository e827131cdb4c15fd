//! `steps`: what a server does for every event, step by step. `steps --help` says how.

use rdb_tests::arguments::Arguments;
use rdb_tests::steps::{Count, Counted, KEPT, STEPS, count, counted, kept, written};
use std::io::{self, Write as _};
use std::process::ExitCode;

const HELP: &str = "\
The steps that a server makes for every event, each by itself.

Usage: steps count [--keep]
       steps run [--times N]

  count   count the instructions of each by callgrind, beside those that were kept
  run     make each so often, for another tool to look at

  --keep      keep the counts: tests/steps.txt
  --times N   how often [default: 1000]

Exit codes: 0 all is well; 1 a step takes far more than what was kept, or valgrind is missing; 2 wrong arguments.
";

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = Arguments(&words);
    let mut out = io::stdout();
    if arguments.ask_for_help() {
        out.write_all(HELP.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match words.first().map(String::as_str) {
        Some("run") => {
            let times = arguments.number("--times").unwrap_or(1_000);
            for step in STEPS {
                counted(&mut step.prepare(), times);
            }
            Ok(ExitCode::SUCCESS)
        }
        Some("count") if arguments.has("--keep") && !cfg!(debug_assertions) => {
            writeln!(
                io::stderr(),
                "error: counts are kept of the build that scripts/test makes"
            )?;
            Ok(ExitCode::from(2))
        }
        Some("count") => match count(&std::env::current_exe()?)? {
            Counted::NotRun(why) => {
                writeln!(io::stderr(), "error: {why}")?;
                Ok(ExitCode::FAILURE)
            }
            Counted::All(counts) if arguments.has("--keep") => {
                std::fs::write(KEPT, written(&counts))?;
                Ok(ExitCode::SUCCESS)
            }
            Counted::All(counts) => show(&counts),
        },
        _ => {
            io::stderr().write_all(HELP.as_bytes())?;
            Ok(ExitCode::from(2))
        }
    }
}

fn show(counts: &[Count]) -> io::Result<ExitCode> {
    let (mut out, kept) = (io::stdout(), kept()?);
    writeln!(
        out,
        "{:<40} {:>12} {:>12} {:>8}",
        "step", "instructions", "an event", "of kept"
    )?;
    for count in counts {
        let Count { step, instructions } = count;
        let an_event = instructions / u64::try_from(step.events).unwrap_or(1);
        let percent = count.percent(&kept);
        let percent = percent.map_or_else(|| "none".to_owned(), |percent| format!("{percent} %"));
        writeln!(
            out,
            "{:<40} {instructions:>12} {an_event:>12} {percent:>8}",
            step.name
        )?;
    }
    let is_too_much = counts.iter().any(|count| count.is_too_much(&kept));
    Ok(ExitCode::from(u8::from(is_too_much)))
}
