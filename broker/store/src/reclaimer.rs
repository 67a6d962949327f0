//! The reclaim thread: gives space back little by little, and sleeps when there is nothing to give.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::reclaim::Sweep;
use crate::store::Store;

/// After each batch it rests this many times as long as the batch took, so that commits have the disk for most of the
/// time, however slow it is.
const REST: u32 = 4;

/// How long it watches what is written before it decides whether to compact.
const LOOK: Duration = Duration::from_secs(1);

/// A broker that writes no more than this to its log in [`LOOK`], in bytes, has time to compact: commits have the disk to
/// share with it then, but wait for nothing else.
const QUIET_BYTES: u64 = 8 * 1024 * 1024;

/// How long it waits after compacting failed.
const RETRY: Duration = Duration::from_secs(60);

/// The reclaim thread. Dropping it is [`Reclaimer::stop`].
pub struct Reclaimer {
    store: Store,
    /// Set while it waits for fjall, which cannot be told to stop.
    compacting: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reclaimer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(store: Store) -> std::io::Result<Reclaimer> {
        let compacting = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            store: store.clone(),
            sweep: Sweep::default(),
            compacting: compacting.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("reclaim".to_owned())
            .spawn(move || worker.run())?;
        Ok(Reclaimer {
            store,
            compacting,
            thread: Some(thread),
        })
    }

    /// Ends the thread. A compaction is not waited for: what it has done so far is dropped when the store opens again.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.store.writer().reclaim.stop = true;
        self.store.0.reclaimable.notify_all();
        let Some(thread) = self.thread.take() else { return };
        if self.compacting.load(Ordering::Acquire) {
            tracing::info!("leaving a compaction unfinished");
        } else if thread.join().is_err() {
            tracing::error!("the reclaim thread panicked");
        }
    }
}

struct Worker {
    store: Store,
    sweep: Sweep,
    compacting: Arc<AtomicBool>,
}

impl Worker {
    /// Begins with a look: what was removed before the store opened is not counted.
    fn run(mut self) {
        loop {
            if let Err(error) = self.rewrite() {
                tracing::error!(%error, "reclaim stopped");
                return;
            }
            if let Err(error) = self.tidy() {
                tracing::warn!(%error, "the log was not compacted");
                self.pause(RETRY);
            }
            if !self.wait_for_work() {
                return;
            }
        }
    }

    /// Sleeps until there is something to do; answers false when the thread shall end.
    fn wait_for_work(&self) -> bool {
        let inner = &self.store.0;
        let mut writer = self.store.writer();
        while !writer.reclaim.stop && !writer.wants_reclaim(&inner.options) {
            writer.reclaim.waiting = true;
            writer = inner
                .reclaimable
                .wait(writer)
                .unwrap_or_else(PoisonError::into_inner);
        }
        writer.reclaim.waiting = false;
        !writer.reclaim.stop
    }

    /// Waits; answers false when the thread shall end.
    fn pause(&self, time: Duration) -> bool {
        let writer = self.store.writer();
        let (writer, _) = self
            .store
            .0
            .reclaimable
            .wait_timeout_while(writer, time, |writer| !writer.reclaim.stop)
            .unwrap_or_else(PoisonError::into_inner);
        !writer.reclaim.stop
    }

    fn rewrite(&mut self) -> Result<(), StoreError> {
        loop {
            let began = Instant::now();
            let more = self.sweep.step(&self.store)?;
            if !more || !self.pause(began.elapsed() * REST) {
                return Ok(());
            }
        }
    }

    /// Compacts the log if that gives enough back. What is in memory goes to tables first, so that its deletions take
    /// part.
    fn tidy(&self) -> Result<(), StoreError> {
        let removed = std::mem::take(&mut self.store.writer().reclaim.removed_bytes);
        let written = self.store.0.figures.written_bytes();
        if !self.pause(LOOK) {
            return Ok(());
        }
        let quiet = self.store.0.figures.written_bytes() - written <= QUIET_BYTES;
        if !self.store.is_untidy(quiet) {
            if self.store.is_untidy(true) {
                // Looked at again when less is written.
                self.store.writer().reclaim.removed_bytes += removed;
            }
            return Ok(());
        }
        self.store.begin_flush()?;
        // fjall merges some by itself after a flush.
        if !self.pause(LOOK) {
            return Ok(());
        }
        if self.store.needs_compaction() {
            self.compacting.store(true, Ordering::Release);
            let result = self.store.compact_log();
            self.compacting.store(false, Ordering::Release);
            result?;
        }
        self.store.let_go()
    }
}
