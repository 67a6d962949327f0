//! `pointsman verify`: look at everything a stopped broker stored, and change nothing.

use std::path::{Path, PathBuf};

use clap::Args;
use pointsman_store::{OpenError, QueueReport, RepairError, Report, Store};
use serde::Serialize;

use crate::commands::{App, serve};
use crate::error::CliError;
use crate::human;
use crate::output::{Format, Row};

/// Ranges of lost positions that a table shows of one queue; JSON has all.
const RANGES_SHOWN: usize = 8;

/// Which data folder is meant.
#[derive(Debug, Args)]
pub(crate) struct DataDirArgs {
    /// The data folder of a broker that is stopped [default: pointsman in your data folder]
    #[arg(long, value_name = "DIR", env = "POINTSMAN_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDirArgs {
    /// The folder itself.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CliError> {
        self.data_dir.clone().map_or_else(serve::default_data_dir, Ok)
    }

    /// The store in it.
    pub(crate) fn store(&self) -> Result<PathBuf, CliError> {
        Ok(pointsman_server::store_dir(&self.data_dir()?))
    }
}

/// The JSON form of a report.
#[derive(Debug, Serialize)]
pub(crate) struct ReportView {
    folder: PathBuf,
    sound: bool,
    saved: u64,
    lost: u64,
    batches_lost: u64,
    chunks: u64,
    damage: Vec<String>,
    queues: Vec<QueueView>,
}

/// The JSON form of what was found of a queue.
#[derive(Debug, Serialize)]
struct QueueView {
    /// `vhost` and `queue` are null for a queue whose definition is not there.
    vhost: Option<String>,
    queue: Option<String>,
    /// The number of the queue in the store.
    number: u32,
    saved: u64,
    /// Messages that wait for the end of their delay.
    delayed: u64,
    /// Of both.
    lost: u64,
    /// First and last position of each range.
    lost_positions: Vec<(u64, u64)>,
}

pub(crate) fn run(app: &App, args: &DataDirArgs) -> Result<(), CliError> {
    let folder = args.store()?;
    let report = Store::examine(&folder).map_err(|error| refused(&error))?;
    let view = ReportView::new(&folder, &report);
    view.show(app)?;
    if view.sound {
        return app.output.say("everything is there and whole");
    }
    Err(CliError::failed("Damaged", view.summary())
        .hint("`pointsman repair --dry-run` says what a repair would save; `pointsman repair` does it"))
}

/// Why a folder was not looked at, with what to do.
pub(crate) fn refused(error: &RepairError) -> CliError {
    let hint = match error {
        RepairError::Open(OpenError::InUse { .. }) => {
            "stop the broker first; a running one has `pointsman status` and `pointsman backup`"
        }
        RepairError::Open(OpenError::Io { .. }) => "name the data folder with --data-dir",
        RepairError::Beyond { .. } | RepairError::Definitions(_) => {
            "`pointsman restore` makes a data folder from a backup; nothing was changed here"
        }
        _ => "",
    };
    CliError::failed("Store", error.to_string()).hint(hint)
}

impl ReportView {
    pub(crate) fn new(folder: &Path, report: &Report) -> ReportView {
        let queues: Vec<QueueView> = report.queues.iter().map(QueueView::from).collect();
        ReportView {
            folder: folder.to_owned(),
            sound: report.is_sound(),
            saved: queues.iter().map(|queue| queue.saved + queue.delayed).sum(),
            lost: queues.iter().map(|queue| queue.lost).sum(),
            batches_lost: report.batches_lost,
            chunks: report.chunks,
            damage: report.damage.iter().map(ToString::to_string).collect(),
            queues,
        }
    }

    /// Writes the report: an object, or a table with a line for each damage.
    pub(crate) fn show(&self, app: &App) -> Result<(), CliError> {
        if app.output.format == Format::Json {
            return app.output.one(self, &[]);
        }
        app.output.say(&format!("{}:", self.folder.display()))?;
        for damage in &self.damage {
            app.output.say(&format!("damage: {damage}"))?;
        }
        if self.batches_lost > 0 {
            app.output.say(&format!(
                "damage: {} lost; messages that were only there leave no trace but gaps in queues",
                human::counted(self.batches_lost, "synced write"),
            ))?;
        }
        app.output.list(&self.queues)
    }

    /// What is left and what is not, as a sentence.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} there and whole, {} lost",
            human::counted(self.saved, "message"),
            human::counted(self.lost, "message"),
        )
    }
}

impl From<&QueueReport> for QueueView {
    fn from(report: &QueueReport) -> QueueView {
        let (vhost, queue) = report.name.clone().unzip();
        QueueView {
            vhost,
            queue,
            number: report.queue.0,
            saved: report.saved,
            delayed: report.delayed,
            lost: report.lost_count(),
            lost_positions: report
                .lost
                .iter()
                .map(|range| (range.start, range.end - 1))
                .collect(),
        }
    }
}

impl Row for QueueView {
    const HEADINGS: &'static [&'static str] =
        &["vhost", "queue", "saved", "delayed", "lost", "lost positions"];

    fn cells(&self) -> Vec<String> {
        let number = || format!("(number {})", self.number);
        let mut positions: Vec<String> = self
            .lost_positions
            .iter()
            .take(RANGES_SHOWN)
            .map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            })
            .collect();
        if self.lost_positions.len() > RANGES_SHOWN {
            positions.push("... (-o json lists all)".to_owned());
        }
        vec![
            self.vhost.clone().unwrap_or_default(),
            self.queue.clone().unwrap_or_else(number),
            human::count(self.saved),
            human::count(self.delayed),
            human::count(self.lost),
            positions.join(", "),
        ]
    }
}
