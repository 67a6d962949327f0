//! Values: the version of the format, then the fields.
//!
//! A chunk's first part (big-endian):
//!
//! ```text
//! u8    version, 1
//! u32   number of records
//! u64   time of the first message, in milliseconds since the Unix epoch
//! u32   references: how many places in queues name its messages
//! u32   length of the records, over all parts, in bytes
//! u64   XXH3 of lane, base, the fields above but the version, and the records
//! bytes records, the first mebibyte; further parts hold the following mebibytes and nothing else
//! ```
//!
//! The checksum covers the key as well, so that a chunk in another's place is noticed. All other values are small and
//! guarded by fjall's own checksums; they are a version and postcard, or fixed fields where they are written often.

use bytes::{Bytes, BytesMut};
use byteview::ByteView;
use fjall::UserValue;
use pointsman_core::commit::{IndexEntry, QueueState};
use pointsman_core::{Chunk, Lane, Offset, Position};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3;

use crate::error::Damage;

const VERSION: u8 = 1;

/// Length of a chunk's header, in bytes.
const HEADER: usize = 29;

/// Most bytes of records in one part, so that a large message passes through fjall in pieces.
pub(crate) const PART_BYTES: usize = 1024 * 1024;

/// What a chunk's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) count: u32,
    pub(crate) time: u64,
    pub(crate) references: u32,
    pub(crate) len: u32,
    checksum: u64,
}

impl Header {
    fn of(chunk: &Chunk, references: u32) -> Header {
        let mut header = Header {
            count: chunk.count(),
            time: chunk.time,
            references,
            len: chunk.bytes().len() as u32,
            checksum: 0,
        };
        header.checksum = header.checksum(chunk.lane, chunk.base, [chunk.bytes().as_ref()]);
        header
    }

    fn checksum<'a>(&self, lane: Lane, base: Offset, records: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&[lane as u8]);
        hash.update(&base.0.to_be_bytes());
        let bytes = self.encode();
        hash.update(&bytes[1..HEADER - 8]);
        for part in records {
            hash.update(part);
        }
        hash.digest()
    }

    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.count.to_be_bytes());
        bytes[5..13].copy_from_slice(&self.time.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.references.to_be_bytes());
        bytes[17..21].copy_from_slice(&self.len.to_be_bytes());
        bytes[21..29].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Header> {
        let mut fields = Fields(value);
        if fields.u8()? != VERSION {
            return None;
        }
        Some(Header {
            count: fields.u32()?,
            time: fields.u64()?,
            references: fields.u32()?,
            len: fields.u32()?,
            checksum: fields.u64()?,
        })
    }

    /// Number of values the chunk takes.
    pub(crate) fn parts(&self) -> u16 {
        parts(self.len as usize)
    }
}

fn parts(len: usize) -> u16 {
    len.div_ceil(PART_BYTES).max(1) as u16
}

/// A chunk's values, in order of parts. Each record byte is copied once.
pub(crate) fn chunk(chunk: &Chunk, references: u32) -> impl Iterator<Item = UserValue> + '_ {
    let header = Header::of(chunk, references).encode();
    (0..parts(chunk.bytes().len())).map(move |part| {
        let from = usize::from(part) * PART_BYTES;
        let to = (from + PART_BYTES).min(chunk.bytes().len());
        let header = if part == 0 { header.as_slice() } else { &[] };
        UserValue::from(ByteView::fused(header, &chunk.bytes()[from..to]))
    })
}

/// Reads a chunk back. `part` fetches the value of that number; part 0 is given.
///
/// # Errors
/// [`Damage`] when anything differs from what was written, or what `part` failed with.
pub(crate) fn read_chunk<E: From<Damage>>(
    lane: Lane,
    base: Offset,
    first: UserValue,
    mut part: impl FnMut(u16) -> Result<Option<UserValue>, E>,
) -> Result<Chunk, E> {
    let damage = |what| Damage::Chunk { lane, base, what };
    let header = Header::decode(&first).ok_or(damage("header"))?;
    let first = Bytes::from_owner(first).slice(HEADER..);
    let records = if header.parts() == 1 {
        first
    } else {
        let mut records = BytesMut::with_capacity(first.len());
        records.extend_from_slice(&first);
        for number in 1..header.parts() {
            records.extend_from_slice(&part(number)?.ok_or(damage("a part is missing"))?);
        }
        records.freeze()
    };
    if records.len() != header.len as usize {
        return Err(damage("length").into());
    }
    if header.checksum(lane, base, [records.as_ref()]) != header.checksum {
        return Err(damage("checksum").into());
    }
    let chunk = Chunk::parse(lane, base, header.time, records).map_err(|_| damage("records"))?;
    if chunk.count() != header.count {
        return Err(damage("number of records").into());
    }
    Ok(chunk)
}

