//! Due entries: read page by page, verified, and saved from a damaged store.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use pointsman_core::commit::{IndexEntry, Run};
use pointsman_core::due::{DelayedRun, DueEntry, DueKey, DueNumber, ExpiringRun};
use pointsman_core::{Offset, Position, QueueId, Record};

use crate::error::{Damage, StoreError};
use crate::examine::{Found, read_chunk};
use crate::faults::Site;
use crate::keys::{self, StateKind};
use crate::repair::Rescue;
use crate::rewrite::Batch;
use crate::salvage::{scan, scan_state};
use crate::staged::{Keyspaces, Table};
use crate::store::{Store, index_entry, read_failed, read_from, value_damage};
use crate::tables::Flushed;
use crate::values;

/// Entries read at once.
const PAGE: usize = 256;

/// What was found of a queue's delayed messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FoundDue {
    pub(crate) saved: u64,
    pub(crate) lost: u64,
    /// How many there should be.
    written: u64,
}

impl Store {
    /// Reads due entries in order, from the first one behind `after` on, of one queue or of all, but no more than about
    /// `runs_max` runs.
    ///
    /// # Errors
    /// When reading fails or an entry is damaged.
    pub fn read_due(
        &self,
        of: Option<QueueId>,
        after: DueKey,
        runs_max: usize,
    ) -> Result<Vec<(DueKey, DueEntry)>, StoreError> {
        self.faults().visit(Site::Read).map_err(read_failed)?;
        let mut from = Bound::Excluded(keys::due(&after));
        let mut entries = Vec::new();
        let mut runs = 0;
        loop {
            let page = self.scan(Table::Due, (from, Bound::Unbounded), PAGE)?;
            let is_last = page.len() < PAGE;
            let Some((last, _)) = page.last() else {
                return Ok(entries);
            };
            from = Bound::Excluded(last.clone());
            for (key, value) in page {
                if runs >= runs_max {
                    return Ok(entries);
                }
                let parts = keys::due_parts(&key);
                if of.is_some() && parts.map(|key| key.queue) != of {
                    continue;
                }
                let entry = read_entry(&key, &value.bytes()).ok_or_else(|| value_damage(Table::Due, &key))?;
                runs += entry.1.runs();
                entries.push(entry);
            }
            if is_last {
                return Ok(entries);
            }
        }
    }
}

fn read_entry(key: &[u8], value: &[u8]) -> Option<(DueKey, DueEntry)> {
    let key = keys::due_parts(key)?;
    let entry: DueEntry = values::read_postcard(value)?;
    entry.is_valid(&key).then_some((key, entry))
}

impl Found {
    /// Looks for every delayed message. What was to expire is in a queue, and was looked for there.
    pub(crate) fn read_due(&mut self, flushed: &Flushed) -> Result<(), StoreError> {
        let mut delayed = self.read_delayed(&flushed.keyspaces)?;
        let mut damage = std::mem::take(&mut self.damage);
        let mut failed = Ok(());
        let mut chunk_damage = Vec::new();
        each_entry(&flushed.keyspaces, &mut damage, |key, entry| {
            let DueEntry::Enter { runs, .. } = entry else {
                return;
            };
            let found = delayed.entry(key.queue).or_default();
            for DelayedRun { run, .. } in &runs {
                match self.look_at(flushed, run, &mut chunk_damage) {
                    Ok(parts) => parts.into_iter().for_each(|(records, is_there)| {
                        let count = u64::from(records.end - records.start);
                        if is_there && let Some(chunk) = self.chunks.get_mut(&(run.lane, run.chunk)) {
                            chunk.named.push(records);
                            found.saved += count;
                        } else {
                            found.lost += count;
                        }
                    }),
                    Err(error) => failed = Err(error),
                }
            }
        })?;
        failed?;
        damage.append(&mut chunk_damage);
        self.damage = damage;
        for found in delayed.values_mut() {
            // Entries that cannot be read do not say what they delayed.
            found.lost = found.lost.max(found.written.saturating_sub(found.saved));
        }
        self.delayed = delayed;
        Ok(())
    }

