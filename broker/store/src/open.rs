//! Opening a folder: look before fjall touches anything, open, recover, compare.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, FilterPolicy};
use fjall::{CompressionType, Database, KeyspaceCreateOptions};
use pointsman_core::Restored;

use crate::error::{Damage, OpenError, Trouble};
use crate::folder::{self, FORMAT, FORMAT_WITH_JOURNALS, Folder};
use crate::journal::{self, Journals};
use crate::kept::Kept;
use crate::mark::{Mark, Marked};
use crate::memtable::Memtable;
use crate::options::Options;
use crate::staged::{Keyspaces, Table};
use crate::store::Store;
use crate::tables::Flushed;
use crate::wal::{self, Behind, Place, Wal};
use crate::{manifest, recovery, store};

impl Store {
    /// Opens the folder, or makes it, and returns what `Broker::restore` needs.
    ///
    /// Takes time in proportion to definitions, queues and the write-ahead log, not to messages.
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

/// Runs of tables in a keyspace that are merged where that rewrites all of it: fewer merge more often, more make each read
/// look into more.
const MERGED_AT_RUNS: u8 = 8;

fn open(mut folder: Folder, options: Options) -> Result<(Store, Restored), Trouble> {
    let (mark, marked) = Mark::open(folder.path())?.ok_or(Damage::MarkMissing)?;
    // The first batch is written and synced before a new store is used, so that only one nobody used has none.
    let is_new = marked.sequence == 0;
    if is_new {
        remove_unfinished(&folder)?;
    } else if folder.format() == FORMAT_WITH_JOURNALS {
        upgrade(&mut folder, marked, &options)?;
    } else {
        manifest::check(&folder.fjall(), folder.trees())?;
        empty_journals(&folder.fjall())?;
    }
    let (database, keyspaces) = database(&folder.fjall(), &options)?;
    if folder.format() != FORMAT {
        // It has one keyspace more now.
        folder.upgrade()?;
    }
    let kept = Kept::load(
        folder.wal(),
        options.kept_min_bytes,
        &keyspaces[Table::Kept as usize],
    )?;
    let flushed = Flushed {
        database,
        keyspaces,
        kept: Arc::new(kept),
        folder: folder.path().to_owned(),
        options: options.clone(),
        flushed_bytes: AtomicU64::new(0),
    };
    let begin = recovery::progress(&flushed.keyspaces)?.block;
    let (end, stale) = replay(&folder, &flushed, marked)?;
    let kept = flushed.kept.segments();
    for &segment in &kept {
        if !wal::segment_path(&folder.wal(), segment).exists() {
            return Err(Damage::SegmentMissing { segment }.into());
        }
    }
    let wal = Wal::open(&folder.wal(), wal::SEGMENT, begin, end.block, &stale, kept)?;
    let recovered = recovery::recover(&flushed)?;
    let restored = recovered.restored;
    let parts = store::Parts {
        folder,
        options,
        flushed,
        wal,
        mark,
        progress: recovered.progress,
        gone: recovered.gone,
    };
    let store = Store::of(parts).map_err(Trouble::from)?;
    Ok((store, restored))
}

/// Brings to tables what the log holds and they do not. Returns where the log ends, and the blocks behind that.
fn replay(folder: &Folder, flushed: &Flushed, marked: Marked) -> Result<(Place, Vec<u64>), Trouble> {
    let progress = recovery::progress(&flushed.keyspaces)?;
    let from = Place {
        block: progress.block,
        sequence: progress.sequence,
    };
    let mut reader = wal::Reader::new(&folder.wal(), wal::SEGMENT, from);
    let mut memtable = Memtable::default();
    while let Some(mut changes) = reader.next()? {
        memtable.take(&mut changes);
    }
    let behind = inspect_end(&mut reader, marked)?;
    let log_bytes = (reader.at.block - progress.block) * wal::BLOCK as u64;
    flushed.flush(&memtable, log_bytes, || true)?;
    Ok((reader.at, behind.blocks))
}

/// Looks at what lies behind the last batch that was read: the end of a write that a crash interrupted, or more than that.
pub(crate) fn inspect_end(reader: &mut wal::Reader, marked: Marked) -> Result<Behind, Trouble> {
    let found = reader.at.sequence;
    let behind = reader.behind()?;
    if behind.synced > found {
        return Err(reader.damage_at(reader.at.block).into());
    }
    if marked.sequence > found {
        let synced = marked.sequence;
        return Err(Damage::Lost { synced, found }.into());
    }
    Ok(behind)
}

/// fjall's journals hold nothing that is needed, so that no damage to them can matter. One has to be there: without any
/// fjall 3.1 numbers what it writes from 0 again, below what is in its tables.
pub(crate) fn empty_journals(fjall: &Path) -> io::Result<()> {
    let numbers = journal::list(fjall)?;
    let last = numbers.last().copied().unwrap_or_default();
    for number in numbers {
        std::fs::remove_file(fjall.join(format!("{number}.jnl")))?;
    }
    std::fs::File::create(fjall.join(format!("{last}.jnl"))).map(drop)
}

/// Makes a store of format 1 one of this format: looks at fjall's journals, and has all they hold moved to tables.
fn upgrade(folder: &mut Folder, marked: Marked, options: &Options) -> Result<(), Trouble> {
    let journals = look(folder, marked)?;
    let (database, keyspaces) = database(&folder.fjall(), options)?;
    compare(&keyspaces, &journals, marked)?;
    // fjall waits for ever for a table that there is no room for.
    if folder::free_space(folder.path())? < database.journal_disk_space()? {
        return Err(io::Error::from(io::ErrorKind::StorageFull).into());
    }
    for keyspace in &keyspaces {
        keyspace.rotate_memtable_and_wait()?;
    }
    Ok(folder.upgrade()?)
}

/// What a first start left that got no further. Nothing in it was ever promised to anybody.
fn remove_unfinished(folder: &Folder) -> Result<(), Trouble> {
    folder::remove(&folder.wal())?;
    Ok(folder::remove(&folder.fjall())?)
}

/// Compares the files with the mark, and cuts off the end of a write that a crash interrupted.
fn look(folder: &Folder, marked: Marked) -> Result<Journals, Trouble> {
    let journals = inspect_journals(folder, marked)?;
    if let Some(torn) = &journals.torn {
        tracing::info!(file = %torn.file.display(), at = torn.at, "cutting off a write that was interrupted");
        torn.cut()?;
    }
    Ok(journals)
}

/// Compares the files of format 1 with the mark; changes nothing.
pub(crate) fn inspect_journals(folder: &Folder, marked: Marked) -> Result<Journals, Trouble> {
    manifest::check(&folder.fjall(), folder.trees())?;
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
fn compare(keyspaces: &Keyspaces, journals: &Journals, marked: Marked) -> Result<(), Trouble> {
    if let Some(first) = &journals.first {
        recovery::check_continues(&keyspaces[Table::State as usize], first)?;
    }
    let found = recovery::progress(keyspaces)?.sequence;
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
        .journal_compression(CompressionType::None)
        .cache_size(options.cache_bytes)
        .open()?;
    let open = |table: Table| database.keyspace(table.name(), || keyspace_options(table));
    let keyspaces = [
        open(Table::Log)?,
        open(Table::Index)?,
        open(Table::Ack)?,
        open(Table::State)?,
        open(Table::Meta)?,
        open(Table::Due)?,
        open(Table::Kept)?,
    ];
    Ok((database, keyspaces))
}

/// Chunks come and go in the order of their keys and are mostly read whole, so that neither compression nor
/// separating values from keys gains anything. What is only read in ranges needs no filters.
fn keyspace_options(table: Table) -> KeyspaceCreateOptions {
    let options =
        KeyspaceCreateOptions::default().data_block_compression_policy(CompressionPolicy::disabled());
    match table {
        Table::Log | Table::Meta | Table::Kept => options,
        Table::State => options.compaction_strategy(Arc::new(few_merges())),
        Table::Index | Table::Ack | Table::Due => options
            .compaction_strategy(Arc::new(few_merges()))
            .filter_policy(FilterPolicy::disabled()),
    }
}

/// For keys of all queues, which lie all over: each merge of what flushes left rewrites the whole keyspace. A store that was
/// made before keeps fjall's four.
fn few_merges() -> Leveled {
    Leveled::default().with_l0_threshold(MERGED_AT_RUNS)
}
