//! Kept parts: large parts of chunks that stay in the write-ahead log, where they were written once, instead of being written
//! to tables as well.
//!
//! Parts are kept where they are most of what the log took: else segments are better written again. A segment that any of them
//! lies in is kept until the last of them is settled. Where segments hold little that still lives, a flush *moves* the parts of
//! the emptiest ones to tables, within the bounds that [`crate::reclaim`] sets for tables. Which parts there are is in memory
//! and in the keyspace `kept`; both change with a flush and at no other time.
//!
//! Source: the value log of WiscKey (Lu et al., FAST 2016), with the log for one and whole segments collected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fjall::{Keyspace, UserKey};

use crate::error::StoreError;
use crate::memtable::Memtable;
use crate::staged::{Table, Value};
use crate::store::{chunk_damage, read_failed, read_from, value_damage};
use crate::wal::{BLOCK, EXTENT_MAX, Extent, ExtentReader, SEGMENT};

/// Most kept parts; about 24 MiB of memory. What comes beyond goes to tables.
const PARTS_MAX: usize = 256 * 1024;

/// Most bytes that one flush moves to tables, so that it does not take long.
const MOVED_MAX: u64 = 32 * 1024 * 1024;

/// Length of a segment, in bytes.
const SEGMENT_BYTES: u64 = SEGMENT * BLOCK as u64;

/// The kept parts of a store.
#[derive(Debug)]
pub(crate) struct Kept {
    reader: Mutex<ExtentReader>,
    /// Length from which on a part is kept, in bytes.
    least: usize,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    parts: BTreeMap<UserKey, Extent>,
    /// Bytes of the blocks that parts take in each segment.
    segments: BTreeMap<u64, u64>,
    /// How many [`Pin`]s there are. No segment is let go meanwhile.
    pins: u32,
}

/// What a flush does about parts.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Parts that are kept from now on, and those that are not any more.
    pub(crate) changed: BTreeMap<UserKey, Option<Extent>>,
    /// Those of the latter that go to a table.
    pub(crate) moved: BTreeMap<UserKey, Extent>,
}

/// The kept parts of a moment, which stay where they are until it is dropped.
pub(crate) struct Pin {
    kept: Arc<Kept>,
    parts: BTreeMap<UserKey, Extent>,
}

impl Kept {
    /// None yet, of the log in this folder; a part is kept from this length on.
    pub(crate) fn new(folder: PathBuf, least: usize) -> Kept {
        Kept {
            reader: Mutex::new(ExtentReader::new(folder, SEGMENT)),
            least,
            now: Mutex::default(),
        }
    }

    /// Those that the keyspace names.
    pub(crate) fn load(folder: PathBuf, least: usize, keyspace: &Keyspace) -> Result<Kept, StoreError> {
        let kept = Kept::new(folder, least);
        for guard in keyspace.iter() {
            let (key, value) = guard.into_inner().map_err(|e| read_from(Table::Kept, e))?;
            let extent = Extent::decode(&value).ok_or_else(|| value_damage(Table::Kept, &key))?;
            kept.keep(key, extent);
        }
        Ok(kept)
    }

    /// Adds a part.
    pub(crate) fn keep(&self, key: UserKey, extent: Extent) {
        self.now().change(key, Some(extent));
    }

    /// Where a part is kept.
    pub(crate) fn extent(&self, key: &[u8]) -> Option<Extent> {
        self.now().parts.get(key).copied()
    }

