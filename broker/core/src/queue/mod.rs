//! One work queue: which messages are ready, handed out and settled.
//!
//! Positions number the messages of a queue for ever. Each position is *settled* ([`settled`]), *unsettled* (a
//! consumer has it, see [`crate::consumer`]), *returned* (given back, goes first) or not handed out yet ([`pages`]).
//! Everything is kept as runs of consecutive records of one chunk, so the cost of a message in the middle of a run is
//! next to nothing. What a queue needs in memory is bounded by its pages and by the credit of its consumers, not by
//! its depth.

mod pages;
mod deliver;
mod expire;
mod settled;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

use crate::commit::{Commit, IndexEntry, QueueState, Record, Run};
use crate::due::{DueKey, DueNumber};
use crate::ids::*;
use crate::log::Log;
use expire::Overdue;
use pages::{EntryRef, Next, Pages};
use settled::Settled;

pub(crate) use deliver::{Deliveries, Turn};

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    id: QueueId,
    /// Whether it is on disk; then its messages are in [`Lane::Queues`], otherwise in [`Lane::Memory`].
    durable: bool,
    /// How long after they are written its persistent messages must be synced.
    pub(crate) sync: Option<Duration>,
    /// How long its messages may wait, in milliseconds.
    pub(crate) message_ttl: Option<NonZeroU64>,
    /// Messages of this turn, in order.
    pending: Vec<Run>,
    tail: u64,
    pages: Pages,
    returned: BTreeMap<u64, Returned>,
    settled: Settled,
    overdue: Overdue,
    /// When the last of this turn's messages expire; 0 when none does.
    expires: u64,
    /// Every position that was ever handed out is below.
    delivered: u64,
    /// Delivery counts from before a restart, of positions at or above the cursor.
    attempts: BTreeMap<u64, u32>,
    /// Index entries, by last position, of which some messages were handed out and some are not settled.
    begun: BTreeMap<u64, Begun>,
    written: QueueState,
    purges: VecDeque<Purge>,
    gone: bool,
    /// Whether it is in the broker's list of queues that want a turn.
    pub(crate) listed: bool,
    /// Its consumers.
    pub(crate) consumers: BTreeSet<ConsumerId>,
    /// Whether its consumer wants no other beside it.
    pub(crate) exclusive_consumer: bool,
    /// Consumers with credit, in the order of their turns.
    hungry: VecDeque<ConsumerId>,
    /// What it counts.
    pub(crate) counters: Counters,
}

/// What a queue counts; all but `ready` and `unsettled` since the broker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) ready: u64,
    pub(crate) unsettled: u64,
    pub(crate) acked: u64,
    pub(crate) redelivered: u64,
    /// Messages the store no longer has, though nobody settled them.
    pub(crate) missing: u64,
    /// Messages that left it because their time was over.
    pub(crate) expired: u64,
}

/// Messages that were given back.
#[derive(Clone, Copy, Debug)]
struct Returned {
    run: Run,
    delivery_count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    first: u64,
    unsettled: u64,
    /// As in [`IndexEntry`].
    expires: u64,
}

/// A request to remove what waits below a position.
#[derive(Debug)]
struct Purge {
    below: u64,
    removed: u64,
    reply_to: (ConnectionId, u64),
}

