//! The work: the same for every database.

use crate::meter::{Cell, Latencies, Meter, latencies, record};
use crate::peer::{Connection, KEYS, Peer, UNDER_WAY_MAX, key};
use crate::report::count;
use crate::servers::Servers;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryFutureExt};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of an event's payload, where the work says nothing else.
pub const PAYLOAD: usize = 256;
/// Bytes of a large event's payload.
const PAYLOAD_LARGE: usize = 1_024;
/// Events of a batch.
const BATCH: usize = 100;
/// Clients that append batches, and that append for a subscriber.
const BATCH_CLIENTS: usize = 16;
/// Clients that append under a condition.
const EXPECTING_CLIENTS: usize = 16;
/// Keys that each of them has for itself.
const EXPECTING_KEYS: usize = KEYS / EXPECTING_CLIENTS;
/// Tasks that write each of many keys, with one client.
const KEY_WRITERS: usize = 256;
/// Clients that read the latest events of keys.
const READ_CLIENTS: usize = 64;
/// How long the first attempt to append after a restart may take; each of the next ones may take a quarter longer.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);
/// Between two of them.
const RESTART_LOOK: Duration = Duration::from_millis(5);
/// How long servers may take to start.
const RESTART_MAX: Duration = Duration::from_secs(120);
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
    /// One event a request, from so many tasks that share one client.
    Shared(usize),
    /// From append to subscriber, at so many events a second.
    Subscriber(u32),
    /// From the start of servers that were killed to the first acknowledged append.
    Restart,
    /// One event of 1,024 bytes a request, from so many clients.
    AppendLarge(usize),
    /// One event a request that says what it expects to be the last one of its key, from 16 clients with keys of their own.
    AppendExpecting,
    /// One event a request, from one client that does not wait for each before it sends the next.
    Pipelined,
}

impl Work {
    /// In the order in which it is done: what is loaded is read while nothing else was written, and a restart comes before
    /// those that leave the fast with many more events than the slow.
    pub const ONE_NODE: [Self; 15] = [
        Self::Batches,
        Self::CatchUp,
        Self::Latest,
        Self::Append(1),
        Self::Append(16),
        Self::Append(64),
        Self::Append(256),
        Self::Shared(64),
        Self::Subscriber(200),
        Self::Subscriber(1_000),
        Self::Restart,
        Self::AppendLarge(1),
        Self::AppendLarge(64),
        Self::AppendExpecting,
        Self::Pipelined,
    ];
    /// With several nodes.
    pub const THREE_NODES: [Self; 4] = [Self::Batches, Self::Append(1), Self::Append(64), Self::Shared(64)];

    /// Whether its number is a time, and not how much is done in one.
    pub fn is_latency(self) -> bool {
        matches!(self, Self::Subscriber(_) | Self::Restart)
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batches => write!(f, "append, batches of {BATCH}, {BATCH_CLIENTS} clients"),
            Self::CatchUp => write!(f, "catch-up read of all events, 1 reader"),
            Self::Latest => write!(f, "latest event of a key, {READ_CLIENTS} clients"),
            Self::Append(clients) => write!(f, "append, one event a request, {}", Clients(*clients)),
            Self::Shared(tasks) => write!(
                f,
                "append, one event a request, {tasks} tasks that share a client"
            ),
            Self::Subscriber(rate) => write!(f, "append to subscriber, {rate} events/s"),
            Self::Restart => write!(f, "restart with all events, to the first acknowledged append"),
            Self::AppendLarge(clients) => write!(
                f,
                "append, one event of {} bytes a request, {}",
                count(PAYLOAD_LARGE as f64),
                Clients(*clients)
            ),
            Self::AppendExpecting => write!(
                f,
                "conditional append, one event a request, {EXPECTING_CLIENTS} clients with keys of their own"
            ),
            Self::Pipelined => write!(
                f,
                "append, one event a request, 1 client with up to {} under way",
                count(UNDER_WAY_MAX as f64)
            ),
        }
    }
}

