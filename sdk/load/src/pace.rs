//! An open loop's clock: says when messages are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Wakes a task whenever a message is due, from a thread that sleeps in between: a runtime's own timer is only good to
/// a millisecond, which is longer than many brokers take.
pub(crate) struct Pacer {
    start: Instant,
    /// Nanoseconds from one message to the next.
    every: f64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    due: Notify,
    over: AtomicBool,
}

impl Pacer {
    /// Messages are due `rate` times a second, the first at `start`.
    pub(crate) fn new(start: Instant, rate: f64) -> Pacer {
        let pacer = Pacer {
            start,
            every: 1e9 / rate,
            shared: Arc::default(),
        };
        let (every, shared) = (pacer.every, pacer.shared.clone());
        std::thread::spawn(move || tick(start, every, &shared));
        pacer
    }

    /// When the first is due.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// When a message is due, in nanoseconds from the start.
    pub(crate) fn due(&self, number: u64) -> u64 {
        (number as f64 * self.every) as u64
    }

    /// How many are due by now.
    pub(crate) fn count(&self) -> u64 {
        count(self.start, self.every)
    }

    /// Waits until one more is due.
    pub(crate) async fn tick(&self) {
        self.shared.due.notified().await;
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn count(start: Instant, every: f64) -> u64 {
    match Instant::now().checked_duration_since(start) {
        Some(since) => (since.as_nanos() as f64 / every) as u64 + 1,
        None => 0,
    }
}

fn tick(start: Instant, every: f64, shared: &Shared) {
    sleep_exactly();
    while !shared.over.load(Ordering::Relaxed) {
        let next = Duration::from_nanos((count(start, every) as f64 * every) as u64);
        // Not longer than this, so that the thread ends soon after the run.
        let wait = (start + next).saturating_duration_since(Instant::now());
        std::thread::sleep(wait.min(Duration::from_millis(100)));
        shared.due.notify_one();
    }
}

/// Linux lets a sleep last 50 us longer unless the thread asks for less. Where that cannot be asked, latencies show it.
fn sleep_exactly() {
    let thread = std::fs::read_link("/proc/thread-self").ok();
    if let Some(id) = thread.as_ref().and_then(|path| path.file_name()?.to_str()) {
        // Nothing but precision is lost.
        let _ = std::fs::write(format!("/proc/{id}/timerslack_ns"), "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_fixed_times_whatever_happened_before() {
        let start = Instant::now() - Duration::from_millis(10);
        let pacer = Pacer::new(start, 2_000.0);
        assert_eq!([0, 1, 4].map(|n| pacer.due(n)), [0, 500_000, 2_000_000]);
        assert!(pacer.count() >= 21, "all that were due while nobody looked");
        assert_eq!(
            Pacer::new(Instant::now() + Duration::from_secs(60), 2_000.0).count(),
            0
        );
    }
}
