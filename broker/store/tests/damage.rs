//! A store that lost or changed something says so instead of opening on less.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pointsman_core::{ChunkBuilder, ExchangeId, Lane, Offset, Record, References};
use pointsman_store::{Damage, OpenError, Options, Site, Store, StoreError};

const BATCHES: u64 = 200;

/// More than the batches take in the log, in bytes.
const WRITTEN_MAX: usize = 2 * 1024 * 1024;

fn append(base: u64) -> Record {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    builder.push(ExchangeId(1), None, b"", &base.to_be_bytes().repeat(100));
    Record::Append {
        chunk: Arc::new(builder.finish()),
        references: References::uniform(1, 1),
    }
}

/// A store with [`BATCHES`] chunks, each in a synced batch of its own.
fn fill(dir: &Path) -> Store {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    for base in 0..BATCHES {
        store.apply(&[&[append(base)]], true).unwrap();
    }
    store
}

/// A copy of a folder whose store is still open: what a crash of the process leaves.
fn crashed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(dir, copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            // A segment is allocated ahead; only its beginning is written.
            let mut bytes = vec![0; WRITTEN_MAX];
            let from = fs::File::open(entry.path()).unwrap();
            let len = from.metadata().unwrap().len();
            let read = from.read_at(&mut bytes, 0).unwrap();
            bytes.truncate(read);
            fs::write(&to, bytes).unwrap();
            fs::File::options()
                .write(true)
                .open(&to)
                .unwrap()
                .set_len(len)
                .unwrap();
        }
    }
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("wal/0.wal")
}

/// Where the batches in a segment end.
fn end(segment: &Path) -> u64 {
    let bytes = begin(segment);
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

/// The part of a segment that is written.
fn begin(segment: &Path) -> Vec<u8> {
    let mut bytes = vec![0; WRITTEN_MAX];
    fs::File::open(segment).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn damage(dir: &Path) -> Damage {
    match Store::open(dir, Options::default()) {
        Err(OpenError::Damaged { damage, .. }) => damage,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn a_crash_loses_nothing_that_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(dir.path());
    store.apply(&[&[append(BATCHES)]], false).unwrap();
    let copy = crashed(dir.path());
    let (store, restored) = Store::open(copy.path(), Options::default()).unwrap();
    assert_eq!(restored.next_offsets[0], Offset(BATCHES + 1));
    for base in 0..=BATCHES {
        store.read_chunk(Lane::Queues, Offset(base)).unwrap();
    }
}

#[test]
fn a_write_that_a_crash_interrupted_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(dir.path());
    let synced = end(&segment(dir.path()));
    store.apply(&[&[append(BATCHES)]], false).unwrap();
    let last = end(&segment(dir.path()));
    // Cut at any byte of the unsynced batch, and with holes in it as after power loss.
    for (at, kept) in [
        (synced + 1, 0),
        (synced + 100, 0),
        (last - 1, 0),
        (synced + 20, 300),
        (synced + 400, 200),
    ] {
        let copy = crashed(dir.path());
        let hole = vec![0; (last - at - kept) as usize];
        overwrite(&segment(copy.path()), at, &hole);
        let (store, restored) = Store::open(copy.path(), Options::default()).unwrap();
        assert_eq!(restored.next_offsets[0], Offset(BATCHES), "cut at {at}");
        store.apply(&[&[append(BATCHES)]], true).unwrap();
        drop(store);
        let (_, restored) = Store::open(copy.path(), Options::default()).unwrap();
        assert_eq!(restored.next_offsets[0], Offset(BATCHES + 1));
    }
}

#[test]
fn a_zeroed_page_of_the_log_is_a_loss_that_is_told_and_not_made_worse() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let before = fs::metadata(segment(dir.path())).unwrap().len();
    for page in [0, 1, 10] {
        let copy = crashed(dir.path());
        overwrite(&segment(copy.path()), page * 4_096, &[0; 4_096]);
        let found = damage(copy.path());
        assert!(
            matches!(found, Damage::Lost { .. } | Damage::Wal { .. }),
            "page {page}: {found}"
        );
        assert_eq!(damage(copy.path()), found, "a second look finds the same");
        assert_eq!(fs::metadata(segment(copy.path())).unwrap().len(), before);
    }
}

#[test]
fn a_flipped_bit_in_front_of_later_batches_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let end = end(&segment(dir.path()));
    let bytes = begin(&segment(dir.path()));
    for step in 1..20 {
        let at = end * step / 20;
        let copy = crashed(dir.path());
        overwrite(&segment(copy.path()), at, &[bytes[at as usize] ^ 4]);
        damage(copy.path());
    }
}

