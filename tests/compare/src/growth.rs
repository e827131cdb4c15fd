//! How RDB's cost grows: the same appends with ever more events, keys, seats, subscribers and clients.

use crate::chart;
use crate::machine::Machine;
use crate::meter::Cell;
use crate::peer::Peer;
use crate::peers::rdb;
use crate::report::{count, line, median, milliseconds};
use crate::servers::Servers;
use crate::work::{PAYLOAD, Plan, Session, Work};
use anyhow::Result;
use futures::StreamExt;
use serde::Serialize;
use std::fs;
use std::path::Path;
use tokio::task::JoinSet;

/// Clients that append, unless their number is what grows.
const CLIENTS: usize = 64;
/// Part of the machine that others may use while something is measured.
const OTHERS_MAX: f64 = 0.15;
/// How often it is measured again for that.
const REPEATS_MAX: u32 = 3;
/// How long it may take to load what a point has more than the one before.
const LOAD_SECONDS: f64 = 900.0;

/// What there is more of, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    Events,
    Keys,
    Seats,
    Subscribers,
    Clients,
}

impl Axis {
    const ALL: [Self; 5] = [
        Self::Events,
        Self::Keys,
        Self::Seats,
        Self::Subscribers,
        Self::Clients,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Events => "events there before",
            Self::Keys => "keys, each written once before",
            Self::Seats => "seats",
            Self::Subscribers => "live subscribers that are told everything",
            Self::Clients => "clients that append",
        }
    }

    /// Its points. The longest of those that must be loaded first are left out when it is to be quick.
    fn points(self, is_quick: bool) -> &'static [u64] {
        match (self, is_quick) {
            (Self::Events, false) => &[10_000, 100_000, 1_000_000, 10_000_000],
            (Self::Events, true) => &[10_000, 100_000, 1_000_000],
            (Self::Keys, false) => &[1_000, 10_000, 100_000, 1_000_000],
            (Self::Keys, true) => &[1_000, 10_000, 100_000],
            (Self::Seats, _) => &[2, 8, 32, 128],
            (Self::Subscribers, _) => &[0, 1, 10, 100],
            (Self::Clients, _) => &[1, 4, 16, 64, 256],
        }
    }
}

/// What was measured at one point, in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    axis: Axis,
    at: u64,
    /// One event a request, from many clients.
    append: Cell,
    /// The same from one client.
    alone: Option<Cell>,
    /// Point reads.
    latest: Option<Cell>,
    /// Of the server in the end, bytes.
    memory: u64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Growth {
    machine: Machine,
    plan: Plan,
    measured: Vec<Measured>,
}

/// Measures every axis, in several rounds, and keeps what there is after each.
pub async fn run(plan: Plan, is_quick: bool, (data, output): (&Path, &Path)) -> Result<Growth> {
    let mut growth = Growth {
        machine: Machine::here(data)?,
        // Without all that should be there, a point would say nothing.
        plan: Plan {
            load_seconds: plan.load_seconds.max(LOAD_SECONDS),
            ..plan
        },
        measured: Vec::new(),
    };
    for round in 1..=plan.rounds {
        for axis in Axis::ALL {
            eprintln!("round {round} of {}: {}", plan.rounds, axis.title());
            growth.grow(axis, is_quick, data).await?;
        }
        growth.store(output)?;
    }
    Ok(growth)
}

impl Growth {
    async fn grow(&mut self, axis: Axis, is_quick: bool, data: &Path) -> Result<()> {
        let home = data.join(format!("rdb-growth-{}", std::process::id()));
        let points = axis.points(is_quick);
        match axis {
            // These go on with one server: each point has all that those before it had.
            Axis::Events | Axis::Subscribers | Axis::Clients => {
                let mut servers = Servers::new(home)?;
                let peer = rdb::start_one(&mut servers, &[]).await?;
                let session = Session::new(&*peer, &servers, self.plan);
                let mut subscribers = JoinSet::new();
                for at in points {
                    match axis {
                        Axis::Events => session.fill_to(*at).await?,
                        Axis::Subscribers => subscribe(&*peer, &mut subscribers, *at).await?,
                        Axis::Keys | Axis::Seats | Axis::Clients => {}
                    }
                    self.measure(&session, axis, *at).await?;
                }
            }
            Axis::Keys | Axis::Seats => {
                for at in points {
                    let mut servers = Servers::new(home.clone())?;
                    // A group has two seats.
                    let groups = (at / 2).to_string();
                    let settings = [("SHARD_GROUPS", &*groups)];
                    let settings = if axis == Axis::Seats { &settings[..] } else { &[] };
                    let peer = rdb::start_one(&mut servers, settings).await?;
                    let mut session = Session::new(&*peer, &servers, self.plan);
                    if axis == Axis::Keys {
                        session.keys = usize::try_from(*at)?;
                    }
                    session.write_keys().await?;
                    self.measure(&session, axis, *at).await?;
                }
            }
        }
        Ok(())
    }

