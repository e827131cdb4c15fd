//! `bench subscribe`: how fast the whole change stream is read.

use super::report::{Report, Shape, Tally};
use crate::args::BenchSubscribeArgs;
use crate::context::Context;
use crate::failure::Failure;
use rdb_client::clock::Deadline;
use rdb_client::{Error, EventBatch, Filter, Message, Seq, Start, Subscription, clock, tasks};

pub(crate) async fn run(context: &Context, args: BenchSubscribeArgs) -> Result<Report, Failure> {
    let filter = Filter {
        collections: context.globals.collection.iter().cloned().collect(),
        ..Filter::default()
    };
    let began = clock::now();
    let mut running = Vec::new();
    let deadline = Deadline::after(args.load.duration);
    for _ in 0..args.load.clients {
        let client = context.another_client()?;
        let subscription = client.subscribe(Start::After(Seq::ZERO), filter.clone());
        let subscription = subscription.in_order_of(args.order.into());
        let reading = read_all(subscription, deadline, args.load.events, args.decode);
        running.push(tasks::spawn(reading));
    }
    let mut total = Tally::new()?;
    for reading in running {
        match reading.await {
            Ok(tally) => total.add(tally?),
            Err(error) => return Err(Failure::Late(format!("a client of the bench failed: {error}"))),
        }
    }
    let took = clock::now().saturating_duration_since(began);
    let shape = Shape {
        bench: "subscribe",
        clients: args.load.clients,
        ..Shape::default()
    };
    Ok(Report::new(shape, total, took))
}

/// Counts until caught up, or enough is counted. Latency is the wait for each message.
async fn read_all(
    mut subscription: Subscription,
    deadline: Deadline,
    events: Option<u64>,
    decode: bool,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new()?;
    let mut left = events.unwrap_or(u64::MAX);
    while left > 0 {
        let asked = clock::now();
        let Ok(message) = deadline.run(subscription.next()).await else {
            break;
        };
        match message {
            Ok(Message::Events(batch)) => {
                let waited = clock::now().saturating_duration_since(asked);
                left = left.saturating_sub(batch.count());
                tally.done(batch.count(), 1, waited);
                tally.bytes(u64::try_from(batch.encoded_bytes()).unwrap_or(u64::MAX));
                if decode && let Err(error) = decoded(&batch) {
                    tally.failed(error);
                }
            }
            Ok(Message::CaughtUp { .. }) => break,
            Ok(Message::Interrupted(error)) | Err(error) => {
                tally.failed(error);
                break;
            }
            Ok(Message::Opened { .. } | Message::Resolved { .. } | Message::FellBehind { .. }) => {}
        }
    }
    Ok(tally)
}

/// The work of an application that looks at every event.
fn decoded(batch: &EventBatch) -> Result<(), Error> {
    let events = batch.decode()?;
    std::hint::black_box(events);
    Ok(())
}
