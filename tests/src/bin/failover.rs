//! `failover [--times N] [--ways kill,pause,members,etcd]`: for how long keys take no writes when the leader of their seat
//! is lost in one way or another, and what the keys of the other seat feel of it. A measurement, with default settings;
//! needs root for its network namespaces, and `rdb-server` built in the same profile.

use rdb_tests::arguments::Arguments;
use rdb_tests::cluster::Cluster;
use rdb_tests::failover::{WAYS, measure};
use rdb_tests::lan::Lan;
use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> io::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(lan) = Lan::inside() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(table(&lan, Arguments(&words)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Lan::run(3, &words) {
        Ok(status) if status.success() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(why) => {
            writeln!(io::stderr(), "error: no network namespaces here: {why}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn table(lan: &Lan, arguments: Arguments<'_>) -> io::Result<()> {
    let times = arguments.number("--times").unwrap_or(20).max(1);
    let wanted = arguments.value("--ways").unwrap_or("kill,pause,members,etcd");
    let mut cluster = Cluster::start_on(lan, 3, &[]).await;
    let mut out = io::stdout();
    writeln!(
        out,
        "milliseconds without a write to the lost seat, and the slowest write to the other"
    )?;
    writeln!(out, "way      times    p50    p99    max    other")?;
    for (name, way) in WAYS
        .iter()
        .filter(|(name, _)| wanted.split(',').any(|word| word == *name))
    {
        let measured = measure(&mut cluster, lan, *way, times).await;
        writeln!(out, "{}", measured.line(name))?;
    }
    Ok(())
}
