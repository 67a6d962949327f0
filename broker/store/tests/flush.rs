//! What waits in memory is read like what is in tables, and goes there without being lost, doubled or brought back.

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{QUEUE, entry, messages};
use pointsman_core::commit::IndexEntry;
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, Record};
use pointsman_store::{Options, Site, Store, StoreError};

/// Little memory, so that flushes come by themselves.
fn options() -> Options {
    Options {
        memtable_bytes: 64 * 1024,
        wal_bytes: 512 * 1024,
        ..Options::default()
    }
}

/// With chunks in tables, in the log, and moved from there to tables by the flush that comes next.
fn all_options() -> [Options; 3] {
    let in_log = Options {
        kept_min_bytes: 1_024,
        ..options()
    };
    let moved = Options {
        reclaim_slack_bytes: 0,
        ..in_log.clone()
    };
    [options(), in_log, moved]
}

fn open(dir: &Path, options: &Options) -> Store {
    Store::open(dir, options.clone()).unwrap().0
}

/// Two messages, at positions that are twice the chunk's offset and the one behind.
fn chunk(base: u64) -> Arc<Chunk> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    for n in 0..2 {
        builder.push(
            ExchangeId(1),
            None,
            b"",
            &(base * 2 + n).to_be_bytes().repeat(100),
        );
    }
    Arc::new(builder.finish())
}

fn settle(base: u64, record: u32, is_last: bool) -> Vec<Record> {
    let release = Record::Release {
        lane: Lane::Queues,
        base: Offset(base),
        record,
        count: 1,
    };
    let last = Position(base + 1);
    let gone = Record::IndexRemove { queue: QUEUE, last };
    std::iter::once(release).chain(is_last.then_some(gone)).collect()
}

/// What is unsettled, by the chunk's offset.
type Left = BTreeMap<u64, [bool; 2]>;

/// Reads everything, in pages of so many entries.
fn check(store: &Store, left: &Left, page: usize) {
    let mut found = Vec::new();
    let mut from = Position(0);
    loop {
        let entries = store.read_index(QUEUE, from, Position(u64::MAX), page).unwrap();
        let Some(last) = entries.last() else { break };
        from = Position(last.last().0 + 1);
        found.extend(entries);
    }
    let expected: Vec<IndexEntry> = left.keys().map(|base| entry(*base, *base, 2)).collect();
    assert!(found == expected, "{} of {} entries", found.len(), expected.len());
    for base in left.keys() {
        assert_eq!(
            store.read_chunk(Lane::Queues, Offset(*base)).unwrap(),
            chunk(*base)
        );
    }
}

/// Reads every table, and finds all that is left whole.
fn check_tables(store: &Store, left: &Left) {
    let report = store.verify().unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(report.queues[0].saved, 2 * left.len() as u64);
}

fn figure(store: &Store, name: &str) -> u64 {
    store.figures().into_iter().find(|(n, _)| n == name).unwrap().1
}

#[test]
fn whatever_comes_goes_and_is_flushed_in_between_what_is_read_is_what_is_left() {
    all_options().iter().for_each(come_and_go);
}

fn come_and_go(options: &Options) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), options);
    let seed = std::env::var("SEED").map_or(7, |seed| seed.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = Left::new();
    let mut next = 0;
    for step in 0..3_000 {
        match random.u32(..100) {
            0..55 => {
                store.apply(&[&messages(chunk(next))], random.bool()).unwrap();
                left.insert(next, [true; 2]);
                next += 2;
            }
            55..97 => {
                // Mostly what came last, as consumers that keep up do.
                let back = random.usize(..20) * random.usize(1..8);
                let Some((&base, unsettled)) = left.iter_mut().rev().nth(back) else {
                    continue;
                };
                let record = u32::from(!unsettled[0]);
                unsettled[record as usize] = false;
                let is_last = *unsettled == [false; 2];
                store.apply(&[&settle(base, record, is_last)], false).unwrap();
                if is_last {
                    left.remove(&base);
                    let read = store.read_chunk(Lane::Queues, Offset(base));
                    assert!(
                        matches!(read, Err(StoreError::Settled { .. })),
                        "seed {seed}, step {step}"
                    );
                }
            }
            97 => store.flush().unwrap(),
            98 => {
                drop(store);
                store = open(dir.path(), options);
            }
            _ => check(&store, &left, random.usize(1..50)),
        }
    }
    check(&store, &left, 1_000);
    store.flush().unwrap();
    check(&store, &left, 7);
    drop(store);
    let store = open(dir.path(), options);
    check(&store, &left, 1_000);
    check_tables(&store, &left);
    // Of what was settled nothing is left anywhere.
    let bytes: usize = left.keys().map(|base| chunk(*base).len()).sum();
    assert_eq!(figure(&store, "log_bytes"), bytes as u64);
}

