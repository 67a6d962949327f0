//! What is stored: fjall's tables, and in front of them what batches changed since.
//!
//! Changes go to a memtable. A full one is *sealed* and written to tables by a thread of its own, in one piece for each
//! keyspace and past fjall's journal: what is sealed is in the write-ahead log until it is in tables. The state, in which
//! progress says from where the log is read again, goes last: a crash in between only means that some tables have
//! already what the log will bring again.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{AbstractTree, Database, Keyspace, PersistMode, UserKey, UserValue};

use crate::error::StoreError;
use crate::faults::Site;
use crate::folder;
use crate::kept::{Kept, Plan};
use crate::memtable::Memtable;
use crate::options::Options;
use crate::staged::{Changes, Keyspaces, Table, Value};
use crate::store::{chunk_damage, read_from, sync_failed, write_failed};
use crate::wal::{Extent, Room, Unsynced};

/// Most entries of memtables that a scan takes at once.
const SCAN_ENTRIES: usize = 1_024;

/// fjall merges runs of tables in the background. While as many wait in a keyspace, a flush waits too: each read looks
/// into all of them, and fjall 3.1 counts them in a byte when it writes down which there are.
const RUNS_MAX: usize = 16;

/// How often it is looked whether there are fewer.
const LOOK: Duration = Duration::from_millis(10);

/// After so many looks fjall is told again to merge: it makes one step each time it is told, and not always this one.
const LOOKS: u32 = 10;

/// With less room than this, a write that failed failed for want of it, whatever fjall says.
const ROOM: u64 = 32 * 1024 * 1024;

/// A range of keys.
pub(crate) type KeyRange = (Bound<UserKey>, Bound<UserKey>);

