//! The view of a message that a router gets.

use crate::packed::{Batch, Field};

/// A header's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
    /// Text.
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The text, when it is text.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $kind:ident),*) => {
        $(impl<'a> From<$from> for Value<'a> {
            fn from(value: $from) -> Value<'a> {
                Value::$kind(value.into())
            }
        })*
    };
}

value_from!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, &'a str => Str, &'a [u8] => Bytes);

/// A message, as far as the plan declares it.
///
/// # Panics
/// Asking for what the plan does not declare is a mistake of the router, so it panics with the name of the missing
/// declaration: a test shows it at once. In the broker a panic is a trap, and the message goes to quarantine.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    batch: Batch<'a>,
    slots_at: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn new(batch: Batch<'a>, slots_at: usize) -> Message<'a> {
        Message { batch, slots_at }
    }

    /// The routing key.
    pub fn routing_key(&self) -> &'a str {
        self.text(Field::RoutingKey).unwrap_or_default()
    }

    /// Whether the message is to survive a restart of the broker.
    pub fn persistent(&self) -> bool {
        self.field(Field::Persistent) == Some(&[1])
    }

    /// The priority, 0 to 255.
    pub fn priority(&self) -> u8 {
        self.field(Field::Priority)
            .and_then(|bytes| bytes.first().copied())
            .unwrap_or_default()
    }

    /// The application's own id.
    pub fn message_id(&self) -> Option<&'a str> {
        self.text(Field::MessageId)
    }

    /// Milliseconds since the Unix epoch, set by the application.
    pub fn timestamp(&self) -> Option<u64> {
        self.number(Field::Timestamp)
    }

    /// Milliseconds after which the message is no longer worth delivering.
    pub fn expiration(&self) -> Option<u64> {
        self.number(Field::Expiration)
    }

    /// MIME type of the body.
    pub fn content_type(&self) -> Option<&'a str> {
        self.text(Field::ContentType)
    }

    /// Encoding of the body, such as `gzip`.
    pub fn content_encoding(&self) -> Option<&'a str> {
        self.text(Field::ContentEncoding)
    }

    /// What this message answers.
    pub fn correlation_id(&self) -> Option<&'a str> {
        self.text(Field::CorrelationId)
    }

    /// Where an answer should go.
    pub fn reply_to(&self) -> Option<&'a str> {
        self.text(Field::ReplyTo)
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<Value<'a>> {
        let plan = self.batch.plan();
        if let Some(slot) = plan.slot_of_header(name) {
            return self
                .batch
                .slot(self.slots_at, slot)
                .and_then(crate::packed::decode_slot_value);
        }
        if plan.has(Field::AllHeaders) {
            return self
                .headers()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value);
        }
        undeclared(&format!("the header `{name}`"))
    }

    /// All headers with their names, for a plan with [`crate::Plan::all_headers`].
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        crate::packed::decode_slot_headers(self.field(Field::AllHeaders).unwrap_or_default())
    }

    /// The beginning of the body, as far as the plan declares it.
    pub fn body(&self) -> &'a [u8] {
        self.body_slot().1
    }

    /// The body, unless it is longer than the plan declares.
    pub fn whole_body(&self) -> Option<&'a [u8]> {
        let (len, body) = self.body_slot();
        (len == body.len()).then_some(body)
    }

    /// Length of the whole body, in bytes.
    pub fn body_len(&self) -> usize {
        self.body_slot().0
    }

    fn body_slot(&self) -> (usize, &'a [u8]) {
        let Some(slot) = self.batch.plan().slot_of_body() else {
            undeclared("the body");
        };
        let content = self.batch.slot(self.slots_at, slot).unwrap_or_default();
        match content.split_first_chunk() {
            Some((len, body)) => (u32::from_le_bytes(*len) as usize, body),
            None => (0, &[]),
        }
    }

    fn field(&self, field: Field) -> Option<&'a [u8]> {
        let Some(slot) = self.batch.plan().slot_of(field) else {
            undeclared(&format!("{field:?}"));
        };
        self.batch.slot(self.slots_at, slot)
    }

    fn text(&self, field: Field) -> Option<&'a str> {
        std::str::from_utf8(self.field(field)?).ok()
    }

    fn number(&self, field: Field) -> Option<u64> {
        let (number, _) = self.field(field)?.split_first_chunk()?;
        Some(u64::from_le_bytes(*number))
    }
}

#[cold]
fn undeclared(what: &str) -> ! {
    panic!("the router asks for {what}, which its plan does not declare");
}
