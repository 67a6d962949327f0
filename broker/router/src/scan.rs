//! Reads what routing needs of a message's metadata, and checks the rest, without an allocation.
//!
//! The layout is postcard's of [`MessageMeta`](pointsman_protocol::MessageMeta), which `tests` holds this against:
//! strings and bytes behind a LEB128 length, options behind a 0 or a 1, enum variants by a LEB128 number.

use pointsman_core::input::Times;
use pointsman_protocol::limits::{HEADERS_MAX, KEY_MAX};
use pointsman_protocol::message::check_times;
use pointsman_protocol::{ErrorBody, ErrorCode, Value};

/// Valid metadata, borrowed; headers are read when asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanned<'a> {
    pub(crate) routing_key: &'a str,
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    pub(crate) message_id: Option<&'a str>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) expiration: Option<u64>,
    pub(crate) delay: Option<u64>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) content_encoding: Option<&'a str>,
    pub(crate) correlation_id: Option<&'a str>,
    pub(crate) reply_to: Option<&'a str>,
    header_count: usize,
    headers: Cursor<'a>,
}

impl<'a> Scanned<'a> {
    /// When it enters its queues and leaves them.
    pub(crate) fn times(&self) -> Times {
        Times::new(self.delay, self.expiration)
    }

    /// The headers in the order they were given.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let mut cursor = self.headers;
        (0..self.header_count).map_while(move |_| Some((cursor.str()?, cursor.value()?)))
    }
}

/// Scans the metadata at the start of a message's content.
pub(crate) fn scan_content(content: &[u8], meta_len: u32) -> Result<Scanned<'_>, ErrorBody> {
    content
        .get(..meta_len as usize)
        .ok_or_else(malformed)
        .and_then(scan)
}

/// Scans metadata that must fill `bytes`.
///
/// # Errors
/// What the publisher is told when [`MessageMeta::decode`](pointsman_protocol::MessageMeta::decode) would refuse it.
pub fn scan(bytes: &[u8]) -> Result<Scanned<'_>, ErrorBody> {
    let scanned = Cursor::new(bytes).message().ok_or_else(malformed)?;
    if scanned.routing_key.len() > KEY_MAX {
        let message = format!(
            "a routing key of {} bytes is over the limit of {KEY_MAX}",
            scanned.routing_key.len()
        );
        return Err(ErrorBody::new(ErrorCode::LimitReached, message));
    }
    if scanned.header_count > HEADERS_MAX {
        let message = format!(
            "{} headers are over the limit of {HEADERS_MAX}",
            scanned.header_count
        );
        return Err(ErrorBody::new(ErrorCode::LimitReached, message));
    }
    check_times(scanned.expiration, scanned.delay)
        .map_err(|error| ErrorBody::new(ErrorCode::InvalidArgument, error.to_string()))?;
    Ok(scanned)
}

/// What the publisher of metadata that does not decode is told.
fn malformed() -> ErrorBody {
    ErrorBody::new(
        ErrorCode::MalformedFrame,
        "the message's metadata does not decode",
    )
}

