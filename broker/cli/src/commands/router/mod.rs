//! `pointsman router`: write, build, try, load and switch the Wasm modules that route.

use std::path::PathBuf;

use clap::Subcommand;

pub(crate) use build::module_of as build_module;
pub(crate) use load::read_module;

use crate::commands::App;
use crate::error::CliError;

mod build;
mod list;
mod load;
mod logs;
mod new;
mod switch;
mod test;

/// Write, build, try, load and switch the Wasm modules that route.
#[derive(Debug, Subcommand)]
pub(crate) enum RouterCommand {
    /// Begin a router: a folder with a small one that works, and its tests
    New(new::NewArgs),
    /// Compile a router's folder to a module
    Build(build::BuildArgs),
    /// Try a module on cases in a file, with the broker's own engine but without a broker
    Test(test::TestArgs),
    /// Upload a module and its configuration as the next version of a router
    Load(load::LoadArgs),
    /// List the routers of the vhost
    #[command(visible_alias = "ls")]
    List,
    /// Show a router with all its versions
    Show {
        /// Its name
        name: String,
    },
    /// Make a version the one that decides, on all exchanges of that router at once
    Activate {
        /// Router and version, such as orders@2
        version: switch::VersionName,
    },
    /// Go back to the version that was active before
    Rollback {
        /// The router
        name: String,
    },
    /// Remove a version that is not active, or a whole router that no exchange uses
    #[command(visible_alias = "rm")]
    Unload {
        /// The router, such as orders, or one version, such as orders@1
        router: String,
    },
    /// Show what a router did and said
    Logs {
        /// The router
        name: String,
        /// At most so many of the last events
        #[arg(short = 'n', long, default_value_t = 50)]
        count: u32,
    },
}

impl RouterCommand {
    /// Whether the command does its work without a broker.
    pub(crate) fn is_offline(&self) -> bool {
        matches!(
            self,
            RouterCommand::New(_) | RouterCommand::Build(_) | RouterCommand::Test(_)
        )
    }
}

/// Runs a command that needs no broker.
pub(crate) fn run_offline(app: &App, command: RouterCommand) -> Result<(), CliError> {
    match command {
        RouterCommand::New(args) => new::run(app, &args),
        RouterCommand::Build(args) => build::run(app, &args),
        RouterCommand::Test(args) => test::run(app, &args),
        _ => unreachable!("all others need a broker"),
    }
}

/// Runs a command that needs a broker.
pub(crate) async fn run(app: &App, command: RouterCommand) -> Result<(), CliError> {
    match command {
        RouterCommand::Load(args) => load::run(app, args).await,
        RouterCommand::List => list::list(app).await,
        RouterCommand::Show { name } => list::show(app, name).await,
        RouterCommand::Activate { version } => switch::activate(app, version).await,
        RouterCommand::Rollback { name } => switch::rollback(app, name).await,
        RouterCommand::Unload { router } => switch::unload(app, &router).await,
        RouterCommand::Logs { name, count } => logs::run(app, name, count).await,
        RouterCommand::New(_) | RouterCommand::Build(_) | RouterCommand::Test(_) => {
            unreachable!("these need no broker")
        }
    }
}

/// Reads a router's configuration from a file or from the command line; neither means an empty one.
fn config(file: Option<&PathBuf>, text: Option<&String>) -> Result<Vec<u8>, CliError> {
    match (file, text) {
        (Some(path), _) => {
            std::fs::read(path).map_err(|error| CliError::file("read the configuration", path, &error))
        }
        (None, Some(text)) => Ok(text.clone().into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}
