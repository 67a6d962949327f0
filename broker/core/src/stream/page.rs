//! Entries that follow each other without a gap, up to the tail of a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::IndexEntry;

/// The last entries of a stream, bounded in runs.
#[derive(Debug)]
pub(super) struct Page {
    entries: VecDeque<Arc<IndexEntry>>,
    /// The first position of the first entry, or the tail.
    first: u64,
    runs: usize,
    runs_max: usize,
}

impl Page {
    /// An empty page at the tail.
    pub(super) fn new(tail: u64, runs_max: usize) -> Page {
        Page {
            entries: VecDeque::new(),
            first: tail,
            runs: 0,
            runs_max,
        }
    }

    /// The first position it has; the store is to be asked for those below.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Adds the entry that follows, and leaves to the store what is too much.
    pub(super) fn push(&mut self, entry: Arc<IndexEntry>) {
        self.runs += entry.runs.len();
        self.entries.push_back(entry);
        while self.runs > self.runs_max {
            self.drop_first();
        }
    }

    /// Drops the entries below a position.
    pub(super) fn drop_below(&mut self, position: u64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.last().0 < position)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.runs -= entry.runs.len();
            self.first = entry.last().0 + 1;
        }
    }

    /// The entry that holds a position.
    pub(super) fn find(&self, position: u64) -> Option<&Arc<IndexEntry>> {
        let at = self.entries.partition_point(|entry| entry.last().0 < position);
        self.entries.get(at).filter(|entry| entry.first.0 <= position)
    }

    /// The entries from the one that holds a position on; none when the page begins behind it.
    pub(super) fn from(&self, position: u64) -> impl Iterator<Item = &Arc<IndexEntry>> {
        let at = match position < self.first {
            true => self.entries.len(),
            false => self.entries.partition_point(|entry| entry.last().0 < position),
        };
        self.entries.range(at..)
    }
}
