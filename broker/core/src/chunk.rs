//! Chunks: messages as they lie in the log, in memory and on disk alike.
//!
//! A chunk is a run of *records* (`head.rs` has their format) in one lane, numbered from its base offset.
//!
//! A chunk may be *sparse*: records that no queue names any more are dropped, the others keep their numbers.
//!
//! A message of [`LARGE_MESSAGE`](crate::limits::LARGE_MESSAGE) bytes or more is alone in its chunk, and its body is never copied: it stays in the pieces
//! in which it was received or read.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::head::{Head, HeadBuffer};
use crate::ids::{DecidedBy, ExchangeId, Lane, Offset};
use crate::limits::{CHUNK_MESSAGES_MAX, CHUNK_TARGET};
use crate::references::References;

/// Stands for the start of a record that was dropped.
const DROPPED: u32 = u32::MAX;

/// Messages of one lane, numbered without a gap from `base`, of which some may have been dropped. Immutable.
#[derive(Debug)]
pub struct Chunk {
    /// Where it is.
    pub lane: Lane,
    /// The offset of its first record; names the chunk within its lane.
    pub base: Offset,
    /// When its first message came, in milliseconds since the Unix epoch.
    pub time: u64,
    bytes: Bytes,
    /// What follows `bytes` in the body of the only record, when it is a large one.
    more: Vec<Bytes>,
    /// Where each record starts in `bytes`, or [`DROPPED`].
    starts: Vec<u32>,
    /// Number of records that were not dropped.
    kept: u32,
    /// See [`Chunk::references`].
    references: Option<u64>,
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
    /// Its body, or of a large one the beginning.
    pub body: &'a [u8],
    /// The other pieces of a large body.
    pub more: &'a [Bytes],
}

impl StoredMessage<'_> {
    /// Length of its body, in bytes.
    pub fn body_len(&self) -> usize {
        self.body.len() + total(self.more)
    }
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
            at = Head::read(&bytes, at)
                .and_then(|head| head.end_within(bytes.len()))
                .ok_or(ChunkError { at })?;
        }
        Ok(Chunk {
            lane,
            base,
            time,
            bytes,
            more: Vec::new(),
            kept: starts.len() as u32,
            starts,
            references: None,
        })
    }

    /// As [`Chunk::parse`], of a chunk without the records that had no references when it was written. Of a large
    /// message's chunk `more` may have what follows `bytes`, if that holds all but the body.
    ///
    /// # Errors
    /// When the bytes are not as many whole records as have references.
    pub fn parse_sparse(
        lane: Lane,
        base: Offset,
        time: u64,
        bytes: Bytes,
        more: Vec<Bytes>,
        references: &References,
    ) -> Result<Chunk, ChunkError> {
        let mut starts = Vec::with_capacity(references.records() as usize);
        let len = bytes.len() + total(&more);
        let mut at = 0;
        for (records, references) in references.runs() {
            if references == 0 {
                starts.resize(starts.len() + records as usize, DROPPED);
                continue;
            }
            for _ in 0..records {
                starts.push(at as u32);
                let head = Head::read(&bytes, at).ok_or(ChunkError { at })?;
                let end = head.end_within(len).ok_or(ChunkError { at })?;
                if head.body_at > bytes.len() || (end > bytes.len() && end < len) {
                    return Err(ChunkError { at });
                }
                at = end;
            }
        }
        if at < len {
            return Err(ChunkError { at });
        }
        Ok(Chunk {
            lane,
            base,
            time,
            bytes,
            more,
            starts,
            kept: references.live(),
            references: Some(references.total()),
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

    /// How many places in queues named its records when it was written, which may be more than still do. Only a chunk that was
    /// read back says so.
    pub fn references(&self) -> Option<u64> {
        self.references
    }

    /// Length of the records that were not dropped, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() + total(&self.more)
    }

    /// Whether all records were dropped.
    pub fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// The bytes of the records that were not dropped: one behind the other they are what [`Chunk::parse`] takes.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.bytes).chain(&self.more)
    }

    /// The bytes of [`Chunk::pieces`], copied only if they are several.
    pub fn bytes(&self) -> Bytes {
        self.slice(0..self.len())
    }

    /// A part of the bytes of [`Chunk::pieces`], copied only if it is of several. Shorter where there is no more.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        let mut parts = SmallVec::<[Bytes; 2]>::new();
        let mut at = 0;
        for piece in self.pieces() {
            let (from, to) = (range.start.max(at), range.end.min(at + piece.len()));
            if from < to {
                parts.push(piece.slice(from - at..to - at));
            }
            at += piece.len();
        }
        match parts.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            several => several.concat().into(),
        }
    }

    /// A message's [`StoredMessage::body`], without a copy.
    ///
    /// # Panics
    /// When it is not of this chunk.
    pub fn share(&self, body: &[u8]) -> Bytes {
        self.bytes.slice_ref(body)
    }

    /// The record of that number, from 0, or `None` past the end and where it was dropped.
    pub fn get(&self, record: u32) -> Option<StoredMessage<'_>> {
        let start = *self.starts.get(record as usize)?;
        if start == DROPPED {
            return None;
        }
        let head = Head::read(&self.bytes, start as usize)?;
        let end = head.end_within(self.len())?;
        Some(StoredMessage {
            exchange: head.exchange,
            decided_by: head.decided_by,
            meta: self.bytes.get(head.meta_at..head.body_at)?,
            body: self.bytes.get(head.body_at..end.min(self.bytes.len()))?,
            more: &self.more,
        })
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

    /// The chunk without the records that have no references. What is left is copied, but not a large message.
    pub fn without_dead(&self, references: &References) -> Chunk {
        let alone = !self.more.is_empty() && references.live() > 0;
        let mut left = Chunk {
            lane: self.lane,
            base: self.base,
            time: self.time,
            bytes: self.bytes.clone(),
            more: if alone { self.more.clone() } else { Vec::new() },
            starts: Vec::with_capacity(self.starts.len()),
            kept: 0,
            references: None,
        };
        let mut bytes = Vec::with_capacity(if alone { 0 } else { self.bytes.len() });
        for (records, references) in references.runs() {
            for _ in 0..records {
                let start = self.starts.get(left.starts.len()).copied().unwrap_or(DROPPED);
                if references == 0 || start == DROPPED {
                    left.starts.push(DROPPED);
                    continue;
                }
                left.kept += 1;
                left.starts.push(bytes.len() as u32);
                let head = Head::read(&self.bytes, start as usize);
                if let Some(end) = head.and_then(|head| head.end_within(self.bytes.len())) {
                    bytes.extend_from_slice(&self.bytes[start as usize..end]);
                }
            }
        }
        if !alone {
            left.bytes = fitted(bytes);
        }
        left
    }
}

