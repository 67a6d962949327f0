//! The store: records in, records out.

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use fjall::{Keyspace, UserKey};
use pointsman_core::catalog::Digest;
use pointsman_core::commit::IndexEntry;
use pointsman_core::{Chunk, Lane, Offset, Position, QueueId, Record};

use crate::error::{Damage, StoreError, io_error};
use crate::faults::{Faults, Site};
use crate::figures::Figures;
use crate::folder::{self, Folder};
use crate::live::Live;
use crate::mark::{Mark, Marked};
use crate::options::Options;
use crate::reclaim::Reclaim;
use crate::staged::{Staged, Table, Value};
use crate::tables::{Flushed, Tables};
use crate::values::{self, Header, Progress};
use crate::wal::{Room, Wal};
use crate::{keys, wal};

/// An open data folder. Cheap to clone; closes with its last clone.
///
/// Every method may block on the disk, and fjall slows writers down by sleeping: none is for a tokio worker.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

/// Fields drop in this order: first the tables with all their threads, then what guards the files.
pub(crate) struct Inner {
    pub(crate) tables: Tables,
    room: Room,
    live: Mutex<Live>,
    writer: Mutex<Writer>,
    /// Told when the reclaim thread waits and there is something to do.
    pub(crate) reclaimable: Condvar,
    folder: Folder,
    pub(crate) options: Options,
    pub(crate) figures: Figures,
}

/// What only the one writer at a time touches.
pub(crate) struct Writer {
    pub(crate) staged: Staged,
    pub(crate) progress: Progress,
    pub(crate) gone: VecDeque<QueueId>,
    pub(crate) reclaim: Reclaim,
    pub(crate) wal: Wal,
    /// The block of the log from which on it is not being written to tables.
    sealed_block: u64,
    mark: Mark,
    failed: Option<String>,
}

/// What the commit thread does when there is nothing else to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chores {
    /// Remove keys of deleted queues.
    remove: bool,
    /// Write what was not worth a write of its own.
    write: bool,
    /// [`Store::begin_to_write`], which is done at every turn.
    cached: bool,
}

impl Chores {
    /// Whether there are any.
    pub(crate) fn are_there(self) -> bool {
        self.remove || self.write || self.cached
    }
}

/// What a store is made of.
pub(crate) struct Parts {
    pub(crate) folder: Folder,
    pub(crate) options: Options,
    pub(crate) flushed: Flushed,
    pub(crate) wal: Wal,
    pub(crate) mark: Mark,
    pub(crate) progress: Progress,
    pub(crate) gone: Vec<QueueId>,
}

impl Store {
    /// Puts the parts together, and notes on disk that the store is in use.
    pub(crate) fn of(parts: Parts) -> Result<Store, StoreError> {
        let room = parts.wal.room();
        let tables = Tables::start(parts.flushed, room.clone());
        let writer = Writer {
            staged: Staged::default(),
            progress: parts.progress,
            gone: parts.gone.into(),
            reclaim: Reclaim::default(),
            sealed_block: parts.wal.end(),
            wal: parts.wal,
            mark: parts.mark,
            failed: None,
        };
        let store = Store(Arc::new(Inner {
            tables: tables.map_err(write_failed)?,
            room,
            live: Mutex::default(),
            writer: Mutex::new(writer),
            reclaimable: Condvar::new(),
            folder: parts.folder,
            options: parts.options,
            figures: Figures::new(),
        }));
        let mut writer = store.writer();
        if let Err(error) = store.begin(&mut writer) {
            writer.fail(&error);
            return Err(error);
        }
        drop(writer);
        Ok(store)
    }

