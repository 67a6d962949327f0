//! One run: from a scenario to a report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::consume::Consuming;
use crate::ledger::Ledger;
use crate::publish::Publishing;
use crate::report::Figures;
use crate::{Broker, Error, Order, Report, Scenario};

/// Longest that nothing may come while something should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The clock of a run, from which every time counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    warm: u64,
}

impl Clock {
    pub(crate) fn start_now(warm_up: Duration) -> Clock {
        Clock {
            start: Instant::now(),
            warm: warm_up.as_nanos() as u64,
        }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Nanoseconds from the start to the end of the warm-up.
    pub(crate) fn warm(&self) -> u64 {
        self.warm
    }

    /// Nanoseconds from the start to now.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Nanoseconds from the start to then.
    pub(crate) fn at(&self, then: Instant) -> u64 {
        then.saturating_duration_since(self.start).as_nanos() as u64
    }
}

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    confirmed: AtomicU64,
    arrived: AtomicU64,
}

impl Progress {
    pub(crate) fn confirmed(&self, messages: u64) {
        self.confirmed.fetch_add(messages, Ordering::Relaxed);
    }

    pub(crate) fn arrived(&self, messages: u64) {
        self.arrived.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages that were confirmed, and messages that arrived, so far.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.confirmed), read(&self.arrived))
    }
}

/// Drives a broker through a scenario whose queues [`Broker::set_up`] has made. Dropping the future ends it; whoever
/// called `set_up` calls [`Broker::tear_down`] in any case.
///
/// # Errors
/// [`Error::Lost`] when a confirmed message does not arrive, and whatever else went wrong.
pub async fn run<B: Broker>(
    broker: &B,
    scenario: &Scenario,
    progress: &Arc<Progress>,
) -> Result<Report, Error> {
    scenario.check()?;
    let ledger = Arc::new(Ledger::new(scenario));
    let mut consuming = JoinSet::new();
    let mut publishers = Vec::new();
    for _ in 0..scenario.publishers {
        publishers.push(broker.publisher(scenario).await?);
    }
    let mut consumers = match scenario.order {
        Order::Together => consumers(broker, scenario).await?,
        Order::After => Vec::new(),
    };
    let clock = Clock::start_now(scenario.warm_up);
    let consume = |(queue, consumer), clock| {
        Consuming::new(consumer, queue, scenario, clock, ledger.clone(), progress.clone()).run()
    };
    for consumer in consumers.drain(..) {
        consuming.spawn(consume(consumer, clock));
    }
    let mut publishing = JoinSet::new();
    for (number, publisher) in publishers.into_iter().enumerate() {
        publishing.spawn(Publishing::new(publisher, number, scenario, clock, progress.clone()).run());
    }
    let published = tokio::select! {
        published = all(&mut publishing) => published?,
        error = failure(&mut consuming) => return Err(error),
    };
    let sent: u64 = published.iter().map(|(sent, _)| sent).sum();
    ledger.expect(sent * scenario.shape.copies() as u64);
    // What waits is drained on a clock of its own, without a warm-up.
    let drain = match scenario.order {
        Order::Together => clock,
        Order::After => {
            consumers = self::consumers(broker, scenario).await?;
            Clock::start_now(Duration::ZERO)
        }
    };
    for consumer in consumers {
        consuming.spawn(consume(consumer, drain));
    }
    let consumed = tokio::select! {
        consumed = all(&mut consuming) => Figures::sum(consumed?),
        error = ledger.loss(PATIENCE) => return Err(error),
    };
    let published = Figures::sum(published.into_iter().map(|(_, figures)| figures).collect());
    Ok(Report {
        published: published.flow(clock.warm()),
        consumed: consumed.flow(drain.warm()),
        confirm: published.latency(),
        delivery: (scenario.order == Order::Together).then(|| consumed.latency()),
        duplicates: ledger.duplicates(),
        sent,
        arrived: consumed.all(),
    })
}

/// Consumers with the number of their queue.
async fn consumers<B: Broker>(broker: &B, scenario: &Scenario) -> Result<Vec<(usize, B::Consumer)>, Error> {
    let mut consumers = Vec::new();
    for number in 0..scenario.consumers {
        let queue = number % scenario.shape.queues();
        consumers.push((queue, broker.consumer(scenario, queue).await?));
    }
    Ok(consumers)
}

/// What all tasks return, or the first error.
async fn all<T: 'static>(tasks: &mut JoinSet<Result<T, Error>>) -> Result<Vec<T>, Error> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.map_err(|error| Error::Broker(format!("a task of the generator: {error}")))??);
    }
    Ok(results)
}

/// The first error of tasks that do not end otherwise for now.
async fn failure<T: 'static>(tasks: &mut JoinSet<Result<T, Error>>) -> Error {
    match tasks.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => Error::Broker(format!("a task of the generator: {error}")),
        Some(Ok(Ok(_))) => Error::Broker("a consumer ended early".into()),
        None => std::future::pending().await,
    }
}
