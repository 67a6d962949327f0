//! What the core is told.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use pointsman_protocol::admin::Request;
use pointsman_protocol::consume::{Credit, OpenConsumer, Settle};
use smallvec::SmallVec;

use crate::catalog::{UserVerifier, VersionSpec};
use crate::chunk::Chunk;
use crate::commit::IndexEntry;
use crate::due::{DueEntry, DueKey};
use crate::ids::*;

/// One thing that happened. The driver hands inputs over one at a time, in the order they came.
#[derive(Debug)]
pub enum Input {
    /// A connection authenticated and works in `vhost`.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Name of its vhost, which existed when the session looked.
        vhost: String,
    },
    /// A connection is gone: its publishers and consumers close, its exclusive queues go.
    Disconnected {
        /// Which.
        connection: ConnectionId,
    },
    /// A request about what is declared. `Status`, `Explain`, `RouterLoad` and `RouterLogs` never come here.
    Request {
        /// Whose.
        connection: ConnectionId,
        /// Its number, for the reply.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// A module was compiled, tried and found good.
    RouterLoaded {
        /// Whose request it was.
        connection: ConnectionId,
        /// Its number, for the reply.
        id: u64,
        /// The router's name.
        name: String,
        /// The new version.
        spec: VersionSpec,
        /// The module, unless the store has it already.
        module: Option<Bytes>,
        /// Whether to activate it in the same step.
        activate: bool,
    },
    /// A user is made or gets a new verifier.
    PutUser {
        /// The name.
        name: String,
        /// What its password is checked against.
        verifier: UserVerifier,
    },
    /// A publisher's stream opened.
    OpenPublisher {
        /// Whose.
        connection: ConnectionId,
        /// Its number, new.
        publisher: PublisherId,
        /// Who it is over reconnects.
        identity: PublisherIdentity,
    },
    /// Messages of one publisher, routed, in the order they were sent.
    Publish {
        /// Whose.
        publisher: PublisherId,
        /// The messages; sequence numbers rise.
        messages: Vec<Publish>,
    },
    /// A publisher's stream closed.
    ClosePublisher {
        /// Which.
        publisher: PublisherId,
    },
    /// A consumer's stream opened.
    OpenConsumer {
        /// Whose.
        connection: ConnectionId,
        /// Its number, new.
        consumer: ConsumerId,
        /// What it asks for.
        open: OpenConsumer,
    },
    /// A consumer takes more deliveries.
    Credit {
        /// Which.
        consumer: ConsumerId,
        /// How many more.
        credit: Credit,
    },
    /// A consumer settles deliveries.
    Settle {
        /// Which.
        consumer: ConsumerId,
        /// The first tag.
        first: DeliveryTag,
        /// How many, and how.
        settle: Settle,
    },
    /// A consumer's stream closed: what it did not settle goes back to the queue.
    CloseConsumer {
        /// Which.
        consumer: ConsumerId,
    },
    /// The answer to [`crate::Effect::ReadIndex`].
    IndexRead {
        /// The queue.
        queue: QueueId,
        /// The first position asked for.
        from: Position,
        /// Entries in order. The first holds `from` or lies behind it; together they may cover less than was asked.
        entries: Vec<IndexEntry>,
    },
    /// The answer to [`crate::Effect::ReadDue`].
    DueRead {
        /// Of which queue, as asked.
        of: Option<QueueId>,
        /// Behind which entry, as asked.
        after: DueKey,
        /// Entries in order, all of those behind `after` up to the last one; none when there is none.
        entries: Vec<(DueKey, DueEntry)>,
    },
    /// The answer to [`crate::Effect::ReadChunk`].
    ChunkRead {
        /// The lane.
        lane: Lane,
        /// The chunk's base.
        base: Offset,
        /// The chunk, or `None` when the store has it no more. That is in order when all of its messages were settled
        /// (a purge) between the question and the answer; otherwise the core passes over what is missing and counts
        /// it in [`crate::Totals::missing`]. Of a chunk that was asked for ahead `None` says nothing.
        chunk: Option<Arc<Chunk>>,
    },
}

/// A message with its route. Plain data: nothing about it is decided any more.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Its number on the publisher's stream.
    pub sequence: u64,
    /// What the route says.
    pub verdict: Verdict,
    /// The message in each of its forms. Empty when it is unroutable or rejected.
    pub copies: SmallVec<[MessageCopy; 1]>,
}

/// What a route says beside its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver; unroutable when there is no target left.
    Deliver,
    /// A router refused it.
    Reject(String),
    /// The module failed on it; the copies lead to the quarantine queue or the alternate exchange.
    Quarantine(String),
    /// It could not be taken.
    Refuse(pointsman_protocol::ErrorBody),
}

/// What a message's metadata says of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How long after its publish it enters its queues; `None` is at once.
    pub delay: Option<NonZeroU64>,
    /// How long after that it leaves the work queues where it still waits.
    pub expiration: Option<NonZeroU64>,
}

impl Times {
    /// As metadata has them. No delay and a delay of 0 are the same; an expiration of 0 does not pass the scan of
    /// metadata.
    pub fn new(delay: Option<u64>, expiration: Option<u64>) -> Times {
        Times {
            delay: delay.and_then(NonZeroU64::new),
            expiration: expiration.and_then(NonZeroU64::new),
        }
    }
}

/// One form of a message and the queues that get it. A message that no router changed has one copy, whatever the
/// number of its queues.
#[derive(Clone, Debug)]
pub struct MessageCopy {
    /// Metadata (postcard) and body, one behind the other.
    pub content: Bytes,
    /// Length of the metadata, in bytes.
    pub meta_len: u32,
    /// Whether a confirm promises that durable queues have it on disk. They write it there either way, so that a
    /// deep queue needs no memory; a message that is not persistent just waits for no sync.
    pub persistent: bool,
    /// When it enters its queues and how long it may wait there.
    pub times: Times,
    /// The exchange it was published to.
    pub exchange: ExchangeId,
    /// The router version that decided, if one did.
    pub decided_by: Option<DecidedBy>,
    /// The queues, without repetition. One that is gone by now is passed over.
    pub queues: SmallVec<[QueueId; 4]>,
}
