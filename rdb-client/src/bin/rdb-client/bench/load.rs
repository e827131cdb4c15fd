//! Many clients at work, until enough is done or the time is over.

use super::pacer::Pacer;
use super::report::Tally;
use crate::args::LoadArgs;
use crate::context::Context;
use crate::failure::Failure;
use rdb_client::clock::{self, Deadline};
use rdb_client::tasks;
use rdb_client::{Client, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a load lasts when the user does not say.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// How much is left to do, shared by all clients.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    left: Arc<AtomicU64>,
    deadline: Deadline,
}

impl Work {
    fn new(load: &LoadArgs) -> Self {
        let duration = match (load.events, load.duration) {
            (None, None) => Some(DURATION_DEFAULT),
            (_, duration) => duration,
        };
        Self {
            left: Arc::new(AtomicU64::new(load.events.unwrap_or(u64::MAX))),
            deadline: Deadline::after(duration),
        }
    }

    /// Takes up to `most` events to do; `None` when nothing is left or the time is over.
    pub(crate) fn take(&self, most: u64) -> Option<u64> {
        if self.deadline.has_passed() {
            return None;
        }
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(most));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.ok().map(|left| left.min(most))
    }
}

/// When requests begin: as soon as the client is free, or at given times.
#[derive(Debug)]
pub(crate) enum Pace {
    Free,
    Given(mpsc::Receiver<Instant>),
}

impl Pace {
    /// The time from which the next request's latency counts.
    pub(crate) async fn next(&mut self) -> Instant {
        match self {
            Self::Free => clock::now(),
            Self::Given(times) => times.recv().await.unwrap_or_else(clock::now),
        }
    }
}

/// One client of a load.
#[derive(Debug)]
pub(crate) struct Worker {
    /// From 0.
    pub(crate) number: u32,
    pub(crate) client: Client,
    pub(crate) work: Work,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
}

/// Runs all clients, each with `body`, and tells what they counted and how long it took.
pub(crate) async fn run<F, Fut>(
    context: &Context,
    load: &LoadArgs,
    body: F,
) -> Result<(Tally, Duration), Failure>
where
    F: Fn(Worker) -> Fut,
    Fut: Future<Output = Tally> + Send + 'static,
{
    let clients = connect(context, load).await?;
    let (pacer, mut times) = match load.rate {
        Some(rate) => {
            let (pacer, given) = Pacer::start(rate, load.clients);
            (Some(pacer), given.into_iter().map(Pace::Given).collect())
        }
        None => (None, Vec::new()),
    };
    let work = Work::new(load);
    let began = clock::now();
    let mut running = Vec::new();
    for (number, client) in (0..).zip(clients) {
        let worker = Worker {
            number,
            client,
            work: work.clone(),
            pace: times.pop().unwrap_or(Pace::Free),
            tally: Tally::new()?,
        };
        running.push(tasks::spawn(body(worker)));
    }
    let mut total = Tally::new()?;
    for client in running {
        match client.await {
            Ok(tally) => total.add(tally),
            Err(error) => return Err(Failure::Late(format!("a client of the bench failed: {error}"))),
        }
    }
    let took = clock::now().saturating_duration_since(began);
    if let Some(pacer) = pacer {
        pacer.finish();
    }
    Ok((total, took))
}

/// Opens all connections first: their cost is not what is measured.
async fn connect(context: &Context, load: &LoadArgs) -> Result<Vec<Client>, Failure> {
    let first = context.another_client()?;
    let mut clients = Vec::new();
    for _ in 0..load.clients {
        let client = if load.shared {
            first.clone()
        } else {
            context.another_client()?
        };
        clients.push(client);
    }
    let warm = async |client: &Client| client.status().await;
    let opened: Result<Vec<_>, Error> = futures::future::try_join_all(clients.iter().map(warm)).await;
    opened.map_err(Failure::read("bench"))?;
    Ok(clients)
}