/// The keyspaces with their memtables, and the thread that makes tables.
pub(crate) struct Tables {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What was flushed: the tables, and the parts of chunks that stay in the log.
pub(crate) struct Flushed {
    pub(crate) database: Database,
    pub(crate) keyspaces: Keyspaces,
    /// Parts of chunks that are in no table.
    pub(crate) kept: Arc<Kept>,
    /// The data folder.
    pub(crate) folder: PathBuf,
    pub(crate) options: Options,
    /// Bytes of keys and values written to tables so far.
    pub(crate) flushed_bytes: AtomicU64,
}

struct Shared {
    to: Flushed,
    memtables: Mutex<Memtables>,
    /// Told when something is sealed, is in tables, or ends.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Memtables {
    active: Memtable,
    sealed: Option<Arc<Sealed>>,
    /// Whether the log wants another segment.
    wants_segment: bool,
    /// Why the thread ended. What is sealed stays to be read.
    failed: Option<StoreError>,
    stopping: bool,
}

/// A memtable on its way to tables.
#[derive(Debug)]
struct Sealed {
    memtable: Memtable,
    /// Where its last batch ends in the log.
    block: u64,
    /// Bytes of the log that its batches take.
    log_bytes: u64,
    /// What of them is to be synced before.
    unsynced: Option<Unsynced>,
}

/// What the thread does.
enum Task {
    Prepare,
    Flush(Arc<Sealed>),
}

impl Tables {
    /// Starts the thread that flushes, and that gives the log its room.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn start(to: Flushed, room: Room) -> std::io::Result<Tables> {
        let shared = Arc::new(Shared {
            to,
            memtables: Mutex::default(),
            changed: Condvar::new(),
        });
        let flushing = shared.clone();
        let thread = std::thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || flushing.run(&room))?;
        Ok(Tables {
            shared,
            thread: Some(thread),
        })
    }

    /// Reads a value; parts of chunks with [`Tables::part`].
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> fjall::Result<Option<Value>> {
        match self.shared.last(table, key) {
            Some(last) => Ok(last),
            None => Ok(self.keyspace(table).get(key)?.map(Value::from)),
        }
    }

    /// Reads a part of a chunk.
    ///
    /// # Errors
    /// As [`Flushed::part`].
    pub(crate) fn part(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        match self.shared.last(Table::Log, key) {
            Some(last) => Ok(last),
            None => self.shared.to.part(key),
        }
    }

    /// Reads keys and values of a range in order, at most `max` of them.
    ///
    /// # Errors
    /// When reading fails or a table is damaged.
    pub(crate) fn scan(
        &self,
        table: Table,
        (mut from, to): KeyRange,
        max: usize,
    ) -> Result<Vec<(UserKey, Value)>, StoreError> {
        let mut found = Vec::new();
        loop {
            // First: what goes from a memtable to a table meanwhile is found in both rather than in neither.
            let newer = self.shared.newer(table, (&from, &to), max);
            let is_part = newer.len() == entries_at_once(max);
            let part_ends = newer.last().filter(|_| is_part).map(|(key, _)| key.clone());
            let end = part_ends.clone().map_or_else(|| to.clone(), Bound::Included);
            let mut newer = newer.into_iter().peekable();
            for guard in self.keyspace(table).range((from, end)) {
                let (key, value) = guard.into_inner().map_err(|e| read_from(table, e))?;
                while let Some((key, value)) = newer.next_if(|(newer, _)| *newer < key) {
                    found.extend(value.map(|value| (key, value)));
                }
                match newer.next_if(|(newer, _)| *newer == key) {
                    Some((key, value)) => found.extend(value.map(|value| (key, value))),
                    None => found.push((key, value.into())),
                }
                if found.len() >= max {
                    break;
                }
            }
            if found.len() < max {
                found.extend(newer.filter_map(|(key, value)| Some((key, value?))));
            }
            match part_ends {
                Some(last) if found.len() < max => from = Bound::Excluded(last),
                _ => {
                    found.truncate(max);
                    return Ok(found);
                }
            }
        }
    }

    /// Takes the changes of a batch. Answers how many bytes are in memory since the last memtable was sealed.
    pub(crate) fn take(&self, changes: &mut Changes) -> usize {
        let mut memtables = self.shared.memtables();
        memtables.active.take(changes);
        memtables.active.bytes()
    }

    /// Whether a sealed memtable is on its way to tables.
    pub(crate) fn is_flushing(&self) -> bool {
        self.shared.memtables().sealed.is_some()
    }

    /// Has everything so far written to tables. `block` is where the last batch ends in the log, `unsynced` what is to be synced
    /// before, and so many bytes of the log are of batches behind those that were sealed before. Waits for them, and not for
    /// this.
    ///
    /// # Errors
    /// When a flush failed, now or before.
    pub(crate) fn seal(
        &self,
        block: u64,
        log_bytes: u64,
        unsynced: Option<Unsynced>,
    ) -> Result<(), StoreError> {
        let mut memtables = self.shared.flushed()?;
        let memtable = std::mem::take(&mut memtables.active);
        memtables.sealed = Some(Arc::new(Sealed {
            memtable,
            block,
            log_bytes,
            unsynced,
        }));
        drop(memtables);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Has another segment of the log made ready.
    pub(crate) fn prepare_log(&self) {
        self.shared.memtables().wants_segment = true;
        self.shared.changed.notify_all();
    }

    /// Waits until what was sealed is in tables.
    ///
    /// # Errors
    /// When a flush failed, now or before.
    pub(crate) fn wait(&self) -> Result<(), StoreError> {
        self.shared.flushed().map(drop)
    }

    /// Bytes of keys and values that went to tables since the start.
    pub(crate) fn flushed_bytes(&self) -> u64 {
        self.shared.to.flushed_bytes.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When a flush failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.shared.memtables().failed.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn keyspace(&self, table: Table) -> &Keyspace {
        &self.shared.to.keyspaces[table as usize]
    }

    /// What was flushed, without memtables.
    pub(crate) fn flushed(&self) -> &Flushed {
        &self.shared.to
    }
}

/// A flush that goes on is waited for.
impl Drop for Tables {
    fn drop(&mut self) {
        self.shared.memtables().stopping = true;
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that flushes panicked");
        }
    }
}

