//! What was saved of a damaged store, as the records that make a new one.

use std::collections::BTreeSet;
use std::sync::Arc;

use pointsman_core::catalog::{Definition, DefinitionKey, Digest, NextIds};
use pointsman_core::commit::IndexEntry;
use pointsman_core::{Lane, Position, Record};

use crate::error::{Damage, StoreError};
use crate::examine::{Found, FoundQueue, read_chunk};
use crate::keys::{self, StateKind};
use crate::repair::Rescue;
use crate::salvage::{scan, scan_state};
use crate::staged::Table;
use crate::store::{Store, index_entry};
use crate::values;

/// Bytes written in one batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

impl Found {
    /// Makes it whole: lost messages count as settled, queues whose definition is lost get one, and the counter of ids
    /// is behind all of them.
    pub(crate) fn complete(&mut self) {
        for queue in self.queues.values_mut() {
            queue.settle_lost();
        }
        // Without damage, a queue that is not declared is one that is being deleted.
        let keyspace = Table::Meta.name();
        let is_damaged = self.damage.iter().any(|damage| {
            matches!(damage, Damage::Table { keyspace: of } | Damage::Value { keyspace: of, .. } if *of == keyspace)
        });
        if is_damaged {
            self.define_queues();
        }
        self.count_ids();
    }

    fn define_queues(&mut self) {
        let vhost = self.definitions.keys().find_map(|key| match key {
            DefinitionKey::Vhost(vhost) => Some(*vhost),
            _ => None,
        });
        let Some(vhost) = vhost else { return };
        for &queue in self.queues.keys().chain(self.delayed.keys()) {
            self.definitions
                .entry(DefinitionKey::Queue(queue))
                .or_insert_with(|| Definition::durable_queue(vhost, format!("repaired-{}", queue.0)));
        }
    }

    fn count_ids(&mut self) {
        let mut next = match self.definitions.get(&DefinitionKey::Ids) {
            Some(Definition::Ids(next)) => *next,
            _ => NextIds::default(),
        };
        for key in self.definitions.keys() {
            match key {
                DefinitionKey::Vhost(id) => next.vhost = next.vhost.max(id.0 + 1),
                DefinitionKey::Exchange(id) => next.exchange = next.exchange.max(id.0 + 1),
                DefinitionKey::Queue(id) => next.queue = next.queue.max(id.0 + 1),
                DefinitionKey::Router(id) => next.router = next.router.max(id.0 + 1),
                _ => {}
            }
        }
        self.definitions.insert(DefinitionKey::Ids, Definition::Ids(next));
    }
}

/// Records that wait until they are worth a batch.
pub(crate) struct Batch<'a> {
    to: &'a Store,
    records: Vec<Record>,
    bytes: usize,
}

impl Batch<'_> {
    pub(crate) fn push(&mut self, record: Record, bytes: usize) -> Result<(), StoreError> {
        self.records.push(record);
        self.bytes += bytes + 64;
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        self.to.apply(&[&records], false)
    }
}

impl Rescue {
    pub(crate) fn rewrite(&self, to: &Store) -> Result<(), StoreError> {
        to.writer().progress.next_offsets =
            [Lane::Queues, Lane::Streams].map(|lane| self.found.next_offset(lane));
        let mut batch = Batch {
            to,
            records: Vec::new(),
            bytes: 0,
        };
        self.rewrite_definitions(&mut batch)?;
        self.rewrite_chunks(&mut batch)?;
        self.rewrite_index(&mut batch)?;
        self.rewrite_queues(&mut batch)?;
        self.rewrite_due(&mut batch)?;
        self.rewrite_identities(&mut batch)?;
        batch.write()
    }

    fn rewrite_definitions(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut modules: BTreeSet<Digest> = BTreeSet::new();
        for (key, definition) in &self.found.definitions {
            if let Definition::RouterVersion(version) = definition {
                modules.insert(version.digest);
            }
            let record = Record::Define {
                key: Box::new(key.clone()),
                definition: Some(Box::new(definition.clone())),
            };
            batch.push(record, 0)?;
        }
        for digest in modules {
            // One that cannot be read was reported.
            let value = self.flushed.keyspaces[Table::Meta as usize].get(keys::module(&digest));
            if let Some(bytes) = value.ok().flatten().and_then(values::read_module) {
                let len = bytes.len();
                let bytes = Some(bytes);
                batch.push(Record::Module { digest, bytes }, len)?;
            }
        }
        Ok(())
    }

