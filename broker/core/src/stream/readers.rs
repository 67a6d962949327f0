//! The readers of a stream: where each is, how it gets there, and what it is handed out.
//!
//! A reader removes nothing. It gets entries from the page it shares with all others when it is near the tail, and
//! from a page of its own, filled from the store, when it is not.

use std::collections::VecDeque;
use std::sync::Arc;

use pointsman_protocol::consume::{Settlement, StartAt};

use super::page::Page;
use super::{Asker, Stream};
use crate::chunk::Chunk;
use crate::commit::{Commit, Effect, IndexEntry, Place, Run};
use crate::consumer::{Consumer, Unsettled};
use crate::ids::{ConsumerId, DeliveryTag, Position};
use crate::limits::STREAM_CHUNKS_AHEAD;
use crate::queue::Turn;

/// Where a reader is.
#[derive(Debug)]
pub(super) struct Reader {
    /// The next offset it gets, or the head when that is behind.
    cursor: u64,
    /// A time it looks for before it is open.
    seek: Option<Seek>,
    /// Entries from the cursor on, read back from the store.
    page: VecDeque<Arc<IndexEntry>>,
}

/// A binary search for the first entry of a time or later: entries below `low` are earlier, those from `high` on are
/// not.
#[derive(Debug)]
struct Seek {
    tag: String,
    time: u64,
    low: u64,
    high: u64,
}

/// What a reader gets next.
enum Next {
    /// It holds the cursor.
    Entry(Arc<IndexEntry>),
    /// The store was asked.
    InStore,
    /// It has everything.
    End,
}

impl Reader {
    fn at(cursor: u64) -> Reader {
        Reader {
            cursor,
            seek: None,
            page: VecDeque::new(),
        }
    }

    /// Takes in what the store has from a position it asked for on, up to `to`.
    pub(super) fn take(&mut self, from: u64, to: u64, entries: &[Arc<IndexEntry>]) {
        if let Some(seek) = &mut self.seek {
            seek.take(from, entries.first().map(Arc::as_ref));
        } else if from <= self.cursor && self.page.is_empty() {
            self.page.extend(entries.iter().cloned());
            if entries.is_empty() {
                self.cursor = self.cursor.max(to);
            }
        }
    }
}

impl Seek {
    /// Searches as far as that goes in memory. Returns the position whose entry the store has to be asked for, or
    /// `None` when `low` is what was searched for.
    fn search(&mut self, head: u64, recent: &Page) -> Option<u64> {
        self.low = self.low.max(head);
        while self.low < self.high {
            let middle = self.low + (self.high - self.low) / 2;
            if middle < recent.first() {
                return Some(middle);
            }
            self.take(middle, recent.find(middle).map(Arc::as_ref));
        }
        None
    }

    /// Narrows the search by the first entry that ends at or behind `middle`.
    fn take(&mut self, middle: u64, entry: Option<&IndexEntry>) {
        match entry {
            Some(entry) if entry.time < self.time => self.low = self.low.max(entry.last().0 + 1),
            Some(entry) => self.high = self.high.min(middle).min(entry.first.0),
            None => self.high = self.high.min(middle),
        }
    }
}

fn opened(consumer: ConsumerId, tag: String, offset: u64) -> Effect {
    Effect::ConsumerOpened {
        consumer,
        tag,
        offset: Some(offset),
    }
}

/// Hands consecutive messages of a chunk to a consumer, which has paid for them.
fn deliver(consumer: &mut Consumer, chunk: &Arc<Chunk>, run: Run, place: Place, commit: &mut Commit) {
    let first = consumer.next_tags(run.count);
    commit.effects.push(Effect::Deliver {
        consumer: consumer.id,
        first: DeliveryTag(first),
        chunk: Arc::clone(chunk),
        record: run.record,
        count: run.count,
        redelivered: false,
        delivery_count: 0,
        place: Some(place),
    });
    if !consumer.no_ack {
        let deliveries = Unsettled {
            position: place.offset.0,
            run,
            delivery_count: 0,
        };
        consumer.hold(first, deliveries);
    }
}

impl Stream {
    /// Number of readers.
    pub(crate) fn readers(&self) -> usize {
        self.readers.len()
    }

