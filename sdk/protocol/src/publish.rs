//! What travels on a publisher's stream.

use serde::{Deserialize, Serialize};

/// Opens a publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPublisher {
    /// The exchange every message of this stream goes to; empty is the default exchange.
    pub exchange: String,
    /// Who publishes, over reconnects: the broker remembers the highest sequence number it took from this identity,
    /// so that a retry is recognised. Chosen at random by the client.
    pub identity: u128,
    /// How many messages the client would like to have unconfirmed.
    pub window: u32,
}

/// The broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherOpened {
    /// The highest sequence number the broker has taken from this identity; 0 when it knows none.
    pub last_sequence: u64,
    /// Most messages the client may have unconfirmed.
    pub window: u32,
    /// Most bytes (bodies and metadata) the client may have unconfirmed, unless it is a single message.
    pub window_bytes: u64,
}

/// Confirms `count` publishes, from the sequence number in the frame's id on: each is done with the same outcome,
/// and what a durable queue took of it is on disk as that queue's `fsync` setting promises, or the broker's where the
/// queue has none: [`crate::Fsync`]. Of several durable queues the strongest promise counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// How many consecutive sequence numbers; at least 1.
    pub count: u32,
    /// What became of each.
    pub outcome: Outcome,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It is in that many queues (at least one), or will be at the end of its delay.
    Routed {
        /// Number of queues.
        queues: u32,
    },
    /// No binding matched and no alternate exchange took it; it is gone.
    Unroutable,
    /// A router refused it; it is gone.
    Rejected {
        /// The router's reason.
        reason: String,
    },
    /// The router module failed on it; the message is kept in the exchange's quarantine queue.
    Quarantined {
        /// What failed.
        reason: String,
    },
    /// The broker could not take it; publishing it again may work.
    Refused(crate::ErrorBody),
    /// It was taken and routed before, under the same identity and sequence number; it is not stored twice.
    Duplicate,
}

impl Outcome {
    /// Whether the message is in a queue, now or since an earlier try.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Routed { .. } | Outcome::Duplicate)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Routed { queues: 1 } => f.write_str("routed to 1 queue"),
            Outcome::Routed { queues } => write!(f, "routed to {queues} queues"),
            Outcome::Unroutable => f.write_str("unroutable: no binding took it"),
            Outcome::Rejected { reason } => write!(f, "rejected by the router: {reason}"),
            Outcome::Quarantined { reason } => write!(f, "kept in quarantine: {reason}"),
            Outcome::Refused(error) => write!(f, "refused: {error}"),
            Outcome::Duplicate => f.write_str("taken before; not stored twice"),
        }
    }
}
