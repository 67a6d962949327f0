//! Values: the version of the format, then the fields.
//!
//! A chunk's are in [`parts`]. All others are small and guarded by fjall's own checksums; they are a version and postcard, or
//! fixed fields where they are written often.

mod parts;

use bytes::Bytes;
use fjall::UserValue;
use pointsman_core::commit::{IndexEntry, QueueState, StreamState};
use pointsman_core::{Offset, Position};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::parts::{Header, Left, chunk, read_chunk};
use crate::staged::Value;

const VERSION: u8 = 1;

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
    /// Length of its value, in bytes.
    pub(crate) const LEN: usize = 1 + 7 * 8;

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

/// The longest of them is [`Progress`].
fn fixed(numbers: &[u64]) -> UserValue {
    let mut bytes = [VERSION; Progress::LEN];
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
    use pointsman_core::{Lane, QueueId, VhostId};
    use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec, Interface, QueueSpec};
    use pointsman_protocol::publish::Outcome;

    use super::*;

    /// These bytes are on users' disks. A change of any of them needs a new version.
    #[test]
    fn every_value_has_the_bytes_of_format_1() {
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
        assert_eq!(format_2.len(), Progress::LEN);
        let format_1 = &format_2[..49];
        assert_eq!(
            Progress::decode(format_1),
            Some(Progress { block: 0, ..progress })
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
}