    /// The readers.
    pub(crate) fn reader_ids(&self) -> impl Iterator<Item = ConsumerId> {
        self.readers.keys().copied()
    }

    /// Adds a reader and tells it where it starts, once that is looked up.
    pub(crate) fn open(&mut self, id: ConsumerId, tag: String, start: StartAt, commit: &mut Commit) {
        let cursor = match start {
            StartAt::First => self.head,
            StartAt::Last => self.tail.saturating_sub(1).max(self.head),
            StartAt::Next | StartAt::Timestamp(_) => self.tail,
            StartAt::Offset(offset) => offset.max(self.head),
        };
        let mut reader = Reader::at(cursor);
        if let StartAt::Timestamp(time) = start {
            reader.seek = Some(Seek {
                tag,
                time,
                low: self.head,
                high: self.tail,
            });
            self.seeking.push(id);
        } else {
            commit.effects.push(opened(id, tag, cursor));
        }
        self.readers.insert(id, reader);
    }

    /// A reader got credit and waits for its turn.
    pub(crate) fn queue_up(&mut self, id: ConsumerId) {
        self.hungry.push_back(id);
    }

    /// Deliveries were settled. Whatever became of them, the messages stay.
    pub(crate) fn settle(&mut self, count: u64, how: Settlement) {
        self.unsettled -= count;
        if how == Settlement::Ack {
            self.acked += count;
        }
    }

    /// Forgets a reader.
    pub(crate) fn leave(&mut self, id: ConsumerId) {
        self.readers.remove(&id);
        self.hungry.retain(|&other| other != id);
        self.seeking.retain(|&other| other != id);
        self.waiting.retain(|&other| other != id);
        self.at_end.retain(|&other| other != id);
        self.exclusive_consumer = false;
    }

    /// Hands out, an entry at a time and one reader after the other, until credit, messages or the turn's deliveries
    /// run out. Returns whether there is more to do that waits for nothing.
    pub(super) fn deliver_turn(&mut self, turn: &mut Turn<'_>) -> bool {
        self.hungry.extend(self.waiting.drain(..));
        let mut budget = turn.bounds.deliveries_per_turn as u32;
        while let Some(id) = self.hungry.pop_front() {
            if budget == 0 {
                self.hungry.push_front(id);
                return true;
            }
            budget -= self.serve(id, budget, turn);
        }
        false
    }

    /// Whether a turn could hand something out.
    pub(crate) fn has_takers(&self) -> bool {
        !self.hungry.is_empty() || !self.waiting.is_empty()
    }

    /// Hands one reader what it can have of one entry, and puts it where it waits for more. Returns how many messages
    /// it got.
    fn serve(&mut self, id: ConsumerId, most: u32, turn: &mut Turn<'_>) -> u32 {
        if !turn.consumers.get(&id).is_some_and(Consumer::wants_more) {
            return self.rest(id, turn);
        }
        if self.seeking.contains(&id) {
            self.waiting.push(id);
            return 0;
        }
        let entry = match self.next(id, turn) {
            Next::Entry(entry) => entry,
            Next::InStore => {
                self.waiting.push(id);
                return 0;
            }
            Next::End => {
                self.at_end.push(id);
                return 0;
            }
        };
        let Some(run) = entry.runs.first() else {
            return 0; // no entry is empty
        };
        let (lane, base) = (run.lane, run.chunk);
        let chunk = turn.log.chunk(lane, base).map(Arc::clone);
        if chunk.is_none() && !turn.log.is_missing(lane, base) {
            self.read_chunks(id, &entry, turn);
            self.waiting.push(id);
            return 0;
        }
        let served = self.hand_out(id, &entry, chunk, most, turn);
        *turn.delivered += u64::from(served);
        self.hungry.push_back(id);
        served
    }

    /// A reader without credit waits for nothing.
    fn rest(&mut self, id: ConsumerId, turn: &mut Turn<'_>) -> u32 {
        if let Some(consumer) = turn.consumers.get_mut(&id) {
            consumer.hungry = false;
        }
        0
    }

