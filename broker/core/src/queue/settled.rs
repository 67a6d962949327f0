//! Which positions of a queue are settled: all below its head, and ranges above it.
//!
//! In memory the positions settled out of order are ranges: there are at most as many as there are unsettled or
//! returned messages below them, whatever the queue's depth. On disk they are roaring bitmaps of blocks of 65,536
//! positions, of which only those that changed are written.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;

use crate::commit::{Commit, Record};
use crate::ids::QueueId;

const BLOCK_BITS: u32 = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    head: u64,
    /// First position to the one behind the last, apart from each other and above `head`.
    ranges: BTreeMap<u64, u64>,
    changed_blocks: BTreeSet<u64>,
    written_blocks: BTreeSet<u64>,
}

impl Settled {
    /// Everything below `head` is settled.
    pub(crate) fn new(head: u64) -> Settled {
        Settled {
            head,
            ..Settled::default()
        }
    }

    /// The lowest position that is not settled, or the tail.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Adds `[from, to)`, of which nothing was settled before.
    pub(crate) fn insert(&mut self, from: u64, to: u64) {
        if from == self.head {
            self.head = to;
            self.absorb();
            return;
        }
        self.mark(from, to);
        let to = self.ranges.remove(&to).unwrap_or(to);
        match self.ranges.range_mut(..from).next_back() {
            Some((_, end)) if *end == from => *end = to,
            _ => {
                self.ranges.insert(from, to);
            }
        }
    }

    /// Moves the head over the range that begins at it.
    fn absorb(&mut self) {
        if let Some(to) = self.ranges.remove(&self.head) {
            self.mark(self.head, to);
            self.head = to;
        }
    }

    fn mark(&mut self, from: u64, to: u64) {
        self.changed_blocks
            .extend(from >> BLOCK_BITS..=(to - 1) >> BLOCK_BITS);
    }

    /// The end of the settled range that `position` is in.
    pub(crate) fn end_of(&self, position: u64) -> Option<u64> {
        if position < self.head {
            return Some(self.head);
        }
        let (_, &end) = self.ranges.range(..=position).next_back()?;
        (position < end).then_some(end)
    }

    /// The first settled position above one that is not settled.
    pub(crate) fn next_after(&self, position: u64) -> Option<u64> {
        self.ranges.range(position..).next().map(|(&from, _)| from)
    }

    /// How many positions of `[from, to)` are settled.
    pub(crate) fn count_in(&self, from: u64, to: u64) -> u64 {
        let below_head = self.head.clamp(from, to) - from;
        let start = self
            .ranges
            .range(..=from)
            .next_back()
            .map_or(from, |(&start, _)| start);
        let above: u64 = self
            .ranges
            .range(start..to)
            .map(|(&first, &end)| end.clamp(from, to) - first.clamp(from, to))
            .sum();
        below_head + above
    }

    /// How many positions above the head are settled.
    pub(crate) fn above_head(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to - from).sum()
    }

    /// Takes in a block as it was written. Positions below the head say nothing new. Returns whether all are below
    /// `tail`.
    pub(crate) fn restore_block(&mut self, block: u64, bitmap: &RoaringBitmap, tail: u64) -> bool {
        let Some(start) = block.checked_mul(1 << BLOCK_BITS) else {
            return false;
        };
        if bitmap.max().is_some_and(|max| {
            max >= 1 << BLOCK_BITS || start.checked_add(u64::from(max)).is_none_or(|last| last >= tail)
        }) {
            return false;
        }
        self.written_blocks.insert(block);
        for low in bitmap {
            let position = start + u64::from(low);
            if self.end_of(position).is_none() {
                self.insert(position, position + 1);
            }
        }
        true
    }

    /// Forgets what of the restored blocks is not news to the store.
    pub(crate) fn restored(&mut self) {
        self.changed_blocks.clear();
    }

    /// Writes the blocks that changed since the last time.
    pub(crate) fn write_blocks(&mut self, queue: QueueId, commit: &mut Commit) {
        while let Some(block) = self.changed_blocks.pop_first() {
            let bitmap = self.block(block);
            let known = if bitmap.is_empty() {
                self.written_blocks.remove(&block)
            } else {
                self.written_blocks.insert(block);
                true
            };
            if known {
                commit.records.push(Record::AckBlock {
                    queue,
                    block,
                    settled: (!bitmap.is_empty()).then_some(bitmap),
                });
            }
        }
    }

    fn block(&self, block: u64) -> RoaringBitmap {
        let (start, end) = (block << BLOCK_BITS, (block + 1) << BLOCK_BITS);
        let first = self
            .ranges
            .range(..=start)
            .next_back()
            .map_or(start, |(&from, _)| from);
        let mut bitmap = RoaringBitmap::new();
        for (&from, &to) in self.ranges.range(first..end) {
            let (from, to) = (from.max(start), to.min(end));
            if from < to {
                bitmap.insert_range((from - start) as u32..(to - start) as u32);
            }
        }
        bitmap.optimize();
        bitmap
    }
}