    fn rewrite_chunks(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for (&(lane, base), found) in &self.found.chunks {
            let Some(references) = found.references() else {
                continue;
            };
            let chunk = read_chunk(&self.flushed, lane, base)?;
            let chunk = chunk.ok_or(Damage::ChunkMissing { lane, base })?;
            let chunk = Arc::new(chunk.without_dead(&references));
            let len = chunk.len();
            let record = Record::Append { chunk, references };
            batch.push(record, len)?;
        }
        Ok(())
    }

    fn rewrite_index(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let (first, last) = keys::all();
        let mut written = Ok(());
        scan(
            &self.flushed.keyspaces[Table::Index as usize],
            Table::Index,
            &first,
            &last,
            &mut Vec::new(),
            |key, value| {
                let (id, _) = keys::in_queue_parts(key)?;
                let entry = index_entry(key, value).ok()?;
                let queue = self.found.queues.get(&id)?;
                for entry in queue.left_of(entry) {
                    let bytes = entry.runs.len() * 24;
                    let record = Record::Index { queue: id, entry };
                    if written.is_ok() {
                        written = batch.push(record, bytes);
                    }
                }
                Some(())
            },
        )?;
        written
    }

    fn rewrite_queues(&self, batch: &mut Batch) -> Result<(), StoreError> {
        for (&queue, found) in &self.found.queues {
            let state = found.state;
            batch.push(Record::QueueState { queue, state }, 0)?;
            for (&block, settled) in &found.settled {
                let bytes = settled.serialized_size();
                let settled = Some(settled.clone());
                let record = Record::AckBlock {
                    queue,
                    block,
                    settled,
                };
                batch.push(record, bytes)?;
            }
        }
        self.rewrite_state(
            StateKind::Attempts,
            |id, value| {
                let (queue, position) = keys::queue_and_number(id)?;
                let found = self.found.queues.get(&queue)?;
                let is_left = !found.unsettled(position..position.checked_add(1)?).is_empty();
                is_left.then_some(Record::Attempts {
                    queue,
                    position: Position(position),
                    count: Some(values::read_number(value)?),
                })
            },
            batch,
        )
    }

    fn rewrite_identities(&self, batch: &mut Batch) -> Result<(), StoreError> {
        self.rewrite_state(
            StateKind::Identity,
            |id, value| {
                Some(Record::Identity {
                    identity: keys::identity_of(id)?,
                    state: Some(values::read_postcard(value)?),
                })
            },
            batch,
        )
    }

    /// Writes what `record` makes of each readable value of a kind.
    fn rewrite_state(
        &self,
        kind: StateKind,
        record: impl Fn(&[u8], &[u8]) -> Option<Record>,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let mut written = Ok(());
        scan_state(&self.flushed.keyspaces, kind, &mut Vec::new(), |id, value| {
            if let Some(record) = record(id, value)
                && written.is_ok()
            {
                written = batch.push(record, value.len());
            }
            Some(())
        })?;
        written
    }
}

impl FoundQueue {
    /// What of an entry is left without the runs that are wholly settled: each stretch of the others becomes an entry.
    pub(crate) fn left_of(&self, entry: IndexEntry) -> Vec<IndexEntry> {
        let mut left: Vec<IndexEntry> = Vec::new();
        let mut position = entry.first.0;
        let mut goes_on = false;
        let (time, mut bytes, expires) = (entry.time, entry.bytes, entry.expires);
        for run in entry.runs {
            let end = position + u64::from(run.count);
            let is_left = !self.unsettled(position..end).is_empty();
            match left.last_mut() {
                Some(last) if is_left && goes_on => last.runs.push(run),
                _ if is_left => left.push(IndexEntry {
                    first: Position(position),
                    runs: vec![run],
                    time,
                    // All are of one chunk in a stream, so that there is one stretch or none.
                    bytes: std::mem::take(&mut bytes),
                    expires,
                }),
                _ => {}
            }
            goes_on = is_left;
            position = end;
        }
        left
    }
}
