//! What the store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::values::Progress;

/// Longest time the histogram of syncs tells apart, in microseconds.
const SYNC_MAX: u64 = 60_000_000;

#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) groups: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) user_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) chunks_appended: AtomicU64,
    pub(crate) chunks_removed: AtomicU64,
    pub(crate) chunks_read: AtomicU64,
    chunks_rewritten: AtomicU64,
    reclaimed_bytes: AtomicU64,
    reclaim_debt_bytes: AtomicU64,
    log_compactions: AtomicU64,
    log_bytes: AtomicU64,
    dead_bytes: AtomicU64,
    sync_micros: Mutex<Histogram<u64>>,
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
            sync_micros: Mutex::new(
                Histogram::new_with_bounds(1, SYNC_MAX, 2).expect("the bounds are valid ones"),
            ),
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        let mut histogram = self.sync_micros.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record((took.as_micros() as u64).max(1));
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
        let syncs = self.sync_micros.lock().unwrap_or_else(PoisonError::into_inner);
        list.extend([
            ("syncs".to_owned(), syncs.len()),
            ("sync_p50_us".to_owned(), syncs.value_at_quantile(0.5)),
            ("sync_p99_us".to_owned(), syncs.value_at_quantile(0.99)),
            ("sync_max_us".to_owned(), syncs.max()),
        ]);
        list
    }
}