/// How far the store has come; written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Rises by one with each batch, without a gap.
    pub(crate) sequence: u64,
    /// The last batch that was synced when this one was written.
    pub(crate) synced: u64,
    /// The next free offset of each durable lane.
    pub(crate) next_offsets: [Offset; 2],
}

impl Progress {
    pub(crate) fn encode(&self) -> UserValue {
        fixed(&[
            self.sequence,
            self.synced,
            self.next_offsets[0].0,
            self.next_offsets[1].0,
        ])
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Progress> {
        let [sequence, synced, queues, streams] = decode_fixed(value)?;
        Some(Progress {
            sequence,
            synced,
            next_offsets: [Offset(queues), Offset(streams)],
        })
    }
}

/// How many references of a partly released chunk are left, and its number of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveCount {
    pub(crate) left: u32,
    pub(crate) parts: u16,
}

impl LiveCount {
    pub(crate) fn encode(&self) -> UserValue {
        let mut bytes = [VERSION; 7];
        bytes[1..5].copy_from_slice(&self.left.to_be_bytes());
        bytes[5..7].copy_from_slice(&self.parts.to_be_bytes());
        UserValue::new(&bytes)
    }

    pub(crate) fn decode(value: &[u8]) -> Option<LiveCount> {
        let mut fields = Fields(value);
        if fields.u8()? != VERSION {
            return None;
        }
        let count = LiveCount {
            left: fields.u32()?,
            parts: fields.u16()?,
        };
        fields.0.is_empty().then_some(count)
    }
}

pub(crate) fn queue_state(state: &QueueState) -> UserValue {
    fixed(&[state.head.0, state.tail.0, state.delivered.0])
}

pub(crate) fn read_queue_state(value: &[u8]) -> Option<QueueState> {
    let [head, tail, delivered] = decode_fixed(value)?;
    Some(QueueState {
        head: Position(head),
        tail: Position(tail),
        delivered: Position(delivered),
    })
}

pub(crate) fn number(value: u32) -> UserValue {
    fixed(&[u64::from(value)])
}

pub(crate) fn read_number(value: &[u8]) -> Option<u32> {
    let [number] = decode_fixed(value)?;
    number.try_into().ok()
}

/// An entry whose positions end where its key says.
pub(crate) fn read_index(value: &[u8], last: Position) -> Option<IndexEntry> {
    let entry: IndexEntry = read_postcard(value)?;
    let count = entry.count();
    let end = entry.first.0.checked_add(count)?;
    (count > 0 && end - 1 == last.0).then_some(entry)
}

pub(crate) fn bitmap(bitmap: &roaring::RoaringBitmap, buffer: &mut Vec<u8>) -> std::io::Result<UserValue> {
    buffer.clear();
    buffer.push(VERSION);
    bitmap.serialize_into(&mut *buffer)?;
    Ok(UserValue::new(buffer))
}

pub(crate) fn read_bitmap(value: &[u8]) -> Option<roaring::RoaringBitmap> {
    let (version, rest) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    roaring::RoaringBitmap::deserialize_from(rest).ok()
}

/// `buffer` is only there to be used again.
pub(crate) fn postcard(value: &impl Serialize, buffer: &mut Vec<u8>) -> Result<UserValue, postcard::Error> {
    buffer.clear();
    buffer.push(VERSION);
    *buffer = postcard::to_extend(value, std::mem::take(buffer))?;
    Ok(UserValue::new(buffer))
}

pub(crate) fn read_postcard<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let (version, rest) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (decoded, rest) = postcard::take_from_bytes(rest).ok()?;
    rest.is_empty().then_some(decoded)
}

pub(crate) fn module(bytes: &[u8]) -> UserValue {
    UserValue::from(ByteView::fused(&[VERSION], bytes))
}

pub(crate) fn read_module(value: UserValue) -> Option<Bytes> {
    (value.first() == Some(&VERSION)).then(|| Bytes::from_owner(value).slice(1..))
}

fn fixed(numbers: &[u64]) -> UserValue {
    let mut bytes = [VERSION; 1 + 4 * 8];
    for (to, number) in bytes[1..].chunks_exact_mut(8).zip(numbers) {
        to.copy_from_slice(&number.to_be_bytes());
    }
    UserValue::new(&bytes[..1 + numbers.len() * 8])
}

