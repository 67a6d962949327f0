//! What each record changes.

use std::collections::hash_map::Entry;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use pointsman_core::{Chunk, Offset, Position, Record, References};

use crate::error::{Damage, StoreError};
use crate::keys;
use crate::live::{ChunkId, Known};
use crate::staged::Table;
use crate::store::{Store, Writer, not_encoded, read_failed, value_damage, write_failed};
use crate::values::{self, Header, Left};

/// Most keys of deleted queues that one group removes, so that deleting a deep queue holds nobody up.
const GONE_KEYS_PER_GROUP: usize = 4_096;

impl Store {
    /// Adds what a record changes to the group.
    pub(crate) fn stage(&self, writer: &mut Writer, record: &Record) -> Result<(), StoreError> {
        let staged = &mut writer.staged;
        match record {
            Record::Append { chunk, references } => {
                self.0.figures.chunks_appended.fetch_add(1, Ordering::Relaxed);
                let bytes = chunk.len() as u64;
                self.0.figures.user_bytes.fetch_add(bytes, Ordering::Relaxed);
                // Offsets are never given twice.
                stage_chunk(writer, chunk, references.clone(), true);
            }
            Record::Release {
                lane,
                base,
                record,
                count,
            } => {
                return self.stage_release(writer, (*lane, *base), *record, *count);
            }
            Record::Index { queue, entry } => {
                let value = values::postcard(entry, &mut staged.buffer).map_err(not_encoded)?;
                // Positions are never given twice.
                staged.put_new(Table::Index, keys::in_queue(*queue, entry.last().0), value);
            }
            Record::IndexRemove { queue, last } => {
                staged.remove(Table::Index, keys::in_queue(*queue, last.0));
            }
            Record::QueueState { queue, state } => {
                staged.put(
                    Table::State,
                    keys::queue_state(*queue),
                    values::queue_state(state),
                );
            }
            Record::AckBlock {
                queue,
                block,
                settled,
            } => {
                let key = keys::in_queue(*queue, *block);
                match settled {
                    Some(settled) => {
                        let value = values::bitmap(settled, &mut staged.buffer).map_err(write_failed)?;
                        staged.put(Table::Ack, key, value);
                    }
                    None => staged.remove(Table::Ack, key),
                }
            }
            Record::Attempts {
                queue,
                position,
                count,
            } => {
                let key = keys::attempts(*queue, *position);
                match count {
                    Some(count) => staged.put(Table::State, key, values::number(*count)),
                    None => staged.remove(Table::State, key),
                }
            }
            Record::Due { key, entry } => {
                let key = keys::due(key);
                match entry {
                    Some(entry) => {
                        let value = values::postcard(entry, &mut staged.buffer).map_err(not_encoded)?;
                        staged.put(Table::Due, key, value);
                    }
                    None => staged.remove(Table::Due, key),
                }
            }
            Record::Delayed { queue, count } => {
                let key = keys::delayed(*queue);
                match count {
                    Some(count) => staged.put(Table::State, key, values::count(*count)),
                    None => staged.remove(Table::State, key),
                }
            }
            Record::Identity { identity, state } => {
                let key = keys::identity(*identity);
                match state {
                    Some(state) => {
                        let value = values::postcard(state, &mut staged.buffer).map_err(not_encoded)?;
                        staged.put(Table::State, key, value);
                    }
                    None => staged.remove(Table::State, key),
                }
            }
            Record::Define { key, definition } => {
                let key = keys::definition(key).map_err(not_encoded)?;
                match definition {
                    Some(definition) => {
                        let value = values::postcard(definition, &mut staged.buffer).map_err(not_encoded)?;
                        staged.put(Table::Meta, key, value);
                    }
                    None => staged.remove(Table::Meta, key),
                }
            }
            Record::Module { digest, bytes } => match bytes {
                Some(bytes) => staged.put(Table::Meta, keys::module(digest), values::module(bytes)),
                None => staged.remove(Table::Meta, keys::module(digest)),
            },
            Record::QueueGone { queue } => {
                staged.remove(Table::State, keys::queue_state(*queue));
                staged.put(Table::State, keys::gone(*queue), values::number(0));
                writer.gone.push_back(*queue);
            }
        }
        Ok(())
    }

    fn stage_release(
        &self,
        writer: &mut Writer,
        chunk: ChunkId,
        record: u32,
        count: u32,
    ) -> Result<(), StoreError> {
        let known = match writer.staged.touched.entry(chunk) {
            Entry::Occupied(touched) => touched.into_mut(),
            Entry::Vacant(untouched) => match self.known(chunk)? {
                Some(known) => untouched.insert(known),
                None => {
                    // Nothing is lost by it, but it should not happen.
                    tracing::error!(lane = ?chunk.0, base = chunk.1.0, "released a chunk that is not in the store");
                    return Ok(());
                }
            },
        };
        let dead_before = known.left.dead_bytes();
        let missing = known.left.references.release(record, count);
        if missing > 0 {
            // Nothing is lost by this either.
            tracing::error!(lane = ?chunk.0, base = chunk.1.0, record, count, missing, "released more than there is");
        }
        known.released = true;
        writer.progress.dead_bytes += known.left.dead_bytes() - dead_before;
        Ok(())
    }

