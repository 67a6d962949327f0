//! Numbers by which the parts of the broker name things to each other.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);
    };
}

id!(/// A vhost; never used again.
    VhostId(u32));
id!(/// An exchange; never used again.
    ExchangeId(u32));
id!(/// A queue; never used again.
    QueueId(u32));
id!(/// A router; never used again.
    RouterId(u32));
id!(/// A connection since the broker started.
    ConnectionId(u64));
id!(/// A publisher's stream since the broker started.
    PublisherId(u64));
id!(/// A consumer's stream since the broker started.
    ConsumerId(u64));
id!(/// A publisher's identity over reconnects, chosen by the client.
    PublisherIdentity(u128));
id!(/// A place in a queue: rises by one with each message, starts at 0.
    Position(u64));
id!(/// A place in a lane of the log: rises by one with each message.
    Offset(u64));
id!(/// A delivery on one consumer's stream: rises by one, starts at 1.
    DeliveryTag(u64));

impl ExchangeId {
    /// Stands for the default exchange of whatever vhost, which is not declared and has no id of its own.
    pub const DEFAULT: ExchangeId = ExchangeId(u32::MAX);
}

/// A run of the log with one lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Lane {
    /// Messages of durable work queues: on disk until settled.
    Queues = 0,
    /// Messages of streams: on disk until retention drops them.
    Streams = 1,
    /// Messages of transient queues only: never on disk.
    Memory = 2,
}

/// Which router version decided a message's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DecidedBy {
    /// The router.
    pub router: RouterId,
    /// Its version, from 1.
    pub version: u32,
}
