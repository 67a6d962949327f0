//! A look at everything that can be read: which messages that queues still name are there and whole, and which are
//! not. Goes on behind damage, so that what it reports is all there is to save.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pointsman_core::catalog::{Definition, DefinitionKey};
use pointsman_core::commit::{IndexEntry, QueueState, Run, StreamState};
use pointsman_core::{Chunk, Lane, Offset, Position, QueueId, References};
use roaring::RoaringBitmap;

use crate::due::FoundDue;
use crate::error::{Damage, StoreError};
use crate::keys::{self, MetaKind, StateKind};
use crate::live::ChunkId;
use crate::salvage::{note, scan, scan_state};
use crate::staged::{Keyspaces, Table};
use crate::store::{index_entry, read_from};
use crate::tables::Flushed;
use crate::values::{self, Progress};
use crate::verify::{QueueReport, Report};

/// Positions in one ack block.
const BLOCK: u64 = 65_536;

/// What was found. Takes memory in proportion to the number of chunks.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) damage: Vec<Damage>,
    /// Synced batches that are gone.
    pub(crate) batches_lost: u64,
    pub(crate) progress: Progress,
    pub(crate) definitions: BTreeMap<DefinitionKey, Definition>,
    pub(crate) queues: BTreeMap<QueueId, FoundQueue>,
    pub(crate) chunks: BTreeMap<ChunkId, FoundChunk>,
    /// What was found of delayed messages, by queue.
    pub(crate) delayed: BTreeMap<QueueId, FoundDue>,
}

/// What was found of a queue.
#[derive(Debug, Default)]
pub(crate) struct FoundQueue {
    pub(crate) state: QueueState,
    /// Whether its state was there; its head is a guess otherwise.
    has_state: bool,
    /// Settled positions by block, modulo the block's size.
    pub(crate) settled: BTreeMap<u64, RoaringBitmap>,
    /// What there is in it, for a stream.
    stream: Option<StreamState>,
    pub(crate) saved: u64,
    pub(crate) lost: Vec<Range<u64>>,
}

/// What was found of a chunk that an index entry names.
#[derive(Debug, Default)]
pub(crate) struct FoundChunk {
    /// Number of records, or `None` where it is not there or not whole.
    pub(crate) records: Option<u32>,
    /// Those of them that were not dropped.
    there: Vec<Range<u32>>,
    /// Those that delayed messages are, and places in queues name which are not settled; each as often as it is named.
    pub(crate) named: Vec<Range<u32>>,
}

impl FoundChunk {
    /// How many places in queues that are not settled name each record; `None` when there is none.
    pub(crate) fn references(&self) -> Option<References> {
        let mut counts = vec![0; self.records.filter(|_| !self.named.is_empty())? as usize];
        for range in &self.named {
            counts
                .get_mut(range.start as usize..range.end as usize)?
                .iter_mut()
                .for_each(|count| *count += 1);
        }
        let mut references = References::default();
        for count in counts {
            references.push(1, count);
        }
        Some(references)
    }

    /// Cuts a run where records begin or end to be there.
    pub(crate) fn split(&self, run: &Run) -> Vec<(Range<u32>, bool)> {
        let (mut at, end) = (run.record, run.record.saturating_add(run.count));
        let mut parts = Vec::new();
        for there in self
            .there
            .iter()
            .filter(|there| there.end > run.record && there.start < end)
        {
            if at < there.start {
                parts.push((at..there.start, false));
            }
            parts.push((at.max(there.start)..there.end.min(end), true));
            at = there.end.min(end);
        }
        if at < end {
            parts.push((at..end, false));
        }
        parts
    }
}

/// Reads everything that can be read; changes nothing. Takes time in proportion to the data.
///
/// # Errors
/// When reading fails for a reason other than damage.
pub(crate) fn examine(flushed: &Flushed) -> Result<Found, StoreError> {
    let keyspaces = &flushed.keyspaces;
    let mut found = Found::default();
    found.read_progress(keyspaces)?;
    found.read_definitions(keyspaces)?;
    let gone = found.read_queue_states(keyspaces)?;
    found.read_settled(keyspaces, &gone)?;
    found.read_index(flushed, &gone)?;
    found.read_due(flushed)?;
    Ok(found)
}

