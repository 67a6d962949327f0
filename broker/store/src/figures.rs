//! What the store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

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
            sync_micros: Mutex::new(
                Histogram::new_with_bounds(1, SYNC_MAX, 2).expect("the bounds are valid ones"),
            ),
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        let mut histogram = self.sync_micros.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record((took.as_micros() as u64).max(1));
    }

    /// Names and values, in the order a reader wants them.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        let mut list = vec![
            ("commits".to_owned(), self.commits.load(Ordering::Relaxed)),
            ("commit_groups".to_owned(), self.groups.load(Ordering::Relaxed)),
            ("user_bytes".to_owned(), self.user_bytes.load(Ordering::Relaxed)),
            (
                "written_bytes".to_owned(),
                self.written_bytes.load(Ordering::Relaxed),
            ),
            (
                "chunks_appended".to_owned(),
                self.chunks_appended.load(Ordering::Relaxed),
            ),
            (
                "chunks_removed".to_owned(),
                self.chunks_removed.load(Ordering::Relaxed),
            ),
            ("chunks_read".to_owned(), self.chunks_read.load(Ordering::Relaxed)),
        ];
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
