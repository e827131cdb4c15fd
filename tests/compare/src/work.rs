//! The work: the same for every database.

use crate::meter::{Cell, Latencies, Meter, latencies, record};
use crate::peer::{Connection, KEYS, Peer, key};
use crate::servers::Servers;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use futures::future::try_join_all;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of an event's payload.
pub const PAYLOAD: usize = 256;
/// Events of a batch.
const BATCH: usize = 100;
/// Clients that append batches, and that append for a subscriber.
const BATCH_CLIENTS: usize = 16;
/// Clients that read the latest events of keys.
const READ_CLIENTS: usize = 64;
/// Events a second for the subscriber.
const RATE: u32 = 200;
/// How long the subscriber may take for the last event after it was acknowledged.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Batches of 100 from 16 clients.
    Batches,
    /// Everything that was loaded, read in order by one reader.
    CatchUp,
    /// The latest event of a key, by 64 clients.
    Latest,
    /// One event a request, from so many clients.
    Append(usize),
    /// From append to subscriber, at 200 events a second.
    Subscriber,
}

impl Work {
    /// In the order in which it is done: what is loaded is read while nothing else was written.
    pub const ONE_NODE: [Self; 7] = [
        Self::Batches,
        Self::CatchUp,
        Self::Latest,
        Self::Append(1),
        Self::Append(16),
        Self::Append(64),
        Self::Subscriber,
    ];
    /// With three nodes.
    pub const THREE_NODES: [Self; 3] = [Self::Batches, Self::Append(1), Self::Append(64)];

    /// Whether its number is a latency, at a rate that is given.
    pub fn is_latency(self) -> bool {
        self == Self::Subscriber
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batches => write!(f, "append, batches of {BATCH}, {BATCH_CLIENTS} clients"),
            Self::CatchUp => write!(f, "catch-up read of all events, 1 reader"),
            Self::Latest => write!(f, "latest event of a key, {READ_CLIENTS} clients"),
            Self::Append(1) => write!(f, "append, one event a request, 1 client"),
            Self::Append(clients) => write!(f, "append, one event a request, {clients} clients"),
            Self::Subscriber => write!(f, "append to subscriber, {RATE} events/s"),
        }
    }
}

/// How long and how much.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub struct Plan {
    /// Seconds of each measurement; a fifth of it is run before, unmeasured
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub seconds: f64,
    /// Rounds over all databases
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: u32,
    /// Events that are loaded before they are read; fewer where that takes longer than --load-seconds
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub events: u64,
    /// Seconds that the loading may go on after the measured part of it
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    pub load_seconds: f64,
}

impl Plan {
    /// Five to eight minutes for all.
    pub const QUICK: Self = Self {
        seconds: 0.8,
        rounds: 3,
        events: 100_000,
        load_seconds: 3.0,
    };
}

/// One database at work.
pub struct Session<'a> {
    /// The database.
    pub peer: &'a dyn Peer,
    /// Its servers.
    pub servers: &'a Servers,
    /// How long and how much.
    pub plan: Plan,
    /// Keys that were written; the next one is the count's.
    written: Arc<AtomicUsize>,
    /// Events that were acknowledged.
    acknowledged: Arc<AtomicU64>,
}

/// What a client does again and again.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append,
    Batch,
    Latest { keys: usize },
}

/// When a client does it.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// What is done before is not measured.
    begin: Instant,
    end: Instant,
    /// The client ends earlier when so many events were acknowledged.
    target: u64,
}

impl<'a> Session<'a> {
    /// Nothing was done yet.
    pub fn new(peer: &'a dyn Peer, servers: &'a Servers, plan: Plan) -> Self {
        Self {
            peer,
            servers,
            plan,
            written: Arc::default(),
            acknowledged: Arc::default(),
        }
    }

