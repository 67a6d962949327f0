//! The reader thread: what the core no longer has in memory is read here, never on a thread of the runtime.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pointsman_core::commit::IndexEntry;
use pointsman_core::due::{DueEntry, DueKey};
use pointsman_core::{Chunk, Lane, Offset, Position, QueueId};

use crate::error::StoreError;
use crate::store::Store;

/// The reader thread. Reads are done in the order they were asked for. Dropping it is [`Reader::stop`].
pub struct Reader {
    asked: Option<Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// What was read.
#[derive(Debug)]
pub enum ReadDone {
    /// Index entries.
    Index {
        /// The queue.
        queue: QueueId,
        /// The first position asked for.
        from: Position,
        /// The entries, as [`Store::read_index`] gives them.
        result: Result<Vec<IndexEntry>, StoreError>,
    },
    /// Due entries.
    Due {
        /// Of which queue, as asked.
        of: Option<QueueId>,
        /// Behind which entry, as asked.
        after: DueKey,
        /// The entries, as [`Store::read_due`] gives them.
        result: Result<Vec<(DueKey, DueEntry)>, StoreError>,
    },
    /// A chunk.
    Chunk {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
        /// The chunk, as [`Store::read_chunk`] gives it, or `None` when it was asked for ahead and is a large message's.
        result: Result<Option<Arc<Chunk>>, StoreError>,
    },
}

enum Ask {
    Index {
        queue: QueueId,
        from: Position,
        to: Position,
        runs_max: usize,
    },
    Due {
        of: Option<QueueId>,
        after: DueKey,
        runs_max: usize,
    },
    Chunk {
        lane: Lane,
        base: Offset,
        ahead: bool,
    },
}

impl Reader {
    /// Starts the thread. `done` is called on it and should only pass on what it is told.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(store: Store, done: impl FnMut(ReadDone) + Send + 'static) -> std::io::Result<Reader> {
        // Unbounded, because the core never asks twice for what it still waits for.
        let (asked, asks) = unbounded();
        let thread = std::thread::Builder::new()
            .name("read".to_owned())
            .spawn(move || run(&store, &asks, done))?;
        Ok(Reader {
            asked: Some(asked),
            thread: Some(thread),
        })
    }

    /// Asks for index entries; see [`Store::read_index`].
    pub fn read_index(&self, queue: QueueId, from: Position, to: Position, runs_max: usize) {
        self.ask(Ask::Index {
            queue,
            from,
            to,
            runs_max,
        });
    }

    /// Asks for due entries; see [`Store::read_due`].
    pub fn read_due(&self, of: Option<QueueId>, after: DueKey, runs_max: usize) {
        self.ask(Ask::Due { of, after, runs_max });
    }

    /// Asks for a chunk; see [`Store::read_chunk`], and [`Store::read_chunk_ahead`] if nobody waits for it yet.
    pub fn read_chunk(&self, lane: Lane, base: Offset, ahead: bool) {
        self.ask(Ask::Chunk { lane, base, ahead });
    }

    /// Answers what was asked and ends the thread.
    pub fn stop(self) {
        drop(self);
    }

    fn ask(&self, ask: Ask) {
        if let Some(asked) = &self.asked
            && asked.send(ask).is_err()
        {
            tracing::error!("the reader thread is gone");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.asked = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reader thread panicked");
        }
    }
}

fn run(store: &Store, asks: &Receiver<Ask>, mut done: impl FnMut(ReadDone)) {
    for ask in asks {
        done(match ask {
            Ask::Index {
                queue,
                from,
                to,
                runs_max,
            } => ReadDone::Index {
                queue,
                from,
                result: store.read_index(queue, from, to, runs_max),
            },
            Ask::Due { of, after, runs_max } => ReadDone::Due {
                of,
                after,
                result: store.read_due(of, after, runs_max),
            },
            Ask::Chunk { lane, base, ahead } => ReadDone::Chunk {
                lane,
                base,
                result: match ahead {
                    true => store.read_chunk_ahead(lane, base),
                    false => store.read_chunk(lane, base).map(Some),
                },
            },
        });
    }
}
