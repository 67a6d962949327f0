//! What an opened store gives back, and what it checks on the way.
//!
//! Reads everything whose number does not grow with messages, and of each queue the end of its index.

use fjall::{AbstractTree, Keyspace};
use pointsman_core::commit::QueueState;
use pointsman_core::{Lane, Offset, Position, QueueId, Restored};

use crate::error::{Damage, Trouble};
use crate::journal::Batch;
use crate::keys::{self, MetaKind, StateKind};
use crate::staged::{Keyspaces, Table};
use crate::store::{index_entry, read_from, value_damage};
use crate::tables::Flushed;
use crate::values::{self, Header, Progress};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) progress: Progress,
    pub(crate) gone: Vec<QueueId>,
    pub(crate) restored: Restored,
}

/// How far the tables are; nothing of a store that has none.
pub(crate) fn progress(keyspaces: &Keyspaces) -> Result<Progress, Trouble> {
    let mut progress = Progress::default();
    each_state(keyspaces, StateKind::Progress, |_, value| {
        progress = Progress::decode(value)?;
        Some(())
    })?;
    Ok(progress)
}

pub(crate) fn recover(flushed: &Flushed) -> Result<Recovered, Trouble> {
    let keyspaces = &flushed.keyspaces;
    let mut recovered = Recovered::default();
    let Recovered {
        progress,
        gone,
        restored,
    } = &mut recovered;
    let meta = &keyspaces[Table::Meta as usize];

    *progress = self::progress(keyspaces)?;
    restored.next_offsets = progress.next_offsets;
    each_state(keyspaces, StateKind::Gone, |id, _| {
        gone.push(keys::queue_of(id)?);
        Some(())
    })?;
    each_state(keyspaces, StateKind::Queue, |id, value| {
        restored
            .queues
            .push((keys::queue_of(id)?, values::read_queue_state(value)?));
        Some(())
    })?;
    each_state(keyspaces, StateKind::Attempts, |id, value| {
        let (queue, position) = keys::queue_and_number(id)?;
        if !gone.contains(&queue) {
            restored
                .attempts
                .push((queue, Position(position), values::read_number(value)?));
        }
        Some(())
    })?;
    each_state(keyspaces, StateKind::Identity, |id, value| {
        restored
            .identities
            .push((keys::identity_of(id)?, values::read_postcard(value)?));
        Some(())
    })?;
    each(
        meta,
        Table::Meta,
        &keys::meta_prefix(MetaKind::Definition),
        |id, value| {
            let key = postcard::from_bytes(id).ok()?;
            restored.definitions.push((key, values::read_postcard(value)?));
            Some(())
        },
    )?;
    each_state(keyspaces, StateKind::Delayed, |id, value| {
        restored
            .delayed
            .push((keys::queue_of(id)?, values::read_count(value)?));
        Some(())
    })?;
    for &(queue, _) in &restored.queues {
        let range = keys::in_queue(queue, 0)..=keys::in_queue(queue, u64::MAX);
        for guard in keyspaces[Table::Ack as usize].range(range) {
            let (key, value) = guard.into_inner().map_err(|e| read_from(Table::Ack, e))?;
            let block = keys::in_queue_parts(&key).zip(values::read_bitmap(&value));
            let ((_, block), settled) = block.ok_or_else(|| value_damage(Table::Ack, &key))?;
            restored.ack_blocks.push((queue, block, settled));
        }
    }

    check_log(flushed, progress)?;
    for (queue, state) in &restored.queues {
        check_queue(&keyspaces[Table::Index as usize], *queue, state)?;
    }
    Ok(recovered)
}

/// Hands each value of a kind of `state` to `take`, as [`each`].
fn each_state(
    keyspaces: &Keyspaces,
    kind: StateKind,
    take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), Trouble> {
    let state = &keyspaces[Table::State as usize];
    each(state, Table::State, &keys::state_prefix(kind), take)
}

/// Hands each value under a prefix to `take`, which answers `None` when it does not decode.
fn each(
    keyspace: &Keyspace,
    table: Table,
    prefix: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), Trouble> {
    for guard in keyspace.prefix(prefix) {
        let (key, value) = guard.into_inner().map_err(|e| read_from(table, e))?;
        take(keys::behind_kind(&key), &value).ok_or_else(|| value_damage(table, &key))?;
    }
    Ok(())
}

/// The last chunk of each lane ends at or before the high-water mark.
fn check_log(flushed: &Flushed, progress: &Progress) -> Result<(), Trouble> {
    for (lane, mark) in [Lane::Queues, Lane::Streams]
        .into_iter()
        .zip(progress.next_offsets)
    {
        let prefix = keys::lane_prefix(lane);
        let in_tables = flushed.keyspaces[Table::Log as usize].prefix(prefix).next_back();
        let in_tables = in_tables.map(|guard| guard.key().map_err(|e| read_from(Table::Log, e)));
        let Some(key) = in_tables.transpose()?.max(flushed.kept.last(&prefix)) else {
            continue;
        };
        let (_, base, _) = keys::chunk_parts(&key).ok_or_else(|| value_damage(Table::Log, &key))?;
        let damage = Damage::Chunk {
            lane,
            base,
            what: "header",
        };
        let first = flushed.part(&keys::chunk(lane, base, 0))?.ok_or(damage.clone())?;
        let header = Header::of(&first).ok_or(damage)?;
        let records = u64::from(header.references.records());
        let last = Offset(base.0.saturating_add(records).saturating_sub(1));
        if last >= mark {
            return Err(Damage::LogBeyondMark { lane, last, mark }.into());
        }
    }
    Ok(())
}

/// The index of a queue ends before the queue's tail.
fn check_queue(index: &Keyspace, queue: QueueId, state: &QueueState) -> Result<(), Trouble> {
    let range = keys::in_queue(queue, 0)..=keys::in_queue(queue, u64::MAX);
    let Some(guard) = index.range(range).next_back() else {
        return Ok(());
    };
    let (key, value) = guard.into_inner().map_err(|e| read_from(Table::Index, e))?;
    let last = index_entry(&key, &value)?.last();
    if last >= state.tail {
        return Err(Damage::QueueBehindIndex {
            queue,
            last,
            tail: state.tail,
        }
        .into());
    }
    Ok(())
}

/// In format 1, the journals go on where the tables end: no batch in front of the first journal is missing.
pub(crate) fn check_continues(state: &Keyspace, first: &Batch) -> Result<(), Trouble> {
    if state
        .tree
        .get_highest_persisted_seqno()
        .is_some_and(|persisted| persisted >= first.number)
    {
        return Ok(());
    }
    let before = state
        .tree
        .get(keys::progress(), first.number)
        .map_err(|e| read_from(Table::State, e.into()))?;
    let before = before
        .and_then(|value| Progress::decode(&value))
        .unwrap_or_default()
        .sequence;
    if before.saturating_add(1) == first.progress.sequence {
        Ok(())
    } else {
        Err(Damage::BatchesMissing {
            after: before,
            before: first.progress.sequence,
        }
        .into())
    }
}