    /// Does one work.
    pub async fn run(&self, work: Work) -> Result<Cell> {
        match work {
            Work::Batches => self.measured(BATCH_CLIENTS, Step::Batch).await,
            Work::CatchUp => self.catch_up().await,
            Work::Latest => {
                let keys = self.written.load(Ordering::Relaxed).min(KEYS);
                ensure!(keys > 0, "no key was written");
                self.measured(READ_CLIENTS, Step::Latest { keys }).await
            }
            Work::Append(clients) => self.measured(clients, Step::Append).await,
            Work::Subscriber => self.subscriber().await,
        }
    }

    /// Appends batches until there is as much as planned, or it takes too long.
    pub async fn fill(&self) -> Result<()> {
        let begin = Instant::now();
        let end = begin + Duration::from_secs_f64(self.plan.load_seconds);
        let window = Window {
            begin,
            end,
            target: self.plan.events,
        };
        let mut clients = self.spawn(self.connections(BATCH_CLIENTS).await?, Step::Batch, window);
        while let Some(done) = clients.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Bytes of payload that the database holds.
    pub fn payload_bytes(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed) * PAYLOAD as u64
    }

    /// Closed loop: each client has one request under way.
    async fn measured(&self, clients: usize, step: Step) -> Result<Cell> {
        let seconds = Duration::from_secs_f64(self.plan.seconds);
        let connections = self.connections(clients).await?;
        let begin = Instant::now() + seconds / 5;
        let window = Window {
            begin,
            end: begin + seconds,
            target: u64::MAX,
        };
        let mut tasks = self.spawn(connections, step, window);
        tokio::time::sleep_until(begin.into()).await;
        let meter = Meter::start(self.servers)?;
        tokio::time::sleep_until(window.end.into()).await;
        let used = meter.stop(self.servers)?;
        let (mut events, mut all) = (0, latencies()?);
        while let Some(done) = tasks.join_next().await {
            let (counted, latencies) = done??;
            events += counted;
            all.add(latencies)?;
        }
        ensure!(events > 0, "no request ended within {} s", self.plan.seconds);
        used.cell(events, Some(&all))
    }

    async fn connections(&self, clients: usize) -> Result<Vec<Box<dyn Connection>>> {
        try_join_all((0..clients).map(|number| self.peer.connect(number))).await
    }

    fn spawn(&self, connections: Vec<Box<dyn Connection>>, step: Step, window: Window) -> Clients {
        let mut tasks = JoinSet::new();
        for (seed, connection) in connections.into_iter().enumerate() {
            let counts = (Arc::clone(&self.written), Arc::clone(&self.acknowledged));
            tasks.spawn(client(connection, step, window, counts, Random::new(seed)));
        }
        tasks
    }

    async fn catch_up(&self) -> Result<Cell> {
        let wanted = self.acknowledged.load(Ordering::Relaxed);
        let mut connection = self.peer.connect(0).await?;
        let meter = Meter::start(self.servers)?;
        let read = connection.read_all(wanted).await?;
        let used = meter.stop(self.servers)?;
        ensure!(
            read >= wanted,
            "{wanted} events were acknowledged, {read} came back"
        );
        used.cell(read, None)
    }

