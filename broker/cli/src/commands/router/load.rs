//! `router load`: a module and its configuration become the next version of a router.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{ArgGroup, Args};
use pointsman_protocol::admin::{Reply, Request};

use super::list::VersionView;
use super::{build, config};
use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::progress::Progress;

/// What to load.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["module", "dir", "from_latest"])))]
pub(crate) struct LoadArgs {
    /// The router; it is made when it is not there
    name: String,
    /// A compiled module (.wasm, or .wat text)
    #[arg(short, long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// A router's folder, which is built first
    #[arg(short, long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The module of the latest version, with another configuration
    #[arg(long)]
    from_latest: bool,
    /// A file with the configuration that is handed to the module
    #[arg(short, long, value_name = "FILE", conflicts_with = "config_text")]
    config: Option<PathBuf>,
    /// The configuration itself
    #[arg(long, value_name = "TEXT")]
    config_text: Option<String>,
    /// Let the new version decide from now on
    #[arg(short, long)]
    activate: bool,
}

pub(crate) async fn run(app: &App, args: LoadArgs) -> Result<(), CliError> {
    let config = config(args.config.as_ref(), args.config_text.as_ref())?;
    let module = match (&args.module, &args.dir) {
        (Some(file), _) => read_module(file)?,
        (None, Some(dir)) => build::module_of(app, dir)?,
        (None, None) => Bytes::new(),
    };
    let request = Request::RouterLoad {
        name: args.name,
        config,
        activate: args.activate,
    };
    let progress = Progress::new(app.output, "compiling the module in the broker", None);
    let reply = app.ask(request, module).await?;
    drop(progress);
    match reply {
        Reply::RouterVersion(version) => {
            let mut sentence = format!(
                "{}@{} is loaded ({}, {})",
                version.router,
                version.version,
                human::bytes(version.size),
                if version.active {
                    "it decides now"
                } else {
                    "not active yet"
                },
            );
            if !version.active {
                sentence.push_str(&format!(
                    "\nlet it decide: pointsman router activate {}@{}",
                    version.router, version.version
                ));
            }
            app.output.done(&VersionView::from(version), &sentence)
        }
        other => Err(CliError::unexpected(&other)),
    }
}

/// Reads a module; an empty file would mean "the latest version's" to the broker, so it is refused here.
pub(crate) fn read_module(path: &Path) -> Result<Bytes, CliError> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => {
            Err(CliError::usage(format!("the module {} is empty", path.display())))
        }
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(CliError::file("read the module", path, &error)
            .hint("build one with `pointsman router build DIR`")),
    }
}
