//! Instances of one module version that know the targets of one exchange.

use std::sync::Mutex;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::instance::Instance;
use super::record::lock;

/// Idle instances, and how many may be busy at once. A module never has more calls under way than there are cores, so
/// one that takes its whole time limit delays other work by a tick or two, however many publishers wait for it.
pub(crate) struct Pool {
    idle: Mutex<Vec<Instance>>,
    turns: Semaphore,
    /// Most instances to keep: as many as can be busy at once.
    kept: usize,
}

impl Default for Pool {
    fn default() -> Pool {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Pool {
            idle: Mutex::default(),
            turns: Semaphore::new(cores),
            kept: cores,
        }
    }
}

impl Pool {
    /// Waits for a turn. `None` only when the pool was closed, which nobody does.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    pub(crate) fn take(&self) -> Option<Instance> {
        lock(&self.idle).pop()
    }

    /// Keeps an instance for later; one too many is dropped, as while the poison of a batch is searched with new ones.
    pub(crate) fn give_back(&self, instance: Instance) {
        let mut idle = lock(&self.idle);
        if idle.len() < self.kept {
            idle.push(instance);
        }
    }
}
