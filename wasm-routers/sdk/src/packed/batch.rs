//! A batch of messages: what the host packs and how the guest looks at it.

use super::VERSION;
use super::bytes::{PackedError, Reader, decode_value, encode_header, encode_value};
use super::plan::{Field, Plan};
use crate::{Message, Value};

/// Bytes before the slots.
const HEAD: usize = 8;
/// Bytes of a slot.
const SLOT: usize = 8;

/// Host: a message as the encoder reads it. Only what the plan declares is asked for.
pub trait Fields {
    /// The routing key.
    fn routing_key(&self) -> &str;
    /// Whether it is to survive a restart.
    fn persistent(&self) -> bool;
    /// The priority.
    fn priority(&self) -> u8;
    /// The application's id.
    fn message_id(&self) -> Option<&str>;
    /// Milliseconds since the Unix epoch.
    fn timestamp(&self) -> Option<u64>;
    /// Time to live, in milliseconds.
    fn expiration(&self) -> Option<u64>;
    /// MIME type of the body.
    fn content_type(&self) -> Option<&str>;
    /// Encoding of the body.
    fn content_encoding(&self) -> Option<&str>;
    /// What it answers.
    fn correlation_id(&self) -> Option<&str>;
    /// Where an answer should go.
    fn reply_to(&self) -> Option<&str>;
    /// The first header of that name.
    fn header(&self, name: &str) -> Option<Value<'_>>;
    /// All headers in order.
    fn headers(&self) -> impl Iterator<Item = (&str, Value<'_>)>;
    /// The whole body.
    fn body(&self) -> &[u8];
}

/// Host: packs batches into a buffer that is used again.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    bytes: Vec<u8>,
}

impl BatchEncoder {
    /// Packs the leading messages that fit into `max_bytes` (at most 4 GiB) and says how many they are: all of them
    /// or, when the bodies are large, fewer.
    ///
    /// # Errors
    /// [`PackedError::OverLimit`] when already the first does not fit.
    pub fn encode<F: Fields>(
        &mut self,
        plan: &Plan,
        messages: &[F],
        max_bytes: usize,
    ) -> Result<(&[u8], usize), PackedError> {
        let max_bytes = max_bytes.min(u32::MAX as usize);
        let mut count = messages.len();
        while let Err((fitting, needed)) = self.try_encode(plan, &messages[..count], max_bytes) {
            if fitting == 0 {
                return Err(PackedError::OverLimit {
                    part: "packed message",
                    got: needed as u64,
                    limit: max_bytes as u64,
                });
            }
            count = fitting;
        }
        Ok((&self.bytes, count))
    }

    /// Packs all messages, or tells how many fit and how long the bytes would have become with the next.
    fn try_encode<F: Fields>(
        &mut self,
        plan: &Plan,
        messages: &[F],
        max_bytes: usize,
    ) -> Result<(), (usize, usize)> {
        let slots = plan.slots();
        let table = HEAD + messages.len() * slots * SLOT;
        self.bytes.clear();
        self.bytes.extend([VERSION, 0]);
        self.bytes.extend((slots as u16).to_le_bytes());
        self.bytes.extend((messages.len() as u32).to_le_bytes());
        self.bytes.resize(table, 0);
        let mut writer = SlotWriter {
            bytes: &mut self.bytes,
            slot: HEAD,
        };
        for (place, message) in messages.iter().enumerate() {
            let body = message.body().len().min(plan.body_limit() as usize);
            let needed = writer.bytes.len() + body;
            if needed > max_bytes {
                return Err((place, needed));
            }
            writer.message(plan, message, body);
            if writer.bytes.len() > max_bytes {
                return Err((place, writer.bytes.len()));
            }
        }
        Ok(())
    }
}

/// Appends content and notes it in the next slot.
struct SlotWriter<'a> {
    bytes: &'a mut Vec<u8>,
    slot: usize,
}

