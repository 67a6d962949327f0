//! What was sent, confirmed and delivered, in a file outside the broker, and whether it adds up.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// One thing that happened. Messages of a publisher are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// About to be published.
    Sent { publisher: usize, number: u64 },
    /// The broker confirmed it.
    Confirmed { publisher: usize, number: u64 },
    /// A queue's consumer got it.
    Delivered {
        queue: usize,
        publisher: usize,
        number: u64,
        redelivered: bool,
    },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Line::Sent { publisher, number } => write!(f, "S {publisher} {number}"),
            Line::Confirmed { publisher, number } => write!(f, "C {publisher} {number}"),
            Line::Delivered {
                queue,
                publisher,
                number,
                redelivered,
            } => {
                write!(f, "D {publisher} {number} {queue} {}", u8::from(redelivered))
            }
        }
    }
}

impl Line {
    fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (publisher, message) = (number()? as usize, number()?);
        match kind {
            "S" => Some(Line::Sent {
                publisher,
                number: message,
            }),
            "C" => Some(Line::Confirmed {
                publisher,
                number: message,
            }),
            "D" => Some(Line::Delivered {
                queue: number()? as usize,
                publisher,
                number: message,
                redelivered: number()? == 1,
            }),
            _ => None,
        }
    }
}

/// The file being written. Clones write to the same.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Mutex<BufWriter<File>>>);

impl Ledger {
    /// Starts an empty one.
    pub(crate) fn create(path: &Path) -> io::Result<Ledger> {
        Ok(Ledger(Arc::new(Mutex::new(BufWriter::new(File::create(path)?)))))
    }

    /// Adds a line.
    pub(crate) fn write(&self, line: Line) {
        let mut file = self.0.lock().expect("no writer panics");
        writeln!(file, "{line}").expect("the ledger can be written");
    }

    /// Writes what is buffered.
    pub(crate) fn close(self) {
        self.0
            .lock()
            .expect("no writer panics")
            .flush()
            .expect("the ledger can be written");
    }
}

/// What a ledger that adds up shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Messages sent.
    pub(crate) sent: u64,
    /// Deliveries, all queues together.
    pub(crate) delivered: u64,
    /// Of these, deliveries of what the queue's consumer had seen before.
    pub(crate) repeated: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent and confirmed, {} delivered, {} of them again",
            self.sent, self.delivered, self.repeated
        )
    }
}

/// Goes through a ledger from its beginning.
///
/// # Errors
/// The first line that breaks a promise, or what is missing at the end, as a sentence.
pub(crate) fn check(ledger: impl io::Read, publishers: usize, queues: [&str; 2]) -> Result<Summary, String> {
    let mut summary = Summary::default();
    let mut sent = vec![0; publishers];
    let mut confirmed = vec![BTreeSet::new(); publishers];
    // By queue and publisher: the highest number seen. Order holds when no number is skipped on the way there.
    let mut seen = vec![vec![0; publishers]; queues.len()];
    for (at, line) in BufReader::new(ledger).lines().enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        let fault = |what: &str| format!("line {} of the ledger, `{line}`: {what}", at + 1);
        match Line::parse(&line).ok_or_else(|| fault("not a line"))? {
            Line::Sent { publisher, number } => {
                sent[publisher] = number;
                summary.sent += 1;
            }
            Line::Confirmed { publisher, number } => {
                if !confirmed[publisher].insert(number) {
                    return Err(fault("confirmed twice"));
                }
            }
            Line::Delivered {
                queue,
                publisher,
                number,
                ..
            } => {
                summary.delivered += 1;
                let highest = &mut seen[queue][publisher];
                if number > sent[publisher] {
                    return Err(fault("delivered but never sent"));
                } else if number > *highest + 1 {
                    return Err(fault(&format!(
                        "delivered out of order, or {} is lost",
                        *highest + 1
                    )));
                } else if number == *highest + 1 {
                    *highest = number;
                } else {
                    summary.repeated += 1;
                }
            }
        }
    }
    for (publisher, sent) in sent.iter().enumerate() {
        if confirmed[publisher].len() as u64 != *sent {
            return Err(format!(
                "{} of {sent} messages of publisher {publisher} confirmed",
                confirmed[publisher].len()
            ));
        }
        for (queue, seen) in queues.iter().zip(&seen) {
            if seen[publisher] != *sent {
                return Err(format!(
                    "{queue} got {} of {sent} messages of publisher {publisher}",
                    seen[publisher]
                ));
            }
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        check(text.as_bytes(), 1, ["left", "right"]).unwrap_err()
    }

    #[test]
    fn a_ledger_that_adds_up_is_summed_up() {
        let text = "S 0 1\nS 0 2\nC 0 1\nD 0 1 0 0\nD 0 1 1 0\nD 0 2 0 0\nD 0 1 0 1\nC 0 2\nD 0 2 1 0\n";
        let summary = check(text.as_bytes(), 1, ["left", "right"]).unwrap();
        assert_eq!(
            summary,
            Summary {
                sent: 2,
                delivered: 5,
                repeated: 1
            }
        );
    }

    #[test]
    fn every_broken_promise_is_found() {
        assert!(fault("S 0 1\nC 0 1\nD 0 1 0 0\n").contains("right got 0 of 1"));
        assert!(fault("D 0 1 0 0\n").contains("never sent"));
        assert!(fault("S 0 1\nS 0 2\nD 0 2 0 0\n").contains("out of order"));
        assert!(fault("S 0 1\nD 0 1 0 0\nD 0 1 1 0\n").contains("0 of 1 messages"));
        assert!(fault("S 0 1\nC 0 1\nC 0 1\n").contains("twice"));
        assert!(fault("S 0\n").contains("not a line"));
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let line = Line::Delivered {
            queue: 1,
            publisher: 0,
            number: 7,
            redelivered: true,
        };
        assert_eq!(Line::parse(&line.to_string()), Some(line));
    }
}
