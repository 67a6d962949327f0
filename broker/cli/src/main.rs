//! The `pointsman` binary: the broker and every client command.
//!
//! `args` is the command line, `target` decides which broker is meant, `connect` goes there, a file of `commands`
//! does the work, and `output` or `error` tells the result. Only this crate touches the terminal.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

// From the command line over the broker to the terminal.
mod args;

mod contexts;
mod target;

mod connect;
mod logs;
mod signals;

mod commands;
mod guest;

mod definitions;
mod amounts;
mod human;
mod values;

mod output;
mod progress;

mod error;

use args::Cli;
use error::CliError;
use output::Format;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let format = cli.global.output;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(format);
            error.exit_code()
        }
    }
}

/// Help and version are what was asked for; everything else is a usage error, in the format that was asked for.
fn unparsed(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|arg| arg.to_str().is_some_and(|arg| arg.ends_with("json")));
    if error.use_stderr() && wants_json && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let text = error.to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        let usage = CliError::usage(message)
            .hint("`pointsman --help` and `pointsman COMMAND --help` show what is taken");
        usage.report(Format::Json);
        return usage.exit_code();
    }
    // Nothing is left to be done when the terminal is gone.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
