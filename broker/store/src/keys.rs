//! Keys: big-endian, the shard first, so that a range is a run of one queue, lane or kind.

use fjall::UserKey;
use pointsman_core::catalog::{DefinitionKey, Digest};
use pointsman_core::due::{DueKey, DueNumber};
use pointsman_core::{Lane, Offset, Position, PublisherIdentity, QueueId};

/// The one shard there is so far. It is in every key, so that more can come without a new format.
const SHARD: [u8; 2] = [0, 0];

/// Kinds of keys in `due`.
const ENTER: u8 = 0;
const EXPIRE: u8 = 1;

/// Kinds of keys in `state`.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum StateKind {
    Progress = 0,
    Queue = 1,
    Live = 2,
    Attempts = 3,
    Identity = 4,
    Gone = 5,
    Delayed = 6,
}

/// Kinds of keys in `meta`.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum MetaKind {
    Definition = 0,
    Module = 1,
}

pub(crate) fn chunk(lane: Lane, base: Offset, part: u16) -> UserKey {
    join(&[&SHARD, &[lane as u8], &base.0.to_be_bytes(), &part.to_be_bytes()])
}

pub(crate) fn lane_prefix(lane: Lane) -> [u8; 3] {
    [SHARD[0], SHARD[1], lane as u8]
}

pub(crate) fn chunk_parts(key: &[u8]) -> Option<(Lane, Offset, u16)> {
    let rest = key.strip_prefix(&SHARD)?;
    let (lane, rest) = rest.split_first()?;
    let (base, part) = rest.split_first_chunk()?;
    let part: [u8; 2] = part.try_into().ok()?;
    let base = Offset(u64::from_be_bytes(*base));
    Some((lane_of(*lane)?, base, u16::from_be_bytes(part)))
}

/// The durable lane of that number.
fn lane_of(number: u8) -> Option<Lane> {
    match number {
        0 => Some(Lane::Queues),
        1 => Some(Lane::Streams),
        _ => None,
    }
}

/// Key of an index entry (its last position) and of an ack block (its number).
pub(crate) fn in_queue(queue: QueueId, number: u64) -> UserKey {
    join(&[&SHARD, &queue.0.to_be_bytes(), &number.to_be_bytes()])
}

pub(crate) fn in_queue_parts(key: &[u8]) -> Option<(QueueId, u64)> {
    queue_and_number(key.strip_prefix(&SHARD)?)
}

/// A key in `state` that no value ever has.
pub(crate) fn unused() -> UserKey {
    join(&[&SHARD, &[u8::MAX]])
}

pub(crate) fn progress() -> UserKey {
    state(StateKind::Progress, &[])
}

pub(crate) fn queue_state(queue: QueueId) -> UserKey {
    state(StateKind::Queue, &[&queue.0.to_be_bytes()])
}

pub(crate) fn gone(queue: QueueId) -> UserKey {
    state(StateKind::Gone, &[&queue.0.to_be_bytes()])
}

pub(crate) fn live(lane: Lane, base: Offset) -> UserKey {
    state(StateKind::Live, &[&[lane as u8], &base.0.to_be_bytes()])
}

pub(crate) fn live_parts(key: &[u8]) -> Option<(Lane, Offset)> {
    let (lane, base) = behind_kind(key).split_first()?;
    let base: [u8; 8] = base.try_into().ok()?;
    Some((lane_of(*lane)?, Offset(u64::from_be_bytes(base))))
}

pub(crate) fn attempts(queue: QueueId, position: Position) -> UserKey {
    state(
        StateKind::Attempts,
        &[&queue.0.to_be_bytes(), &position.0.to_be_bytes()],
    )
}

pub(crate) fn identity(identity: PublisherIdentity) -> UserKey {
    state(StateKind::Identity, &[&identity.0.to_be_bytes()])
}

/// How many messages of a queue are delayed.
pub(crate) fn delayed(queue: QueueId) -> UserKey {
    state(StateKind::Delayed, &[&queue.0.to_be_bytes()])
}

pub(crate) fn due(key: &DueKey) -> UserKey {
    let (kind, number) = match key.number {
        DueNumber::Enter(first) => (ENTER, first.0),
        DueNumber::Expire(last) => (EXPIRE, last.0),
    };
    join(&[
        &SHARD,
        &key.at.to_be_bytes(),
        &key.queue.0.to_be_bytes(),
        &[kind],
        &number.to_be_bytes(),
    ])
}

