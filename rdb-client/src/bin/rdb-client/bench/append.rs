//! `bench append`.

use super::load::{self, Worker};
use super::report::{Report, Shape, Tally};
use crate::args::BenchAppendArgs;
use crate::context::Context;
use crate::failure::Failure;
use bytes::Bytes;
use rdb_client::clock;
use rdb_client::{AppenderOptions, Error, Expectation, KeyName, NewEvent, PendingAppend};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// What to append, where.
#[derive(Debug, Clone)]
struct Plan {
    keys: Arc<[KeyName]>,
    payload: Bytes,
    batch: u64,
    clients: usize,
    window: usize,
}

impl Plan {
    /// Client `number`'s `n`th key: each client has keys of its own as long as there are enough.
    fn key(&self, number: u32, n: usize) -> Option<&KeyName> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let position = n.wrapping_mul(self.clients).wrapping_add(number);
        self.keys.get(position % self.keys.len())
    }

    fn events(&self, count: u64) -> Vec<NewEvent> {
        (0..count).map(|_| NewEvent::new(self.payload.clone())).collect()
    }
}

pub(crate) async fn run(context: &Context, args: BenchAppendArgs) -> Result<Report, Failure> {
    let plan = Plan {
        keys: keys(context, args.keys.unwrap_or(args.load.clients))?,
        payload: payload(args.load.size),
        batch: args.load.batch.into(),
        clients: usize::try_from(args.load.clients).unwrap_or(usize::MAX),
        window: usize::try_from(args.window).unwrap_or(usize::MAX),
    };
    let streams = args.stream;
    let body = |worker: Worker| {
        let plan = plan.clone();
        async move {
            if streams {
                pipelined(worker, plan).await
            } else {
                one_by_one(worker, plan).await
            }
        }
    };
    let (mut tally, took) = load::run(context, &args.load, body).await?;
    tally.count_bytes(args.load.size);
    let shape = Shape {
        bench: "append",
        clients: args.load.clients,
        batch: args.load.batch,
        size: args.load.size,
        rate: args.load.rate,
    };
    Ok(Report::new(shape, tally, took))
}

/// New keys for each run, so that runs do not change each other's results.
fn keys(context: &Context, count: u32) -> Result<Arc<[KeyName]>, Failure> {
    let collection = super::collection(context)?;
    let run = Uuid::new_v4().simple().to_string();
    let run = run.get(..8).unwrap_or_default();
    let name = |n| {
        KeyName::new(collection.as_str(), &format!("{run}/{n}"))
            .map_err(|error| Failure::Usage(error.to_string()))
    };
    (0..count).map(name).collect()
}

/// Text, so that it can be looked at.
pub(super) fn payload(size: u32) -> Bytes {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let text = "the quick brown fox jumps over the lazy dog ";
    text.bytes().cycle().take(size).collect::<Vec<u8>>().into()
}

async fn one_by_one(mut worker: Worker, plan: Plan) -> Tally {
    let mut n = 0;
    while let Some(count) = worker.work.take(plan.batch) {
        let begin = worker.pace.next().await;
        let Some(name) = plan.key(worker.number, n) else {
            break;
        };
        n = n.wrapping_add(1);
        let attempts = if plan.batch == 1 {
            let event = NewEvent::new(plan.payload.clone());
            let receipt = worker.client.write(name, event, Expectation::Any).await;
            receipt.map(|receipt| receipt.attempts)
        } else {
            let receipt = worker
                .client
                .append(name, plan.events(count), Expectation::Any)
                .await;
            receipt.map(|receipt| receipt.attempts)
        };
        count_answer(&mut worker.tally, count, begin, attempts);
    }
    worker.tally
}

/// One append stream, its window kept full, or fed at given times.
async fn pipelined(mut worker: Worker, plan: Plan) -> Tally {
    let options = AppenderOptions {
        window: plan.window,
        retries_refused: true,
    };
    let appender = worker.client.append_stream(options);
    let mut under_way: VecDeque<(Instant, u64, PendingAppend)> = VecDeque::with_capacity(plan.window);
    let mut n = 0;
    let mut has_more = true;
    while has_more || !under_way.is_empty() {
        tokio::select! {
            biased;
            answer = first(&mut under_way) => {
                if let Some((begin, count, _)) = under_way.pop_front() {
                    count_answer(&mut worker.tally, count, begin, answer);
                }
            }
            begin = worker.pace.next(), if has_more && under_way.len() < plan.window => {
                let Some((name, count)) = plan.key(worker.number, n).zip(worker.work.take(plan.batch)) else {
                    has_more = false;
                    continue;
                };
                n = n.wrapping_add(1);
                match appender.append(name, plan.events(count), Expectation::Any).await {
                    Ok(pending) => under_way.push_back((begin, count, pending)),
                    Err(error) => worker.tally.failed(error),
                }
            }
        }
    }
    appender.finish().await;
    worker.tally
}

/// The answer of the oldest append; answers come in order. Never, when nothing is under way. Cancel safe.
async fn first(under_way: &mut VecDeque<(Instant, u64, PendingAppend)>) -> Result<u32, Error> {
    match under_way.front_mut() {
        Some((_, _, pending)) => pending.await.map(|receipt| receipt.attempts),
        None => std::future::pending().await,
    }
}

fn count_answer(tally: &mut Tally, events: u64, begin: Instant, attempts: Result<u32, Error>) {
    match attempts {
        Ok(attempts) => tally.done(events, attempts, clock::now().saturating_duration_since(begin)),
        Err(error) => tally.failed(error),
    }
}
