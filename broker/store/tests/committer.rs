//! The commit thread: order, groups, back-pressure and failures.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use pointsman_core::{ChunkBuilder, ExchangeId, Lane, Offset, Record, References};
use pointsman_store::{Committer, Done, Options, ReadDone, Reader, Site, Store, StoreError};

/// Synced before it is told of.
const NOW: Option<Duration> = Some(Duration::ZERO);

fn append(base: u64, len: usize) -> Vec<Record> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(base), 1_000);
    builder.push(ExchangeId(1), None, b"", &vec![7; len]);
    let chunk = Arc::new(builder.finish());
    vec![Record::Append {
        chunk,
        references: References::uniform(1, 1),
    }]
}

fn open(options: Options) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options).unwrap();
    (dir, store)
}

fn start(store: &Store) -> (Committer, Receiver<Done>) {
    let (tell, told) = channel();
    // A test that ended listens no more.
    let committer = Committer::start(store.clone(), move |done| drop(tell.send(done))).unwrap();
    (committer, told)
}

fn figure(store: &Store, name: &str) -> u64 {
    store.figures().into_iter().find(|(n, _)| n == name).unwrap().1
}

#[test]
fn commits_become_durable_in_order_and_all_of_them() {
    let (dir, store) = open(Options::default());
    let (committer, told) = start(&store);
    for number in 1..=500 {
        committer.submit(number, append(number, 100), NOW);
    }
    committer.stop();
    let through: Vec<u64> = told
        .iter()
        .map(|done| match done {
            Done::Durable { through } => through,
            Done::Failed { error } => panic!("{error}"),
        })
        .collect();
    assert!(through.is_sorted() && through.last() == Some(&500));
    drop(store);
    let (store, restored) = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(restored.next_offsets[0], Offset(501));
    assert!((1..=500).all(|base| store.read_chunk(Lane::Queues, Offset(base)).is_ok()));
}

#[test]
fn what_queues_up_during_a_write_is_one_group() {
    let (_dir, store) = open(Options::default());
    let before = figure(&store, "commit_groups");
    let barrier = Arc::new(Barrier::new(2));
    let (tell, told) = channel();
    let committer = Committer::start(store.clone(), {
        let barrier = barrier.clone();
        let mut first = true;
        move |done| {
            tell.send(done).unwrap();
            if std::mem::take(&mut first) {
                barrier.wait();
                barrier.wait();
            }
        }
    })
    .unwrap();
    committer.submit(1, append(1, 10), NOW);
    barrier.wait();
    for number in 2..=100 {
        committer.submit(number, append(number, 10), NOW);
    }
    barrier.wait();
    committer.stop();
    let through: Vec<_> = told
        .iter()
        .map(|done| matches!(done, Done::Durable { through: 1 | 100 }))
        .collect();
    assert_eq!(through, [true, true]);
    assert_eq!(figure(&store, "commit_groups") - before, 2);
    assert_eq!(figure(&store, "group_records_max"), 99);
    assert!(figure(&store, "group_bytes_max") > figure(&store, "group_bytes_p50"));
}

#[test]
fn a_group_is_synced_only_when_a_commit_asks_for_it() {
    let (_dir, store) = open(Options::default());
    let before = figure(&store, "syncs");
    let (committer, told) = start(&store);
    committer.submit(1, append(1, 10), None);
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 1 }));
    assert_eq!(figure(&store, "syncs"), before);
    committer.submit(2, append(2, 10), NOW);
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 2 }));
    assert_eq!(figure(&store, "syncs"), before + 1);
}

#[test]
fn an_interval_syncs_by_itself_and_nothing_waits_for_it() {
    let (_dir, store) = open(Options::default());
    // The sync is told of by the fault it runs into.
    store.faults().fail(Site::Sync, 0, ErrorKind::Other);
    let (committer, told) = start(&store);
    committer.submit(1, append(1, 10), Some(Duration::from_millis(1)));
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 1 }));
    assert!(matches!(
        told.recv().unwrap(),
        Done::Failed {
            error: StoreError::Sync(_)
        }
    ));
}