pub(crate) fn due_parts(key: &[u8]) -> Option<DueKey> {
    let (at, rest) = key.strip_prefix(&SHARD)?.split_first_chunk()?;
    let (queue, rest) = rest.split_first_chunk()?;
    let (kind, number) = rest.split_first()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some(DueKey {
        at: u64::from_be_bytes(*at),
        queue: QueueId(u32::from_be_bytes(*queue)),
        number: match *kind {
            ENTER => DueNumber::Enter(Offset(number)),
            EXPIRE => DueNumber::Expire(Position(number)),
            _ => return None,
        },
    })
}

pub(crate) fn state_prefix(kind: StateKind) -> [u8; 3] {
    [SHARD[0], SHARD[1], kind as u8]
}

pub(crate) fn meta_prefix(kind: MetaKind) -> [u8; 3] {
    [SHARD[0], SHARD[1], kind as u8]
}

/// The first and last key that a kind of `state` can have.
pub(crate) fn state_range(kind: StateKind) -> (Vec<u8>, Vec<u8>) {
    (state_prefix(kind).to_vec(), behind_all(&state_prefix(kind)))
}

/// The first and last key that a kind of `meta` can have.
pub(crate) fn meta_range(kind: MetaKind) -> (Vec<u8>, Vec<u8>) {
    (meta_prefix(kind).to_vec(), behind_all(&meta_prefix(kind)))
}

/// The first and last key of all there are: of all queues in `index` and `ack`, of all deadlines in `due`.
pub(crate) fn all() -> (Vec<u8>, Vec<u8>) {
    (SHARD.to_vec(), behind_all(&SHARD))
}

/// Sorts behind every key with this prefix: no key goes on with so many of the highest byte.
fn behind_all(prefix: &[u8]) -> Vec<u8> {
    [prefix, &[0xff; 32]].concat()
}

/// The part of a `state` or `meta` key behind its kind.
pub(crate) fn behind_kind(key: &[u8]) -> &[u8] {
    key.get(3..).unwrap_or_default()
}

pub(crate) fn queue_of(id: &[u8]) -> Option<QueueId> {
    Some(QueueId(u32::from_be_bytes(id.try_into().ok()?)))
}

pub(crate) fn queue_and_number(id: &[u8]) -> Option<(QueueId, u64)> {
    let (queue, number) = id.split_first_chunk()?;
    let number: [u8; 8] = number.try_into().ok()?;
    Some((QueueId(u32::from_be_bytes(*queue)), u64::from_be_bytes(number)))
}

pub(crate) fn identity_of(id: &[u8]) -> Option<PublisherIdentity> {
    Some(PublisherIdentity(u128::from_be_bytes(id.try_into().ok()?)))
}

/// Definitions are few and are only ever read all together, so that their order does not matter.
pub(crate) fn definition(key: &DefinitionKey) -> Result<UserKey, postcard::Error> {
    let mut bytes = meta_prefix(MetaKind::Definition).to_vec();
    bytes.extend(postcard::to_stdvec(key)?);
    Ok(UserKey::from(bytes))
}

pub(crate) fn module(digest: &Digest) -> UserKey {
    join(&[&meta_prefix(MetaKind::Module), &digest.0])
}

fn state(kind: StateKind, id: &[&[u8]]) -> UserKey {
    let mut parts: [&[u8]; 3] = [&state_prefix(kind), &[], &[]];
    for (to, from) in parts.iter_mut().skip(1).zip(id) {
        *to = from;
    }
    join(&parts)
}

