//! What a publisher gives back: futures of the broker's word.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use pointsman_protocol::publish::Outcome;
use tokio::sync::oneshot;

use crate::{Error, lock};

/// The broker's word on one message: a future that resolves when the broker confirms it.
///
/// Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "a publish is only safe once its confirmation has come"]
pub struct Confirmation {
    receiver: oneshot::Receiver<Result<Outcome, Error>>,
}

impl Future for Confirmation {
    type Output = Result<Outcome, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let confirmed = Pin::new(&mut self.receiver).poll(cx);
        confirmed.map(|outcome| outcome.unwrap_or_else(|_| Err(Error::closed("publisher"))))
    }
}

/// The broker's word on all messages of one [`crate::Publisher::publish_all`].
#[derive(Debug)]
#[must_use = "a publish is only safe once its confirmation has come"]
pub struct BatchConfirmation {
    receiver: oneshot::Receiver<Result<BatchOutcome, Error>>,
}

impl Future for BatchConfirmation {
    type Output = Result<BatchOutcome, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let confirmed = Pin::new(&mut self.receiver).poll(cx);
        confirmed.map(|outcome| outcome.unwrap_or_else(|_| Err(Error::closed("publisher"))))
    }
}

/// What became of the messages of a batch, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOutcome {
    /// In at least one queue.
    pub routed: u64,
    /// Taken at an earlier try and not stored twice.
    pub duplicates: u64,
    /// No binding took them.
    pub unroutable: u64,
    /// A router refused them.
    pub rejected: u64,
    /// Kept in quarantine because a router failed on them.
    pub quarantined: u64,
    /// The broker could not take them.
    pub refused: u64,
    /// One of the outcomes that are not a success, the first that came.
    pub first_failure: Option<Outcome>,
}

impl BatchOutcome {
    /// Whether every message is in a queue.
    pub fn is_success(&self) -> bool {
        self.first_failure.is_none()
    }

    /// How many messages the batch had.
    pub fn messages(&self) -> u64 {
        self.routed + self.duplicates + self.unroutable + self.rejected + self.quarantined + self.refused
    }

    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Routed { .. } => &mut self.routed,
            Outcome::Duplicate => &mut self.duplicates,
            Outcome::Unroutable => &mut self.unroutable,
            Outcome::Rejected { .. } => &mut self.rejected,
            Outcome::Quarantined { .. } => &mut self.quarantined,
            Outcome::Refused(_) => &mut self.refused,
        } += 1;
        if !outcome.is_success() {
            self.first_failure.get_or_insert(outcome);
        }
    }
}

/// Who waits for the outcome of a message.
pub(crate) enum Waiter {
    One(oneshot::Sender<Result<Outcome, Error>>),
    Batch(Arc<Batch>),
}

impl Waiter {
    pub(crate) fn one() -> (Waiter, Confirmation) {
        let (sender, receiver) = oneshot::channel();
        (Waiter::One(sender), Confirmation { receiver })
    }

    pub(crate) fn resolve(self, outcome: Result<Outcome, Error>) {
        match self {
            // Nobody waits when the confirmation was dropped.
            Waiter::One(sender) => drop(sender.send(outcome)),
            Waiter::Batch(batch) => batch.resolve(outcome),
        }
    }
}

/// A batch under way. Each of its messages holds it; with the last one it is done.
pub(crate) struct Batch {
    outcome: Mutex<Result<BatchOutcome, Error>>,
    sender: Option<oneshot::Sender<Result<BatchOutcome, Error>>>,
}

impl Batch {
    pub(crate) fn new() -> (Arc<Batch>, BatchConfirmation) {
        let (sender, receiver) = oneshot::channel();
        let batch = Batch {
            outcome: Mutex::new(Ok(BatchOutcome::default())),
            sender: Some(sender),
        };
        (Arc::new(batch), BatchConfirmation { receiver })
    }

    fn resolve(&self, outcome: Result<Outcome, Error>) {
        let mut counts = lock(&self.outcome);
        match (&mut *counts, outcome) {
            (Ok(counts), Ok(outcome)) => counts.count(outcome),
            (Ok(_), Err(error)) => *counts = Err(error),
            (Err(_), _) => {}
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // Nobody waits when the confirmation was dropped.
            let _ = sender.send(lock(&self.outcome).clone());
        }
    }
}
