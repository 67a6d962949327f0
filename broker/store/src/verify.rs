//! What there is: per queue, the messages that are there and whole, and those that are not.

use std::ops::Range;

use pointsman_core::QueueId;

use crate::error::{Damage, StoreError};
use crate::examine::examine;
use crate::store::Store;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks that an index entry names and that are whole.
    pub chunks: u64,
    /// What is damaged, in the order it was found.
    pub damage: Vec<Damage>,
    /// Synced batches of commits that are gone. What they held is not known but for the positions that queues lost.
    pub batches_lost: u64,
    /// Every queue that has something on disk or delayed, rising.
    pub queues: Vec<QueueReport>,
}

/// What was found of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// The queue.
    pub queue: QueueId,
    /// Its vhost and name; `None` when it is being deleted or its definition is lost.
    pub name: Option<(String, String)>,
    /// Unsettled messages that are there and whole.
    pub saved: u64,
    /// Positions of unsettled messages that are not, as `start..end`.
    pub lost: Vec<Range<u64>>,
    /// Messages that wait for the end of their delay and are there and whole.
    pub delayed: u64,
    /// Those of them that are not.
    pub delayed_lost: u64,
}

impl Report {
    /// Whether every unsettled message is there and nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
            && self.batches_lost == 0
            && self.queues.iter().all(|queue| queue.lost_count() == 0)
    }
}

impl QueueReport {
    /// Number of unsettled and delayed messages that are lost.
    pub fn lost_count(&self) -> u64 {
        let waiting: u64 = self.lost.iter().map(|range| range.end - range.start).sum();
        waiting + self.delayed_lost
    }
}

impl Store {
    /// Reads every index entry, every due entry and every chunk they name, and reports what is lost; what was
    /// written goes to tables before, and nothing else changes. Takes time in proportion to the data, and memory to the
    /// number of chunks. Nothing may be written meanwhile.
    ///
    /// # Errors
    /// When reading fails for a reason other than damage.
    pub fn verify(&self) -> Result<Report, StoreError> {
        self.flush()?;
        Ok(examine(self.flushed())?.report())
    }
}
