//! `bench`: measures a database from here, honestly.
//!
//! Each client has a connection of its own unless `--shared`. With `--rate`, requests have times at which they are
//! meant to begin, and latency counts from those: a server that stalls cannot hide the requests that it delayed
//! (coordinated omission). Without it, latency counts from when a client sends.

mod append;
mod latency;
mod load;
mod pacer;
mod read;
mod report;
mod subscribe;

use crate::args::BenchCommand;
use crate::context::Context;
use crate::failure::Failure;
use rdb_client::Collection;

pub(crate) async fn bench(context: &mut Context, command: BenchCommand) -> Result<(), Failure> {
    let report = match command {
        BenchCommand::Append(args) => append::run(context, args).await?,
        BenchCommand::Read(args) => read::run(context, args).await?,
        BenchCommand::Subscribe(args) => subscribe::run(context, args).await?,
        BenchCommand::Latency(args) => latency::run(context, args).await?,
    };
    report.write(&mut context.output)
}

/// `bench`, unless the user says otherwise: the default collection belongs to the application.
fn collection(context: &Context) -> Result<Collection, Failure> {
    match context.globals.collection {
        Some(_) => context.collection(),
        None => Collection::new("bench").map_err(|error| Failure::Usage(error.to_string())),
    }
}
