//! The commit thread: whatever queued up while the last group was written is the next group.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pointsman_core::Record;

use crate::error::StoreError;
use crate::store::Store;
use crate::syncer::{Promises, Syncer};

/// Most commits that wait.
const WAITING_COMMITS: usize = 1_024;

/// Most bytes of records that wait, unless it is a single commit.
const WAITING_BYTES: usize = 8 * 1024 * 1024;

/// Largest commit that is made durable on the thread it comes from, in bytes of records: about what a message or a few
/// need. More shows that more is coming, which is handled while the commit thread writes.
const HERE_BYTES: usize = 32 * 1024;

/// Pause before what nobody waits for is done, while nothing else is written: removing what deleted queues left, step by
/// step, and writing settlements.
const CHORES_PAUSE: Duration = Duration::from_millis(20);

/// The commit thread, and the one that syncs what may be synced later. Dropping it is [`Committer::stop`].
pub struct Committer {
    store: Store,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
    syncer: Syncer,
}

/// What became of commits.
#[derive(Debug)]
pub enum Done {
    /// Every commit up to this number is as durable as was promised.
    Durable {
        /// The number as it was submitted.
        through: u64,
    },
    /// A commit could not be made durable, and none after it is: nothing is ever reported as durable again.
    Failed {
        /// Why.
        error: StoreError,
    },
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct Waiting {
    commits: Vec<Submitted>,
    bytes: usize,
    /// Whether the thread knows that there are chores.
    chores: bool,
    /// A sync failed that nobody waits for.
    sync_failed: Option<StoreError>,
    stopping: bool,
    failed: bool,
}

struct Submitted {
    number: u64,
    records: Vec<Record>,
    sync: Option<Duration>,
}

impl Committer {
    /// Starts the threads. `done` is called on the one that commits, in the order of commits, and should only pass on what it
    /// is told.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(store: Store, done: impl FnMut(Done) + Send + 'static) -> std::io::Result<Committer> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            room: Condvar::new(),
        });
        let to_tell = queue.clone();
        let syncer = Syncer::start(store.clone(), move |error| {
            to_tell.lock().sync_failed = Some(error);
            to_tell.arrived.notify_one();
        })?;
        let worker = Worker {
            store: store.clone(),
            queue: queue.clone(),
            promises: syncer.promises().clone(),
        };
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || worker.run(done))?;
        Ok(Committer {
            store,
            queue,
            thread: Some(thread),
            syncer,
        })
    }

    /// Hands over a commit; numbers rise. It is synced within `sync` of being written, with zero before it is told of;
    /// with `None` whenever another one is. Blocks while too much waits: that is how a slow disk slows the driver.
    /// After a failure it takes and drops the commit.
    pub fn submit(&self, number: u64, records: Vec<Record>, sync: Option<Duration>) {
        let bytes = weight(&records);
        let mut waiting = self.queue.lock();
        while !waiting.failed && !waiting.takes(bytes) {
            waiting = self
                .queue
                .room
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.failed {
            return;
        }
        waiting.bytes += bytes;
        waiting.commits.push(Submitted {
            number,
            records,
            sync,
        });
        drop(waiting);
        self.queue.arrived.notify_one();
    }

    /// Makes a commit as durable as promised on the caller's thread, which saves waking two others: for one that is small
    /// while nothing that was submitted is on its way. If it may be synced later, the sync thread does. Returns it otherwise,
    /// and when the store failed at something else: submitting it then brings the word of that.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn commit_here(
        &self,
        records: Vec<Record>,
        sync: Option<Duration>,
    ) -> Result<Option<Vec<Record>>, StoreError> {
        if weight(&records) > HERE_BYTES {
            return Ok(Some(records));
        }
        match self.store.apply(&[&records], sync == Some(Duration::ZERO)) {
            Err(StoreError::Stopped(_)) => return Ok(Some(records)),
            applied => applied?,
        }
        self.syncer.promises().sync_within(sync);
        let chores = self.store.chores().are_there();
        if chores && !std::mem::replace(&mut self.queue.lock().chores, true) {
            self.queue.arrived.notify_one();
        }
        Ok(None)
    }

    /// Writes what was made durable as promised and not written yet: settlements, of which nobody was told. From here on a
    /// process that is killed does not forget them.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn write_out(&self) -> Result<(), StoreError> {
        self.store.write_out()
    }

    /// Writes what waits, syncs, and ends the threads.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // The commit thread syncs all at its end.
        self.syncer.stop();
        self.queue.lock().stopping = true;
        self.queue.arrived.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread panicked");
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn takes(&self, bytes: usize) -> bool {
        self.commits.is_empty()
            || (self.commits.len() < WAITING_COMMITS && self.bytes + bytes <= WAITING_BYTES)
    }
}

