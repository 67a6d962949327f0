//! Copies: a backup while the store is in use, and restoring one.
//!
//! A backup is a data folder like any other, so restoring it is copying its files. Each is made under another name and
//! renamed when it is whole, so that half a copy is never taken for one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{Keyspace, Readable, Snapshot, UserKey};

use crate::error::{OpenError, StoreError};
use crate::kept::Pin;
use crate::options::Options;
use crate::staged::{Table, Value};
use crate::store::{Store, read_failed, read_from, write_failed};
use crate::verify::Report;
use crate::{folder, keys, values};

/// Bytes copied in one batch.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Chunks, each of them checked.
    pub chunks: u64,
    /// Keys, over all keyspaces.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("{} exists and is not an empty folder; a copy never overwrites anything", .0.display())]
    Exists(PathBuf),
    /// The original could not be read, or the copy not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup is not what was written.
    #[error("the backup at {} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The system did not let us.
    #[error("the copy at {} could not be made: {source}", path.display())]
    Io {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes a folder under another name, which becomes `to` once it is whole.
fn whole_or_not<T>(to: &Path, make: impl FnOnce(&Path) -> Result<T, BackupError>) -> Result<T, BackupError> {
    let io = |source| BackupError::Io {
        path: to.to_owned(),
        source,
    };
    // Removes an empty folder only.
    match fs::remove_dir(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(BackupError::Exists(to.to_owned())),
        _ => {}
    }
    let partial = folder::beside(to, ".partial");
    folder::remove(&partial).map_err(io)?;
    let made = make(&partial)?;
    fs::rename(&partial, to)
        .and_then(|()| folder::sync_parent(to))
        .map_err(io)?;
    Ok(made)
}

impl Store {
    /// Copies the store as it is between two commits to `to`, which is made and must not exist but as an empty folder.
    /// Publishing goes on meanwhile; what comes later is not in the copy. Every chunk is checked on the way, so that a
    /// backup never keeps damage for later.
    ///
    /// # Errors
    /// When `to` exists, when something cannot be read, is damaged, or cannot be written. Then there is no `to`.
    pub fn backup(&self, to: &Path) -> Result<Copied, BackupError> {
        whole_or_not(to, |partial| self.copy_to(partial))
    }

    /// Copies the backup at `from`, which is only read, to the data folder `to`, which must not exist but as an empty
    /// folder, and looks through the copy.
    ///
    /// # Errors
    /// When `to` exists or cannot be written, or when the backup is damaged. Then there is no `to`.
    pub fn restore(from: &Path, to: &Path) -> Result<Report, BackupError> {
        whole_or_not(to, |partial| {
            folder::copy(from, partial, false).map_err(|source| BackupError::Io {
                path: to.to_owned(),
                source,
            })?;
            let (store, _) = Store::open(partial, Options::default())?;
            let report = store.verify()?;
            match report.is_sound() {
                true => Ok(report),
                false => Err(BackupError::Damaged(from.to_owned())),
            }
        })
    }

    fn copy_to(&self, folder: &Path) -> Result<Copied, BackupError> {
        // A copy's log is removed in the end.
        let options = Options {
            kept_min_bytes: usize::MAX,
            ..Options::default()
        };
        let (copy, _) = Store::open(folder, options)?;
        // Most of it without holding up commits.
        self.begin_flush()?;
        self.0.tables.wait()?;
        let original = {
            // Nothing is written while the writer is ours.
            let mut writer = self.writer();
            self.flush_under(&mut writer)?;
            let progress = &mut copy.writer().progress;
            progress.next_offsets = writer.progress.next_offsets;
            progress.log_bytes = writer.progress.log_bytes;
            progress.dead_bytes = writer.progress.dead_bytes;
            Original {
                snapshot: self.flushed().database.snapshot(),
                log: self.keyspace(Table::Log).clone(),
                kept: self.flushed().kept.pin(),
            }
        };
        let mut copied = Copied::default();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Kept) {
            let keyspace = original.snapshot.iter(self.keyspace(table));
            let entries = keyspace.map(|guard| {
                let (key, value) = guard.into_inner().map_err(|e| read_from(table, e))?;
                Ok((key, Value::from(value)))
            });
            original.copy_table(table, entries, &copy, &mut copied)?;
        }
        original.copy_table(Table::Log, original.kept.entries(), &copy, &mut copied)?;
        copy.flush()?;
        // What was copied is in tables, so that a backup need not be longer by the log.
        let emptied = copy.writer().wal.remove();
        emptied.map_err(write_failed)?;
        Ok(copied)
    }
}

/// What is copied: the store between two commits, all of which is flushed.
struct Original {
    snapshot: Snapshot,
    log: Keyspace,
    kept: Pin,
}

impl Original {
    fn copy_table(
        &self,
        table: Table,
        entries: impl Iterator<Item = Result<(UserKey, Value), StoreError>>,
        copy: &Store,
        copied: &mut Copied,
    ) -> Result<(), StoreError> {
        let mut writer = copy.writer();
        let mut waiting = 0;
        for entry in entries {
            let (key, value) = entry?;
            if table == Table::State && key == keys::progress() {
                continue;
            }
            if table == Table::Log {
                copied.chunks += u64::from(self.check_part(&key, value.clone())?);
            }
            copied.keys += 1;
            waiting += (key.len() + value.len()) as u64;
            writer.staged.put(table, key, value);
            if waiting >= BATCH_BYTES {
                copied.bytes += std::mem::take(&mut waiting);
                copy.write(&mut writer, &[])?;
            }
        }
        copied.bytes += waiting;
        copy.write(&mut writer, &[])
    }

    /// Checks the chunk that begins with this part. Answers whether one does.
    fn check_part(&self, key: &[u8], value: Value) -> Result<bool, StoreError> {
        let Some((lane, base, part)) = keys::chunk_parts(key) else {
            return Err(crate::store::value_damage(Table::Log, key).into());
        };
        if part > 0 {
            return Ok(false);
        }
        values::read_chunk(lane, base, value, |part| {
            self.part(&keys::chunk(lane, base, part))
        })?;
        Ok(true)
    }

    fn part(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        if let Some(kept) = self.kept.read(key)? {
            return Ok(Some(kept.into()));
        }
        let value = self.snapshot.get(&self.log, key).map_err(read_failed)?;
        Ok(value.map(Value::from))
    }
}
