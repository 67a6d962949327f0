//! What is left of each chunk: which of its records a queue still names.
//!
//! What is known here is a memory of what is on disk, so that a release rarely reads: a chunk is left as its value says
//! as long as nothing was released, and as a value in `state` says from then on. Entries may be forgotten at any time,
//! which keeps this bounded however many chunks wait.

use std::collections::VecDeque;

use pointsman_core::{Lane, Offset};
use rustc_hash::FxHashMap;

use crate::values::Left;

/// Most chunks of which it is remembered what is left; about 8 MiB.
const KNOWN_MAX: usize = 65_536;

/// Most bytes they take beside that, where what was settled lies scattered in them.
const KNOWN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most chunks remembered as settled, so that a read which was overtaken by the settlement is told from a loss.
const SETTLED_MAX: usize = 65_536;

/// Names a chunk.
pub(crate) type ChunkId = (Lane, Offset);

/// What is known of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) left: Left,
    /// Whether `state` says what is left, so that it must be removed with the chunk.
    pub(crate) stored: bool,
    /// Whether the group being staged released some of it, so that `state` must be written.
    pub(crate) released: bool,
}

/// Chunks touched lately.
#[derive(Debug)]
pub(crate) struct Live {
    known: Bounded<Known>,
    settled: Bounded<()>,
}

impl Default for Live {
    fn default() -> Live {
        Live {
            known: Bounded::new(KNOWN_MAX, KNOWN_BYTES_MAX, Known::heap_bytes),
            settled: Bounded::new(SETTLED_MAX, 0, |()| 0),
        }
    }
}

impl Live {
    pub(crate) fn get(&self, chunk: ChunkId) -> Option<Known> {
        self.known.map.get(&chunk).cloned()
    }

    /// Remembers what is left of a chunk; when that is nothing, it was removed.
    pub(crate) fn put(&mut self, chunk: ChunkId, known: Known) {
        if known.left.is_dead() {
            self.known.remove(chunk);
            self.settled.insert(chunk, ());
        } else {
            self.known.insert(chunk, known);
        }
    }

    /// Whether the chunk was removed lately because all its messages were settled.
    pub(crate) fn was_settled(&self, chunk: ChunkId) -> bool {
        self.settled.map.contains_key(&chunk)
    }
}

impl Known {
    /// Bytes it takes beside its own size.
    fn heap_bytes(&self) -> usize {
        self.left.references.heap_bytes()
    }
}

/// A map that forgets what came first.
#[derive(Debug)]
struct Bounded<V> {
    map: FxHashMap<ChunkId, V>,
    order: VecDeque<ChunkId>,
    max: usize,
    heap_bytes: usize,
    heap_bytes_max: usize,
    /// What a value takes beside its own size, in bytes.
    weigh: fn(&V) -> usize,
}

impl<V> Bounded<V> {
    fn new(max: usize, heap_bytes_max: usize, weigh: fn(&V) -> usize) -> Bounded<V> {
        Bounded {
            map: FxHashMap::default(),
            order: VecDeque::new(),
            max,
            heap_bytes: 0,
            heap_bytes_max,
            weigh,
        }
    }

    fn insert(&mut self, chunk: ChunkId, value: V) {
        self.heap_bytes += (self.weigh)(&value);
        match self.map.insert(chunk, value) {
            Some(old) => self.heap_bytes -= (self.weigh)(&old),
            None => self.order.push_back(chunk),
        }
        while (self.order.len() > self.max || self.heap_bytes > self.heap_bytes_max)
            && let Some(first) = self.order.pop_front()
        {
            self.remove(first);
        }
    }

    fn remove(&mut self, chunk: ChunkId) {
        if let Some(old) = self.map.remove(&chunk) {
            self.heap_bytes -= (self.weigh)(&old);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use pointsman_core::References;

    use super::*;

    fn known(references: References) -> Known {
        Known {
            left: Left {
                parts: 1,
                len: 1,
                kept: references.records(),
                references,
            },
            stored: false,
            released: false,
        }
    }

    #[test]
    fn a_chunk_of_which_nothing_is_left_is_a_settled_chunk() {
        let mut live = Live::default();
        let chunk = (Lane::Queues, Offset(1));
        let two = known(References::uniform(2, 1));
        live.put(chunk, two.clone());
        assert_eq!(live.get(chunk), Some(two));
        assert!(!live.was_settled(chunk));
        live.put(chunk, known(References::uniform(2, 0)));
        assert_eq!(live.get(chunk), None);
        assert!(live.was_settled(chunk));
    }

    #[test]
    fn what_came_first_is_forgotten_first() {
        let mut bounded = Bounded::new(3, 0, |()| 0);
        for offset in 0..5 {
            bounded.insert((Lane::Queues, Offset(offset)), ());
        }
        let left: HashSet<u64> = bounded.map.keys().map(|(_, offset)| offset.0).collect();
        assert_eq!(left, HashSet::from([2, 3, 4]));
    }

    #[test]
    fn chunks_settled_in_many_places_are_bounded_in_bytes() {
        let mut references = References::uniform(100, 1);
        for record in (0..100).step_by(2) {
            references.release(record, 1);
        }
        let scattered = known(references);
        let max = scattered.heap_bytes() * 2;
        let mut bounded = Bounded::new(1_000, max, Known::heap_bytes);
        for offset in 0..5 {
            bounded.insert((Lane::Queues, Offset(offset)), scattered.clone());
        }
        assert_eq!((bounded.map.len(), bounded.heap_bytes), (2, max));
        bounded.remove((Lane::Queues, Offset(3)));
        bounded.insert((Lane::Queues, Offset(4)), known(References::uniform(1, 1)));
        assert_eq!((bounded.map.len(), bounded.heap_bytes), (1, 0));
    }
}
