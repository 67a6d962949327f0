//! A message's metadata: routing key, properties and user headers.

use serde::{Deserialize, Serialize};

/// Metadata of a message, borrowed from the frame or chunk it is in.
///
/// The body is opaque and travels beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageMeta<'a> {
    /// The key routing looks at; up to [`crate::limits::KEY_MAX`] bytes.
    #[serde(borrow)]
    pub routing_key: &'a str,
    /// Whether a durable queue writes the message to disk before it is confirmed.
    pub persistent: bool,
    /// 0 to 255; higher goes first in a queue that was declared with priorities.
    pub priority: u8,
    /// The application's own id.
    pub message_id: Option<&'a str>,
    /// Milliseconds since the Unix epoch, set by the application.
    pub timestamp: Option<u64>,
    /// Milliseconds after which the message is no longer worth delivering: it leaves the work queues where it still waits.
    /// Counts from the publish, or from the end of `delay`. 1 to [`crate::limits::EXPIRATION_MAX_MS`]. Streams have
    /// retention instead and ignore it.
    pub expiration: Option<u64>,
    /// Milliseconds that the message waits, routed and confirmed, before it enters its queues; up to
    /// [`crate::limits::DELAY_MAX_MS`]. 0 is no delay.
    pub delay: Option<u64>,
    /// MIME type of the body.
    pub content_type: Option<&'a str>,
    /// Encoding of the body, such as `gzip`.
    pub content_encoding: Option<&'a str>,
    /// What this message answers.
    pub correlation_id: Option<&'a str>,
    /// Where an answer should go.
    pub reply_to: Option<&'a str>,
    /// User headers in the order they were given; up to [`crate::limits::HEADERS_MAX`].
    pub headers: Vec<(&'a str, Value<'a>)>,
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(borrow)]
    Bytes(&'a [u8]),
}

impl<'a> MessageMeta<'a> {
    /// The value of a header, the first of that name.
    pub fn header(&self, name: &str) -> Option<&Value<'a>> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Decodes metadata that must fill `bytes`.
    ///
    /// # Errors
    /// When the bytes are not metadata, or a routing key or the number of headers is over its limit.
    pub fn decode(bytes: &'a [u8]) -> Result<MessageMeta<'a>, MetaError> {
        let (meta, rest): (MessageMeta<'a>, _) =
            postcard::take_from_bytes(bytes).map_err(|_| MetaError::Malformed)?;
        if !rest.is_empty() {
            return Err(MetaError::Malformed);
        }
        if meta.routing_key.len() > crate::limits::KEY_MAX {
            return Err(MetaError::KeyTooLong(meta.routing_key.len()));
        }
        if meta.headers.len() > crate::limits::HEADERS_MAX {
            return Err(MetaError::TooManyHeaders(meta.headers.len()));
        }
        check_times(meta.expiration, meta.delay)?;
        Ok(meta)
    }
}

/// The routing key of encoded metadata, without decoding the rest; `None` when it does not decode.
pub fn routing_key(meta: &[u8]) -> Option<&str> {
    // It is the first field.
    postcard::take_from_bytes(meta).ok().map(|(key, _)| key)
}

/// Checks a message's expiration and delay, in milliseconds.
///
/// # Errors
/// When one is out of its range.
pub fn check_times(expiration: Option<u64>, delay: Option<u64>) -> Result<(), MetaError> {
    match (expiration, delay) {
        (Some(expiration), _) if !(1..=crate::limits::EXPIRATION_MAX_MS).contains(&expiration) => {
            Err(MetaError::Expiration(expiration))
        }
        (_, Some(delay)) if delay > crate::limits::DELAY_MAX_MS => Err(MetaError::Delay(delay)),
        _ => Ok(()),
    }
}

/// Why bytes are not a message's metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The bytes do not decode.
    #[error("the message's metadata does not decode")]
    Malformed,
    /// The routing key is over its limit.
    #[error("a routing key of {0} bytes is over the limit of {max}", max = crate::limits::KEY_MAX)]
    KeyTooLong(usize),
    /// There are more headers than the limit.
    #[error("{0} headers are over the limit of {max}", max = crate::limits::HEADERS_MAX)]
    TooManyHeaders(usize),
    /// A message with this expiration would never be delivered, or never expire.
    #[error("an expiration of {0} ms is out of range: 1 to {max}", max = crate::limits::EXPIRATION_MAX_MS)]
    Expiration(u64),
    /// The delay is over its limit.
    #[error("a delay of {0} ms is over the limit of {max}", max = crate::limits::DELAY_MAX_MS)]
    Delay(u64),
}
