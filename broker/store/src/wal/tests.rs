//! The log as a whole: what was appended is read again, and what was not whole is not.

use fjall::UserValue;

use super::*;
use crate::staged::{Change, Table};

/// Blocks in a segment.
const SHORT: u64 = 4;

/// A batch of one value of so many bytes.
fn batch(byte: u8, len: usize) -> Changes {
    let mut changes = Changes::default();
    let value = UserValue::new(&vec![byte; len]);
    changes[Table::Log as usize].push(Change::put([byte].into(), value));
    changes
}

/// A new log.
fn create(folder: &Path) -> Wal {
    Wal::open(folder, SHORT, 0, 0, &[], BTreeSet::new()).unwrap()
}

/// Appends a batch and writes it.
fn append(wal: &mut Wal, sequence: u64, synced: u64, changes: &Changes) {
    wal.append(sequence, synced, &mut changes.clone()).unwrap();
    wal.write_out().unwrap();
}

/// The next batch, as it was before it had a place.
fn next(reader: &mut Reader) -> Option<Changes> {
    let mut changes = reader.next().unwrap()?;
    changes.iter_mut().flatten().for_each(|change| change.at = None);
    Some(changes)
}

/// All batches from a place on, and where they end.
fn read(folder: &Path, from: Place) -> (Vec<Changes>, Place, Vec<u64>) {
    let mut reader = Reader::new(folder, SHORT, from);
    let mut batches = Vec::new();
    while let Some(changes) = next(&mut reader) {
        batches.push(changes);
    }
    let behind = reader.behind().unwrap().blocks;
    (batches, reader.at, behind)
}

fn overwrite(folder: &Path, block: u64, bytes: &[u8]) {
    let file = OpenOptions::new()
        .write(true)
        .open(segment_path(folder, block / SHORT))
        .unwrap();
    file.write_all_at(bytes, block % SHORT * BLOCK as u64).unwrap();
}

#[test]
fn batches_are_read_in_order_over_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    // The third just fills a block.
    let full = PAYLOAD - 8 - batch::FIXED - 1;
    let lengths = [10, 30_000, full, full + 1];
    let batches: Vec<_> = lengths
        .iter()
        .zip(1..)
        .map(|(&len, byte)| batch(byte, len))
        .collect();
    let mut places = vec![Place::default()];
    for ((changes, len), sequence) in batches.iter().zip(lengths).zip(1..) {
        let end = wal.end_with(&Changes::default(), 1 + len);
        append(&mut wal, sequence, sequence - 1, changes);
        assert_eq!(wal.end(), end);
        wal.sync().unwrap();
        let block = wal.end();
        places.push(Place { block, sequence });
    }
    let end = places[4];
    assert_eq!(end.block, 1 + 8 + 1 + 2);
    for (at, place) in places.into_iter().enumerate() {
        assert_eq!(read(folder.path(), place), (batches[at..].to_vec(), end, vec![]));
    }
}

#[test]
fn what_is_not_written_yet_is_written_with_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    wal.append(1, 0, &mut batch(1, 5_000)).unwrap();
    wal.append(2, 0, &mut batch(2, 9_000)).unwrap();
    assert!(wal.has_unwritten());
    assert!(read(folder.path(), Place::default()).0.is_empty());
    wal.append(3, 0, &mut batch(3, WRITE_BYTES)).unwrap();
    wal.sync().unwrap();
    assert!(!wal.has_unwritten());
    let all = [batch(1, 5_000), batch(2, 9_000), batch(3, WRITE_BYTES)];
    assert_eq!(read(folder.path(), Place::default()).0, all);
}

#[test]
fn a_sync_beside_writes_leaves_what_was_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    let of_segment = SHORT as usize * PAYLOAD - batch::FIXED - 100;
    append(&mut wal, 1, 0, &batch(1, of_segment));
    append(&mut wal, 2, 0, &batch(2, 5));
    assert_eq!(wal.unsynced.len(), 1, "the second is in another segment");
    let begun = wal.begin_to_sync().unwrap();
    append(&mut wal, 3, 0, &batch(3, of_segment));
    assert_eq!(wal.unsynced.len(), 2);
    begun.sync().unwrap();
    wal.synced(&begun);
    assert_eq!(wal.unsynced.len(), 1, "the third is in the second segment too");
    assert!(Arc::ptr_eq(&wal.unsynced[0], &begun.current));

    // One that syncs all meanwhile has done the rest.
    let begun = wal.begin_to_sync().unwrap();
    wal.sync().unwrap();
    wal.synced(&begun);
    assert!(wal.unsynced.is_empty());
}

