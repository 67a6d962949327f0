//! A chunk's values, and that of what is left of it.
//!
//! A chunk's first part (big-endian):
//!
//! ```text
//! u8    version, 1
//! u64   time of the first message, in milliseconds since the Unix epoch
//! u32   length of the references, in bytes
//! u32   length of the records, over all parts, in bytes
//! u64   XXH3 of lane, base, the fields above but the version, references and records
//! bytes references: how many places in queues name each record, as runs; see pointsman_core::references
//! bytes records, the first mebibyte; further parts hold the following mebibytes and nothing else
//! ```
//!
//! A record that had no references when the chunk was written is not in it, but keeps its number. The checksum covers the
//! key as well, so that a chunk in another's place is noticed.

use std::hash::Hasher;

use bytes::Bytes;
use fjall::UserValue;
use pointsman_core::{Chunk, Lane, Offset, References};
use twox_hash::XxHash3_64;

use super::{Fields, VERSION};
use crate::error::Damage;
use crate::staged::Value;

/// Length of what comes in front of a chunk's references, in bytes.
const FIXED: usize = 25;

/// Most bytes of records in one part, so that a large message passes through fjall in pieces.
const PART_BYTES: usize = 1024 * 1024;

/// What comes in front of a chunk's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    time: u64,
    len: u32,
    checksum: u64,
    /// As they were when the chunk was written.
    pub(crate) references: References,
}

impl Header {
    /// Reads the header at the front of a chunk's first part. Returns where the records begin as well.
    fn decode(value: &[u8]) -> Option<(Header, usize)> {
        let mut fields = Fields(value);
        if fields.u8()? != VERSION {
            return None;
        }
        let time = fields.u64()?;
        let references_len = fields.u32()? as usize;
        let len = fields.u32()?;
        let checksum = fields.u64()?;
        let header = Header {
            time,
            len,
            checksum,
            references: References::decode(fields.0.get(..references_len)?)?,
        };
        Some((header, FIXED + references_len))
    }

    /// The header of a chunk's first part.
    pub(crate) fn of(first: &Value) -> Option<Header> {
        let [front, _] = first.pieces();
        Header::decode(front).map(|(header, _)| header)
    }

    /// What is left of the chunk as long as nothing was released.
    pub(crate) fn left(self) -> Left {
        Left {
            parts: parts(self.len as usize),
            len: self.len,
            kept: self.references.live(),
            references: self.references,
        }
    }
}

/// `header` is everything in front of the records, with any checksum.
fn checksum<'a>(lane: Lane, base: Offset, header: &[u8], records: impl Iterator<Item = &'a Bytes>) -> u64 {
    let mut hash = XxHash3_64::new();
    hash.write(&[lane as u8]);
    hash.write(&base.0.to_be_bytes());
    hash.write(&header[1..FIXED - 8]);
    hash.write(&header[FIXED..]);
    for part in records {
        hash.write(part);
    }
    hash.finish()
}

fn parts(len: usize) -> u16 {
    len.div_ceil(PART_BYTES).max(1) as u16
}

/// A chunk's values, in order of parts. They share the chunk's bytes, but for those of a large message's metadata.
/// `header` is only there to be used again.
pub(crate) fn chunk<'a>(
    chunk: &'a Chunk,
    references: &References,
    header: &'a mut Vec<u8>,
) -> impl Iterator<Item = Value> + 'a {
    header.clear();
    header.resize(FIXED, VERSION);
    references.encode(header);
    let references_len = (header.len() - FIXED) as u32;
    header[1..9].copy_from_slice(&chunk.time.to_be_bytes());
    header[9..13].copy_from_slice(&references_len.to_be_bytes());
    header[13..17].copy_from_slice(&(chunk.len() as u32).to_be_bytes());
    let checksum = checksum(chunk.lane, chunk.base, header, chunk.pieces());
    header[17..FIXED].copy_from_slice(&checksum.to_be_bytes());
    (0..parts(chunk.len())).map(move |part| {
        let from = usize::from(part) * PART_BYTES;
        let to = (from + PART_BYTES).min(chunk.len());
        if part > 0 {
            return chunk.slice(from..to).into();
        }
        // What is in front of a large message's body is short, and the body has a piece of its own.
        let alone = chunk.pieces().next().filter(|piece| piece.len() < to);
        header.extend_from_slice(alone.map_or(&[], |piece| piece));
        let head = Bytes::copy_from_slice(header);
        let rest = chunk.slice(alone.map_or(0, Bytes::len)..to);
        Value::Split(Box::new((head, rest)))
    })
}