/// Messages that can be handed out now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) position: u64,
    pub(crate) run: Run,
    pub(crate) delivery_count: u32,
    pub(crate) redelivered: bool,
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new(id: QueueId, durable: bool, page_runs: usize) -> Queue {
        Queue::restored(id, durable, QueueState::default(), Settled::default(), page_runs)
    }

    fn restored(id: QueueId, durable: bool, state: QueueState, settled: Settled, page_runs: usize) -> Queue {
        let (head, tail) = (settled.head(), state.tail.0);
        let counters = Counters {
            ready: tail - head - settled.above_head(),
            ..Counters::default()
        };
        Queue {
            id,
            durable,
            sync: Some(Duration::ZERO),
            message_ttl: None,
            pending: Vec::new(),
            tail,
            pages: Pages::new(head, tail, if durable { page_runs } else { usize::MAX }),
            returned: BTreeMap::new(),
            settled,
            overdue: Overdue::default(),
            expires: 0,
            delivered: state.delivered.0,
            attempts: BTreeMap::new(),
            begun: BTreeMap::new(),
            written: state,
            purges: VecDeque::new(),
            gone: false,
            listed: false,
            consumers: BTreeSet::new(),
            exclusive_consumer: false,
            hungry: VecDeque::new(),
            counters,
        }
    }

    /// A queue as the store has it, or what is wrong with it, as the end of a sentence.
    pub(crate) fn restore(
        id: QueueId,
        state: QueueState,
        blocks: &[(u64, roaring::RoaringBitmap)],
        attempts: BTreeMap<u64, u32>,
        page_runs: usize,
    ) -> Result<Queue, &'static str> {
        if state.head > state.tail || state.delivered > state.tail || state.tail.0 > u64::MAX / 2 {
            return Err("its head, delivered mark and tail are not in order");
        }
        if state.stream.is_some() {
            return Err("it is a work queue and has the state of a stream");
        }
        let mut settled = Settled::new(state.head.0);
        for (block, bitmap) in blocks {
            if !settled.restore_block(*block, bitmap, state.tail.0) {
                return Err("positions beyond its tail are marked as settled");
            }
        }
        settled.restored();
        let mut queue = Queue::restored(id, true, state, settled, page_runs);
        queue.attempts = attempts;
        Ok(queue)
    }

    /// Whether it is on disk.
    pub(crate) fn durable(&self) -> bool {
        self.durable
    }

    /// Whether it was deleted and only its messages are still being released.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether it has no messages, waiting or unsettled.
    pub(crate) fn is_empty(&self) -> bool {
        self.counters.ready == 0 && self.counters.unsettled == 0
    }

    /// Messages ever put in.
    pub(crate) fn published(&self) -> u64 {
        self.tail
    }

    /// The position the next message gets.
    pub(crate) fn tail(&self) -> Position {
        Position(self.tail)
    }

    /// First and last position of the index entry that is made of this turn's messages, of which there are some.
    pub(crate) fn entry_of_turn(&self) -> (Position, Position) {
        let count: u64 = self.pending.iter().map(|run| u64::from(run.count)).sum();
        (Position(self.tail - count), Position(self.tail.saturating_sub(1)))
    }

    /// Some of this turn's messages expire then.
    pub(crate) fn expires_at(&mut self, at: u64) {
        self.expires = self.expires.max(at);
    }

    /// Puts a message at the tail.
    pub(crate) fn push(&mut self, run: Run) {
        self.tail += u64::from(run.count);
        self.counters.ready += u64::from(run.count);
        match self.pending.last_mut() {
            Some(last) if last.chunk == run.chunk && last.record + last.count == run.record => {
                last.count += run.count;
            }
            _ => self.pending.push(run),
        }
    }

    /// Writes the index entry of this turn's messages and makes them ready to be handed out.
    pub(crate) fn index(&mut self, commit: &mut Commit) {
        if self.pending.is_empty() {
            return;
        }
        let expires = std::mem::take(&mut self.expires);
        self.pages.push(&self.pending, expires);
        if !self.durable {
            self.pending.clear();
            return;
        }
        let entry = IndexEntry {
            first: Position(self.written.tail.0),
            runs: std::mem::take(&mut self.pending),
            time: 0,
            bytes: 0,
            expires,
        };
        commit.records.push(Record::Index {
            queue: self.id,
            entry,
        });
    }

    /// Writes where the queue stands, if that changed in this turn.
    pub(crate) fn write(&mut self, commit: &mut Commit) {
        if !self.durable {
            return;
        }
        self.settled.write_blocks(self.id, commit);
        let state = QueueState {
            head: Position(self.settled.head()),
            tail: Position(self.tail),
            delivered: Position(self.delivered),
            stream: None,
        };
        if state != self.written {
            self.written = state;
            commit.records.push(Record::QueueState {
                queue: self.id,
                state,
            });
        }
    }

    /// Takes in what the store read of its index.
    pub(crate) fn index_read(&mut self, from: Position, entries: Vec<IndexEntry>) {
        self.pages.fill(from, entries);
    }

    /// The messages that are to be handed out next: returned ones first, by position. `None` when they are in the
    /// store, or there are none.
    fn ready(&mut self, commit: &mut Commit) -> Option<Ready> {
        if let Some((&position, returned)) = self.returned.first_key_value() {
            return Some(Ready {
                position,
                run: returned.run,
                delivery_count: returned.delivery_count,
                redelivered: true,
            });
        }
        loop {
            let next = match self.pages.next() {
                Next::InStore => {
                    self.pages.read(self.id, commit);
                    return None;
                }
                Next::End => {
                    self.lose(self.tail);
                    return None;
                }
                Next::Run(placed) => placed,
            };
            self.lose(next.position);
            if let Some(end) = self.settled.end_of(next.position) {
                let end = end.min(next.position + u64::from(next.run.count));
                self.pages.advance(end);
                continue;
            }
            self.begin(next.entry);
            return Some(self.uniform(next.position, next.run));
        }
    }

    /// The part of a run that has the same history.
    fn uniform(&self, position: u64, mut run: Run) -> Ready {
        let mut end = position + u64::from(run.count);
        if let Some(settled) = self.settled.next_after(position) {
            end = end.min(settled);
        }
        let redelivered = position < self.delivered;
        if redelivered {
            end = end.min(self.delivered);
        }
        let mut delivery_count = 0;
        if let Some((&known, &count)) = self.attempts.range(position..).next() {
            if known == position {
                delivery_count = count;
                end = end.min(position + 1);
            } else {
                end = end.min(known);
            }
        }
        run.count = (end - position) as u32;
        Ready {
            position,
            run,
            delivery_count,
            redelivered,
        }
    }

    /// Moves the cursor to `to`. Positions on the way that nobody settled are missing in the store: they are passed
    /// over and counted.
    fn lose(&mut self, to: u64) {
        while self.pages.cursor() < to {
            let from = self.pages.cursor();
            let end = self.settled.end_of(from);
            let until = end
                .unwrap_or_else(|| self.settled.next_after(from).unwrap_or(to))
                .min(to);
            if end.is_none() {
                self.settled.insert(from, until);
                self.counters.ready -= until - from;
                self.counters.missing += until - from;
            }
            self.pages.pass(until);
        }
    }

    /// Remembers an index entry until all of its messages are settled.
    fn begin(&mut self, entry: EntryRef) {
        let EntryRef { first, last, expires } = entry;
        if self.durable {
            let settled = &self.settled;
            self.begun.entry(last).or_insert_with(|| Begun {
                first,
                unsettled: last + 1 - first - settled.count_in(first, last + 1),
                expires,
            });
        }
    }

    /// Hands out the first `count` of what [`Queue::ready`] gave.
    fn hand_out(&mut self, ready: &Ready, count: u32) {
        let end = ready.position + u64::from(count);
        if let Some(mut returned) = self.returned.remove(&ready.position) {
            if count < returned.run.count {
                returned.run.record += count;
                returned.run.count -= count;
                self.returned.insert(end, returned);
            }
        } else {
            self.pages.advance(end);
            self.delivered = self.delivered.max(end);
            if ready.delivery_count > 0 {
                self.attempts.remove(&ready.position);
            }
        }
        self.counters.ready -= u64::from(count);
        self.counters.unsettled += u64::from(count);
        if ready.redelivered {
            self.counters.redelivered += u64::from(count);
        }
    }

    /// Messages that were handed out leave the queue.
    pub(crate) fn settle(
        &mut self,
        position: u64,
        run: Run,
        delivery_count: u32,
        log: &mut Log,
        commit: &mut Commit,
    ) {
        let end = position + u64::from(run.count);
        self.counters.unsettled -= u64::from(run.count);
        self.settled.insert(position, end);
        log.release(run);
        let done = if self.overdue.is_empty() {
            Vec::new()
        } else {
            self.overdue.settle(position, end)
        };
        if !self.durable {
            return;
        }
        let done = done.into_iter();
        commit
            .records
            .extend(done.map(|key| Record::Due { key, entry: None }));
        if delivery_count > 0 {
            self.write_attempts(position..end, None, commit);
        }
        self.close_entries(position, end, commit);
    }

    /// Counts `[position, end)` as settled in the index entries it lies in, and removes those that are done.
    fn close_entries(&mut self, mut position: u64, end: u64, commit: &mut Commit) {
        while position < end
            && let Some((&last, begun)) = self.begun.range_mut(position..).next()
        {
            let until = end.min(last + 1);
            begun.unsettled -= until - position.max(begun.first);
            position = until;
            if begun.unsettled == 0 {
                let expires = begun.expires;
                self.begun.remove(&last);
                self.remove_entry(last, expires, commit);
            }
        }
    }

    /// Removes an index entry of which everything is settled, and what would have expired of it.
    fn remove_entry(&self, last: u64, expires: u64, commit: &mut Commit) {
        let (queue, last) = (self.id, Position(last));
        commit.records.push(Record::IndexRemove { queue, last });
        if expires > 0 {
            let key = DueKey {
                at: expires,
                queue,
                number: DueNumber::Expire(last),
            };
            commit.records.push(Record::Due { key, entry: None });
        }
    }

    /// Messages that were handed out go back to their places, one delivery older.
    fn put_back(&mut self, position: u64, run: Run, delivery_count: u32, commit: &mut Commit) {
        let delivery_count = delivery_count.saturating_add(1);
        let count = u64::from(run.count);
        self.counters.unsettled -= count;
        self.counters.ready += count;
        self.returned.insert(position, Returned { run, delivery_count });
        if self.durable {
            self.write_attempts(position..position + count, Some(delivery_count), commit);
        }
    }

    fn write_attempts(&self, positions: std::ops::Range<u64>, count: Option<u32>, commit: &mut Commit) {
        if self.gone {
            return;
        }
        let records = positions.map(|position| Record::Attempts {
            queue: self.id,
            position: Position(position),
            count,
        });
        commit.records.extend(records);
    }

    /// Removes what waits now; the reply follows once it is done.
    pub(crate) fn purge(&mut self, reply_to: (ConnectionId, u64)) {
        self.purges.push_back(Purge {
            below: self.tail,
            removed: 0,
            reply_to,
        });
    }

    /// Marks it as deleted: from now on its turns only release what is in it. It has no consumers any more.
    pub(crate) fn delete(&mut self) {
        self.gone = true;
    }

    /// Answers the purges that its deletion overtook.
    pub(crate) fn end_purges(&mut self, commit: &mut Commit) {
        while !self.purges.is_empty() {
            self.reply_purged(commit);
        }
    }

    /// A consumer got credit and waits for its turn.
    pub(crate) fn queue_up(&mut self, consumer: ConsumerId) {
        self.hungry.push_back(consumer);
    }

    /// Forgets a consumer.
    pub(crate) fn leave(&mut self, consumer: ConsumerId) {
        self.consumers.remove(&consumer);
        self.hungry.retain(|&hungry| hungry != consumer);
        self.exclusive_consumer = false;
    }
}