    /// Makes the records of several commits durable, in order, all or none: one batch, and one sync if `sync` is set.
    /// Without a sync, a batch that brings no message and no definition is written with the next one that does.
    ///
    /// # Errors
    /// When a write or sync failed, now or before. Then nothing may be confirmed any more, and the store takes
    /// nothing more until it is opened again.
    pub fn apply(&self, commits: &[&[Record]], sync: bool) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let writer = &mut *writer;
        writer.usable()?;
        let is_promised = || commits.iter().copied().flatten().any(is_promised);
        let result = self.append(writer, commits).and_then(|in_memory| {
            match sync {
                true => self.sync_wal(writer)?,
                false if is_promised() => writer.wal.write_out().map_err(write_failed)?,
                false => {}
            }
            self.flush_if_full(writer, in_memory)
        });
        if let Err(error) = &result {
            writer.fail(error);
        }
        self.0
            .figures
            .commits
            .fetch_add(commits.len() as u64, Ordering::Relaxed);
        result
    }

    /// Syncs what was written so far, while others write. Whoever writes next is told of an error as well, as what it is.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.usable()?;
        let sequence = writer.progress.sequence;
        if writer.progress.synced == sequence {
            return Ok(());
        }
        let begun = writer.wal.begin_to_sync().map_err(write_failed);
        let unsynced = begun.inspect_err(|error| writer.fail_untold(error))?;
        drop(writer);
        let synced = self.timed(|| unsynced.sync());
        let mut writer = self.writer();
        let marked = synced.and_then(|()| {
            writer.wal.synced(&unsynced);
            self.mark(&mut writer, sequence)
        });
        marked.inspect_err(|error| writer.fail_untold(error))
    }

    /// Reads index entries of a queue in order: from the one that holds `from`, or the first behind it, to the last
    /// that begins before `to`, but no more than about `runs_max` runs.
    ///
    /// # Errors
    /// When reading fails or an entry is damaged.
    pub fn read_index(
        &self,
        queue: QueueId,
        from: Position,
        to: Position,
        runs_max: usize,
    ) -> Result<Vec<IndexEntry>, StoreError> {
        self.0.options.faults.visit(Site::Read).map_err(read_failed)?;
        let range = (
            Bound::Included(keys::in_queue(queue, from.0)),
            Bound::Included(keys::in_queue(queue, u64::MAX)),
        );
        let mut entries = Vec::new();
        let mut runs = 0;
        // Each entry has a run.
        for (key, value) in self.0.tables.scan(Table::Index, range, runs_max)? {
            let entry = index_entry(&key, &value.bytes()).map_err(StoreError::Damaged)?;
            if entry.first >= to || runs >= runs_max {
                break;
            }
            runs += entry.runs.len();
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reads a chunk and checks it.
    ///
    /// # Errors
    /// When reading fails, when the chunk is not what was written, and [`StoreError::Settled`] when nobody needs it
    /// any more.
    pub fn read_chunk(&self, lane: Lane, base: Offset) -> Result<Arc<Chunk>, StoreError> {
        let first = self.first_part(lane, base)?;
        self.rest_of_chunk(lane, base, first)
    }

    /// As [`Store::read_chunk`], but a chunk in several parts is left alone: it is one large message.
    ///
    /// # Errors
    /// As [`Store::read_chunk`].
    pub fn read_chunk_ahead(&self, lane: Lane, base: Offset) -> Result<Option<Arc<Chunk>>, StoreError> {
        let first = self.first_part(lane, base)?;
        if Header::of(&first).is_some_and(|header| header.left().parts > 1) {
            return Ok(None);
        }
        self.rest_of_chunk(lane, base, first).map(Some)
    }

    fn first_part(&self, lane: Lane, base: Offset) -> Result<Value, StoreError> {
        self.0.options.faults.visit(Site::Read).map_err(read_failed)?;
        let first = self.part(lane, base, 0);
        let first = first.and_then(|first| Ok(first.ok_or(Damage::ChunkMissing { lane, base })?));
        first.map_err(|error| self.unless_settled(lane, base, error))
    }

    fn rest_of_chunk(&self, lane: Lane, base: Offset, first: Value) -> Result<Arc<Chunk>, StoreError> {
        let chunk = values::read_chunk(lane, base, first, |number| self.part(lane, base, number))
            .map_err(|error| self.unless_settled(lane, base, error))?;
        self.0.figures.chunks_read.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(chunk))
    }

    fn part(&self, lane: Lane, base: Offset, number: u16) -> Result<Option<Value>, StoreError> {
        self.0.tables.part(&keys::chunk(lane, base, number))
    }

    /// A chunk's end may have come between two of its parts.
    fn unless_settled(&self, lane: Lane, base: Offset, error: StoreError) -> StoreError {
        match self.live().was_settled((lane, base)) {
            true => StoreError::Settled { lane, base },
            false => error,
        }
    }

    /// Reads a module, or `None` when there is none of that digest.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read_module(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        self.0.options.faults.visit(Site::Read).map_err(read_failed)?;
        let key = keys::module(digest);
        let Some(value) = self.get(Table::Meta, &key).map_err(read_failed)? else {
            return Ok(None);
        };
        let bytes = values::read_module(value);
        bytes
            .map(Some)
            .ok_or(StoreError::Damaged(value_damage(Table::Meta, &key)))
    }

    /// Moves all that was written into tables and waits for it, so that nothing of the write-ahead log is left to replay.
    /// Nothing can be written meanwhile.
    ///
    /// # Errors
    /// When writing fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.flush_under(&mut self.writer())
    }

    pub(crate) fn flush_under(&self, writer: &mut Writer) -> Result<(), StoreError> {
        writer.usable()?;
        self.seal(writer)
            .and_then(|()| self.0.tables.wait())
            .inspect_err(|error| writer.fail_untold(error))
    }

    /// Where faults are injected into this store.
    pub fn faults(&self) -> &Faults {
        &self.0.options.faults
    }

    /// Free bytes on the disk of the data folder.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free_space(&self) -> Result<u64, StoreError> {
        folder::free_space(self.0.folder.path()).map_err(read_failed)
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        let tables: u64 = self.flushed().keyspaces.iter().map(Keyspace::disk_space).sum();
        tables + self.0.room.disk_space().0
    }

    /// What the store counts about itself, without waiting for who writes: names in snake case, with the unit where it is not a number of things.
    pub fn figures(&self) -> Vec<(String, u64)> {
        let mut list = self.0.figures.list();
        let Flushed {
            database,
            keyspaces,
            kept,
            ..
        } = self.flushed();
        let (kept_segment_bytes, kept_bytes) = kept.space();
        let (journal_bytes, journals) = self.0.room.disk_space();
        list.extend([
            ("journal_bytes".to_owned(), journal_bytes),
            ("journals".to_owned(), journals),
            ("kept_segment_bytes".to_owned(), kept_segment_bytes),
            ("kept_bytes".to_owned(), kept_bytes),
            ("flushed_bytes".to_owned(), self.0.tables.flushed_bytes()),
            ("cache_bytes".to_owned(), database.cache_size()),
            ("compactions".to_owned(), database.compactions_completed() as u64),
            (
                "space_amplification_percent".to_owned(),
                (self.0.options.space_amplification * 100.0) as u64,
            ),
        ]);
        for (keyspace, table) in keyspaces.iter().zip(Table::ALL) {
            list.push((format!("{}_table_bytes", table.name()), keyspace.disk_space()));
        }
        list.extend(self.free_space().ok().map(|free| ("free_bytes".to_owned(), free)));
        list
    }

    /// What is left to do that nobody waits for.
    pub(crate) fn chores(&self) -> Chores {
        let writer = self.writer();
        let is_usable = writer.failed.is_none();
        Chores {
            remove: is_usable && !writer.gone.is_empty(),
            write: is_usable && writer.wal.has_unwritten(),
            cached: is_usable && writer.wal.has_cached(),
        }
    }

    /// Does some of it.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub(crate) fn do_chores(&self, chores: Chores) -> Result<(), StoreError> {
        if chores.remove {
            self.apply(&[], false)?;
        }
        self.write_out()
    }

    /// Has the system begin to write what collected in its cache, if that is worth it, so that the next sync is short.
    pub(crate) fn begin_to_write(&self) {
        let cached = self.writer().wal.take_cached();
        if let Some(cached) = cached {
            cached.begin_to_write();
        }
    }

    /// Writes what was applied and not written yet.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.usable()?;
        let written = writer.wal.write_out().map_err(write_failed);
        written.inspect_err(|error| writer.fail(error))
    }

    /// Writes a batch, so that an established store always has one, and marks the store as in use.
    fn begin(&self, writer: &mut Writer) -> Result<(), StoreError> {
        self.write(writer, &[])?;
        self.sync_wal(writer)?;
        let marked = writer.marked();
        writer.mark.write_synced(marked).map_err(write_failed)
    }

    pub(crate) fn write(&self, writer: &mut Writer, commits: &[&[Record]]) -> Result<(), StoreError> {
        let in_memory = self.append(writer, commits)?;
        self.flush_if_full(writer, in_memory)
    }

    /// Adds a batch. Returns how many bytes are in memory then.
    fn append(&self, writer: &mut Writer, commits: &[&[Record]]) -> Result<u64, StoreError> {
        self.0.tables.check()?;
        for record in commits.iter().copied().flatten() {
            self.stage(writer, record)?;
        }
        self.stage_leftovers(writer)?;
        self.stage_left(writer);
        writer.progress.sequence += 1;
        writer.stage_progress();

        self.0.options.faults.visit(Site::Write).map_err(write_failed)?;
        let Progress { sequence, synced, .. } = writer.progress;
        let bytes = writer
            .wal
            .append(sequence, synced, &mut writer.staged.changes)
            .map_err(write_failed)?;
        if writer.wal.wants_segment() {
            self.0.tables.prepare_log();
        }
        let in_memory = self.0.tables.take(&mut writer.staged.changes);
        let records = commits.iter().map(|records| records.len()).sum();
        self.0.figures.wrote(records, bytes);

        let mut live = self.live();
        for (chunk, known) in writer.staged.touched.drain() {
            live.put(chunk, known);
        }
        drop(live);
        self.0
            .figures
            .holds(&writer.progress, writer.reclaim_debt(&self.0.options));
        if writer.reclaim.waiting && writer.wants_reclaim(&self.0.options) {
            self.0.reclaimable.notify_all();
        }
        Ok(in_memory as u64)
    }

    /// Begins to write tables when memory or the log are full. While tables are being written already, both may get as
    /// full again before writing waits.
    fn flush_if_full(&self, writer: &mut Writer, in_memory: u64) -> Result<(), StoreError> {
        let options = &self.0.options;
        let in_log = (writer.wal.end() - writer.sealed_block) * wal::BLOCK as u64;
        let is_over =
            |times| in_memory >= options.memtable_bytes * times || in_log >= options.wal_bytes * times;
        if is_over(2) || is_over(1) && !self.0.tables.is_flushing() {
            self.seal(writer)?;
        }
        Ok(())
    }

    /// What goes to tables is synced before, by the thread that writes them.
    pub(crate) fn seal(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let unsynced = match writer.progress.synced < writer.progress.sequence {
            true => Some(writer.wal.begin_to_sync().map_err(write_failed)?),
            false => None,
        };
        let block = writer.wal.end();
        let log_bytes = (block - writer.sealed_block) * wal::BLOCK as u64;
        self.0.tables.seal(block, log_bytes, unsynced)?;
        writer.sealed_block = block;
        Ok(())
    }

    /// Syncs what was written since the last sync, if anything was.
    fn sync_wal(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.progress.synced == writer.progress.sequence {
            return Ok(());
        }
        self.timed(|| writer.wal.sync())?;
        self.mark(writer, writer.progress.sequence)
    }

    /// Notes how long a sync takes.
    fn timed(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), StoreError> {
        let began = Instant::now();
        self.0.options.faults.visit(Site::Sync).map_err(sync_failed)?;
        sync().map_err(sync_failed)?;
        self.0.figures.synced(began.elapsed());
        Ok(())
    }

    /// Notes that this batch is synced, if none behind it is.
    fn mark(&self, writer: &mut Writer, sequence: u64) -> Result<(), StoreError> {
        writer.progress.synced = writer.progress.synced.max(sequence);
        self.0.options.faults.visit(Site::Mark).map_err(write_failed)?;
        let marked = writer.marked();
        writer.mark.write(marked).map_err(write_failed)
    }

    /// Reads a value that is in a table, or was written since.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> fjall::Result<Option<Value>> {
        self.0.tables.get(table, key)
    }

    /// As [`Tables::scan`].
    pub(crate) fn scan(
        &self,
        table: Table,
        range: (Bound<UserKey>, Bound<UserKey>),
        max: usize,
    ) -> Result<Vec<(UserKey, Value)>, StoreError> {
        self.0.tables.scan(table, range, max)
    }

    /// What was flushed, without what was written since.
    pub(crate) fn flushed(&self) -> &Flushed {
        self.0.tables.flushed()
    }

    /// A keyspace of that.
    pub(crate) fn keyspace(&self, table: Table) -> &Keyspace {
        self.0.tables.keyspace(table)
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if writer.failed.is_some() {
            return;
        }
        let closed = writer.wal.sync().and_then(|()| {
            writer.progress.synced = writer.progress.sequence;
            let marked = writer.marked();
            writer.mark.write_synced(marked)
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the last sync before closing failed");
        }
    }
}