#[test]
fn a_log_that_is_gone_is_less_than_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let copy = crashed(dir.path());
    fs::remove_file(segment(copy.path())).unwrap();
    let synced = BATCHES + 1;
    assert_eq!(damage(copy.path()), Damage::Lost { synced, found: 0 });
}

#[test]
fn an_older_segment_is_less_than_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(dir.path());
    let old = begin(&segment(dir.path()));
    store.apply(&[&[append(BATCHES)]], true).unwrap();
    let copy = crashed(dir.path());
    fs::write(segment(copy.path()), old).unwrap();
    assert!(matches!(damage(copy.path()), Damage::Lost { .. }));
}

#[test]
fn a_tree_whose_manifest_is_gone_or_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill(dir.path()));
    for tree in 0..=5 {
        let copy = crashed(dir.path());
        let name = format!("keyspaces/{tree}/current");
        fs::remove_file(copy.path().join("fjall").join(&name)).unwrap();
        assert_eq!(damage(copy.path()), Damage::FileMissing { name });
        let copy = crashed(dir.path());
        let current = copy.path().join(format!("fjall/keyspaces/{tree}/current"));
        // A checksum, so that it may be any byte before.
        let byte = fs::read(&current).unwrap()[10];
        overwrite(&current, 10, &[!byte]);
        assert!(matches!(damage(copy.path()), Damage::File { .. }));
    }
}

#[test]
fn a_folder_without_its_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill(dir.path()));
    fs::remove_file(dir.path().join("mark")).unwrap();
    assert_eq!(damage(dir.path()), Damage::MarkMissing);
}

#[test]
fn a_folder_without_fjalls_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill(dir.path()));
    fs::remove_dir_all(dir.path().join("fjall")).unwrap();
    assert_eq!(
        damage(dir.path()),
        Damage::FileMissing {
            name: "version".to_owned()
        }
    );
}

#[test]
fn a_first_start_that_failed_half_way_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    for site in [Site::Write, Site::Sync, Site::Mark] {
        let options = Options::default();
        options.faults.fail(site, 0, ErrorKind::StorageFull);
        assert!(Store::open(dir.path(), options).is_err());
    }
    let (_, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(restored.next_offsets, [Offset(0); 2]);
}

#[test]
fn a_second_instance_is_refused_with_the_process_that_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let error = Store::open(dir.path(), Options::default()).err().unwrap();
    let holder = format!("is in use by process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
}

#[test]
fn a_flipped_bit_in_a_chunk_is_an_error_that_names_the_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(dir.path());
    store.flush().unwrap();
    drop(store);
    let table = fs::read_dir(dir.path().join("fjall/keyspaces/1/tables"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let bytes = fs::read(&table).unwrap();
    let body = 77u64.to_be_bytes().repeat(100);
    let at = bytes
        .windows(body.len())
        .position(|window| window == body)
        .unwrap() as u64;
    overwrite(&table, at + 50, &[1]);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let error = store.read_chunk(Lane::Queues, Offset(77)).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged(Damage::Chunk { base: Offset(77), .. })),
        "{error}"
    );
    store.read_chunk(Lane::Queues, Offset(7)).unwrap();
}

#[test]
fn damage_in_front_of_later_batches_is_found_though_the_mark_is_older() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    let older = fs::read(dir.path().join("mark")).unwrap();
    for base in 0..BATCHES {
        store.apply(&[&[append(base)]], true).unwrap();
    }
    // As after a power loss: the mark is not synced on its own.
    let copy = crashed(dir.path());
    fs::write(copy.path().join("mark"), &older).unwrap();
    let (store, restored) = Store::open(copy.path(), Options::default()).unwrap();
    assert_eq!(restored.next_offsets[0], Offset(BATCHES));
    drop(store);
    let copy = crashed(dir.path());
    fs::write(copy.path().join("mark"), &older).unwrap();
    overwrite(&segment(copy.path()), 100 * 4_096, &[0; 4_096]);
    let at = 100 * 4_096;
    assert_eq!(damage(copy.path()), Damage::Wal { segment: 0, at });
}
