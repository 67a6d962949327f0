//! The log as the core sees it: the chunks being filled in this turn, the chunks kept for delivery, and what the
//! queues released.
//!
//! A queue is wholly in one lane. Messages of durable queues go to [`Lane::Queues`] and those of streams to
//! [`Lane::Streams`], where the store keeps them and this keeps a bounded cache. Messages of transient queues go to
//! [`Lane::Memory`], of which this is the only keeper. A message for several kinds is put into several lanes. So a
//! chunk on disk is referenced by what is on disk only: after a crash, when transient queues are gone, nothing of it
//! leaks. And a chunk that work queues settle soon does not stay for a stream's sake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chunk::{Chunk, ChunkBuilder};
use crate::commit::{Commit, Effect, Record, Run};
use crate::ids::{Lane, Offset, QueueId};
use crate::input::MessageCopy;
use crate::limits::{CHUNK_TARGET, LARGE_MESSAGE};
use crate::references::References;

/// What a chunk costs in memory beside its records, in bytes; a round figure that errs upwards.
const CHUNK_OVERHEAD: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    queues: Writer,
    streams: Writer,
    memory: Writer,
    cache: Cache,
    held: BTreeMap<Offset, Held>,
    held_bytes: usize,
    memory_bytes_max: usize,
    /// What this turn released.
    released: Vec<Released>,
    reading: BTreeMap<Key, Reading>,
    /// Chunks that were asked for in vain, until the end of the turn.
    missing: BTreeSet<Key>,
}

/// A chunk that was asked for.
#[derive(Debug)]
struct Reading {
    /// Whether nobody waited for it then.
    ahead: bool,
    waiters: BTreeSet<QueueId>,
}

/// Names a chunk of a durable lane.
type Key = (Lane, Offset);

/// A chunk of the memory lane and how many places in queues name its messages.
#[derive(Debug)]
struct Held {
    chunk: Arc<Chunk>,
    references: u64,
}

/// One place in a queue of each of consecutive records of a durable chunk is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Released {
    chunk: Key,
    record: u32,
    count: u32,
}

impl Released {
    /// Takes in `next` if that goes on where this ends.
    fn joins(&mut self, next: Released) -> bool {
        let follows = self.chunk == next.chunk && self.record + self.count == next.record;
        if follows {
            self.count += next.count;
        }
        follows
    }
}

impl Log {
    /// A log that goes on at these offsets of the lanes of durable queues and of streams.
    pub(crate) fn new([queues, streams]: [Offset; 2], cache_bytes: usize, memory_bytes: usize) -> Log {
        Log {
            queues: Writer::new(Lane::Queues, queues),
            streams: Writer::new(Lane::Streams, streams),
            memory: Writer::new(Lane::Memory, Offset(0)),
            cache: Cache::new(cache_bytes),
            held: BTreeMap::new(),
            held_bytes: 0,
            memory_bytes_max: memory_bytes,
            released: Vec::new(),
            reading: BTreeMap::new(),
            missing: BTreeSet::new(),
        }
    }

    /// Puts a message into the open chunk of a lane; `references` places in queues will name it. Returns where it is,
    /// as a run of one.
    pub(crate) fn append(
        &mut self,
        lane: Lane,
        copy: &MessageCopy,
        references: u32,
        now: u64,
        commit: &mut Commit,
    ) -> Run {
        if !self.writer(lane).takes(copy.content.len()) {
            self.seal_lane(lane, commit);
        }
        self.writer(lane).push(copy, references, now)
    }

    /// Whether the memory lane has room for a message of `len` bytes.
    pub(crate) fn has_memory_for(&self, len: usize) -> bool {
        self.memory_bytes() + len + CHUNK_OVERHEAD <= self.memory_bytes_max
    }

    /// Bytes in the memory lane.
    pub(crate) fn memory_bytes(&self) -> usize {
        let open = self.memory.open.as_ref().map_or(0, |open| open.builder.len());
        self.held_bytes + open
    }