impl Found {
    fn read_progress(&mut self, keyspaces: &Keyspaces) -> Result<(), StoreError> {
        let keyspace = &keyspaces[Table::State as usize];
        let key = keys::progress();
        scan(
            keyspace,
            Table::State,
            &key,
            &key,
            &mut self.damage,
            |_, value| {
                self.progress = Progress::decode(value)?;
                Some(())
            },
        )
    }

    fn read_definitions(&mut self, keyspaces: &Keyspaces) -> Result<(), StoreError> {
        let keyspace = &keyspaces[Table::Meta as usize];
        let (first, last) = keys::meta_range(MetaKind::Definition);
        let definitions = &mut self.definitions;
        scan(
            keyspace,
            Table::Meta,
            &first,
            &last,
            &mut self.damage,
            |key, value| {
                let key = postcard::from_bytes(keys::behind_kind(key)).ok()?;
                definitions.insert(key, values::read_postcard(value)?);
                Some(())
            },
        )?;
        for definition in self.definitions.values() {
            let Definition::RouterVersion(version) = definition else {
                continue;
            };
            let module = keyspace.get(keys::module(&version.digest));
            let is_there = match module.map_err(|e| read_from(Table::Meta, e)) {
                Ok(module) => module.and_then(values::read_module).is_some(),
                Err(StoreError::Damaged(_)) => false,
                Err(other) => return Err(other),
            };
            if !is_there {
                let digest = version.digest.to_string();
                note(&mut self.damage, Damage::Module { digest });
            }
        }
        Ok(())
    }

    /// Where the queues stand. Returns those that were deleted and are only being removed.
    fn read_queue_states(&mut self, keyspaces: &Keyspaces) -> Result<BTreeSet<QueueId>, StoreError> {
        let mut gone = BTreeSet::new();
        scan_state(keyspaces, StateKind::Gone, &mut self.damage, |id, _| {
            gone.insert(keys::queue_of(id)?);
            Some(())
        })?;
        let queues = &mut self.queues;
        scan_state(keyspaces, StateKind::Queue, &mut self.damage, |id, value| {
            let queue = keys::queue_of(id)?;
            let state = values::read_queue_state(value)?;
            let found = queues.entry(queue).or_default();
            (found.state, found.has_state) = (state, true);
            Some(())
        })?;
        self.queues.retain(|queue, _| !gone.contains(queue));
        Ok(gone)
    }

    fn read_settled(&mut self, keyspaces: &Keyspaces, gone: &BTreeSet<QueueId>) -> Result<(), StoreError> {
        let queues = &mut self.queues;
        let (first, last) = keys::all();
        scan(
            &keyspaces[Table::Ack as usize],
            Table::Ack,
            &first,
            &last,
            &mut self.damage,
            |key, value| {
                let (queue, block) = keys::in_queue_parts(key)?;
                let settled = values::read_bitmap(value)?;
                if !gone.contains(&queue) && settled.max().is_none_or(|max| u64::from(max) < BLOCK) {
                    queues.entry(queue).or_default().settled.insert(block, settled);
                }
                Some(())
            },
        )
    }

    fn read_index(&mut self, flushed: &Flushed, gone: &BTreeSet<QueueId>) -> Result<(), StoreError> {
        let (first, last) = keys::all();
        let mut damage = std::mem::take(&mut self.damage);
        let mut failed = Ok(());
        let mut chunk_damage = Vec::new();
        // The queue being read and the position its next entry should begin at.
        let mut at: Option<(QueueId, u64)> = None;
        scan(
            &flushed.keyspaces[Table::Index as usize],
            Table::Index,
            &first,
            &last,
            &mut damage,
            |key, value| {
                let (id, _) = keys::in_queue_parts(key)?;
                let entry = index_entry(key, value).ok()?;
                if failed.is_err() || gone.contains(&id) {
                    return Some(());
                }
                let expected = match at {
                    Some((queue, position)) if queue == id => position,
                    _ => {
                        self.end_queue(at);
                        let queue = self.queues.entry(id).or_default();
                        if !queue.has_state {
                            queue.state.head = entry.first;
                        }
                        queue.state.head.0
                    }
                };
                let mut position = entry.first.0;
                self.lose(id, expected..position);
                let before = self.queues.get(&id).map(|queue| queue.saved);
                for run in &entry.runs {
                    match self.look_at(flushed, run, &mut chunk_damage) {
                        Ok(parts) => {
                            for (records, is_there) in parts {
                                let from = position + u64::from(records.start - run.record);
                                let positions = from..from + u64::from(records.end - records.start);
                                if is_there {
                                    self.save(id, run, records.start, positions);
                                } else {
                                    self.lose(id, positions);
                                }
                            }
                        }
                        Err(error) => failed = Err(error),
                    }
                    position += u64::from(run.count);
                }
                if let Some(queue) = self.queues.get_mut(&id)
                    && Some(queue.saved) != before
                {
                    queue.note_stream(&entry);
                }
                at = Some((id, position.max(expected)));
                Some(())
            },
        )?;
        failed?;
        self.end_queue(at);
        damage.append(&mut chunk_damage);
        self.damage = damage;
        // Queues whose whole index is gone.
        let unread: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in unread {
            let queue = &self.queues[&id];
            if queue.saved == 0 && queue.lost.is_empty() {
                self.lose(id, queue.state.head.0..queue.state.tail.0);
            }
        }
        Ok(())
    }

