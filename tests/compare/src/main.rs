//! Puts RDB beside what people would use instead. `scripts/compare` builds it, finds the servers and runs it.
//!
//! | module | what it decides |
//! |---|---|
//! | `peer` | what every database is asked to do |
//! | `peers` | each database: its settings, and its own client |
//! | `work` | the load: which clients do what, for how long |
//! | `meter` | what is counted |
//! | `servers` | processes, and the folder of their data |
//! | `machine` | where it ran |
//! | `growth` | the same work on RDB with ever more of something |
//! | `report`, `chart` | tables, and a picture |

mod chart;
mod growth;
mod machine;
mod meter;
mod peer;
mod peers;
mod report;
mod servers;
mod work;

use anyhow::{Context, Result, bail};
use clap::Parser;
use machine::Machine;
use peers::Entry;
use report::{Compared, Outcome, Report, Round};
use servers::Servers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use work::{PAYLOAD, Plan, Session, Work};

/// Puts RDB beside what people would use instead: the same work on each, in turn, in several rounds
#[derive(Debug, Parser)]
#[command(name = "scripts/compare")]
struct Arguments {
    /// Some ten minutes for all, in place of some eighty: 3 rounds of 0.8 s, 100,000 events
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "events", "load_seconds"])]
    quick: bool,
    #[command(flatten)]
    plan: Plan,
    /// Only these, besides RDB: umadb, postgres, redis, etcd, nats, bare
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    peers: Vec<String>,
    /// Only one node, or only those of several
    #[arg(long, value_name = "N", value_parser = ["1", "3"])]
    nodes: Option<String>,
    /// Folder for compare.md, compare.json and compare.svg
    #[arg(short, long, default_value = "compare-result", value_name = "DIR")]
    output: PathBuf,
    /// Folder for the data of all databases while this runs, on the disk that is to be measured; every user must be able to
    /// pass through it
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    data: PathBuf,
    /// How RDB's cost grows instead: with events, keys, seats, subscribers and clients; growth.md, .json and .svg
    #[arg(long, conflicts_with_all = ["peers", "nodes", "events"])]
    growth: bool,
    /// Is the server of `bare`, on this port, and nothing else
    #[arg(long, hide = true, value_name = "PORT")]
    bare_server: Option<u16>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(port) = arguments.bare_server {
        runtime.block_on(peers::bare::serve(port))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Servers are started by this thread, and end with it.
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut ended = signal(SignalKind::terminate())?;
        // Whatever runs is dropped here, and its servers with it.
        tokio::select! {
            done = run(arguments) => done.map(|()| ExitCode::SUCCESS),
            _ = interrupted.recv() => Ok(ExitCode::from(130)),
            _ = ended.recv() => Ok(ExitCode::from(143)),
        }
    })
}

async fn run(arguments: Arguments) -> Result<()> {
    let plan = if arguments.quick {
        Plan::QUICK
    } else {
        arguments.plan
    };
    if arguments.growth {
        let folders = (&*arguments.data, &*arguments.output);
        let growth = growth::run(plan, arguments.quick, folders).await?;
        println!("{}", growth.markdown());
        eprintln!(
            "written: {}/growth.md, .json and .svg",
            arguments.output.display()
        );
        return Ok(());
    }
    let entries = chosen(&arguments)?;
    let machine = Machine::here(&arguments.data)?;
    let compared = entries.iter().map(Compared::new).collect();
    let mut report = Report {
        machine,
        plan,
        payload: PAYLOAD,
        compared,
    };
    for entry in &report.compared {
        if let Some(missing) = &entry.missing {
            eprintln!("without {} ({}): {missing}", entry.title, entry.setting);
        }
    }
    for round in 0..plan.rounds {
        // Back and forth, so that what changes with time changes for all alike.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let (Some(entry), Some(compared)) = (entries.get(i), report.compared.get_mut(i)) else {
                continue;
            };
            if compared.missing.is_none() {
                eprintln!(
                    "round {} of {}: {}, {}",
                    round + 1,
                    plan.rounds,
                    entry.title,
                    entry.setting
                );
                compared
                    .rounds
                    .push(one_round(entry, plan, &arguments.data).await?);
            }
        }
        // Each round, so that whoever interrupts the next one has a result.
        report.store(&arguments.output)?;
    }
    println!("{}", report.markdown());
    eprintln!(
        "written: {}/compare.md, .json and .svg",
        arguments.output.display()
    );
    Ok(())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Entry>> {
    let all = peers::all();
    let names: BTreeSet<&str> = all.iter().map(|entry| entry.peer).collect();
    if let Some(unknown) = arguments.peers.iter().find(|name| !names.contains(name.as_str())) {
        bail!(
            "there is no `{unknown}`; there are: {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let is_named = |entry: &Entry| {
        arguments.peers.is_empty()
            || entry.peer == "rdb"
            || arguments.peers.iter().any(|name| name == entry.peer)
    };
    let has_nodes = |entry: &Entry| {
        arguments
            .nodes
            .as_ref()
            .is_none_or(|nodes| *nodes == entry.nodes.to_string())
    };
    Ok(all
        .into_iter()
        .filter(|entry| is_named(entry) && has_nodes(entry))
        .collect())
}

/// All works on new data. What goes wrong is a result, too.
async fn one_round(entry: &Entry, plan: Plan, data: &Path) -> Result<Round> {
    let load_before = machine::load()?;
    let home = data.join(format!("rdb-compare-{}", std::process::id()));
    let mut servers = Servers::new(home)?;
    let works = if entry.nodes == 1 {
        &Work::ONE_NODE[..]
    } else {
        &Work::THREE_NODES[..]
    };
    let mut round = Round {
        load_before,
        works: Vec::new(),
        memory: 0,
        loaded: 0,
        disk: 0,
    };
    let peer = match (entry.start)(&mut servers).await {
        Ok(peer) => peer,
        Err(error) => {
            eprintln!("  it did not start: {error:#}");
            round.works = works
                .iter()
                .map(|work| (*work, Outcome::Failed(format!("{error:#}"))))
                .collect();
            return Ok(round);
        }
    };
    let session = Session::new(&*peer, &servers, plan);
    // Nothing takes this long that goes well.
    let patience = Duration::from_secs_f64(60.0 + 100.0 * plan.seconds + 2.0 * plan.load_seconds);
    for work in works {
        if (entry.lacks)(*work).is_some() {
            continue;
        }
        let done = tokio::time::timeout(patience, async {
            let cell = session.run(*work).await?;
            if *work == Work::Batches && entry.nodes == 1 {
                session.fill().await?;
            }
            anyhow::Ok(cell)
        });
        let done = done.await.context("it took too long").flatten();
        if *work == Work::Batches {
            round.loaded = session.payload_bytes();
            round.disk = servers.disk()?;
        }
        round.memory = round.memory.max(servers.memory()?);
        let outcome = done.map_or_else(
            |error| {
                eprintln!("  {work}: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            },
            Outcome::Measured,
        );
        round.works.push((*work, outcome));
    }
    Ok(round)
}
