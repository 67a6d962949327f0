//! One stream: messages numbered for ever, read by any number of readers, and dropped from the head by retention only.
//!
//! ```text
//! head ......................... recent ............ tail
//!   |  in the store only           |  in memory as well |
//! ```
//!
//! Messages lie in *entries*, one for each chunk of a turn: what the store's index has under one key, what has one
//! time, and what retention drops at once. In memory are the last entries, which all readers at the tail share
//! ([`recent`](page)), a few of the first where retention looks at their age, and of each reader behind the last ones
//! a few from where it is ([`readers`]). All of them are bounded in runs, so that a stream needs as much memory
//! whatever its length.

mod page;
mod readers;
mod retention;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pointsman_protocol::admin::{Reply, Retention, StreamInfo};

use crate::commit::{Commit, Effect, IndexEntry, QueueState, Record, Run, StreamState};
use crate::ids::*;
use crate::limits::STREAM_PAGE_RUNS;
use crate::queue::Counters;
use page::Page;
use readers::Reader;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    id: QueueId,
    retention: Retention,
    /// How long after they are written its messages must be synced.
    pub(crate) sync: Option<Duration>,
    /// The first offset that is there.
    head: u64,
    /// The offset of the next message.
    tail: u64,
    /// Bytes of metadata and bodies from head to tail.
    bytes: u64,
    /// Of the last entry, in milliseconds since the Unix epoch.
    time: u64,
    /// Entries of this turn, in order, without their time.
    pending: Vec<IndexEntry>,
    /// The next message begins an entry: a purge ends before it.
    cut: bool,
    /// The last entries before the tail.
    recent: Page,
    /// Entries from the head on, where they were read back for retention.
    oldest: VecDeque<Arc<IndexEntry>>,
    /// Reads of the index that were not answered yet, by their first position.
    asked: BTreeMap<u64, Asked>,
    readers: BTreeMap<ConsumerId, Reader>,
    /// Readers that look for the time they start at.
    seeking: Vec<ConsumerId>,
    /// Readers with credit that may get something now, in the order of their turns.
    hungry: VecDeque<ConsumerId>,
    /// Readers with credit that wait for the store.
    waiting: Vec<ConsumerId>,
    /// Readers with credit that have everything.
    at_end: Vec<ConsumerId>,
    written: QueueState,
    purges: VecDeque<Purge>,
    gone: bool,
    page_runs: usize,
    /// When retention has to look at it, in milliseconds since the Unix epoch.
    pub(crate) due: Option<u64>,
    /// Whether it is in the broker's list of queues that want a turn.
    pub(crate) listed: bool,
    /// Whether its reader wants no other beside it.
    pub(crate) exclusive_consumer: bool,
    unsettled: u64,
    acked: u64,
    missing: u64,
}

/// A read of the index.
#[derive(Debug)]
struct Asked {
    to: u64,
    by: BTreeSet<Asker>,
}

/// Who needs what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    Retention,
    Reader(ConsumerId),
}

/// A request to drop everything below an offset.
#[derive(Debug)]
struct Purge {
    below: u64,
    removed: u64,
    reply_to: (ConnectionId, u64),
}

impl Stream {
    /// An empty stream.
    pub(crate) fn new(id: QueueId, retention: Retention, page_runs: usize) -> Stream {
        Stream::restored(
            id,
            retention,
            QueueState::default(),
            StreamState::default(),
            page_runs,
        )
    }

    fn restored(
        id: QueueId,
        retention: Retention,
        queue: QueueState,
        stream: StreamState,
        page_runs: usize,
    ) -> Stream {
        Stream {
            id,
            retention,
            sync: Some(Duration::ZERO),
            head: queue.head.0,
            tail: queue.tail.0,
            bytes: stream.bytes,
            time: stream.time,
            pending: Vec::new(),
            cut: false,
            recent: Page::new(queue.tail.0, page_runs),
            oldest: VecDeque::new(),
            asked: BTreeMap::new(),
            readers: BTreeMap::new(),
            seeking: Vec::new(),
            hungry: VecDeque::new(),
            waiting: Vec::new(),
            at_end: Vec::new(),
            written: queue,
            purges: VecDeque::new(),
            gone: false,
            page_runs: page_runs.min(STREAM_PAGE_RUNS),
            due: None,
            listed: false,
            exclusive_consumer: false,
            unsettled: 0,
            acked: 0,
            missing: 0,
        }
    }

