//! `pointsman compile-module`, hidden: what a broker runs as a child to compile a module within limits.

use std::time::Duration;

use clap::Args;

use crate::error::CliError;

/// The limits, set by the broker.
#[derive(Debug, Args)]
pub(crate) struct CompileModuleArgs {
    /// CPU time, in seconds
    seconds: u64,
    /// Address space, in bytes
    bytes: u64,
}

pub(crate) fn run(args: &CompileModuleArgs) -> Result<(), CliError> {
    pointsman_router_host::compile_child_main(Duration::from_secs(args.seconds), args.bytes)
        .map_err(|why| CliError::failed("Compile", why))
}
