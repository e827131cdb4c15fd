//! `scorecard`: each promise, how it is tried, how often, and what was seen. `scripts/scorecard --help` says how.

use rdb_tests::scorecard::{Card, Form, rows};
use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode};

const HELP: &str = "\
Tries every promise, and puts what was seen beside the figures that are asked.

Usage: scorecard [--quick] [--only ROWS] [--json FILE]

  --quick       a tenth of it, in minutes
  --only ROWS   these rows only, with commas between: torture, retries, failover, sim, whole, damage, disk, fuzz,
                sabotage, model-etcd; torture makes four of them
  --json FILE   also for programs

It needs the tools beside it, as `cargo build --release --workspace --bins` puts them there.

Exit codes: 0 nothing was broken; 1 a promise was broken; 2 wrong arguments.
";

fn main() -> io::Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let (mut form, mut json, mut only) = (Form::Full, None, None);
    let mut out = io::stdout();
    while let Some(word) = words.next() {
        match (word.as_str(), json.is_none()) {
            ("--quick", _) => form = Form::Quick,
            ("--json", true) => json = words.next(),
            ("--only", _) => only = words.next(),
            ("--help" | "-h", _) => {
                out.write_all(HELP.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            _ => {
                io::stderr().write_all(HELP.as_bytes())?;
                return Ok(ExitCode::from(2));
            }
        }
    }
    let wanted: Vec<&str> = match &only {
        None => rows::NAMES.to_vec(),
        Some(only) => only.split(',').collect(),
    };
    if let Some(unknown) = wanted.iter().find(|name| !rows::NAMES.contains(name)) {
        writeln!(
            io::stderr(),
            "error: --only {unknown}: there are {}",
            rows::NAMES.join(", ")
        )?;
        return Ok(ExitCode::from(2));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let card = Card {
        form,
        date: said("date", &["-u", "+%F"]),
        commit: said("git", &["describe", "--always", "--dirty", "--exclude=*"]),
        machine: machine(),
        rows: runtime.block_on(rows::all(form, &wanted)),
    };
    if let Some(file) = json {
        fs::write(file, format!("{:#}\n", card.json()))?;
    }
    write!(out, "{card}")?;
    Ok(ExitCode::from(u8::from(!card.is_clean())))
}

/// What a program of the system says, in a line.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let output = output.filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    // Failovers are measured in milliseconds: whoever reads them wants to know what else was going on.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    format!("{cores} cores, load {load} at the start, {profile} build")
}
