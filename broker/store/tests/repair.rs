//! A repair saves what can be read, says exactly what it cannot, and never touches the damaged folder.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{QUEUE, message};
use pointsman_core::catalog::{Definition, DefinitionKey, NextIds};
use pointsman_core::commit::Run;
use pointsman_core::due::{DelayedRun, DueEntry, DueKey, DueNumber, ExpiringRun};
use pointsman_core::{
    Broker, ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References, VhostId,
};
use pointsman_store::{Damage, OpenError, Options, RepairError, Report, Store};

const MESSAGES: u64 = 200;

/// Larger than a block of a table and than a page, so that each message has its own.
fn body(offset: u64) -> Vec<u8> {
    offset.to_be_bytes().repeat(1_000)
}

fn define() -> Vec<Record> {
    let vhost = VhostId(1);
    let definitions = [
        (DefinitionKey::Vhost(vhost), Definition::Vhost("/".to_owned())),
        (
            DefinitionKey::Queue(QUEUE),
            Definition::durable_queue(vhost, "orders"),
        ),
        (
            DefinitionKey::Ids,
            Definition::Ids(NextIds {
                vhost: 2,
                queue: 2,
                ..NextIds::default()
            }),
        ),
    ];
    let definitions = definitions.into_iter();
    definitions
        .map(|(key, definition)| Record::Define {
            key: Box::new(key),
            definition: Some(Box::new(definition)),
        })
        .collect()
}

/// A closed store with [`MESSAGES`] messages, of which 3 and 5 are settled. Up to `flushed` they are in tables.
fn fill(dir: &Path, flushed: u64) -> PathBuf {
    let data = dir.join("store");
    let (store, _) = Store::open(&data, Options::default()).unwrap();
    store.apply(&[&define()], true).unwrap();
    for offset in 0..MESSAGES {
        store.apply(&[&message(offset, &body(offset))], true).unwrap();
        if offset == 10 {
            let settled = Some([3, 5].into_iter().collect());
            let block = 0;
            store
                .apply(
                    &[&[Record::AckBlock {
                        queue: QUEUE,
                        block,
                        settled,
                    }]],
                    true,
                )
                .unwrap();
        }
        if offset + 1 == flushed {
            store.flush().unwrap();
        }
    }
    data
}

/// Every file below a folder with its contents, but for the lock.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "LOCK" {
                let bytes = fs::read(&path).unwrap();
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                files.insert(path, bytes[..end].to_vec());
            }
        }
    }
    files
}

/// The only segment of the log.
fn segment(data: &Path) -> PathBuf {
    data.join("wal/0.wal")
}

/// The file below `folder` that holds `bytes`, and where.
fn find(folder: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    let found = contents(folder).into_iter().find_map(|(path, content)| {
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, at as u64))
    });
    found.expect("a file holds it")
}

/// One range.
fn only(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Repairs, checks that the dry run said the same and changed nothing, and that the repaired store holds exactly what
/// the report says was saved. Returns the report.
fn repair(data: &Path) -> Report {
    let before = contents(data.parent().unwrap());
    let foretold = Store::examine(data).unwrap();
    assert!(
        contents(data.parent().unwrap()) == before,
        "a look changed something"
    );
    let repaired = Store::repair(data).unwrap();
    assert_eq!(repaired.report, foretold);
    let kept = repaired.kept.unwrap();
    let moved: BTreeMap<_, _> = contents(&kept)
        .into_iter()
        .map(|(path, bytes)| (data.join(path.strip_prefix(&kept).unwrap()), bytes))
        .collect();
    assert!(moved == before, "the damaged folder is not as it was");

    let queue = &foretold.queues[0];
    assert_eq!(queue.name, Some(("/".to_owned(), "orders".to_owned())));
    let lost = |position| queue.lost.iter().any(|range| range.contains(&position));
    let (store, restored) = Store::open(data, Options::default()).unwrap();
    let index = store
        .read_index(QUEUE, Position(0), Position(u64::MAX), usize::MAX)
        .unwrap();
    let mut saved = 0;
    for entry in &index {
        assert!(!lost(entry.first.0));
        let chunk = store.read_chunk(Lane::Queues, Offset(entry.first.0)).unwrap();
        assert_eq!(chunk.get(0).unwrap().body, body(entry.first.0));
        saved += 1;
    }
    assert_eq!(saved, queue.saved);
    assert!(store.verify().unwrap().is_sound());
    Broker::restore(restored).unwrap();
    report_of_sound(data, store, saved);
    foretold
}

/// A second repair finds nothing to do.
fn report_of_sound(data: &Path, store: Store, saved: u64) {
    drop(store);
    let again = Store::repair(data).unwrap();
    assert_eq!(again.kept, None);
    assert_eq!(again.report.queues[0].saved, saved);
}

#[test]
fn a_sound_store_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 100);
    let before = contents(dir.path());
    let repaired = Store::repair(&data).unwrap();
    assert!(repaired.report.is_sound(), "{:?}", repaired.report);
    assert_eq!(repaired.kept, None);
    assert_eq!(repaired.report.queues[0].saved, MESSAGES - 2);
    assert!(contents(dir.path()) == before);
}