    /// Bytes of durable chunks kept for delivery.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache.bytes
    }

    /// How often a durable chunk was there when a queue needed it, and how often it had to be read first.
    pub(crate) fn cache_hits_and_misses(&self) -> (u64, u64) {
        (self.cache.hits, self.cache.misses)
    }

    /// Closes the open chunks, at the end of a turn.
    pub(crate) fn seal(&mut self, commit: &mut Commit) {
        self.seal_lane(Lane::Queues, commit);
        self.seal_lane(Lane::Streams, commit);
        self.seal_lane(Lane::Memory, commit);
    }

    fn writer(&mut self, lane: Lane) -> &mut Writer {
        match lane {
            Lane::Memory => &mut self.memory,
            Lane::Queues => &mut self.queues,
            Lane::Streams => &mut self.streams,
        }
    }

    fn seal_lane(&mut self, lane: Lane, commit: &mut Commit) {
        let Some((chunk, references)) = self.writer(lane).finish() else {
            return;
        };
        if lane == Lane::Memory {
            self.held_bytes += cost(&chunk);
            let references = references.total();
            self.held.insert(chunk.base, Held { chunk, references });
        } else {
            self.cache.insert(Arc::clone(&chunk), Some(references.total()));
            commit.records.push(Record::Append { chunk, references });
        }
    }

    /// A chunk, when it is in memory.
    pub(crate) fn chunk(&mut self, lane: Lane, base: Offset) -> Option<&Arc<Chunk>> {
        match lane {
            Lane::Memory => self.held.get(&base).map(|held| &held.chunk),
            Lane::Queues | Lane::Streams => self.cache.get((lane, base)),
        }
    }

    /// Asks for a chunk that `waiter` needs, or that it will need soon when there is no waiter.
    pub(crate) fn read(&mut self, lane: Lane, base: Offset, waiter: Option<QueueId>, commit: &mut Commit) {
        if waiter.is_none() && self.cache.chunks.contains_key(&(lane, base)) {
            return;
        }
        self.cache.misses += u64::from(waiter.is_some());
        let ahead = waiter.is_none();
        let reading = self.reading.entry((lane, base)).or_insert_with(|| {
            commit.effects.push(Effect::ReadChunk { lane, base, ahead });
            let waiters = BTreeSet::new();
            Reading { ahead, waiters }
        });
        reading.waiters.extend(waiter);
    }

    /// Takes in a chunk that was asked for, or that it is gone, and returns the queues that wait for it. If it was asked
    /// for ahead and did not come, those ask again.
    pub(crate) fn chunk_read(
        &mut self,
        lane: Lane,
        base: Offset,
        chunk: Option<Arc<Chunk>>,
    ) -> BTreeSet<QueueId> {
        let Some(Reading { ahead, waiters }) = self.reading.remove(&(lane, base)) else {
            return BTreeSet::new();
        };
        match chunk {
            Some(chunk) => {
                let references = chunk.references();
                self.cache.insert(chunk, references);
            }
            None if ahead => {}
            None => {
                self.missing.insert((lane, base));
            }
        }
        waiters
    }

    /// Whether the store said in this turn that it has no such chunk.
    pub(crate) fn is_missing(&self, lane: Lane, base: Offset) -> bool {
        self.missing.contains(&(lane, base))
    }

    /// One place in a queue of each message of a run is settled.
    pub(crate) fn release(&mut self, run: Run) {
        if run.lane != Lane::Memory {
            self.note_released(Released {
                chunk: (run.lane, run.chunk),
                record: run.record,
                count: run.count,
            });
            return;
        }
        let Some(held) = self.held.get_mut(&run.chunk) else {
            return;
        };
        held.references = held.references.saturating_sub(u64::from(run.count));
        if held.references == 0 {
            self.held_bytes -= cost(&held.chunk);
            self.held.remove(&run.chunk);
        }
    }

    /// Mostly a queue is settled in order, and this goes on where the last one ended.
    fn note_released(&mut self, released: Released) {
        if !self.released.last_mut().is_some_and(|last| last.joins(released)) {
            self.released.push(released);
        }
    }

    /// Writes what this turn released, as few ranges as that makes, and brings the cache back to its bound.
    ///
    /// The cache is over its bound until then, so that every chunk that was read in this turn is there when the queue
    /// that waits for it has its turn: otherwise two large chunks could push each other out for ever.
    pub(crate) fn finish(&mut self, commit: &mut Commit) {
        let mut released = std::mem::take(&mut self.released);
        released.sort_unstable();
        released.dedup_by(|next, before| before.joins(*next));
        for Released { chunk, record, count } in released.drain(..) {
            self.cache.release(chunk, count);
            let (lane, base) = chunk;
            commit.records.push(Record::Release {
                lane,
                base,
                record,
                count,
            });
        }
        self.released = released;
        self.cache.trim();
        self.missing.clear();
    }
}

