//! The store: records in, records out.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use pointsman_core::catalog::Digest;
use pointsman_core::commit::IndexEntry;
use pointsman_core::{Chunk, Lane, Offset, Position, QueueId, Record, Restored};

use crate::error::{Damage, OpenError, StoreError};
use crate::faults::Site;
use crate::figures::Figures;
use crate::folder::Folder;
use crate::live::{ChunkId, Known, Live};
use crate::options::{Fsync, Options};
use crate::staged::{Staged, Table};
use crate::values::{self, Header, LiveCount, Progress};
use crate::{keys, recovery};

/// Most keys of deleted queues that one group removes, so that deleting a deep queue holds nobody up.
const GONE_KEYS_PER_GROUP: usize = 4_096;

/// An open data folder. Cheap to clone; closes with its last clone.
///
/// Every method may block on the disk, and fjall slows writers down by sleeping: none is for a tokio worker.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// Fields drop in this order: first fjall, which ends its threads, then what guards its files.
struct Inner {
    keyspaces: [Keyspace; 5],
    database: Database,
    folder: Folder,
    options: Options,
    figures: Figures,
    live: Mutex<Live>,
    writer: Mutex<Writer>,
}

/// What only the one writer at a time touches.
struct Writer {
    staged: Staged,
    progress: Progress,
    gone: VecDeque<QueueId>,
    failed: Option<String>,
}

