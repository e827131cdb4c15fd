//! `subscribe` and `export`.

use crate::args::{ExportArgs, Format, FromTime, StreamFormat, SubscribeArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::{Follow, Stream};
use crate::footer::Footer;
use crate::formats::{LineForm, Origin};
use crate::look::Look;
use crate::output::{EventJson, Output, notice};
use crate::resume::{self, Place};
use crate::subscriptions;
use crate::table::Columns;
use rdb_client::clock::{self, Deadline, wall_time};
use rdb_client::{Change, ConsumerOptions, Event, EventBatch, Filter, Message, Order, Seq, Start, Timestamp};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Least time between two acknowledgements of a named subscription.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);

/// Least time between two looks of the bottom line while nothing else is written.
const FOOTER_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct ResolvedLine {
    resolved: u64,
}

/// What a subscription shows, and when it ends.
struct Show {
    /// `None` is a table for people.
    form: Option<LineForm>,
    origin: Origin,
    key: Option<String>,
    resolved: bool,
    until_caught_up: bool,
    left: Option<u64>,
    last_mark: Option<Seq>,
    /// Seq with which the next run goes on.
    resume: Option<Seq>,
    order: Order,
    footer: Option<Bottom>,
    /// When what was shown was acknowledged last.
    acknowledged: Instant,
    is_named: bool,
}

/// The bottom line of a terminal, and when it was written.
struct Bottom {
    footer: Footer,
    written: Instant,
}

