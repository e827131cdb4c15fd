//! `bench latency`: from the time an append is meant to begin to its delivery at each subscriber.

use super::append::payload;
use super::load::{self, Worker};
use super::report::{Appends, Report, Shape, Tally};
use crate::args::BenchLatencyArgs;
use crate::context::Context;
use crate::failure::Failure;
use bytes::Bytes;
use futures::future::try_join_all;
use rdb_client::clock::{self, Deadline};
use rdb_client::{
    AppenderOptions, Expectation, Filter, KeyName, Message, NewEvent, Start, Subscription, tasks,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// The bytes at the front of each payload that tell when its append was meant to begin.
const STAMP_BYTES: usize = size_of::<u64>();
/// Events a second, when the user does not say.
const RATE_DEFAULT: u32 = 1_000;
/// How long the last event may take after the last append was acknowledged.
const DELIVERY_MAX: Duration = Duration::from_secs(10);
/// Time between two messages that a slow subscriber takes.
const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// What each appender needs.
#[derive(Debug, Clone)]
struct Plan {
    names: Arc<[KeyName]>,
    body: Bytes,
    /// Stamps count from here.
    origin: Instant,
}

pub(crate) async fn run(context: &Context, args: BenchLatencyArgs) -> Result<Report, Failure> {
    let mut load = args.load;
    let rate = *load.rate.get_or_insert(RATE_DEFAULT);
    let collection = super::collection(context)?;
    let prefix = format!("latency/{}/", Uuid::new_v4().simple());
    let name = |n: u32| KeyName::new(collection.as_str(), &format!("{prefix}{n}"));
    let names = (0..args.keys).map(name).collect::<Result<Arc<[_]>, _>>();
    let filter = Filter {
        collections: vec![collection.as_str().to_owned()],
        key_prefixes: vec![prefix.clone()],
        ..Filter::default()
    };
    let subscribe = async || {
        let subscription = context.another_client()?.subscribe(Start::Now, filter.clone());
        opened(subscription.in_order_of(args.order.into()), context.deadline()).await
    };
    let mut slow = Vec::new();
    for _ in 0..args.slow {
        slow.push(tasks::spawn(dawdle(subscribe().await?)));
    }
    let mut fast = Vec::new();
    for _ in 0..args.subscribers {
        fast.push(subscribe().await?);
    }

    let plan = Plan {
        names: names.map_err(|error| Failure::Usage(error.to_string()))?,
        body: payload(load.size),
        origin: clock::now(),
    };
    let (told, appended) = watch::channel(None);
    let deliver = |subscription| tasks::spawn(deliver(subscription, plan.origin, appended.clone()));
    let delivering: Vec<_> = fast.into_iter().map(deliver).collect();
    let (appends, took) = load::run(context, &load, |worker| append(worker, plan.clone())).await?;
    told.send_replace(Some(appends.events()));
    let delivered = Deadline::after(Some(DELIVERY_MAX))
        .run(try_join_all(delivering))
        .await;
    drop(slow);
    let mut tally = Tally::new()?;
    match delivered {
        Ok(Ok(tallies)) => {
            for delivered in tallies {
                tally.add(delivered?);
            }
        }
        Ok(Err(error)) => {
            return Err(Failure::Late(format!(
                "a subscriber of the bench failed: {error}"
            )));
        }
        Err(_passed) => {
            return Err(Failure::Late(format!(
                "bench latency: not every event was delivered within {} s of the last append",
                DELIVERY_MAX.as_secs()
            )));
        }
    }
    let acknowledged = Appends::of(&appends);
    tally.add_errors(appends);
    tally.count_bytes(load.size);
    let shape = Shape {
        bench: "latency",
        clients: load.clients,
        batch: 1,
        size: load.size,
        rate: Some(rate),
    };
    Ok(Report::new(shape, tally, took).with_appends(acknowledged))
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

/// Takes a message now and then, and does nothing with it.
async fn dawdle(mut subscription: Subscription) {
    while subscription.next().await.is_ok() {
        clock::sleep(SLOW_INTERVAL).await;
    }
}

/// Appends at the given times, without waiting for answers in between.
async fn append(mut worker: Worker, plan: Plan) -> Tally {
    let appender = worker.client.append_stream(AppenderOptions::default());
    let mut answers = Vec::new();
    // Clients begin at different keys.
    let first = usize::try_from(worker.number).unwrap_or(0);
    let mut names = plan.names.iter().cycle().skip(first);
    while let (Some(name), Some(count)) = (names.next(), worker.work.take(1)) {
        let begin = worker.pace.next().await;
        let mut payload = stamp(begin, plan.origin).to_vec();
        payload.extend_from_slice(plan.body.get(STAMP_BYTES..).unwrap_or_default());
        let event = NewEvent::new(payload);
        match appender.append(name, vec![event], Expectation::Any).await {
            // Each in a task of its own, so that each is timed when it comes.
            Ok(pending) => answers.push(tasks::spawn(async move {
                let answer = pending.await;
                (count, clock::now().saturating_duration_since(begin), answer)
            })),
            Err(error) => worker.tally.failed(error),
        }
    }
    for answer in answers {
        match answer.await {
            Ok((count, took, Ok(receipt))) => worker.tally.done(count, receipt.attempts, took),
            Ok((_, _, Err(error))) => worker.tally.failed(error),
            // Only a task that panicked, and this one goes with it.
            Err(_gone) => {}
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