#[test]
fn what_is_settled_before_a_flush_goes_to_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    for base in (0..2_000).step_by(2) {
        store.apply(&[&messages(chunk(base))], false).unwrap();
        store.apply(&[&settle(base, 0, false)], false).unwrap();
        store.apply(&[&settle(base, 1, true)], false).unwrap();
    }
    store.flush().unwrap();
    assert_eq!(figure(&store, "log_table_bytes"), 0);
    assert_eq!(figure(&store, "index_table_bytes"), 0);
    assert!(figure(&store, "state_table_bytes") < 4_096);
    check(&store, &Left::new(), 10);
}

#[test]
fn a_flush_that_fails_between_any_two_keyspaces_loses_and_brings_back_nothing() {
    let large = Options::default();
    let options = all_options().map(|options| Options {
        memtable_bytes: large.memtable_bytes,
        wal_bytes: large.wal_bytes,
        ..options
    });
    for (skip, options) in (0..7).flat_map(|skip| options.iter().map(move |options| (skip, options))) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), options);
        let mut left = Left::new();
        for base in (0..200).step_by(2) {
            store.apply(&[&messages(chunk(base))], true).unwrap();
            left.insert(base, [true; 2]);
        }
        store.flush().unwrap();
        for base in (0..100).step_by(2) {
            store.apply(&[&settle(base, 0, false)], true).unwrap();
            store.apply(&[&settle(base, 1, true)], true).unwrap();
            left.remove(&base);
        }
        for base in (200..300).step_by(2) {
            store.apply(&[&messages(chunk(base))], true).unwrap();
            left.insert(base, [true; 2]);
        }
        store.faults().fail(Site::Flush, skip, ErrorKind::StorageFull);
        assert!(matches!(store.flush(), Err(StoreError::DiskFull)));
        // Who commits next is told why.
        assert!(matches!(store.apply(&[], true), Err(StoreError::DiskFull)));
        assert!(matches!(store.apply(&[], true), Err(StoreError::Stopped(_))));
        check(&store, &left, 1_000);
        drop(store);
        let (store, restored) = Store::open(dir.path(), options.clone()).unwrap();
        assert_eq!(restored.next_offsets[0], Offset(300));
        check(&store, &left, 1_000);
        check_tables(&store, &left);
    }
}

#[test]
fn what_goes_to_tables_is_synced_before_and_nobody_waits_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options());
    let held = store.faults().hold(Site::Sync);
    let mut left = Left::new();
    let mut put = |bases: std::ops::Range<u64>| {
        for base in bases.step_by(2) {
            store.apply(&[&messages(chunk(base))], false).unwrap();
            left.insert(base, [true; 2]);
        }
    };
    put(0..100);
    assert!(held.wait(Duration::from_secs(20)), "nobody syncs");
    put(100..120);
    for table in ["log", "index", "state"] {
        assert_eq!(figure(&store, &format!("{table}_table_bytes")), 0, "{table}");
    }
    drop(held);
    store.flush().unwrap();
    check_tables(&store, &left);

    store.faults().fail(Site::Sync, 0, ErrorKind::Other);
    let told = (120..)
        .step_by(2)
        .take(1_000)
        .find_map(|base| store.apply(&[&messages(chunk(base))], false).err());
    assert!(matches!(told, Some(StoreError::Sync(_))), "{told:?}");
}

#[test]
fn whoever_commits_is_told_of_a_flush_that_failed_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options());
    store.faults().fail(Site::Flush, 2, ErrorKind::StorageFull);
    let failed = (0..)
        .step_by(2)
        .find_map(|base| store.apply(&[&messages(chunk(base))], true).err());
    assert!(matches!(failed, Some(StoreError::DiskFull)), "{failed:?}");
}

#[test]
fn the_log_is_as_long_as_what_is_not_in_tables_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &options());
    for base in (0..20_000).step_by(2) {
        store.apply(&[&messages(chunk(base))], false).unwrap();
    }
    store.flush().unwrap();
    let segments = figure(&store, "journals");
    // 80 MiB were written, 5 segments' worth.
    assert!(segments <= 3, "{segments} segments");
    assert_eq!(figure(&store, "journal_bytes"), segments * 16 * 1024 * 1024);
}
