//! `completions`.

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;
use clap::CommandFactory as _;
use clap_complete::Shell;

pub(crate) fn completions(context: &mut Context, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rdb-client", &mut script);
    context.output.bytes(&script)?;
    Ok(())
}
