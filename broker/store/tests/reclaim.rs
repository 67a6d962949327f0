//! Space comes back: chunks that are mostly dead are rewritten, and nothing that a queue still names is lost by it.

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::entry;
use pointsman_core::commit::QueueState;
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References};
use pointsman_store::{Options, Reclaimer, Site, Store, StoreError};

/// Messages in a chunk.
const CHUNK: u64 = 500;

/// Everything counts: no slack, and small memtables.
fn options() -> Options {
    Options {
        memtable_bytes: 1024 * 1024,
        reclaim_slack_bytes: 0,
        ..Options::default()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap().0
}

fn figure(store: &Store, name: &str) -> u64 {
    store.figures().into_iter().find(|(n, _)| n == name).unwrap().1
}

fn body(offset: u64) -> Vec<u8> {
    format!("message {offset} ").into_bytes().repeat(6)
}

fn chunk(base: u64) -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    for offset in base..base + CHUNK {
        builder.push(ExchangeId(1), None, b"meta", &body(offset));
    }
    builder.finish()
}

/// Queues that all hold the same messages, at positions that are their offsets.
struct Queues {
    /// Unsettled positions of each.
    unsettled: Vec<BTreeSet<u64>>,
    messages: u64,
}

impl Queues {
    /// Publishes messages to so many queues.
    fn fill(store: &Store, queues: u32, messages: u64) -> Queues {
        for base in (0..messages).step_by(CHUNK as usize) {
            let mut records = vec![Record::Append {
                chunk: Arc::new(chunk(base)),
                references: References::uniform(CHUNK as u32, queues),
            }];
            for queue in 0..queues {
                let entry = entry(base, base, CHUNK as u32);
                let queue = QueueId(queue);
                records.push(Record::Index { queue, entry });
                let tail = Position(base + CHUNK);
                let state = QueueState {
                    tail,
                    ..QueueState::default()
                };
                records.push(Record::QueueState { queue, state });
            }
            store.apply(&[&records], false).unwrap();
        }
        Queues {
            unsettled: vec![(0..messages).collect(); queues as usize],
            messages,
        }
    }

    /// Settles messages of a queue, in one commit.
    fn settle(&mut self, store: &Store, queue: u32, offsets: impl IntoIterator<Item = u64>) {
        let unsettled = &mut self.unsettled[queue as usize];
        let mut records = Vec::new();
        let mut blocks = BTreeSet::new();
        for offset in offsets {
            assert!(unsettled.remove(&offset));
            blocks.insert(offset >> 16);
            records.push(Record::Release {
                lane: Lane::Queues,
                base: Offset(offset / CHUNK * CHUNK),
                record: (offset % CHUNK) as u32,
                count: 1,
            });
        }
        for block in blocks {
            let positions = (block << 16..(block + 1) << 16).take_while(|position| *position < self.messages);
            let settled = positions.filter(|position| !unsettled.contains(position));
            records.push(Record::AckBlock {
                queue: QueueId(queue),
                block,
                settled: Some(settled.map(|position| position as u16 as u32).collect()),
            });
        }
        store.apply(&[&records], false).unwrap();
    }

    /// Settles all but every so manieth.
    fn settle_but(&mut self, store: &Store, queue: u32, every: u64) {
        for base in (0..self.messages).step_by(5 * CHUNK as usize) {
            let end = self.messages.min(base + 5 * CHUNK);
            self.settle(store, queue, (base..end).filter(|offset| offset % every != 0));
        }
    }

    /// Every unsettled message is there with its body, and the store has nothing to complain about.
    fn check(&self, store: &Store) {
        let needed: BTreeSet<u64> = self.unsettled.iter().flatten().copied().collect();
        for base in (0..self.messages).step_by(CHUNK as usize) {
            let mut needed = needed.range(base..base + CHUNK).peekable();
            if needed.peek().is_none() {
                continue;
            }
            let read = store.read_chunk(Lane::Queues, Offset(base)).unwrap();
            for offset in needed {
                let message = read.get((offset - base) as u32).expect("the record was kept");
                assert_eq!(message.body, body(*offset));
            }
        }
        let report = store.verify().unwrap();
        assert!(report.is_sound(), "{report:?}");
        let unsettled = self.unsettled.iter().map(|unsettled| unsettled.len() as u64);
        assert!(report.queues.iter().map(|queue| queue.saved).eq(unsettled));
    }
}

