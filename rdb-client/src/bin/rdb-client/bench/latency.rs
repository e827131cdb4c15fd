//! `bench latency`: from the time an append is meant to begin to its delivery at a subscriber.

use super::append::payload;
use super::load::{self, Worker};
use super::report::{Report, Shape, Tally};
use crate::args::BenchLatencyArgs;
use crate::context::Context;
use crate::failure::Failure;
use bytes::Bytes;
use rdb_client::clock::{self, Deadline};
use rdb_client::{
    AppenderOptions, Expectation, Filter, KeyName, Message, NewEvent, Start, Subscription, tasks,
};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// The bytes at the front of each payload that tell when its append was meant to begin.
const STAMP_BYTES: usize = size_of::<u64>();
/// Events a second, when the user does not say.
const RATE_DEFAULT: u32 = 1_000;
/// How long the last event may take after the last append was acknowledged.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// What each appender needs.
#[derive(Debug, Clone)]
struct Plan {
    name: KeyName,
    body: Bytes,
    /// Stamps count from here.
    origin: Instant,
}

pub(crate) async fn run(context: &Context, args: BenchLatencyArgs) -> Result<Report, Failure> {
    let mut load = args.load;
    let rate = *load.rate.get_or_insert(RATE_DEFAULT);
    let collection = super::collection(context)?;
    let name = KeyName::new(
        collection.as_str(),
        &format!("latency/{}", Uuid::new_v4().simple()),
    )
    .map_err(|error| Failure::Usage(error.to_string()))?;
    let filter = Filter {
        collections: vec![name.collection.as_str().to_owned()],
        key_prefixes: vec![name.key.as_str().to_owned()],
        ..Filter::default()
    };
    let subscription = context.another_client()?.subscribe(Start::Now, filter);
    let subscription = opened(subscription, context.deadline()).await?;

    let plan = Plan {
        name,
        body: payload(load.size),
        origin: clock::now(),
    };
    let (told, appended) = watch::channel(None);
    let delivering = tasks::spawn(deliver(subscription, plan.origin, appended));
    let (appends, took) = load::run(context, &load, |worker| append(worker, plan.clone())).await?;
    told.send_replace(Some(appends.events()));
    let delivered = Deadline::after(Some(DELIVERY_MAX)).run(delivering).await;
    let mut tally = match delivered {
        Ok(Ok(tally)) => tally?,
        Ok(Err(error)) => {
            return Err(Failure::Late(format!(
                "the subscriber of the bench failed: {error}"
            )));
        }
        Err(_passed) => {
            return Err(Failure::Late(format!(
                "bench latency: not every event was delivered within {} s of the last append",
                DELIVERY_MAX.as_secs()
            )));
        }
    };
    tally.add_errors(appends);
    tally.count_bytes(load.size);
    let shape = Shape {
        bench: "latency",
        clients: load.clients,
        batch: 1,
        size: load.size,
        rate: Some(rate),
    };
    Ok(Report::new(shape, tally, took))
}

/// From here on, nothing is missed.
async fn opened(mut subscription: Subscription, deadline: Deadline) -> Result<Subscription, Failure> {
    let mut last_error = None;
    loop {
        match deadline.run(subscription.next()).await {
            Ok(Ok(Message::Opened { .. })) => return Ok(subscription),
            Ok(Ok(Message::Interrupted(error))) => last_error = Some(error),
            Ok(Ok(
                Message::Events(_)
                | Message::Resolved { .. }
                | Message::CaughtUp { .. }
                | Message::FellBehind { .. },
            )) => {}
            Ok(Err(error)) => return Err(Failure::read("bench latency")(error)),
            Err(_passed) => {
                return Err(match last_error {
                    Some(error) => Failure::read("bench latency")(error),
                    None => Failure::Late("bench latency failed: no answer in time".to_owned()),
                });
            }
        }
    }
}

/// Appends at the given times, without waiting for answers in between.
async fn append(mut worker: Worker, plan: Plan) -> Tally {
    let appender = worker.client.append_stream(AppenderOptions::default());
    let mut answers = Vec::new();
    while let Some(count) = worker.work.take(1) {
        let begin = worker.pace.next().await;
        let mut payload = stamp(begin, plan.origin).to_vec();
        payload.extend_from_slice(plan.body.get(STAMP_BYTES..).unwrap_or_default());
        match appender
            .append(&plan.name, vec![NewEvent::new(payload)], Expectation::Any)
            .await
        {
            Ok(pending) => answers.push((count, begin, pending)),
            Err(error) => worker.tally.failed(error),
        }
    }
    for (count, begin, pending) in answers {
        match pending.await {
            Ok(receipt) => {
                let took = clock::now().saturating_duration_since(begin);
                worker.tally.done(count, receipt.attempts, took);
            }
            Err(error) => worker.tally.failed(error),
        }
    }
    appender.finish().await;
    worker.tally
}

fn stamp(begin: Instant, origin: Instant) -> [u8; STAMP_BYTES] {
    let since = begin.saturating_duration_since(origin);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_le_bytes()
}

/// Counts deliveries until there are as many as were appended, once that is known.
async fn deliver(
    mut subscription: Subscription,
    origin: Instant,
    mut appended: watch::Receiver<Option<u64>>,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new()?;
    loop {
        let wanted = *appended.borrow_and_update();
        if wanted.is_some_and(|wanted| tally.events() >= wanted) {
            return Ok(tally);
        }
        let batch = tokio::select! {
            message = subscription.next() => match message {
                Ok(Message::Events(batch)) => batch,
                Ok(
                    Message::Opened { .. }
                    | Message::Resolved { .. }
                    | Message::CaughtUp { .. }
                    | Message::FellBehind { .. }
                    | Message::Interrupted(_),
                ) => continue,
                Err(error) => return Err(Failure::read("bench latency")(error)),
            },
            Ok(()) = appended.changed() => continue,
        };
        let now = clock::now().saturating_duration_since(origin);
        for event in batch.decode().map_err(Failure::read("bench latency"))? {
            let stamp = event.payload.first_chunk::<STAMP_BYTES>();
            let begin = Duration::from_nanos(stamp.map_or(0, |stamp| u64::from_le_bytes(*stamp)));
            tally.done(1, 1, now.saturating_sub(begin));
        }
    }
}
