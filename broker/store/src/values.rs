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
