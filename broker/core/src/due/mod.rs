//! What is to happen at a time: delayed messages enter their queues, and messages that waited too long leave them.
//!
//! ```text
//! now ........ page ........ through ................
//!      |  in memory as well  |  in the store only    |
//! ```
//!
//! Messages of one turn, queue and deadline are one *entry*. Entries of durable queues are on disk; the nearest of them
//! are in memory as well, as many as a page holds, and the next page is asked for by an effect when this one has run
//! out. Entries of transient queues are in memory only, where their number is bounded.
//!
//! Deadlines are times of the wall clock: a clock that is set back makes entries wait longer, one that jumps ahead makes
//! them due, and neither loses or repeats one, as an entry that was worked off is removed in the same commit.

mod fire;
mod memory;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::commit::Run;
use crate::ids::{Lane, Offset, Position, QueueId};
use crate::limits::Bounds;
use crate::log::Log;
use memory::Memory;
use page::Page;

/// Names an entry. Entries are due in this order, so that of one deadline the messages keep the order they came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueKey {
    /// The deadline, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The queue.
    pub queue: QueueId,
    /// Tells entries of the same queue and deadline apart.
    pub number: DueNumber,
}

/// Numbers the entries of one queue and deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueNumber {
    /// Of delayed messages, where the first of them is in the log.
    Enter(Offset),
    /// Of messages that expire, the last position of the index entry that all of them are in.
    Expire(Position),
}

impl DueKey {
    /// In front of every entry: no deadline is 0.
    pub const FIRST: DueKey = DueKey {
        at: 0,
        queue: QueueId(0),
        number: DueNumber::Enter(Offset(0)),
    };
}

/// What is to happen to messages of one queue at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DueEntry {
    /// They were delayed and enter the queue. Until then, the entry counts as one place in a queue that names them.
    Enter {
        /// The messages in order, all of one chunk.
        runs: Vec<DelayedRun>,
        /// Bytes of their metadata and bodies.
        bytes: u64,
    },
    /// They wait in a work queue and leave it, unless somebody settled them.
    Expire {
        /// First position of the index entry that all of them are in.
        first: Position,
        /// The messages, by position.
        runs: Vec<ExpiringRun>,
    },
}

/// Delayed messages that will expire together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedRun {
    /// Where they are.
    pub run: Run,
    /// How long after the end of their delay they expire, in milliseconds, by their own expiration or the queue's.
    pub expiration: Option<NonZeroU64>,
}

/// Messages that expire, at consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiringRun {
    /// The position of the first.
    pub position: Position,
    /// Where they are.
    pub run: Run,
}

impl DueEntry {
    /// How many runs it has.
    pub fn runs(&self) -> usize {
        match self {
            DueEntry::Enter { runs, .. } => runs.len(),
            DueEntry::Expire { runs, .. } => runs.len(),
        }
    }

    /// Whether it is as the broker writes entries under this key: something is in it, and what belongs together is
    /// together.
    pub fn is_valid(&self, key: &DueKey) -> bool {
        match (self, key.number) {
            (DueEntry::Enter { runs, .. }, DueNumber::Enter(first)) => {
                let Some(leading) = runs.first().map(|delayed| delayed.run) else {
                    return false;
                };
                let chunk = (leading.lane, leading.chunk);
                runs.iter()
                    .all(|DelayedRun { run, .. }| is_run(run) && (run.lane, run.chunk) == chunk)
                    && leading.offset() == first
            }
            (DueEntry::Expire { first, runs }, DueNumber::Expire(last)) => {
                let mut next = Some(first.0).filter(|_| last.0 < u64::MAX / 2);
                for ExpiringRun { position, run } in runs {
                    let fits = is_run(run) && next.is_some_and(|next| position.0 >= next);
                    next = position.0.checked_add(u64::from(run.count)).filter(|_| fits);
                }
                !runs.is_empty() && next.is_some_and(|next| next <= last.0 + 1)
            }
            _ => false,
        }
    }