/// Most keys are at most 20 bytes long, which fjall keeps without an allocation.
fn join(parts: &[&[u8]]) -> UserKey {
    let mut bytes = [0; 40];
    let mut len = 0;
    for part in parts {
        bytes[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    UserKey::new(&bytes[..len])
}

#[cfg(test)]
mod tests {
    use pointsman_core::{ExchangeId, RouterId, VhostId};
    use pointsman_protocol::admin::BindingSpec;

    use super::*;

    #[test]
    fn keys_of_one_queue_sort_by_position_and_lie_together() {
        let keys = [
            in_queue(QueueId(1), u64::MAX),
            in_queue(QueueId(2), 0),
            in_queue(QueueId(2), 255),
            in_queue(QueueId(2), 256),
            in_queue(QueueId(3), 0),
        ];
        assert!(keys.is_sorted());
        assert_eq!(in_queue_parts(&keys[3]), Some((QueueId(2), 256)));
    }

    /// These bytes are on users' disks. A change of any of them needs a new format.
    #[test]
    fn every_key_has_the_bytes_of_format_1() {
        let queue = QueueId(258);
        assert_eq!(in_queue(queue, 3).as_ref(), b"\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(progress().as_ref(), b"\0\0\0");
        assert_eq!(queue_state(queue).as_ref(), b"\0\0\x01\0\0\x01\x02");
        assert_eq!(
            live(Lane::Streams, Offset(3)).as_ref(),
            b"\0\0\x02\x01\0\0\0\0\0\0\0\x03"
        );
        assert_eq!(
            attempts(queue, Position(3)).as_ref(),
            b"\0\0\x03\0\0\x01\x02\0\0\0\0\0\0\0\x03"
        );
        let id = [&[0, 0, 4], 3u128.to_be_bytes().as_slice()].concat();
        assert_eq!(identity(PublisherIdentity(3)).as_ref(), id);
        assert_eq!(gone(queue).as_ref(), b"\0\0\x05\0\0\x01\x02");
        assert_eq!(delayed(queue).as_ref(), b"\0\0\x06\0\0\x01\x02");
        assert_eq!(
            module(&Digest([7; 32])).as_ref(),
            [&[0, 0, 1], [7; 32].as_slice()].concat()
        );
        let key = |key| definition(&key).unwrap().to_vec();
        assert_eq!(key(DefinitionKey::Vhost(VhostId(1))), b"\0\0\0\0\x01");
        assert_eq!(key(DefinitionKey::User("u".to_owned())), b"\0\0\0\x01\x01u");
        assert_eq!(key(DefinitionKey::Exchange(ExchangeId(1))), b"\0\0\0\x02\x01");
        assert_eq!(key(DefinitionKey::Queue(QueueId(300))), b"\0\0\0\x03\xac\x02");
        let binding = BindingSpec::to_queue("x", "q", "k").argument("a", 3);
        assert_eq!(
            key(DefinitionKey::Binding(VhostId(1), binding)),
            b"\0\0\0\x04\x01\x01x\0\x01q\x01k\x01\x01a\x01\x06"
        );
        assert_eq!(key(DefinitionKey::Router(RouterId(1))), b"\0\0\0\x05\x01");
        assert_eq!(
            key(DefinitionKey::RouterVersion(RouterId(1), 2)),
            b"\0\0\0\x06\x01\x02"
        );
        assert_eq!(key(DefinitionKey::Ids), b"\0\0\0\x07");
    }

    #[test]
    fn a_due_key_has_the_bytes_of_format_1_and_sorts_by_deadline() {
        let key = |at, number| DueKey {
            at,
            queue: QueueId(258),
            number,
        };
        let keys = [
            key(255, DueNumber::Expire(Position(3))),
            key(256, DueNumber::Enter(Offset(3))),
            key(256, DueNumber::Enter(Offset(256))),
            key(256, DueNumber::Expire(Position(3))),
        ];
        assert!(keys.is_sorted() && keys.map(|key| due(&key)).is_sorted());
        for (key, bytes) in [
            (keys[1], b"\0\0\0\0\0\0\0\0\x01\0\0\0\x01\x02\0\0\0\0\0\0\0\0\x03"),
            (
                keys[3],
                b"\0\0\0\0\0\0\0\0\x01\0\0\0\x01\x02\x01\0\0\0\0\0\0\0\x03",
            ),
        ] {
            assert_eq!(due(&key).as_ref(), bytes);
            assert_eq!(due_parts(bytes), Some(key));
        }
        let mut other = due(&keys[0]).to_vec();
        other[14] = 2;
        assert_eq!((due_parts(&other), due_parts(b"short")), (None, None));
    }

    #[test]
    fn a_chunk_key_says_where_its_part_belongs() {
        let key = chunk(Lane::Streams, Offset(7), 3);
        assert_eq!(key.as_ref(), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3]);
        assert_eq!(chunk_parts(&key), Some((Lane::Streams, Offset(7), 3)));
        assert_eq!(chunk_parts(b"short"), None);
        let key = live(Lane::Streams, Offset(7));
        assert_eq!(live_parts(&key), Some((Lane::Streams, Offset(7))));
        assert_eq!(live_parts(&key[..9]), None);
    }
}