#[test]
fn a_batch_longer_than_what_is_written_at_once_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    let long = batch(1, 3 * WRITE_BYTES + 77);
    append(&mut wal, 1, 0, &long);
    append(&mut wal, 2, 0, &batch(2, 5));
    assert_eq!(read(folder.path(), Place::default()).0, [long, batch(2, 5)]);
}

#[test]
fn what_no_sync_follows_is_left_to_the_cache_as_long_as_that_is_little() {
    const LEN: usize = 90 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let segment = 2 * CACHED_MAX / BLOCK as u64;
    let mut wal = Wal::open(folder.path(), segment, 0, 0, &[], BTreeSet::new()).unwrap();
    let mut sequence = 0;
    let mut append = |wal: &mut Wal, len| {
        sequence += 1;
        wal.append(sequence, 0, &mut batch(1, len)).unwrap();
    };
    for _ in 0..CACHED_ENOUGH / LEN as u64 {
        append(&mut wal, LEN);
        wal.write_out().unwrap();
    }
    assert!(!wal.cached.is_empty() && !wal.has_cached());
    append(&mut wal, LEN);
    wal.write_out().unwrap();
    assert!(wal.has_cached());
    let taken = wal.take_cached().unwrap();
    assert_eq!(taken.range, 0..wal.end() * BLOCK as u64);
    taken.begin_to_write();
    assert!(wal.cached.is_empty() && !wal.has_cached());

    append(&mut wal, LEN);
    wal.write_out().unwrap();
    append(&mut wal, LEN);
    wal.sync().unwrap();
    assert!(wal.cached.is_empty(), "a sync leaves nothing to write");
    append(&mut wal, CACHED_WRITE_MAX);
    wal.write_out().unwrap();
    assert!(wal.cached.is_empty(), "much is written past the cache");

    while wal.end() < segment * 2 {
        append(&mut wal, LEN);
        wal.write_out().unwrap();
        assert!(wal.cached.end - wal.cached.start < CACHED_MAX + LEN as u64 * 2);
        assert!(wal.cached.end <= wal.end() % segment * BLOCK as u64);
    }
    let mut reader = Reader::new(folder.path(), segment, Place::default());
    for _ in 0..sequence {
        assert!(next(&mut reader).is_some(), "both ways lead to one file");
    }
}

#[test]
fn a_released_segment_is_written_again_and_what_was_in_it_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    let room = wal.room();
    for sequence in 1..=100 {
        let from = Place {
            block: wal.end(),
            sequence: sequence - 1,
        };
        room.release(from.block, |_| false).unwrap();
        append(&mut wal, sequence, sequence - 1, &batch(sequence as u8, 9_000));
        let (batches, end, behind) = read(folder.path(), from);
        assert_eq!((batches.len(), end.block, behind), (1, wal.end(), vec![]));
    }
    let (bytes, count) = wal.room().disk_space();
    assert!(count <= 3, "{count} segments");
    assert_eq!(bytes, count * SHORT * BLOCK as u64);
    assert_eq!(segments::list(folder.path()).unwrap().len() as u64, count);
}

#[test]
fn an_interrupted_batch_ends_the_log_and_its_rest_is_not_taken_for_more_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    append(&mut wal, 1, 0, &batch(1, 10));
    // Three blocks each; of the second the first block is lost, the third is whole.
    append(&mut wal, 2, 1, &batch(2, 9_000));
    append(&mut wal, 3, 1, &batch(3, 9_000));
    drop(wal);
    overwrite(folder.path(), 1, &[0; BLOCK]);
    let (batches, end, stale) = read(folder.path(), Place::default());
    assert_eq!(
        (batches.len(), end.sequence, &stale[..]),
        (1, 1, &[2, 3, 4, 5, 6][..])
    );

    let mut wal = Wal::open(folder.path(), SHORT, 0, end.block, &stale, BTreeSet::new()).unwrap();
    append(&mut wal, 2, 1, &batch(7, 9_000));
    let (batches, end, behind) = read(folder.path(), Place::default());
    assert_eq!(batches, [batch(1, 10), batch(7, 9_000)]);
    assert_eq!(
        (end.sequence, behind),
        (2, vec![]),
        "the old batch 3 would fit behind"
    );
}

#[test]
fn what_lies_behind_damage_says_what_was_synced_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    for sequence in 1..=6 {
        append(&mut wal, sequence, sequence - 1, &batch(sequence as u8, 5_000));
    }
    overwrite(folder.path(), 5, &[1]);
    let mut reader = Reader::new(folder.path(), SHORT, Place::default());
    while reader.next().unwrap().is_some() {}
    assert_eq!((reader.at.sequence, reader.behind().unwrap().synced), (2, 5));
    assert_eq!(reader.skip().unwrap(), Some(1));
    let mut left = Vec::new();
    while let Some(changes) = next(&mut reader) {
        left.push(changes);
    }
    assert_eq!(left, [4, 5, 6].map(|byte| batch(byte, 5_000)));
    assert_eq!(reader.skip().unwrap(), None);
}