/// So many clients, as people read it.
struct Clients(usize);

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count) = self;
        write!(f, "{count} client{}", if *count == 1 { "" } else { "s" })
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
    /// Some twelve minutes for all; some nine where NATS cannot flush before it acknowledges, and half of it is left out.
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
    /// How many keys there are.
    pub keys: usize,
    /// Keys that were written; the next one is the count's.
    written: Arc<AtomicUsize>,
    /// Events that were acknowledged.
    acknowledged: Arc<AtomicU64>,
}

/// What a client does again and again.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append { bytes: usize },
    AppendExpecting,
    Batch,
    Latest { keys: usize },
}

/// One event of the usual size.
const APPEND: Step = Step::Append { bytes: PAYLOAD };

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
            keys: KEYS,
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
                let keys = self.written.load(Ordering::Relaxed).min(self.keys);
                ensure!(keys > 0, "no key was written");
                self.measured(READ_CLIENTS, Step::Latest { keys }).await
            }
            Work::Append(clients) => self.measured(clients, APPEND).await,
            Work::Shared(tasks) => {
                let connections = self.peer.share(tasks).await?;
                self.measured_on(connections, APPEND).await
            }
            Work::Subscriber(rate) => self.subscriber(rate).await,
            Work::Restart => self.restart().await,
            Work::AppendLarge(clients) => {
                let bytes = PAYLOAD_LARGE;
                self.measured(clients, Step::Append { bytes }).await
            }
            Work::AppendExpecting => self.append_expecting().await,
            Work::Pipelined => self.pipelined().await,
        }
    }

    /// Appends batches until there is as much as planned, or it takes too long.
    pub async fn fill(&self) -> Result<()> {
        let connections = self.connections(BATCH_CLIENTS).await?;
        self.fill_by(connections, Step::Batch, self.plan.events).await
    }

    /// Appends batches until there are so many events, or it takes too long.
    pub async fn fill_to(&self, events: u64) -> Result<()> {
        let connections = self.connections(BATCH_CLIENTS).await?;
        self.fill_by(connections, Step::Batch, events).await?;
        self.loaded(events)
    }

    /// Appends to each key once.
    pub async fn write_keys(&self) -> Result<()> {
        let connections = self.peer.share(KEY_WRITERS).await?;
        self.fill_by(connections, APPEND, self.keys as u64).await?;
        self.loaded(self.keys as u64)
    }

    fn loaded(&self, wanted: u64) -> Result<()> {
        let loaded = self.acknowledged.load(Ordering::Relaxed);
        ensure!(
            loaded >= wanted,
            "only {loaded} of {wanted} events were loaded in time"
        );
        Ok(())
    }

    async fn fill_by(&self, connections: Vec<Box<dyn Connection>>, step: Step, target: u64) -> Result<()> {
        let begin = Instant::now();
        let end = begin + Duration::from_secs_f64(self.plan.load_seconds);
        let mut clients = self.spawn(connections, step, Window { begin, end, target });
        while let Some(done) = clients.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Bytes of payload that the database holds.
    pub fn payload_bytes(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed) * PAYLOAD as u64
    }

    async fn measured(&self, clients: usize, step: Step) -> Result<Cell> {
        self.measured_on(self.connections(clients).await?, step).await
    }

    /// Closed loop: each client has one request under way.
    async fn measured_on(&self, connections: Vec<Box<dyn Connection>>, step: Step) -> Result<Cell> {
        let window = self.window();
        self.metered(self.spawn(connections, step, window), window).await
    }

    /// As long as planned, from now on.
    fn window(&self) -> Window {
        let seconds = Duration::from_secs_f64(self.plan.seconds);
        let begin = Instant::now() + seconds / 5;
        Window {
            begin,
            end: begin + seconds,
            target: u64::MAX,
        }
    }

    async fn metered(&self, mut tasks: Tasks, window: Window) -> Result<Cell> {
        tokio::time::sleep_until(window.begin.into()).await;
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

    fn spawn(&self, connections: Vec<Box<dyn Connection>>, step: Step, window: Window) -> Tasks {
        let mut tasks = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            tasks.spawn(client(connection, step, window, self.counts(), number));
        }
        tasks
    }

    fn counts(&self) -> Counts {
        Counts {
            keys: self.keys,
            written: Arc::clone(&self.written),
            acknowledged: Arc::clone(&self.acknowledged),
        }
    }

    async fn pipelined(&self) -> Result<Cell> {
        let connection = self.peer.connect(0).await?;
        let window = self.window();
        let mut tasks = JoinSet::new();
        tasks.spawn(pipeline(connection, window, self.counts(), Random::new(0)));
        self.metered(tasks, window).await
    }

    /// Once in a session: the keys must not be there before.
    async fn append_expecting(&self) -> Result<Cell> {
        let cell = self.measured(EXPECTING_CLIENTS, Step::AppendExpecting).await?;
        let mut connection = self.peer.connect(0).await?;
        // There are events by now.
        let key = own_key(0, 0);
        let payload = Random::new(0).payload(PAYLOAD);
        let appended = connection.append_expecting(&key, payload, 0).await;
        ensure!(
            appended.is_err(),
            "the condition did not hold, and it was appended"
        );
        Ok(cell)
    }

    /// As much as was loaded; from those that nothing can be loaded into, as much as would have been.
    async fn catch_up(&self) -> Result<Cell> {
        let wanted = match self.acknowledged.load(Ordering::Relaxed) {
            0 => self.plan.events,
            loaded => loaded,
        };
        let mut connection = self.peer.connect(0).await?;
        let meter = Meter::start(self.servers)?;
        let read = connection.read_all(wanted).await?;
        let used = meter.stop(self.servers)?;
        ensure!(read >= wanted, "of {wanted} events {read} came back");
        used.cell(read, None)
    }

    /// Kills the servers and starts them on what they left.
    async fn restart(&self) -> Result<Cell> {
        self.servers.restart()?;
        let begin = Instant::now();
        let meter = Meter::start(self.servers)?;
        let mut patience = FIRST_PATIENCE;
        // Whatever a client does about servers that are not there yet, it is given up before long.
        loop {
            let tried = tokio::time::timeout(patience, self.append_one()).await;
            if let Ok(Ok(())) = tried {
                break;
            }
            ensure!(
                begin.elapsed() < RESTART_MAX,
                "no append was acknowledged: {tried:?}"
            );
            tokio::time::sleep(RESTART_LOOK).await;
            patience = (patience + patience / 4).min(RESTART_MAX);
        }
        let mut all = latencies()?;
        record(&mut all, begin.elapsed());
        meter.stop(self.servers)?.cell(1, Some(&all))
    }

    async fn append_one(&self) -> Result<()> {
        let mut connection = self.peer.connect(0).await?;
        connection.append(&key(0), Random::new(0).payload(PAYLOAD)).await
    }

    /// Open loop: appends begin at their times whatever came of those before, and latency counts from those times.
    async fn subscriber(&self, rate: u32) -> Result<Cell> {
        let warm = Duration::from_secs_f64(self.plan.seconds / 5.0);
        let lasts = warm + 2 * Duration::from_secs_f64(self.plan.seconds);
        let count = (lasts.as_secs_f64() * f64::from(rate)) as u64;
        let mut events = self.peer.connect(0).await?.subscribe().await?;
        let connections = self.connections(BATCH_CLIENTS).await?;

        let origin = Instant::now();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            connections.iter().map(|_| mpsc::channel(count as usize)).unzip();
        let meter = Meter::start(self.servers)?;
        let interval = Duration::from_secs(1) / rate;
        let pacer = thread::spawn(move || pace(origin, (interval, count), &senders));
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

type Tasks = JoinSet<Result<(u64, Latencies)>>;

/// What the clients of a session count together.
struct Counts {
    keys: usize,
    written: Arc<AtomicUsize>,
    acknowledged: Arc<AtomicU64>,
}

impl Counts {
    fn next_key(&self) -> String {
        key(self.written.fetch_add(1, Ordering::Relaxed) % self.keys)
    }
}

/// A key that is client `number`'s alone.
fn own_key(number: usize, position: usize) -> String {
    format!("own-{number}-{position}")
}

async fn client(
    mut connection: Box<dyn Connection>,
    step: Step,
    window: Window,
    counts: Counts,
    number: usize,
) -> Result<(u64, Latencies)> {
    let (mut events, mut all) = (0, latencies()?);
    let mut random = Random::new(number);
    // Each with what is to be expected there; the next one first.
    let own_keys = (0..EXPECTING_KEYS).map(|position| (own_key(number, position), 0));
    let mut own_keys: VecDeque<(String, u64)> = own_keys.collect();
    loop {
        let begin = Instant::now();
        if begin >= window.end || counts.acknowledged.load(Ordering::Relaxed) >= window.target {
            return Ok((events, all));
        }
        let done = match step {
            Step::Append { bytes } => {
                let payload = random.payload(bytes);
                connection.append(&counts.next_key(), payload).await?;
                1
            }
            Step::AppendExpecting => {
                let (key, expected) = own_keys.pop_front().context("it has no keys")?;
                let payload = random.payload(PAYLOAD);
                let next = connection.append_expecting(&key, payload, expected).await?;
                own_keys.push_back((key, next));
                1
            }
            Step::Batch => {
                let payloads = (0..BATCH).map(|_| random.payload(PAYLOAD)).collect();
                connection.append_batch(&counts.next_key(), payloads).await?;
                BATCH as u64
            }
            Step::Latest { keys } => {
                let bytes = connection.latest(&key(random.below(keys))).await?;
                ensure!(bytes == PAYLOAD, "an event of {bytes} bytes came back");
                1
            }
        };
        if !matches!(step, Step::Latest { .. }) {
            counts.acknowledged.fetch_add(done, Ordering::Relaxed);
        }
        let end = Instant::now();
        if end > window.begin && end <= window.end {
            events += done;
            record(&mut all, end - begin);
        }
    }
}

/// One client that has as many appends under way as it may.
async fn pipeline(
    mut connection: Box<dyn Connection>,
    window: Window,
    counts: Counts,
    mut random: Random,
) -> Result<(u64, Latencies)> {
    let (mut events, mut all) = (0, latencies()?);
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut now = Instant::now();
        while under_way.len() < UNDER_WAY_MAX && now < window.end {
            let begin = now;
            let append = connection.append_behind(counts.next_key(), random.payload(PAYLOAD));
            under_way.push(append.map_ok(move |()| begin));
            now = Instant::now();
        }
        let Some(done) = under_way.next().await else {
            return Ok((events, all));
        };
        let begin = done?;
        counts.acknowledged.fetch_add(1, Ordering::Relaxed);
        let end = Instant::now();
        if end > window.begin && end <= window.end {
            events += 1;
            record(&mut all, end - begin);
        }
    }
}

/// Gives each its times in turn. A thread, since the timers of tokio are a millisecond coarse.
fn pace(origin: Instant, (interval, count): (Duration, u64), senders: &[mpsc::Sender<Duration>]) {
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
        let mut payload = random.payload(PAYLOAD).to_vec();
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

    /// So many bytes, a multiple of 8.
    fn payload(&mut self, bytes: usize) -> Bytes {
        let mut payload = vec![0; bytes];
        for part in payload.chunks_exact_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes());
        }
        payload.into()
    }
}