    /// Whether it is of a transient queue.
    fn is_in_memory(&self) -> bool {
        let lane = match self {
            DueEntry::Enter { runs, .. } => runs.first().map(|delayed| delayed.run.lane),
            DueEntry::Expire { runs, .. } => runs.first().map(|expiring| expiring.run.lane),
        };
        lane == Some(Lane::Memory)
    }

    /// Gives up what it holds of the log. What expires is held by the queue it is in.
    fn release(&self, log: &mut Log) {
        if let DueEntry::Enter { runs, .. } = self {
            runs.iter().for_each(|delayed| log.release(delayed.run));
        }
    }

    /// How many messages it delays.
    fn delayed(&self) -> u64 {
        match self {
            DueEntry::Enter { runs, .. } => runs.iter().map(|delayed| u64::from(delayed.run.count)).sum(),
            DueEntry::Expire { .. } => 0,
        }
    }
}

fn is_run(run: &Run) -> bool {
    run.count > 0
        && run.record.checked_add(run.count).is_some()
        && run.chunk.0.checked_add(u64::from(run.record)).is_some()
}

impl Run {
    /// Whether `next` is of the records behind this.
    fn is_followed_by(&self, next: &Run) -> bool {
        (self.lane, self.chunk, self.record + self.count) == (next.lane, next.chunk, next.record)
    }

    /// Where its first message is in the log.
    fn offset(&self) -> Offset {
        Offset(self.chunk.0 + u64::from(self.record))
    }
}

/// The shorter of two times to live.
pub(crate) fn shorter(one: Option<NonZeroU64>, other: Option<NonZeroU64>) -> Option<NonZeroU64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Everything that is due some day.
#[derive(Debug)]
pub(crate) struct Due {
    /// Entries of durable queues.
    page: Page,
    /// Entries of transient queues.
    memory: Memory,
    /// Delayed messages of this turn, by deadline and queue.
    entering: BTreeMap<(u64, QueueId), DueEntry>,
    /// Those of chunks that were filled.
    entered: Vec<(DueKey, DueEntry)>,
    /// Messages of this turn that expire, by deadline and queue.
    expiring: BTreeMap<(u64, QueueId), Vec<ExpiringRun>>,
    /// How many messages are delayed, of each queue that has some.
    delayed: BTreeMap<QueueId, u64>,
    /// Durable queues for which that number changed in this turn.
    changed: BTreeSet<QueueId>,
    /// Deleted queues whose delayed messages are being looked for in the store and released.
    sweeps: BTreeMap<QueueId, Sweep>,
}

/// How far the search for a deleted queue's delayed messages has come.
#[derive(Debug)]
struct Sweep {
    after: DueKey,
    reading: bool,
}

impl Due {
    /// Nothing is due.
    pub(crate) fn new(bounds: &Bounds) -> Due {
        Due {
            page: Page::new(bounds.due_page_runs),
            memory: Memory::new(bounds.due_memory_runs),
            entering: BTreeMap::new(),
            entered: Vec::new(),
            expiring: BTreeMap::new(),
            delayed: BTreeMap::new(),
            changed: BTreeSet::new(),
            sweeps: BTreeMap::new(),
        }
    }

    /// What is due is in the store, and nothing of it in memory yet.
    pub(crate) fn restored(bounds: &Bounds, delayed: BTreeMap<QueueId, u64>) -> Due {
        Due {
            page: Page::in_store(bounds.due_page_runs),
            delayed,
            ..Due::new(bounds)
        }
    }

    /// How many messages of a queue are delayed.
    pub(crate) fn delayed(&self, queue: QueueId) -> u64 {
        self.delayed.get(&queue).copied().unwrap_or(0)
    }

    /// How many messages are delayed, in each of their queues.
    pub(crate) fn delayed_in_all(&self) -> u64 {
        self.delayed.values().sum()
    }

    /// Whether transient queues have as many entries as they may.
    pub(crate) fn is_memory_full(&self) -> bool {
        self.memory.is_full()
    }

