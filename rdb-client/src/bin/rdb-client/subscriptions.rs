//! `subscriptions`: named subscriptions looked at and moved; and the consumer of `subscribe --name`.

use crate::args::{ForgetArgs, SeekArgs, SubscriptionsCommand};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::notice;
use crate::status::table;
use rdb_client::{Client, Consumer, ConsumerOptions, Reason, SubscriptionStatus};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Serialize)]
struct MovedLine<'a> {
    name: &'a str,
    before: u64,
    position: u64,
    dry_run: bool,
}

pub(crate) async fn subscriptions(
    context: &mut Context,
    command: SubscriptionsCommand,
) -> Result<(), Failure> {
    match command {
        SubscriptionsCommand::List => list(context).await,
        SubscriptionsCommand::Seek(args) => seek(context, args).await,
        SubscriptionsCommand::Forget(args) => forget(context, args).await,
    }
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let found = context.client().subscriptions().await;
    let found = found.map_err(Failure::read("subscriptions list"))?;
    if context.output.is_json() {
        for subscription in &found {
            context.output.json(subscription)?;
        }
        return Ok(());
    }
    let row = |subscription: &SubscriptionStatus| {
        let consumer = match (subscription.consumer, subscription.heard) {
            (None, _) => "nobody".to_owned(),
            (Some(consumer), true) => consumer.to_string(),
            (Some(consumer), false) => format!("{consumer}, not heard"),
        };
        vec![
            subscription.name.clone(),
            subscription.position.to_string(),
            subscription.lag.to_string(),
            subscription
                .lag_time
                .map_or_else(|| "?".to_owned(), |lag| format!("{:.1} s", lag.as_secs_f64())),
            consumer,
        ]
    };
    let heads = ["NAME", "POSITION", "LAG", "BEHIND", "CONSUMER"];
    Ok(table(
        &heads,
        found.iter().map(row).collect(),
        &mut context.output,
    )?)
}

async fn seek(context: &mut Context, args: SeekArgs) -> Result<(), Failure> {
    let SeekArgs { name, seq, dry_run } = args;
    let client = context.client();
    let listed = listed(&client, &name, "subscriptions seek").await?;
    if !dry_run {
        let moved = client.seek_subscription(&listed, seq).await;
        moved.map_err(Failure::read("subscriptions seek"))?;
    }
    let line = MovedLine {
        name: &name,
        before: listed.position,
        position: seq.get(),
        dry_run,
    };
    if context.output.is_json() {
        context.output.json(&line)?;
    } else {
        let would = if dry_run { "would go" } else { "goes" };
        let before = listed.position;
        context.output.text(format_args!(
            "subscription {name} {would} on after {seq}; it was at {before}"
        ))?;
    }
    Ok(())
}

async fn listed(client: &Client, name: &str, what: &str) -> Result<SubscriptionStatus, Failure> {
    let found = client.subscriptions().await.map_err(Failure::read(what))?;
    let found = found.into_iter().find(|subscription| subscription.name == name);
    found.ok_or_else(|| Failure::Input(format!("{what} failed: no subscription is named `{name}`")))
}

async fn forget(context: &mut Context, args: ForgetArgs) -> Result<(), Failure> {
    let client = context.client();
    let listed = listed(&client, &args.name, "subscriptions forget").await?;
    let forgotten = client.forget_subscription(&listed).await;
    forgotten.map_err(Failure::read("subscriptions forget"))?;
    if !context.output.is_json() {
        context
            .output
            .text(format_args!("subscription {} is forgotten", args.name))?;
    }
    Ok(())
}

/// Takes a name for `subscribe`, and says so when that takes a while.
pub(crate) async fn consume(
    client: &Client,
    name: &str,
    options: ConsumerOptions,
) -> Result<Consumer, Failure> {
    let at_once = ConsumerOptions {
        wait: Some(Duration::ZERO),
        ..options.clone()
    };
    let claimed = match client.consume(name, at_once).await {
        Err(error) if error.reason() == Some(Reason::SubscriptionHeld) => {
            notice(format_args!("{}; waiting for it", error.message()));
            client.consume(name, options).await
        }
        claimed => claimed,
    };
    claimed.map_err(Failure::read("subscribe"))
}
