//! What was applied is there again, in the order and number it was applied.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::entry;
use pointsman_core::catalog::{Definition, DefinitionKey, Digest};
use pointsman_core::commit::{IdentityState, QueueState, Run};
use pointsman_core::due::{DelayedRun, DueEntry, DueKey, DueNumber};
use pointsman_core::{
    Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, PublisherIdentity, QueueId, Record, References,
    VhostId,
};
use pointsman_protocol::publish::Outcome;
use pointsman_store::{Options, Store, StoreError};

const QUEUE: QueueId = QueueId(7);

fn chunk(base: u64, bodies: &[&[u8]]) -> Arc<Chunk> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    for body in bodies {
        builder.push(ExchangeId(1), None, b"meta", body);
    }
    Arc::new(builder.finish())
}

/// Each message of the chunk is named by so many places.
fn append(chunk: &Arc<Chunk>, references: u32) -> Record {
    Record::Append {
        chunk: chunk.clone(),
        references: References::uniform(chunk.count(), references),
    }
}

fn release(base: u64, record: u32, count: u32) -> Record {
    Record::Release {
        lane: Lane::Queues,
        base: Offset(base),
        record,
        count,
    }
}

fn index(first: u64, chunk: u64, count: u32) -> Record {
    Record::Index {
        queue: QUEUE,
        entry: entry(first, chunk, count),
    }
}

fn tail(tail: u64) -> Record {
    Record::QueueState {
        queue: QUEUE,
        state: QueueState {
            tail: Position(tail),
            ..QueueState::default()
        },
    }
}

fn read(store: &Store, base: u64) -> Result<Arc<Chunk>, StoreError> {
    store.read_chunk(Lane::Queues, Offset(base))
}

#[test]
fn an_opened_store_gives_back_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (store, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert!(restored.queues.is_empty() && restored.next_offsets == [Offset(0), Offset(0)]);

    let written = chunk(0, &[b"one", b"two", b"three"]);
    let key = DefinitionKey::Vhost(VhostId(3));
    let identity = IdentityState {
        last_sequence: 9,
        at: 5,
        exceptions: vec![(8, Outcome::Unroutable)],
    };
    let settled: roaring::RoaringBitmap = [1, 2].into_iter().collect();
    let records = [
        append(&written, 1),
        index(0, 0, 3),
        tail(3),
        Record::AckBlock {
            queue: QUEUE,
            block: 0,
            settled: Some(settled.clone()),
        },
        Record::Attempts {
            queue: QUEUE,
            position: Position(0),
            count: Some(2),
        },
        Record::Identity {
            identity: PublisherIdentity(1 << 100),
            state: Some(identity.clone()),
        },
        Record::Define {
            key: Box::new(key.clone()),
            definition: Some(Box::new(Definition::Vhost("shop".to_owned()))),
        },
        Record::Module {
            digest: Digest([4; 32]),
            bytes: Some(Bytes::from_static(b"\0asm")),
        },
    ];
    store.apply(&[&records], true).unwrap();
    drop(store);

    let (store, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(
        restored.definitions,
        [(key, Definition::Vhost("shop".to_owned()))]
    );
    assert_eq!(restored.queues.len(), 1);
    assert_eq!(
        (restored.queues[0].0, restored.queues[0].1.tail),
        (QUEUE, Position(3))
    );
    assert_eq!(restored.ack_blocks, [(QUEUE, 0, settled)]);
    assert_eq!(restored.attempts, [(QUEUE, Position(0), 2)]);
    assert_eq!(restored.identities, [(PublisherIdentity(1 << 100), identity)]);
    assert_eq!(restored.next_offsets, [Offset(3), Offset(0)]);
    assert_eq!(read(&store, 0).unwrap(), written);
    assert_eq!(
        store.read_index(QUEUE, Position(0), Position(3), 100).unwrap(),
        [entry(0, 0, 3)]
    );
    assert_eq!(
        store.read_module(&Digest([4; 32])).unwrap().as_deref(),
        Some(b"\0asm".as_slice())
    );
    assert_eq!(store.read_module(&Digest([5; 32])).unwrap(), None);
}

#[test]
fn due_entries_are_read_in_order_behind_a_key_of_all_queues_or_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let entry = |at, queue: u32, chunk| {
        let run = Run {
            lane: Lane::Queues,
            chunk: Offset(chunk),
            record: 0,
            count: 1,
        };
        let expiration = None;
        let runs = vec![DelayedRun { run, expiration }];
        let key = DueKey {
            at,
            queue: QueueId(queue),
            number: DueNumber::Enter(Offset(chunk)),
        };
        (key, DueEntry::Enter { runs, bytes: 1 })
    };
    let entries = [
        entry(9, 2, 300),
        entry(255, 1, 1),
        entry(256, 1, 0),
        entry(256, 2, 7),
    ];
    let write = |(key, entry): (DueKey, DueEntry)| Record::Due {
        key,
        entry: Some(entry),
    };
    store.apply(&[&entries.clone().map(write)], false).unwrap();
    let read = |of: Option<u32>, after, runs_max| store.read_due(of.map(QueueId), after, runs_max).unwrap();
    assert_eq!(read(None, DueKey::FIRST, 99), entries);
    assert_eq!(read(None, DueKey::FIRST, 2), entries[..2]);
    assert_eq!(read(None, entries[1].0, 99), entries[2..]);
    assert_eq!(read(Some(1), DueKey::FIRST, 99), entries[1..3]);
    assert_eq!(read(Some(3), DueKey::FIRST, 99), []);
    assert_eq!(read(None, entries[3].0, 99), []);
    let remove = Record::Due {
        key: entries[1].0,
        entry: None,
    };
    store.apply(&[&[remove]], false).unwrap();
    assert_eq!(read(Some(1), DueKey::FIRST, 99), entries[2..3]);
}