    /// What is left of a chunk that this group has not touched: as remembered, or as it is on disk.
    pub(crate) fn known(&self, chunk: ChunkId) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.live().get(chunk) {
            return Ok(Some(known));
        }
        let (lane, base) = chunk;
        let key = keys::live(lane, base);
        if let Some(value) = self.get(Table::State, &key).map_err(read_failed)? {
            let left =
                Left::decode(&value.bytes()).ok_or(StoreError::Damaged(value_damage(Table::State, &key)))?;
            return Ok(Some(Known {
                left,
                stored: true,
                released: false,
            }));
        }
        let Some(first) = self.0.tables.part(&keys::chunk(lane, base, 0))? else {
            return Ok(None);
        };
        let damage = Damage::Chunk {
            lane,
            base,
            what: "header",
        };
        let header = Header::of(&first).ok_or(StoreError::Damaged(damage))?;
        Ok(Some(Known {
            left: header.left(),
            stored: false,
            released: false,
        }))
    }

    /// Writes what is left of chunks that were partly released, and removes chunks that nobody names any more.
    pub(crate) fn stage_left(&self, writer: &mut Writer) {
        let mut touched = std::mem::take(&mut writer.staged.touched);
        for (&(lane, base), known) in touched.iter_mut().filter(|(_, known)| known.released) {
            known.released = false;
            if !known.left.is_dead() {
                let value = known.left.encode(&mut writer.staged.buffer);
                let key = keys::live(lane, base);
                match std::mem::replace(&mut known.stored, true) {
                    true => writer.staged.put(Table::State, key, value),
                    false => writer.staged.put_new(Table::State, key, value),
                }
                continue;
            }
            for part in 0..known.left.parts {
                writer.staged.remove(Table::Log, keys::chunk(lane, base, part));
            }
            if known.stored {
                writer.staged.remove(Table::State, keys::live(lane, base));
            }
            let len = u64::from(known.left.len);
            writer.progress.log_bytes -= len;
            writer.progress.dead_bytes -= len;
            writer.reclaim.removed_bytes += len;
            self.0.figures.chunks_removed.fetch_add(1, Ordering::Relaxed);
        }
        writer.staged.touched = touched;
    }

    /// Removes some of what deleted queues left.
    pub(crate) fn stage_leftovers(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let mut room = GONE_KEYS_PER_GROUP;
        while let Some(&queue) = writer.gone.front() {
            let ranges = [
                (
                    Table::Index,
                    keys::in_queue(queue, 0),
                    keys::in_queue(queue, u64::MAX),
                ),
                (
                    Table::Ack,
                    keys::in_queue(queue, 0),
                    keys::in_queue(queue, u64::MAX),
                ),
                (
                    Table::State,
                    keys::attempts(queue, Position(0)),
                    keys::attempts(queue, Position(u64::MAX)),
                ),
            ];
            for (table, first, last) in ranges {
                writer.staged.remove_range(table, &first, &last);
                let range = (Bound::Included(first), Bound::Included(last));
                for (key, _) in self.scan(table, range, room)? {
                    writer.staged.remove(table, key);
                    room -= 1;
                }
            }
            if room == 0 {
                return Ok(());
            }
            writer.staged.remove(Table::State, keys::gone(queue));
            writer.gone.pop_front();
        }
        Ok(())
    }
}

/// Adds a chunk of which nothing was released since it got these references; a new one if there was none of its offset.
pub(crate) fn stage_chunk(writer: &mut Writer, chunk: &Chunk, references: References, is_new: bool) {
    let mut parts = 0;
    let mut buffer = std::mem::take(&mut writer.staged.buffer);
    for value in values::chunk(chunk, &references, &mut buffer) {
        let key = keys::chunk(chunk.lane, chunk.base, parts);
        match is_new {
            true => writer.staged.put_new(Table::Log, key, value),
            false => writer.staged.put(Table::Log, key, value),
        }
        parts += 1;
    }
    writer.staged.buffer = buffer;
    let left = Left {
        parts,
        len: chunk.len() as u32,
        kept: chunk.kept(),
        references,
    };
    writer.progress.log_bytes += u64::from(left.len);
    let known = Known {
        left,
        stored: false,
        released: false,
    };
    writer.staged.touched.insert((chunk.lane, chunk.base), known);
    if let Some(next) = writer.progress.next_offsets.get_mut(chunk.lane as usize) {
        *next = (*next).max(Offset(chunk.base.0 + u64::from(chunk.count())));
    }
}
