//! How many places in queues still name each chunk.
//!
//! What is known here is a memory of what is on disk, so that a release rarely reads: a chunk's count is its
//! references as long as nothing was released, and a value in `state` from then on. Entries may be forgotten at any
//! time, which keeps this bounded however many chunks wait.

use std::collections::{HashMap, VecDeque};

use pointsman_core::{Lane, Offset};

use crate::values::LiveCount;

/// Most chunks whose counts are remembered; about 10 MiB.
const KNOWN_MAX: usize = 131_072;

/// Most chunks remembered as settled, so that a read which was overtaken by the settlement is told from a loss.
const SETTLED_MAX: usize = 65_536;

/// Names a chunk.
pub(crate) type ChunkId = (Lane, Offset);

/// A chunk's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) count: LiveCount,
    /// Whether `state` has it, so that it must be removed with the chunk.
    pub(crate) stored: bool,
    /// Whether the group being staged released some of it, so that `state` must be written.
    pub(crate) released: bool,
}

/// Counts of chunks touched lately.
#[derive(Debug, Default)]
pub(crate) struct Live {
    known: Bounded<Known>,
    settled: Bounded<()>,
}

impl Live {
    pub(crate) fn get(&self, chunk: ChunkId) -> Option<Known> {
        self.known.map.get(&chunk).copied()
    }

    /// Remembers a chunk's count. A count of 0 is a chunk that was removed.
    pub(crate) fn put(&mut self, chunk: ChunkId, known: Known) {
        if known.count.left == 0 {
            self.known.map.remove(&chunk);
            self.settled.insert(chunk, (), SETTLED_MAX);
        } else {
            self.known.insert(chunk, known, KNOWN_MAX);
        }
    }

    /// Whether the chunk was removed lately because all its messages were settled.
    pub(crate) fn was_settled(&self, chunk: ChunkId) -> bool {
        self.settled.map.contains_key(&chunk)
    }
}

/// A map that forgets what came first.
#[derive(Debug)]
struct Bounded<V> {
    map: HashMap<ChunkId, V>,
    order: VecDeque<ChunkId>,
}

impl<V> Default for Bounded<V> {
    fn default() -> Bounded<V> {
        Bounded {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<V> Bounded<V> {
    fn insert(&mut self, chunk: ChunkId, value: V, max: usize) {
        if self.map.insert(chunk, value).is_none() {
            self.order.push_back(chunk);
            while self.order.len() > max {
                if let Some(first) = self.order.pop_front() {
                    self.map.remove(&first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn known(left: u32) -> Known {
        Known {
            count: LiveCount { left, parts: 1 },
            stored: false,
            released: false,
        }
    }

    #[test]
    fn a_count_of_nothing_is_a_settled_chunk() {
        let mut live = Live::default();
        let chunk = (Lane::Queues, Offset(1));
        live.put(chunk, known(2));
        assert_eq!(live.get(chunk), Some(known(2)));
        assert!(!live.was_settled(chunk));
        live.put(chunk, known(0));
        assert_eq!(live.get(chunk), None);
        assert!(live.was_settled(chunk));
    }

    #[test]
    fn what_came_first_is_forgotten_first() {
        let mut bounded = Bounded::default();
        for offset in 0..5 {
            bounded.insert((Lane::Queues, Offset(offset)), (), 3);
        }
        let left: HashSet<u64> = bounded.map.keys().map(|(_, offset)| offset.0).collect();
        assert_eq!(left, HashSet::from([2, 3, 4]));
    }
}