impl Shared {
    fn run(&self, room: &Room) {
        while let Some(task) = self.next_task() {
            let sealed = match task {
                Task::Flush(sealed) => sealed,
                Task::Prepare => {
                    // What is sealed is in memory until it is in tables.
                    let time = || self.memtables().sealed.is_none();
                    if let Err(error) = room.prepare(time) {
                        // Whoever needs it tries again, and fails if it must.
                        tracing::warn!(%error, "no segment of the log could be made ready");
                    }
                    continue;
                }
            };
            // A panic must not leave writers waiting for ever.
            let flushed = catch_unwind(AssertUnwindSafe(|| {
                let may_wait = || !self.memtables().stopping;
                if let Some(unsynced) = &sealed.unsynced {
                    self.to.sync(unsynced)?;
                }
                self.to.flush(&sealed.memtable, sealed.log_bytes, may_wait)?;
                self.release(room, sealed.block).map_err(write_failed)
            }));
            let flushed = flushed
                .unwrap_or_else(|_| Err(StoreError::Write("the thread that flushes panicked".to_owned())));
            let mut memtables = self.memtables();
            match flushed {
                Ok(()) => memtables.sealed = None,
                Err(error) => {
                    tracing::error!(%error, "a flush failed");
                    memtables.failed = Some(error);
                    memtables.stopping = true;
                }
            }
            drop(memtables);
            self.changed.notify_all();
        }
    }

    /// Lets the log have its segments back, but for those that parts are kept in.
    fn release(&self, room: &Room, block: u64) -> std::io::Result<()> {
        let kept: BTreeSet<u64> = self.to.kept.segments();
        room.release(block, |segment| kept.contains(&segment))?;
        for segment in self.to.kept.take_empty() {
            room.let_go(segment)?;
        }
        Ok(())
    }

    /// The last value of a key in a memtable, as [`Memtable::get`].
    fn last(&self, table: Table, key: &[u8]) -> Option<Option<Value>> {
        let memtables = self.memtables();
        let sealed = || memtables.sealed.as_ref()?.memtable.get(table, key);
        memtables.active.get(table, key).or_else(sealed)
    }

    /// Waits for something to do; `None` when the thread shall end.
    fn next_task(&self) -> Option<Task> {
        let mut memtables = self
            .changed
            .wait_while(self.memtables(), |memtables| {
                memtables.sealed.is_none() && !memtables.wants_segment && !memtables.stopping
            })
            .unwrap_or_else(PoisonError::into_inner);
        if memtables.failed.is_some() {
            return None;
        }
        if std::mem::take(&mut memtables.wants_segment) {
            return Some(Task::Prepare);
        }
        memtables.sealed.clone().map(Task::Flush)
    }

    /// Keys of a range in memtables with their last values, in order, as many as are taken at once.
    fn newer(
        &self,
        table: Table,
        (from, to): (&Bound<UserKey>, &Bound<UserKey>),
        max: usize,
    ) -> Vec<(UserKey, Option<Value>)> {
        let memtables = self.memtables();
        let range = (from.as_ref(), to.as_ref());
        let mut active = memtables.active.range(table, range).peekable();
        let sealed = memtables.sealed.iter();
        let mut sealed = sealed
            .flat_map(|sealed| sealed.memtable.range(table, range))
            .peekable();
        let mut newer = Vec::new();
        while newer.len() < entries_at_once(max) {
            let next = match (active.peek(), sealed.peek()) {
                (Some((one, _)), Some((other, _))) if other < one => sealed.next(),
                (Some((one, _)), Some((other, _))) => {
                    if one == other {
                        sealed.next();
                    }
                    active.next()
                }
                (Some(_), None) => active.next(),
                (None, _) => sealed.next(),
            };
            let Some((key, value)) = next else { break };
            newer.push((key.clone(), value.cloned()));
        }
        newer
    }