    /// Reads a kept part.
    ///
    /// # Errors
    /// When reading fails, or something else is there.
    pub(crate) fn read(&self, key: &[u8], extent: Extent) -> Result<Bytes, StoreError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let value = reader.read(extent).map_err(read_failed)?;
        value.ok_or_else(|| chunk_damage(key, "its place in the write-ahead log").into())
    }

    /// The last key with this prefix.
    pub(crate) fn last(&self, prefix: &[u8]) -> Option<UserKey> {
        let now = self.now();
        let mut behind = now.parts.range(UserKey::new(prefix)..);
        let last = behind.rfind(|(key, _)| key.starts_with(prefix));
        last.map(|(key, _)| key.clone())
    }

    /// Bytes of the segments that parts lie in, and bytes that the parts take of them.
    pub(crate) fn space(&self) -> (u64, u64) {
        self.now().space()
    }

    /// The segments that parts lie in.
    pub(crate) fn segments(&self) -> BTreeSet<u64> {
        self.now().segments.keys().copied().collect()
    }

    /// What a flush of this memtable does, which came to so many bytes of the log. Segments may take so many bytes as `allowed`
    /// says for those that live.
    pub(crate) fn plan(&self, memtable: &Memtable, log_bytes: u64, allowed: impl Fn(u64) -> u64) -> Plan {
        let now = self.now();
        let mut plan = Plan::default();
        let large = || {
            memtable.table(Table::Log).filter_map(|(key, last)| {
                let len = last.value.as_ref()?.len();
                let at = last.at.filter(|_| (self.least..=EXTENT_MAX).contains(&len))?;
                let len = len as u32;
                Some((key, Extent { at, len }))
            })
        };
        if large().map(|(_, extent)| u64::from(extent.len)).sum::<u64>() > log_bytes / 2 {
            let room = PARTS_MAX.saturating_sub(now.parts.len());
            let kept = large().take(room);
            plan.changed
                .extend(kept.map(|(key, extent)| (key.clone(), Some(extent))));
        }
        for (key, _) in memtable.table(Table::Log) {
            if now.parts.contains_key(key) {
                plan.changed.entry(key.clone()).or_insert(None);
            }
        }
        plan.move_from_sparse(&now, allowed);
        plan
    }

    /// Notes what a flush did.
    pub(crate) fn apply(&self, plan: Plan) {
        let mut now = self.now();
        for (key, extent) in plan.changed {
            now.change(key, extent);
        }
    }

    /// Segments that nothing lies in any more, each told once.
    pub(crate) fn take_empty(&self) -> Vec<u64> {
        let mut now = self.now();
        if now.pins > 0 {
            return Vec::new();
        }
        let empty = now.segments.extract_if(.., |_, bytes| *bytes == 0);
        empty.map(|(segment, _)| segment).collect()
    }

    /// All there are now, to be read for a while.
    pub(crate) fn pin(self: &Arc<Kept>) -> Pin {
        let mut now = self.now();
        now.pins += 1;
        Pin {
            parts: now.parts.clone(),
            kept: self.clone(),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn change(&mut self, key: UserKey, extent: Option<Extent>) {
        let old = match extent {
            Some(extent) => self.parts.insert(key, extent),
            None => self.parts.remove(&key),
        };
        for (segment, bytes) in old.into_iter().flat_map(bytes_by_segment) {
            if let Some(all) = self.segments.get_mut(&segment) {
                *all -= bytes;
            }
        }
        for (segment, bytes) in extent.into_iter().flat_map(bytes_by_segment) {
            *self.segments.entry(segment).or_default() += bytes;
        }
    }

    fn space(&self) -> (u64, u64) {
        let live = self.segments.values().sum();
        (self.segments.len() as u64 * SEGMENT_BYTES, live)
    }
}

impl Plan {
    /// Moves parts out of the emptiest segments until the others take no more than is allowed.
    fn move_from_sparse(&mut self, now: &Now, allowed: impl Fn(u64) -> u64) {
        // As they will be with what is planned.
        let mut segments = now.segments.clone();
        let left = self.changed.keys().filter_map(|key| now.parts.get(key));
        for (segment, bytes) in left.copied().flat_map(bytes_by_segment) {
            if let Some(all) = segments.get_mut(&segment) {
                *all -= bytes;
            }
        }
        segments.retain(|_, bytes| *bytes > 0);
        let mut live: u64 = segments.values().sum();
        let mut taken = segments.len() as u64 * SEGMENT_BYTES;
        let mut emptiest_first: Vec<(u64, u64)> = segments
            .into_iter()
            .map(|(segment, bytes)| (bytes, segment))
            .collect();
        emptiest_first.sort_unstable();
        let mut sparse = BTreeSet::new();
        let mut moved = 0;
        for (bytes, segment) in emptiest_first {
            if taken <= allowed(live) || moved >= MOVED_MAX {
                break;
            }
            taken -= SEGMENT_BYTES;
            live -= bytes;
            moved += bytes;
            sparse.insert(segment);
        }
        if sparse.is_empty() {
            return;
        }
        for (key, extent) in &now.parts {
            let is_in_sparse = bytes_by_segment(*extent).any(|(segment, _)| sparse.contains(&segment));
            if is_in_sparse && !self.changed.contains_key(key) {
                self.moved.insert(key.clone(), *extent);
                self.changed.insert(key.clone(), None);
            }
        }
    }
}

impl Pin {
    /// All parts, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(UserKey, Value), StoreError>> {
        self.parts.iter().map(|(key, extent)| {
            let value = self.kept.read(key, *extent)?;
            Ok((key.clone(), value.into()))
        })
    }

    /// Reads a part, if it is kept.
    ///
    /// # Errors
    /// As [`Kept::read`].
    pub(crate) fn read(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let extent = self.parts.get(key);
        extent.map(|extent| self.kept.read(key, *extent)).transpose()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.kept.now().pins -= 1;
    }
}

