//! Reclaim: what dead messages take on disk is given back.
//!
//! Two things hold bytes that nobody needs. A chunk lives until its last message is settled, so that one message keeps a
//! thousand dead ones: such a chunk is *rewritten* in place, without the dead ones and with the numbers of the others
//! unchanged, so that nothing but the chunk itself is touched. And fjall keeps what was deleted or replaced until it merges
//! the tables it is in, which on its own it does only when more is written: it is told to *compact* the log.
//!
//! [`Options::space_amplification`] says how much of both is allowed. Half of that is for dead messages in chunks, the
//! other half for old values in tables. A queue that is consumed in order has at most one chunk that is partly dead, and
//! deletes the others whole, so that nothing of it is rewritten.
//!
//! A power loss leaves either form of a chunk with releases that fit it: what goes to a table is synced before, so that no
//! table with a rewritten chunk outlives the releases it rests upon.

use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use fjall::UserKey;
use pointsman_core::{Chunk, Lane, Offset};

use crate::error::StoreError;
use crate::faults::Site;
use crate::keys::{self, StateKind};
use crate::options::Options;
use crate::stage::stage_chunk;
use crate::staged::Table;
use crate::store::{Store, Writer, value_damage, write_failed};
use crate::values::{Left, Progress};

/// Bytes of chunks rewritten in one batch, roughly: about a millisecond of the writer's time.
const STEP_BYTES: u64 = 1024 * 1024;

/// Most chunks looked at for one batch.
const STEP_LOOKS: usize = 4_096;

/// While much is written fjall merges tables by itself, and a flushed table may hold little that still lives: only this
/// many times the slack is worth a compaction beside it.
const BUSY_SLACKS: u64 = 4;

/// Most bytes of tables that are compacted while much is written: fjall's one thread merges nothing of the log until the
/// compaction is over, so that it must not take longer than flushes may go on without that.
const BUSY_TABLES_MAX: u64 = 1024 * 1024 * 1024;

impl Options {
    /// Most dead bytes in chunks that hold so many live ones.
    pub(crate) fn dead_allowed(&self, live: u64) -> u64 {
        (live as f64 * (self.space_amplification - 1.0) / 2.0) as u64 + self.reclaim_slack_bytes / 2
    }

    /// Most bytes of tables for so many live ones.
    pub(crate) fn disk_allowed(&self, live: u64, slacks: u64) -> u64 {
        (live as f64 * self.space_amplification) as u64 + self.reclaim_slack_bytes * slacks
    }

    /// When as many bytes of chunks were removed, tables may hold too many old values.
    fn removed_allowed(&self, live: u64) -> u64 {
        (live as f64 * (self.space_amplification - 1.0) / 4.0) as u64 + self.reclaim_slack_bytes / 4
    }
}

/// What the writer and the reclaim thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// Bytes of chunks removed or replaced since the tables were looked at.
    pub(crate) removed_bytes: u64,
    /// Fewer dead bytes than this are not worth a sweep, because the last one could rewrite none of them.
    hopeless_bytes: u64,
    /// What failed here, until the next commit tells of it as its own failure.
    pub(crate) failed: Option<StoreError>,
    /// Whether the thread sleeps until there is something to do.
    pub(crate) waiting: bool,
    /// Whether the thread shall end.
    pub(crate) stop: bool,
}

impl Writer {
    /// Dead bytes in chunks beyond what is allowed.
    pub(crate) fn reclaim_debt(&self, options: &Options) -> u64 {
        let allowed = options.dead_allowed(self.progress.live_bytes());
        self.progress.dead_bytes.saturating_sub(allowed)
    }

    /// Whether there is something to rewrite, or tables to look at.
    pub(crate) fn wants_reclaim(&self, options: &Options) -> bool {
        let Progress {
            log_bytes,
            dead_bytes,
            ..
        } = self.progress;
        let removed = self.reclaim.removed_bytes;
        let drained = log_bytes == 0 && removed > 0;
        let rewritable = dead_bytes >= self.reclaim.hopeless_bytes && self.reclaim_debt(options) > 0;
        drained || rewritable || removed > options.removed_allowed(self.progress.live_bytes())
    }
}