/// Reads a chunk back. `part` fetches the value of that number; part 0 is given.
///
/// # Errors
/// [`Damage`] when anything differs from what was written, or what `part` failed with.
pub(crate) fn read_chunk<V: Into<Value>, E: From<Damage>>(
    lane: Lane,
    base: Offset,
    first: V,
    mut part: impl FnMut(u16) -> Result<Option<V>, E>,
) -> Result<Chunk, E> {
    let damage = |what| Damage::Chunk { lane, base, what };
    let (first, rest) = first.into().into_pieces();
    let (header, records_at) = Header::decode(&first).ok_or(damage("header"))?;
    let mut records = vec![first.slice(records_at..), rest];
    for number in 1..parts(header.len as usize) {
        let part = part(number)?.ok_or(damage("a part is missing"))?;
        records.extend(<[Bytes; 2]>::from(part.into().into_pieces()));
    }
    records.retain(|piece| !piece.is_empty());
    if records.iter().map(Bytes::len).sum::<usize>() != header.len as usize {
        return Err(damage("length").into());
    }
    if checksum(lane, base, &first[..records_at], records.iter()) != header.checksum {
        return Err(damage("checksum").into());
    }
    let bytes = match records.is_empty() {
        true => Bytes::new(),
        false => records.remove(0),
    };
    let chunk = Chunk::parse_sparse(lane, base, header.time, bytes, records, &header.references);
    chunk.map_err(|_| damage("records").into())
}

/// What is left of a chunk: who still names its records, and what it takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) references: References,
    pub(crate) parts: u16,
    /// Length of its records on disk, in bytes.
    pub(crate) len: u32,
    /// Number of records on disk, dead ones included.
    pub(crate) kept: u32,
}

impl Left {
    /// Whether nobody names any of its records.
    pub(crate) fn is_dead(&self) -> bool {
        self.references.live() == 0
    }

    /// Bytes of dead records on disk, taking all its records for equally long: what each one takes is known only to
    /// whoever reads the chunk.
    pub(crate) fn dead_bytes(&self) -> u64 {
        let dead = self.kept.saturating_sub(self.references.live());
        u64::from(self.len) * u64::from(dead) / u64::from(self.kept.max(1))
    }

