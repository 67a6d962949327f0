//! Which messages arrived: what makes a rate one of messages that were not lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::body::Stamp;
use crate::{Error, Scenario};

/// Which messages arrived, for all consumers together.
pub(crate) struct Ledger {
    publishers: usize,
    /// One for each queue that gets every message; a message that goes to one queue only may be in any.
    seen: Vec<Mutex<Vec<Bits>>>,
    distinct: AtomicU64,
    duplicates: AtomicU64,
    /// How many have to arrive, copies counted; the largest number until that is known.
    expected: AtomicU64,
    complete: watch::Sender<bool>,
}

/// The numbers that were seen, a bit each.
type Bits = Vec<u64>;

impl Ledger {
    pub(crate) fn new(scenario: &Scenario) -> Ledger {
        let seen = || Mutex::new(vec![Bits::new(); scenario.publishers]);
        Ledger {
            publishers: scenario.publishers,
            seen: (0..scenario.shape.copies()).map(|_| seen()).collect(),
            distinct: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            expected: AtomicU64::new(u64::MAX),
            complete: watch::Sender::new(false),
        }
    }

    /// Notes what arrived from a queue.
    pub(crate) fn take(&self, queue: usize, stamps: &[Stamp]) -> Result<(), Error> {
        let copy = queue % self.seen.len();
        let mut seen = self.seen[copy].lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = 0;
        for stamp in stamps {
            let bits = seen.get_mut(stamp.publisher).ok_or_else(|| {
                Error::Stranger(format!(
                    "it names publisher {} of {}",
                    stamp.publisher, self.publishers
                ))
            })?;
            fresh += u64::from(set(bits, stamp.sequence));
        }
        drop(seen);
        self.duplicates
            .fetch_add(stamps.len() as u64 - fresh, Ordering::Relaxed);
        // Both this and `expect` write one and then read the other, so one of them sees that all are there.
        let distinct = self.distinct.fetch_add(fresh, Ordering::SeqCst) + fresh;
        if distinct >= self.expected.load(Ordering::SeqCst) {
            self.complete.send_replace(true);
        }
        Ok(())
    }

    /// Says how many have to arrive, copies counted.
    pub(crate) fn expect(&self, messages: u64) {
        self.expected.store(messages, Ordering::SeqCst);
        if self.distinct.load(Ordering::SeqCst) >= messages {
            self.complete.send_replace(true);
        }
    }

    /// Turns true once all have arrived.
    pub(crate) fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// How many arrived more than once.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Resolves when nothing has arrived for so long.
    pub(crate) async fn loss(&self, patience: Duration) -> Error {
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        let (mut last, mut silent) = (u64::MAX, Duration::ZERO);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let distinct = self.distinct.load(Ordering::SeqCst);
            silent = match distinct == last {
                true => silent + LOOK_EVERY,
                false => Duration::ZERO,
            };
            last = distinct;
            if silent >= patience {
                let confirmed = self.expected.load(Ordering::SeqCst);
                return Error::Lost {
                    confirmed,
                    missing: confirmed.saturating_sub(distinct),
                };
            }
        }
    }
}

/// Sets a bit; false when it was set.
fn set(bits: &mut Bits, number: u64) -> bool {
    let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
    if word >= bits.len() {
        bits.resize(word + 1, 0);
    }
    let fresh = bits[word] & bit == 0;
    bits[word] |= bit;
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Order, Shape};

    fn stamp(publisher: usize, sequence: u64) -> Stamp {
        Stamp {
            due: 0,
            publisher,
            sequence,
        }
    }

    #[test]
    fn a_message_counts_once_however_often_it_comes() {
        let ledger = Ledger::new(&Scenario::small(Shape::Queue, Order::Together));
        ledger.expect(3);
        ledger.take(0, &[stamp(0, 0), stamp(1, 0), stamp(0, 0)]).unwrap();
        assert!(!*ledger.complete().borrow());
        ledger.take(0, &[stamp(0, 500)]).unwrap();
        assert!(*ledger.complete().borrow());
        assert_eq!(ledger.duplicates(), 1);
    }

    #[test]
    fn every_queue_of_a_fan_out_has_to_get_every_message() {
        let ledger = Ledger::new(&Scenario::small(Shape::FanOut { queues: 2 }, Order::Together));
        ledger.take(0, &[stamp(0, 0)]).unwrap();
        ledger.take(1, &[stamp(0, 0)]).unwrap();
        assert_eq!(ledger.duplicates(), 0);
        ledger.expect(2);
        assert!(*ledger.complete().borrow());
    }

    #[test]
    fn a_message_of_an_unknown_publisher_is_a_stranger() {
        let ledger = Ledger::new(&Scenario::small(Shape::Queue, Order::Together));
        assert!(ledger.take(0, &[stamp(2, 0)]).is_err());
    }

    #[tokio::test]
    async fn what_does_not_come_is_told_as_lost() {
        let ledger = Ledger::new(&Scenario::small(Shape::Queue, Order::Together));
        ledger.take(0, &[stamp(0, 0)]).unwrap();
        ledger.expect(3);
        let error = ledger.loss(Duration::ZERO).await.to_string();
        assert_eq!(error, "2 of 3 confirmed messages did not arrive");
    }
}
