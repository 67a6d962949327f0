//! Entries of transient queues, which are nowhere else.

use std::collections::BTreeMap;

use super::{DueEntry, DueKey};
use crate::ids::QueueId;

/// How often entries of settled messages are looked for while there is no room, in milliseconds.
const TIDY_EVERY_MS: u64 = 1_000;

/// Entries in memory, bounded in runs.
#[derive(Debug)]
pub(super) struct Memory {
    entries: BTreeMap<DueKey, DueEntry>,
    runs: usize,
    runs_max: usize,
    /// How many runs were left when it was tidied last.
    left: usize,
    /// When that was, in milliseconds since the Unix epoch.
    tidied: u64,
}

impl Memory {
    pub(super) fn new(runs_max: usize) -> Memory {
        Memory {
            entries: BTreeMap::new(),
            runs: 0,
            runs_max,
            left: 0,
            tidied: 0,
        }
    }

    /// When the first entry is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.entries.first_key_value().map(|(key, _)| key.at)
    }

    /// Takes out the first entry, if it is due.
    pub(super) fn pop(&mut self, now: u64) -> Option<(DueKey, DueEntry)> {
        let first = self.entries.first_entry().filter(|first| first.key().at <= now)?;
        let (key, entry) = first.remove_entry();
        self.runs -= entry.runs();
        Some((key, entry))
    }

    pub(super) fn insert(&mut self, key: DueKey, entry: DueEntry) {
        self.runs += entry.runs();
        self.entries.insert(key, entry);
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.runs >= self.runs_max
    }

    /// Whether it is time to look for entries whose messages were settled; they stay until they are due otherwise. It
    /// is when the entries have doubled, so that looking costs next to nothing for each, and now and then when it is full.
    pub(super) fn wants_tidying(&self, now: u64) -> bool {
        self.runs > 2 * self.left + 1_024 || (self.is_full() && now.abs_diff(self.tidied) >= TIDY_EVERY_MS)
    }

    /// Drops the entries that `is_needed` does not hold for.
    pub(super) fn tidy(&mut self, now: u64, is_needed: impl Fn(&DueKey, &DueEntry) -> bool) {
        self.entries.retain(|key, entry| is_needed(key, entry));
        self.runs = self.entries.values().map(DueEntry::runs).sum();
        (self.left, self.tidied) = (self.runs, now);
    }

    /// Takes out the entries of a queue.
    pub(super) fn take(&mut self, queue: QueueId) -> Vec<DueEntry> {
        let of_queue = self.entries.extract_if(.., |key, _| key.queue == queue);
        let taken: Vec<DueEntry> = of_queue.map(|(_, entry)| entry).collect();
        self.runs -= taken.iter().map(DueEntry::runs).sum::<usize>();
        taken
    }
}