#[test]
fn flipped_bits_in_messages_lose_those_messages_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), MESSAGES);
    for offset in [5, 50, 51, 199] {
        let (path, at) = find(&data.join("fjall/keyspaces/1/tables"), &body(offset));
        overwrite(&path, at + 77, &[0xaa]);
    }
    let report = repair(&data);
    assert_eq!(report.queues[0].lost, [50..52, 199..200], "5 is settled");
    assert_eq!(report.queues[0].saved, MESSAGES - 2 - 3);
    assert_eq!(report.batches_lost, 0);
}

#[test]
fn a_zeroed_page_of_the_log_loses_what_it_held_and_not_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 100);
    let bytes = fs::read(segment(&data)).unwrap();
    let first = body(150)[..500].to_vec();
    let at = bytes.windows(500).position(|window| window == first).unwrap() as u64;
    // From the middle of message 150 to the middle of 151.
    overwrite(&segment(&data), at + 100, &[0; 3 * 4_096]);
    assert!(matches!(
        Store::open(&data, Options::default()),
        Err(OpenError::Damaged { .. })
    ));
    let report = repair(&data);
    assert_eq!(report.queues[0].lost, only(150..152));
    assert_eq!(report.batches_lost, 2);
}

#[test]
fn a_log_that_is_gone_loses_what_was_in_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 120);
    fs::remove_dir_all(data.join("wal")).unwrap();
    let report = repair(&data);
    assert!(matches!(report.damage[0], Damage::Lost { .. }), "{report:?}");
    assert_eq!(report.queues[0].saved, 118);
    assert_eq!(report.queues[0].lost, [], "nothing is left that names the others");
    assert_eq!(report.batches_lost, MESSAGES - 120);
}

#[test]
fn a_mark_that_is_gone_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 100);
    fs::remove_file(data.join("mark")).unwrap();
    let report = repair(&data);
    assert_eq!(report.damage, [Damage::MarkMissing]);
    assert_eq!(report.queues[0].saved, MESSAGES - 2);
}

#[test]
fn a_damaged_block_of_the_index_loses_the_positions_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), MESSAGES);
    let tables = data.join("fjall/keyspaces/2/tables");
    let table = fs::read_dir(tables).unwrap().next().unwrap().unwrap().path();
    overwrite(&table, 1_000, &[0xff, 0xff, 0xff]);
    let report = repair(&data);
    let queue = &report.queues[0];
    assert!(queue.lost_count() > 0);
    assert_eq!(queue.saved + queue.lost_count(), MESSAGES - 2);
}

#[test]
fn a_manifest_that_no_file_names_any_more_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 100);
    fs::remove_file(data.join("fjall/keyspaces/2/current")).unwrap();
    let report = repair(&data);
    assert_eq!(report.queues[0].saved, MESSAGES - 2);
}

#[test]
fn a_folder_without_its_tables_is_beyond_repair_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 100);
    fs::remove_dir_all(data.join("fjall/keyspaces/1")).unwrap();
    let before = contents(dir.path());
    let error = Store::repair(&data).unwrap_err();
    assert!(matches!(error, RepairError::Beyond { .. }), "{error}");
    assert!(contents(dir.path()) == before);
}

/// Whoever publishes chooses bytes that lie in the log, and must not choose what a repair takes for batches.
#[test]
fn a_message_that_looks_like_a_batch_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    // A real batch that defines a queue, from another store with the same numbers.
    let forged = {
        let other = tempfile::tempdir().unwrap();
        let data = other.path().join("store");
        let (store, _) = Store::open(&data, Options::default()).unwrap();
        for offset in 0..40 {
            store.apply(&[&message(offset, b"x")], true).unwrap();
        }
        let before = fs::read(segment(&data)).unwrap();
        let definition = Record::Define {
            key: Box::new(DefinitionKey::Queue(QueueId(9))),
            definition: Some(Box::new(Definition::durable_queue(VhostId(1), "forged"))),
        };
        store.apply(&[&[definition]], true).unwrap();
        let after = fs::read(segment(&data)).unwrap();
        let at = before
            .iter()
            .zip(&after)
            .position(|(before, after)| before != after);
        let at = at.unwrap() / 4_096 * 4_096;
        after[at..at + 4_096].to_vec()
    };
    let data = dir.path().join("store");
    let (store, _) = Store::open(&data, Options::default()).unwrap();
    store.apply(&[&define()], true).unwrap();
    // At every place in a block that it can have.
    let body: Vec<u8> = (0..4_096)
        .step_by(64)
        .flat_map(|gap| [vec![0; gap], forged.clone()].concat())
        .collect();
    store.apply(&[&message(0, &body)], true).unwrap();
    store.apply(&[&message(1, b"after")], true).unwrap();
    drop(store);
    // The third batch, behind that of the start and the definitions.
    overwrite(&segment(&data), 2 * 4_096 + 100, &[0xff; 40]);
    let report = Store::examine(&data).unwrap();
    assert_eq!(report.queues.len(), 1);
    assert_eq!(report.batches_lost, 1, "{report:?}");
    assert_eq!(report.queues[0].lost, only(0..1));
    assert_eq!(report.queues[0].saved, 1);
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let _store = Store::open(&data, Options::default()).unwrap();
    for result in [Store::examine(&data).err(), Store::repair(&data).err()] {
        assert!(matches!(result, Some(RepairError::Open(OpenError::InUse { .. }))));
    }
}

