//! A look at everything: is each message that some queue still names there and whole?

use std::collections::BTreeMap;
use std::ops::Range;

use pointsman_core::commit::{IndexEntry, Run};
use pointsman_core::{Position, QueueId};

use crate::error::{Damage, StoreError};
use crate::keys;
use crate::live::ChunkId;
use crate::staged::Table;
use crate::store::{Store, index_entry, read_failed, read_from, value_damage};
use crate::values;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks that an index entry names and that are whole.
    pub chunks: u64,
    /// What is damaged, in the order it was found.
    pub damage: Vec<Damage>,
    /// Every queue that has an index, rising.
    pub queues: Vec<QueueReport>,
}

/// What was found of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// The queue.
    pub queue: QueueId,
    /// Unsettled messages that are there and whole.
    pub saved: u64,
    /// Positions of unsettled messages that are not, as `start..end`.
    pub lost: Vec<Range<u64>>,
}

impl Report {
    /// Whether every unsettled message is there and nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.queues.iter().all(|queue| queue.lost.is_empty())
    }
}

/// Which records each chunk that was looked at has, as ranges; none where it is not whole.
type Looked = BTreeMap<ChunkId, Vec<Range<u32>>>;

impl Store {
    /// Reads every index entry and every chunk they name, and reports what is lost; changes nothing. Takes time in
    /// proportion to the data, and memory to the number of chunks. Nothing may be written meanwhile.
    ///
    /// # Errors
    /// When reading fails for a reason other than damage.
    pub fn verify(&self) -> Result<Report, StoreError> {
        let mut report = Report::default();
        let mut looked = Looked::new();
        let mut queue: Option<QueueCheck> = None;
        for guard in self.keyspace(Table::Index).iter() {
            let (key, value) = match guard.into_inner().map_err(|e| read_from(Table::Index, e)) {
                Ok(pair) => pair,
                Err(StoreError::Damaged(damage)) => {
                    report.damage.push(damage);
                    break;
                }
                Err(other) => return Err(other),
            };
            let Some((id, _)) = keys::in_queue_parts(&key) else {
                report.damage.push(value_damage(Table::Index, &key));
                continue;
            };
            if queue.as_ref().is_none_or(|queue| queue.report.queue != id) {
                report.queues.extend(queue.take().map(|done| done.report));
                queue = Some(self.queue_check(id)?);
            }
            match (index_entry(&key, &value), &mut queue) {
                (Ok(entry), Some(queue)) => {
                    for run in &entry.runs {
                        self.look_at((run.lane, run.chunk), &mut looked, &mut report)?;
                    }
                    queue.check(&entry, &looked);
                }
                (Err(damage), _) => report.damage.push(damage),
                (Ok(_), None) => {}
            }
        }
        report.queues.extend(queue.map(|done| done.report));
        Ok(report)
    }

    fn look_at(&self, chunk: ChunkId, looked: &mut Looked, report: &mut Report) -> Result<(), StoreError> {
        if looked.contains_key(&chunk) {
            return Ok(());
        }
        let there = match self.read_chunk(chunk.0, chunk.1) {
            Ok(chunk) => {
                report.chunks += 1;
                chunk.kept_ranges()
            }
            // All its messages are settled, but not all those of the index entry.
            Err(StoreError::Settled { .. } | StoreError::Damaged(Damage::ChunkMissing { .. })) => Vec::new(),
            Err(StoreError::Damaged(damage)) => {
                report.damage.push(damage);
                Vec::new()
            }
            Err(other) => return Err(other),
        };
        looked.insert(chunk, there);
        Ok(())
    }

    fn queue_check(&self, queue: QueueId) -> Result<QueueCheck, StoreError> {
        let key = keys::queue_state(queue);
        let state = self.keyspace(Table::State).get(&key).map_err(read_failed)?;
        let head = match state {
            Some(state) => {
                values::read_queue_state(&state)
                    .ok_or(value_damage(Table::State, &key))?
                    .head
            }
            None => Position(0),
        };
        let mut settled = BTreeMap::new();
        for guard in self
            .keyspace(Table::Ack)
            .range(keys::in_queue(queue, 0)..=keys::in_queue(queue, u64::MAX))
        {
            let (key, value) = guard.into_inner().map_err(read_failed)?;
            let block = keys::in_queue_parts(&key).zip(values::read_bitmap(&value));
            let ((_, number), bitmap) = block.ok_or(value_damage(Table::Ack, &key))?;
            settled.insert(number, bitmap);
        }
        Ok(QueueCheck {
            report: QueueReport {
                queue,
                saved: 0,
                lost: Vec::new(),
            },
            head: head.0,
            settled,
        })
    }
}

struct QueueCheck {
    report: QueueReport,
    head: u64,
    settled: BTreeMap<u64, roaring::RoaringBitmap>,
}

impl QueueCheck {
    fn check(&mut self, entry: &IndexEntry, looked: &Looked) {
        let mut position = entry.first.0;
        for run in &entry.runs {
            let end = position + u64::from(run.count);
            for unsettled in position.max(self.head)..end {
                if self.is_settled(unsettled) {
                    continue;
                }
                let record = u64::from(run.record) + (unsettled - position);
                if is_there(run, record, looked) {
                    self.report.saved += 1;
                } else {
                    self.lose(unsettled);
                }
            }
            position = end;
        }
    }

    fn is_settled(&self, position: u64) -> bool {
        let block = self.settled.get(&(position / 65_536));
        block.is_some_and(|block| block.contains((position % 65_536) as u32))
    }

    fn lose(&mut self, position: u64) {
        match self.report.lost.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            _ => self.report.lost.push(position..position + 1),
        }
    }
}

fn is_there(run: &Run, record: u64, looked: &Looked) -> bool {
    let there = looked.get(&(run.lane, run.chunk)).map_or(&[][..], Vec::as_slice);
    let at = there.partition_point(|range| u64::from(range.end) <= record);
    there
        .get(at)
        .is_some_and(|range| u64::from(range.start) <= record)
}
