//! A store that each format wrote is kept beside this test, and opens with everything that was put into it.
//!
//! `cargo test -p pointsman-store --test fixture -- --ignored` writes it anew. That is right only for a format that no
//! release has written; after one, a new format gets a fixture of its own and this one stays.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::entry;
use pointsman_core::catalog::{Definition, DefinitionKey, Digest, NextIds, UserVerifier, VersionSpec};
use pointsman_core::commit::{IdentityState, QueueState, Run};
use pointsman_core::due::{DelayedRun, DueEntry, DueKey, DueNumber, ExpiringRun};
use pointsman_core::{
    Broker, Chunk, ChunkBuilder, DecidedBy, ExchangeId, Lane, Offset, Position, PublisherIdentity, QueueId,
    Record, References, RouterId, VhostId,
};
use pointsman_protocol::admin::{BindingSpec, ExchangeKind, ExchangeSpec, Interface};
use pointsman_protocol::publish::Outcome;
use pointsman_store::{Options, Store};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const FORMATS: [&str; 3] = ["format-1.store", "format-2.store", "format-3.store"];
const ORDERS: QueueId = QueueId(1);
const LARGE: QueueId = QueueId(2);
const VHOST: VhostId = VhostId(1);
const MODULE: &[u8] = b"\0asm and so on";
const DIGEST: Digest = Digest([7; 32]);
const IDENTITY: PublisherIdentity = PublisherIdentity(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn definitions() -> BTreeMap<DefinitionKey, Definition> {
    let router = RouterId(1);
    let mut shop = ExchangeSpec::new("shop", ExchangeKind::Router);
    shop.router = Some("shop".to_owned());
    let verifier = UserVerifier {
        scheme: 1,
        salt: [2; 16],
        hash: [3; 32],
    };
    let version = VersionSpec {
        digest: DIGEST,
        size: MODULE.len() as u64,
        interface: Interface::Packed,
        config: b"{}".to_vec(),
        loaded_at: 1_700_000_000_000,
    };
    let next = NextIds {
        vhost: 2,
        exchange: 2,
        queue: 3,
        router: 2,
    };
    let binding = BindingSpec::to_queue("shop", "orders", "k").argument("level", 3);
    BTreeMap::from([
        (DefinitionKey::Vhost(VHOST), Definition::Vhost("/".to_owned())),
        (
            DefinitionKey::User("admin".to_owned()),
            Definition::User(verifier),
        ),
        (
            DefinitionKey::Exchange(ExchangeId(1)),
            Definition::Exchange {
                vhost: VHOST,
                spec: shop,
                quarantine: None,
            },
        ),
        (
            DefinitionKey::Queue(ORDERS),
            Definition::durable_queue(VHOST, "orders"),
        ),
        (
            DefinitionKey::Queue(LARGE),
            Definition::durable_queue(VHOST, "large"),
        ),
        (DefinitionKey::Binding(VHOST, binding), Definition::Binding),
        (
            DefinitionKey::Router(router),
            Definition::Router {
                vhost: VHOST,
                name: "shop".to_owned(),
                active: Some(1),
                previous: None,
                next_version: 2,
            },
        ),
        (
            DefinitionKey::RouterVersion(router, 1),
            Definition::RouterVersion(version),
        ),
        (DefinitionKey::Ids, Definition::Ids(next)),
    ])
}

/// Three messages from offset `base` on, the second decided by a router.
fn chunk(base: u64) -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_700_000_000_000 + base);
    for n in 0..3 {
        let decided_by = (n == 1).then_some(DecidedBy {
            router: RouterId(1),
            version: 1,
        });
        let body = format!("message {}", base + n);
        builder.push(ExchangeId(1), decided_by, b"meta", body.as_bytes());
    }
    builder.finish()
}

/// One message of 1.5 MiB of nothing, which takes two parts.
fn large_chunk() -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(60), 1_700_000_000_060);
    builder.push(ExchangeId(1), None, b"", &vec![0; 3 * 512 * 1024]);
    builder.finish()
}

