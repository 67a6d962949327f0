//! The store: records in, records out.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use fjall::{Database, Keyspace, PersistMode, UserValue};
use pointsman_core::catalog::Digest;
use pointsman_core::commit::IndexEntry;
use pointsman_core::{Chunk, Lane, Offset, Position, QueueId, Record};

use crate::error::{Damage, StoreError};
use crate::faults::{Faults, Site};
use crate::figures::Figures;
use crate::folder::Folder;
use crate::live::Live;
use crate::mark::{Mark, Marked};
use crate::memtables::Memtables;
use crate::options::Options;
use crate::reclaim::Reclaim;
use crate::staged::{Keyspaces, Staged, Table};
use crate::values::{self, Header, Progress};
use crate::{journal, keys};

/// An open data folder. Cheap to clone; closes with its last clone.
///
/// Every method may block on the disk, and fjall slows writers down by sleeping: none is for a tokio worker.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

/// Fields drop in this order: first fjall, which ends its threads, then what guards its files.
pub(crate) struct Inner {
    keyspaces: Keyspaces,
    pub(crate) database: Database,
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
    mark: Mark,
    memtables: Memtables,
    failed: Option<String>,
    /// fjall's folder, once everything in it is synced and it is about to close.
    closing: Option<PathBuf>,
}

/// What a store is made of.
pub(crate) struct Parts {
    pub(crate) folder: Folder,
    pub(crate) options: Options,
    pub(crate) database: Database,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) mark: Mark,
    pub(crate) memtables: Memtables,
    pub(crate) progress: Progress,
    pub(crate) gone: Vec<QueueId>,
}