/// In however many pieces they are.
impl PartialEq for Chunk {
    fn eq(&self, other: &Chunk) -> bool {
        let place = |chunk: &Chunk| (chunk.lane, chunk.base, chunk.time, chunk.kept);
        place(self) == place(other) && self.starts == other.starts && self.bytes() == other.bytes()
    }
}

impl Eq for Chunk {}

/// Collects the messages of a commit into chunks.
#[derive(Debug)]
pub struct ChunkBuilder {
    lane: Lane,
    base: Offset,
    time: u64,
    bytes: Vec<u8>,
    /// The body of a large message.
    large: Option<Bytes>,
    starts: Vec<u32>,
}

impl ChunkBuilder {
    /// An empty chunk at `base`.
    pub fn new(lane: Lane, base: Offset, time: u64) -> ChunkBuilder {
        ChunkBuilder::with_room(lane, base, time, (0, 0))
    }

    /// As [`ChunkBuilder::new`], with memory for so many bytes and messages at once, so that nothing is moved while it grows.
    pub fn with_room(lane: Lane, base: Offset, time: u64, (bytes, messages): (usize, usize)) -> ChunkBuilder {
        ChunkBuilder {
            lane,
            base,
            time,
            bytes: Vec::with_capacity(bytes),
            large: None,
            starts: Vec::with_capacity(messages),
        }
    }

    /// Whether a message of `len` bytes (metadata and body) still belongs in this chunk.
    pub fn takes(&self, len: usize) -> bool {
        self.starts.is_empty()
            || (self.len() + len <= CHUNK_TARGET && self.starts.len() < CHUNK_MESSAGES_MAX as usize)
    }

    /// Appends a copy of a message and returns its record number.
    pub fn push(
        &mut self,
        exchange: ExchangeId,
        decided_by: Option<DecidedBy>,
        meta: &[u8],
        body: &[u8],
    ) -> u32 {
        let head = HeadBuffer::of(meta.len(), body.len(), exchange, decided_by);
        self.bytes.reserve(head.bytes().len() + meta.len() + body.len());
        let record = self.begin(&head);
        self.bytes.extend_from_slice(meta);
        self.bytes.extend_from_slice(body);
        record
    }

    /// As [`ChunkBuilder::push`], of a large message, whose body is not copied. It must be the only one.
    pub fn push_large(
        &mut self,
        exchange: ExchangeId,
        decided_by: Option<DecidedBy>,
        meta: &[u8],
        body: Bytes,
    ) -> u32 {
        debug_assert!(self.is_empty(), "a large message is alone in its chunk");
        let head = HeadBuffer::of(meta.len(), body.len(), exchange, decided_by);
        let record = self.begin(&head);
        self.bytes.extend_from_slice(meta);
        self.large = Some(body);
        record
    }

    fn begin(&mut self, head: &HeadBuffer) -> u32 {
        let record = self.starts.len() as u32;
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(head.bytes());
        record
    }