impl SlotWriter<'_> {
    fn message<F: Fields>(&mut self, plan: &Plan, message: &F, body: usize) {
        for field in plan.declared_fields() {
            match field {
                Field::RoutingKey => self.put(message.routing_key().as_bytes()),
                Field::Persistent => self.put(&[message.persistent().into()]),
                Field::Priority => self.put(&[message.priority()]),
                Field::MessageId => self.text(message.message_id()),
                Field::Timestamp => self.number(message.timestamp()),
                Field::Expiration => self.number(message.expiration()),
                Field::ContentType => self.text(message.content_type()),
                Field::ContentEncoding => self.text(message.content_encoding()),
                Field::CorrelationId => self.text(message.correlation_id()),
                Field::ReplyTo => self.text(message.reply_to()),
                Field::AllHeaders => self.all_headers(message),
            }
        }
        for name in plan.headers() {
            match message.header(name) {
                Some(value) => self.fill(|out| encode_value(out, value)),
                None => self.skip(),
            }
        }
        if plan.body_limit() > 0 {
            let whole = message.body();
            self.fill(|out| {
                out.extend((whole.len() as u32).to_le_bytes());
                out.extend_from_slice(&whole[..body]);
            });
        }
    }

    fn all_headers<F: Fields>(&mut self, message: &F) {
        self.fill(|out| {
            let count_at = out.len();
            out.extend([0; 2]);
            let mut count = 0_u16;
            for (name, value) in message.headers().take(u16::MAX.into()) {
                encode_header(out, name, value);
                count += 1;
            }
            out[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
        });
    }

    fn text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.put(text.as_bytes()),
            None => self.skip(),
        }
    }

    fn number(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.put(&number.to_le_bytes()),
            None => self.skip(),
        }
    }

    fn put(&mut self, content: &[u8]) {
        self.fill(|out| out.extend_from_slice(content));
    }

    fn fill(&mut self, content: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        content(self.bytes);
        let len = self.bytes.len() - start;
        let slot = &mut self.bytes[self.slot..self.slot + SLOT];
        slot[..4].copy_from_slice(&(start as u32).to_le_bytes());
        slot[4..].copy_from_slice(&(len as u32).to_le_bytes());
        self.slot += SLOT;
    }

    fn skip(&mut self) {
        self.slot += SLOT;
    }
}

/// Guest: a packed batch and the plan it was packed by.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    plan: &'a Plan,
    count: usize,
}

impl<'a> Batch<'a> {
    /// Looks at a packed batch.
    ///
    /// # Errors
    /// When its table is cut off or does not have the slots that the plan declares.
    pub fn open(bytes: &'a [u8], plan: &'a Plan) -> Result<Batch<'a>, PackedError> {
        let mut reader = Reader::versioned(bytes, "batch")?;
        reader.u8("batch")?;
        let slots = reader.u16("batch")?;
        if usize::from(slots) != plan.slots() {
            return Err(PackedError::Unknown("number of slots", slots.into()));
        }
        let count = reader.u32("batch")? as usize;
        let table = count
            .checked_mul(plan.slots() * SLOT)
            .ok_or(PackedError::Truncated("slots"))?;
        reader.take(table, "slots")?;
        Ok(Batch { bytes, plan, count })
    }

    /// How many messages it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The messages in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Message<'a>> + use<'a> {
        let batch = *self;
        (0..self.count).map(move |place| Message::new(batch, HEAD + place * batch.plan.slots() * SLOT))
    }

    /// The plan it was packed by.
    pub(crate) fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// What the slot at this place of the message's slots points to.
    ///
    /// `None` when the message does not have it. The broker wrote the table, so an offset outside of the batch is a
    /// fault of the broker; it reads as absent.
    pub(crate) fn slot(&self, slots_at: usize, slot: usize) -> Option<&'a [u8]> {
        let entry = self.bytes.get(slots_at + slot * SLOT..)?.first_chunk::<SLOT>()?;
        let [a, b, c, d, e, f, g, h] = *entry;
        let start = u32::from_le_bytes([a, b, c, d]) as usize;
        let len = u32::from_le_bytes([e, f, g, h]) as usize;
        if start == 0 {
            return None;
        }
        self.bytes.get(start..start.checked_add(len)?)
    }
}

/// The value in a header's slot.
pub(crate) fn decode_slot_value(content: &[u8]) -> Option<Value<'_>> {
    decode_value(content).ok()
}

/// The headers in the slot of all headers.
pub(crate) fn decode_slot_headers<'a>(
    content: &'a [u8],
) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
    let mut reader = Reader::of(content);
    let count = reader.u16("number of headers").unwrap_or(0);
    (0..count).map_while(move |_| reader.header().ok())
}