/// Two messages of chunk 61 wait for [`ORDERS`], and one of its messages expires.
fn due() -> [(DueKey, DueEntry); 2] {
    let at = 1_800_000_000_000;
    let run = |chunk, record, count| Run {
        lane: Lane::Queues,
        chunk: Offset(chunk),
        record,
        count,
    };
    let delayed = |run, ms| DelayedRun {
        run,
        expiration: NonZeroU64::new(ms),
    };
    let enter = DueEntry::Enter {
        runs: vec![delayed(run(61, 0, 1), 0), delayed(run(61, 1, 1), 60_000)],
        bytes: 28,
    };
    let expire = DueEntry::Expire {
        first: Position(57),
        runs: vec![ExpiringRun {
            position: Position(58),
            run: run(57, 1, 1),
        }],
    };
    let key = |number| DueKey {
        at,
        queue: ORDERS,
        number,
    };
    [
        (key(DueNumber::Enter(Offset(61))), enter),
        (key(DueNumber::Expire(Position(59))), expire),
    ]
}

/// The chunk of the delayed messages.
fn delayed_chunk() -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(61), 1_700_000_000_061);
    builder.push(ExchangeId(1), None, b"meta", b"delayed 61");
    builder.push(ExchangeId(1), None, b"meta", b"delayed 62");
    builder.finish()
}

fn state(head: u64, tail: u64, delivered: u64) -> QueueState {
    QueueState {
        head: Position(head),
        tail: Position(tail),
        delivered: Position(delivered),
        stream: None,
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

fn identity() -> IdentityState {
    IdentityState {
        last_sequence: 300,
        at: 1_700_000_000_000,
        exceptions: vec![(7, Outcome::Unroutable)],
    }
}

/// A closed store: 20 chunks of three messages in `orders`, of which the first is settled and two more out of order,
/// and one large message in `large`. Two more wait for `orders`. Half of it is in tables, half in the log.
fn fill(dir: &Path) {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let mut records: Vec<Record> = definitions()
        .into_iter()
        .map(|(key, definition)| Record::Define {
            key: Box::new(key),
            definition: Some(Box::new(definition)),
        })
        .collect();
    records.push(Record::Module {
        digest: DIGEST,
        bytes: Some(MODULE.into()),
    });
    store.apply(&[&records], true).unwrap();
    for n in 0..20 {
        let append = Record::Append {
            chunk: Arc::new(chunk(n * 3)),
            references: References::uniform(3, 1),
        };
        let index = Record::Index {
            queue: ORDERS,
            entry: entry(n * 3, n * 3, 3),
        };
        let state = Record::QueueState {
            queue: ORDERS,
            state: state(0, n * 3 + 3, 0),
        };
        store.apply(&[&[append, index, state]], true).unwrap();
        if n == 10 {
            store.flush().unwrap();
        }
    }
    let rest = [
        Record::Append {
            chunk: Arc::new(large_chunk()),
            references: References::uniform(1, 1),
        },
        Record::Index {
            queue: LARGE,
            entry: entry(0, 60, 1),
        },
        Record::QueueState {
            queue: LARGE,
            state: state(0, 1, 0),
        },
        Record::QueueState {
            queue: ORDERS,
            state: state(1, 60, 6),
        },
        Record::AckBlock {
            queue: ORDERS,
            block: 0,
            settled: Some([3, 5].into_iter().collect()),
        },
        release(0, 0, 1),
        release(3, 0, 1),
        release(3, 2, 1),
        Record::Attempts {
            queue: ORDERS,
            position: Position(4),
            count: Some(2),
        },
        Record::Identity {
            identity: IDENTITY,
            state: Some(identity()),
        },
    ];
    store.apply(&[&rest], true).unwrap();
    let mut records = vec![
        Record::Append {
            chunk: Arc::new(delayed_chunk()),
            references: References::uniform(2, 1),
        },
        Record::Delayed {
            queue: ORDERS,
            count: Some(2),
        },
    ];
    records.extend(due().map(|(key, entry)| Record::Due {
        key,
        entry: Some(entry),
    }));
    store.apply(&[&records], true).unwrap();
}

#[test]
fn a_store_of_each_format_opens_with_everything_in_it() {
    for format in FORMATS {
        let dir = kept(format);
        check(dir.path());
        // It is of the newest format now.
        check(dir.path());
    }
}

fn kept(format: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    unpack(&fs::read(Path::new(FIXTURES).join(format)).unwrap(), dir.path());
    dir
}

fn check(dir: &Path) {
    let (store, restored) = Store::open(dir, Options::default()).unwrap();
    let found: BTreeMap<_, _> = restored.definitions.iter().cloned().collect();
    assert_eq!(found, definitions());
    assert_eq!(
        restored.queues,
        [(ORDERS, state(1, 60, 6)), (LARGE, state(0, 1, 0))]
    );
    assert_eq!(restored.ack_blocks, [(ORDERS, 0, [3, 5].into_iter().collect())]);
    assert_eq!(restored.attempts, [(ORDERS, Position(4), 2)]);
    assert_eq!(restored.identities, [(IDENTITY, identity())]);
    assert_eq!(restored.next_offsets, [Offset(63), Offset(0)]);
    assert_eq!(restored.delayed, [(ORDERS, 2)]);
    assert_eq!(store.read_due(None, DueKey::FIRST, 9).unwrap(), due());
    let index = |queue| store.read_index(queue, Position(0), Position(u64::MAX), usize::MAX);
    let entries: Vec<_> = (0..20).map(|n| entry(n * 3, n * 3, 3)).collect();
    assert_eq!(index(ORDERS).unwrap(), entries);
    assert_eq!(index(LARGE).unwrap(), [entry(0, 60, 1)]);
    for n in 0..20 {
        let read = store.read_chunk(Lane::Queues, Offset(n * 3)).unwrap();
        assert_eq!(*read, chunk(n * 3));
    }
    assert_eq!(
        *store.read_chunk(Lane::Queues, Offset(60)).unwrap(),
        large_chunk()
    );
    assert_eq!(
        *store.read_chunk(Lane::Queues, Offset(61)).unwrap(),
        delayed_chunk()
    );
    assert_eq!(store.read_module(&DIGEST).unwrap().unwrap(), MODULE);
    let report = store.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.queues[0].saved, report.queues[0].delayed), (57, 2));
    Broker::restore(restored).unwrap();
}

