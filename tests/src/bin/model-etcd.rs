//! `model-etcd`: the same random operations on the model of etcd and on a real one. `model-etcd --help` says how.

use rdb_tests::arguments::Arguments;
use rdb_tests::etcd::Etcd;
use rdb_tests::model_etcd::differential::{Plan, run};
use rdb_tests::random::{Random, new_seed};
use rdb_tests::say;
use std::io::{self, Write as _};
use std::process::ExitCode;

const HELP: &str = "\
Asks the same random operations of the model of etcd and of a real one, which it starts, and compares what both say.

Usage: model-etcd [--operations N] [--seed N] [-o json]

  --operations N   how many [default: 50000]
  --seed N         what is drawn is drawn from it [default: a new one]

Exit codes: 0 no difference; 1 a difference, which is told; 2 wrong arguments.
";

/// One lease in so many operations is left to end by itself, which takes some seconds.
const OPERATIONS_A_LAPSE: u64 = 5_000;

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = Arguments(&words);
    let mut out = io::stdout();
    if arguments.ask_for_help() {
        out.write_all(HELP.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if words.first().is_some_and(|word| !word.starts_with('-')) {
        io::stderr().write_all(HELP.as_bytes())?;
        return Ok(ExitCode::from(2));
    }
    let operations = arguments.number("--operations").unwrap_or(50_000);
    let seed: Option<u64> = arguments.number("--seed");
    let seed = seed.unwrap_or_else(|| new_seed(1_000_000));
    say(&format!("seed {seed}"));
    let plan = Plan {
        operations,
        lapses: operations / OPERATIONS_A_LAPSE,
        random: Random::new(seed),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (done, all) = runtime.block_on(async {
        let etcd = Etcd::start().await;
        Box::pin(run(&etcd, plan)).await
    });
    let difference = all.err();
    if arguments.has("json") {
        writeln!(out, "{}", done.json(seed, difference.as_deref()))?;
    } else {
        writeln!(out, "{done:?}")?;
        writeln!(out, "{}", difference.as_deref().unwrap_or("no difference"))?;
    }
    Ok(ExitCode::from(u8::from(difference.is_some())))
}