#[test]
fn the_oldest_batch_is_found_without_knowing_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    for sequence in 1..=9 {
        append(&mut wal, sequence, 0, &batch(sequence as u8, 5_000));
    }
    wal.room().release(9, |_| false).unwrap();
    let mut reader = Reader::from_oldest(folder.path(), SHORT).unwrap();
    assert_eq!(next(&mut reader), Some(batch(5, 5_000)));
}

#[test]
fn a_segment_that_is_made_ready_is_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    assert!(!wal.wants_segment());
    append(&mut wal, 1, 0, &batch(1, 8_000));
    assert!(wal.wants_segment(), "half of the segment is full");
    assert!(!wal.wants_segment(), "it says so once");
    wal.room().prepare(|| true).unwrap();
    assert_eq!(wal.room().disk_space().1, 2);
    append(&mut wal, 2, 0, &batch(2, 20_000));
    assert_eq!(read(folder.path(), Place::default()).0.len(), 2);
}

#[test]
fn what_a_crash_left_of_making_segments_is_cleared_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    append(&mut wal, 1, 0, &batch(1, 20_000));
    let end = wal.end();
    drop(wal);
    for left in ["new", "7.wal"] {
        fs::write(folder.path().join(left), b"half").unwrap();
    }
    fs::rename(segment_path(folder.path(), 0), segment_path(folder.path(), 2)).unwrap();
    let wal = Wal::open(folder.path(), SHORT, SHORT, end, &[], BTreeSet::new()).unwrap();
    assert_eq!(segments::list(folder.path()).unwrap(), [1, 2]);
    assert!(!folder.path().join("new").exists());
    assert_eq!(wal.room().disk_space().1, 2);
}

/// Where the value of a batch was put.
fn extent(changes: &Changes) -> Extent {
    let change = &changes[Table::Log as usize][0];
    Extent {
        at: change.at.unwrap(),
        len: change.value.as_ref().unwrap().len() as u32,
    }
}

#[test]
fn a_value_is_read_from_where_it_lies_until_that_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    let mut extents = Vec::new();
    for (sequence, len) in [(1, 1), (2, 4_056), (3, 20_000), (4, 100)] {
        let mut changes = batch(sequence as u8, len);
        wal.append(sequence, 0, &mut changes).unwrap();
        extents.push((extent(&changes), vec![sequence as u8; len]));
    }
    wal.write_out().unwrap();
    let read = |extent: Extent| {
        ExtentReader::new(folder.path().to_owned(), SHORT)
            .read(extent)
            .unwrap()
    };
    for (extent, value) in &extents {
        assert_eq!(read(*extent).as_deref(), Some(&value[..]));
    }
    // Whoever replays the log finds the same places.
    let mut reader = Reader::new(folder.path(), SHORT, Place::default());
    for (place, _) in &extents {
        assert_eq!(extent(&reader.next().unwrap().unwrap()), *place);
    }
    // All but the last begin in the first segment.
    wal.room().release(SHORT, |_| false).unwrap();
    let are_there: Vec<bool> = extents
        .iter()
        .map(|(extent, _)| read(*extent).is_some())
        .collect();
    assert_eq!(are_there, [false, false, false, true]);
}

#[test]
fn a_kept_segment_stays_until_it_is_let_go_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = create(folder.path());
    let mut kept = batch(1, 5_000);
    wal.append(1, 0, &mut kept).unwrap();
    for sequence in 2..=6 {
        append(&mut wal, sequence, 0, &batch(9, 10_000));
    }
    let kept = extent(&kept);
    let (room, end) = (wal.room(), wal.end());
    room.release(end, |segment| segment == 0).unwrap();
    room.let_go(1).unwrap();
    assert!(
        ExtentReader::new(folder.path().to_owned(), SHORT)
            .read(kept)
            .unwrap()
            .is_some()
    );
    drop(wal);

    let mut wal = Wal::open(folder.path(), SHORT, end, end, &[], BTreeSet::from([0])).unwrap();
    for sequence in 7..=12 {
        append(&mut wal, sequence, 0, &batch(9, 10_000));
        wal.room().release(wal.end(), |_| false).unwrap();
        assert!(
            ExtentReader::new(folder.path().to_owned(), SHORT)
                .read(kept)
                .unwrap()
                .is_some()
        );
    }
    let count = wal.room().disk_space().1;
    wal.room().let_go(0).unwrap();
    assert!(
        ExtentReader::new(folder.path().to_owned(), SHORT)
            .read(kept)
            .unwrap()
            .is_none()
    );
    assert_eq!(
        wal.room().disk_space().1,
        count,
        "it is ready to be written again"
    );
}