#[test]
fn whoever_writes_after_a_sync_that_failed_aside_is_told_why() {
    for (site, kind) in [
        (Site::Sync, ErrorKind::Other),
        (Site::Mark, ErrorKind::StorageFull),
    ] {
        let (_dir, store) = open(Options::default());
        store.apply(&[&append(1, 10)], false).unwrap();
        store.faults().fail(site, 0, kind);
        let failed = store.sync().unwrap_err();
        let told = store.apply(&[&append(2, 10)], false).unwrap_err();
        assert_eq!(told.to_string(), failed.to_string());
        assert_eq!(matches!(told, StoreError::DiskFull), site == Site::Mark, "{told}");
        assert!(matches!(store.apply(&[], false), Err(StoreError::Stopped(_))));
    }
}

#[test]
fn while_an_interval_is_synced_others_write_and_sync() {
    let (_dir, store) = open(Options::default());
    let syncs = figure(&store, "syncs");
    let (committer, told) = start(&store);
    let held = store.faults().hold(Site::Sync);
    committer.submit(1, append(1, 10), Some(Duration::from_millis(1)));
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 1 }));
    assert!(held.wait(Duration::from_secs(20)));
    let hour = Some(Duration::from_secs(3_600));
    let (tell, done) = channel();
    std::thread::spawn(move || {
        assert_eq!(committer.commit_here(append(2, 10), hour).unwrap(), None);
        committer.submit(2, append(3, 10), hour);
        assert!(matches!(told.recv().unwrap(), Done::Durable { through: 2 }));
        committer.submit(3, append(4, 10), NOW);
        assert!(matches!(told.recv().unwrap(), Done::Durable { through: 3 }));
        tell.send(committer).unwrap();
    });
    let committer = done.recv_timeout(Duration::from_secs(20)).expect("nobody waits");
    assert_eq!(figure(&store, "syncs"), syncs + 1);
    drop(held);
    committer.stop();
    assert_eq!(figure(&store, "syncs"), syncs + 2);
}

#[test]
fn the_soonest_promise_of_all_that_is_written_is_kept() {
    let (_dir, store) = open(Options::default());
    store.faults().fail(Site::Sync, 0, ErrorKind::Other);
    let (committer, told) = start(&store);
    // An hour passes for nobody: what syncs is the promise of the second.
    committer.submit(1, append(1, 10), Some(Duration::from_secs(3_600)));
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 1 }));
    committer.submit(2, append(2, 10), Some(Duration::from_millis(1)));
    assert!(matches!(told.recv().unwrap(), Done::Durable { through: 2 }));
    assert!(matches!(told.recv().unwrap(), Done::Failed { .. }));
}

#[test]
fn nothing_is_durable_after_a_failure_at_any_site() {
    for (site, kind) in [
        (Site::Write, ErrorKind::Other),
        (Site::Write, ErrorKind::StorageFull),
        (Site::Sync, ErrorKind::Other),
        (Site::Sync, ErrorKind::StorageFull),
        (Site::Mark, ErrorKind::Other),
    ] {
        let (dir, store) = open(Options::default());
        let (committer, told) = start(&store);
        committer.submit(1, append(1, 10), NOW);
        assert!(matches!(told.recv().unwrap(), Done::Durable { through: 1 }));
        store.faults().fail(site, 0, kind);
        for number in 2..5_000 {
            // Far more than may wait: submitting to a store that failed blocks nobody.
            committer.submit(number, append(number, 10), NOW);
        }
        committer.stop();
        let after: Vec<Done> = told.iter().collect();
        let [Done::Failed { error }] = after.as_slice() else {
            panic!("{site:?}: {after:?}");
        };
        assert_eq!(
            matches!(error, StoreError::DiskFull),
            kind == ErrorKind::StorageFull && site != Site::Sync,
            "{site:?}: {error}"
        );
        assert!(matches!(store.apply(&[], true), Err(StoreError::Stopped(_))));
        drop(store);
        let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
        store.read_chunk(Lane::Queues, Offset(1)).unwrap();
    }
}

#[test]
fn reads_go_on_after_writing_failed() {
    let (_dir, store) = open(Options::default());
    store.apply(&[&append(1, 10)], true).unwrap();
    store.faults().fail(Site::Write, 0, ErrorKind::StorageFull);
    assert!(matches!(
        store.apply(&[&append(2, 10)], true),
        Err(StoreError::DiskFull)
    ));
    store.read_chunk(Lane::Queues, Offset(1)).unwrap();
}