impl Writer {
    /// # Errors
    /// When a write or sync failed before; with the error itself when nobody was told of it yet.
    pub(crate) fn usable(&mut self) -> Result<(), StoreError> {
        match (self.reclaim.failed.take(), &self.failed) {
            (Some(untold), _) => Err(untold),
            (None, Some(failure)) => Err(StoreError::Stopped(failure.clone())),
            (None, None) => Ok(()),
        }
    }

    /// Adds how far the store has come with this batch, and where the batch ends in the log.
    fn stage_progress(&mut self) {
        self.staged.settle();
        let key = keys::progress();
        self.progress.block = self.wal.end_with(&self.staged.changes, key.len() + Progress::LEN);
        self.staged.put(Table::State, key, self.progress.encode());
    }

    /// As [`Writer::fail`], for what nobody hears of who commits: the next one does.
    pub(crate) fn fail_untold(&mut self, error: &StoreError) {
        self.fail(error);
        self.reclaim.failed = Some(error.clone());
    }

    /// Nothing is written any more.
    pub(crate) fn fail(&mut self, error: &StoreError) {
        self.failed = Some(error.to_string());
        self.staged.clear();
    }

    fn marked(&self) -> Marked {
        Marked {
            sequence: self.progress.synced,
            journals: None,
        }
    }
}

