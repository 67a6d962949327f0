//! Messages as a program makes them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pointsman_protocol::{MessageMeta, Value, limits};

use crate::Error;

/// A message to publish: a body, a routing key, properties and headers. Persistent unless told otherwise.
///
/// Text is `Cow<'static, str>`: a literal costs nothing and a `String` is moved, never copied. So is the body.
///
/// ```
/// use pointsman_sdk::Message;
/// let order = 4711;
/// let message = Message::new(r#"{"total": 12}"#)
///     .key(format!("order.{order}"))
///     .content_type("application/json")
///     .header("region", "eu")
///     .header("attempt", 1);
/// assert_eq!(message.routing_key(), "order.4711");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    body: Bytes,
    key: Cow<'static, str>,
    persistent: bool,
    priority: u8,
    message_id: Option<Cow<'static, str>>,
    timestamp: Option<u64>,
    expiration: Option<u64>,
    delay: Option<u64>,
    content_type: Option<Cow<'static, str>>,
    content_encoding: Option<Cow<'static, str>>,
    correlation_id: Option<Cow<'static, str>>,
    reply_to: Option<Cow<'static, str>>,
    headers: Vec<(Cow<'static, str>, HeaderValue)>,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValue {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
    /// Text.
    Str(Cow<'static, str>),
    /// Bytes.
    Bytes(Bytes),
}

impl Message {
    /// A persistent message with an empty routing key.
    pub fn new(body: impl Into<Bytes>) -> Message {
        Message {
            body: body.into(),
            key: Cow::Borrowed(""),
            persistent: true,
            priority: 0,
            message_id: None,
            timestamp: None,
            expiration: None,
            delay: None,
            content_type: None,
            content_encoding: None,
            correlation_id: None,
            reply_to: None,
            headers: Vec::new(),
        }
    }

    /// The key routing looks at; up to [`limits::KEY_MAX`] bytes.
    pub fn key(mut self, key: impl Into<Cow<'static, str>>) -> Message {
        self.key = key.into();
        self
    }

    /// Whether a durable queue writes the message to disk before it is confirmed.
    pub fn persistent(mut self, persistent: bool) -> Message {
        self.persistent = persistent;
        self
    }

    /// 0 to 255; higher goes first in a queue that was declared with priorities.
    pub fn priority(mut self, priority: u8) -> Message {
        self.priority = priority;
        self
    }

    /// The application's own id.
    pub fn message_id(mut self, id: impl Into<Cow<'static, str>>) -> Message {
        self.message_id = Some(id.into());
        self
    }

    /// When it was made, to the millisecond; a time before 1970 counts as 1970.
    pub fn timestamp(mut self, at: SystemTime) -> Message {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.timestamp = Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// How long the message is worth delivering, to the millisecond and at least one: after that it leaves the work
    /// queues where it still waits. Counts from the publish, or from the end of its [`Message::delay`]. Streams ignore
    /// it. Up to [`limits::EXPIRATION_MAX_MS`].
    pub fn expiration(mut self, after: Duration) -> Message {
        self.expiration = Some(millis(after).max(1));
        self
    }

    /// How long the message waits before it enters its queues, to the millisecond. It is routed and confirmed at once.
    /// Up to [`limits::DELAY_MAX_MS`].
    pub fn delay(mut self, by: Duration) -> Message {
        self.delay = Some(millis(by));
        self
    }

    /// MIME type of the body.
    pub fn content_type(mut self, value: impl Into<Cow<'static, str>>) -> Message {
        self.content_type = Some(value.into());
        self
    }

    /// Encoding of the body, such as `gzip`.
    pub fn content_encoding(mut self, value: impl Into<Cow<'static, str>>) -> Message {
        self.content_encoding = Some(value.into());
        self
    }

    /// What this message answers.
    pub fn correlation_id(mut self, id: impl Into<Cow<'static, str>>) -> Message {
        self.correlation_id = Some(id.into());
        self
    }

    /// Where an answer should go.
    pub fn reply_to(mut self, queue: impl Into<Cow<'static, str>>) -> Message {
        self.reply_to = Some(queue.into());
        self
    }

    /// Adds a user header; up to [`limits::HEADERS_MAX`].
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) -> Message {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The routing key.
    pub fn routing_key(&self) -> &str {
        &self.key
    }

    /// The metadata as it travels.
    pub fn meta(&self) -> MessageMeta<'_> {
        MessageMeta {
            routing_key: &self.key,
            persistent: self.persistent,
            priority: self.priority,
            message_id: self.message_id.as_deref(),
            timestamp: self.timestamp,
            expiration: self.expiration,
            delay: self.delay,
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            correlation_id: self.correlation_id.as_deref(),
            reply_to: self.reply_to.as_deref(),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (&**name, value.as_value()))
                .collect(),
        }
    }

    /// The most bytes the metadata may take on the wire, found without encoding it.
    fn meta_bound(&self) -> usize {
        // 10 bytes hold any varint: a length, a number, or both a tag and a bool.
        let text = |text: &Option<Cow<'static, str>>| 10 + text.as_ref().map_or(0, |t| t.len());
        let headers = self.headers.iter().map(|(name, value)| {
            let value = match value {
                HeaderValue::Str(text) => text.len(),
                HeaderValue::Bytes(bytes) => bytes.len(),
                HeaderValue::Bool(_) | HeaderValue::Int(_) | HeaderValue::Float(_) => 0,
            };
            24 + name.len() + value
        });
        60 + self.key.len()
            + text(&self.message_id)
            + text(&self.content_type)
            + text(&self.content_encoding)
            + text(&self.correlation_id)
            + text(&self.reply_to)
            + headers.sum::<usize>()
    }

    /// Checks the limits and returns the bytes the message may take on the wire, at most.
    pub(crate) fn check(&self, body_max: u32) -> Result<usize, Error> {
        let within = |what, len, max| match len > max {
            true => Err(Error::TooLarge { what, len, max }),
            false => Ok(()),
        };
        let meta = self.meta_bound();
        within("a body in bytes", self.body.len(), body_max as usize)?;
        within("a routing key in bytes", self.key.len(), limits::KEY_MAX)?;
        within("a number of headers", self.headers.len(), limits::HEADERS_MAX)?;
        within("metadata in bytes", meta, limits::FRAME_META_MAX as usize)?;
        let time = |time: Option<u64>| usize::try_from(time.unwrap_or(0)).unwrap_or(usize::MAX);
        let (expiration, delay) = (time(self.expiration), time(self.delay));
        within(
            "an expiration in milliseconds",
            expiration,
            limits::EXPIRATION_MAX_MS as usize,
        )?;
        within("a delay in milliseconds", delay, limits::DELAY_MAX_MS as usize)?;
        Ok(meta + self.body.len())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl HeaderValue {
    fn as_value(&self) -> Value<'_> {
        match self {
            HeaderValue::Bool(value) => Value::Bool(*value),
            HeaderValue::Int(value) => Value::Int(*value),
            HeaderValue::Float(value) => Value::Float(*value),
            HeaderValue::Str(value) => Value::Str(value),
            HeaderValue::Bytes(value) => Value::Bytes(value),
        }
    }
}

macro_rules! header_value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for HeaderValue {
            fn from(value: $from) -> HeaderValue { HeaderValue::$variant(value.into()) }
        })*
    };
}

