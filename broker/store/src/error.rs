//! What can go wrong with a store, sorted by whose fault it is.

use std::io;
use std::path::{Path, PathBuf};

use pointsman_core::{Lane, Offset, Position, QueueId};

/// Why a folder was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data folder {} is in use by process {holder}", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process id as the holder wrote it, or `unknown`.
        holder: String,
    },
    /// Something else lies in it.
    #[error("{} is not empty and not a data folder of pointsman; nothing in it was touched", .0.display())]
    Foreign(PathBuf),
    /// A later version of this program wrote it.
    #[error(
        "the data folder {} has format {found}; this version reads up to format {}", folder.display(),
        crate::folder::FORMAT
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its contents are not what was written.
    #[error("the data folder {} is damaged: {damage}", folder.display())]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and what it affects.
        damage: Damage,
    },
    /// The system did not let us.
    #[error("the data folder {} could not be opened: {source}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// fjall did not open, for a reason of its own.
    #[error("the data folder {} could not be opened: {source}", folder.display())]
    Fjall {
        /// The folder.
        folder: PathBuf,
        /// What fjall said.
        source: fjall::Error,
    },
}

impl OpenError {
    /// Whether there was no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        let source = match self {
            OpenError::Io { source, .. } => Some(source),
            OpenError::Fjall { source, .. } => io_error(source),
            _ => None,
        };
        source.is_some_and(|source| source.kind() == io::ErrorKind::StorageFull)
    }
}

/// What the system said, if that is why fjall failed.
pub(crate) fn io_error(error: &fjall::Error) -> Option<&io::Error> {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Some(error),
        _ => None,
    }
}

/// Why reading or writing failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk has no room. What was not confirmed is not stored.
    #[error("the disk of the data folder is full")]
    DiskFull,
    /// A write failed.
    #[error("writing to the data folder failed: {0}")]
    Write(String),
    /// A sync failed: what was written since the last sync may or may not be on disk.
    #[error("syncing the data folder failed: {0}")]
    Sync(String),
    /// A read failed.
    #[error("reading from the data folder failed: {0}")]
    Read(String),
    /// An earlier write or sync failed, and nothing is written any more.
    #[error("the store stopped writing after an earlier failure: {0}")]
    Stopped(String),
    /// The bytes read are not the bytes written.
    #[error("the data folder is damaged: {0}")]
    Damaged(#[from] Damage),
    /// Every message of the chunk was settled while it was about to be read, so nobody needs it.
    #[error("the chunk at offset {} of the {lane:?} lane was settled before it was read", base.0)]
    Settled {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
    },
}

/// What is wrong with the contents, and what it affects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A chunk is not there.
    #[error("the chunk at offset {} of the {lane:?} lane is missing: its messages are lost", base.0)]
    ChunkMissing {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
    },
    /// A chunk's bytes changed.
    #[error("the chunk at offset {} of the {lane:?} lane fails its check ({what})", base.0)]
    Chunk {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
        /// What does not fit.
        what: &'static str,
    },
    /// An index entry does not decode.
    #[error("the index entry of queue {} that ends at position {} does not decode", queue.0, last.0)]
    Index {
        /// The queue.
        queue: QueueId,
        /// The position in its key.
        last: Position,
    },
    /// A queue's index goes further than its state.
    #[error(
        "queue {} has messages up to position {} but its state ends at {}: its newest state is lost",
        queue.0, last.0, tail.0
    )]
    QueueBehindIndex {
        /// The queue.
        queue: QueueId,
        /// The last position of its index.
        last: Position,
        /// The tail in its state.
        tail: Position,
    },
    /// The log goes further than its high-water mark.
    #[error("the {lane:?} lane has messages up to offset {} but its high-water mark is {}", last.0, mark.0)]
    LogBeyondMark {
        /// The lane.
        lane: Lane,
        /// The last offset.
        last: Offset,
        /// The mark.
        mark: Offset,
    },
    /// The mark is not there or not whole.
    #[error("the file `mark` is missing or damaged, so that nothing says how much was stored")]
    MarkMissing,
    /// Synced batches are gone.
    #[error(
        "of {synced} synced batches only {found} are left: what was confirmed in the last {} is lost",
        synced.saturating_sub(*found)
    )]
    Lost {
        /// Number of the last batch that was synced for certain.
        synced: u64,
        /// Number of the last batch that is there.
        found: u64,
    },
    /// A batch in the write-ahead log is not what was written.
    #[error(
        "the write-ahead log is damaged at byte {at} of wal/{segment}.wal: what was confirmed from there on is lost"
    )]
    Wal {
        /// The number of the segment.
        segment: u64,
        /// Where in it the batch begins.
        at: u64,
    },
    /// A segment of the write-ahead log in which messages lie is gone.
    #[error("wal/{segment}.wal is missing: the messages that lie in it are lost")]
    SegmentMissing {
        /// Its number.
        segment: u64,
    },
    /// A journal is gone.
    #[error("the journal fjall/{name} is missing: what was confirmed while it was written may be lost")]
    JournalMissing {
        /// Its name.
        name: String,
    },
    /// Batches between the tables and the journals are gone.
    #[error(
        "the batches between {after} and {before} are missing: a journal was removed before it was in a table"
    )]
    BatchesMissing {
        /// The last batch in front of the gap.
        after: u64,
        /// The first batch behind it.
        before: u64,
    },
    /// A journal does not decode in front of its end.
    #[error("the journal fjall/{name} is damaged at byte {at}: what it holds from there on is lost")]
    Journal {
        /// Its name.
        name: String,
        /// The first byte that does not belong to a whole batch in order.
        at: u64,
    },
    /// A file of fjall is gone.
    #[error("the file fjall/{name} is missing")]
    FileMissing {
        /// Its name.
        name: String,
    },
    /// A file of fjall is not what was written.
    #[error("the file fjall/{name} fails its check")]
    File {
        /// Its name.
        name: String,
    },
    /// A block of a table is not what was written.
    #[error("a table of keyspace `{keyspace}` fails its check: some of what it holds is lost")]
    Table {
        /// The keyspace.
        keyspace: &'static str,
    },
    /// A module is gone.
    #[error("the module {digest} is missing or damaged: router versions that use it cannot be loaded")]
    Module {
        /// Its SHA-256, in hexadecimal.
        digest: String,
    },
    /// A value does not decode.
    #[error("a value in keyspace `{keyspace}` does not decode (key {key})")]
    Value {
        /// The keyspace.
        keyspace: &'static str,
        /// The key, in hexadecimal.
        key: String,
    },
}

/// Why a folder does not open, before it is said of which folder.
#[derive(Debug)]
pub(crate) enum Trouble {
    Damage(Damage),
    Io(io::Error),
    Fjall(fjall::Error),
}

impl Trouble {
    pub(crate) fn in_folder(self, folder: &Path) -> OpenError {
        let folder = folder.to_owned();
        match self {
            Trouble::Damage(damage) => OpenError::Damaged { folder, damage },
            Trouble::Io(source) => OpenError::Io { folder, source },
            Trouble::Fjall(source) => OpenError::Fjall { folder, source },
        }
    }
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Damage(damage)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<fjall::Error> for Trouble {
    fn from(error: fjall::Error) -> Trouble {
        Trouble::Fjall(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        match error {
            StoreError::Damaged(damage) => Trouble::Damage(damage),
            StoreError::DiskFull => Trouble::Io(io::ErrorKind::StorageFull.into()),
            other => Trouble::Io(io::Error::other(other)),
        }
    }
}
