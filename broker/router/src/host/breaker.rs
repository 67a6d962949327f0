//! Leaves a module that keeps failing alone for a while.

use std::time::{Duration, Instant};

use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, FAILURES_IN_A_ROW};

/// Counts failures in a row. After [`FAILURES_IN_A_ROW`] the module is not called for [`BACKOFF_FIRST`]; if it then
/// fails again, for twice as long, up to [`BACKOFF_MAX`]. The first success ends it.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// True when this failure opens the breaker.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let Some(further) = self.failures.checked_sub(FAILURES_IN_A_ROW) else {
            return false;
        };
        if self.left(now).is_some() {
            return false;
        }
        let backoff = BACKOFF_FIRST
            .saturating_mul(1 << further.min(16))
            .min(BACKOFF_MAX);
        self.open_until = Some(now + backoff);
        true
    }

    /// How long the module is still left alone, if it is.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.open_until?
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_waits_twice_as_long_each_time() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_IN_A_ROW {
            assert!(!breaker.failed(start));
        }
        assert_eq!(breaker.left(start), None);
        assert!(breaker.failed(start));
        assert_eq!(breaker.left(start), Some(BACKOFF_FIRST));
        let later = start + BACKOFF_FIRST;
        assert_eq!(breaker.left(later), None);
        assert!(breaker.failed(later));
        assert_eq!(breaker.left(later), Some(BACKOFF_FIRST * 2));
    }

    #[test]
    fn it_never_waits_longer_than_its_limit() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(now);
            now += BACKOFF_MAX;
        }
        breaker.failed(now);
        assert_eq!(breaker.left(now), Some(BACKOFF_MAX));
    }

    #[test]
    fn a_success_starts_the_count_again() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_IN_A_ROW {
            breaker.failed(now);
        }
        breaker.succeeded();
        assert!(!breaker.failed(now));
    }
}
