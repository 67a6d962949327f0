//! `pointsman restore`: a data folder from a backup.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use pointsman_store::{BackupError, Report, Store};
use serde::Serialize;

use crate::commands::verify::DataDirArgs;
use crate::commands::{App, backup};
use crate::error::CliError;
use crate::human;

/// What is restored, and where to.
#[derive(Debug, Args)]
#[command(after_help = "The backup is only read. Everything in the copy is checked.")]
pub(crate) struct RestoreArgs {
    /// The folder that `pointsman backup` wrote
    dir: PathBuf,
    #[command(flatten)]
    to: DataDirArgs,
}

/// The JSON form of what was done.
#[derive(Serialize)]
struct RestoreView {
    data_dir: PathBuf,
    messages: u64,
}

pub(crate) fn run(app: &App, args: &RestoreArgs) -> Result<(), CliError> {
    let data_dir = args.to.data_dir()?;
    let from = pointsman_server::store_dir(&args.dir);
    if !from.join("FORMAT").exists() {
        let message = format!("{} is no backup: it has no store in it", args.dir.display());
        return Err(CliError::usage(message).hint("name the folder that `pointsman backup` wrote"));
    }
    let partial = backup::prepare(&data_dir, "a restore")?;
    let report = copy(&args.dir, &partial);
    if report.is_err() {
        // A data folder is whole or not there.
        let _ = fs::remove_dir_all(&partial);
    }
    let report = report?;
    backup::finish(&partial, &data_dir)?;
    let view = RestoreView {
        data_dir,
        messages: report.queues.iter().map(|queue| queue.saved).sum(),
    };
    let sentence = format!(
        "restored to {}, with {}; start it with `pointsman serve --data-dir {}`",
        view.data_dir.display(),
        human::counted(view.messages, "message"),
        view.data_dir.display(),
    );
    app.output.done(&view, &sentence)
}

fn copy(from: &Path, to: &Path) -> Result<Report, CliError> {
    for name in pointsman_server::CERTIFICATE_FILES {
        fs::copy(from.join(name), to.join(name))
            .map_err(|error| CliError::file("copy", &from.join(name), &error))?;
    }
    let (from, to) = (pointsman_server::store_dir(from), pointsman_server::store_dir(to));
    Store::restore(&from, &to).map_err(refused)
}

fn refused(error: BackupError) -> CliError {
    CliError::failed("Store", error.to_string())
        .hint("`pointsman verify --data-dir` on the backup says what is wrong with it")
}
