//! `router build`: from a folder to a module.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;

use super::load::read_module;
use crate::commands::App;
use crate::error::CliError;
use crate::guest;
use crate::human;
use crate::progress::Progress;

/// What to build.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The router's folder
    dir: PathBuf,
    /// Copy the module to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &BuildArgs) -> Result<(), CliError> {
    let built = build(app, &args.dir)?;
    let size = std::fs::metadata(&built)
        .map_err(|error| CliError::file("read", &built, &error))?
        .len();
    let module = match &args.out {
        Some(out) => {
            std::fs::copy(&built, out).map_err(|error| CliError::file("write", out, &error))?;
            out
        }
        None => &built,
    };
    let view = serde_json::json!({ "module": module, "size": size });
    let shown = module.display();
    let sentence = format!(
        "{shown} ({})\nload it:  pointsman router load NAME --module {shown} --activate",
        human::bytes(size)
    );
    app.output.done(&view, &sentence)
}

/// Builds the router in `dir` and reads its module.
pub(crate) fn module_of(app: &App, dir: &Path) -> Result<Bytes, CliError> {
    read_module(&build(app, dir)?)
}

fn build(app: &App, dir: &Path) -> Result<PathBuf, CliError> {
    let mut progress = Progress::new(app.output, "building the router", None);
    Ok(guest::build(dir, |line| progress.step(line))?)
}