fn bytes_by_segment(extent: Extent) -> impl Iterator<Item = (u64, u64)> {
    let stretches = extent.stretches(SEGMENT);
    stretches.map(|(segment, blocks)| (segment, (blocks.end - blocks.start) * BLOCK as u64))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use fjall::UserValue;

    use super::*;
    use crate::staged::{Change, Changes};

    const PART: usize = 4_056;

    fn kept() -> Arc<Kept> {
        Arc::new(Kept::new(PathBuf::new(), PART))
    }

    /// A memtable with parts of one block each, by the number of that.
    fn memtable(parts: &[(&str, Option<u64>)]) -> Memtable {
        let mut changes = Changes::default();
        for (key, block) in parts {
            let value = block.map(|_| UserValue::new(&[0; PART]).into());
            changes[Table::Log as usize].push(Change {
                value,
                at: block.and_then(|block| NonZeroU64::new(block * PART as u64)),
                ..Change::remove((*key).into())
            });
        }
        let mut memtable = Memtable::default();
        memtable.take(&mut changes);
        memtable
    }

    fn flush(kept: &Kept, parts: &[(&str, Option<u64>)], allowed: u64) -> Vec<UserKey> {
        let plan = kept.plan(&memtable(parts), 0, |_| allowed);
        let moved = plan.moved.keys().cloned().collect();
        kept.apply(plan);
        moved
    }

    #[test]
    fn a_segment_is_empty_once_all_its_parts_went_and_nobody_reads_them() {
        let kept = kept();
        let parts = [("a", Some(1)), ("b", Some(2)), ("c", Some(SEGMENT + 1))];
        flush(&kept, &parts, u64::MAX);
        assert_eq!(kept.segments(), BTreeSet::from([0, 1]));
        assert_eq!(kept.space(), (2 * SEGMENT_BYTES, 3 * BLOCK as u64));
        flush(&kept, &[("a", None)], u64::MAX);
        assert_eq!(kept.take_empty(), []);
        let pin = kept.pin();
        // One is replaced, which leaves its place as well.
        flush(&kept, &[("b", Some(SEGMENT + 2))], u64::MAX);
        assert_eq!(kept.take_empty(), [], "somebody may read it");
        assert_eq!(kept.segments(), BTreeSet::from([0, 1]));
        assert_eq!(pin.parts.len(), 2);
        drop(pin);
        assert_eq!(kept.take_empty(), [0]);
        assert_eq!(kept.take_empty(), []);
        assert_eq!(kept.segments(), BTreeSet::from([1]));
    }

    #[test]
    fn the_emptiest_segments_are_left_until_the_others_take_what_is_allowed() {
        let kept = kept();
        let parts = [
            ("a", Some(1)),
            ("b", Some(2)),
            ("c", Some(SEGMENT)),
            ("d", Some(2 * SEGMENT)),
            ("e", Some(2 * SEGMENT + 1)),
            ("f", Some(2 * SEGMENT + 2)),
        ];
        flush(&kept, &parts, u64::MAX);
        assert_eq!(flush(&kept, &[], 3 * SEGMENT_BYTES), [] as [UserKey; 0]);
        assert_eq!(flush(&kept, &[], 2 * SEGMENT_BYTES), ["c"].map(UserKey::from));
        assert_eq!(kept.take_empty(), [1]);
        // What is settled in the same flush is not moved.
        assert_eq!(
            flush(&kept, &[("a", None)], SEGMENT_BYTES),
            ["b"].map(UserKey::from)
        );
        assert_eq!(kept.segments(), BTreeSet::from([0, 2]));
        assert_eq!(kept.take_empty(), [0]);
    }

    #[test]
    fn what_is_short_or_removed_is_not_kept() {
        let kept = kept();
        let mut changes = Changes::default();
        changes[Table::Log as usize].push(Change {
            at: NonZeroU64::new(1),
            ..Change::put("short".into(), UserValue::new(&[0; PART - 1]))
        });
        let mut memtable = Memtable::default();
        memtable.take(&mut changes);
        assert!(kept.plan(&memtable, 0, |_| 0).changed.is_empty());
        flush(&kept, &[("removed", None)], 0);
        assert!(kept.segments().is_empty());
    }

    #[test]
    fn parts_that_are_little_of_the_log_are_not_kept() {
        let kept = kept();
        let memtable = memtable(&[("a", Some(1)), ("b", Some(2))]);
        let plan = |log_bytes| kept.plan(&memtable, log_bytes, |_| u64::MAX).changed.len();
        assert_eq!(plan(4 * PART as u64 - 1), 2);
        assert_eq!(plan(4 * PART as u64), 0);
    }

    #[test]
    fn the_last_part_of_a_lane_is_found() {
        let kept = kept();
        flush(
            &kept,
            &[("a1", Some(1)), ("a2", Some(2)), ("b1", Some(3))],
            u64::MAX,
        );
        assert_eq!(kept.last(b"a"), Some("a2".into()));
        assert_eq!(kept.last(b"c"), None);
    }
}