impl Store {
    /// Puts the parts together, and notes on disk that the store is in use.
    pub(crate) fn of(parts: Parts) -> Result<Store, StoreError> {
        let writer = Writer {
            staged: Staged::default(),
            progress: parts.progress,
            gone: parts.gone.into(),
            reclaim: Reclaim::default(),
            mark: parts.mark,
            memtables: parts.memtables,
            failed: None,
            closing: None,
        };
        let store = Store(Arc::new(Inner {
            keyspaces: parts.keyspaces,
            database: parts.database,
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
    ///
    /// # Errors
    /// When a write or sync failed, now or before. Then nothing may be confirmed any more, and the store takes
    /// nothing more until it is opened again.
    pub fn apply(&self, commits: &[&[Record]], sync: bool) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let writer = &mut *writer;
        writer.usable()?;
        let result = self
            .write(writer, commits)
            .and_then(|()| if sync { self.sync_journal(writer) } else { Ok(()) });
        if let Err(error) = &result {
            writer.fail(error);
        }
        self.0
            .figures
            .commits
            .fetch_add(commits.len() as u64, Ordering::Relaxed);
        result
    }

    /// Syncs what was written so far.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.usable()?;
        self.sync_journal(&mut writer)
            .inspect_err(|error| writer.fail(error))
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
        let range = keys::in_queue(queue, from.0)..=keys::in_queue(queue, u64::MAX);
        let mut entries = Vec::new();
        let mut runs = 0;
        for guard in self.keyspace(Table::Index).range(range) {
            let (key, value) = guard.into_inner().map_err(|e| read_from(Table::Index, e))?;
            let entry = index_entry(&key, &value).map_err(StoreError::Damaged)?;
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
        if Header::decode(&first).is_some_and(|(header, _)| header.left().parts > 1) {
            return Ok(None);
        }
        self.rest_of_chunk(lane, base, first).map(Some)
    }

    fn first_part(&self, lane: Lane, base: Offset) -> Result<UserValue, StoreError> {
        self.0.options.faults.visit(Site::Read).map_err(read_failed)?;
        let first = self.part(lane, base, 0);
        let first = first.and_then(|first| Ok(first.ok_or(Damage::ChunkMissing { lane, base })?));
        first.map_err(|error| self.unless_settled(lane, base, error))
    }

    fn rest_of_chunk(&self, lane: Lane, base: Offset, first: UserValue) -> Result<Arc<Chunk>, StoreError> {
        let chunk = values::read_chunk(lane, base, first, |number| self.part(lane, base, number))
            .map_err(|error| self.unless_settled(lane, base, error))?;
        self.0.figures.chunks_read.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(chunk))
    }

    fn part(&self, lane: Lane, base: Offset, number: u16) -> Result<Option<UserValue>, StoreError> {
        let value = self.keyspace(Table::Log).get(keys::chunk(lane, base, number));
        value.map_err(|error| match read_from(Table::Log, error) {
            StoreError::Damaged(_) => {
                let what = "its table";
                StoreError::Damaged(Damage::Chunk { lane, base, what })
            }
            other => other,
        })
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
        let Some(value) = self.keyspace(Table::Meta).get(&key).map_err(read_failed)? else {
            return Ok(None);
        };
        let bytes = values::read_module(value);
        bytes
            .map(Some)
            .ok_or(StoreError::Damaged(value_damage(Table::Meta, &key)))
    }

    /// Moves what memtables hold into tables and waits for it, so that little of the journal is left to replay.
    ///
    /// # Errors
    /// When writing fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.0
            .keyspaces
            .iter()
            .try_for_each(|keyspace| keyspace.rotate_memtable_and_wait().map_err(write_failed))
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
        let disk = rustix::fs::statvfs(self.0.folder.path()).map_err(|e| read_failed(io::Error::from(e)))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        let tables: u64 = self.0.keyspaces.iter().map(Keyspace::disk_space).sum();
        tables + self.0.database.journal_disk_space().unwrap_or(0)
    }

    /// What the store counts about itself: names in snake case, with the unit where it is not a number of things.
    pub fn figures(&self) -> Vec<(String, u64)> {
        let mut list = self.0.figures.list();
        let database = &self.0.database;
        list.extend([
            (
                "journal_bytes".to_owned(),
                database.journal_disk_space().unwrap_or(0),
            ),
            ("journals".to_owned(), database.journal_count() as u64),
            ("cache_bytes".to_owned(), database.cache_size()),
            ("compactions".to_owned(), database.compactions_completed() as u64),
            (
                "space_amplification_percent".to_owned(),
                (self.0.options.space_amplification * 100.0) as u64,
            ),
        ]);
        for (keyspace, table) in self.0.keyspaces.iter().zip(Table::ALL) {
            list.push((format!("{}_table_bytes", table.name()), keyspace.disk_space()));
        }
        list.extend(self.free_space().ok().map(|free| ("free_bytes".to_owned(), free)));
        list
    }

    /// Whether keys of deleted queues wait to be removed; an [`Store::apply`] without commits removes some.
    pub(crate) fn has_leftovers(&self) -> bool {
        let writer = self.writer();
        writer.failed.is_none() && !writer.gone.is_empty()
    }

    /// Writes a batch, so that an established store always has one, and marks the store as in use.
    fn begin(&self, writer: &mut Writer) -> Result<(), StoreError> {
        self.write(writer, &[])?;
        self.sync_journal(writer)?;
        let marked = writer.marked();
        writer.mark.write_synced(marked).map_err(write_failed)
    }

    pub(crate) fn write(&self, writer: &mut Writer, commits: &[&[Record]]) -> Result<(), StoreError> {
        for record in commits.iter().copied().flatten() {
            self.stage(writer, record)?;
        }
        self.stage_leftovers(writer)?;
        self.stage_left(writer);
        writer.progress.sequence += 1;
        writer
            .staged
            .put(Table::State, keys::progress(), writer.progress.encode());

        self.0.options.faults.visit(Site::Write).map_err(write_failed)?;
        let mut batch = self.0.database.batch().durability(Some(PersistMode::Buffer));
        let bytes = writer.staged.drain_to(&mut batch, &self.0.keyspaces);
        batch.commit().map_err(|error| self.commit_failed(error))?;
        writer.memtables.follow(&self.0.keyspaces);
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
        Ok(())
    }

    /// fjall does not say why a write of its own in the background failed, after which it takes nothing more. A disk
    /// without room for a table says it.
    fn commit_failed(&self, error: fjall::Error) -> StoreError {
        let room = self.0.options.log_memtable_bytes;
        match error {
            fjall::Error::Poisoned if self.free_space().is_ok_and(|free| free < room) => StoreError::DiskFull,
            other => write_failed(other),
        }
    }

    fn sync_journal(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let began = Instant::now();
        self.0.options.faults.visit(Site::Sync).map_err(sync_failed)?;
        self.0
            .database
            .persist(PersistMode::SyncData)
            .map_err(sync_failed)?;
        self.0.figures.synced(began.elapsed());
        writer.progress.synced = writer.progress.sequence;
        self.0.options.faults.visit(Site::Mark).map_err(write_failed)?;
        let marked = writer.marked();
        writer.mark.write(marked).map_err(write_failed)
    }

    pub(crate) fn keyspaces(&self) -> &Keyspaces {
        &self.0.keyspaces
    }

    pub(crate) fn keyspace(&self, table: Table) -> &Keyspace {
        &self.0.keyspaces[table as usize]
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
        match self.database.persist(PersistMode::SyncAll) {
            Ok(()) => writer.closing = Some(self.folder.fjall()),
            Err(error) => tracing::error!(%error, "the last sync before closing failed"),
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

/// Drops after fjall, so that the journals it notes are those that stay.
impl Drop for Writer {
    fn drop(&mut self) {
        let Some(fjall) = &self.closing else { return };
        let noted = journal::list(fjall).and_then(|numbers| {
            let marked = Marked {
                sequence: self.progress.sequence,
                journals: numbers.first().copied().zip(numbers.last().copied()),
            };
            self.mark.write_synced(marked)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "the mark of a clean stop could not be written");
        }
    }
}

pub(crate) fn index_entry(key: &[u8], value: &[u8]) -> Result<IndexEntry, Damage> {
    let (queue, last) = keys::in_queue_parts(key).ok_or_else(|| value_damage(Table::Index, key))?;
    let last = Position(last);
    values::read_index(value, last).ok_or(Damage::Index { queue, last })
}

pub(crate) fn value_damage(table: Table, key: &[u8]) -> Damage {
    Damage::Value {
        keyspace: table.name(),
        key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

pub(crate) fn write_failed(error: impl Into<fjall::Error>) -> StoreError {
    match error.into() {
        fjall::Error::Io(e) if e.kind() == io::ErrorKind::StorageFull => StoreError::DiskFull,
        fjall::Error::Io(e) => StoreError::Write(e.to_string()),
        other => StoreError::Write(other.to_string()),
    }
}

/// Whatever the reason: what was written before may be gone, though the system took it.
fn sync_failed(error: impl Into<fjall::Error>) -> StoreError {
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
