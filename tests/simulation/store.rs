//! A store of plain maps. It is strict: a record that does not fit what is there fails the run.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use pointsman_core::catalog::{Definition, DefinitionKey};
use pointsman_core::commit::{IdentityState, IndexEntry, QueueState};
use pointsman_core::due::{DueEntry, DueKey};
use pointsman_core::{
    Chunk, Lane, Offset, Position, PublisherIdentity, QueueId, Record, References, Restored,
};
use roaring::RoaringBitmap;

#[derive(Clone, Debug, Default)]
pub(crate) struct SimStore {
    pub(crate) chunks: BTreeMap<(Lane, Offset), Stored>,
    pub(crate) index: BTreeMap<(QueueId, Position), IndexEntry>,
    pub(crate) states: BTreeMap<QueueId, QueueState>,
    pub(crate) acks: BTreeMap<(QueueId, u64), RoaringBitmap>,
    pub(crate) attempts: BTreeMap<(QueueId, Position), u32>,
    pub(crate) due: BTreeMap<DueKey, DueEntry>,
    /// How many messages of a queue are delayed.
    pub(crate) delayed: BTreeMap<QueueId, u64>,
    identities: BTreeMap<PublisherIdentity, IdentityState>,
    definitions: BTreeMap<DefinitionKey, Definition>,
    next_offsets: [Offset; 2],
}

/// A chunk as a disk has it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    chunk: Arc<Chunk>,
    /// References when it was written: what had none is not in it.
    written: References,
    pub(crate) left: References,
}

impl SimStore {
    pub(crate) fn apply(&mut self, records: &[Record]) {
        for record in records {
            self.apply_one(record);
        }
    }

    fn apply_one(&mut self, record: &Record) {
        match record.clone() {
            Record::Append { chunk, references } => {
                let next = self
                    .next_offsets
                    .get_mut(chunk.lane as usize)
                    .expect("a durable lane");
                assert_eq!(chunk.base, *next);
                assert!(references.live() == chunk.count() && references.records() == chunk.count());
                assert!(chunk.count() > 0);
                next.0 += u64::from(chunk.count());
                let stored = Stored {
                    chunk,
                    written: references.clone(),
                    left: references,
                };
                self.chunks.insert((stored.chunk.lane, stored.chunk.base), stored);
            }
            Record::Release {
                lane,
                base,
                record,
                count,
            } => {
                let stored = self
                    .chunks
                    .get_mut(&(lane, base))
                    .expect("a chunk that is there is released");
                let missing = stored.left.release(record, count);
                assert_eq!(missing, 0, "no more is released than there is");
                if stored.left.live() == 0 {
                    self.chunks.remove(&(lane, base));
                }
            }
            Record::Index { queue, entry } => {
                assert!(entry.runs.iter().all(|run| run.count > 0) && !entry.runs.is_empty());
                let old = self.index.insert((queue, entry.last()), entry);
                assert_eq!(old, None);
            }
            Record::IndexRemove { queue, last } => {
                let old = self.index.remove(&(queue, last));
                old.expect("an index entry that is there is removed");
            }
            Record::QueueState { queue, state } => {
                assert!(state.head <= state.delivered.max(state.head) && state.delivered <= state.tail);
                self.states.insert(queue, state);
            }
            Record::AckBlock {
                queue,
                block,
                settled,
            } => match settled {
                Some(settled) => {
                    assert!(!settled.is_empty());
                    self.acks.insert((queue, block), settled);
                }
                None => {
                    let old = self.acks.remove(&(queue, block));
                    old.expect("an ack block that is there is removed");
                }
            },
            Record::Attempts {
                queue,
                position,
                count,
            } => match count {
                Some(count) => {
                    self.attempts.insert((queue, position), count);
                }
                None => {
                    let old = self.attempts.remove(&(queue, position));
                    old.expect("attempts that are there are removed");
                }
            },
            Record::Due {
                key,
                entry: Some(entry),
            } => {
                assert!(entry.is_valid(&key), "{key:?} {entry:?}");
                let old = self.due.insert(key, entry);
                assert_eq!(old, None, "an entry is written once");
            }
            Record::Due { key, entry: None } => {
                self.due.remove(&key);
            }
            Record::Delayed { queue, count } => match count {
                Some(count) => {
                    self.delayed.insert(queue, count);
                }
                None => {
                    let old = self.delayed.remove(&queue);
                    old.expect("a count that is there is removed");
                }
            },
            Record::Identity { identity, state } => match state {
                Some(state) => {
                    self.identities.insert(identity, state);
                }
                None => {
                    self.identities.remove(&identity);
                }
            },
            Record::Define { key, definition } => match definition {
                Some(definition) => {
                    self.definitions.insert(*key, *definition);
                }
                None => {
                    self.definitions.remove(&key).expect("what is there is deleted");
                }
            },
            Record::Module { .. } => {}
            Record::QueueGone { queue } => self.forget(queue),
        }
    }