/// Fills the chunks of one lane.
#[derive(Debug)]
struct Writer {
    lane: Lane,
    next: Offset,
    open: Option<Open>,
    /// Bytes and messages of the last chunk: about what the next one will have.
    last: (usize, usize),
}

#[derive(Debug)]
struct Open {
    builder: ChunkBuilder,
    references: References,
}

impl Writer {
    fn new(lane: Lane, next: Offset) -> Writer {
        Writer {
            lane,
            next,
            open: None,
            last: (0, 0),
        }
    }

    fn takes(&self, len: usize) -> bool {
        self.open.as_ref().is_none_or(|open| open.builder.takes(len))
    }

    fn push(&mut self, copy: &MessageCopy, references: u32, now: u64) -> Run {
        let open = self.open.get_or_insert_with(|| Open {
            builder: ChunkBuilder::with_room(self.lane, self.next, now, self.last),
            references: References::default(),
        });
        open.references.push(1, references);
        let meta_len = copy.content.len().min(copy.meta_len as usize);
        let (exchange, by) = (copy.exchange, copy.decided_by);
        let record = if copy.content.len() >= LARGE_MESSAGE {
            let body = copy.content.slice(meta_len..);
            open.builder
                .push_large(exchange, by, &copy.content[..meta_len], body)
        } else {
            let (meta, body) = copy.content.split_at(meta_len);
            open.builder.push(exchange, by, meta, body)
        };
        Run {
            lane: self.lane,
            chunk: self.next,
            record,
            count: 1,
        }
    }

    fn finish(&mut self) -> Option<(Arc<Chunk>, References)> {
        let Open { builder, references } = self.open.take()?;
        let chunk = Arc::new(builder.finish());
        self.last = (chunk.len().min(CHUNK_TARGET), chunk.count() as usize);
        self.next.0 += u64::from(chunk.count());
        Some((chunk, references))
    }
}

/// Durable chunks that may be delivered soon. The one unused for longest goes first; one of which every message is
/// settled goes at once.
#[derive(Debug)]
struct Cache {
    chunks: BTreeMap<Key, Cached>,
    by_use: BTreeMap<u64, Key>,
    last_use: u64,
    bytes: usize,
    bytes_max: usize,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Cached {
    chunk: Arc<Chunk>,
    used: u64,
    /// Places in queues that still name its messages, or more than do where some were settled before it was read back.
    references: Option<u64>,
}

impl Cache {
    fn new(bytes_max: usize) -> Cache {
        Cache {
            chunks: BTreeMap::new(),
            by_use: BTreeMap::new(),
            last_use: 0,
            bytes: 0,
            bytes_max,
            hits: 0,
            misses: 0,
        }
    }

    fn insert(&mut self, chunk: Arc<Chunk>, references: Option<u64>) {
        let key = (chunk.lane, chunk.base);
        self.remove(key);
        self.last_use += 1;
        self.by_use.insert(self.last_use, key);
        self.bytes += cost(&chunk);
        let cached = Cached {
            chunk,
            used: self.last_use,
            references,
        };
        self.chunks.insert(key, cached);
    }

    fn get(&mut self, key: Key) -> Option<&Arc<Chunk>> {
        let cached = self.chunks.get_mut(&key)?;
        self.hits += 1;
        if cached.used != self.last_use {
            self.by_use.remove(&cached.used);
            self.last_use += 1;
            self.by_use.insert(self.last_use, key);
            cached.used = self.last_use;
        }
        Some(&cached.chunk)
    }

    fn release(&mut self, key: Key, count: u32) {
        let Some(references) = self
            .chunks
            .get_mut(&key)
            .and_then(|cached| cached.references.as_mut())
        else {
            return;
        };
        *references = references.saturating_sub(u64::from(count));
        if *references == 0 {
            self.remove(key);
        }
    }

    fn trim(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((_, &key)) = self.by_use.first_key_value()
        {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(cached) = self.chunks.remove(&key) {
            self.by_use.remove(&cached.used);
            self.bytes -= cost(&cached.chunk);
        }
    }
}

/// What a chunk costs in memory, in bytes.
fn cost(chunk: &Chunk) -> usize {
    chunk.len() + 4 * chunk.count() as usize + CHUNK_OVERHEAD
}