    /// Open loop: appends begin at their times whatever came of those before, and latency counts from those times.
    async fn subscriber(&self) -> Result<Cell> {
        let warm = Duration::from_secs_f64(self.plan.seconds / 5.0);
        let lasts = warm + 2 * Duration::from_secs_f64(self.plan.seconds);
        let count = (lasts.as_secs_f64() * f64::from(RATE)) as u64;
        let mut events = self.peer.connect(0).await?.subscribe().await?;
        let connections = self.connections(BATCH_CLIENTS).await?;

        let origin = Instant::now();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            connections.iter().map(|_| mpsc::channel(count as usize)).unzip();
        let meter = Meter::start(self.servers)?;
        let pacer = thread::spawn(move || pace(origin, count, &senders));
        let mut tasks = JoinSet::new();
        for (seed, (connection, times)) in connections.into_iter().zip(receivers).enumerate() {
            tasks.spawn(append_at(connection, times, Random::new(seed)));
        }
        let deliver = async {
            let mut all = latencies()?;
            for _ in 0..count {
                let payload = events.next().await.context("the subscription ended")??;
                let stamp = payload.first_chunk().context("a payload without a stamp")?;
                let begin = Duration::from_nanos(u64::from_le_bytes(*stamp));
                if begin >= warm {
                    record(&mut all, origin.elapsed().saturating_sub(begin));
                }
            }
            anyhow::Ok(all)
        };
        let all = tokio::time::timeout(lasts + DELIVERY_MAX, deliver).await;
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let used = meter.stop(self.servers)?;
        drop(pacer);
        used.cell(
            count,
            Some(&all.context("not every event was delivered in time")??),
        )
    }
}

type Clients = JoinSet<Result<(u64, Latencies)>>;

async fn client(
    mut connection: Box<dyn Connection>,
    step: Step,
    window: Window,
    (written, acknowledged): (Arc<AtomicUsize>, Arc<AtomicU64>),
    mut random: Random,
) -> Result<(u64, Latencies)> {
    let (mut events, mut all) = (0, latencies()?);
    loop {
        let begin = Instant::now();
        if begin >= window.end || acknowledged.load(Ordering::Relaxed) >= window.target {
            return Ok((events, all));
        }
        let done = match step {
            Step::Append => {
                let key = key(written.fetch_add(1, Ordering::Relaxed) % KEYS);
                connection.append(&key, random.payload()).await?;
                1
            }
            Step::Batch => {
                let key = key(written.fetch_add(1, Ordering::Relaxed) % KEYS);
                let payloads = (0..BATCH).map(|_| random.payload()).collect();
                connection.append_batch(&key, payloads).await?;
                BATCH as u64
            }
            Step::Latest { keys } => {
                let bytes = connection.latest(&key(random.below(keys))).await?;
                ensure!(bytes == PAYLOAD, "an event of {bytes} bytes came back");
                1
            }
        };
        if !matches!(step, Step::Latest { .. }) {
            acknowledged.fetch_add(done, Ordering::Relaxed);
        }
        let end = Instant::now();
        if end > window.begin && end <= window.end {
            events += done;
            record(&mut all, end - begin);
        }
    }
}

/// Gives each its times in turn. A thread, since the timers of tokio are a millisecond coarse.
fn pace(origin: Instant, count: u64, senders: &[mpsc::Sender<Duration>]) {
    let interval = Duration::from_secs(1) / RATE;
    let mut at = Duration::ZERO;
    for (_, sender) in (0..count).zip(senders.iter().cycle()) {
        thread::sleep(at.saturating_sub(origin.elapsed()));
        // There is room for all: the client has failed, and says so itself.
        if sender.try_send(at).is_err() {
            return;
        }
        at += interval;
    }
}

async fn append_at(
    mut connection: Box<dyn Connection>,
    mut times: mpsc::Receiver<Duration>,
    mut random: Random,
) -> Result<()> {
    while let Some(at) = times.recv().await {
        let mut payload = random.payload().to_vec();
        if let Some(stamp) = payload.first_chunk_mut() {
            *stamp = u64::try_from(at.as_nanos())?.to_le_bytes();
        }
        connection
            .append_told(&key(random.below(KEYS)), payload.into())
            .await?;
    }
    Ok(())
}

/// Numbers that no compression makes smaller (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn new(seed: usize) -> Self {
        let mut random = Self(0x9E37_79B9_7F4A_7C15 ^ ((seed as u64 + 1) << 17));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn payload(&mut self) -> Bytes {
        let mut payload = [0; PAYLOAD];
        for part in payload.chunks_exact_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes());
        }
        Bytes::copy_from_slice(&payload)
    }
}