#[test]
fn a_folder_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    assert!(Store::repair(&data).is_err());
    assert!(!data.exists());
}

fn run(chunk: u64, count: u32) -> Run {
    Run {
        lane: Lane::Queues,
        chunk: Offset(chunk),
        record: 0,
        count,
    }
}

/// Messages that wait for their delay, in one chunk.
fn delay(at: u64, base: u64, bodies: &[&[u8]]) -> Vec<Record> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    for body in bodies {
        builder.push(ExchangeId(1), None, b"", body);
    }
    let count = bodies.len() as u32;
    let (key, entry) = entering(at, base, count);
    vec![
        Record::Append {
            chunk: Arc::new(builder.finish()),
            references: References::uniform(count, 1),
        },
        Record::Due {
            key,
            entry: Some(entry),
        },
    ]
}

fn entering(at: u64, base: u64, count: u32) -> (DueKey, DueEntry) {
    let number = DueNumber::Enter(Offset(base));
    let expiration = None;
    let runs = vec![DelayedRun {
        run: run(base, count),
        expiration,
    }];
    let queue = QUEUE;
    (DueKey { at, queue, number }, DueEntry::Enter { runs, bytes: 9 })
}

/// The message of [`publish`] at this position expires.
fn expiring(at: u64, position: u64) -> (DueKey, DueEntry) {
    let first = Position(position);
    let number = DueNumber::Expire(first);
    let runs = vec![ExpiringRun {
        position: first,
        run: run(position, 1),
    }];
    let queue = QUEUE;
    (DueKey { at, queue, number }, DueEntry::Expire { first, runs })
}

#[test]
fn what_is_due_is_saved_and_a_delayed_message_that_is_lost_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 0);
    let (store, _) = Store::open(&data, Options::default()).unwrap();
    let mut records = delay(70, MESSAGES, &[&body(MESSAGES), &body(MESSAGES + 1)]);
    records.extend(delay(60, MESSAGES + 2, &[&[7; 8_000]]));
    records.extend([(80, 10), (90, 50)].map(|(at, position)| {
        let (key, entry) = expiring(at, position);
        Record::Due {
            key,
            entry: Some(entry),
        }
    }));
    records.push(Record::Delayed {
        queue: QUEUE,
        count: Some(3),
    });
    store.apply(&[&records], true).unwrap();
    store.flush().unwrap();
    drop(store);
    assert!(Store::examine(&data).unwrap().is_sound());
    for bytes in [body(50), vec![7; 8_000]] {
        let (path, at) = find(&data.join("fjall/keyspaces/1/tables"), &bytes);
        overwrite(&path, at + 77, &[0xaa]);
    }
    let report = repair(&data);
    let queue = &report.queues[0];
    assert_eq!((queue.delayed, queue.delayed_lost, queue.lost_count()), (2, 1, 2));

    let (store, restored) = Store::open(&data, Options::default()).unwrap();
    assert_eq!(restored.delayed, [(QUEUE, 2)]);
    let due = store.read_due(None, DueKey::FIRST, usize::MAX).unwrap();
    assert_eq!(due, [entering(70, MESSAGES, 2), expiring(80, 10)]);
    let release = |record| Record::Release {
        lane: Lane::Queues,
        base: Offset(MESSAGES),
        record,
        count: 1,
    };
    let is_there = || store.read_chunk(Lane::Queues, Offset(MESSAGES)).is_ok();
    store.apply(&[&[release(0)]], false).unwrap();
    assert!(is_there(), "one message is left");
    store.apply(&[&[release(1)]], false).unwrap();
    assert!(!is_there(), "each was held once");
}

#[test]
fn a_damaged_block_of_due_entries_loses_what_they_delayed() {
    let dir = tempfile::tempdir().unwrap();
    let data = fill(dir.path(), 0);
    let (store, _) = Store::open(&data, Options::default()).unwrap();
    for n in 0..200 {
        let mut records = delay(70 + n, MESSAGES + n, &[b"one"]);
        records.push(Record::Delayed {
            queue: QUEUE,
            count: Some(n + 1),
        });
        store.apply(&[&records], true).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let tables = data.join("fjall/keyspaces/6/tables");
    let table = fs::read_dir(tables).unwrap().next().unwrap().unwrap().path();
    overwrite(&table, 1_000, &[0xff, 0xff, 0xff]);
    let report = repair(&data);
    let queue = &report.queues[0];
    assert!(queue.delayed_lost > 0);
    assert_eq!(
        (queue.delayed + queue.delayed_lost, queue.saved),
        (200, MESSAGES - 2)
    );
    let (_, restored) = Store::open(&data, Options::default()).unwrap();
    assert_eq!(
        restored.delayed,
        Vec::from_iter((queue.delayed > 0).then_some((QUEUE, queue.delayed)))
    );
}