    /// When something is due that is in memory, in milliseconds since the Unix epoch.
    pub(crate) fn next(&self) -> Option<u64> {
        let times = [self.page.next(), self.memory.next()];
        times.into_iter().flatten().min()
    }

    /// A message is to enter a queue at a time, and to expire some time after that.
    pub(crate) fn delay(
        &mut self,
        at: u64,
        queue: QueueId,
        run: Run,
        len: u64,
        expiration: Option<NonZeroU64>,
    ) {
        *self.delayed.entry(queue).or_default() += u64::from(run.count);
        if run.lane != Lane::Memory {
            self.changed.insert(queue);
        }
        if let Some(DueEntry::Enter { runs, bytes }) = self.entering.get_mut(&(at, queue))
            && let Some(last) = runs.last_mut()
            && (last.run.lane, last.run.chunk) == (run.lane, run.chunk)
        {
            *bytes += len;
            if last.expiration == expiration && last.run.is_followed_by(&run) {
                last.run.count += run.count;
            } else {
                runs.push(DelayedRun { run, expiration });
            }
            return;
        }
        let runs = vec![DelayedRun { run, expiration }];
        let entry = DueEntry::Enter { runs, bytes: len };
        let full = self.entering.insert((at, queue), entry);
        self.entered.extend(full.map(|entry| keyed(at, queue, entry)));
    }

    /// Messages that a queue gets in this turn, at this position, are to leave it at a time.
    pub(crate) fn expire(&mut self, at: u64, queue: QueueId, position: Position, run: Run) {
        let runs = self.expiring.entry((at, queue)).or_default();
        match runs.last_mut() {
            Some(last)
                if last.position.0 + u64::from(last.run.count) == position.0
                    && last.run.is_followed_by(&run) =>
            {
                last.run.count += run.count;
            }
            _ => runs.push(ExpiringRun { position, run }),
        }
    }

    /// The delayed messages of this turn.
    fn take_entering(&mut self) -> Vec<(DueKey, DueEntry)> {
        let open = std::mem::take(&mut self.entering);
        let open = open
            .into_iter()
            .map(|((at, queue), entry)| keyed(at, queue, entry));
        let mut entries = std::mem::take(&mut self.entered);
        entries.extend(open);
        entries
    }

    /// Messages of a queue are not delayed any more.
    fn count_down(&mut self, queue: QueueId, count: u64, is_durable: bool) {
        if let Some(delayed) = self.delayed.get_mut(&queue) {
            *delayed = delayed.saturating_sub(count);
            if *delayed == 0 {
                self.delayed.remove(&queue);
            }
        }
        if is_durable {
            self.changed.insert(queue);
        }
    }

    /// The first entry that is due.
    fn pop(&mut self, now: u64) -> Option<(DueKey, DueEntry)> {
        self.page.pop(now).or_else(|| self.memory.pop(now))
    }
}

