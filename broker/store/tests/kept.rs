//! Large parts of chunks stay in the write-ahead log, and their segments for as long as somebody names them.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{QUEUE, messages};
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, Record};
use pointsman_store::{Damage, OpenError, Options, Store, StoreError};

/// Length of a segment of the log, in bytes.
const SEGMENT: u64 = 16 * 1024 * 1024;

/// Length of a body, in bytes. Some 80 of them fill a segment.
const BODY: usize = 200_000;

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap().0
}

/// Without room for what is not needed.
fn tight() -> Options {
    Options {
        reclaim_slack_bytes: 0,
        ..Options::default()
    }
}

fn chunk(offset: u64) -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(offset), 1_000);
    let body = offset.to_be_bytes().repeat(BODY / 8);
    builder.push(ExchangeId(1), None, b"", &body);
    builder.finish()
}

/// A large message whose position is its offset.
fn publish(store: &Store, offset: u64) {
    store.apply(&[&messages(chunk(offset))], true).unwrap();
}

fn settle(store: &Store, offset: u64) {
    let release = Record::Release {
        lane: Lane::Queues,
        base: Offset(offset),
        record: 0,
        count: 1,
    };
    let last = Position(offset);
    let removed = Record::IndexRemove { queue: QUEUE, last };
    store.apply(&[&[release, removed]], true).unwrap();
}

/// Reads all of these chunks.
fn check(store: &Store, offsets: impl IntoIterator<Item = u64>) {
    for offset in offsets {
        let read = store.read_chunk(Lane::Queues, Offset(offset)).unwrap();
        assert_eq!(*read, chunk(offset), "chunk {offset}");
    }
}

fn figure(store: &Store, name: &str) -> u64 {
    store.figures().into_iter().find(|(n, _)| n == name).unwrap().1
}

/// The segments of the log, by number.
fn segments(dir: &Path) -> Vec<u64> {
    let files = fs::read_dir(dir.join("wal")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names
        .filter_map(|name| name.strip_suffix(".wal")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal/{number}.wal"))
}

#[test]
fn a_large_part_is_written_once_and_read_from_there_also_by_who_opens_the_store_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (0..400).for_each(|offset| publish(&store, offset));
    store.flush().unwrap();
    let bodies = 400 * BODY as u64;
    assert!(figure(&store, "flushed_bytes") < bodies / 100);
    assert_eq!(figure(&store, "log_table_bytes"), 0);
    assert!((bodies..bodies + bodies / 20).contains(&figure(&store, "kept_bytes")));
    check(&store, 0..400);
    drop(store);

    let store = open(dir.path());
    check(&store, 0..400);
    // What comes later is written behind them.
    (400..600).for_each(|offset| publish(&store, offset));
    store.flush().unwrap();
    check(&store, 0..600);
    let report = store.verify().unwrap();
    assert!(report.is_sound());
    assert_eq!(report.queues[0].saved, 600);
}

#[test]
fn a_segment_is_written_again_once_all_that_lies_in_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for offset in 0..2_000 {
        publish(&store, offset);
        if offset >= 200 {
            settle(&store, offset - 200);
        }
    }
    store.flush().unwrap();
    check(&store, 1_800..2_000);
    // 200 of 2,000 take three or four segments, and as many may be ready to be written again as there may be without them.
    let kept = figure(&store, "kept_segment_bytes") / SEGMENT;
    assert!((3..=4).contains(&kept), "{kept} are kept");
    let all = segments(dir.path()).len() as u64;
    assert!(all <= kept + 8, "{all} segments, {kept} are kept");
    assert_eq!(figure(&store, "journal_bytes"), all * SEGMENT);

    (1_800..2_000).for_each(|offset| settle(&store, offset));
    store.flush().unwrap();
    assert_eq!(figure(&store, "kept_segment_bytes"), 0);
    let read = store.read_chunk(Lane::Queues, Offset(1_900));
    assert!(matches!(read, Err(StoreError::Settled { .. })));
}

#[test]
fn what_little_lives_in_many_segments_is_moved_to_tables() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), tight()).unwrap();
    (0..800).for_each(|offset| publish(&store, offset));
    store.flush().unwrap();
    let left = |offset: &u64| offset.is_multiple_of(20);
    (0..800)
        .filter(|offset| !left(offset))
        .for_each(|offset| settle(&store, offset));
    // One flush moves no more than two segments' worth.
    for _ in 0..3 {
        store.flush().unwrap();
        check(&store, (0..800).filter(left));
    }
    let live = 40 * BODY as u64;
    assert!(figure(&store, "log_table_bytes") >= live / 2);
    assert!(figure(&store, "kept_segment_bytes") <= 2 * figure(&store, "kept_bytes"));
    drop(store);
    let store = open(dir.path());
    check(&store, (0..800).filter(left));
    let report = store.verify().unwrap();
    assert_eq!((report.chunks, report.damage), (40, vec![]));
    // They die there as others do.
    (0..800).filter(left).for_each(|offset| settle(&store, offset));
    store.reclaim().unwrap();
    store.flush().unwrap();
    assert_eq!(store.verify().unwrap().chunks, 0);
    assert_eq!(figure(&store, "kept_bytes"), 0);
}

#[test]
fn a_backup_holds_what_stays_in_the_log_and_needs_no_log_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    (0..100).for_each(|offset| publish(&store, offset));
    let backup = dir.path().join("backup");
    let copied = store.backup(&backup).unwrap();
    assert_eq!(copied.chunks, 100);
    (0..100).for_each(|offset| settle(&store, offset));
    let to = dir.path().join("restored");
    Store::restore(&backup, &to).unwrap();
    check(&open(&to), 0..100);
}

#[test]
fn damage_to_a_kept_part_is_told_and_the_others_are_saved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data);
    (0..200).for_each(|offset| publish(&store, offset));
    store.flush().unwrap();
    drop(store);
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment(&data, 0))
        .unwrap();
    let mut begin = vec![0; SEGMENT as usize];
    file.read_exact_at(&mut begin, 0).unwrap();
    let body = 7u64.to_be_bytes().repeat(100);
    let at = begin
        .windows(body.len())
        .position(|window| window == body)
        .unwrap();
    file.write_all_at(&[1], at as u64).unwrap();

    let store = open(&data);
    let error = store.read_chunk(Lane::Queues, Offset(7)).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged(Damage::Chunk { base: Offset(7), .. })),
        "{error}"
    );
    check(&store, (0..7).chain(8..200));
    drop(store);
    let report = Store::examine(&data).unwrap();
    let lost: Vec<u64> = report.queues[0].lost.iter().cloned().flatten().collect();
    assert_eq!(lost, [7]);
    let repaired = Store::repair(&data).unwrap();
    assert_eq!(repaired.report, report);
    check(&open(&data), (0..7).chain(8..200));
}

#[test]
fn a_kept_segment_that_is_gone_is_a_loss_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data);
    (0..400).for_each(|offset| publish(&store, offset));
    store.flush().unwrap();
    drop(store);
    fs::remove_file(segment(&data, 1)).unwrap();
    let opened = Store::open(&data, Options::default());
    let Err(OpenError::Damaged { damage, .. }) = opened else {
        panic!("it opened");
    };
    assert_eq!(damage, Damage::SegmentMissing { segment: 1 });
    let repaired = Store::repair(&data).unwrap().report.queues[0].clone();
    let lost = repaired.lost_count();
    // 83 are in one segment, if none lies in two.
    assert!((80..=90).contains(&lost), "{lost} are lost");
    assert_eq!(repaired.saved + lost, 400);
}