    fn read_delayed(&mut self, keyspaces: &Keyspaces) -> Result<BTreeMap<QueueId, FoundDue>, StoreError> {
        let mut delayed: BTreeMap<QueueId, FoundDue> = BTreeMap::new();
        scan_state(keyspaces, StateKind::Delayed, &mut self.damage, |id, value| {
            delayed.entry(keys::queue_of(id)?).or_default().written = values::read_count(value)?;
            Some(())
        })?;
        Ok(delayed)
    }
}

/// Hands every readable entry to `take`.
fn each_entry(
    keyspaces: &Keyspaces,
    damage: &mut Vec<Damage>,
    mut take: impl FnMut(DueKey, DueEntry),
) -> Result<(), StoreError> {
    let (first, last) = keys::all();
    scan(
        &keyspaces[Table::Due as usize],
        Table::Due,
        &first,
        &last,
        damage,
        |key, value| {
            let (key, entry) = read_entry(key, value)?;
            take(key, entry);
            Some(())
        },
    )
}

impl Rescue {
    /// Writes the entries of what is left.
    pub(crate) fn rewrite_due(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut written = Ok(());
        each_entry(&self.flushed.keyspaces, &mut Vec::new(), |key, entry| {
            if written.is_ok() {
                written = self.rewrite_entry(key, entry, batch);
            }
        })?;
        written?;
        for (&queue, found) in &self.found.delayed {
            let count = Some(found.saved).filter(|count| *count > 0);
            batch.push(Record::Delayed { queue, count }, 0)?;
        }
        Ok(())
    }

    fn rewrite_entry(&self, key: DueKey, entry: DueEntry, batch: &mut Batch) -> Result<(), StoreError> {
        let left = match entry {
            DueEntry::Enter { runs, bytes } => self.entering_left(key, &runs, bytes)?.into_iter().collect(),
            DueEntry::Expire { runs, .. } => self.expiring_left(key, &runs)?,
        };
        for (key, entry) in left {
            let bytes = entry.runs() * 32;
            let entry = Some(entry);
            batch.push(Record::Due { key, entry }, bytes)?;
        }
        Ok(())
    }

    /// The delayed messages that are there.
    fn entering_left(
        &self,
        mut key: DueKey,
        runs: &[DelayedRun],
        mut bytes: u64,
    ) -> Result<Option<(DueKey, DueEntry)>, StoreError> {
        let mut left = Vec::new();
        let mut is_whole = true;
        for &DelayedRun { run, expiration } in runs {
            let parts = self
                .found
                .chunks
                .get(&(run.lane, run.chunk))
                .map(|chunk| chunk.split(&run));
            for (records, is_there) in parts.unwrap_or_default() {
                is_whole &= is_there;
                if is_there {
                    let run = part(&run, &records);
                    left.push(DelayedRun { run, expiration });
                }
            }
        }
        let Some(first) = left.first().map(|delayed| delayed.run) else {
            return Ok(None);
        };
        key.number = DueNumber::Enter(Offset(first.chunk.0 + u64::from(first.record)));
        if !is_whole {
            let chunk = read_chunk(&self.flushed, first.lane, first.chunk)?;
            let records = left
                .iter()
                .flat_map(|delayed| delayed.run.record..delayed.run.record + delayed.run.count);
            let messages = records.filter_map(|record| chunk.as_ref()?.get(record));
            bytes = messages
                .map(|message| message.meta.len() as u64 + message.body_len() as u64)
                .sum();
        }
        let runs = left;
        Ok(Some((key, DueEntry::Enter { runs, bytes })))
    }

    /// What expires of each index entry that is left of the one it was in.
    fn expiring_left(
        &self,
        key: DueKey,
        runs: &[ExpiringRun],
    ) -> Result<Vec<(DueKey, DueEntry)>, StoreError> {
        let (Some(queue), DueNumber::Expire(last)) = (self.found.queues.get(&key.queue), key.number) else {
            return Ok(Vec::new());
        };
        let at = keys::in_queue(key.queue, last.0);
        let value = match self.flushed.keyspaces[Table::Index as usize]
            .get(&at)
            .map_err(|e| read_from(Table::Index, e))
        {
            Ok(value) => value,
            Err(StoreError::Damaged(_)) => None,
            Err(other) => return Err(other),
        };
        let entry = value.and_then(|value| index_entry(&at, &value).ok());
        let left = entry.map_or_else(Vec::new, |entry| queue.left_of(entry));
        let expiring = left.iter().filter_map(|entry| expiring_in(entry, key, runs));
        Ok(expiring.collect())
    }
}