impl Store {
    /// Does at once what [`crate::Reclaimer`] does little by little in the background.
    ///
    /// # Errors
    /// As [`Store::apply`], and when the log cannot be compacted.
    pub fn reclaim(&self) -> Result<(), StoreError> {
        let mut sweep = Sweep::default();
        while sweep.step(self)? {}
        if self.is_untidy(true) {
            self.flush()?;
            self.compact_log()?;
            self.let_go()?;
        }
        Ok(())
    }

    /// Replaces chunks by their sparse form, those of which anything is left. What is dead is decided under the writer,
    /// so that nothing is released meanwhile.
    fn rewrite(&self, chunks: &[Arc<Chunk>]) -> Result<(), StoreError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer();
        let writer = &mut *writer;
        writer.usable()?;
        self.write_sparse(writer, chunks)
            .inspect_err(|error| writer.fail_untold(error))
    }

    fn write_sparse(&self, writer: &mut Writer, chunks: &[Arc<Chunk>]) -> Result<(), StoreError> {
        let mut freed = 0;
        let mut rewritten = 0;
        for chunk in chunks {
            let Some(known) = self.known((chunk.lane, chunk.base))? else {
                continue; // settled meanwhile
            };
            let old = known.left;
            let sparse = chunk.without_dead(&old.references);
            writer.progress.log_bytes -= u64::from(old.len);
            writer.progress.dead_bytes -= old.dead_bytes();
            writer.reclaim.removed_bytes += u64::from(old.len);
            if known.stored {
                writer
                    .staged
                    .remove(Table::State, keys::live(chunk.lane, chunk.base));
            }
            freed += u64::from(old.len).saturating_sub(sparse.len() as u64);
            rewritten += 1;
            stage_chunk(writer, &sparse, old.references, false);
        }
        self.0.options.faults.visit(Site::Rewrite).map_err(write_failed)?;
        self.write(writer, &[])?;
        self.0.figures.rewrote(rewritten, freed);
        Ok(())
    }

    /// Whether disk is to be had from flushing and compacting. A broker that writes little may do it sooner.
    pub(crate) fn is_untidy(&self, quiet: bool) -> bool {
        let (tables, live_in_tables) = self.log_tables();
        let options = &self.0.options;
        if !quiet {
            return tables > options.disk_allowed(live_in_tables, BUSY_SLACKS) && tables <= BUSY_TABLES_MAX;
        }
        let live = self.writer().progress.live_bytes();
        tables + self.flushed().kept.space().0 > options.disk_allowed(live, 1)
    }

    /// Whether the log's tables hold more old values than allowed.
    pub(crate) fn needs_compaction(&self) -> bool {
        let (tables, live_in_tables) = self.log_tables();
        tables > self.0.options.disk_allowed(live_in_tables, 1)
    }

    /// Bytes of the log's tables, and of unsettled messages that may be in them.
    fn log_tables(&self) -> (u64, u64) {
        let live = self.writer().progress.live_bytes();
        let (_, kept) = self.flushed().kept.space();
        (self.keyspace(Table::Log).disk_space(), live.saturating_sub(kept))
    }

    /// Merges all tables of the log, in time and bytes in proportion to them. Reads and commits go on meanwhile.
    pub(crate) fn compact_log(&self) -> Result<(), StoreError> {
        self.keyspace(Table::Log).major_compact().map_err(write_failed)?;
        self.0.figures.compacted();
        Ok(())
    }

    /// Has fjall delete the files of tables that were merged. It keeps them until a memtable of its own is rotated while
    /// every reader may see a version behind the one that merged them, which two writes are. They go to its journal, which
    /// is not needed for anything: a key that nobody uses is removed.
    pub(crate) fn let_go(&self) -> Result<(), StoreError> {
        let state = self.keyspace(Table::State);
        state.remove(keys::unused()).map_err(write_failed)?;
        state.remove(keys::unused()).map_err(write_failed)?;
        state.rotate_memtable().map(drop).map_err(write_failed)
    }

    /// Has what is in memory written to tables, without waiting: it might never be done, if the disk is full.
    pub(crate) fn begin_flush(&self) -> Result<(), StoreError> {
        if self.0.tables.is_flushing() {
            return Ok(());
        }
        let mut writer = self.writer();
        writer.usable()?;
        self.seal(&mut writer)
            .inspect_err(|error| writer.fail_untold(error))
    }
}

