//! How far long work is: a bar on a terminal, plain lines in a pipe, nothing beside JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::human;
use crate::output::{Format, Output};

/// How often a pipe gets a line.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows the progress of one piece of work until it is dropped.
pub(crate) struct Progress {
    shown: Shown,
    label: String,
    done: u64,
    total: Option<u64>,
    last_line: Instant,
}

enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// Begins; `total` is how many steps the work has, where that is known.
    pub(crate) fn new(output: Output, label: &str, total: Option<u64>) -> Progress {
        let shown = match output.format {
            Format::Json => Shown::Nothing,
            Format::Table if output.draws_progress() => Shown::Bar(bar(label, total)),
            Format::Table => Shown::Lines,
        };
        let progress = Progress {
            shown,
            label: label.to_owned(),
            done: 0,
            total,
            last_line: Instant::now(),
        };
        progress.line(&format!("{label} ..."));
        progress
    }

    /// `n` more steps are done.
    pub(crate) fn add(&mut self, n: u64) {
        self.done += n;
        match &self.shown {
            Shown::Bar(bar) => bar.inc(n),
            Shown::Lines if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.line(&self.state());
            }
            Shown::Lines | Shown::Nothing => {}
        }
    }

    /// Says what is being done now.
    pub(crate) fn step(&mut self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(format!("{}: {text}", self.label)),
            Shown::Lines | Shown::Nothing => self.line(text),
        }
    }

    fn state(&self) -> String {
        let done = human::count(self.done);
        match self.total {
            Some(total) => format!("{}: {done} of {}", self.label, human::count(total)),
            None => format!("{}: {done}", self.label),
        }
    }

    fn line(&self, text: &str) {
        if let Shown::Lines = self.shown {
            // Progress is a courtesy: work goes on when nobody reads it.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    let bar = bar.with_message(label.to_owned());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_many_of_how_many() {
        let output = Output { format: Format::Json };
        let mut progress = Progress::new(output, "publishing", Some(3_000));
        progress.add(1_200);
        assert_eq!(progress.state(), "publishing: 1,200 of 3,000");
        let open_ended = Progress::new(output, "reading", None);
        assert_eq!(open_ended.state(), "reading: 0");
    }
}
