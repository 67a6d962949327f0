//! What was measured, as it is kept in `results/results.json`: each row as of its last run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pointsman_load::Report;
use serde::{Deserialize, Serialize};

use crate::peers::Promise;
use crate::rows::{Figure, Row};
use crate::server::text;

/// All rows, each as of its last run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Processor, memory and kernel.
    pub(crate) machine: String,
    /// Each broker's version, by its name.
    pub(crate) versions: BTreeMap<String, String>,
    /// In the order they are shown.
    pub(crate) rows: Vec<Measured>,
}

/// One row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) row: String,
    /// When it ended, in UTC.
    pub(crate) date: String,
    /// How many rounds; figures are medians of them.
    pub(crate) rounds: usize,
    /// How long each round was measured, in seconds.
    pub(crate) seconds: f64,
    /// In the order they are shown.
    pub(crate) brokers: Vec<BrokerFigures>,
}

/// One broker in one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BrokerFigures {
    pub(crate) broker: String,
    pub(crate) title: String,
    pub(crate) promise: Promise,
    /// Sync calls while messages were published one by one, each once the one before was confirmed, and then consumed.
    pub(crate) syncs: Option<Syncs>,
    /// Medians; `None` when a round failed.
    pub(crate) median: Option<Round>,
    /// In the order they were run.
    pub(crate) rounds: Vec<Round>,
    /// What went wrong, so that there are no figures.
    pub(crate) fault: Option<String>,
    /// Why it had no turn.
    #[serde(default)]
    pub(crate) left_out: Option<String>,
    /// The most memory its processes had resident in all rounds, in bytes.
    pub(crate) peak_memory: Option<u64>,
}

/// Sync calls of the server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Syncs {
    pub(crate) messages: u64,
    pub(crate) calls: u64,
}

/// The figures of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// Confirmed messages a second.
    pub(crate) published: f64,
    /// Arrived and acknowledged messages a second.
    pub(crate) consumed: f64,
    /// p50, p99, p99.9 in microseconds.
    pub(crate) confirm: [f64; 3],
    /// The same until the delivery.
    pub(crate) delivery: [f64; 3],
    /// CPU time of the server for a message from publish to ack, in microseconds; `None` where there is no server.
    pub(crate) cpu: Option<f64>,
}

impl Round {
    pub(crate) fn of(report: &Report, cpu: Option<std::time::Duration>) -> Round {
        let latency = |latency: &pointsman_load::Latency| [latency.p50, latency.p99, latency.p999];
        Round {
            published: report.published.per_second,
            consumed: report.consumed.per_second,
            confirm: latency(&report.confirm),
            delivery: report.delivery.as_ref().map(latency).unwrap_or_default(),
            cpu: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / report.sent.max(1) as f64),
        }
    }

    /// The median of each figure by itself.
    pub(crate) fn median(rounds: &[Round]) -> Option<Round> {
        let median = |figures: Option<Vec<f64>>| {
            let mut figures = figures?;
            figures.sort_unstable_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied()
        };
        let middle = |figure: &dyn Fn(&Round) -> f64| median(Some(rounds.iter().map(figure).collect()));
        let three = |figure: fn(&Round) -> [f64; 3]| {
            Some([
                middle(&|round| figure(round)[0])?,
                middle(&|round| figure(round)[1])?,
                middle(&|round| figure(round)[2])?,
            ])
        };
        Some(Round {
            published: middle(&|round| round.published)?,
            consumed: middle(&|round| round.consumed)?,
            confirm: three(|round| round.confirm)?,
            delivery: three(|round| round.delivery)?,
            cpu: median(rounds.iter().map(|round| round.cpu).collect()),
        })
    }

    /// What a line of the table shows, the first number for bars: messages a second, or microseconds.
    pub(crate) fn shown(&self, figure: Figure) -> Vec<f64> {
        match figure {
            Figure::Published => vec![self.published],
            Figure::Consumed => vec![self.consumed],
            Figure::ConfirmLatency => self.confirm.to_vec(),
            Figure::DeliveryLatency => self.delivery.to_vec(),
        }
    }
}

impl BrokerFigures {
    /// Whether there is such a figure: who has no broker confirms nothing.
    pub(crate) fn has(&self, figure: Figure) -> bool {
        self.promise != Promise::NoBroker || figure != Figure::ConfirmLatency
    }
}

impl Results {
    /// Reads what earlier runs left; nothing when there is none.
    pub(crate) fn read(file: &Path) -> Result<Results, String> {
        match fs::read_to_string(file) {
            Ok(json) => serde_json::from_str(&json).map_err(|error| format!("{}: {error}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::default()),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(text)?;
        fs::write(file, format!("{json}\n")).map_err(text)
    }

    /// Puts a row in its place, instead of what it was.
    pub(crate) fn replace(&mut self, all: &[Row], measured: Measured) {
        self.rows.retain(|row| row.row != measured.row);
        self.rows.push(measured);
        self.rows
            .sort_by_key(|row| all.iter().position(|known| known.name == row.row));
    }

    /// The figures of a row.
    pub(crate) fn row(&self, name: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.row == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_a_median_of_its_own() {
        let round = |published, p99| Round {
            published,
            confirm: [1.0, p99, 9.0],
            ..Round::default()
        };
        let median = Round::median(&[round(5.0, 30.0), round(9.0, 10.0), round(7.0, 20.0)]).unwrap();
        assert_eq!((median.published, median.confirm), (7.0, [1.0, 20.0, 9.0]));
        assert_eq!(Round::median(&[]), None);
    }
}
