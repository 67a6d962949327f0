//! The store: a batch made durable, and read back.

use std::hint::black_box;
use std::sync::Arc;

use pointsman_core::commit::{IndexEntry, QueueState, Run};
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References};
use pointsman_store::{Options, Store};
use tempfile::TempDir;

use crate::segment::{BATCH, BODY, Limit, Segment, Work};

const QUEUE: QueueId = QueueId(1);

/// Batches that were written and not settled, as behind a consumer that keeps up; and those that are read back.
const BEHIND: u64 = 64;
const STORED: u64 = 2_048;
/// Index entries that are read at once.
const ENTRIES: u64 = 64;

pub(crate) fn segments() -> Vec<Segment> {
    vec![
        Segment::new("store: commit, synced", BATCH, Limit::Sync(BODY), || {
            Committing::new(true)
        }),
        Segment::new("store: commit, not synced", BATCH, Limit::Append(BODY), || {
            Committing::new(false)
        }),
        Segment::new("store: read a chunk", BATCH, Limit::Read(BODY), Reading::new),
        // For one entry, which stands for a batch.
        Segment::new(
            "store: read an index entry",
            ENTRIES as usize,
            Limit::Read(24),
            || Looking(Reading::new()),
        ),
    ]
}

/// A store in a folder of its own.
pub(crate) fn open() -> (Store, pointsman_core::Restored, TempDir) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (store, restored) = Store::open(&folder.path().join("store"), Options::default()).expect("it opens");
    (store, restored, folder)
}

struct Committing {
    store: Store,
    synced: bool,
    next: u64,
    records: Vec<Record>,
    _folder: TempDir,
}

impl Committing {
    fn new(synced: bool) -> Committing {
        let (store, _, folder) = open();
        Committing {
            store,
            synced,
            next: 0,
            records: Vec::new(),
            _folder: folder,
        }
    }
}

impl Work for Committing {
    fn prepare(&mut self) {
        self.records = batch(self.next);
        self.next += 1;
    }
    fn run(&mut self) {
        self.store
            .apply(&[&self.records], self.synced)
            .expect("it is written");
    }
}

/// A store with many batches on disk.
struct Reading {
    store: Store,
    next: u64,
    _folder: TempDir,
}

impl Reading {
    fn new() -> Reading {
        let (store, _, folder) = open();
        for number in 0..STORED {
            let records = &batch(number)[..3];
            store.apply(&[records], false).expect("it is written");
        }
        store.flush().expect("it is written");
        Reading {
            store,
            next: 0,
            _folder: folder,
        }
    }
}

impl Work for Reading {
    fn prepare(&mut self) {
        self.next = (self.next + 911) % STORED;
    }
    fn run(&mut self) {
        let chunk = self
            .store
            .read_chunk(Lane::Queues, Offset(self.next * BATCH as u64));
        assert_eq!(chunk.expect("it is there").count(), BATCH as u32);
    }
}

struct Looking(Reading);

impl Work for Looking {
    fn prepare(&mut self) {
        self.0.next = (self.0.next + 911) % (STORED - ENTRIES);
    }
    fn run(&mut self) {
        let from = Position(self.0.next * BATCH as u64);
        let to = Position((self.0.next + ENTRIES) * BATCH as u64);
        let entries = self.0.store.read_index(QUEUE, from, to, ENTRIES as usize);
        assert_eq!(
            black_box(entries).expect("they are there").len(),
            ENTRIES as usize
        );
    }
}

/// The records of a batch and, once enough lie behind it, of settling an old one.
fn batch(number: u64) -> Vec<Record> {
    let count = BATCH as u64;
    let first = number * count;
    let head = number.saturating_sub(BEHIND) * count;
    let run = |first| Run {
        lane: Lane::Queues,
        chunk: Offset(first),
        record: 0,
        count: BATCH as u32,
    };
    let entry = IndexEntry {
        first: Position(first),
        runs: vec![run(first)],
        time: 0,
        bytes: 0,
        expires: 0,
    };
    let state = QueueState {
        head: Position(head),
        tail: Position(first + count),
        delivered: Position(head),
        stream: None,
    };
    let mut records = vec![
        Record::Append {
            chunk: Arc::new(chunk(first)),
            references: References::uniform(BATCH as u32, 1),
        },
        Record::Index { queue: QUEUE, entry },
        Record::QueueState { queue: QUEUE, state },
    ];
    if head > 0 {
        let settled = head - count;
        records.push(Record::Release {
            lane: Lane::Queues,
            base: Offset(settled),
            record: 0,
            count: BATCH as u32,
        });
        let last = Position(head - 1);
        records.push(Record::IndexRemove { queue: QUEUE, last });
    }
    records
}

fn chunk(first: u64) -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(first), 1_000);
    for _ in 0..BATCH {
        builder.push(ExchangeId(1), None, b"", &[b'x'; BODY]);
    }
    builder.finish()
}
