//! How a store is opened.

use pointsman_core::limits::CHUNK_TARGET;

use crate::faults::Faults;

/// How a store is opened. The defaults are for a broker that has the machine to itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes written to the log before what is left of them goes to tables. Twice as many are there while that is done.
    pub wal_bytes: u64,
    /// Bytes kept in memory before they go to tables. Three times as many are there while that is done.
    pub memtable_bytes: u64,
    /// Bytes of table blocks kept in memory.
    pub cache_bytes: u64,
    /// How many times the bytes of unsettled messages the log may take on disk, once reclaim has caught up and beside
    /// [`Options::reclaim_slack_bytes`]; more than 1. The lower, the more often a message that outlives those around
    /// it is written again.
    pub space_amplification: f64,
    /// Bytes of dead messages and old values that are never worth the work: a few tables' worth, so that a broker whose
    /// queues are short is left in peace.
    pub reclaim_slack_bytes: u64,
    /// Length of a part of a chunk, in bytes, from which on it stays in the write-ahead log rather than going to a table, if
    /// such parts are most of what the log took. By default a quarter of a full chunk: messages that come one or a few at a time
    /// lie closer in tables, and for those that come in batches writing them once more is what costs most of the disk.
    pub kept_min_bytes: usize,
    /// Where faults are injected; by default nowhere.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            wal_bytes: 64 * 1024 * 1024,
            memtable_bytes: 16 * 1024 * 1024,
            cache_bytes: 8 * 1024 * 1024,
            space_amplification: 2.0,
            reclaim_slack_bytes: 64 * 1024 * 1024,
            kept_min_bytes: CHUNK_TARGET / 4,
            faults: Faults::default(),
        }
    }
}