header_value_from! {
    bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float,
    &'static str => Str, String => Str, Cow<'static, str> => Str,
    Bytes => Bytes, Vec<u8> => Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pointsman_protocol::frame;

    fn full() -> Message {
        Message::new("body")
            .key("k")
            .priority(9)
            .message_id("m")
            .timestamp(UNIX_EPOCH + Duration::from_millis(u64::MAX / 2))
            .expiration(Duration::from_millis(limits::EXPIRATION_MAX_MS))
            .delay(Duration::from_millis(limits::DELAY_MAX_MS))
            .content_type("t")
            .content_encoding("e")
            .correlation_id("c")
            .reply_to("r")
            .header("bool", true)
            .header("int", i64::MIN)
            .header("float", 1.5)
            .header("str", "s")
            .header("bytes", vec![1u8, 2])
    }

    #[test]
    fn metadata_travels_unchanged_and_within_its_bound() {
        for message in [Message::new(""), full()] {
            let mut out = BytesMut::new();
            frame::put_postcard(&mut out, &message.meta());
            assert_eq!(MessageMeta::decode(&out).unwrap(), message.meta());
            assert!(out.len() <= message.meta_bound());
        }
    }

    #[test]
    fn what_is_over_a_limit_is_named() {
        let too_large = |message: Message| match message.check(1024).unwrap_err() {
            Error::TooLarge { what, .. } => what,
            other => panic!("{other}"),
        };
        assert_eq!(too_large(Message::new(vec![0; 1025])), "a body in bytes");
        assert_eq!(
            too_large(Message::new("").key("k".repeat(256))),
            "a routing key in bytes"
        );
        let many = (0..257).fold(Message::new(""), |m, _| m.header("h", 1));
        assert_eq!(too_large(many), "a number of headers");
        assert_eq!(
            too_large(Message::new("").header("h", vec![0; 300_000])),
            "metadata in bytes"
        );
        assert_eq!(
            too_large(Message::new("").expiration(Duration::MAX)),
            "an expiration in milliseconds"
        );
        assert_eq!(
            too_large(Message::new("").delay(Duration::MAX)),
            "a delay in milliseconds"
        );
        assert!(full().check(4).is_ok());
    }
}