/// Delayed messages with their key.
fn keyed(at: u64, queue: QueueId, entry: DueEntry) -> (DueKey, DueEntry) {
    let first = match &entry {
        DueEntry::Enter { runs, .. } => runs.first().map(|delayed| delayed.run.offset()),
        DueEntry::Expire { .. } => None,
    };
    let number = DueNumber::Enter(first.unwrap_or_default());
    (DueKey { at, queue, number }, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(1);

    fn run(chunk: u64, record: u32, count: u32) -> Run {
        Run {
            lane: Lane::Queues,
            chunk: Offset(chunk),
            record,
            count,
        }
    }

    fn enter(at: u64, runs: &[(Run, u64)], bytes: u64) -> (DueKey, DueEntry) {
        let delayed = |&(run, ms)| DelayedRun {
            run,
            expiration: NonZeroU64::new(ms),
        };
        let runs = runs.iter().map(delayed).collect();
        keyed(at, QUEUE, DueEntry::Enter { runs, bytes })
    }

    fn is_valid((key, entry): (DueKey, DueEntry)) -> bool {
        entry.is_valid(&key)
    }

    #[test]
    fn delayed_messages_of_one_turn_queue_deadline_and_chunk_are_one_entry() {
        let mut due = Due::new(&Bounds::default());
        due.delay(100, QUEUE, run(0, 0, 1), 10, None);
        due.delay(200, QUEUE, run(0, 1, 1), 10, None);
        due.delay(100, QUEUE, run(0, 2, 1), 10, None);
        due.delay(100, QUEUE, run(0, 3, 1), 10, None);
        due.delay(100, QUEUE, run(0, 4, 1), 10, NonZeroU64::new(5));
        due.delay(100, QUEUE, run(5, 0, 1), 10, None);
        assert_eq!(due.delayed(QUEUE), 6);
        let entries = due.take_entering();
        let expected = [
            enter(
                100,
                &[(run(0, 0, 1), 0), (run(0, 2, 2), 0), (run(0, 4, 1), 5)],
                40,
            ),
            enter(100, &[(run(5, 0, 1), 0)], 10),
            enter(200, &[(run(0, 1, 1), 0)], 10),
        ];
        assert_eq!(entries, expected);
        assert!(entries.into_iter().all(is_valid));
    }

    #[test]
    fn messages_that_expire_together_are_one_entry_whatever_lies_between_them() {
        let mut due = Due::new(&Bounds::default());
        let runs = [
            (0, run(0, 0, 1)),
            (1, run(0, 1, 1)),
            (3, run(0, 2, 1)),
            (4, run(3, 0, 1)),
        ];
        for (position, run) in runs {
            due.expire(100, QUEUE, Position(position), run);
        }
        let placed: Vec<_> = due.expiring[&(100, QUEUE)]
            .iter()
            .map(|run| (run.position.0, run.run.count))
            .collect();
        assert_eq!(placed, [(0, 2), (3, 1), (4, 1)]);
    }

    #[test]
    fn what_the_broker_never_writes_is_not_valid() {
        let expire = |(first, last): (u64, u64), runs: &[(u64, Run)]| {
            let placed = |&(position, run)| ExpiringRun {
                position: Position(position),
                run,
            };
            let runs = runs.iter().map(placed).collect();
            let key = DueKey {
                at: 1,
                queue: QUEUE,
                number: DueNumber::Expire(Position(last)),
            };
            let first = Position(first);
            (key, DueEntry::Expire { first, runs })
        };
        assert!(is_valid(expire((3, 9), &[(3, run(0, 0, 2)), (8, run(0, 5, 2))])));
        for (entry, why) in [
            (expire((3, 9), &[]), "nothing in it"),
            (
                expire((3, 9), &[(2, run(0, 0, 1))]),
                "in front of the index entry",
            ),
            (expire((3, 9), &[(9, run(0, 0, 2))]), "behind the index entry"),
            (expire((3, 9), &[(5, run(0, 0, 2)), (6, run(0, 2, 1))]), "overlap"),
            (expire((3, u64::MAX), &[(3, run(0, 0, 1))]), "no such position"),
            (enter(1, &[], 1), "nothing in it"),
            (
                enter(1, &[(run(7, 0, 1), 0), (run(8, 0, 1), 0)], 1),
                "of two chunks",
            ),
            (enter(1, &[(run(7, 0, 0), 0)], 1), "an empty run"),
            (
                (DueKey::FIRST, enter(1, &[(run(7, 0, 1), 0)], 1).1),
                "under another key",
            ),
            (
                (
                    enter(1, &[(run(7, 0, 1), 0)], 1).0,
                    expire((3, 9), &[(3, run(0, 0, 2))]).1,
                ),
                "of another kind",
            ),
        ] {
            assert!(!is_valid(entry), "{why}");
        }
        assert!(is_valid(enter(1, &[(run(7, 0, 1), 0), (run(7, 5, 1), 3)], 1)));
    }
}