/// Roughly the bytes a commit keeps in memory.
fn weight(records: &[Record]) -> usize {
    let content = |record: &Record| match record {
        Record::Append { chunk, .. } => chunk.len(),
        Record::Index { entry, .. } => entry.runs.len() * size_of::<pointsman_core::commit::Run>(),
        Record::Module {
            bytes: Some(bytes), ..
        } => bytes.len(),
        _ => 0,
    };
    records
        .iter()
        .map(|record| size_of::<Record>() + content(record))
        .sum()
}

struct Worker {
    store: Store,
    queue: Arc<Queue>,
    promises: Promises,
}

impl Worker {
    fn run(self, mut done: impl FnMut(Done)) {
        let mut group = Vec::new();
        // A panic must not leave the driver waiting for ever.
        let result = catch_unwind(AssertUnwindSafe(|| self.work(&mut group, &mut done)))
            .unwrap_or_else(|_| Err(StoreError::Stopped("the commit thread panicked".to_owned())));
        if let Err(error) = result {
            tracing::error!(%error, "the store failed; nothing is confirmed any more");
            self.fail();
            done(Done::Failed { error });
        }
    }

    fn work(&self, group: &mut Vec<Submitted>, done: &mut impl FnMut(Done)) -> Result<(), StoreError> {
        loop {
            let stopping = self.next_group(group)?;
            if let Some(last) = group.last() {
                let through = last.number;
                let commits: Vec<&[Record]> = group.iter().map(|commit| commit.records.as_slice()).collect();
                let soonest = group.iter().filter_map(|commit| commit.sync).min();
                self.store.apply(&commits, soonest == Some(Duration::ZERO))?;
                self.promises.sync_within(soonest);
                done(Done::Durable { through });
                group.clear();
            } else {
                let chores = self.store.chores();
                if chores.are_there() {
                    self.store.do_chores(chores)?;
                }
            }
            self.store.begin_to_write();
            if stopping {
                self.store.sync()?;
            }
            if stopping && group.is_empty() && self.queue.lock().commits.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes all that waits, once there is something or chores are. Answers whether the thread shall end.
    ///
    /// # Errors
    /// When a sync failed that nobody waits for.
    fn next_group(&self, group: &mut Vec<Submitted>) -> Result<bool, StoreError> {
        let mut waiting = self.queue.lock();
        waiting.chores = false;
        drop(waiting);
        // Looked at after that, so that no chore is missed that comes now.
        let chores = self.store.chores().are_there();
        waiting = self.queue.lock();
        waiting.chores |= chores;
        while waiting.commits.is_empty() && !waiting.stopping && waiting.sync_failed.is_none() {
            let arrived = &self.queue.arrived;
            if waiting.chores {
                waiting = arrived
                    .wait_timeout(waiting, CHORES_PAUSE)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                break;
            }
            waiting = arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = waiting.sync_failed.take() {
            return Err(error);
        }
        std::mem::swap(group, &mut waiting.commits);
        waiting.bytes = 0;
        let stopping = waiting.stopping;
        drop(waiting);
        self.queue.room.notify_all();
        Ok(stopping)
    }

    /// Lets nobody wait for a thread that writes no more.
    fn fail(&self) {
        let mut waiting = self.queue.lock();
        waiting.failed = true;
        waiting.commits.clear();
        drop(waiting);
        self.queue.room.notify_all();
    }
}