    /// Bytes collected so far.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.large.as_ref().map_or(0, Bytes::len)
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
            large,
            starts,
        } = self;
        Chunk {
            lane,
            base,
            time,
            bytes: fitted(bytes),
            more: large.into_iter().collect(),
            kept: starts.len() as u32,
            starts,
            references: None,
        }
    }
}

/// Without much room behind the last byte: a chunk may be in memory for long, and is counted there by its length.
fn fitted(mut bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() - bytes.len() > bytes.len() / 8 {
        bytes.shrink_to_fit();
    }
    bytes.into()
}

fn total(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RouterId;
    use crate::limits::LARGE_MESSAGE;

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
        let parsed = Chunk::parse(Lane::Queues, Offset(7), 1_000, chunk.bytes()).unwrap();
        assert_eq!(parsed, chunk);
    }

    #[test]
    fn a_chunk_does_not_keep_room_that_another_one_needed() {
        let mut builder = ChunkBuilder::with_room(Lane::Queues, Offset(7), 1_000, (CHUNK_TARGET, 1));
        builder.push(ExchangeId(5), None, b"meta", b"body");
        builder.push(ExchangeId(5), None, b"meta", &[1; 1_000]);
        let mut references = References::uniform(2, 1);
        references.release(1, 1);
        let chunk = builder.finish();
        for chunk in [chunk.without_dead(&references), chunk] {
            let len = chunk.len();
            assert!(Vec::from(chunk.bytes).capacity() < 2 * len);
        }
    }

    #[test]
    fn a_large_message_is_alone_in_its_chunk_and_is_not_copied() {
        let body: Bytes = (0..=255).cycle().take(LARGE_MESSAGE).collect::<Vec<u8>>().into();
        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1_000);
        builder.push_large(ExchangeId(5), None, b"meta", body.clone());
        assert!(!builder.takes(0), "a chunk with a large message is full");
        let chunk = builder.finish();
        let message = chunk.get(0).unwrap();
        assert_eq!(
            (message.meta, message.body, message.body_len()),
            (&b"meta"[..], &[][..], body.len())
        );
        assert_eq!(message.more[0].as_ptr(), body.as_ptr());

        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1_000);
        builder.push(ExchangeId(5), None, b"meta", &body);
        let joined = builder.finish();
        assert_eq!(joined, chunk, "copied or not, it is the same");
        let (joined, head) = (joined.bytes, chunk.bytes.len());
        for (from, to) in [
            (0, head),
            (0, head + 9),
            (head, head + 9),
            (head + 3, joined.len()),
            (9, 9),
        ] {
            assert_eq!(chunk.slice(from..to), joined[from..to], "{from}..{to}");
        }
        assert_eq!(chunk.slice(head + 9..head + 99).as_ptr(), body[9..].as_ptr());

        let one = References::uniform(1, 1);
        let parse = |to: usize| {
            let more = vec![joined.slice(head + 9..head + 99), joined.slice(head + 99..to)];
            Chunk::parse_sparse(
                Lane::Queues,
                Offset(7),
                1_000,
                joined.slice(..head + 9),
                more,
                &one,
            )
        };
        let read = parse(joined.len()).unwrap();
        assert_eq!(read, chunk);
        assert_eq!(read.get(0).unwrap().body_len(), body.len());
        assert!(parse(joined.len() - 1).is_err());
        assert_eq!(read.without_dead(&one), chunk);
        let none = read.without_dead(&References::uniform(1, 0));
        assert_eq!((none.len(), none.get(0)), (0, None));
    }

    #[test]
    fn only_a_body_may_be_in_pieces_and_only_that_of_the_last_record() {
        let bytes = chunk_of(3).bytes;
        let parse = |at: usize| {
            let more = vec![bytes.slice(at..)];
            let three = References::uniform(3, 1);
            Chunk::parse_sparse(Lane::Queues, Offset(7), 1_000, bytes.slice(..at), more, &three)
        };
        let whole: Vec<bool> = (1..bytes.len()).map(|at| parse(at).is_ok()).collect();
        let mut expected = vec![false; bytes.len() - 1];
        expected[bytes.len() - 3..].fill(true); // the last body has two bytes
        assert_eq!(whole, expected);
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
        assert!(sparse.len() < dense.len());
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

        let parse =
            |bytes| Chunk::parse_sparse(Lane::Queues, Offset(7), 1_000, bytes, Vec::new(), &references);
        assert_eq!(parse(sparse.bytes.clone()).unwrap(), sparse);
        assert!(
            parse(dense.bytes.clone()).is_err(),
            "more records than have references"
        );
        let cut = sparse.bytes.slice(..sparse.len() - 1);
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
        let bytes = builder.finish().bytes;
        for len in 1..bytes.len() {
            assert!(
                Chunk::parse(Lane::Queues, Offset(0), 0, bytes.slice(..len)).is_err(),
                "cut to {len}"
            );
        }
    }
}
