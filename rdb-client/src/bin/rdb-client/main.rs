//! `rdb-client`: the command line of RDB.
//!
//! | file | what it decides |
//! |---|---|
//! | `args.rs` | names, flags, environment and help; an interface that people script against |
//! | `context.rs` | which server, how long, which key |
//! | `output.rs` | what is written where; the shapes of JSON |
//! | `formats/` | the forms of the lines of a stream: JSON, CloudEvents, Debezium |
//! | `resume.rs` | how to go on with a stream that ended |
//! | `table.rs`, `footer.rs`, `look.rs` | rows, the bottom line and colours of a terminal |
//! | `failure.rs` | exit codes and the words of errors |
//! | `write.rs`, `read.rs`, `subscribe.rs`, `import.rs`, `status.rs`, `admin.rs`, `verify/`, `bench/` | the commands |

mod admin;
mod args;
mod bench;
mod completions;
mod context;
mod failure;
mod follow;
mod footer;
mod formats;
mod import;
mod lines;
mod look;
mod output;
mod read;
mod resume;
mod status;
mod subscribe;
mod subscriptions;
mod table;
mod verify;
mod write;

use args::{Cli, Command};
use clap::Parser as _;
use context::Context;
use failure::Failure;
use output::{Output, notice};
use std::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help that nobody reads to its end is not an error.
            drop(usage.print());
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let mut output = Output::new(
        context::format(&cli.globals),
        is_set(cli.globals.no_color.as_deref()),
    );
    if let Err(failure) = trace(&cli.globals.trace_level) {
        output.failure(&failure);
        return failure.exit_code();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            notice(format_args!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli, output));
    // A thread that still waits for standard input must not keep the process.
    runtime.shutdown_background();
    code
}

/// As `no-color.org` has it: set, and not to nothing.
fn is_set(no_color: Option<&str>) -> bool {
    no_color.is_some_and(|value| !value.is_empty())
}

async fn run(cli: Cli, output: Output) -> ExitCode {
    let mut globals = cli.globals;
    if let Command::Completions { .. } = cli.command {
        // It asks nobody.
        globals.etcd = None;
    }
    let awaits_nodes = matches!(&cli.command, Command::Status(args) if args.until_healthy);
    let mut context = match Context::new(globals, awaits_nodes, output).await {
        Ok(context) => context,
        Err((failure, mut output)) => {
            output.failure(&failure);
            return failure.exit_code();
        }
    };
    let done = match perform(&mut context, cli.command).await {
        Ok(()) => context.output.flush().map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.output.failure(&failure);
            failure.exit_code()
        }
    }
}

#[expect(clippy::cognitive_complexity, reason = "a line for each command")]
async fn perform(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Write(args) => write::write(context, args).await,
        Command::Delete(args) => write::delete(context, args).await,
        Command::Append(args) => write::append(context, args).await,
        Command::Read(args) => read::read(context, args).await,
        Command::Snapshot(args) => read::snapshot(context, args).await,
        Command::History(args) => read::history(context, args).await,
        Command::Keys(args) => read::keys(context, args).await,
        Command::Import(args) => Box::pin(import::import(context, args)).await,
        Command::Export(args) => Box::pin(subscribe::export(context, args)).await,
        Command::Subscribe(args) => Box::pin(subscribe::subscribe(context, args)).await,
        Command::Subscriptions(command) => subscriptions::subscriptions(context, command).await,
        Command::Status(args) => status::status(context, args).await,
        Command::Admin(command) => admin::admin(context, command).await,
        Command::Bench(args) => Box::pin(bench::bench(context, args)).await,
        Command::Completions { shell } => completions::completions(context, shell),
    }
}

fn trace(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Failure::Usage(format!(
            "TRACE_LEVEL must be error, warn, info, debug or trace, or a filter, not {level:?}: {error}"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .try_init()
        .map_err(|error| Failure::Usage(error.to_string()))
}