#[test]
fn a_chunk_dies_with_its_last_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let written = chunk(0, &[b"one", b"two"]);
    store.apply(&[&[append(&written, 2)]], true).unwrap();
    store
        .apply(&[&[release(0, 1, 1)], &[release(0, 0, 2)]], false)
        .unwrap();
    assert_eq!(read(&store, 0).unwrap(), written);
    store.apply(&[&[release(0, 0, 1)]], false).unwrap();
    assert!(
        matches!(read(&store, 0), Err(StoreError::Settled { .. })),
        "settled, not lost"
    );
}

#[test]
fn references_are_counted_on_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for (base, released) in [(0, 1), (2, 0)] {
        let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
        store
            .apply(&[&[append(&chunk(base, &[b"one", b"two"]), 1)]], true)
            .unwrap();
        store.apply(&[&[release(base, 0, released)]], false).unwrap();
    }
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    store
        .apply(&[&[release(0, 1, 1), release(2, 1, 1)]], false)
        .unwrap();
    assert!(matches!(read(&store, 0), Err(StoreError::Settled { .. })));
    assert!(read(&store, 2).is_ok());
    store.apply(&[&[release(2, 0, 1)]], false).unwrap();
    assert!(matches!(read(&store, 2), Err(StoreError::Settled { .. })));
}

#[test]
fn releasing_more_than_there_is_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let written = chunk(0, &[b"one", b"two"]);
    store.apply(&[&[append(&written, 1)]], true).unwrap();
    let again = release(0, 0, 1);
    store
        .apply(
            &[&[again.clone(), again.clone()], &[again], &[release(9, 0, 1)]],
            true,
        )
        .unwrap();
    assert_eq!(read(&store, 0).unwrap(), written);
    store.apply(&[&[release(0, 1, 5)]], true).unwrap();
    assert!(matches!(read(&store, 0), Err(StoreError::Settled { .. })));
}

#[test]
fn a_chunk_that_never_was_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let error = read(&store, 40).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("chunk at offset 40 of the Queues lane is missing"),
        "{error}"
    );
}

#[test]
fn a_message_larger_than_a_part_is_read_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let body: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    let written = chunk(0, &[&body]);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    store.apply(&[&[append(&written, 1)]], true).unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(read(&store, 0).unwrap(), written);
    store.apply(&[&[release(0, 0, 1)]], true).unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    assert!(read(&store, 0).is_err());
}

#[test]
fn an_index_is_read_from_any_position_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let records: Vec<Record> = (0..10)
        .map(|i| index(i * 5, i * 5, 5))
        .chain([tail(50)])
        .collect();
    store.apply(&[&records], true).unwrap();
    let firsts = |from, to, runs| -> Vec<u64> {
        let entries = store
            .read_index(QUEUE, Position(from), Position(to), runs)
            .unwrap();
        entries.iter().map(|entry| entry.first.0).collect()
    };
    assert_eq!(
        firsts(7, 16, 100),
        [5, 10, 15],
        "the first holds 7, the last begins before 16"
    );
    assert_eq!(firsts(7, 15, 100), [5, 10]);
    assert_eq!(firsts(0, 50, 2), [0, 5]);
    assert_eq!(firsts(50, 60, 2), [0; 0]);
    store
        .apply(
            &[&[Record::IndexRemove {
                queue: QUEUE,
                last: Position(9),
            }]],
            false,
        )
        .unwrap();
    assert_eq!(firsts(7, 16, 100), [10, 15], "the first lies behind 7");
}

#[test]
fn a_key_written_twice_in_one_group_keeps_its_last_value() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let gone = Record::IndexRemove {
        queue: QUEUE,
        last: Position(4),
    };
    store
        .apply(&[&[tail(5), index(0, 0, 5)], &[tail(6)], &[tail(7), gone]], true)
        .unwrap();
    assert_eq!(store.read_index(QUEUE, Position(0), Position(9), 9).unwrap(), []);
    drop(store);
    let (_, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(restored.queues[0].1.tail, Position(7));
}

#[test]
fn a_deleted_queue_leaves_nothing_even_if_it_takes_several_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let other = Record::Index {
        queue: QueueId(8),
        entry: entry(0, 0, 1),
    };
    let attempt = Record::Attempts {
        queue: QUEUE,
        position: Position(3),
        count: Some(1),
    };
    let records: Vec<Record> = (0..10_000)
        .map(|i| index(i, i, 1))
        .chain([other, attempt, tail(10_000)])
        .collect();
    store.apply(&[&records], true).unwrap();
    store
        .apply(
            &[&[index(10_000, 0, 1), Record::QueueGone { queue: QUEUE }]],
            true,
        )
        .unwrap();
    drop(store);
    let (store, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert!(restored.queues.is_empty() && restored.attempts.is_empty());
    for _ in 0..5 {
        store.apply(&[], false).unwrap();
    }
    assert_eq!(
        store
            .read_index(QUEUE, Position(0), Position(u64::MAX), 100)
            .unwrap(),
        []
    );
    assert_eq!(
        store
            .read_index(QueueId(8), Position(0), Position(9), 100)
            .unwrap(),
        [entry(0, 0, 1)]
    );
}
