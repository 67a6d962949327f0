//! What travels on a consumer's stream.

use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, Kind};

/// Flag of a `Deliver` frame: the message may have been delivered before.
pub const FLAG_REDELIVERED: u8 = 1;

/// Opens a consumer of a queue. Nothing is delivered before the first [`Credit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenConsumer {
    /// The queue.
    pub queue: String,
    /// Name of the consumer for `queue show`; empty lets the broker choose.
    pub tag: String,
    /// Refuse any other consumer of the queue while this one is there.
    pub exclusive: bool,
    /// The broker counts a delivery as acknowledged once it is sent.
    pub no_ack: bool,
}

/// The broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerOpened {
    /// The consumer's tag.
    pub tag: String,
}

/// Grants more deliveries. Credit adds up: the broker sends as long as both counts are above zero, so one message
/// may take the bytes below zero. Settling does not give credit back; the client grants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// How many more messages.
    pub messages: u32,
    /// How many more bytes of messages: their own metadata, without the [`DeliveryMeta`], and bodies.
    pub bytes: u64,
}

/// What a delivery says of itself; the message's own metadata stands behind it in the same frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryMeta<'a> {
    /// How often it was delivered before, as far as the broker knows.
    pub delivery_count: u32,
    /// The exchange it was published to; empty when that is gone or the default exchange.
    #[serde(borrow)]
    pub exchange: &'a str,
    /// The router version that decided where it goes, such as `orders@2`; empty when no module did.
    pub decided_by: &'a str,
}

impl<'a> DeliveryMeta<'a> {
    /// Splits the metadata of a `Deliver` frame into what it says of the delivery and the message's own metadata.
    ///
    /// # Errors
    /// [`FrameError::Meta`] when the bytes do not begin with a `DeliveryMeta`.
    pub fn split(meta: &'a [u8]) -> Result<(DeliveryMeta<'a>, &'a [u8]), FrameError> {
        postcard::take_from_bytes(meta).map_err(|_| FrameError::Meta(Kind::Deliver))
    }
}

/// Settles `count` deliveries of consecutive tags, from the tag in the frame's id on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// How many consecutive tags; at least 1.
    pub count: u32,
    /// What becomes of them.
    pub how: Settlement,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Settlement {
    /// Done; the message leaves the queue.
    Ack,
    /// Not done; it goes back to its place in the queue and will be redelivered.
    Requeue,
    /// Not wanted; it leaves the queue (to the dead-letter exchange where one is set).
    Reject,
}