impl Store {
    /// Opens the folder, or makes it, and returns what `Broker::restore` needs.
    ///
    /// Takes time in proportion to definitions, queues and the journal, not to messages.
    ///
    /// # Errors
    /// When another process holds it, when it is something else or of a newer format, or when less than what was
    /// written is there: the store does not open on silently less data.
    pub fn open(dir: &Path, options: Options) -> Result<(Store, Restored), OpenError> {
        let folder = Folder::hold(dir)?;
        let fjall = |source| OpenError::Fjall {
            folder: dir.to_owned(),
            source,
        };
        let database = Database::builder(folder.fjall())
            .max_journaling_size(options.journal_bytes)
            .journal_compression(fjall::CompressionType::None)
            .cache_size(options.cache_bytes)
            .open()
            .map_err(fjall)?;
        let mut keyspaces = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            let settings = || keyspace_options(table, &options);
            keyspaces.push(database.keyspace(table.name(), settings).map_err(fjall)?);
        }
        let Ok(keyspaces) = <[Keyspace; 5]>::try_from(keyspaces) else {
            unreachable!("one keyspace for each table");
        };
        let recovered = recovery::recover(&keyspaces).map_err(|e| e.in_folder(dir))?;
        let store = Store(Arc::new(Inner {
            keyspaces,
            database,
            folder,
            options,
            figures: Figures::new(),
            live: Mutex::default(),
            writer: Mutex::new(Writer {
                staged: Staged::default(),
                progress: recovered.progress,
                gone: recovered.gone.into(),
                failed: None,
            }),
        }));
        Ok((store, recovered.restored))
    }

    /// Makes the records of several commits durable, in order, all or none: one batch, and one sync if `sync` is set
    /// and the store's [`Fsync`] is `Always`.
    ///
    /// # Errors
    /// When a write or sync failed, now or before. Then nothing may be confirmed any more, and the store takes
    /// nothing more until it is opened again.
    pub fn apply(&self, commits: &[&[Record]], sync: bool) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let writer = &mut *writer;
        if let Some(failure) = &writer.failed {
            return Err(StoreError::Stopped(failure.clone()));
        }
        let result = self.write(writer, commits).and_then(|()| {
            if sync && self.0.options.fsync == Fsync::Always {
                self.sync_journal()
            } else {
                Ok(())
            }
        });
        if let Err(error) = &result {
            writer.failed = Some(error.to_string());
            writer.staged.clear();
        }
        self.0
            .figures
            .commits
            .fetch_add(commits.len() as u64, Ordering::Relaxed);
        result
    }

    /// Syncs what was written so far, whatever the [`Fsync`] setting.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if let Some(failure) = &writer.failed {
            return Err(StoreError::Stopped(failure.clone()));
        }
        self.sync_journal()
            .inspect_err(|error| writer.failed = Some(error.to_string()))
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
            let (key, value) = guard.into_inner().map_err(read_failed)?;
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
        self.0.options.faults.visit(Site::Read).map_err(read_failed)?;
        let part = |number| {
            self.keyspace(Table::Log)
                .get(keys::chunk(lane, base, number))
                .map_err(read_failed)
        };
        let read = match part(0)? {
            Some(first) => values::read_chunk(lane, base, first, part),
            None => Err(StoreError::Damaged(Damage::ChunkMissing { lane, base })),
        };
        match read {
            Ok(chunk) => {
                self.0.figures.chunks_read.fetch_add(1, Ordering::Relaxed);
                Ok(Arc::new(chunk))
            }
            // Its end may have come between two parts.
            Err(_) if self.live().was_settled((lane, base)) => Err(StoreError::Settled { lane, base }),
            Err(error) => Err(error),
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

    /// When a confirm's records are on disk.
    pub fn fsync(&self) -> Fsync {
        self.0.options.fsync
    }

    /// Free bytes on the disk of the data folder.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free_space(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(self.0.folder.path()).map_err(|e| read_failed(io::Error::from(e)))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Why publishers should be blocked, while the disk has less free space than [`Options::free_space_low`].
    ///
    /// # Errors
    /// When the system does not say.
    pub fn space_low(&self) -> Result<Option<String>, StoreError> {
        let (free, low) = (self.free_space()?, self.0.options.free_space_low);
        Ok((free < low).then(|| {
            format!(
                "the disk of the data folder has {} MiB free, less than {} MiB",
                free >> 20,
                low >> 20
            )
        }))
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

    fn write(&self, writer: &mut Writer, commits: &[&[Record]]) -> Result<(), StoreError> {
        for record in commits.iter().copied().flatten() {
            self.stage(writer, record)?;
        }
        self.stage_leftovers(writer)?;
        self.stage_counts(writer);
        writer.progress.sequence += 1;
        writer
            .staged
            .put(Table::State, keys::progress(), writer.progress.encode());

        self.0.options.faults.visit(Site::Write).map_err(write_failed)?;
        let mut batch = self.0.database.batch().durability(Some(PersistMode::Buffer));
        let bytes = writer.staged.drain_to(&mut batch, &self.0.keyspaces);
        batch.commit().map_err(write_failed)?;
        self.0.figures.groups.fetch_add(1, Ordering::Relaxed);
        self.0.figures.written_bytes.fetch_add(bytes, Ordering::Relaxed);

        let mut live = self.live();
        for (chunk, known) in writer.staged.touched.drain() {
            live.put(chunk, known);
        }
        Ok(())
    }

    fn sync_journal(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        self.0.options.faults.visit(Site::Sync).map_err(sync_failed)?;
        self.0
            .database
            .persist(PersistMode::SyncData)
            .map_err(sync_failed)?;
        self.0.figures.synced(began.elapsed());
        Ok(())
    }

    fn stage(&self, writer: &mut Writer, record: &Record) -> Result<(), StoreError> {
        let staged = &mut writer.staged;
        match record {
            Record::Append { chunk, references } => self.stage_chunk(writer, chunk, *references),
            Record::Release { lane, base, count } => {
                return self.stage_release(writer, (*lane, *base), *count);
            }
            Record::Index { queue, entry } => {
                let value = values::postcard(entry, &mut staged.buffer).map_err(not_encoded)?;
                staged.put(Table::Index, keys::in_queue(*queue, entry.last().0), value);
            }
            Record::IndexRemove { queue, last } => {
                staged.remove(Table::Index, keys::in_queue(*queue, last.0))
            }
            Record::QueueState { queue, state } => {
                staged.put(
                    Table::State,
                    keys::queue_state(*queue),
                    values::queue_state(state),
                );
            }
            Record::AckBlock {
                queue,
                block,
                settled,
            } => {
                let key = keys::in_queue(*queue, *block);
                match settled {
                    Some(settled) => {
                        let value = values::bitmap(settled, &mut staged.buffer).map_err(write_failed)?;
                        staged.put(Table::Ack, key, value);
                    }
                    None => staged.remove(Table::Ack, key),
                }
            }
            Record::Attempts {
                queue,
                position,
                count,
            } => {
                let key = keys::attempts(*queue, *position);
                match count {
                    Some(count) => staged.put(Table::State, key, values::number(*count)),
                    None => staged.remove(Table::State, key),
                }
            }
            Record::Identity { identity, state } => {
                let key = keys::identity(*identity);
                match state {
                    Some(state) => {
                        let value = values::postcard(state, &mut staged.buffer).map_err(not_encoded)?;
                        staged.put(Table::State, key, value);
                    }
                    None => staged.remove(Table::State, key),
                }
            }
            Record::Define { key, definition } => {
                let key = keys::definition(key).map_err(not_encoded)?;
                match definition {
                    Some(definition) => {
                        let value = values::postcard(definition, &mut staged.buffer).map_err(not_encoded)?;
                        staged.put(Table::Meta, key, value);
                    }
                    None => staged.remove(Table::Meta, key),
                }
            }
            Record::Module { digest, bytes } => match bytes {
                Some(bytes) => staged.put(Table::Meta, keys::module(digest), values::module(bytes)),
                None => staged.remove(Table::Meta, keys::module(digest)),
            },
            Record::QueueGone { queue } => {
                staged.remove(Table::State, keys::queue_state(*queue));
                staged.put(Table::State, keys::gone(*queue), values::number(0));
                writer.gone.push_back(*queue);
            }
        }
        Ok(())
    }

    fn stage_chunk(&self, writer: &mut Writer, chunk: &Chunk, references: u32) {
        let mut parts = 0;
        for value in values::chunk(chunk, references) {
            writer
                .staged
                .put(Table::Log, keys::chunk(chunk.lane, chunk.base, parts), value);
            parts += 1;
        }
        let known = Known {
            count: LiveCount {
                left: references,
                parts,
            },
            stored: false,
            released: false,
        };
        writer.staged.touched.insert((chunk.lane, chunk.base), known);
        if let Some(next) = writer.progress.next_offsets.get_mut(chunk.lane as usize) {
            *next = (*next).max(Offset(chunk.base.0 + u64::from(chunk.count())));
        }
        self.0.figures.chunks_appended.fetch_add(1, Ordering::Relaxed);
        self.0
            .figures
            .user_bytes
            .fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed);
    }

    fn stage_release(&self, writer: &mut Writer, chunk: ChunkId, count: u32) -> Result<(), StoreError> {
        let Some(mut known) = self.known(&writer.staged, chunk)? else {
            // Nothing is lost by it, but it should not happen.
            tracing::error!(lane = ?chunk.0, base = chunk.1.0, count, "released a chunk that is not in the store");
            return Ok(());
        };
        known.count.left = known.count.left.saturating_sub(count);
        known.released = true;
        writer.staged.touched.insert(chunk, known);
        Ok(())
    }

    /// A chunk's count: as this group left it, as remembered, or as it is on disk.
    fn known(&self, staged: &Staged, chunk: ChunkId) -> Result<Option<Known>, StoreError> {
        if let Some(known) = staged.touched.get(&chunk) {
            return Ok(Some(*known));
        }
        if let Some(known) = self.live().get(chunk) {
            return Ok(Some(known));
        }
        let (lane, base) = chunk;
        let key = keys::live(lane, base);
        if let Some(value) = self.keyspace(Table::State).get(&key).map_err(read_failed)? {
            let count =
                LiveCount::decode(&value).ok_or(StoreError::Damaged(value_damage(Table::State, &key)))?;
            return Ok(Some(Known {
                count,
                stored: true,
                released: false,
            }));
        }
        let Some(first) = self
            .keyspace(Table::Log)
            .get(keys::chunk(lane, base, 0))
            .map_err(read_failed)?
        else {
            return Ok(None);
        };
        let damage = Damage::Chunk {
            lane,
            base,
            what: "header",
        };
        let header = Header::decode(&first).ok_or(StoreError::Damaged(damage))?;
        let count = LiveCount {
            left: header.references,
            parts: header.parts(),
        };
        Ok(Some(Known {
            count,
            stored: false,
            released: false,
        }))
    }

    /// Writes the counts of chunks that were partly released, and removes chunks that nobody names any more.
    fn stage_counts(&self, writer: &mut Writer) {
        let mut touched = std::mem::take(&mut writer.staged.touched);
        for (&(lane, base), known) in touched.iter_mut().filter(|(_, known)| known.released) {
            known.released = false;
            if known.count.left > 0 {
                known.stored = true;
                writer
                    .staged
                    .put(Table::State, keys::live(lane, base), known.count.encode());
                continue;
            }
            for part in 0..known.count.parts {
                writer.staged.remove(Table::Log, keys::chunk(lane, base, part));
            }
            if known.stored {
                writer.staged.remove(Table::State, keys::live(lane, base));
            }
            self.0.figures.chunks_removed.fetch_add(1, Ordering::Relaxed);
        }
        writer.staged.touched = touched;
    }

    /// Removes some of what deleted queues left.
    fn stage_leftovers(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let mut room = GONE_KEYS_PER_GROUP;
        while let Some(&queue) = writer.gone.front() {
            let ranges = [
                (
                    Table::Index,
                    keys::in_queue(queue, 0),
                    keys::in_queue(queue, u64::MAX),
                ),
                (
                    Table::Ack,
                    keys::in_queue(queue, 0),
                    keys::in_queue(queue, u64::MAX),
                ),
                (
                    Table::State,
                    keys::attempts(queue, Position(0)),
                    keys::attempts(queue, Position(u64::MAX)),
                ),
            ];
            for (table, first, last) in ranges {
                writer.staged.remove_range(table, &first, &last);
                for guard in self.keyspace(table).range(first..=last).take(room) {
                    writer.staged.remove(table, guard.key().map_err(read_failed)?);
                    room -= 1;
                }
            }
            if room == 0 {
                return Ok(());
            }
            writer.staged.remove(Table::State, keys::gone(queue));
            writer.gone.pop_front();
        }
        Ok(())
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        &self.0.keyspaces[table as usize]
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks come and go in the order of their keys and are mostly read whole, so that neither compression nor
/// separating values from keys gains anything; memtables bound the journal, and so the time to open after a crash.
fn keyspace_options(table: Table, options: &Options) -> KeyspaceCreateOptions {
    let memtable = if table == Table::Log {
        options.log_memtable_bytes
    } else {
        options.memtable_bytes
    };
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable)
        .data_block_compression_policy(fjall::config::CompressionPolicy::disabled())
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

fn write_failed(error: impl Into<fjall::Error>) -> StoreError {
    match error.into() {
        fjall::Error::Io(e) if e.kind() == io::ErrorKind::StorageFull => StoreError::DiskFull,
        fjall::Error::Io(e) => StoreError::Write(e.to_string()),
        other => StoreError::Write(other.to_string()),
    }
}

fn sync_failed(error: impl Into<fjall::Error>) -> StoreError {
    match write_failed(error) {
        StoreError::Write(what) => StoreError::Sync(what),
        other => other,
    }
}

fn read_failed(error: impl Into<fjall::Error>) -> StoreError {
    match error.into() {
        fjall::Error::Io(e) => StoreError::Read(e.to_string()),
        other => StoreError::Read(other.to_string()),
    }
}

fn not_encoded(error: postcard::Error) -> StoreError {
    StoreError::Write(format!("a record could not be encoded: {error}"))
}
