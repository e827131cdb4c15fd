//! The server's program: settings, log, serve, exit code.

use rdb_server::fatal::Exit;
use rdb_server::settings::{Command, Settings, Unusable};
use rdb_server::{fatal, serve};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let settings = match Settings::read() {
        Ok(settings) => settings,
        Err(Unusable::Arguments(help)) if !help.use_stderr() => {
            // Somebody who closed the pipe has read enough.
            drop(help.print());
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(Exit::Settings, &error),
    };
    #[cfg(feature = "sabotage")]
    sabotage();
    match settings.command {
        Some(Command::Config) => print_config(&settings),
        None => run(&settings),
    }
}

/// Makes the mistake that `RDB_SABOTAGE` names, in builds that can.
#[cfg(feature = "sabotage")]
#[expect(clippy::disallowed_methods, clippy::panic, reason = "test builds only")]
fn sabotage() {
    if let Ok(name) = std::env::var("RDB_SABOTAGE") {
        assert!(
            rdb_server::sabotage::select(&name),
            "RDB_SABOTAGE names no mistake: {name}"
        );
    }
}

fn run(settings: &Settings) -> ExitCode {
    let filter = match EnvFilter::builder().parse(&settings.trace_level) {
        Ok(filter) => filter,
        Err(error) => {
            return refuse(
                Exit::Settings,
                &format!("TRACE_LEVEL is {}: {error}", settings.trace_level),
            );
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    fatal::end_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(Exit::Storage, &format!("cannot start the runtime: {error}")),
    };
    let served = runtime.block_on(serve::serve(settings));
    // A start that a signal cut short is still reading logs; it has promised nothing to anybody.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(error.exit(), &error),
    }
}

fn print_config(settings: &Settings) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut lines = settings.effective().into_iter();
    match lines.try_for_each(|(name, value)| writeln!(out, "{name}={value}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_broken_pipe) => ExitCode::FAILURE,
    }
}

/// One line that says why, and the exit code that says what kind.
fn refuse(exit: Exit, why: &dyn std::fmt::Display) -> ExitCode {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(std::io::stderr(), "error: {why}"));
    ExitCode::from(exit.code())
}
