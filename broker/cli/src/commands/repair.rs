//! `pointsman repair`: save what can be saved of a damaged data folder, and keep the damaged one.

use std::path::PathBuf;

use clap::Args;
use pointsman_store::Store;
use serde::Serialize;

use crate::commands::App;
use crate::commands::verify::{DataDirArgs, ReportView, refused};
use crate::error::CliError;
use crate::output::Format;

/// What to repair.
#[derive(Debug, Args)]
#[command(
    after_help = "Works on a copy. The damaged store is kept beside the repaired one, under a name that is printed."
)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    folder: DataDirArgs,
    /// Only say which messages of which queues would be saved and which are lost
    #[arg(long)]
    dry_run: bool,
}

/// The JSON form.
#[derive(Serialize)]
struct RepairView {
    #[serde(flatten)]
    report: ReportView,
    dry_run: bool,
    /// Where the damaged store is now.
    kept: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &RepairArgs) -> Result<(), CliError> {
    let folder = args.folder.store()?;
    let (report, kept) = if args.dry_run {
        let report = Store::examine(&folder).map_err(|error| refused(&error))?;
        (report, None)
    } else {
        let repaired = Store::repair(&folder).map_err(|error| refused(&error))?;
        (repaired.report, repaired.kept)
    };
    let view = RepairView {
        report: ReportView::new(&folder, &report),
        dry_run: args.dry_run,
        kept,
    };
    if app.output.format == Format::Json {
        return app.output.one(&view, &[]);
    }
    view.report.show(app)?;
    app.output.say(&view.outcome(report.is_sound()))
}

impl RepairView {
    fn outcome(&self, sound: bool) -> String {
        match &self.kept {
            _ if sound => "nothing is damaged; nothing was changed".to_owned(),
            None => format!(
                "a repair would leave: {}; nothing was changed",
                self.report.summary()
            ),
            Some(kept) => format!(
                "repaired: {}\nthe damaged store is kept as {}; remove it when you no longer need it",
                self.report.summary(),
                kept.display()
            ),
        }
    }
}
