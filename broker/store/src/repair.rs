//! Saving what can be saved of a folder that is damaged.
//!
//! The damaged folder itself is never written: everything happens in a copy beside it, whose tables are hard links. What
//! can be read there goes into a new store, and the two change places in one step. Of each queue, the messages that are
//! lost count as settled from then on, so that the broker never asks for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use pointsman_core::{Broker, RestoreError};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Damage, OpenError, StoreError, Trouble};
use crate::examine::{Found, examine};
use crate::folder::{FORMAT_WITH_JOURNALS, Folder};
use crate::journal::Rescued;
use crate::kept::Kept;
use crate::mark::{Mark, Marked};
use crate::memtable::Memtable;
use crate::open::{database, empty_journals, inspect_end, inspect_journals};
use crate::options::Options;
use crate::salvage::{note, scan};
use crate::staged::Table;
use crate::store::Store;
use crate::tables::Flushed;
use crate::values::Progress;
use crate::verify::Report;
use crate::wal::{Extent, Place};
use crate::{folder, journal, keys, manifest, recovery, wal};

/// What was repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was saved and what is lost.
    pub report: Report,
    /// Where the damaged folder is now; `None` when nothing was damaged and nothing changed.
    pub kept: Option<PathBuf>,
}

/// Why a folder was not examined or repaired. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The folder is in use, not ours, or cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Without this file nothing else can be read.
    #[error("the data folder {} is beyond repair: {reason}", folder.display())]
    Beyond {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// What is left of the definitions does not fit together.
    #[error("what is left of the definitions does not fit together: {0}")]
    Definitions(RestoreError),
    /// Reading what is left, or writing it anew, failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system did not let us.
    #[error("{} could not be made: {source}", path.display())]
    Io {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Store {
    /// Reads all that can be read of a folder that nobody uses, damaged or not, and reports what
    /// [`Store::repair`] would save and what is lost. Changes nothing. Needs room beside the folder for a copy of its
    /// journals, and removes it again.
    ///
    /// # Errors
    /// When the folder is in use, is no store, or is damaged where nothing can be read any more.
    pub fn examine(dir: &Path) -> Result<Report, RepairError> {
        let folder = Folder::hold_existing(dir)?;
        Ok(Rescue::of(&folder)?.found.report())
    }

    /// Writes all that can be read of a damaged folder to a new one, checks that, and puts it in the place of the
    /// damaged one, which is kept under another name. A folder that is sound stays as it is. Needs room for a copy.
    ///
    /// # Errors
    /// As [`Store::examine`], and when the new store cannot be written.
    pub fn repair(dir: &Path) -> Result<Repaired, RepairError> {
        let folder = Folder::hold_existing(dir)?;
        let rescue = Rescue::of(&folder)?;
        let report = rescue.found.report();
        if report.is_sound() {
            return Ok(Repaired { report, kept: None });
        }
        let new = folder::beside(dir, ".repairing");
        let io = |source| RepairError::Io {
            path: new.clone(),
            source,
        };
        folder::remove(&new).map_err(io)?;
        rescue.write_to(&new)?;
        check(&new)?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let kept = folder::beside(
            dir,
            &format!(".damaged-{}", since_epoch.unwrap_or_default().as_secs()),
        );
        // The exchange is one step: at no moment is there no store, which a broker would take for its first start. The
        // name is given before, so that the damaged folder never has one that a later repair would remove.
        fs::rename(&new, &kept).map_err(io)?;
        renameat_with(CWD, dir, CWD, &kept, RenameFlags::EXCHANGE).map_err(|error| RepairError::Io {
            path: kept.clone(),
            source: error.into(),
        })?;
        folder::sync_parent(dir).map_err(io)?;
        Ok(Repaired {
            report,
            kept: Some(kept),
        })
    }
}

/// What was read of a folder, in a copy that goes when this is dropped.
pub(crate) struct Rescue {
    pub(crate) found: Found,
    /// Drops in front of the files it uses.
    pub(crate) flushed: Flushed,
    _scratch: Scratch,
}

impl Rescue {
    fn of(folder: &Folder) -> Result<Rescue, RepairError> {
        let in_folder = |trouble: Trouble| RepairError::Open(trouble.in_folder(folder.path()));
        let mut damage = Vec::new();
        let marked = match Mark::open(folder.path()).map_err(|e| in_folder(e.into()))? {
            Some((_, marked)) => marked,
            None => {
                damage.push(Damage::MarkMissing);
                Marked::default()
            }
        };
        let is_new = damage.is_empty() && marked.sequence == 0;
        let has_journals = folder.format() == FORMAT_WITH_JOURNALS;
        if !is_new {
            let found = match has_journals {
                true => inspect_journals(folder, marked).map(drop),
                false => manifest::check(&folder.fjall(), folder.trees()),
            };
            noted(found, &mut damage).map_err(in_folder)?;
        }
        let scratch = Scratch::of(folder)?;
        let beyond = |reason: String| RepairError::Beyond {
            folder: folder.path().to_owned(),
            reason,
        };
        let fjall = scratch.0.join("fjall");
        if !is_new {
            manifest::rebuild(&fjall, folder.trees()).map_err(|trouble| match trouble {
                Trouble::Damage(damage) => beyond(damage.to_string()),
                other => in_folder(other),
            })?;
        }
        let rescued = match has_journals {
            true => journal::rescue(&fjall).map_err(|e| in_folder(e.into()))?,
            false => {
                empty_journals(&fjall).map_err(|e| in_folder(e.into()))?;
                Rescued::default()
            }
        };
        let (database, keyspaces) =
            database(&fjall, &Options::default()).map_err(|error| beyond(error.to_string()))?;

        let mut batches_lost = rescued.gaps;
        if let Some(first) = &rescued.first {
            let state = &keyspaces[Table::State as usize];
            let continues = recovery::check_continues(state, first);
            if let Err(Trouble::Damage(Damage::BatchesMissing { after, before })) = &continues {
                batches_lost += before.saturating_sub(*after).saturating_sub(1);
            }
            noted(continues, &mut damage).map_err(in_folder)?;
        }
        let options = Options::default();
        let kept = Kept::new(folder.wal(), options.kept_min_bytes);
        let keyspace = &keyspaces[Table::Kept as usize];
        let (first, last) = keys::all();
        scan(keyspace, Table::Kept, &first, &last, &mut damage, |key, value| {
            kept.keep(key.into(), Extent::decode(value)?);
            Some(())
        })?;
        let flushed = Flushed {
            database,
            keyspaces,
            kept: Arc::new(kept),
            folder: scratch.0.clone(),
            options,
            flushed_bytes: AtomicU64::new(0),
        };
        if !has_journals && !is_new {
            batches_lost += replay(folder, &flushed, marked, &mut damage).map_err(in_folder)?;
        }
        noted(recovery::recover(&flushed), &mut damage).map_err(in_folder)?;
        let mut found = examine(&flushed)?;
        let synced = marked.sequence.max(rescued.synced);
        batches_lost += synced.saturating_sub(found.progress.sequence);
        found.batches_lost = batches_lost;
        for further in std::mem::replace(&mut found.damage, damage) {
            note(&mut found.damage, further);
        }
        Ok(Rescue {
            found,
            flushed,
            _scratch: scratch,
        })
    }

    /// Writes what was found to a new store.
    fn write_to(mut self, path: &Path) -> Result<(), RepairError> {
        let (new, _) = Store::open(path, Options::default())?;
        self.found.complete();
        self.rewrite(&new)?;
        new.sync()?;
        Ok(new.flush()?)
    }
}

/// Brings to the tables of a copy whatever batches the log holds, also behind damage. Returns how many are missing between.
fn replay(folder: &Folder, copy: &Flushed, marked: Marked, damage: &mut Vec<Damage>) -> Result<u64, Trouble> {
    let mut reader = match recovery::progress(&copy.keyspaces) {
        Ok(Progress { block, sequence, .. }) => {
            wal::Reader::new(&folder.wal(), wal::SEGMENT, Place { block, sequence })
        }
        // It is noted when all is read.
        Err(Trouble::Damage(_)) => wal::Reader::from_oldest(&folder.wal(), wal::SEGMENT)?,
        Err(other) => return Err(other),
    };
    let mut memtable = Memtable::default();
    let mut missing = 0;
    let mut is_looked_at = false;
    loop {
        match reader.next() {
            Ok(Some(mut changes)) => {
                memtable.take(&mut changes);
                continue;
            }
            Ok(None) if !is_looked_at => {
                is_looked_at = true;
                noted(inspect_end(&mut reader, marked), damage)?;
            }
            Ok(None) => {}
            undecodable => {
                noted(undecodable, damage)?;
                missing += 1;
                continue;
            }
        }
        match reader.skip()? {
            Some(skipped) => missing += skipped,
            None => break,
        }
    }
    // None of it is kept.
    copy.flush(&memtable, u64::MAX, || true)?;
    Ok(missing)
}

/// Notes damage and goes on; other trouble ends the work.
fn noted<T>(result: Result<T, Trouble>, damage: &mut Vec<Damage>) -> Result<(), Trouble> {
    match result {
        Ok(_) => Ok(()),
        Err(Trouble::Damage(found)) => {
            note(damage, found);
            Ok(())
        }
        Err(other) => Err(other),
    }
}

/// A repaired store is one that the broker takes, and that has everything it names.
fn check(path: &Path) -> Result<(), RepairError> {
    let (store, restored) = Store::open(path, Options::default())?;
    Broker::restore(restored).map_err(RepairError::Definitions)?;
    let report = store.verify()?;
    if let Some(queue) = report.queues.iter().find(|queue| queue.lost_count() > 0) {
        let problem = format!("the repaired queue number {} is not whole", queue.queue.0);
        return Err(StoreError::Read(problem).into());
    }
    Ok(())
}

/// A copy of fjall's folder to read in, because fjall changes what it opens.
struct Scratch(PathBuf);

impl Scratch {
    fn of(folder: &Folder) -> Result<Scratch, RepairError> {
        let path = folder::beside(folder.path(), ".examining");
        let io = |source| RepairError::Io {
            path: path.clone(),
            source,
        };
        folder::remove(&path).map_err(io)?;
        fs::create_dir(&path).map_err(io)?;
        let scratch = Scratch(path.clone());
        if folder.fjall().exists() {
            folder::copy(&folder.fjall(), &path.join("fjall"), true).map_err(io)?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = folder::remove(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary copy could not be removed");
        }
    }
}
