//! `subscribe` and `export`.

use crate::args::{ExportArgs, StreamFormat, SubscribeArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::Follow;
use crate::output::{Columns, EventJson, Look, Output, notice};
use rdb_client::clock::Deadline;
use rdb_client::{Event, EventBatch, Filter, Message, Seq, Start};
use serde::Serialize;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Serialize)]
struct ResolvedLine {
    resolved: u64,
}

/// What a subscription shows, and when it ends.
struct Show {
    key: Option<String>,
    resolved: bool,
    until_caught_up: bool,
    left: u64,
    last_mark: Option<Seq>,
    /// Seq with which the next run goes on.
    resume: Option<Seq>,
}

pub(crate) async fn subscribe(context: &mut Context, args: SubscribeArgs) -> Result<(), Failure> {
    refuse_what_is_to_come(&args)?;
    if context.globals.output.is_none() && !context.output.is_terminal() {
        context.output.switch_to_json();
    }
    let start = if args.from_now {
        Start::Now
    } else {
        Start::After(args.from)
    };
    let filter = filter(context, &args)?;
    let mut show = Show {
        key: context.globals.key.clone(),
        resolved: args.resolved,
        until_caught_up: args.until_caught_up,
        left: args.limit.unwrap_or(u64::MAX),
        last_mark: None,
        resume: (!args.from_now).then_some(args.from),
    };
    let must_end = args.until_caught_up || args.limit.is_some();
    let subscription = context.client().subscribe(start, filter);
    let mut follow = Follow::new(
        subscription,
        "subscribe",
        context.deadline(),
        args.until_caught_up,
    );
    let deadline = context.explicit_deadline();
    let mut stop = Stop::listen()?;
    let ended = tokio::select! {
        ended = show.run(&mut follow, &mut context.output) => ended.map(|()| Ended::Done),
        () = passed(deadline) => Ok(Ended::Late),
        () = stop.asked() => Ok(Ended::Asked),
    };
    context.output.flush()?;
    let is_missed = match ended? {
        Ended::Done => return Ok(()),
        Ended::Late if !follow.had_contact() => return Err(follow.no_contact()),
        Ended::Asked => false,
        Ended::Late => must_end,
    };
    show.say_how_to_resume();
    if is_missed {
        return Err(Failure::Late(
            "the timeout passed before the subscription was done".to_owned(),
        ));
    }
    Ok(())
}

enum Ended {
    Done,
    Asked,
    Late,
}

fn refuse_what_is_to_come(args: &SubscribeArgs) -> Result<(), Failure> {
    let refused = match (&args.name, args.format) {
        (Some(_), _) => "--name: named subscriptions are",
        (None, StreamFormat::Cloudevents) => "--format cloudevents is",
        (None, StreamFormat::Debezium) => "--format debezium is",
        (None, StreamFormat::Json) => return Ok(()),
    };
    Err(Failure::Usage(format!("{refused} not available in this release")))
}

fn filter(context: &Context, args: &SubscribeArgs) -> Result<Filter, Failure> {
    // The wire filters by prefix; the one key itself is picked out here.
    let mut key_prefixes = args.prefixes.clone();
    if let Some(key) = &context.globals.key {
        if !key_prefixes.is_empty() {
            return Err(Failure::Usage("give -k or --prefix, not both".to_owned()));
        }
        key_prefixes.push(key.clone());
    }
    Ok(Filter {
        collections: context.globals.collection.iter().cloned().collect(),
        key_prefixes,
        types: args.types.clone(),
        tags: args.tags.clone(),
        kinds: Vec::new(),
    })
}

impl Show {
    async fn run(&mut self, follow: &mut Follow, output: &mut Output) -> Result<(), Failure> {
        while self.left > 0 {
            // What is already here is written in one go; before a wait, everything must be seen.
            let message = if let Some(message) = follow.ready() {
                message?
            } else {
                output.flush()?;
                follow.next().await?
            };
            if self.show(message, output)? {
                break;
            }
        }
        Ok(())
    }

