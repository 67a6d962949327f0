//! What a run found.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::run::Clock;

/// What a run found. All confirmed messages arrived, or there would be none.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Messages that were confirmed.
    pub published: Flow,
    /// Messages that arrived and were acknowledged; each as often as there are queues that get it.
    pub consumed: Flow,
    /// From when a message was due until it was confirmed. In a closed loop a message is due when it is sent.
    pub confirm: Latency,
    /// From when a message was due until it arrived; `None` where all were published before.
    pub delivery: Option<Latency>,
    /// Messages that arrived more than once.
    pub duplicates: u64,
    /// All messages that were published, those of the warm-up as well.
    pub sent: u64,
    /// All messages that arrived.
    pub arrived: u64,
}

/// Messages over time, without the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Flow {
    /// How many.
    pub messages: u64,
    /// In what time, up to the last one.
    pub seconds: f64,
    /// The quotient.
    pub per_second: f64,
}

/// Latencies in microseconds, without the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// The longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;

/// What one publisher or consumer counts and times. Latencies are kept to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    times: Histogram<u64>,
    all: u64,
    measured: u64,
    /// When the last one came.
    last: u64,
}

impl Figures {
    pub(crate) fn new() -> Figures {
        Figures {
            times: Histogram::new_with_bounds(1, LONGEST, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are in order")),
            all: 0,
            measured: 0,
            last: 0,
        }
    }

    /// Counts a message that was due then and came now. Those that come after the warm-up count for the rate, those
    /// that were due after it for the latency.
    pub(crate) fn record(&mut self, due: u64, now: u64, clock: &Clock) {
        self.all += 1;
        if now >= clock.warm() {
            self.measured += 1;
            self.last = now;
        }
        if due >= clock.warm() {
            self.times.saturating_record(now.saturating_sub(due));
        }
    }

    /// The figures of all of them together.
    pub(crate) fn sum(parts: Vec<Figures>) -> Figures {
        parts.into_iter().fold(Figures::new(), |mut sum, part| {
            sum.times += part.times;
            sum.all += part.all;
            sum.measured += part.measured;
            sum.last = sum.last.max(part.last);
            sum
        })
    }

    /// How many, those of the warm-up as well.
    pub(crate) fn all(&self) -> u64 {
        self.all
    }

    /// The flow since a time on the run's clock.
    pub(crate) fn flow(&self, since: u64) -> Flow {
        let seconds = self.last.saturating_sub(since) as f64 / 1e9;
        Flow {
            messages: self.measured,
            seconds,
            per_second: match seconds > 0.0 {
                true => self.measured as f64 / seconds,
                false => 0.0,
            },
        }
    }

    pub(crate) fn latency(&self) -> Latency {
        let at = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.times.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_warm_up_counts_for_nothing_but_the_whole() {
        let clock = Clock::start_now(Duration::from_micros(1));
        let mut figures = Figures::new();
        figures.record(100, 900, &clock);
        figures.record(900, 1_500, &clock);
        figures.record(2_000, 5_000, &clock);
        assert_eq!(figures.all(), 3);
        let flow = figures.flow(clock.warm());
        assert_eq!((flow.messages, flow.seconds), (2, 4e-6));
        let latency = figures.latency();
        assert_eq!((latency.p50, latency.max.round()), (latency.max, 3.0));
    }
}
