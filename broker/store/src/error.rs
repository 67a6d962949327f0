//! What can go wrong with a store, sorted by whose fault it is.

use std::io;
use std::path::PathBuf;

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
    #[error("the data folder {} is damaged: {damage}; nothing was changed", folder.display())]
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
    /// A value does not decode.
    #[error("a value in keyspace `{keyspace}` does not decode (key {key})")]
    Value {
        /// The keyspace.
        keyspace: &'static str,
        /// The key, in hexadecimal.
        key: String,
    },
}
