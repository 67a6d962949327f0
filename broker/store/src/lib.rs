//! Durable records of the core on fjall: log, index, recovery, the commit thread.
//!
//! A [`Store`] is one folder. [`Store::apply`] makes the records of several commits durable as one atomic batch in the
//! write-ahead log, from where a thread of the store brings to fjall's tables what is still there of it some time later;
//! [`Committer`] is the thread that does so for everything that queued up meanwhile; [`Reader`] is the thread that
//! reads back what the core no longer has in memory; [`Reclaimer`] is the thread that gives back what settled messages
//! took.
//!
//! # On disk
//!
//! One fjall database with seven keyspaces. Keys are big-endian and start with the shard; values start with the
//! version of their format.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `log` | lane, base, part | a chunk, in parts of at most 1 MiB |
//! | `index` | queue, last position | an index entry |
//! | `ack` | queue, block | a roaring bitmap of settled positions |
//! | `state` | kind, id | progress, queues, what is left of chunks, attempts, identities, queues being removed, delayed |
//! | `meta` | kind, id | definitions and modules |
//! | `due` | deadline, queue, kind, number | messages that enter or leave the queue then |
//! | `kept` | as in `log` | where in the write-ahead log a large part of a chunk stays, which is not in `log` then |
//!
//! Beside it lie `wal/` (the write-ahead log, with every batch that is not in tables yet, and kept parts of chunks), `FORMAT` (what the folder is),
//! `LOCK` (who holds it) and `mark` (how far it was synced, outside of the log, so that a store which lost its end is
//! noticed).

#![forbid(unsafe_code)]

// Along the data path: open a folder, stage records, write them as one batch, bring it to tables, read back, give back.
mod folder;
mod mark;
mod manifest;
mod journal;
mod open;
mod recovery;
mod committer;
mod syncer;
mod store;
mod stage;
mod staged;
mod live;
mod wal;
mod memtable;
mod kept;
mod tables;
mod keys;
mod values;
mod due;
mod reader;
mod reclaimer;
mod reclaim;
mod salvage;
mod examine;
mod verify;
mod repair;
mod rewrite;
mod backup;
mod figures;
mod faults;
mod options;
mod error;

pub use backup::{BackupError, Copied};
pub use committer::{Committer, Done};
pub use error::{Damage, OpenError, StoreError};
pub use faults::{Faults, Held, Site};
pub use options::Options;
pub use reader::{ReadDone, Reader};
pub use reclaimer::Reclaimer;
pub use repair::{RepairError, Repaired};
pub use store::Store;
pub use verify::{QueueReport, Report};