fn decode_fixed<const N: usize>(value: &[u8]) -> Option<[u64; N]> {
    let mut fields = Fields(value);
    if fields.u8()? != VERSION {
        return None;
    }
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = fields.u64()?;
    }
    fields.0.is_empty().then_some(numbers)
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use pointsman_core::commit::Run;
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
    fn every_value_has_the_bytes_of_format_1() {
        let chunk_value = chunk(&two_records(), 3).next().unwrap();
        let (header, records) = chunk_value.split_at(HEADER);
        assert_eq!(
            header[..21],
            [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3, 232, 0, 0, 0, 3, 0, 0, 0, 13]
        );
        assert_eq!(records, b"\x01\x04\x05\0mbody\0\0\x05\0");
        let checked = [&[1, 0, 0, 0, 0, 0, 0, 0, 7], &header[1..21], records].concat();
        assert_eq!(header[21..], xxhash_rust::xxh3::xxh3_64(&checked).to_be_bytes());

        let progress = Progress {
            sequence: 1,
            synced: 2,
            next_offsets: [Offset(3), Offset(4)],
        };
        assert_eq!(
            progress.encode().as_ref(),
            [
                1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
                0, 4
            ]
        );
        let count = LiveCount { left: 258, parts: 3 };
        assert_eq!(count.encode().as_ref(), [1, 0, 0, 1, 2, 0, 3]);
        let state = QueueState {
            head: Position(1),
            tail: Position(2),
            delivered: Position(3),
        };
        assert_eq!(
            queue_state(&state).as_ref(),
            [
                1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3
            ]
        );
        assert_eq!(number(9).as_ref(), [1, 0, 0, 0, 0, 0, 0, 0, 9]);
        // First position, number of runs; lane, chunk, record, count.
        assert_eq!(
            postcard(&entry(), &mut Vec::new()).unwrap().as_ref(),
            [1, 200, 1, 1, 0, 7, 1, 2]
        );
        assert_eq!(module(b"wasm").as_ref(), b"\x01wasm");
    }

    fn entry() -> IndexEntry {
        IndexEntry {
            first: Position(200),
            runs: vec![Run {
                lane: Lane::Queues,
                chunk: Offset(7),
                record: 1,
                count: 2,
            }],
        }
    }

    #[test]
    fn values_are_read_back() {
        let progress = Progress {
            sequence: 1,
            synced: u64::MAX,
            next_offsets: [Offset(3), Offset(4)],
        };
        assert_eq!(Progress::decode(&progress.encode()), Some(progress));
        let count = LiveCount { left: 258, parts: 3 };
        assert_eq!(LiveCount::decode(&count.encode()), Some(count));
        assert_eq!(read_number(&number(u32::MAX)), Some(u32::MAX));
        let settled: roaring::RoaringBitmap = (5..9_000).collect();
        assert_eq!(
            read_bitmap(&bitmap(&settled, &mut Vec::new()).unwrap()),
            Some(settled)
        );
        let value = postcard(&entry(), &mut Vec::new()).unwrap();
        assert_eq!(read_index(&value, Position(201)), Some(entry()));
        assert_eq!(read_index(&value, Position(202)), None, "its key is another's");
    }

    #[test]
    fn a_value_of_another_version_or_length_is_none() {
        let mut value = number(1).to_vec();
        value[0] = 2;
        assert_eq!(read_number(&value), None);
        assert_eq!(read_number(&number(1)[..8]), None);
        assert_eq!(Progress::decode(&[]), None);
        assert_eq!(read_postcard::<IndexEntry>(&[1]), None);
    }

    #[test]
    fn a_chunk_with_any_byte_changed_or_in_anothers_place_does_not_read() {
        let value = chunk(&two_records(), 3).next().unwrap();
        let read = |lane, base, value: &[u8]| {
            read_chunk::<Damage>(lane, Offset(base), UserValue::new(value), |_| Ok(None))
        };
        assert_eq!(read(Lane::Streams, 7, &value).unwrap(), two_records());
        assert!(read(Lane::Streams, 8, &value).is_err() && read(Lane::Queues, 7, &value).is_err());
        for at in 0..value.len() {
            let mut changed = value.to_vec();
            changed[at] ^= 1;
            assert!(read(Lane::Streams, 7, &changed).is_err(), "byte {at}");
            assert!(read(Lane::Streams, 7, &value[..at]).is_err(), "cut to {at}");
        }
    }
}
