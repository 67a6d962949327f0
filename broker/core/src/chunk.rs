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
//!
//! A chunk may be *sparse*: records that no queue names any more are dropped, the others keep their numbers.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::ids::{DecidedBy, ExchangeId, Lane, Offset, RouterId};
use crate::references::References;

/// Stands for the start of a record that was dropped.
const DROPPED: u32 = u32::MAX;

/// Messages of one lane, numbered without a gap from `base`, of which some may have been dropped. Immutable.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it is.
    pub lane: Lane,
    /// The offset of its first record; names the chunk within its lane.
    pub base: Offset,
    /// When its first message came, in milliseconds since the Unix epoch.
    pub time: u64,
    bytes: Bytes,
    /// Where each record starts in `bytes`, or [`DROPPED`].
    starts: Vec<u32>,
    /// Number of records that were not dropped.
    kept: u32,
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
            kept: starts.len() as u32,
            starts,
        })
    }

    /// As [`Chunk::parse`], of a chunk without the records that had no references when it was written.
    ///
    /// # Errors
    /// When the bytes are not as many whole records as have references.
    pub fn parse_sparse(
        lane: Lane,
        base: Offset,
        time: u64,
        bytes: Bytes,
        references: &References,
    ) -> Result<Chunk, ChunkError> {
        let mut starts = Vec::with_capacity(references.records() as usize);
        let mut at = 0;
        for (records, references) in references.runs() {
            if references == 0 {
                starts.resize(starts.len() + records as usize, DROPPED);
                continue;
            }
            for _ in 0..records {
                starts.push(at as u32);
                let (_, end) = split_record(&bytes, at).ok_or(ChunkError { at })?;
                at = end;
            }
        }
        if at < bytes.len() {
            return Err(ChunkError { at });
        }
        Ok(Chunk {
            lane,
            base,
            time,
            bytes,
            starts,
            kept: references.live(),
        })
    }

    /// Number of records, dropped ones included.
    pub fn count(&self) -> u32 {
        self.starts.len() as u32
    }

    /// Number of records that were not dropped.
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// The bytes of the records that were not dropped, as [`Chunk::parse`] takes them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The record of that number, from 0, or `None` past the end and where it was dropped.
    pub fn get(&self, record: u32) -> Option<StoredMessage<'_>> {
        let start = *self.starts.get(record as usize)?;
        if start == DROPPED {
            return None;
        }
        split_record(&self.bytes, start as usize).map(|(message, _)| message)
    }

    /// How many records in a row from `record` on are there, at most `most`.
    pub fn there_from(&self, record: u32, most: u32) -> u32 {
        let most = self.count().saturating_sub(record).min(most);
        if self.kept == self.count() {
            return most;
        }
        let from = &self.starts[(record as usize).min(self.starts.len())..];
        let there = from
            .iter()
            .take(most as usize)
            .take_while(|start| **start != DROPPED);
        there.count() as u32
    }

    /// The records that were not dropped, as ranges that do not touch.
    pub fn kept_ranges(&self) -> Vec<Range<u32>> {
        let mut ranges = Vec::new();
        let mut record = 0;
        while record < self.count() {
            let there = self.there_from(record, u32::MAX);
            if there > 0 {
                ranges.push(record..record + there);
            }
            record += there + 1;
        }
        ranges
    }

    /// A copy of the chunk without the records that have no references.
    pub fn without_dead(&self, references: &References) -> Chunk {
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        let mut starts = Vec::with_capacity(self.starts.len());
        let mut kept = 0;
        for (records, references) in references.runs() {
            for _ in 0..records {
                let start = self.starts.get(starts.len()).copied().unwrap_or(DROPPED);
                let record = split_record(&self.bytes, start as usize);
                match record.filter(|_| references > 0 && start != DROPPED) {
                    Some((_, end)) => {
                        starts.push(bytes.len() as u32);
                        bytes.extend_from_slice(&self.bytes[start as usize..end]);
                        kept += 1;
                    }
                    None => starts.push(DROPPED),
                }
            }
        }
        Chunk {
            lane: self.lane,
            base: self.base,
            time: self.time,
            bytes: bytes.freeze(),
            starts,
            kept,
        }
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
            kept: starts.len() as u32,
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

pub(crate) fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
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

    fn chunk_of(records: u8) -> Chunk {
        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1_000);
        for n in 0..records {
            builder.push(ExchangeId(1), None, b"meta", &vec![n; usize::from(n)]);
        }
        builder.finish()
    }

    #[test]
    fn dead_records_are_dropped_and_the_others_keep_their_numbers() {
        let dense = chunk_of(6);
        let mut references = References::uniform(6, 1);
        references.release(0, 1);
        references.release(2, 2);
        let sparse = dense.without_dead(&references);
        assert_eq!((sparse.count(), sparse.kept()), (6, 3));
        assert!(sparse.bytes().len() < dense.bytes().len());
        for record in 0..7 {
            let dead = [0, 2, 3].contains(&record);
            assert_eq!(sparse.get(record), dense.get(record).filter(|_| !dead));
        }
        assert_eq!(sparse.kept_ranges(), [1..2, 4..6]);
        assert_eq!((dense.there_from(1, 9), sparse.there_from(1, 9)), (5, 1));
        assert_eq!(
            (
                sparse.there_from(4, 1),
                sparse.there_from(0, 9),
                sparse.there_from(6, 9)
            ),
            (1, 0, 0)
        );

        let parse = |bytes| Chunk::parse_sparse(Lane::Queues, Offset(7), 1_000, bytes, &references);
        assert_eq!(parse(sparse.bytes().clone()).unwrap(), sparse);
        assert!(
            parse(dense.bytes().clone()).is_err(),
            "more records than have references"
        );
        let cut = sparse.bytes().slice(..sparse.bytes().len() - 1);
        assert!(parse(cut).is_err(), "fewer records than have references");

        references.release(4, 1);
        let sparser = sparse.without_dead(&references);
        assert_eq!(sparser.kept_ranges(), [1..2, 5..6]);
        assert_eq!(sparser.get(5), dense.get(5));
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
