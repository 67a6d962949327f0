//! Backups are whole and consistent; a look at everything says exactly which messages are lost.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{QUEUE, message};
use pointsman_core::{Lane, Offset, Position, Record};
use pointsman_store::{BackupError, Damage, Options, QueueReport, Store};

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap().0
}

/// The position behind the last message of which everything is there; panics when one in front of it is not.
fn whole_until(dir: &Path) -> u64 {
    let (store, restored) = Store::open(dir, Options::default()).unwrap();
    let tail = restored.queues[0].1.tail.0;
    assert_eq!(restored.next_offsets[0], Offset(tail));
    let entries = store
        .read_index(QUEUE, Position(0), Position(u64::MAX), usize::MAX)
        .unwrap();
    assert_eq!(entries.len() as u64, tail);
    for (offset, entry) in entries.iter().enumerate() {
        assert_eq!(entry.first.0, offset as u64);
        store.read_chunk(Lane::Queues, Offset(offset as u64)).unwrap();
    }
    assert!(store.verify().unwrap().is_sound());
    tail
}

#[test]
fn a_backup_made_while_publishing_holds_a_moment_between_two_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    for offset in 0..300 {
        store.apply(&[&message(offset, b"before")], true).unwrap();
    }
    let stop = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut offset = 300;
            while !stop.load(Ordering::Relaxed) || offset == 300 {
                store.apply(&[&message(offset, b"meanwhile")], true).unwrap();
                offset += 1;
            }
            offset
        });
        let copied = store.backup(&dir.path().join("backup")).unwrap();
        assert!(copied.chunks >= 300 && copied.bytes > 0);
        stop.store(true, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    let kept = whole_until(&dir.path().join("backup"));
    assert!((300..=published).contains(&kept));
    assert!(!dir.path().join("backup.partial").exists());

    let report = Store::restore(&dir.path().join("backup"), &dir.path().join("restored")).unwrap();
    assert_eq!(report.chunks, kept);
    assert_eq!(whole_until(&dir.path().join("restored")), kept);
    let restored = open(&dir.path().join("restored"));
    restored.apply(&[&message(kept, b"after")], true).unwrap();
}

#[test]
fn a_copy_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("photo.jpg"), b"x").unwrap();
    assert!(matches!(store.backup(&to), Err(BackupError::Exists(_))));
    assert_eq!(fs::read(to.join("photo.jpg")).unwrap(), b"x");
    fs::remove_file(to.join("photo.jpg")).unwrap();
    store.backup(&to).unwrap();
}

/// Changes a byte of a message in the log's table, which `store` has flushed and closed.
fn damage_chunk(dir: &Path, body: &[u8]) {
    for entry in fs::read_dir(dir.join("fjall/keyspaces/1/tables")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(body.len()).position(|window| window == body) {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("no table holds the message");
}

#[test]
fn a_damaged_chunk_is_reported_as_the_positions_it_held_and_not_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data);
    // Larger than a block, so that each chunk has a block of its own.
    let body = |offset: u64| offset.to_be_bytes().repeat(1_000);
    for offset in 0..20 {
        store.apply(&[&message(offset, &body(offset))], true).unwrap();
    }
    let settled = Record::AckBlock {
        queue: QUEUE,
        block: 0,
        settled: Some([3, 5].into_iter().collect()),
    };
    store.apply(&[&[settled]], true).unwrap();
    store.flush().unwrap();
    drop(store);
    for offset in [5, 11, 12, 15] {
        damage_chunk(&data, &body(offset));
    }

    let store = open(&data);
    let report = store.verify().unwrap();
    let queue = QueueReport {
        queue: QUEUE,
        name: None,
        saved: 15,
        lost: vec![11..13, 15..16],
        delayed: 0,
        delayed_lost: 0,
    };
    assert_eq!(report.queues, [queue], "5 is damaged too, but settled");
    assert_eq!((report.chunks, report.damage.len()), (16, 4));
    assert!(matches!(report.damage[0], Damage::Chunk { base: Offset(5), .. }));
    assert!(!report.is_sound());
    assert!(matches!(
        store.backup(&dir.path().join("backup")),
        Err(BackupError::Store(_))
    ));
    assert!(!dir.path().join("backup").exists());
}

#[test]
fn a_damaged_backup_is_not_restored_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    for offset in 0..20u64 {
        let body = offset.to_be_bytes().repeat(1_000);
        store.apply(&[&message(offset, &body)], true).unwrap();
    }
    let backup = dir.path().join("backup");
    store.backup(&backup).unwrap();
    damage_chunk(&backup, &7u64.to_be_bytes().repeat(1_000));
    let to = dir.path().join("restored");
    for _ in 0..2 {
        let error = Store::restore(&backup, &to).unwrap_err();
        assert!(matches!(error, BackupError::Damaged(_)), "{error}");
        assert!(!to.exists());
    }
}