/// The counts of what is left of a chunk are those that were written: the last release removes it.
#[test]
fn chunks_of_each_format_die_when_the_rest_of_them_is_released() {
    for format in FORMATS {
        let dir = kept(format);
        let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
        store
            .apply(&[&[release(0, 1, 1), release(3, 1, 1)]], true)
            .unwrap();
        assert!(store.read_chunk(Lane::Queues, Offset(0)).is_ok(), "one is left");
        assert!(store.read_chunk(Lane::Queues, Offset(3)).is_err(), "none is left");
    }
}

#[test]
#[ignore = "writes the newest format's fixture anew"]
fn write_the_fixture() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let packed = pack(dir.path());
    assert!(packed.len() < 200 * 1024, "{} bytes", packed.len());
    fs::write(Path::new(FIXTURES).join(FORMATS[FORMATS.len() - 1]), packed).unwrap();
}

/// Packs a folder into one file. For each file of it, by path (integers are big-endian):
///
/// ```text
/// u16     length of the path, then the path
/// u64     length of the file
/// pieces  what of the file is not zero: u64 position, u32 length, bytes; the last has length 0
/// ```
fn pack(dir: &Path) -> Vec<u8> {
    let mut packed = Vec::new();
    for (path, bytes) in files(dir) {
        let path = path.to_str().unwrap();
        packed.extend((path.len() as u16).to_be_bytes());
        packed.extend(path.as_bytes());
        packed.extend((bytes.len() as u64).to_be_bytes());
        let mut at = 0;
        for piece in bytes.chunks(64) {
            if piece.iter().any(|byte| *byte != 0) {
                packed.extend((at as u64).to_be_bytes());
                packed.extend((piece.len() as u32).to_be_bytes());
                packed.extend(piece);
            }
            at += piece.len();
        }
        packed.extend([0; 12]);
    }
    packed
}

fn unpack(mut packed: &[u8], dir: &Path) {
    while !packed.is_empty() {
        let len = u16::from_be_bytes(take(&mut packed));
        let (path, rest) = packed.split_at(len.into());
        packed = rest;
        let len = u64::from_be_bytes(take(&mut packed));
        let path = dir.join(std::str::from_utf8(path).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(len).unwrap();
        loop {
            let at = u64::from_be_bytes(take(&mut packed));
            let len = u32::from_be_bytes(take(&mut packed)) as usize;
            if len == 0 {
                break;
            }
            let (piece, rest) = packed.split_at(len);
            file.write_all_at(piece, at).unwrap();
            packed = rest;
        }
    }
}

fn take<const N: usize>(packed: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = packed.split_first_chunk().unwrap();
    *packed = rest;
    *taken
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "LOCK" {
                let bytes = fs::read(&path).unwrap();
                files.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    files
}