pub(crate) async fn subscribe(context: &mut Context, args: SubscribeArgs) -> Result<(), Failure> {
    let form = form(context, &args)?;
    if form.is_some() {
        context.output.switch_to_json();
    }
    let start = start(&args);
    let needs_before = form.is_some_and(LineForm::needs_before);
    let stream = Box::pin(stream(context, &args, needs_before)).await?;
    let has_footer = context.output.can_have_footer();
    let mut follow =
        Follow::new(stream, "subscribe", context.deadline(), args.until_caught_up).quiet(has_footer);
    let mut show = Show {
        form,
        origin: Origin::default(),
        key: context.globals.key.clone(),
        resolved: args.resolved,
        until_caught_up: args.until_caught_up,
        left: args.limit,
        last_mark: None,
        resume: match start {
            Start::After(seq) => Some(seq),
            Start::Now | Start::At(_) => None,
        },
        order: args.order.into(),
        footer: has_footer.then(|| Bottom {
            footer: Footer::new(clock::now()),
            written: clock::now(),
        }),
        acknowledged: clock::now(),
        is_named: args.name.is_some(),
    };
    let must_end = args.until_caught_up || args.limit.is_some();
    let deadline = context.explicit_deadline();
    let mut stop = Stop::listen()?;
    let ended = tokio::select! {
        ended = show.run(&mut follow, &mut context.output) => ended.map(|()| Ended::Done),
        () = passed(deadline) => Ok(Ended::Late),
        () = stop.asked() => Ok(Ended::Asked),
    };
    context.output.clear_footer();
    context.output.flush()?;
    let ended = ended?;
    if matches!(ended, Ended::Late) && !follow.had_contact() {
        return Err(follow.no_contact());
    }
    // What was printed is done, and another consumer need not wait.
    show.acknowledge(&mut follow).await?;
    follow.release().await?;
    let is_missed = match ended {
        Ended::Done => return Ok(()),
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

/// The stream from where the arguments say, or from where the database keeps the position.
async fn stream(context: &Context, args: &SubscribeArgs, with_before: bool) -> Result<Stream, Failure> {
    let filter = filter(context, args)?;
    let client = context.client();
    if let Some(name) = &args.name {
        let options = ConsumerOptions {
            filter,
            from: Some(args.from),
            with_before,
            wait: None,
        };
        let claimed = Box::pin(subscriptions::consume(&client, name, options));
        let claimed = context.explicit_deadline().run(claimed).await;
        let late = |_passed| Failure::Late(format!("subscription `{name}` was not to be had in time"));
        return Ok(Stream::from(claimed.map_err(late)??));
    }
    let mut subscription = client
        .subscribe(start(args), filter)
        .in_order_of(args.order.into());
    if with_before {
        subscription = subscription.with_before();
    }
    if args.snapshot {
        subscription = subscription.with_snapshot();
    }
    if let Some(seq) = args.snapshot_of {
        subscription = subscription.with_snapshot_of(seq);
    }
    Ok(Stream::from(subscription))
}

/// Lines for programs, or `None` for a table: people on a terminal get one unless they ask for lines.
fn form(context: &Context, args: &SubscribeArgs) -> Result<Option<LineForm>, Failure> {
    let wants_lines = args.format.is_some() || args.before;
    let is_table = match context.globals.output {
        Some(Format::Text) if wants_lines => {
            let refused = "--format and --before are for lines of JSON: leave -o text out";
            return Err(Failure::Usage(refused.to_owned()));
        }
        Some(Format::Text) => true,
        Some(Format::Json) => false,
        None => context.output.is_terminal() && !wants_lines,
    };
    let format = args.format.unwrap_or(StreamFormat::Json);
    if args.before && format == StreamFormat::Cloudevents {
        let refused = "--before: a CloudEvent has no place for it; ask for --format debezium or json";
        return Err(Failure::Usage(refused.to_owned()));
    }
    Ok((!is_table).then(|| LineForm::new(format, args.before)))
}

fn start(args: &SubscribeArgs) -> Start {
    match args.from_time {
        _ if args.from_now => Start::Now,
        None => Start::After(args.from),
        Some(FromTime::At(time)) => Start::At(time),
        Some(FromTime::Ago(ago)) => {
            let ago = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
            Start::At(Timestamp(wall_time().get().saturating_sub(ago)))
        }
    }
}

enum Ended {
    Done,
    Asked,
    Late,
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
        while self.left != Some(0) {
            // What is already here is written in one go; before a wait, everything must be seen.
            let message = if let Some(message) = follow.ready() {
                message?
            } else {
                output.flush()?;
                self.look(output)?;
                if clock::now().saturating_duration_since(self.acknowledged) >= ACKNOWLEDGE_INTERVAL {
                    self.acknowledge(follow).await?;
                }
                follow.next().await?
            };
            self.origin.snapshot = follow.snapshot();
            if self.show(message, output)? {
                break;
            }
        }
        Ok(())
    }

    /// Says how far the output is written, when the database keeps the position.
    async fn acknowledge(&mut self, follow: &mut Follow) -> Result<(), Failure> {
        self.acknowledged = clock::now();
        match self.resume {
            Some(seq) => follow.acknowledge(seq).await,
            None => Ok(()),
        }
    }

    /// Tells whether this was the end.
    fn show(&mut self, message: Message, output: &mut Output) -> Result<bool, Failure> {
        if let Some(bottom) = &mut self.footer {
            bottom.footer.hear(&message);
        }
        match message {
            Message::Opened { database_id, after } => {
                self.origin.database_id = database_id;
                self.resume = self.resume.or(Some(after));
            }
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
            // The bottom line tells it.
            Message::Interrupted(_) => {}
        }
        Ok(false)
    }

    fn events(&mut self, batch: &EventBatch, output: &mut Output) -> Result<(), Failure> {
        for change in batch.changes().map_err(Failure::read("subscribe"))? {
            if self.left == Some(0) {
                break;
            }
            if self.wants(&change.event) {
                self.change(&change, output)?;
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            if self.order == Order::Seqs {
                self.resume = Some(change.event.seq);
            }
            if let Some(bottom) = &mut self.footer {
                bottom.footer.came_to(change.event.time);
            }
        }
        Ok(())
    }

    /// Writes the bottom line again when it is gone, or old.
    fn look(&mut self, output: &mut Output) -> io::Result<()> {
        let Some(bottom) = &mut self.footer else {
            return Ok(());
        };
        let now = clock::now();
        if output.has_footer() && now.saturating_duration_since(bottom.written) < FOOTER_INTERVAL {
            return Ok(());
        }
        bottom.written = now;
        output.footer(&bottom.footer.text(now, wall_time()))
    }

    fn change(&self, change: &Change, output: &mut Output) -> Result<(), Failure> {
        match self.form {
            None => output.event(&change.event, Columns::OfManyKeys)?,
            Some(form) => {
                let mut line = form.line(change, &self.origin)?;
                line.push(b'\n');
                output.bytes(&line)?;
            }
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
        let Some(seq) = self.resume else { return };
        if self.is_named {
            notice(format_args!(
                "acknowledged up to {seq}; the same command goes on there"
            ));
            return;
        }
        let words: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let place = Place {
            seq,
            snapshot: self.origin.snapshot,
            left: self.left,
        };
        notice(format_args!("go on with: {}", resume::command(&words, place)));
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
    let follow = Follow::new(
        Stream::Own(Box::new(subscription)),
        "export",
        context.deadline(),
        true,
    );
    let deadline = context.explicit_deadline();
    let to = args.to.unwrap_or(Seq(u64::MAX));
    let exported = Box::pin(export_up_to(to, follow, &mut context.output));
    match deadline.run(exported).await {
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
