//! One publisher: sends as the window or the clock allows, and times the confirms.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::body::Bodies;
use crate::pace::Pacer;
use crate::report::Figures;
use crate::run::{Clock, PATIENCE, Progress};
use crate::{Amount, Error, Publisher, Scenario};

/// A closed loop waits until this part of the window is free, so that a confirm of a single message does not become a
/// packet with a single message.
const REFILL: usize = 8;

/// What one publisher does in a run.
pub(crate) struct Publishing<P> {
    publisher: P,
    scenario: Scenario,
    clock: Clock,
    bodies: Bodies,
    pacer: Option<Pacer>,
    unconfirmed: Unconfirmed,
    progress: Arc<Progress>,
    figures: Figures,
    /// Where this publisher ends, once that is known.
    quota: Option<u64>,
}

impl<P: Publisher> Publishing<P> {
    pub(crate) fn new(
        publisher: P,
        number: usize,
        scenario: &Scenario,
        clock: Clock,
        progress: Arc<Progress>,
    ) -> Publishing<P> {
        // Several publishers take turns.
        let pacer = scenario.rate.map(|rate| {
            let first = Duration::from_secs_f64(number as f64 / rate);
            Pacer::new(clock.start() + first, rate / scenario.publishers as f64)
        });
        Publishing {
            publisher,
            bodies: Bodies::new(scenario, number),
            pacer,
            clock,
            scenario: scenario.clone(),
            unconfirmed: Unconfirmed::default(),
            progress,
            figures: Figures::new(),
            quota: None,
        }
    }

    /// Publishes everything and waits for all confirms. Returns how many messages those were, with the figures.
    pub(crate) async fn run(mut self) -> Result<(u64, Figures), Error> {
        let mut numbers = Vec::new();
        loop {
            let room = self.room();
            if room > 0 {
                self.send(room).await?;
            }
            if self.unconfirmed.is_empty() && self.is_over() {
                break;
            }
            self.wait(&mut numbers).await?;
            let now = self.clock.now();
            for number in numbers.drain(..).flatten() {
                if let Some(due) = self.unconfirmed.take(number) {
                    self.figures.record(due, now, &self.clock);
                    self.progress.confirmed(1);
                }
            }
        }
        self.publisher.close().await?;
        Ok((self.bodies.made(), self.figures))
    }

    /// How many messages to send now.
    fn room(&mut self) -> usize {
        if self.is_over() {
            return 0;
        }
        let (window, waiting) = (self.scenario.window, self.unconfirmed.len());
        let free = window.saturating_sub(waiting);
        let due = match &self.pacer {
            Some(pacer) => (pacer.count() - self.bodies.made()).min(free as u64) as usize,
            None if waiting == 0 || free >= window.div_ceil(REFILL) => free,
            None => 0,
        };
        match self.quota {
            Some(quota) => due.min((quota - self.bodies.made()) as usize),
            None => due,
        }
    }

    /// Whether nothing more is to be sent.
    fn is_over(&mut self) -> bool {
        let now = self.clock.now();
        let made = self.bodies.made();
        match (self.scenario.amount, self.quota) {
            (_, Some(quota)) => made >= quota,
            (Amount::Time(time), None) => {
                // In an open loop what was due in time is sent, however late.
                let over = now >= self.clock.warm() + time.as_nanos() as u64;
                if over {
                    self.quota = Some(self.pacer.as_ref().map_or(made, Pacer::count).max(made));
                }
                over && self.pacer.is_none()
            }
            (Amount::Messages(messages), None) => {
                if now >= self.clock.warm() {
                    self.quota = Some(made + messages.div_ceil(self.scenario.publishers as u64));
                }
                false
            }
        }
    }

    async fn send(&mut self, room: usize) -> Result<(), Error> {
        let first = self.bodies.made();
        let numbers = first..first + room as u64;
        let now = self.clock.now();
        let offset = self
            .pacer
            .as_ref()
            .map_or(0, |pacer| self.clock.at(pacer.start()));
        let due = |number| self.pacer.as_ref().map_or(now, |p| offset + p.due(number));
        let dues: Vec<u64> = numbers.map(due).collect();
        self.unconfirmed.push(&dues);
        let messages = self.bodies.next(dues.into_iter());
        self.publisher.send(messages).await
    }

    /// Waits for confirms or, in an open loop with room in the window, for the next message to be due.
    async fn wait(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        let is_full = self.unconfirmed.len() >= self.scenario.window;
        let ended = self.quota.is_some_and(|quota| self.bodies.made() >= quota);
        let confirmed = tokio::time::timeout(PATIENCE, self.publisher.confirmed(numbers));
        let stalled = |_| Error::Stalled {
            what: "confirm",
            after: PATIENCE,
        };
        match &self.pacer {
            Some(pacer) if !is_full && !ended => tokio::select! {
                confirmed = confirmed, if !self.unconfirmed.is_empty() => confirmed.map_err(stalled)?,
                () = pacer.tick() => Ok(()),
            },
            _ => confirmed.await.map_err(stalled)?,
        }
    }
}

/// When the messages were due that are not confirmed, oldest first. Confirms may come in any order.
#[derive(Default)]
struct Unconfirmed {
    first: u64,
    due: VecDeque<Option<u64>>,
    len: usize,
}

impl Unconfirmed {
    fn len(&self) -> usize {
        self.len
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, due: &[u64]) {
        self.due.extend(due.iter().copied().map(Some));
        self.len += due.len();
    }

    /// Removes a message; `None` when it was confirmed before.
    fn take(&mut self, number: u64) -> Option<u64> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let due = self.due.get_mut(at)?.take()?;
        self.len -= 1;
        while let Some(None) = self.due.front() {
            self.due.pop_front();
            self.first += 1;
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_are_taken_in_any_order_and_once() {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.push(&[10, 11, 12]);
        assert_eq!(unconfirmed.take(1), Some(11));
        assert_eq!(unconfirmed.take(1), None);
        assert_eq!(unconfirmed.take(0), Some(10));
        unconfirmed.push(&[13]);
        assert_eq!(
            [3, 2, 2, 9].map(|n| unconfirmed.take(n)),
            [Some(13), Some(12), None, None]
        );
        assert!(unconfirmed.is_empty());
    }
}