    /// A stream as the store has it, or what is wrong with it, as the end of a sentence.
    pub(crate) fn restore(
        id: QueueId,
        retention: Retention,
        state: QueueState,
        page_runs: usize,
    ) -> Result<Stream, &'static str> {
        let Some(stream) = state.stream else {
            return Err("it is a stream and has the state of a work queue");
        };
        if state.head > state.tail || state.tail.0 > u64::MAX / 2 {
            return Err("its head and tail are not in order");
        }
        Ok(Stream::restored(id, retention, state, stream, page_runs))
    }

    /// Whether it was deleted and only its messages are still being released.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether nothing is left of a deleted stream.
    pub(crate) fn is_drained(&self) -> bool {
        self.gone && self.head == self.tail
    }

    /// What there is in it.
    pub(crate) fn info(&self) -> StreamInfo {
        StreamInfo {
            first_offset: self.head,
            next_offset: self.tail,
            bytes: self.bytes,
        }
    }

    /// What it counts: messages that are there, and what its readers have of them.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            ready: self.tail - self.head,
            unsettled: self.unsettled,
            acked: self.acked,
            redelivered: 0,
            expired: 0,
            missing: self.missing,
        }
    }

    /// Messages ever put in.
    pub(crate) fn published(&self) -> u64 {
        self.tail
    }

    /// Puts messages of `len` bytes together at the tail.
    pub(crate) fn push(&mut self, run: Run, len: usize) {
        let first = Position(self.tail);
        self.tail += u64::from(run.count);
        self.bytes += len as u64;
        let open = self.pending.last_mut().filter(|_| !self.cut);
        self.cut = false;
        if let Some(entry) = open
            && entry.add(run)
        {
            entry.bytes += len as u64;
            return;
        }
        self.pending.push(IndexEntry {
            first,
            runs: vec![run],
            time: 0,
            bytes: len as u64,
            expires: 0,
        });
    }

    /// Writes the index entries of this turn's messages and wakes the readers that wait for them. Time never falls
    /// from one entry to the next, whatever the clock does, so that a time can be searched for.
    pub(crate) fn index(&mut self, now: u64, commit: &mut Commit) {
        if self.pending.is_empty() {
            return;
        }
        self.time = self.time.max(now);
        for mut entry in self.pending.drain(..) {
            entry.time = self.time;
            self.recent.push(Arc::new(entry.clone()));
            commit.records.push(Record::Index {
                queue: self.id,
                entry,
            });
        }
        self.hungry.extend(self.at_end.drain(..));
    }

    /// Writes where the stream stands, if that changed in this turn.
    pub(crate) fn write(&mut self, commit: &mut Commit) {
        let state = QueueState {
            head: Position(self.head),
            tail: Position(self.tail),
            delivered: Position(0),
            stream: Some(StreamState {
                bytes: self.bytes,
                time: self.time,
            }),
        };
        if (state.head, state.tail) != (self.written.head, self.written.tail) {
            self.written = state;
            commit.records.push(Record::QueueState {
                queue: self.id,
                state,
            });
        }
    }

    /// Asks the store for entries from a position on, unless it was asked already.
    fn ask(&mut self, from: u64, to: u64, runs_max: usize, by: Asker, commit: &mut Commit) {
        let asked = self.asked.entry(from).or_insert_with(|| {
            commit.effects.push(Effect::ReadIndex {
                queue: self.id,
                from: Position(from),
                to: Position(to),
                runs_max,
            });
            Asked {
                to,
                by: BTreeSet::new(),
            }
        });
        asked.by.insert(by);
    }

    /// Takes in what the store read of its index. Entries out of order end the answer: what they would have held
    /// counts as missing, like offsets that no entry names.
    pub(crate) fn index_read(&mut self, from: Position, entries: Vec<IndexEntry>) {
        let Some(asked) = self.asked.remove(&from.0) else {
            return;
        };
        let mut next = 0;
        let in_order = entries.into_iter().map_while(|entry| {
            let end = entry.first.0.checked_add(entry.count())?;
            let fits = entry.first.0 >= next && end > from.0.max(entry.first.0) && end <= self.tail;
            next = end;
            fits.then(|| Arc::new(entry))
        });
        let entries: Vec<Arc<IndexEntry>> = in_order.collect();
        for by in asked.by {
            match by {
                Asker::Retention => self.take_oldest(from.0, asked.to, &entries),
                Asker::Reader(id) => {
                    if let Some(reader) = self.readers.get_mut(&id) {
                        reader.take(from.0, asked.to, &entries);
                    }
                }
            }
        }
    }

    /// Drops what is there now; the reply follows once that is done.
    pub(crate) fn purge(&mut self, reply_to: (ConnectionId, u64)) {
        self.cut = true;
        self.purges.push_back(Purge {
            below: self.tail,
            removed: 0,
            reply_to,
        });
    }

    /// Marks it as deleted: from now on its turns only release what is in it. It has no readers any more.
    pub(crate) fn delete(&mut self) {
        self.gone = true;
    }

    /// Answers the purges that its deletion overtook.
    pub(crate) fn end_purges(&mut self, commit: &mut Commit) {
        while !self.purges.is_empty() {
            self.reply_purged(commit);
        }
    }

    fn reply_purged(&mut self, commit: &mut Commit) {
        if let Some(purge) = self.purges.pop_front() {
            let (connection, id) = purge.reply_to;
            commit.sync_within(self.sync);
            commit.effects.push(Effect::Reply {
                connection,
                id,
                reply: Reply::Purged(purge.removed),
            });
        }
    }
}