#[test]
fn a_reader_answers_in_order_and_passes_errors_on() {
    let (_dir, store) = open(Options::default());
    store.apply(&[&append(1, 10)], true).unwrap();
    let (tell, told) = channel();
    let reader = Reader::start(store.clone(), move |done| tell.send(done).unwrap()).unwrap();
    store.faults().fail(Site::Read, 1, ErrorKind::Other);
    for _ in 0..3 {
        reader.read_chunk(Lane::Queues, Offset(1), false);
    }
    reader.stop();
    let results: Vec<bool> = told
        .iter()
        .map(|done| match done {
            ReadDone::Chunk { result, .. } => result.is_ok(),
            ReadDone::Index { .. } | ReadDone::Due { .. } => panic!("nobody asked for anything else"),
        })
        .collect();
    assert_eq!(results, [true, false, true]);
}

#[test]
fn a_panic_on_the_commit_thread_is_a_failure_and_blocks_nobody() {
    let (_dir, store) = open(Options::default());
    let (tell, told) = channel();
    let committer = Committer::start(store, move |done| match done {
        Done::Durable { .. } => panic!("as the test wants it"),
        Done::Failed { error } => tell.send(error).unwrap(),
    })
    .unwrap();
    for number in 1..5_000 {
        committer.submit(number, append(number, 10), NOW);
    }
    committer.stop();
    assert!(matches!(told.recv().unwrap(), StoreError::Stopped(_)));
}

fn release(base: u64) -> Vec<Record> {
    vec![Record::Release {
        lane: Lane::Queues,
        base: Offset(base),
        record: 0,
        count: 1,
    }]
}

#[test]
fn a_small_commit_is_durable_when_it_was_made_here_and_a_large_one_is_given_back() {
    let (dir, store) = open(Options::default());
    let (committer, told) = start(&store);
    let syncs = figure(&store, "syncs");
    assert_eq!(committer.commit_here(append(1, 10), NOW).unwrap(), None);
    assert_eq!(figure(&store, "syncs"), syncs + 1);
    let large = append(2, 100_000);
    assert_eq!(committer.commit_here(large.clone(), NOW).unwrap(), Some(large));
    store.faults().fail(Site::Sync, 0, ErrorKind::Other);
    let failed = committer.commit_here(append(2, 10), NOW);
    assert!(matches!(failed, Err(StoreError::Sync(_))), "{failed:?}");
    assert!(told.try_recv().is_err(), "nothing was submitted");
    committer.stop();
    drop(store);
    let (store, _) = Store::open(dir.path(), Options::default()).unwrap();
    store.read_chunk(Lane::Queues, Offset(1)).unwrap();
}

#[test]
fn a_commit_made_here_that_may_be_synced_later_is_synced_in_time() {
    let (_dir, store) = open(Options::default());
    let (committer, told) = start(&store);
    let syncs = figure(&store, "syncs");
    // An hour passes for nobody, and the thread sleeps for it when the next promise comes.
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!(committer.commit_here(append(1, 10), hour).unwrap(), None);
    assert_eq!(figure(&store, "syncs"), syncs);
    store.faults().fail(Site::Sync, 0, ErrorKind::Other);
    let soon = Some(Duration::from_millis(1));
    assert_eq!(committer.commit_here(append(2, 10), soon).unwrap(), None);
    let failed = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(failed, Done::Failed { .. }), "{failed:?}");
}

/// Opens what a killed process would leave.
fn settled_after_a_kill(dir: &std::path::Path) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--"])
        .args([&dir.join("."), copy.path()])
        .status();
    assert!(copied.unwrap().success());
    let (store, _) = Store::open(copy.path(), Options::default()).unwrap();
    store.read_chunk(Lane::Queues, Offset(1)).is_err()
}

#[test]
fn a_settlement_is_written_soon_though_nothing_follows() {
    let (dir, store) = open(Options::default());
    let (committer, _told) = start(&store);
    committer.commit_here(append(1, 10), NOW).unwrap();
    assert!(!settled_after_a_kill(dir.path()));
    committer.commit_here(release(1), None).unwrap();
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while !settled_after_a_kill(dir.path()) {
        assert!(std::time::Instant::now() < patience, "it is not written");
    }
}
