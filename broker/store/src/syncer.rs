//! The sync thread: syncs what was promised to be synced within a time. Nobody waits for it, so it makes nobody wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::store::Store;

/// The sync thread. Dropping it is [`Syncer::stop`].
pub(crate) struct Syncer {
    promises: Promises,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is to keep; told by those who write.
#[derive(Clone)]
pub(crate) struct Promises(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When what was written must be synced.
    due: Option<Instant>,
    stopping: bool,
}

impl Syncer {
    /// Starts the thread. When a sync fails it calls `failed` and ends; nothing may be confirmed any more.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn start(
        store: Store,
        failed: impl FnOnce(StoreError) + Send + 'static,
    ) -> std::io::Result<Syncer> {
        let promises = Promises(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let of_thread = promises.clone();
        let thread = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                let kept = catch_unwind(AssertUnwindSafe(|| of_thread.keep(&store)))
                    .unwrap_or_else(|_| Err(StoreError::Stopped("the sync thread panicked".to_owned())));
                if let Err(error) = kept {
                    failed(error);
                }
            })?;
        Ok(Syncer {
            promises,
            thread: Some(thread),
        })
    }

    pub(crate) fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Ends the thread, after a sync that is under way.
    pub(crate) fn stop(&mut self) {
        self.promises.lock().stopping = true;
        self.promises.0.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Promises {
    /// What was just written is to be synced within that time; not at all by this thread for `None`, and already for zero.
    pub(crate) fn sync_within(&self, within: Option<Duration>) {
        let Some(within) = within.filter(|within| !within.is_zero()) else {
            return;
        };
        let due = Instant::now() + within;
        let mut state = self.lock();
        if state.due.is_none_or(|before| due < before) {
            state.due = Some(due);
            drop(state);
            self.0.changed.notify_one();
        }
    }

    fn keep(&self, store: &Store) -> Result<(), StoreError> {
        while self.wait_until_due() {
            store.sync()?;
        }
        Ok(())
    }

    /// Waits until a sync is due; answers `false` when there will be none. What is written from here on is due anew.
    fn wait_until_due(&self) -> bool {
        let mut state = self.lock();
        while !state.stopping {
            let now = Instant::now();
            if state.due.take_if(|due| *due <= now).is_some() {
                return true;
            }
            let changed = &self.0.changed;
            state = match state.due {
                None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    changed
                        .wait_timeout(state, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
