//! Where a queue's messages are that were not handed out yet.
//!
//! ```text
//! cursor ............ front_end ............ back_first ............ tail
//!   |  front: in memory  |  gap: in the store  |  back: in memory    |
//! ```
//!
//! The front is refilled from the gap by one read at a time, and from the back once there is no gap. A durable queue
//! keeps a bounded number of runs in front and back; what the back cannot hold joins the gap, where the store has it
//! already. A transient queue has no gap: all its runs are in front.

use std::collections::VecDeque;

use crate::commit::{Commit, Effect, IndexEntry, Run};
use crate::ids::{Position, QueueId};

/// A run with its place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedRun {
    /// The position of its first record.
    pub(super) position: u64,
    /// Where its messages are.
    pub(super) run: Run,
    /// The index entry it came in.
    pub(super) entry: EntryRef,
}

/// What is remembered of an index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRef {
    pub(super) first: u64,
    pub(super) last: u64,
    /// As in [`IndexEntry`].
    pub(super) expires: u64,
}

impl PlacedRun {
    pub(super) fn end(&self) -> u64 {
        self.position + u64::from(self.run.count)
    }

    /// Cuts `count` records off the front.
    pub(super) fn skip(&mut self, count: u32) {
        self.position += u64::from(count);
        self.run.record += count;
        self.run.count -= count;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pages {
    cursor: u64,
    front: VecDeque<PlacedRun>,
    front_end: u64,
    back_first: u64,
    back: VecDeque<PlacedRun>,
    tail: u64,
    runs_max: usize,
    /// Where the read ends that the store was asked for. The gap may have grown since then.
    reading: Option<u64>,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A run in memory; positions between the cursor and its first hold no message.
    Run(PlacedRun),
    /// It is in the store.
    InStore,
    /// Nothing is left.
    End,
}

impl Pages {
    /// Pages of a queue of which everything from `head` to `tail` is in the store.
    pub(super) fn new(head: u64, tail: u64, runs_max: usize) -> Pages {
        Pages {
            cursor: head,
            front: VecDeque::new(),
            front_end: head,
            back_first: tail,
            back: VecDeque::new(),
            tail,
            runs_max,
            reading: None,
        }
    }

    /// Every position below was handed out or is settled.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Adds the messages of a turn, which follow the tail.
    pub(super) fn push(&mut self, runs: &[Run], expires: u64) {
        let first = self.tail;
        let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
        let last = first + count - 1;
        let entry = EntryRef { first, last, expires };
        let to_front = self.front_end == self.tail && self.front.len() < self.runs_max;
        let page = if to_front { &mut self.front } else { &mut self.back };
        for &run in runs {
            page.push_back(PlacedRun {
                position: self.tail,
                run,
                entry,
            });
            self.tail += u64::from(run.count);
        }
        if to_front {
            self.front_end = self.tail;
            self.back_first = self.tail;
        }
        self.spill();
    }

    /// Leaves to the store what is too much for the back, by whole entries.
    fn spill(&mut self) {
        while self.back.len() > self.runs_max
            && let Some(oldest) = self.back.front().map(|run| run.entry)
        {
            while self.back.front().is_some_and(|run| run.entry == oldest) {
                self.back.pop_front();
            }
            self.back_first = oldest.last + 1;
        }
    }

    /// What comes at or after the cursor.
    pub(super) fn next(&mut self) -> Next {
        if self.front.is_empty() && self.front_end == self.back_first {
            std::mem::swap(&mut self.front, &mut self.back);
            self.front_end = self.tail;
            self.back_first = self.tail;
        }
        match self.front.front() {
            Some(&run) => Next::Run(run),
            None if self.front_end < self.back_first => Next::InStore,
            None => Next::End,
        }
    }

    /// The runs in memory that come next.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &PlacedRun> {
        self.front.iter()
    }

    /// Moves the cursor to `position`, which lies in the first run or right behind it.
    pub(super) fn advance(&mut self, position: u64) {
        self.cursor = position;
        let Some(first) = self.front.front_mut() else {
            return;
        };
        if position >= first.end() {
            self.front.pop_front();
        } else {
            first.skip((position - first.position) as u32);
        }
    }

    /// Moves the cursor over positions in front of the first run.
    pub(super) fn pass(&mut self, position: u64) {
        self.cursor = position;
    }

    /// Everything below `head` is settled: what of it is in the store only is not read any more.
    pub(super) fn settled_below(&mut self, head: u64) {
        let from = head.min(self.back_first);
        if self.front.is_empty() && self.reading.is_none() && self.front_end < from {
            self.front_end = from;
            self.cursor = self.cursor.max(from);
        }
    }

    /// Asks the store for the beginning of the gap, unless it was asked already.
    pub(super) fn read(&mut self, queue: QueueId, commit: &mut Commit) {
        if self.reading.is_none() {
            self.reading = Some(self.back_first);
            commit.effects.push(Effect::ReadIndex {
                queue,
                from: Position(self.front_end),
                to: Position(self.back_first),
                runs_max: self.runs_max,
            });
        }
    }

    /// Takes in what the store has of the gap as it was when it was asked. Entries that are not in order end the answer: what
    /// follows counts as missing, like positions no entry names.
    pub(super) fn fill(&mut self, from: Position, entries: Vec<IndexEntry>) {
        let Some(to) = self.reading.take_if(|_| from.0 == self.front_end) else {
            return;
        };
        for entry in entries {
            let Some(last) = entry
                .count()
                .checked_sub(1)
                .and_then(|more| entry.first.0.checked_add(more))
            else {
                continue;
            };
            if last < self.front_end || last >= self.back_first {
                continue;
            }
            let from = EntryRef {
                first: entry.first.0,
                last,
                expires: entry.expires,
            };
            self.fill_entry(from, &entry.runs);
        }
        if self.front.is_empty() {
            self.front_end = to;
        }
    }

    fn fill_entry(&mut self, entry: EntryRef, runs: &[Run]) {
        let mut position = entry.first;
        for &run in runs {
            let mut placed = PlacedRun { position, run, entry };
            position = placed.end();
            if position > self.front_end {
                let known = self.front_end.saturating_sub(placed.position);
                placed.skip(known as u32);
                self.front.push_back(placed);
            }
        }
        self.front_end = entry.last + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Lane, Offset};

    fn run(chunk: u64) -> Run {
        Run {
            lane: Lane::Queues,
            chunk: Offset(chunk),
            record: 0,
            count: 1,
        }
    }

    /// What the store is asked for.
    fn asked(pages: &mut Pages) -> Option<(u64, u64)> {
        let mut commit = Commit::default();
        pages.read(QueueId(1), &mut commit);
        match commit.effects[..] {
            [Effect::ReadIndex { from, to, .. }] => Some((from.0, to.0)),
            _ => None,
        }
    }

    #[test]
    fn what_joins_the_gap_while_it_is_read_is_read_though_nothing_was_left_of_the_rest() {
        let mut pages = Pages::new(0, 2, 1);
        assert_eq!(asked(&mut pages), Some((0, 2)));
        pages.push(&[run(10)], 0);
        pages.push(&[run(11)], 0);
        pages.fill(Position(0), Vec::new());
        assert_eq!(pages.next(), Next::InStore);
        assert_eq!(asked(&mut pages), Some((2, 3)));
        pages.fill(Position(2), Vec::new());
        assert!(matches!(pages.next(), Next::Run(placed) if placed.run == run(11)));
    }
}
