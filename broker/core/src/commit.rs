//! What the core answers: records to make durable, and effects to release once they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pointsman_protocol::ErrorBody;
use pointsman_protocol::admin::Reply;
use pointsman_protocol::publish::Outcome;
use serde::{Deserialize, Serialize};

use crate::catalog::{Definition, DefinitionKey, Digest};
use crate::chunk::Chunk;
use crate::due::{DueEntry, DueKey};
use crate::ids::*;
use crate::references::References;
use crate::topology::Topology;

/// What one turn of the driver adds up to. Records are applied in order, all or none; effects are released in
/// order, after the records of this and every earlier commit are durable.
#[derive(Debug, Default)]
pub struct Commit {
    /// What must become durable.
    pub records: Vec<Record>,
    /// What may then be seen.
    pub effects: Vec<Effect>,
    /// How long after they are written the records must be synced, as the strongest promise of an effect says: with
    /// zero, the effects wait for it. Acknowledgements promise nothing: at worst a message is redelivered.
    pub sync: Option<Duration>,
}

impl Commit {
    /// Makes the promise no weaker than this.
    pub(crate) fn sync_within(&mut self, within: Option<Duration>) {
        self.sync = strongest(self.sync, within);
    }
}

/// The sync that comes sooner of two; `None` is no sync.
pub(crate) fn strongest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// One durable change. Applying a record twice leaves what applying it once does, but for [`Record::Release`], which
/// the store counts within the same atomic batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A chunk of new messages. A message dies when as many of its references were released, and the chunk with its
    /// last message.
    Append {
        /// The chunk.
        chunk: Arc<Chunk>,
        /// How many (queue, position) pairs name each of its messages.
        references: References,
    },
    /// Of each of these messages, one place in a queue that named it is settled.
    Release {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
        /// The first message's number in the chunk.
        record: u32,
        /// How many consecutive messages.
        count: u32,
    },
    /// New messages of a queue.
    Index {
        /// The queue.
        queue: QueueId,
        /// Which.
        entry: IndexEntry,
    },
    /// An index entry of which nothing is left; `last` is its last position, which is its key.
    IndexRemove {
        /// The queue.
        queue: QueueId,
        /// The entry's last position.
        last: Position,
    },
    /// Where a durable queue stands.
    QueueState {
        /// The queue.
        queue: QueueId,
        /// Its counters.
        state: QueueState,
    },
    /// The positions at and above the queue's head that are settled, within one block of 65,536 positions; `None`
    /// when the block has none any more.
    AckBlock {
        /// The queue.
        queue: QueueId,
        /// Position divided by 65,536.
        block: u64,
        /// Positions modulo 65,536.
        settled: Option<roaring::RoaringBitmap>,
    },
    /// How often a message that was given back had been delivered; `None` when it is settled.
    Attempts {
        /// The queue.
        queue: QueueId,
        /// The message.
        position: Position,
        /// Deliveries so far.
        count: Option<u32>,
    },
    /// Something is to happen at a time, or with `None` did. To remove what is not there is nothing: an entry may go
    /// because its messages are settled, and again when it is due.
    Due {
        /// Which.
        key: DueKey,
        /// What is to happen.
        entry: Option<DueEntry>,
    },
    /// How many messages wait for the end of their delay to enter a durable queue; `None` when none does.
    Delayed {
        /// The queue.
        queue: QueueId,
        /// Number of messages.
        count: Option<u64>,
    },
    /// What a publisher's identity has sent so far; `None` forgets it.
    Identity {
        /// Who.
        identity: PublisherIdentity,
        /// What is remembered.
        state: Option<IdentityState>,
    },
    /// A definition is made, changed or, with `None`, deleted. Boxed, as it is rare and several times as long as what each
    /// message writes.
    Define {
        /// Which.
        key: Box<DefinitionKey>,
        /// What it is now.
        definition: Option<Box<Definition>>,
    },
    /// A module's bytes, by digest; `None` when no version uses it any more.
    Module {
        /// Its SHA-256.
        digest: Digest,
        /// Its bytes.
        bytes: Option<Bytes>,
    },
    /// Nothing is left of a deleted queue: its index, state, ack blocks and attempts go. Deleting the definition
    /// comes first, in an earlier commit when the queue was deep: until this record its state stays, and
    /// [`Restored`] has it, so that what its messages take in the log is released after a crash as well. Its due
    /// entries have their own end.
    QueueGone {
        /// The queue.
        queue: QueueId,
    },
}

/// Consecutive positions of a queue and where their messages are. Its key in the store is its last position, so
/// that a seek from any position finds the entry that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The first position.
    pub first: Position,
    /// Runs in order; their counts add up to the number of positions. In a stream all of them are of one chunk.
    pub runs: Vec<Run>,
    /// In a stream, when its messages were put in, in milliseconds since the Unix epoch; never falls from one entry
    /// to the next. 0 in a work queue, where nobody asks.
    pub time: u64,
    /// In a stream, bytes of its messages' metadata and bodies. 0 in a work queue.
    pub bytes: u64,
    /// In a work queue, when the last of its messages that expire do, in milliseconds since the Unix epoch, so that
    /// this due entry goes when the messages do; 0 when none expires.
    pub expires: u64,
}

impl IndexEntry {
    /// Number of positions.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// The last position.
    ///
    /// # Panics
    /// When the entry is empty, which no entry is.
    pub fn last(&self) -> Position {
        Position(self.first.0 + self.count() - 1)
    }

