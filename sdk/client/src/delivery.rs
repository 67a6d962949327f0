//! Deliveries: borrowed views of received frames, and what becomes of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pointsman_protocol::consume::{DeliveryMeta, FLAG_REDELIVERED, Settlement};
use pointsman_protocol::frame::Frame;
use pointsman_protocol::{MessageMeta, Value};

use crate::Error;
use crate::consumer::Shared;

/// A message that was delivered and wants to be settled: `ack`, `nack` or `reject`.
///
/// Settling is cheap and does not wait; settlements are written together in the background. An acknowledgement that makes
/// room for no delivery waits up to 5 ms for others, unless [`Consumer::flush`](crate::Consumer::flush) is called, and is
/// forgotten by a program that is killed meanwhile: its message comes again. A delivery that is dropped unsettled stays with this consumer: it uses up prefetch, and comes again when the consumer is closed or the
/// connection is lost. After that, settling it does nothing.
pub struct Delivery {
    frame: Frame,
    /// Where the message's own metadata begins.
    message_at: usize,
    /// Which stream it came on.
    generation: u64,
    shared: Arc<Shared>,
}

impl Delivery {
    pub(crate) fn new(frame: Frame, generation: u64, shared: Arc<Shared>) -> Result<Delivery, Error> {
        let (_, message) = DeliveryMeta::split(frame.meta())?;
        let message_at = frame.meta().len() - message.len();
        Ok(Delivery {
            frame,
            message_at,
            generation,
            shared,
        })
    }

    /// The body. It shares the buffer it was received in, of up to 64 KiB unless it is larger itself; copy it to keep
    /// a small one for long.
    pub fn body(&self) -> Bytes {
        self.frame.body()
    }

    /// The message's metadata.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the broker sent what does not decode.
    pub fn meta(&self) -> Result<MessageMeta<'_>, Error> {
        let bytes = &self.frame.meta()[self.message_at..];
        MessageMeta::decode(bytes).map_err(|e| Error::Protocol(e.to_string()))
    }

    /// The routing key; empty when the metadata does not decode.
    pub fn routing_key(&self) -> &str {
        // The first field, so no other needs decoding.
        pointsman_protocol::message::routing_key(&self.frame.meta()[self.message_at..]).unwrap_or_default()
    }

    /// The value of a user header, if the message has it.
    pub fn header(&self, name: &str) -> Option<Value<'_>> {
        self.meta().ok()?.header(name).cloned()
    }

    /// Whether the message may have been delivered before.
    pub fn redelivered(&self) -> bool {
        self.frame.header.flags & FLAG_REDELIVERED != 0
    }

    /// How often it was delivered before, as far as the broker knows.
    pub fn delivery_count(&self) -> u32 {
        self.about().delivery_count
    }

    /// The exchange it was published to; empty for the default exchange or when the exchange is gone.
    pub fn exchange(&self) -> &str {
        self.about().exchange
    }

    /// The router version that decided where it goes, such as `orders@2`; empty when no module did.
    pub fn decided_by(&self) -> &str {
        self.about().decided_by
    }

    /// Its offset in the stream it comes from; `None` from a work queue. A program that keeps it can go on behind it
    /// later, see [`ConsumerBuilder::offset`](crate::ConsumerBuilder::offset).
    pub fn offset(&self) -> Option<u64> {
        Some(self.about().place?.offset)
    }

    /// When it was put into the stream it comes from, by the broker's clock; `None` from a work queue.
    pub fn stored_at(&self) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_millis(self.about().place?.time))
    }

    /// The number of this delivery on its consumer's stream, from 1.
    pub fn tag(&self) -> u64 {
        self.frame.header.id
    }

    /// Done: the message leaves the queue. A stream keeps it; there, settling in whatever way only makes room for more
    /// deliveries.
    pub fn ack(self) {
        self.settle(Settlement::Ack);
    }

    /// Not done: with `requeue` it goes back to its place in the queue and comes again, otherwise it is rejected.
    pub fn nack(self, requeue: bool) {
        self.settle(match requeue {
            true => Settlement::Requeue,
            false => Settlement::Reject,
        });
    }

    /// Not wanted: the message leaves the queue, to the dead-letter exchange where one is set.
    pub fn reject(self) {
        self.settle(Settlement::Reject);
    }

    fn settle(self, how: Settlement) {
        self.shared
            .settle(self.generation, self.frame.header.id, self.bytes(), how);
    }

    /// What it counts as against the credit, in bytes: the message's own metadata and body.
    pub(crate) fn bytes(&self) -> u64 {
        (self.frame.content.len() - self.message_at) as u64
    }

    fn about(&self) -> DeliveryMeta<'_> {
        match DeliveryMeta::split(self.frame.meta()) {
            Ok((about, _)) => about,
            Err(_) => unreachable!("it decoded when it came"),
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("tag", &self.tag())
            .field("about", &self.about())
            .field("meta", &self.meta())
            .field("body_len", &self.frame.header.body_len)
            .finish_non_exhaustive()
    }
}
