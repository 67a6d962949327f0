//! What the store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::values::Progress;

/// Longest time the histogram of syncs tells apart, in microseconds.
const SYNC_MAX: u64 = 60_000_000;

/// Largest group that the histograms of groups tell apart, in records and in bytes.
const GROUP_MAX: u64 = 1 << 32;

#[derive(Debug)]
pub(crate) struct Figures {
    groups: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) user_bytes: AtomicU64,
    written_bytes: AtomicU64,
    pub(crate) chunks_appended: AtomicU64,
    pub(crate) chunks_removed: AtomicU64,
    pub(crate) chunks_read: AtomicU64,
    chunks_rewritten: AtomicU64,
    reclaimed_bytes: AtomicU64,
    reclaim_debt_bytes: AtomicU64,
    log_compactions: AtomicU64,
    log_bytes: AtomicU64,
    dead_bytes: AtomicU64,
    group_records: Spread,
    group_bytes: Spread,
    sync_micros: Spread,
}

/// How a figure is spread since the start.
#[derive(Debug)]
struct Spread(Mutex<Histogram<u64>>);

impl Spread {
    fn up_to(max: u64) -> Spread {
        let histogram = Histogram::new_with_bounds(1, max, 2);
        Spread(Mutex::new(histogram.expect("the bounds are valid ones")))
    }

    fn record(&self, value: u64) {
        self.lock().saturating_record(value.max(1));
    }

    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its quantiles, named after the figure, with the unit behind.
    fn list(&self, name: &str, unit: &str) -> [(String, u64); 3] {
        let histogram = self.lock();
        [
            (format!("{name}_p50{unit}"), histogram.value_at_quantile(0.5)),
            (format!("{name}_p99{unit}"), histogram.value_at_quantile(0.99)),
            (format!("{name}_max{unit}"), histogram.max()),
        ]
    }
}

impl Figures {
    pub(crate) fn new() -> Figures {
        Figures {
            groups: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            user_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            chunks_appended: AtomicU64::new(0),
            chunks_removed: AtomicU64::new(0),
            chunks_read: AtomicU64::new(0),
            chunks_rewritten: AtomicU64::new(0),
            reclaimed_bytes: AtomicU64::new(0),
            reclaim_debt_bytes: AtomicU64::new(0),
            log_compactions: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            dead_bytes: AtomicU64::new(0),
            group_records: Spread::up_to(GROUP_MAX),
            group_bytes: Spread::up_to(GROUP_MAX),
            sync_micros: Spread::up_to(SYNC_MAX),
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        self.sync_micros.record(took.as_micros() as u64);
    }

    /// A batch of so many bytes was written for so many records; without any it was reclaim or leftovers.
    pub(crate) fn wrote(&self, records: usize, bytes: u64) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        if records > 0 {
            self.group_records.record(records as u64);
            self.group_bytes.record(bytes);
        }
    }

    /// What the log holds now, and how much more of it is dead than is allowed.
    pub(crate) fn holds(&self, progress: &Progress, debt: u64) {
        self.log_bytes.store(progress.log_bytes, Ordering::Relaxed);
        self.dead_bytes.store(progress.dead_bytes, Ordering::Relaxed);
        self.reclaim_debt_bytes.store(debt, Ordering::Relaxed);
    }

    pub(crate) fn rewrote(&self, chunks: u64, freed: u64) {
        self.chunks_rewritten.fetch_add(chunks, Ordering::Relaxed);
        self.reclaimed_bytes.fetch_add(freed, Ordering::Relaxed);
    }

    pub(crate) fn compacted(&self) {
        self.log_compactions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Names and values, in the order a reader wants them.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        let counters = [
            ("commits", &self.commits),
            ("commit_groups", &self.groups),
            ("user_bytes", &self.user_bytes),
            ("written_bytes", &self.written_bytes),
            ("log_bytes", &self.log_bytes),
            ("dead_bytes", &self.dead_bytes),
            ("chunks_appended", &self.chunks_appended),
            ("chunks_removed", &self.chunks_removed),
            ("chunks_read", &self.chunks_read),
            ("chunks_rewritten", &self.chunks_rewritten),
            ("reclaimed_bytes", &self.reclaimed_bytes),
            ("reclaim_debt_bytes", &self.reclaim_debt_bytes),
            ("log_compactions", &self.log_compactions),
        ];
        let mut list: Vec<(String, u64)> = counters
            .iter()
            .map(|(name, counter)| ((*name).to_owned(), counter.load(Ordering::Relaxed)))
            .collect();
        list.extend(self.group_records.list("group_records", ""));
        list.extend(self.group_bytes.list("group_bytes", ""));
        list.push(("syncs".to_owned(), self.sync_micros.lock().len()));
        list.extend(self.sync_micros.list("sync", "_us"));
        list
    }
}
