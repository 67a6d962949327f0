//! What the tests of the store put into it.
#![allow(dead_code, reason = "each test is a crate of its own and uses some of it")]

use std::sync::Arc;

use pointsman_core::commit::{IndexEntry, QueueState, Run};
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References};

pub(crate) const QUEUE: QueueId = QueueId(1);

/// An index entry of the first messages of a chunk.
pub(crate) fn entry(first: u64, base: u64, count: u32) -> IndexEntry {
    let run = Run {
        lane: Lane::Queues,
        chunk: Offset(base),
        record: 0,
        count,
    };
    IndexEntry {
        first: Position(first),
        runs: vec![run],
        time: 0,
        bytes: 0,
        expires: 0,
    }
}

/// A message in [`QUEUE`], at the position that is its offset, with its index entry and the queue's state.
pub(crate) fn message(offset: u64, body: &[u8]) -> Vec<Record> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(offset), 1_000);
    builder.push(ExchangeId(1), None, b"", body);
    messages(builder.finish())
}

/// As [`message`], with all messages of a chunk.
pub(crate) fn messages(chunk: impl Into<Arc<Chunk>>) -> Vec<Record> {
    let chunk = chunk.into();
    let (base, count) = (chunk.base.0, chunk.count());
    let state = QueueState {
        tail: Position(base + u64::from(count)),
        ..QueueState::default()
    };
    vec![
        Record::Append {
            chunk,
            references: References::uniform(count, 1),
        },
        Record::Index {
            queue: QUEUE,
            entry: entry(base, base, count),
        },
        Record::QueueState { queue: QUEUE, state },
    ]
}
