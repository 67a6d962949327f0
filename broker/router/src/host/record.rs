//! What is known of a router: its counters, its last events, and whether it is left alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pointsman_protocol::admin::{RouterCounters, RouterEvent};

use super::breaker::Breaker;
use crate::limits::{EVENT_TEXT_MAX, EVENTS_KEPT};

/// One router's record since the broker started.
#[derive(Default)]
pub(crate) struct Record {
    routed: AtomicU64,
    cached: AtomicU64,
    rejected: AtomicU64,
    batches: AtomicU64,
    busy_ns: AtomicU64,
    failures: AtomicU64,
    events: Mutex<VecDeque<RouterEvent>>,
    /// The version that was called last, and how it does.
    breaker: Mutex<(u32, Breaker)>,
    /// The versions whose decisions might be remembered, and whether they were caught deciding by what they had not
    /// declared.
    untrue: Mutex<BTreeMap<u32, Arc<AtomicBool>>>,
}

impl Record {
    pub(crate) fn counters(&self) -> RouterCounters {
        RouterCounters {
            routed: self.routed.load(Ordering::Relaxed),
            cached: self.cached.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            cache_off: lock(&self.untrue)
                .iter()
                .rfind(|(_, untrue)| untrue.load(Ordering::Relaxed))
                .map(|(version, _)| *version),
        }
    }

    /// The last events, oldest first.
    pub(crate) fn events(&self, count: usize) -> Vec<RouterEvent> {
        let events = lock(&self.events);
        events
            .iter()
            .skip(events.len().saturating_sub(count))
            .cloned()
            .collect()
    }

    /// Notes an event; the oldest one goes when there are too many.
    pub(crate) fn note(&self, version: u32, mut text: String) {
        text.truncate(text.floor_char_boundary(EVENT_TEXT_MAX));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut events = lock(&self.events);
        if events.len() == EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(RouterEvent {
            at: since_epoch.as_millis() as u64,
            version,
            text,
        });
    }

    /// How long a version is still left alone, if it is.
    pub(crate) fn left_alone(&self, version: u32, now: Instant) -> Option<Duration> {
        self.breaker_of(version).1.left(now)
    }

    /// Messages were decided as is remembered.
    pub(crate) fn cached(&self, messages: usize) {
        self.cached.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Whether a version was caught, for all who remember its decisions.
    pub(crate) fn untrue(&self, version: u32) -> Arc<AtomicBool> {
        lock(&self.untrue).entry(version).or_default().clone()
    }

    /// A call was answered.
    pub(crate) fn answered(&self, version: u32, messages: usize, rejected: usize, took: Duration) {
        self.routed.fetch_add(messages as u64, Ordering::Relaxed);
        self.rejected.fetch_add(rejected as u64, Ordering::Relaxed);
        self.called(took);
        self.breaker_of(version).1.succeeded();
    }

    /// A call failed. True when this version is now left alone.
    pub(crate) fn failed(&self, version: u32, took: Duration, now: Instant) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.called(took);
        self.breaker_of(version).1.failed(now)
    }

    fn called(&self, took: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.busy_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    fn breaker_of(&self, version: u32) -> MutexGuard<'_, (u32, Breaker)> {
        let mut breaker = lock(&self.breaker);
        if breaker.0 != version {
            *breaker = (version, Breaker::default());
        }
        breaker
    }
}

/// Locks what no panic can leave half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_events_are_kept() {
        let record = Record::default();
        for number in 0..EVENTS_KEPT + 3 {
            record.note(1, number.to_string());
        }
        let last = record.events(2);
        assert_eq!(
            last.iter().map(|event| event.text.as_str()).collect::<Vec<_>>(),
            ["257", "258"]
        );
        assert_eq!(record.events(usize::MAX).len(), EVENTS_KEPT);
    }
}
