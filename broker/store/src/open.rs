//! Opening a folder: look before fjall touches anything, open, recover, compare.

use std::path::Path;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, KeyspaceCreateOptions};
use pointsman_core::Restored;

use crate::error::{Damage, OpenError, Trouble};
use crate::folder::Folder;
use crate::journal::{self, Journals};
use crate::mark::{Mark, Marked};
use crate::memtables::Memtables;
use crate::options::Options;
use crate::recovery::{self, Recovered};
use crate::staged::{Keyspaces, Table};
use crate::store::Store;
use crate::{manifest, store};

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
        open(folder, options).map_err(|trouble| trouble.in_folder(dir))
    }
}

/// Threads that flush and compact. With two or more, fjall's first one takes compactions only to queue them again, so
/// it spins for as long as another compacts: more than a third of the broker's time under load on two cores.
const BACKGROUND_THREADS: usize = 1;

fn open(folder: Folder, options: Options) -> Result<(Store, Restored), Trouble> {
    let (mark, marked) = Mark::open(folder.path())?.ok_or(Damage::MarkMissing)?;
    // The first batch is written and synced before a new store is used, so that only one nobody used has none.
    let is_new = marked.sequence == 0;
    let journals = if is_new {
        remove_unfinished(&folder)?;
        Journals::default()
    } else {
        look(&folder, marked)?
    };
    let (database, keyspaces) = database(&folder.fjall(), &options)?;
    let recovered = recovery::recover(&keyspaces)?;
    if !is_new {
        compare(&keyspaces, &recovered, &journals, marked)?;
    }
    let restored = recovered.restored;
    let memtables = Memtables::hold(&keyspaces)?;
    let parts = store::Parts {
        folder,
        options,
        database,
        keyspaces,
        mark,
        memtables,
        progress: recovered.progress,
        gone: recovered.gone,
    };
    let store = Store::of(parts).map_err(Trouble::from)?;
    Ok((store, restored))
}

/// What a first start left that got no further. Nothing in it was ever promised to anybody.
fn remove_unfinished(folder: &Folder) -> Result<(), Trouble> {
    match std::fs::remove_dir_all(folder.fjall()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Compares the files with the mark, and cuts off the end of a write that a crash interrupted.
fn look(folder: &Folder, marked: Marked) -> Result<Journals, Trouble> {
    let journals = inspect(folder, marked)?;
    if let Some(torn) = &journals.torn {
        tracing::info!(file = %torn.file.display(), at = torn.at, "cutting off a write that was interrupted");
        torn.cut()?;
    }
    Ok(journals)
}

/// Compares the files with the mark; changes nothing.
pub(crate) fn inspect(folder: &Folder, marked: Marked) -> Result<Journals, Trouble> {
    manifest::check(&folder.fjall())?;
    let journals = journal::look(&folder.fjall())?;
    if let Some((first, last)) = marked.journals {
        for number in first..=last {
            if journals
                .files
                .is_none_or(|(first, last)| !(first..=last).contains(&number))
            {
                let name = format!("{number}.jnl");
                return Err(Damage::JournalMissing { name }.into());
            }
        }
    }
    if journals.files.is_none() {
        let name = "0.jnl".to_owned();
        return Err(Damage::JournalMissing { name }.into());
    }
    let synced = marked.sequence.max(journals.synced);
    if let Some(found) = journals.last
        && found < synced
    {
        return Err(Damage::Lost { synced, found }.into());
    }
    if let Some(torn) = &journals.torn {
        let damaged_synced = torn
            .behind
            .is_some_and(|behind| behind <= synced.saturating_add(1));
        if damaged_synced || marked.journals.is_some() {
            let name = torn.name();
            return Err(Damage::Journal { name, at: torn.at }.into());
        }
    }
    Ok(journals)
}

/// Compares what fjall gave back with what was looked at before.
fn compare(
    keyspaces: &Keyspaces,
    recovered: &Recovered,
    journals: &Journals,
    marked: Marked,
) -> Result<(), Trouble> {
    if let Some(first) = &journals.first {
        recovery::check_continues(&keyspaces[Table::State as usize], first)?;
    }
    let found = recovered.progress.sequence;
    let synced = marked.sequence.max(journals.last.unwrap_or(0));
    if found < synced {
        return Err(Damage::Lost { synced, found }.into());
    }
    Ok(())
}

/// Opens fjall's folder, or makes it.
pub(crate) fn database(path: &Path, options: &Options) -> fjall::Result<(Database, Keyspaces)> {
    let database = Database::builder(path)
        .worker_threads(BACKGROUND_THREADS)
        .max_journaling_size(options.journal_bytes)
        .journal_compression(CompressionType::None)
        .cache_size(options.cache_bytes)
        .open()?;
    let open = |table: Table| database.keyspace(table.name(), || keyspace_options(table, options));
    let keyspaces = [
        open(Table::Log)?,
        open(Table::Index)?,
        open(Table::Ack)?,
        open(Table::State)?,
        open(Table::Meta)?,
        open(Table::Due)?,
    ];
    Ok((database, keyspaces))
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
        .data_block_compression_policy(CompressionPolicy::disabled())
}