/// A walk over the partly dead chunks, oldest first, round after round.
#[derive(Default)]
pub(crate) struct Sweep {
    /// The key in `state` that was looked at last.
    after: UserKey,
    /// Whether this round takes every chunk that must go for the bound to hold. The first takes those of which at least
    /// half is dead, so that each byte written frees one.
    thorough: bool,
    /// Whether anything was rewritten in this round.
    rewrote: bool,
}

impl Sweep {
    /// Looks at some chunks and rewrites some. Answers whether there is more to do.
    pub(crate) fn step(&mut self, store: &Store) -> Result<bool, StoreError> {
        if store.writer().reclaim_debt(&store.0.options) == 0 {
            *self = Sweep {
                after: std::mem::take(&mut self.after),
                ..Sweep::default()
            };
            return Ok(false);
        }
        let (chunks, ended) = self.pick(store)?;
        store.rewrite(&chunks)?;
        self.rewrote |= !chunks.is_empty();
        if !ended {
            return Ok(true);
        }
        let fruitless = self.thorough && !self.rewrote;
        *self = Sweep {
            thorough: !fruitless,
            ..Sweep::default()
        };
        if fruitless {
            // Only chunks that cannot be read are left.
            let mut writer = store.writer();
            let dead = writer.progress.dead_bytes;
            writer.reclaim.hopeless_bytes = dead + store.0.options.dead_allowed(dead);
        }
        Ok(!fruitless)
    }

    /// Reads the next chunks worth rewriting, without holding up the writer. Answers whether the round is over.
    fn pick(&mut self, store: &Store) -> Result<(Vec<Arc<Chunk>>, bool), StoreError> {
        if self.after.is_empty() {
            self.after = UserKey::from(keys::state_prefix(StateKind::Live));
        }
        let last = keys::live(Lane::Streams, Offset(u64::MAX));
        let mut picked = Vec::new();
        let mut bytes = 0;
        let range = (Excluded(self.after.clone()), Included(last));
        let partly_dead = store.scan(Table::State, range, STEP_LOOKS)?;
        let is_last = partly_dead.len() < STEP_LOOKS;
        for (key, value) in partly_dead {
            if bytes >= STEP_BYTES {
                return Ok((picked, false));
            }
            let found = keys::live_parts(&key).zip(Left::decode(&value.bytes()));
            let ((lane, base), left) = found.ok_or_else(|| value_damage(Table::State, &key))?;
            self.after = key;
            if !self.takes(&left, &store.0.options) {
                continue;
            }
            match store.read_chunk(lane, base) {
                Ok(chunk) => {
                    bytes += u64::from(left.len);
                    picked.push(chunk);
                }
                Err(StoreError::Settled { .. }) => {}
                // Whoever needs a message of it will be told.
                Err(error) => tracing::warn!(%error, "a chunk cannot be rewritten"),
            }
        }
        Ok((picked, is_last))
    }

    /// A chunk of several parts holds a single message, so that it is never partly dead.
    fn takes(&self, left: &Left, options: &Options) -> bool {
        let amplification = options.space_amplification;
        // If fewer are dead of every chunk, no more than allowed are dead of all of them.
        let must = (amplification - 1.0) / (amplification + 1.0);
        let least = if self.thorough { must } else { must.max(0.5) };
        let dead = left.dead_bytes();
        left.parts == 1 && dead > 0 && dead as f64 >= f64::from(left.len) * least
    }
}