    /// Tells whether this was the end.
    fn show(&mut self, message: Message, output: &mut Output) -> Result<bool, Failure> {
        match message {
            Message::Opened { after, .. } => self.resume = self.resume.or(Some(after)),
            Message::Events(batch) => self.events(&batch, output)?,
            Message::Resolved { seq, .. } => self.mark(seq, output)?,
            Message::CaughtUp { seq } => {
                // It is a mark too, and the last line of `--until-caught-up` must name it.
                if self.last_mark < Some(seq) {
                    self.mark(seq, output)?;
                }
                return Ok(self.until_caught_up);
            }
            Message::FellBehind { seq } => {
                tracing::info!(%seq, "this subscriber is slower than the writers");
            }
            Message::Interrupted(error) => tracing::debug!(%error, "interrupted"),
        }
        Ok(false)
    }

    fn events(&mut self, batch: &EventBatch, output: &mut Output) -> Result<(), Failure> {
        for event in batch.decode().map_err(Failure::read("subscribe"))? {
            if self.left == 0 {
                break;
            }
            if self.wants(&event) {
                output.event(&event, Columns::OfManyKeys)?;
                self.left = self.left.saturating_sub(1);
            }
            self.resume = Some(event.seq);
        }
        Ok(())
    }

    fn mark(&mut self, seq: Seq, output: &mut Output) -> io::Result<()> {
        self.resume = self.resume.max(Some(seq));
        self.last_mark = self.last_mark.max(Some(seq));
        if self.resolved {
            show_mark(seq, output)?;
        }
        Ok(())
    }

    fn wants(&self, event: &Event) -> bool {
        self.key
            .as_deref()
            .is_none_or(|key| event.name.key.as_str() == key)
    }

    fn say_how_to_resume(&self) {
        if let Some(seq) = self.resume {
            notice(format_args!("go on with: rdb-client subscribe --from {seq}"));
        }
    }
}

fn show_mark(seq: Seq, output: &mut Output) -> io::Result<()> {
    if output.is_json() {
        output.json(&ResolvedLine { resolved: seq.get() })
    } else {
        let line = output.paint(Look::Dim, format_args!("resolved {seq}"));
        output.text(format_args!("{line}"))
    }
}

/// Never, when there is no deadline.
async fn passed(deadline: Deadline) {
    if deadline.run(std::future::pending::<()>()).await.is_ok() {
        tracing::trace!("unreachable: nothing ends what never ends");
    }
}

/// Ctrl-C, or a polite request to end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Input(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(crate) async fn export(context: &mut Context, args: ExportArgs) -> Result<(), Failure> {
    context.output.switch_to_json();
    let filter = Filter {
        collections: context.globals.collection.iter().cloned().collect(),
        ..Filter::default()
    };
    let subscription = context.client().subscribe(Start::After(args.from), filter);
    let follow = Follow::new(subscription, "export", context.deadline(), true);
    let deadline = context.explicit_deadline();
    let to = args.to.unwrap_or(Seq(u64::MAX));
    match deadline.run(export_up_to(to, follow, &mut context.output)).await {
        Ok(exported) => exported,
        Err(_passed) => Err(Failure::Late(
            "export failed: the timeout passed before everything was written".to_owned(),
        )),
    }
}

async fn export_up_to(to: Seq, mut follow: Follow, output: &mut Output) -> Result<(), Failure> {
    while follow.position() < Some(to) {
        match follow.next().await? {
            Message::Events(batch) => {
                for event in batch.decode().map_err(Failure::read("export"))? {
                    if event.seq <= to {
                        output.json(&EventJson::new(&event))?;
                    }
                }
            }
            Message::CaughtUp { .. } => break,
            Message::Opened { .. }
            | Message::Resolved { .. }
            | Message::FellBehind { .. }
            | Message::Interrupted(_) => {}
        }
    }
    Ok(())
}
