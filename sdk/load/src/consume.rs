//! One consumer: takes in, checks off, acknowledges.

use std::sync::Arc;

use crate::ledger::Ledger;
use crate::report::Figures;
use crate::run::{Clock, Progress};
use crate::{Arrivals, Consumer, Error, Scenario};

/// What one consumer does in a run.
pub(crate) struct Consuming<C> {
    consumer: C,
    queue: usize,
    clock: Clock,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    arrivals: Arrivals,
    figures: Figures,
}

impl<C: Consumer> Consuming<C> {
    pub(crate) fn new(
        consumer: C,
        queue: usize,
        scenario: &Scenario,
        clock: Clock,
        ledger: Arc<Ledger>,
        progress: Arc<Progress>,
    ) -> Consuming<C> {
        Consuming {
            consumer,
            queue,
            clock,
            ledger,
            progress,
            arrivals: Arrivals::new(scenario),
            figures: Figures::new(),
        }
    }

    /// Consumes until all messages have arrived, at whatever consumer.
    pub(crate) async fn run(mut self) -> Result<Figures, Error> {
        let mut complete = self.ledger.complete();
        loop {
            tokio::select! {
                biased;
                received = self.consumer.receive(&mut self.arrivals) => received?,
                // The sender lives as long as the ledger.
                _ = complete.wait_for(|complete| *complete) => break,
            }
            self.check_off()?;
            self.consumer.ack().await?;
        }
        self.consumer.close().await?;
        Ok(self.figures)
    }

    fn check_off(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        self.progress.arrived(self.arrivals.stamps().len() as u64);
        self.ledger.take(self.queue, self.arrivals.stamps())?;
        for stamp in self.arrivals.take() {
            self.figures.record(stamp.due, now, &self.clock);
        }
        Ok(())
    }
}
