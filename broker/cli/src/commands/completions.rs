//! `pointsman completions`: a completion script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::CliError;
use crate::output;

/// For which shell.
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: pointsman completions bash > ~/.local/share/bash-completion/completions/pointsman"
)]
pub(crate) struct CompletionsArgs {
    /// Your shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pointsman", &mut script);
    output::write_text(&String::from_utf8_lossy(&script))
}