    /// Positions between the end of the index and the tail are lost; an index beyond the tail moves the tail.
    fn end_queue(&mut self, at: Option<(QueueId, u64)>) {
        let Some((id, position)) = at else { return };
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let tail = queue.state.tail.0;
        if position > tail {
            queue.state.tail = Position(position);
            // What was delivered since is not known, so it is all taken for delivered.
            queue.state.delivered = Position(position);
        }
        self.lose(id, position..tail);
    }

    /// The run's records in order, with whether they are there.
    pub(crate) fn look_at(
        &mut self,
        flushed: &Flushed,
        run: &Run,
        damage: &mut Vec<Damage>,
    ) -> Result<Vec<(Range<u32>, bool)>, StoreError> {
        let id = (run.lane, run.chunk);
        if let Some(known) = self.chunks.get(&id) {
            return Ok(known.split(run));
        }
        let found = match read_chunk(flushed, run.lane, run.chunk) {
            Ok(Some(chunk)) => FoundChunk {
                records: Some(chunk.count()),
                there: chunk.kept_ranges(),
                named: Vec::new(),
            },
            Ok(None) => FoundChunk::default(),
            Err(StoreError::Damaged(found)) => {
                note(damage, found);
                FoundChunk::default()
            }
            Err(other) => return Err(other),
        };
        Ok(self.chunks.entry(id).or_insert(found).split(run))
    }

    /// Messages are there; `record` is the first of them.
    fn save(&mut self, id: QueueId, run: &Run, record: u32, positions: Range<u64>) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let Some(chunk) = self.chunks.get_mut(&(run.lane, run.chunk)) else {
            return;
        };
        let first = positions.start;
        for range in queue.unsettled(positions) {
            queue.saved += range.end - range.start;
            let record_of = |position: u64| record + (position - first) as u32;
            chunk.named.push(record_of(range.start)..record_of(range.end));
        }
    }

    fn lose(&mut self, id: QueueId, positions: Range<u64>) {
        if let Some(queue) = self.queues.get_mut(&id) {
            for range in queue.unsettled(positions) {
                match queue.lost.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => queue.lost.push(range),
                }
            }
        }
    }

    /// The next free offset of a lane: what the store noted, or behind every chunk that is named.
    pub(crate) fn next_offset(&self, lane: Lane) -> Offset {
        let named = self
            .chunks
            .iter()
            .filter(|((of, _), _)| *of == lane)
            .map(|((_, base), chunk)| Offset(base.0 + u64::from(chunk.records.unwrap_or(1))))
            .max();
        let noted = self.progress.next_offsets.get(lane as usize).copied();
        named.max(noted).unwrap_or_default()
    }

    pub(crate) fn report(&self) -> Report {
        let all: BTreeSet<QueueId> = self.queues.keys().chain(self.delayed.keys()).copied().collect();
        let queues = all.into_iter().map(|queue| {
            let found = self.queues.get(&queue);
            let delayed = self.delayed.get(&queue).copied().unwrap_or_default();
            QueueReport {
                queue,
                name: self.name(queue),
                saved: found.map_or(0, |found| found.saved),
                lost: found.map_or_else(Vec::new, |found| found.lost.clone()),
                delayed: delayed.saved,
                delayed_lost: delayed.lost,
            }
        });
        Report {
            chunks: self
                .chunks
                .values()
                .filter(|chunk| chunk.records.is_some())
                .count() as u64,
            damage: self.damage.clone(),
            batches_lost: self.batches_lost,
            queues: queues.collect(),
        }
    }

    /// The vhost and name of a queue.
    fn name(&self, queue: QueueId) -> Option<(String, String)> {
        let Some(Definition::Queue { vhost, spec }) = self.definitions.get(&DefinitionKey::Queue(queue))
        else {
            return None;
        };
        match self.definitions.get(&DefinitionKey::Vhost(*vhost)) {
            Some(Definition::Vhost(vhost)) => Some((vhost.clone(), spec.name.clone())),
            _ => None,
        }
    }
}