    /// Adds a run that follows, if it is of the chunk that the entry is of.
    pub(crate) fn add(&mut self, run: Run) -> bool {
        match self.runs.last_mut() {
            Some(last) if (last.lane, last.chunk) != (run.lane, run.chunk) => return false,
            Some(last) if last.record + last.count == run.record => last.count += run.count,
            _ => self.runs.push(run),
        }
        true
    }
}

/// Consecutive records of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The chunk's lane.
    pub lane: Lane,
    /// The chunk's base.
    pub chunk: Offset,
    /// The first record's number in the chunk.
    pub record: u32,
    /// How many records.
    pub count: u32,
}

/// Where a durable queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Every position below is settled.
    pub head: Position,
    /// The position the next message gets.
    pub tail: Position,
    /// Every position that was ever delivered is below; 0 for a stream.
    pub delivered: Position,
    /// For a stream, what there is beside.
    pub stream: Option<StreamState>,
}

/// Where a stream stands, beside its head and tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Bytes of metadata and bodies of the messages from head to tail.
    pub bytes: u64,
    /// Time of the last entry there ever was, in milliseconds since the Unix epoch.
    pub time: u64,
}

/// What the broker remembers of a publisher's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityState {
    /// The highest sequence number taken.
    pub last_sequence: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// Sequence numbers among the last ones whose outcome was not `Routed`, rising.
    pub exceptions: Vec<(u64, Outcome)>,
}

/// Something the driver does once the commit is durable.
#[derive(Debug)]
pub enum Effect {
    /// Answer a request.
    Reply {
        /// To whom.
        connection: ConnectionId,
        /// The request's number.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// A publisher may publish, from the sequence number after the given one.
    PublisherOpened {
        /// Which.
        publisher: PublisherId,
        /// The highest sequence number taken from its identity, or 0.
        last_sequence: u64,
    },
    /// Publishes are done.
    Confirm {
        /// Whose.
        publisher: PublisherId,
        /// The first sequence number.
        first: u64,
        /// How many.
        count: u32,
        /// What became of each.
        outcome: Outcome,
    },
    /// A publisher did what it may not; its stream is closed.
    PublisherClosed {
        /// Which.
        publisher: PublisherId,
        /// Why.
        error: ErrorBody,
    },
    /// A consumer is there.
    ConsumerOpened {
        /// Which.
        consumer: ConsumerId,
        /// Its tag.
        tag: String,
        /// The offset it starts at in a stream.
        offset: Option<u64>,
    },
    /// A consumer could not open, did what it may not, or its queue is gone; its stream is closed.
    ConsumerClosed {
        /// Which.
        consumer: ConsumerId,
        /// Why.
        error: ErrorBody,
    },
    /// Deliveries of consecutive tags.
    Deliver {
        /// To whom.
        consumer: ConsumerId,
        /// The first tag.
        first: DeliveryTag,
        /// The chunk the messages are in.
        chunk: Arc<Chunk>,
        /// The first record's number in the chunk.
        record: u32,
        /// How many consecutive records.
        count: u32,
        /// Whether they may have been delivered before.
        redelivered: bool,
        /// How often they were delivered before, as far as is known.
        delivery_count: u32,
        /// Where the first of them is, when they are of a stream; the others follow.
        place: Option<Place>,
    },
    /// Read index entries of a queue from this position on, up to but without `to`; about `runs_max` runs are enough.
    ReadIndex {
        /// The queue.
        queue: QueueId,
        /// The first position.
        from: Position,
        /// The position to stop before.
        to: Position,
        /// About how many runs.
        runs_max: usize,
    },
    /// Read due entries behind a key, of one queue or of all; about `runs_max` runs are enough.
    ReadDue {
        /// Which queue; `None` is all.
        of: Option<QueueId>,
        /// The entry before the first.
        after: DueKey,
        /// About how many runs.
        runs_max: usize,
    },
    /// Read a chunk.
    ReadChunk {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
        /// Whether nobody waits for it yet. Then a large message need not be read: several of them would take much memory.
        ahead: bool,
    },
    /// What is declared has changed; route by this from now on.
    Topology(Arc<Topology>),
}

/// Where a message is in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its offset.
    pub offset: Position,
    /// When it was put in, in milliseconds since the Unix epoch.
    pub time: u64,
}

/// What a store gives back when it opens: all that `Broker::restore` needs, which does not grow with the
/// number of messages.
#[derive(Debug, Default)]
pub struct Restored {
    /// All definitions.
    pub definitions: Vec<(DefinitionKey, Definition)>,
    /// Each durable queue's state, where one was written; also of deleted queues, until [`Record::QueueGone`].
    pub queues: Vec<(QueueId, QueueState)>,
    /// Ack blocks.
    pub ack_blocks: Vec<(QueueId, u64, roaring::RoaringBitmap)>,
    /// Delivery counts of messages that were given back.
    pub attempts: Vec<(QueueId, Position, u32)>,
    /// How many messages are delayed, of each durable queue that has some; also of deleted queues.
    pub delayed: Vec<(QueueId, u64)>,
    /// Publishers' identities.
    pub identities: Vec<(PublisherIdentity, IdentityState)>,
    /// The next free offset of each durable lane: queues, streams.
    pub next_offsets: [Offset; 2],
}