/// Bytes of messages in the log that some queue names.
fn live_bytes(store: &Store) -> u64 {
    figure(store, "log_bytes") - figure(store, "dead_bytes")
}

#[test]
fn one_message_in_a_thousand_does_not_keep_the_others_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 1, 40_000);
    let before = figure(&store, "log_bytes");
    queues.settle_but(&store, 0, 1_000);
    assert!(figure(&store, "reclaim_debt_bytes") > 0);
    store.reclaim().unwrap();
    queues.check(&store);
    assert_eq!(figure(&store, "reclaim_debt_bytes"), 0);
    let live = live_bytes(&store);
    assert!(live * 500 < before, "{live} of {before} bytes live");
    // Tables have a little of their own.
    let tables = table_files(dir.path());
    assert!(tables < 2 * live + 64 * 1024, "{tables} bytes for {live}");
    drop(store);

    let store = open(dir.path());
    assert_eq!(live_bytes(&store), live);
    queues.check(&store);
    queues.settle(&store, 0, (0..40_000).step_by(1_000));
    assert_eq!(figure(&store, "log_bytes"), 0);
    for base in (0..40_000).step_by(CHUNK as usize) {
        let read = store.read_chunk(Lane::Queues, Offset(base));
        assert!(read.is_err(), "{base}");
    }
}

#[test]
fn a_chunk_is_rewritten_again_when_more_of_it_died() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut queues = Queues::fill(&store, 1, 2_000);
    for every in [2, 5, 7] {
        let left: Vec<u64> = queues.unsettled[0].iter().copied().collect();
        queues.settle(&store, 0, left.into_iter().filter(|offset| offset % every != 0));
        store.reclaim().unwrap();
        queues.check(&store);
        drop(store);
        store = open(dir.path());
    }
    assert_eq!(queues.unsettled[0].len(), 2_000usize.div_ceil(2 * 5 * 7));
}

#[test]
fn a_slow_queue_keeps_what_fast_ones_beside_it_have_settled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 3, 10_000);
    queues.settle_but(&store, 0, 10_001);
    queues.settle_but(&store, 1, 25);
    store.reclaim().unwrap();
    assert_eq!(figure(&store, "chunks_rewritten"), 0, "queue 2 names all of them");
    queues.settle_but(&store, 2, 10);
    store.reclaim().unwrap();
    assert!(figure(&store, "chunks_rewritten") > 0);
    queues.check(&store);
    drop(store);
    let store = open(dir.path());
    queues.check(&store);
    for queue in 0..3 {
        let left: Vec<u64> = queues.unsettled[queue as usize].iter().copied().collect();
        queues.settle(&store, queue, left);
    }
    assert_eq!(figure(&store, "log_bytes"), 0);
}

#[test]
fn a_queue_consumed_in_order_is_never_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 1, 10_000);
    // Groups that do not end where chunks do.
    for first in (0..10_000).step_by(130) {
        queues.settle(&store, 0, first..(first + 130).min(10_000));
        store.reclaim().unwrap();
    }
    // The one chunk that is partly dead may be, now and then, because here nothing is too little.
    let rewritten = figure(&store, "chunks_rewritten");
    assert!(rewritten <= 10_000 / CHUNK, "{rewritten}");

    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let mut queues = Queues::fill(&store, 1, 10_000);
    for first in (0..10_000).step_by(130) {
        queues.settle(&store, 0, first..(first + 130).min(10_000));
        store.reclaim().unwrap();
    }
    assert_eq!(figure(&store, "chunks_rewritten"), 0);
}