impl FoundQueue {
    /// The parts of a range at or above the head that are not settled.
    pub(crate) fn unsettled(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut from, to) = (range.start.max(self.state.head.0), range.end);
        let mut parts = Vec::new();
        if from >= to {
            return parts;
        }
        for (block, settled) in self.settled.range(from / BLOCK..=to / BLOCK) {
            let start = block.saturating_mul(BLOCK);
            let first = from.saturating_sub(start).min(BLOCK) as u32;
            for low in settled.range(first..) {
                let position = start.saturating_add(u64::from(low));
                if position >= to {
                    break;
                }
                if from < position {
                    parts.push(from..position);
                }
                from = position + 1;
            }
        }
        if from < to {
            parts.push(from..to);
        }
        parts
    }

    /// Counts an entry of which something is there, if it is a stream's.
    fn note_stream(&mut self, entry: &IndexEntry) {
        if entry.runs.iter().any(|run| run.lane == Lane::Streams) {
            let stream = self.stream.get_or_insert_default();
            stream.bytes += entry.bytes;
            stream.time = stream.time.max(entry.time);
        }
    }

    /// Settles what is lost, moves the head over what is settled, and forgets blocks below it.
    pub(crate) fn settle_lost(&mut self) {
        for range in std::mem::take(&mut self.lost) {
            for block in range.start / BLOCK..=(range.end - 1) / BLOCK {
                let start = block * BLOCK;
                let first = range.start.max(start) - start;
                let last = (range.end - 1).min(start + BLOCK - 1) - start;
                self.settled
                    .entry(block)
                    .or_default()
                    .insert_range(first as u32..=last as u32);
            }
        }
        let head = self
            .unsettled(self.state.head.0..self.state.tail.0)
            .first()
            .map_or(self.state.tail.0, |range| range.start);
        self.state.head = Position(head);
        self.state.delivered = self.state.delivered.max(self.state.head);
        if self.stream.is_some() || self.state.stream.is_some() {
            let (found, written) = (
                self.stream.unwrap_or_default(),
                self.state.stream.unwrap_or_default(),
            );
            self.state.stream = Some(StreamState {
                bytes: found.bytes,
                time: found.time.max(written.time),
            });
        }
        self.settled
            .retain(|block, _| block.saturating_add(1).saturating_mul(BLOCK) > head);
    }
}

/// A chunk, `None` when it is not there.
pub(crate) fn read_chunk(flushed: &Flushed, lane: Lane, base: Offset) -> Result<Option<Chunk>, StoreError> {
    let part = |number| flushed.part(&keys::chunk(lane, base, number));
    match part(0)? {
        Some(first) => values::read_chunk(lane, base, first, part).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_referenced_as_often_as_unsettled_places_name_them() {
        let chunk = FoundChunk {
            records: Some(6),
            there: Vec::new(),
            named: vec![0..2, 1..4],
        };
        let references = chunk.references().unwrap();
        let runs: Vec<_> = references.runs().collect();
        assert_eq!(runs, [(1, 1), (1, 2), (2, 1), (2, 0)]);
        assert_eq!(FoundChunk::default().references(), None);
    }

    #[test]
    fn a_run_is_cut_where_records_were_dropped() {
        let chunk = FoundChunk {
            records: Some(10),
            there: vec![0..2, 5..7],
            named: Vec::new(),
        };
        let run = |record, count| Run {
            lane: Lane::Queues,
            chunk: Offset(0),
            record,
            count,
        };
        assert_eq!(
            chunk.split(&run(1, 6)),
            [(1..2, true), (2..5, false), (5..7, true)]
        );
        assert_eq!(chunk.split(&run(6, 3)), [(6..7, true), (7..9, false)]);
        assert_eq!(chunk.split(&run(2, 2)), [(2..4, false)]);
        assert_eq!(FoundChunk::default().split(&run(0, 3)), [(0..3, false)]);
    }
}
