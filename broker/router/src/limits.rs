//! Bounds on modules, with their units. An operator may change them; each is enforced with an error that names it.

use std::time::Duration;

/// What a module may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleLimits {
    /// Largest module, in bytes.
    pub module_size: usize,
    /// CPU time of compiling one module.
    pub compile_time: Duration,
    /// Address space of compiling one module, in bytes.
    pub compile_memory: u64,
    /// Time of one call of `route` or `configure`, by the clock, while other work may run in between.
    pub call_time: Duration,
    /// Linear memory of one instance, in bytes.
    pub memory: usize,
    /// Stack of one call, in bytes.
    pub stack: usize,
    /// Elements over all tables of one instance.
    pub table_elements: usize,
    /// Answer of one call, in bytes.
    pub output: usize,
    /// Instances over all modules.
    pub instances: u32,
    /// Remembered decisions over all modules, in bytes; with 0 none is remembered.
    pub remembered: usize,
}

impl Default for ModuleLimits {
    fn default() -> ModuleLimits {
        ModuleLimits {
            module_size: 32 * 1024 * 1024,
            compile_time: Duration::from_secs(60),
            compile_memory: 2 * 1024 * 1024 * 1024,
            call_time: Duration::from_millis(50),
            memory: 64 * 1024 * 1024,
            stack: 512 * 1024,
            table_elements: 20_000,
            output: 8 * 1024 * 1024,
            instances: 256,
            remembered: 64 * 1024 * 1024,
        }
    }
}

/// Most messages of one call of `route`.
pub(crate) const BATCH_MAX: usize = 64;

/// Bytes of packed messages in one call of `route`, unless it is a single message.
pub(crate) const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How much of a body's beginning a module ever sees, in bytes, whatever its plan asks for. A body of that length and
/// the longest metadata fit one call together.
pub(crate) const BODY_SEEN_MAX: u32 = 1024 * 1024;

/// Most decisions that are remembered of one version for one exchange; a power of two.
pub(crate) const CACHE_ENTRIES: usize = 4_096;

/// Longest key of a remembered decision, in bytes: what the module sees of a message. One that sees more is asked.
pub(crate) const CACHE_KEY_MAX: usize = 256;

/// One in so many messages is decided by the module whether or not its decision is remembered. A prime, so that a rhythm
/// in the traffic does not hide a message from it.
pub(crate) const RECHECK_EVERY: u64 = 251;

/// Failures of a router version in a row after which it is left alone for a while.
pub(crate) const FAILURES_IN_A_ROW: u32 = 16;

/// How long a failing version is left alone at first; doubles with each further failure.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// How long a failing version is left alone at most.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Events kept for each router.
pub(crate) const EVENTS_KEPT: usize = 256;

/// Lines a module may log in one call; further ones are dropped.
pub(crate) const LINES_PER_CALL: usize = 16;

/// Longest text of an event, in bytes; longer ones are cut.
pub(crate) const EVENT_TEXT_MAX: usize = 1024;
