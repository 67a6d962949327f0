//! The command line as it is written. Each command's own arguments stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::output::Format;

/// A message broker that routes through WebAssembly modules you swap while it runs.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, max_term_width = 100)]
#[command(after_help = "Start a broker with `pointsman serve`; see it all at work with `pointsman demo`.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes. A flag wins over its environment variable, and that over the context.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The broker to talk to [env: POINTSMAN_SERVER]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// The vhost to work in [env: POINTSMAN_VHOST]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) vhost: Option<String>,
    /// Who you are [env: POINTSMAN_USER]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Your password; others may see it in the process list, so prefer a file [env: POINTSMAN_PASSWORD]
    #[arg(long, global = true, value_name = "TEXT", conflicts_with = "password_file")]
    pub(crate) password: Option<String>,
    /// A file whose first line is your password [env: POINTSMAN_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// The CA certificate the broker is checked against, in PEM [env: POINTSMAN_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Which context of the contexts file to use [env: POINTSMAN_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The contexts file, instead of the one in your configuration folder [env: POINTSMAN_CONTEXTS_FILE]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) contexts_file: Option<PathBuf>,
    /// How results and errors are written
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        env = "POINTSMAN_OUTPUT",
        hide_env_values = true
    )]
    pub(crate) output: Format,
    /// What to log to standard error: a level, or `crate=level` pairs [env: POINTSMAN_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker
    Serve(commands::serve::ServeArgs),
    /// See the broker at work on real-looking orders, or on your own JSON Lines
    Demo(commands::demo::DemoArgs),
    /// Show what the broker is doing
    Status,
    /// Declare, look at and delete exchanges
    #[command(subcommand)]
    Exchange(commands::exchange::ExchangeCommand),
    /// Declare, look at, purge and delete queues
    #[command(subcommand)]
    Queue(commands::queue::QueueCommand),
    /// Declare, look at and delete bindings
    #[command(subcommand)]
    Binding(commands::binding::BindingCommand),
    /// Bind a queue or exchange to an exchange; short for `binding declare`
    Bind(commands::binding::BindArgs),
    /// Remove a binding; short for `binding delete`
    Unbind(commands::binding::BindArgs),
    /// Declare, list and delete vhosts
    #[command(subcommand)]
    Vhost(commands::vhost::VhostCommand),
    /// Publish messages and wait until the broker confirms them
    Publish(commands::publish::PublishArgs),
    /// Take messages from a queue and print them
    Consume(commands::consume::ConsumeArgs),
    /// Put a broker under load and see what it does with it
    Bench(commands::bench::BenchArgs),
    /// Write, build, try, load and switch the Wasm modules that route
    #[command(subcommand)]
    Router(commands::router::RouterCommand),
    /// Write what is declared to a file
    Export(commands::export::ExportArgs),
    /// Declare what a file says
    Import(commands::import::ImportArgs),
    /// Copy a running broker's data folder to this machine
    Backup(commands::backup::BackupArgs),
    /// Make a data folder from a backup
    Restore(commands::restore::RestoreArgs),
    /// Look at everything a stopped broker stored, and change nothing
    Verify(commands::verify::DataDirArgs),
    /// Save what can be saved of a damaged data folder
    Repair(commands::repair::RepairArgs),
    /// Choose which broker commands talk to
    #[command(subcommand)]
    Context(commands::context::ContextCommand),
    /// Print a completion script for your shell
    Completions(commands::completions::CompletionsArgs),
    /// Compile a module as a child of a broker, which sets the limits
    #[command(hide = true)]
    CompileModule(commands::compile_module::CompileModuleArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_taken_before_and_behind_the_command() {
        let before = Cli::try_parse_from(["pointsman", "-o", "json", "--vhost", "v", "status"]).unwrap();
        let behind = Cli::try_parse_from(["pointsman", "status", "-o", "json", "--vhost", "v"]).unwrap();
        for cli in [before, behind] {
            assert_eq!(cli.global.output, Format::Json);
            assert_eq!(cli.global.vhost.as_deref(), Some("v"));
        }
    }

    #[test]
    fn a_password_and_a_password_file_exclude_each_other() {
        let args = ["pointsman", "--password", "p", "--password-file", "f", "status"];
        assert!(Cli::try_parse_from(args).is_err());
    }
}
