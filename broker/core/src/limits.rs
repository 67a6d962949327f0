//! Every bound of the broker, with its unit. Each is enforced with an error that names it.

use pointsman_protocol::Fsync;

/// Most vhosts.
pub const VHOSTS_MAX: usize = 1_000;
/// Most exchanges over all vhosts.
pub const EXCHANGES_MAX: usize = 100_000;
/// Most queues over all vhosts.
pub const QUEUES_MAX: usize = 200_000;
/// Most bindings over all vhosts.
pub const BINDINGS_MAX: usize = 1_000_000;
/// Most routers over all vhosts.
pub const ROUTERS_MAX: usize = 10_000;
/// Most versions a router keeps; unload old ones to load more.
pub const ROUTER_VERSIONS_MAX: usize = 64;
/// Largest configuration of a router version, in bytes; it travels in a frame's metadata.
pub const ROUTER_CONFIG_MAX: usize = 192 * 1024;
/// Most consumers of one queue.
pub const QUEUE_CONSUMERS_MAX: usize = 10_000;

/// Most publisher identities whose last sequence number is remembered; the one unused for longest goes first.
pub const IDENTITIES_MAX: usize = 100_000;
/// How many of an identity's last sequence numbers keep an outcome other than `Routed`.
pub const IDENTITY_OUTCOMES_MAX: usize = 1_024;

/// Length at which a chunk is closed, in bytes; a larger message stands alone in its chunk.
pub const CHUNK_TARGET: usize = 128 * 1024;
/// Length of metadata and body from which a body is kept as it was received instead of copied into a chunk, in bytes. Its
/// buffer stays as long as it does, with what little was received together with it.
pub const LARGE_MESSAGE: usize = 1024 * 1024;
/// Most messages of a chunk.
pub const CHUNK_MESSAGES_MAX: u32 = 65_535;

/// Runs of index entries a queue keeps in memory at its head and at its tail, each.
pub const QUEUE_PAGE_RUNS: usize = 1_024;
/// Bytes of chunks the core keeps in memory for delivery, over all queues.
pub const CHUNK_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of messages in transient queues, over all of them; publishes to them are refused beyond.
pub const MEMORY_LANE_BYTES: usize = 512 * 1024 * 1024;
/// Most deliveries one turn of a queue hands out before others have theirs; no less than a busy turn takes in, or a queue
/// grows though its consumers could keep up.
pub const DELIVERIES_PER_TURN: usize = 16 * 1_024;

/// Most bytes a publisher's stream may have unconfirmed, unless it is a single message. A quarter of what may be on its way
/// to a consumer, so that a publisher does not run away from one that keeps up: messages that are settled before the
/// store's memtable is written cost half the disk.
pub const PUBLISHER_WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// Largest weight of a binding of a consistent-hash exchange.
pub const HASH_WEIGHT_MAX: u32 = 10_000;
/// Chunks a queue asks for ahead of the one it waits for.
pub const CHUNKS_AHEAD: usize = 8;
/// Runs of index entries a reader of a stream keeps in memory while it is behind, and retention at the head.
pub const STREAM_PAGE_RUNS: usize = 128;
/// Chunks a reader of a stream asks for ahead of the one it waits for; less than a queue does, as there may be many.
pub const STREAM_CHUNKS_AHEAD: usize = 4;
/// How long a stream keeps messages at most beyond their age, in milliseconds, so that old ones go together.
pub const RETENTION_STEP_MS: u64 = 1_000;
/// Index runs a purge, retention or the deletion of a queue works off in one turn, and runs of due entries.
pub const PURGE_RUNS_PER_TURN: usize = 16 * 1_024;
/// Runs of due entries of durable queues that are kept in memory, the nearest ones.
pub const DUE_PAGE_RUNS: usize = 16 * 1_024;
/// Most runs of due entries of transient queues, over all of them; their publishes are refused beyond. A run is of
/// messages in a row with the same deadline.
pub const DUE_MEMORY_RUNS: usize = 256 * 1_024;

/// The bounds that say how much of the queues is in memory and how long a turn is. Tests make them tiny, so that a
/// few messages reach every path; everyone else takes the default.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// As [`QUEUE_PAGE_RUNS`].
    pub page_runs: usize,
    /// As [`CHUNK_CACHE_BYTES`].
    pub cache_bytes: usize,
    /// As [`MEMORY_LANE_BYTES`].
    pub memory_bytes: usize,
    /// As [`DELIVERIES_PER_TURN`].
    pub deliveries_per_turn: usize,
    /// As [`PURGE_RUNS_PER_TURN`].
    pub purge_runs_per_turn: usize,
    /// As [`DUE_PAGE_RUNS`].
    pub due_page_runs: usize,
    /// As [`DUE_MEMORY_RUNS`].
    pub due_memory_runs: usize,
    /// What a confirm promises of queues that have no setting of their own.
    pub fsync: Fsync,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            page_runs: QUEUE_PAGE_RUNS,
            cache_bytes: CHUNK_CACHE_BYTES,
            memory_bytes: MEMORY_LANE_BYTES,
            deliveries_per_turn: DELIVERIES_PER_TURN,
            purge_runs_per_turn: PURGE_RUNS_PER_TURN,
            due_page_runs: DUE_PAGE_RUNS,
            due_memory_runs: DUE_MEMORY_RUNS,
            fsync: Fsync::Always,
        }
    }
}
