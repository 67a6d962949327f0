//! Values: the version of the format, then the fields.
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
//! key as well, so that a chunk in another's place is noticed. All other values are small and guarded by fjall's own
//! checksums; they are a version and postcard, or fixed fields where they are written often.

use std::hash::Hasher;

use bytes::Bytes;
use fjall::UserValue;
use pointsman_core::commit::{IndexEntry, QueueState, StreamState};
use pointsman_core::{Chunk, Lane, Offset, Position, References};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash3_64;

use crate::error::Damage;
use crate::staged::Value;

const VERSION: u8 = 1;

/// Length of what comes in front of a chunk's references, in bytes.
const FIXED: usize = 25;

/// Most bytes of records in one part, so that a large message passes through fjall in pieces.
pub(crate) const PART_BYTES: usize = 1024 * 1024;

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

/// How far the store has come; written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Rises by one with each batch, without a gap.
    pub(crate) sequence: u64,
    /// The last batch that was synced when this one was written.
    pub(crate) synced: u64,
    /// The next free offset of each durable lane.
    pub(crate) next_offsets: [Offset; 2],
    /// Bytes of records in all chunks.
    pub(crate) log_bytes: u64,
    /// Those of them that are dead; see [`Left::dead_bytes`].
    pub(crate) dead_bytes: u64,
    /// The block behind this batch in the write-ahead log. 0 in a store of format 1, which had none.
    pub(crate) block: u64,
}

impl Progress {
    pub(crate) fn encode(&self) -> UserValue {
        fixed(&[
            self.sequence,
            self.synced,
            self.next_offsets[0].0,
            self.next_offsets[1].0,
            self.log_bytes,
            self.dead_bytes,
            self.block,
        ])
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Progress> {
        let [sequence, synced, queues, streams, log_bytes, dead_bytes, block] = match decode_fixed(value) {
            Some(numbers) => numbers,
            None => {
                let [a, b, c, d, e, f] = decode_fixed(value)?;
                [a, b, c, d, e, f, 0]
            }
        };
        Some(Progress {
            sequence,
            synced,
            next_offsets: [Offset(queues), Offset(streams)],
            log_bytes,
            dead_bytes,
            block,
        })
    }

    /// Bytes of records that some queue names.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.log_bytes.saturating_sub(self.dead_bytes)
    }
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

/// A stream's has two numbers more than a work queue's.
pub(crate) fn queue_state(state: &QueueState) -> UserValue {
    let (head, tail, delivered) = (state.head.0, state.tail.0, state.delivered.0);
    match state.stream {
        None => fixed(&[head, tail, delivered]),
        Some(stream) => fixed(&[head, tail, delivered, stream.bytes, stream.time]),
    }
}

pub(crate) fn read_queue_state(value: &[u8]) -> Option<QueueState> {
    let ([head, tail, delivered], stream) = match decode_fixed(value) {
        Some(numbers) => (numbers, None),
        None => {
            let [head, tail, delivered, bytes, time] = decode_fixed(value)?;
            ([head, tail, delivered], Some(StreamState { bytes, time }))
        }
    };
    Some(QueueState {
        head: Position(head),
        tail: Position(tail),
        delivered: Position(delivered),
        stream,
    })
}

pub(crate) fn number(value: u32) -> UserValue {
    fixed(&[u64::from(value)])
}

pub(crate) fn read_number(value: &[u8]) -> Option<u32> {
    let [number] = decode_fixed(value)?;
    number.try_into().ok()
}

pub(crate) fn count(value: u64) -> UserValue {
    fixed(&[value])
}

pub(crate) fn read_count(value: &[u8]) -> Option<u64> {
    let [count] = decode_fixed(value)?;
    Some(count)
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
    [&[VERSION], bytes].concat().into()
}

pub(crate) fn read_module(value: impl Into<Value>) -> Option<Bytes> {
    let (bytes, _) = value.into().into_pieces();
    (bytes.first() == Some(&VERSION)).then(|| bytes.slice(1..))
}

fn fixed(numbers: &[u64]) -> UserValue {
    let mut bytes = [VERSION; 1 + 7 * 8];
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
    use pointsman_core::catalog::{Definition, Digest, NextIds, UserVerifier, VersionSpec};
    use pointsman_core::commit::{IdentityState, Run};
    use pointsman_core::{ChunkBuilder, ExchangeId, QueueId, VhostId};
    use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec, Interface, QueueSpec};
    use pointsman_protocol::publish::Outcome;

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
        let chunk_value = bytes_of(&two_records(), &References::uniform(2, 3));
        let (fixed, rest) = chunk_value.split_at(FIXED);
        assert_eq!(
            fixed[..17],
            [1, 0, 0, 0, 0, 0, 0, 3, 232, 0, 0, 0, 2, 0, 0, 0, 13]
        );
        assert_eq!(rest, b"\x02\x03\x01\x04\x05\0mbody\0\0\x05\0");
        let checked = [&[1, 0, 0, 0, 0, 0, 0, 0, 7], &fixed[1..17], rest].concat();
        assert_eq!(fixed[17..], xxhash_rust::xxh3::xxh3_64(&checked).to_be_bytes());