    async fn measure(&mut self, session: &Session<'_>, axis: Axis, at: u64) -> Result<()> {
        let is_stored = matches!(axis, Axis::Events | Axis::Keys | Axis::Seats);
        let clients = if axis == Axis::Clients {
            usize::try_from(at)?
        } else {
            CLIENTS
        };
        let append = quiet(session, Work::Append(clients)).await?;
        let alone = if axis == Axis::Clients {
            None
        } else {
            Some(quiet(session, Work::Append(1)).await?)
        };
        let latest = if is_stored {
            Some(quiet(session, Work::Latest).await?)
        } else {
            None
        };
        self.measured.push(Measured {
            axis,
            at,
            append,
            alone,
            latest,
            memory: session.servers.memory()?,
        });
        Ok(())
    }

    fn store(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("growth.md"), self.markdown())?;
        fs::write(folder.join("growth.json"), serde_json::to_string_pretty(self)?)?;
        let curves = Axis::ALL.map(|axis| (axis.title(), self.curve(axis)));
        fs::write(folder.join("growth.svg"), chart::curves(&curves))?;
        Ok(())
    }

    /// Appends a second at each point, medians.
    fn curve(&self, axis: Axis) -> Vec<(u64, f64)> {
        let rate = |at| Some((at, self.middle(axis, at, |point| Some(point.append.rate))?));
        axis.points(false).iter().filter_map(|at| rate(*at)).collect()
    }

    fn middle(&self, axis: Axis, at: u64, number: fn(&Measured) -> Option<f64>) -> Option<f64> {
        let here = self
            .measured
            .iter()
            .filter(|point| (point.axis, point.at) == (axis, at));
        median(&here.filter_map(number).collect::<Vec<_>>())
    }

    /// As it is read.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        line(&mut text, "# How RDB's cost grows\n");
        let Plan { seconds, rounds, .. } = self.plan;
        line(
            &mut text,
            &format!(
                "One node, fdatasync before each acknowledgement, events of {PAYLOAD} bytes, one a request from {CLIENTS} clients \
                 with a connection each (in the last table from as many as it says). Medians of {rounds} rounds of {seconds} s; what \
                 was measured while others used more than {others:.0} % of the machine was measured again, at most {REPEATS_MAX} \
                 times. Load generator and server share the machine: {}.",
                self.machine,
                others = OTHERS_MAX * 100.0,
            ),
        );
        for axis in Axis::ALL {
            self.table(axis, &mut text);
        }
        text
    }

    fn table(&self, axis: Axis, text: &mut String) {
        line(text, &format!("\n## More {}\n", axis.title()));
        line(
            text,
            "| | appends/s | of the first | p50 / p99 ms | one client, p50 ms | point reads/s | CPU server us | memory MiB |",
        );
        line(text, "|---|---|---|---|---|---|---|---|");
        let curve = self.curve(axis);
        let first = curve.first().map(|(_, rate)| *rate);
        for (at, rate) in &curve {
            let shown = |number: fn(&Measured) -> Option<f64>, show: fn(f64) -> String| {
                self.middle(axis, *at, number)
                    .map_or_else(|| "-".to_owned(), show)
            };
            line(
                text,
                &format!(
                    "| {} | {} | {:.2} | {} / {} | {} | {} | {} | {} |",
                    count(*at as f64),
                    count(*rate),
                    first.map_or(1.0, |first| rate / first),
                    shown(|point| point.append.p50_ms, milliseconds),
                    shown(|point| point.append.p99_ms, milliseconds),
                    shown(|point| point.alone.as_ref()?.p50_ms, milliseconds),
                    shown(|point| Some(point.latest.as_ref()?.rate), count),
                    shown(|point| Some(point.append.server_us), milliseconds),
                    shown(|point| Some(point.memory as f64 / f64::from(1 << 20)), count),
                ),
            );
        }
    }
}

/// Measures a work, and again when others used much of the machine meanwhile: a point stands in a curve, where it would look like
/// a cliff.
async fn quiet(session: &Session<'_>, work: Work) -> Result<Cell> {
    let mut quietest = session.run(work).await?;
    for _ in 0..REPEATS_MAX {
        if quietest.others < OTHERS_MAX {
            break;
        }
        let again = session.run(work).await?;
        if again.others < quietest.others {
            quietest = again;
        }
    }
    Ok(quietest)
}

/// Adds subscribers until there are so many; each throws away what it is told.
async fn subscribe(peer: &dyn Peer, subscribers: &mut JoinSet<()>, wanted: u64) -> Result<()> {
    for number in subscribers.len()..usize::try_from(wanted)? {
        let mut told = peer.connect(number).await?.subscribe().await?;
        subscribers.spawn(async move { while let Some(Ok(_event)) = told.next().await {} });
    }
    Ok(())
}
