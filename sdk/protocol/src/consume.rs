//! What travels on a consumer's stream.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, Header, Kind};

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
    /// Where to start in a stream, [`StartAt::Next`] when not set; refused for a work queue.
    pub start: Option<StartAt>,
}

/// Where a consumer starts in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartAt {
    /// At the first message that is there.
    First,
    /// At the last message that is there, or the next when there is none.
    Last,
    /// At the next message that is published.
    Next,
    /// At this offset. When retention has dropped it, at the first message that is there; one that is not there yet is
    /// waited for.
    Offset(u64),
    /// At the first message that was put in at this time or later, in milliseconds since the Unix epoch. Messages that
    /// were put in together have one time.
    Timestamp(u64),
}

impl From<u64> for StartAt {
    fn from(offset: u64) -> StartAt {
        StartAt::Offset(offset)
    }
}

/// A time before 1970 is before every message.
impl From<SystemTime> for StartAt {
    fn from(time: SystemTime) -> StartAt {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        StartAt::Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerOpened {
    /// The consumer's tag.
    pub tag: String,
    /// The offset it starts at in a stream; `None` for a work queue.
    pub offset: Option<u64>,
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
    /// Where it is in the stream; `None` from a work queue. Last, so that what stands in front is the same for many
    /// deliveries.
    pub place: Option<StreamPlace>,
}

/// Where a message is in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPlace {
    /// Its offset: 0 for the first message the stream ever had, rising by one with each.
    pub offset: u64,
    /// When it was put in, in milliseconds since the Unix epoch; never falls from one offset to the next.
    pub time: u64,
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

/// Appends a `Deliver` frame without its body, of which `body_len` bytes must follow. `label` is an encoded
/// [`DeliveryMeta`], `meta` the message's own metadata.
pub fn put_delivery(out: &mut BytesMut, flags: u8, tag: u64, label: &[u8], meta: &[u8], body_len: u32) {
    let header = Header {
        kind: Kind::Deliver,
        flags,
        meta_len: (label.len() + meta.len()) as u32,
        body_len,
        id: tag,
    };
    header.encode(out);
    out.extend_from_slice(label);
    out.extend_from_slice(meta);
}

/// Settles `count` deliveries of consecutive tags, from the tag in the frame's id on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// How many consecutive tags; at least 1.
    pub count: u32,
    /// What becomes of them.
    pub how: Settlement,
}

/// What becomes of a delivery. A stream keeps its messages whatever readers make of them: there, each of these only
/// takes the delivery off the consumer's unsettled ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Settlement {
    /// Done; the message leaves the queue.
    Ack,
    /// Not done; it goes back to its place in the queue and will be redelivered.
    Requeue,
    /// Not wanted; it leaves the queue (to the dead-letter exchange where one is set).
    Reject,
}