/// The part of `runs` that is in an index entry.
fn expiring_in(entry: &IndexEntry, mut key: DueKey, runs: &[ExpiringRun]) -> Option<(DueKey, DueEntry)> {
    let (first, last) = (entry.first, entry.last());
    let clip = |expiring: &ExpiringRun| {
        let ExpiringRun { position, run } = expiring;
        let from = position.0.max(first.0);
        let to = (position.0 + u64::from(run.count)).min(last.0 + 1);
        let record = |position_of: u64| run.record + (position_of - position.0) as u32;
        (from < to).then(|| ExpiringRun {
            position: Position(from),
            run: part(run, &(record(from)..record(to))),
        })
    };
    let runs: Vec<ExpiringRun> = runs.iter().filter_map(clip).collect();
    key.number = DueNumber::Expire(last);
    (!runs.is_empty()).then_some((key, DueEntry::Expire { first, runs }))
}

fn part(run: &Run, records: &Range<u32>) -> Run {
    Run {
        record: records.start,
        count: records.end - records.start,
        ..*run
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use pointsman_core::Lane;

    use super::*;

    fn run(record: u32, count: u32) -> Run {
        Run {
            lane: Lane::Queues,
            chunk: Offset(300),
            record,
            count,
        }
    }

    fn key(number: DueNumber) -> DueKey {
        DueKey {
            at: 1,
            queue: QueueId(1),
            number,
        }
    }

    fn expire(first: u64, runs: &[(u64, Run)]) -> DueEntry {
        let placed = |&(position, run)| ExpiringRun {
            position: Position(position),
            run,
        };
        DueEntry::Expire {
            first: Position(first),
            runs: runs.iter().map(placed).collect(),
        }
    }

    /// These bytes are on users' disks. A change of any of them needs a new version.
    #[test]
    fn due_entries_have_the_bytes_of_format_1_and_only_those_are_read() {
        let delayed = |run, ms| DelayedRun {
            run,
            expiration: NonZeroU64::new(ms),
        };
        let enter = DueEntry::Enter {
            runs: vec![delayed(run(0, 2), 0), delayed(run(5, 1), 300)],
            bytes: 7,
        };
        let expire = expire(1, &[(2, run(0, 2))]);
        for (number, entry, bytes) in [
            (
                DueNumber::Enter(Offset(300)),
                enter,
                // version, kind, runs (lane, chunk, record, count, expiration), bytes
                b"\x01\0\x02\0\xac\x02\0\x02\0\0\xac\x02\x05\x01\x01\xac\x02\x07".as_slice(),
            ),
            (
                DueNumber::Expire(Position(3)),
                expire,
                // version, kind, first, runs (position, lane, chunk, record, count)
                b"\x01\x01\x01\x01\x02\0\xac\x02\0\x02".as_slice(),
            ),
        ] {
            let key = key(number);
            let value = values::postcard(&entry, &mut Vec::new()).unwrap();
            assert_eq!(value.as_ref(), bytes);
            assert_eq!(read_entry(&keys::due(&key), bytes), Some((key, entry)));
            for cut in 0..bytes.len() {
                assert_eq!(read_entry(&keys::due(&key), &bytes[..cut]), None, "cut to {cut}");
            }
        }
        let other = keys::due(&key(DueNumber::Enter(Offset(300))));
        assert_eq!(read_entry(&other, b"\x01\x01\x01\x01\x02\0\xac\x02\0\x02"), None);
        assert_eq!(values::count(300).as_ref(), b"\x01\0\0\0\0\0\0\x01\x2c");
    }

    #[test]
    fn what_expires_is_cut_where_its_index_entry_was() {
        let entry = IndexEntry {
            first: Position(10),
            runs: vec![run(4, 6)],
            time: 0,
            bytes: 0,
            expires: 1,
        };
        let DueEntry::Expire { runs, .. } = expire(5, &[(5, run(0, 2)), (8, run(2, 4)), (14, run(8, 5))])
        else {
            unreachable!()
        };
        let number = DueNumber::Expire(Position(15));
        let cut = expire(10, &[(10, run(4, 2)), (14, run(8, 2))]);
        assert_eq!(
            expiring_in(&entry, key(DueNumber::Expire(Position(20))), &runs),
            Some((key(number), cut))
        );
    }
}