    /// Goes on with the searches for a time. Readers that are where they should be are open.
    pub(super) fn seek(&mut self, commit: &mut Commit) {
        for id in std::mem::take(&mut self.seeking) {
            let Some(reader) = self.readers.get_mut(&id) else {
                continue;
            };
            let Some(seek) = &mut reader.seek else {
                continue;
            };
            match seek.search(self.head, &self.recent) {
                None => {
                    reader.cursor = seek.low;
                    commit
                        .effects
                        .push(opened(id, std::mem::take(&mut seek.tag), seek.low));
                    reader.seek = None;
                }
                Some(middle) => {
                    let high = seek.high;
                    self.ask(middle, high, 1, Asker::Reader(id), commit);
                    self.seeking.push(id);
                }
            }
        }
    }

    /// The entry that holds a reader's cursor. Offsets on the way that no entry names are missing in the store: they
    /// are passed over and counted, by each reader.
    fn next(&mut self, id: ConsumerId, turn: &mut Turn<'_>) -> Next {
        let (head, tail, recent) = (self.head, self.tail, &self.recent);
        let Some(reader) = self.readers.get_mut(&id) else {
            return Next::End;
        };
        reader.cursor = reader.cursor.max(head);
        while reader
            .page
            .front()
            .is_some_and(|entry| entry.last().0 < reader.cursor)
        {
            reader.page.pop_front();
        }
        if let Some(entry) = reader.page.front() {
            self.missing += entry.first.0.saturating_sub(reader.cursor);
            reader.cursor = reader.cursor.max(entry.first.0);
            return Next::Entry(Arc::clone(entry));
        }
        if reader.cursor >= tail {
            return Next::End;
        }
        if let Some(entry) = recent.find(reader.cursor) {
            return Next::Entry(Arc::clone(entry));
        }
        let (from, to, runs_max) = (reader.cursor, recent.first(), self.page_runs);
        self.ask(from, to, runs_max, Asker::Reader(id), turn.commit);
        Next::InStore
    }

    /// Hands a reader as many messages of an entry as its credit allows, but no more than `most`. Without the chunk
    /// they are missing.
    fn hand_out(
        &mut self,
        id: ConsumerId,
        entry: &IndexEntry,
        chunk: Option<Arc<Chunk>>,
        most: u32,
        turn: &mut Turn<'_>,
    ) -> u32 {
        let (Some(reader), Some(consumer)) = (self.readers.get_mut(&id), turn.consumers.get_mut(&id)) else {
            return 0;
        };
        let mut served = 0;
        let mut position = entry.first.0;
        for run in &entry.runs {
            let end = position + u64::from(run.count);
            while reader.cursor < end {
                let mut rest = *run;
                rest.record += (reader.cursor - position) as u32;
                rest.count = (end - reader.cursor) as u32;
                let there = chunk
                    .as_ref()
                    .map_or(0, |chunk| chunk.there_from(rest.record, rest.count));
                let Some(chunk) = chunk.as_ref().filter(|_| there > 0) else {
                    let missing = if chunk.is_some() { 1 } else { u64::from(rest.count) };
                    self.missing += missing;
                    reader.cursor += missing;
                    continue;
                };
                rest.count = consumer.spend(chunk, rest.record, there.min(most - served));
                if rest.count == 0 {
                    return served;
                }
                let place = Place {
                    offset: Position(reader.cursor),
                    time: entry.time,
                };
                deliver(consumer, chunk, rest, place, turn.commit);
                if consumer.no_ack {
                    self.acked += u64::from(rest.count);
                } else {
                    self.unsettled += u64::from(rest.count);
                }
                served += rest.count;
                reader.cursor += u64::from(rest.count);
            }
            position = end;
        }
        served
    }

    /// Asks for the chunk of an entry, and for some of those that follow.
    fn read_chunks(&mut self, id: ConsumerId, entry: &IndexEntry, turn: &mut Turn<'_>) {
        let mut ask = |entry: &IndexEntry, waiter| {
            if let Some(run) = entry.runs.first() {
                turn.log.read(run.lane, run.chunk, waiter, turn.commit);
            }
        };
        ask(entry, Some(self.id));
        let own = self.readers.get(&id).map(|reader| reader.page.iter());
        let own = own.into_iter().flatten().skip(1);
        let ahead = own.chain(self.recent.from(entry.last().0 + 1));
        ahead.take(STREAM_CHUNKS_AHEAD).for_each(|entry| ask(entry, None));
    }
}