    /// The memtables, once nothing is sealed.
    fn flushed(&self) -> Result<MutexGuard<'_, Memtables>, StoreError> {
        let memtables = self
            .changed
            .wait_while(self.memtables(), |memtables| {
                memtables.sealed.is_some() && memtables.failed.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        match &memtables.failed {
            Some(error) => Err(error.clone()),
            None => Ok(memtables),
        }
    }

    fn memtables(&self) -> MutexGuard<'_, Memtables> {
        self.memtables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entries_at_once(max: usize) -> usize {
    max.clamp(1, SCAN_ENTRIES)
}

impl Flushed {
    /// Reads a part of a chunk that was flushed.
    ///
    /// # Errors
    /// When reading fails, or the part is not what was written.
    pub(crate) fn part(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        while let Some(extent) = self.kept.extent(key) {
            match self.kept.read(key, extent) {
                // It was moved or removed, and its segment written again.
                Err(StoreError::Damaged(_)) if self.kept.extent(key) != Some(extent) => {}
                read => return read.map(|value| Some(value.into())),
            }
        }
        let value = self.keyspaces[Table::Log as usize].get(key);
        let value = value.map_err(|error| match read_from(Table::Log, error) {
            StoreError::Damaged(_) => StoreError::Damaged(chunk_damage(key, "its table")),
            other => other,
        });
        Ok(value?.map(Value::from))
    }

    /// Makes durable what goes to tables: of a message they may have the place and not the content, until they have both.
    fn sync(&self, unsynced: &Unsynced) -> Result<(), StoreError> {
        self.options.faults.visit(Site::Sync).map_err(sync_failed)?;
        unsynced.sync().map_err(sync_failed)
    }

    /// Writes a memtable, which came to so many bytes of the log, to tables, those of the state last. Where too many wait to
    /// be merged, it waits for that as long as `may_wait` says so.
    ///
    /// # Errors
    /// When a write fails. Some keyspaces may have their tables then.
    pub(crate) fn flush(
        &self,
        memtable: &Memtable,
        log_bytes: u64,
        may_wait: impl Fn() -> bool,
    ) -> Result<(), StoreError> {
        const ORDER: [Table; Table::ALL.len()] = [
            Table::Log,
            Table::Kept,
            Table::Index,
            Table::Ack,
            Table::Due,
            Table::Meta,
            Table::State,
        ];
        let allowed = |live| self.options.disk_allowed(live, 1);
        let mut plan = self.kept.plan(memtable, log_bytes, allowed);
        for table in ORDER {
            self.options.faults.visit(Site::Flush).map_err(write_failed)?;
            let keyspace = &self.keyspaces[table as usize];
            let written = self
                .wait_for_merges(keyspace, &may_wait)
                .and_then(|()| match table {
                    Table::Log => self.write_log(memtable, &mut plan),
                    Table::Kept => write_kept(keyspace, &plan),
                    _ => write_tables(keyspace, entries(memtable, table)),
                });
            let bytes = written.map_err(|error| self.explain(error))?;
            self.flushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.kept.apply(plan);
        Ok(())
    }

    /// Writes the parts of chunks that are not kept.
    fn write_log(&self, memtable: &Memtable, plan: &mut Plan) -> fjall::Result<u64> {
        // One that cannot be read stays where it is: who needs it is told then.
        let mut unread = Vec::new();
        let moved = plan.moved.iter().filter_map(|(key, extent)| {
            let value = self.kept.read(key, *extent);
            let value = value.inspect_err(|error| {
                tracing::warn!(%error, "a part of a chunk cannot be moved to a table");
                unread.push(key.clone());
            });
            Some((key, Some(Value::from(value.ok()?))))
        });
        let changed = memtable.table(Table::Log).filter_map(|(key, last)| {
            match plan.changed.get(key) {
                // What is new is in no table.
                Some(Some(_)) => (!last.is_new).then_some((key, None)),
                _ => Some((key, last.value.clone())),
            }
        });
        let bytes = write_tables(&self.keyspaces[Table::Log as usize], merge(changed, moved))?;
        for key in unread {
            plan.changed.remove(&key);
        }
        Ok(bytes)
    }

    fn wait_for_merges(&self, keyspace: &Keyspace, may_wait: impl Fn() -> bool) -> fjall::Result<()> {
        for look in 1.. {
            // Says so if the thread that merges ended with an error.
            self.database.persist(PersistMode::Buffer)?;
            if keyspace.tree.l0_run_count() < RUNS_MAX || !may_wait() {
                break;
            }
            if look % LOOKS == 0 {
                // An ingestion of nothing tells it.
                keyspace.start_ingestion()?.finish()?;
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// fjall does not say why a write of its own in the background failed, after which it takes nothing more. A disk
    /// without room for a table says it.
    fn explain(&self, error: fjall::Error) -> StoreError {
        match error {
            fjall::Error::Poisoned if folder::free_space(&self.folder).is_ok_and(|free| free < ROOM) => {
                StoreError::DiskFull
            }
            other => write_failed(other),
        }
    }
}

/// A table's keys and last values in a memtable.
fn entries(memtable: &Memtable, table: Table) -> impl Iterator<Item = (&UserKey, Option<Value>)> {
    memtable.table(table).map(|(key, last)| (key, last.value.clone()))
}

/// Two rising sequences as one. No key is in both.
fn merge<'a>(
    one: impl Iterator<Item = (&'a UserKey, Option<Value>)>,
    other: impl Iterator<Item = (&'a UserKey, Option<Value>)>,
) -> impl Iterator<Item = (&'a UserKey, Option<Value>)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some((key, _)), Some((lower, _))) if lower < key => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

/// Writes which parts are kept and which are not any more.
fn write_kept(keyspace: &Keyspace, plan: &Plan) -> fjall::Result<u64> {
    let value = |extent: &Extent| Value::from(UserValue::new(&extent.encode()));
    let entries = plan.changed.iter();
    write_tables(
        keyspace,
        entries.map(|(key, extent)| (key, extent.as_ref().map(value))),
    )
}

/// Writes keys and their last values, in order, to tables that go in front of all others; all of it is there then, or
/// nothing. Returns how many bytes it was.
fn write_tables<'a>(
    keyspace: &Keyspace,
    entries: impl Iterator<Item = (&'a UserKey, Option<Value>)>,
) -> fjall::Result<u64> {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return Ok(0);
    }
    let mut tables = keyspace.start_ingestion()?;
    let mut bytes = 0;
    for (key, value) in entries {
        bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
        match value {
            Some(value) => tables.write(key.clone(), value.for_table())?,
            None => tables.write_tombstone(key.clone())?,
        }
    }
    tables.finish()?;
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use fjall::{KeyspaceCreateOptions, UserValue};

    use super::*;
    use crate::staged::Change;

    #[test]
    fn a_flush_waits_while_too_many_tables_are_not_merged() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody merges.
        let database = Database::builder(folder.path())
            .worker_threads_unchecked(0)
            .open()
            .unwrap();
        let open = |table: Table| database.keyspace(table.name(), KeyspaceCreateOptions::default);
        let to = Flushed {
            keyspaces: Table::ALL.map(|table| open(table).unwrap()),
            database: database.clone(),
            kept: Arc::new(Kept::new(folder.path().to_owned(), usize::MAX)),
            folder: folder.path().to_owned(),
            options: Options::default(),
            flushed_bytes: AtomicU64::new(0),
        };
        let waited = Cell::new(0);
        for n in 0..RUNS_MAX + 2 {
            let mut changes = Changes::default();
            changes[Table::Log as usize].push(Change::put("key".into(), UserValue::from("value")));
            let mut memtable = Memtable::default();
            memtable.take(&mut changes);
            waited.set(0);
            to.flush(&memtable, 0, || {
                waited.set(waited.get() + 1);
                waited.get() < 15
            })
            .unwrap();
            let expected = if n < RUNS_MAX { 0 } else { 15 };
            assert_eq!(waited.get(), expected, "with {n} runs");
        }
        assert_eq!(
            to.keyspaces[Table::Log as usize].tree.l0_run_count(),
            RUNS_MAX + 2
        );
    }
}