/// Whether somebody may be told of a record before it is synced. All others are of settlements, of which a process that is
/// killed may forget some as well as a machine without power: messages come again.
fn is_promised(record: &Record) -> bool {
    matches!(
        record,
        Record::Append { .. } | Record::Define { .. } | Record::Module { .. }
    )
}

pub(crate) fn index_entry(key: &[u8], value: &[u8]) -> Result<IndexEntry, Damage> {
    let (queue, last) = keys::in_queue_parts(key).ok_or_else(|| value_damage(Table::Index, key))?;
    let last = Position(last);
    values::read_index(value, last).ok_or(Damage::Index { queue, last })
}

/// Damage of a chunk, told by the key of one of its parts.
pub(crate) fn chunk_damage(key: &[u8], what: &'static str) -> Damage {
    match keys::chunk_parts(key) {
        Some((lane, base, _)) => Damage::Chunk { lane, base, what },
        None => value_damage(Table::Log, key),
    }
}

pub(crate) fn value_damage(table: Table, key: &[u8]) -> Damage {
    Damage::Value {
        keyspace: table.name(),
        key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

pub(crate) fn write_failed(error: impl Into<fjall::Error>) -> StoreError {
    let error = error.into();
    match io_error(&error) {
        Some(e) if e.kind() == io::ErrorKind::StorageFull => StoreError::DiskFull,
        Some(e) => StoreError::Write(e.to_string()),
        None => StoreError::Write(error.to_string()),
    }
}

/// Whatever the reason: what was written before may be gone, though the system took it.
pub(crate) fn sync_failed(error: impl Into<fjall::Error>) -> StoreError {
    match error.into() {
        fjall::Error::Io(e) => StoreError::Sync(e.to_string()),
        other => StoreError::Sync(other.to_string()),
    }
}

pub(crate) fn read_failed(error: impl Into<fjall::Error>) -> StoreError {
    match error.into() {
        fjall::Error::Io(e) => StoreError::Read(e.to_string()),
        other => StoreError::Read(other.to_string()),
    }
}

/// Tells bytes that changed from a read that failed.
pub(crate) fn read_from(table: Table, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Storage(e) if !matches!(e, fjall::LsmError::Io(_)) => {
            let keyspace = table.name();
            StoreError::Damaged(Damage::Table { keyspace })
        }
        other => read_failed(other),
    }
}

pub(crate) fn not_encoded(error: postcard::Error) -> StoreError {
    StoreError::Write(format!("a record could not be encoded: {error}"))
}