        let progress = Progress {
            sequence: 1,
            synced: 2,
            next_offsets: [Offset(3), Offset(4)],
            log_bytes: 5,
            dead_bytes: 6,
            block: 7,
        };
        let format_2 = [
            1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
            4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7,
        ];
        assert_eq!(progress.encode().as_ref(), format_2);
        let format_1 = &format_2[..49];
        assert_eq!(
            Progress::decode(format_1),
            Some(Progress { block: 0, ..progress })
        );
        assert_eq!(
            left().encode(&mut Vec::new()).as_ref(),
            [1, 0, 3, 0, 0, 1, 0, 0, 0, 0, 130, 2, 0, 128, 1, 5]
        );
        let state = QueueState {
            head: Position(1),
            tail: Position(2),
            delivered: Position(3),
            stream: None,
        };
        assert_eq!(
            queue_state(&state).as_ref(),
            [
                1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3
            ]
        );
        assert_eq!(
            queue_state(&stream_state()).as_ref(),
            [
                1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 4, 0, 0, 0, 0, 0, 0, 0, 5
            ]
        );
        assert_eq!(number(9).as_ref(), [1, 0, 0, 0, 0, 0, 0, 0, 9]);
        // First position, number of runs; lane, chunk, record, count; time, bytes, expires.
        assert_eq!(
            postcard(&entry(), &mut Vec::new()).unwrap().as_ref(),
            [1, 200, 1, 1, 0, 7, 1, 2, 3, 4, 5]
        );
        assert_eq!(module(b"wasm").as_ref(), b"\x01wasm");
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
    fn every_definition_has_the_bytes_of_format_1() {
        let vhost = VhostId(1);
        let mut exchange = ExchangeSpec::new("x", ExchangeKind::Router);
        exchange.router = Some("r".to_owned());
        let version = VersionSpec {
            digest: Digest([7; 32]),
            size: 300,
            interface: Interface::Core,
            config: vec![9],
            loaded_at: 1,
        };
        let verifier = UserVerifier {
            scheme: 1,
            salt: [2; 16],
            hash: [3; 32],
        };
        let ids = NextIds {
            vhost: 1,
            exchange: 2,
            queue: 3,
            router: 4,
        };
        let router = Definition::Router {
            vhost,
            name: "r".to_owned(),
            active: Some(2),
            previous: None,
            next_version: 3,
        };
        let exchange = Definition::Exchange {
            vhost,
            spec: exchange,
            quarantine: Some(QueueId(300)),
        };
        let expected: [(Definition, Vec<u8>); 9] = [
            (Definition::Vhost("v".to_owned()), b"\x01\0\x01v".to_vec()),
            (
                Definition::User(verifier),
                [&[1, 1, 1], [2; 16].as_slice(), &[3; 32]].concat(),
            ),
            (
                exchange,
                b"\x01\x02\x01\x01x\x05\x01\0\0\x01\x01r\x01\xac\x02".to_vec(),
            ),
            (
                Definition::durable_queue(vhost, "q"),
                b"\x01\x03\x01\x01q\x01\0\0\0\0\0".to_vec(),
            ),
            (
                Definition::Queue {
                    vhost,
                    spec: QueueSpec::stream("s").max_bytes(5),
                },
                b"\x01\x03\x01\x01s\x01\0\0\0\x01\0\x01\x05\0\0".to_vec(),
            ),
            (Definition::Binding, b"\x01\x04".to_vec()),
            (router, b"\x01\x05\x01\x01r\x01\x02\0\x03".to_vec()),
            (
                Definition::RouterVersion(version),
                [&[1, 6], [7; 32].as_slice(), &[0xac, 2, 2, 1, 9, 1]].concat(),
            ),
            (Definition::Ids(ids), b"\x01\x07\x01\x02\x03\x04".to_vec()),
        ];
        for (definition, bytes) in expected {
            let value = postcard(&definition, &mut Vec::new()).unwrap();
            assert_eq!(value.as_ref(), bytes, "{definition:?}");
            assert_eq!(read_postcard(&value), Some(definition));
        }
    }

    #[test]
    fn bitmaps_and_identities_have_the_bytes_of_format_1() {
        let settled: roaring::RoaringBitmap = [3, 5].into_iter().collect();
        // RoaringFormatSpec: cookie without runs, one container; its key and number of values less one; where its
        // values begin; the values. All little-endian.
        assert_eq!(
            bitmap(&settled, &mut Vec::new()).unwrap().as_ref(),
            [
                1, 0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 3, 0, 5, 0
            ]
        );
        let identity = IdentityState {
            last_sequence: 300,
            at: 1,
            exceptions: vec![(7, Outcome::Unroutable)],
        };
        assert_eq!(
            postcard(&identity, &mut Vec::new()).unwrap().as_ref(),
            [1, 0xac, 2, 1, 1, 7, 1]
        );
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
            time: 3,
            bytes: 4,
            expires: 5,
        }
    }

    fn stream_state() -> QueueState {
        QueueState {
            head: Position(1),
            tail: Position(2),
            delivered: Position(0),
            stream: Some(StreamState { bytes: 4, time: 5 }),
        }
    }

    #[test]
    fn values_are_read_back() {
        let progress = Progress {
            sequence: 1,
            synced: u64::MAX,
            next_offsets: [Offset(3), Offset(4)],
            log_bytes: 5,
            dead_bytes: 6,
            block: 9,
        };
        assert_eq!(Progress::decode(&progress.encode()), Some(progress));
        assert_eq!(Left::decode(&left().encode(&mut Vec::new())), Some(left()));
        assert_eq!(read_number(&number(u32::MAX)), Some(u32::MAX));
        let states = [QueueState::default(), stream_state()];
        for state in states {
            assert_eq!(read_queue_state(&queue_state(&state)), Some(state));
        }
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