/// What is left of metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cursor<'a> {
    rest: &'a [u8],
    /// All of the metadata as text, when it is: mostly lengths and types are small, and so valid UTF-8 as well. Then one
    /// look at it has checked every string.
    text: Option<&'a str>,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor {
            rest: bytes,
            text: std::str::from_utf8(bytes).ok(),
        }
    }

    fn message(mut self) -> Option<Scanned<'a>> {
        let mut scanned = Scanned {
            routing_key: self.str()?,
            persistent: self.bool()?,
            priority: self.byte()?,
            message_id: self.option(Self::str)?,
            timestamp: self.option(Self::varint)?,
            expiration: self.option(Self::varint)?,
            delay: self.option(Self::varint)?,
            content_type: self.option(Self::str)?,
            content_encoding: self.option(Self::str)?,
            correlation_id: self.option(Self::str)?,
            reply_to: self.option(Self::str)?,
            header_count: self.length()?,
            headers: self,
        };
        scanned.headers = self;
        for _ in 0..scanned.header_count {
            self.str()?;
            self.value()?;
        }
        self.rest.is_empty().then_some(scanned)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn str(&mut self) -> Option<&'a str> {
        let bytes = self.bytes()?;
        match self.text {
            Some(text) => {
                let end = text.len() - self.rest.len();
                text.get(end - bytes.len()..end)
            }
            None => std::str::from_utf8(bytes).ok(),
        }
    }

    fn bool(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn option<T>(&mut self, inner: fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.bool()? {
            false => Some(None),
            true => inner(self).map(Some),
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        match self.varint()? {
            0 => self.bool().map(Value::Bool),
            1 => self
                .varint()
                .map(|z| Value::Int((z >> 1) as i64 ^ -((z & 1) as i64))),
            2 => Some(Value::Float(f64::from_le_bytes(self.take(8)?.try_into().ok()?))),
            3 => self.str().map(Value::Str),
            4 => self.bytes().map(Value::Bytes),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_protocol::MessageMeta;

    use super::*;

    fn full() -> Vec<u8> {
        let meta = MessageMeta {
            routing_key: "orders.eu.new",
            persistent: true,
            priority: 200,
            message_id: Some("m-1"),
            timestamp: Some(u64::MAX),
            expiration: Some(60_000),
            delay: Some(5_000),
            content_type: Some("application/json"),
            content_encoding: None,
            correlation_id: Some(""),
            reply_to: Some("answers"),
            headers: vec![
                ("flag", Value::Bool(true)),
                ("count", Value::Int(i64::MIN)),
                ("ratio", Value::Float(0.25)),
                ("region", Value::Str("eu")),
                ("raw", Value::Bytes(&[0, 255])),
            ],
        };
        postcard::to_stdvec(&meta).unwrap()
    }

    /// Metadata that is valid UTF-8 as a whole, with characters of several bytes.
    fn plain() -> Vec<u8> {
        let meta = MessageMeta {
            routing_key: "größe.eu.新",
            persistent: true,
            reply_to: Some("answers"),
            headers: vec![("é", Value::Str("ü")), ("flag", Value::Bool(false))],
            ..Default::default()
        };
        let bytes = postcard::to_stdvec(&meta).unwrap();
        assert!(std::str::from_utf8(&bytes).is_ok());
        bytes
    }

    fn agree(bytes: &[u8]) {
        let decoded = MessageMeta::decode(bytes);
        let scanned = scan(bytes);
        match (&decoded, &scanned) {
            (Ok(meta), Ok(scanned)) => {
                let read = MessageMeta {
                    routing_key: scanned.routing_key,
                    persistent: scanned.persistent,
                    priority: scanned.priority,
                    message_id: scanned.message_id,
                    timestamp: scanned.timestamp,
                    expiration: scanned.expiration,
                    delay: scanned.delay,
                    content_type: scanned.content_type,
                    content_encoding: scanned.content_encoding,
                    correlation_id: scanned.correlation_id,
                    reply_to: scanned.reply_to,
                    headers: scanned.headers().collect(),
                };
                // Compared as text: a mutated float may be NaN, which is not equal to itself.
                assert_eq!(format!("{meta:?}"), format!("{read:?}"));
            }
            (Err(_), Err(_)) => {}
            _ => panic!("decode says {decoded:?}, scan says {scanned:?} for {bytes:?}"),
        }
    }

    #[test]
    fn a_scan_reads_what_decoding_reads() {
        agree(&full());
        agree(&plain());
        agree(&postcard::to_stdvec(&MessageMeta::default()).unwrap());
    }

    #[test]
    fn a_scan_refuses_exactly_what_decoding_refuses() {
        for good in [full(), plain()] {
            for len in 0..good.len() {
                agree(&good[..len]);
            }
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..100_000 {
                let mut bytes = good.clone();
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..bytes.len());
                    match random.u8(..3) {
                        0 => bytes[at] = random.u8(..),
                        1 => bytes.insert(at, random.u8(..)),
                        _ => drop(bytes.remove(at)),
                    }
                }
                agree(&bytes);
            }
        }
    }

    #[test]
    fn a_key_over_its_limit_is_refused_by_name() {
        let key = "k".repeat(KEY_MAX + 1);
        let bytes = postcard::to_stdvec(&MessageMeta {
            routing_key: &key,
            ..Default::default()
        })
        .unwrap();
        assert_eq!(scan(&bytes).unwrap_err().code, ErrorCode::LimitReached);
    }
}