#[test]
fn a_failure_while_rewriting_leaves_either_form_of_each_chunk() {
    for site in [Site::Rewrite, Site::Write] {
        for skip in [0, 1] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let mut queues = Queues::fill(&store, 2, 40_000);
            queues.settle_but(&store, 0, 3);
            queues.settle_but(&store, 1, 10);
            store.sync().unwrap();
            store.faults().fail(site, skip, ErrorKind::StorageFull);
            assert!(matches!(store.reclaim(), Err(StoreError::DiskFull)), "{site:?}");
            let told = store.apply(&[], true);
            assert!(
                matches!(told, Err(StoreError::DiskFull)),
                "who commits is told why"
            );
            assert!(matches!(store.apply(&[], true), Err(StoreError::Stopped(_))));
            drop(store);
            let store = open(dir.path());
            queues.check(&store);
            store.reclaim().unwrap();
            assert_eq!(figure(&store, "reclaim_debt_bytes"), 0);
            queues.check(&store);
        }
    }
}

#[test]
fn a_crash_after_rewriting_loses_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 1, 10_000);
    queues.settle_but(&store, 0, 4);
    store.flush().unwrap();
    store.reclaim().unwrap();
    queues.settle(&store, 0, (0..10_000).step_by(8));
    let (log, dead) = (figure(&store, "log_bytes"), figure(&store, "dead_bytes"));
    // A store whose write failed writes nothing more, not even when it closes; settlements alone wait to be written.
    store.sync().unwrap();
    store.faults().fail(Site::Write, 0, ErrorKind::Other);
    store.apply(&[], false).unwrap_err();
    drop(store);

    let store = open(dir.path());
    queues.check(&store);
    assert_eq!(
        (figure(&store, "log_bytes"), figure(&store, "dead_bytes")),
        (log, dead)
    );
    store.reclaim().unwrap();
    queues.check(&store);
}

#[test]
fn the_thread_reclaims_beside_commits_and_loses_no_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 2, 20_000);
    let reclaimer = Reclaimer::start(store.clone()).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    while queues.unsettled[0].len() > 500 {
        let queue = random.u32(..2);
        let unsettled: Vec<u64> = queues.unsettled[queue as usize].iter().copied().collect();
        let settled: BTreeSet<u64> = (0..unsettled.len().min(400))
            .map(|_| unsettled[random.usize(..unsettled.len())])
            .collect();
        queues.settle(&store, queue, settled);
    }
    while figure(&store, "reclaim_debt_bytes") > 0 {
        std::thread::yield_now();
    }
    reclaimer.stop();
    assert!(figure(&store, "chunks_rewritten") > 0);
    queues.check(&store);
    for queue in 0..2 {
        let left: Vec<u64> = queues.unsettled[queue as usize].iter().copied().collect();
        queues.settle(&store, queue, left);
    }
    assert_eq!(
        (figure(&store, "log_bytes"), figure(&store, "dead_bytes")),
        (0, 0)
    );
}

/// Bytes of the log's tables as the system sees them, with those fjall has merged and not deleted yet.
fn table_files(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("fjall/keyspaces/1/tables")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_drained_log_takes_no_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut queues = Queues::fill(&store, 1, 40_000);
    store.flush().unwrap();
    assert!(table_files(dir.path()) > 1024 * 1024);
    queues.settle_but(&store, 0, 40_001);
    queues.settle(&store, 0, [0]);
    store.reclaim().unwrap();
    assert!(table_files(dir.path()) < 64 * 1024);
}

#[test]
fn a_message_that_was_dropped_though_a_queue_names_it_is_reported_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    Queues::fill(&store, 1, CHUNK);
    let mut references = References::uniform(CHUNK as u32, 1);
    references.release(3, 2);
    let sparse = Arc::new(chunk(0).without_dead(&references));
    let wrong = Record::Append {
        chunk: sparse,
        references,
    };
    store.apply(&[&[wrong]], true).unwrap();
    let report = store.verify().unwrap();
    assert_eq!(
        (report.queues[0].lost.len(), &report.queues[0].lost[0]),
        (1, &(3..5))
    );
    assert_eq!(report.queues[0].saved, CHUNK - 2);
    assert!(!report.is_sound());
}