    fn forget(&mut self, queue: QueueId) {
        assert!(
            !self.index.keys().any(|(of, _)| *of == queue),
            "a queue is gone only when all of its messages were released"
        );
        self.states.remove(&queue);
        self.acks.retain(|(of, _), _| *of != queue);
        self.attempts.retain(|(of, _), _| *of != queue);
    }

    /// At most `entries_max` entries, so that an answer may cover less than was asked.
    pub(crate) fn read_index(
        &self,
        queue: QueueId,
        from: Position,
        to: Position,
        entries_max: usize,
    ) -> Vec<IndexEntry> {
        let entries = self.index.range((queue, from)..);
        entries
            .take_while(|((of, _), entry)| *of == queue && entry.first < to)
            .take(entries_max)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// At most `entries_max` entries, so that an answer may be less than was asked.
    pub(crate) fn read_due(
        &self,
        of: Option<QueueId>,
        after: DueKey,
        entries_max: usize,
    ) -> Vec<(DueKey, DueEntry)> {
        let behind = self.due.range((Bound::Excluded(after), Bound::Unbounded));
        let entries = behind.filter(|(key, _)| of.is_none_or(|of| key.queue == of));
        entries
            .take(entries_max)
            .map(|(key, entry)| (*key, entry.clone()))
            .collect()
    }

    pub(crate) fn read_chunk(&self, lane: Lane, base: Offset) -> Option<Arc<Chunk>> {
        self.chunks.get(&(lane, base)).map(reparsed)
    }

    /// Drops what is dead of one of the chunks. Returns whether that was anything.
    pub(crate) fn reclaim(&mut self, rng: &mut fastrand::Rng) -> bool {
        let stored = self.chunks.values_mut();
        let partly_dead = stored.filter(|stored| stored.left.live() < stored.chunk.kept());
        let Some(stored) = rng.choice(partly_dead.collect::<Vec<_>>()) else {
            return false;
        };
        stored.chunk = Arc::new(stored.chunk.without_dead(&stored.left));
        stored.written = stored.left.clone();
        true
    }

    /// Positions of a queue that are settled, as the records say.
    pub(crate) fn is_settled(&self, queue: QueueId, position: u64) -> bool {
        let head = self.states.get(&queue).map_or(0, |state| state.head.0);
        let block = self.acks.get(&(queue, position >> 16));
        position < head || block.is_some_and(|block| block.contains((position & 0xffff) as u32))
    }

    pub(crate) fn restored(&self) -> Restored {
        Restored {
            definitions: self.definitions.clone().into_iter().collect(),
            queues: self.states.clone().into_iter().collect(),
            ack_blocks: self
                .acks
                .iter()
                .map(|((queue, block), bits)| (*queue, *block, bits.clone()))
                .collect(),
            attempts: self
                .attempts
                .iter()
                .map(|((queue, position), count)| (*queue, *position, *count))
                .collect(),
            delayed: self.delayed.clone().into_iter().collect(),
            identities: self.identities.clone().into_iter().collect(),
            next_offsets: self.next_offsets,
        }
    }
}

/// As it comes back from a disk.
fn reparsed(stored: &Stored) -> Arc<Chunk> {
    let Stored { chunk, written, .. } = stored;
    let bytes = chunk.bytes();
    let parsed = Chunk::parse_sparse(chunk.lane, chunk.base, chunk.time, bytes, Vec::new(), written);
    let parsed = parsed.expect("a chunk parses");
    assert_eq!(parsed, **chunk);
    Arc::new(parsed)
}
