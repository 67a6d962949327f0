//! Flipped bits and zeroed pages in every file of a stopped store: each is an error or makes no difference.
//!
//! `POINTSMAN_FLIPS=1000 cargo test -p pointsman-store --test campaign` runs more of them, `POINTSMAN_SEED` others.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{QUEUE, entry};
use pointsman_core::catalog::{Definition, DefinitionKey};
use pointsman_core::commit::QueueState;
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, Record, References, VhostId};
use pointsman_store::{Options, Store};

const MESSAGES: u64 = 120;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn chunk(offset: u64) -> Arc<Chunk> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(offset), 1_000);
    builder.push(ExchangeId(1), None, b"meta", &offset.to_be_bytes().repeat(400));
    Arc::new(builder.finish())
}

/// Chunks stay in the write-ahead log.
fn options() -> Options {
    Options {
        kept_min_bytes: 1_024,
        ..Options::default()
    }
}

/// A stopped store, half of which was flushed. Chunks are kept, their index is in tables or is read from the log again.
fn fill(dir: &Path) {
    let (store, _) = Store::open(dir, options()).unwrap();
    let define = Record::Define {
        key: Box::new(DefinitionKey::Vhost(VhostId(1))),
        definition: Some(Box::new(Definition::Vhost("/".to_owned()))),
    };
    store.apply(&[&[define]], true).unwrap();
    for offset in 0..MESSAGES {
        let state = QueueState {
            tail: Position(offset + 1),
            ..QueueState::default()
        };
        let records = [
            Record::Append {
                chunk: chunk(offset),
                references: References::uniform(1, 2),
            },
            Record::Release {
                lane: Lane::Queues,
                base: Offset(offset),
                record: 0,
                count: 1,
            },
            Record::Index {
                queue: QUEUE,
                entry: entry(offset, offset, 1),
            },
            Record::QueueState { queue: QUEUE, state },
        ];
        store.apply(&[&records], true).unwrap();
        if offset == MESSAGES / 2 {
            store.flush().unwrap();
        }
    }
}

/// The files of a folder that are not empty, without the zeros a segment is allocated with.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            if path
                .extension()
                .is_some_and(|extension| extension == "wal" || extension == "jnl")
            {
                bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
            }
            files.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
        }
    }
    files
}

/// Opens the folder and reads everything. What comes back without an error is what was written.
fn open_and_compare(dir: &Path) -> Result<(), String> {
    let (store, restored) = Store::open(dir, options()).map_err(|e| e.to_string())?;
    let vhost = (
        DefinitionKey::Vhost(VhostId(1)),
        Definition::Vhost("/".to_owned()),
    );
    assert_eq!(restored.definitions, [vhost]);
    assert_eq!(restored.next_offsets, [Offset(MESSAGES), Offset(0)]);
    assert_eq!(
        (restored.queues[0].0, restored.queues[0].1.tail),
        (QUEUE, Position(MESSAGES))
    );
    let index = store.read_index(QUEUE, Position(0), Position(MESSAGES), usize::MAX);
    let index = index.map_err(|e| e.to_string())?;
    assert_eq!(
        index,
        (0..MESSAGES)
            .map(|offset| entry(offset, offset, 1))
            .collect::<Vec<_>>()
    );
    let mut errors = String::new();
    for offset in 0..MESSAGES {
        match store.read_chunk(Lane::Queues, Offset(offset)) {
            Ok(read) => assert_eq!(read, chunk(offset), "a wrong body"),
            Err(e) => errors = e.to_string(),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[test]
fn every_flip_and_every_zeroed_page_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let files = files(dir.path());
    let names: Vec<&PathBuf> = files
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(name, _)| name)
        .collect();
    let seed = number("POINTSMAN_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut noticed = 0;
    let rounds = number("POINTSMAN_FLIPS", 60);
    for round in 0..rounds {
        let copy = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            fs::create_dir_all(copy.path().join(name).parent().unwrap()).unwrap();
            fs::write(copy.path().join(name), bytes).unwrap();
        }
        let name = names[random.usize(..names.len())];
        let mut bytes = files[name].clone();
        let at = random.usize(..bytes.len());
        let zeroed = random.u8(..4) == 0;
        if zeroed {
            let page = at / 4_096 * 4_096;
            let end = bytes.len().min(page + 4_096);
            bytes[page..end].fill(0);
        } else {
            bytes[at] ^= 1 << random.u8(..8);
        }
        fs::write(copy.path().join(name), bytes).unwrap();
        let what = format!(
            "seed {seed}, round {round}: {} at {at}, zeroed: {zeroed}",
            name.display()
        );
        match std::panic::catch_unwind(|| open_and_compare(copy.path())) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => noticed += 1,
            Err(_) => panic!("{what}"),
        }
    }
    assert!(noticed > rounds / 10, "only {noticed} of {rounds} were noticed");
}
