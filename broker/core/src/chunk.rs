//! Chunks: messages as they lie in the log, in memory and on disk alike.
//!
//! A chunk is a run of *records* in one lane, numbered from its base offset. A record:
//!
//! ```text
//! varint  metadata length
//! varint  body length
//! varint  exchange id
//! varint  router id + 1, or 0 when no module decided
//! varint  router version, only when a module decided
//! bytes   metadata (postcard MessageMeta, as the publisher sent it or a router changed it)
//! bytes   body
//! ```
//!
//! Varints are LEB128, as postcard's.

use bytes::{Bytes, BytesMut};

use crate::ids::{DecidedBy, ExchangeId, Lane, Offset, RouterId};

/// Messages of one lane, numbered without a gap from `base`. Immutable.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it is.
    pub lane: Lane,
    /// The offset of its first record; names the chunk within its lane.
    pub base: Offset,
    /// When its first message came, in milliseconds since the Unix epoch.
    pub time: u64,
    bytes: Bytes,
    starts: Vec<u32>,
}

/// A record of a chunk, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// The exchange it was published to.
    pub exchange: ExchangeId,
    /// The router version that decided, if one did.
    pub decided_by: Option<DecidedBy>,
    /// Postcard bytes of its metadata.
    pub meta: &'a [u8],
    /// Its body.
    pub body: &'a [u8],
}

/// The bytes are not a run of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records of a chunk do not decode at byte {at}")]
pub struct ChunkError {
    /// Where decoding stopped.
    pub at: usize,
}

impl Chunk {
    /// Finds the records in `bytes`.
    ///
    /// # Errors
    /// When the bytes are not a run of whole records.
    pub fn parse(lane: Lane, base: Offset, time: u64, bytes: Bytes) -> Result<Chunk, ChunkError> {
        let mut starts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            starts.push(at as u32);
            let (_, end) = split_record(&bytes, at).ok_or(ChunkError { at })?;
            at = end;
        }
        Ok(Chunk {
            lane,
            base,
            time,
            bytes,
            starts,
        })
    }

    /// Number of records.
    pub fn count(&self) -> u32 {
        self.starts.len() as u32
    }

    /// The records' bytes, as [`Chunk::parse`] takes them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The record of that number, from 0, or `None` past the end.
    pub fn get(&self, record: u32) -> Option<StoredMessage<'_>> {
        let start = *self.starts.get(record as usize)? as usize;
        split_record(&self.bytes, start).map(|(message, _)| message)
    }
}

/// Collects the messages of a commit into chunks.
#[derive(Debug)]
pub struct ChunkBuilder {
    lane: Lane,
    base: Offset,
    time: u64,
    bytes: BytesMut,
    starts: Vec<u32>,
}

impl ChunkBuilder {
    /// An empty chunk at `base`.
    pub fn new(lane: Lane, base: Offset, time: u64) -> ChunkBuilder {
        ChunkBuilder {
            lane,
            base,
            time,
            bytes: BytesMut::new(),
            starts: Vec::new(),
        }
    }

    /// Whether a message of `len` bytes (metadata and body) still belongs in this chunk.
    pub fn takes(&self, len: usize) -> bool {
        self.starts.is_empty()
            || (self.bytes.len() + len <= crate::limits::CHUNK_TARGET
                && self.starts.len() < crate::limits::CHUNK_MESSAGES_MAX as usize)
    }

    /// Appends a message and returns its record number.
    pub fn push(
        &mut self,
        exchange: ExchangeId,
        decided_by: Option<DecidedBy>,
        meta: &[u8],
        body: &[u8],
    ) -> u32 {
        let record = self.starts.len() as u32;
        self.starts.push(self.bytes.len() as u32);
        let mut head = Head::default();
        head.put(meta.len() as u32);
        head.put(body.len() as u32);
        head.put(exchange.0);
        match decided_by {
            None => head.put(0),
            Some(d) => {
                head.put(d.router.0 + 1);
                head.put(d.version);
            }
        }
        self.bytes.reserve(head.len + meta.len() + body.len());
        self.bytes.extend_from_slice(&head.bytes[..head.len]);
        self.bytes.extend_from_slice(meta);
        self.bytes.extend_from_slice(body);
        record
    }

    /// Bytes collected so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The finished chunk.
    pub fn finish(self) -> Chunk {
        let ChunkBuilder {
            lane,
            base,
            time,
            bytes,
            starts,
        } = self;
        Chunk {
            lane,
            base,
            time,
            bytes: bytes.freeze(),
            starts,
        }
    }
}

/// The varints before a record's metadata, collected so that they are appended as one.
#[derive(Default)]
struct Head {
    bytes: [u8; 25],
    len: usize,
}

impl Head {
    /// Appends one of at most five varints, each of at most five bytes.
    fn put(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(value).ok();
        }
    }
    None
}

fn split_record(bytes: &[u8], start: usize) -> Option<(StoredMessage<'_>, usize)> {
    let mut at = start;
    let meta_len = take_varint(bytes, &mut at)? as usize;
    let body_len = take_varint(bytes, &mut at)? as usize;
    let exchange = ExchangeId(take_varint(bytes, &mut at)?);
    let decided_by = match take_varint(bytes, &mut at)? {
        0 => None,
        n => Some(DecidedBy {
            router: RouterId(n - 1),
            version: take_varint(bytes, &mut at)?,
        }),
    };
    let meta = bytes.get(at..at.checked_add(meta_len)?)?;
    at += meta_len;
    let body = bytes.get(at..at.checked_add(body_len)?)?;
    at += body_len;
    Some((
        StoredMessage {
            exchange,
            decided_by,
            meta,
            body,
        },
        at,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_back_and_parses_from_its_bytes() {
        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1_000);
        let by = Some(DecidedBy {
            router: RouterId(0),
            version: 300,
        });
        assert_eq!(builder.push(ExchangeId(5), None, b"meta", b"body"), 0);
        assert_eq!(builder.push(ExchangeId(500), by, b"", &[9; 200]), 1);
        let chunk = builder.finish();
        assert_eq!(chunk.count(), 2);
        let second = chunk.get(1).unwrap();
        assert_eq!(
            (second.exchange, second.decided_by, second.body),
            (ExchangeId(500), by, &[9u8; 200][..])
        );
        assert_eq!(chunk.get(2), None);
        let parsed = Chunk::parse(Lane::Queues, Offset(7), 1_000, chunk.bytes().clone()).unwrap();
        assert_eq!(parsed, chunk);
    }

    #[test]
    fn a_cut_chunk_does_not_parse() {
        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(0), 0);
        builder.push(ExchangeId(1), None, b"meta", b"body");
        let bytes = builder.finish().bytes().clone();
        for len in 1..bytes.len() {
            assert!(
                Chunk::parse(Lane::Queues, Offset(0), 0, bytes.slice(..len)).is_err(),
                "cut to {len}"
            );
        }
    }
}