    /// `buffer` is only there to be used again.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) -> UserValue {
        buffer.clear();
        buffer.push(VERSION);
        buffer.extend_from_slice(&self.parts.to_be_bytes());
        buffer.extend_from_slice(&self.len.to_be_bytes());
        buffer.extend_from_slice(&self.kept.to_be_bytes());
        self.references.encode(buffer);
        UserValue::new(buffer)
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Left> {
        let mut fields = Fields(value);
        if fields.u8()? != VERSION {
            return None;
        }
        Some(Left {
            parts: fields.u16()?,
            len: fields.u32()?,
            kept: fields.u32()?,
            references: References::decode(fields.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use pointsman_core::{ChunkBuilder, ExchangeId};

    use super::*;

    fn two_records() -> Chunk {
        let mut builder = ChunkBuilder::new(Lane::Streams, Offset(7), 1_000);
        builder.push(ExchangeId(5), None, b"m", b"body");
        builder.push(ExchangeId(5), None, b"", b"");
        builder.finish()
    }

    /// These bytes are on users' disks. A change of any of them needs a new version.
    #[test]
    fn a_chunk_and_what_is_left_of_it_have_the_bytes_of_format_1() {
        let chunk_value = bytes_of(&two_records(), &References::uniform(2, 3));
        let (fixed, rest) = chunk_value.split_at(FIXED);
        assert_eq!(
            fixed[..17],
            [1, 0, 0, 0, 0, 0, 0, 3, 232, 0, 0, 0, 2, 0, 0, 0, 13]
        );
        assert_eq!(rest, b"\x02\x03\x01\x04\x05\0mbody\0\0\x05\0");
        let checked = [&[1, 0, 0, 0, 0, 0, 0, 0, 7], &fixed[1..17], rest].concat();
        assert_eq!(fixed[17..], xxhash_rust::xxh3::xxh3_64(&checked).to_be_bytes());
        assert_eq!(
            left().encode(&mut Vec::new()).as_ref(),
            [1, 0, 3, 0, 0, 1, 0, 0, 0, 0, 130, 2, 0, 128, 1, 5]
        );
        assert_eq!(Left::decode(&left().encode(&mut Vec::new())), Some(left()));
    }

    fn value_of(of: &Chunk, references: &References) -> Value {
        chunk(of, references, &mut Vec::new()).next().unwrap()
    }

    fn bytes_of(of: &Chunk, references: &References) -> Vec<u8> {
        value_of(of, references).bytes().into_owned()
    }

    /// Two records that are dead and 128 with five references.
    fn left() -> Left {
        let mut references = References::uniform(2, 0);
        references.push(128, 5);
        Left {
            references,
            parts: 3,
            len: 256,
            kept: 130,
        }
    }

    #[test]
    fn a_chunk_with_any_byte_changed_or_in_anothers_place_does_not_read() {
        let read = |lane, base, value: &[u8]| {
            read_chunk::<_, Damage>(lane, Offset(base), UserValue::new(value), |_| Ok(None))
        };
        let mut second_dead = References::uniform(2, 3);
        (0..3).for_each(|_| assert_eq!(second_dead.release(1, 1), 0));
        let sparse = two_records().without_dead(&second_dead);
        for (chunk, references) in [(two_records(), References::uniform(2, 3)), (sparse, second_dead)] {
            let value = bytes_of(&chunk, &references);
            assert_eq!(read(Lane::Streams, 7, &value).unwrap(), chunk);
            assert!(read(Lane::Streams, 8, &value).is_err() && read(Lane::Queues, 7, &value).is_err());
            for at in 0..value.len() {
                let mut changed = value.clone();
                changed[at] ^= 1;
                assert!(read(Lane::Streams, 7, &changed).is_err(), "byte {at}");
                assert!(read(Lane::Streams, 7, &value[..at]).is_err(), "cut to {at}");
            }
        }
    }

    #[test]
    fn a_value_that_shares_its_chunks_bytes_reads_as_one_that_does_not() {
        let mut large = ChunkBuilder::new(Lane::Queues, Offset(7), 1_000);
        let body = Bytes::from(vec![5; PART_BYTES + 100]);
        large.push_large(ExchangeId(5), None, b"meta", body.clone());
        let large = large.finish();
        for (chunk, shared) in [(&two_records(), None), (&large, Some(&body))] {
            let mut header = Vec::new();
            let values: Vec<Value> =
                super::chunk(chunk, &References::uniform(chunk.count(), 1), &mut header).collect();
            let shared = shared.unwrap_or_else(|| chunk.pieces().next().unwrap());
            let [_, rest] = values[0].pieces();
            assert_eq!(rest.as_ptr(), shared.as_ptr(), "shared, not copied");
            assert_eq!(values[0].len(), values[0].bytes().len());
            let read = |values: Vec<Value>| {
                let part = |number: u16| Ok::<_, Damage>(values.get(usize::from(number)).cloned());
                read_chunk(chunk.lane, chunk.base, values[0].clone(), part).unwrap()
            };
            assert_eq!(&read(values.clone()), chunk);
            let in_tables = values.iter().map(|value| value.for_table().into());
            assert_eq!(&read(in_tables.collect()), chunk);
        }
    }

    #[test]
    fn dead_bytes_are_the_share_of_dead_records_among_those_on_disk() {
        let mut left = Header::of(&value_of(&two_records(), &References::uniform(2, 1)))
            .unwrap()
            .left();
        assert_eq!((left.dead_bytes(), left.len, left.kept), (0, 13, 2));
        left.references.release(0, 1);
        assert_eq!((left.dead_bytes(), left.is_dead()), (6, false));
        let rewritten = two_records().without_dead(&left.references);
        let rewritten = Header::of(&value_of(&rewritten, &left.references)).unwrap();
        let rewritten = rewritten.left();
        assert_eq!((rewritten.dead_bytes(), rewritten.len, rewritten.kept), (0, 4, 1));
        left.references.release(1, 1);
        assert_eq!((left.dead_bytes(), left.is_dead()), (13, true));
    }
}
