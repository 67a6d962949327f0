//! Batches: changes of keys, as they lie in the write-ahead log.
//!
//! The payload of a batch's blocks, one behind the other (big-endian):
//!
//! ```text
//! u64   length of what follows, in bytes
//! 1 u8 keyspace, u8 0 for a value or 1 for a removal, u16 length of the key, u32 length of the value, key, value    each change
//! ```

use std::num::NonZeroU64;

use bytes::{Buf, Bytes};
use fjall::{UserKey, UserValue};

use super::block::PAYLOAD;
use crate::staged::{Change, Changes, Table, Value};

/// Length of what comes in front of a key, in bytes.
pub(super) const FIXED: usize = 8;

/// Values up to this length are copied out of the batch they were read from, so that they do not keep all of it in memory.
const COPIED_MAX: usize = 1_024;

/// Length of the payload, in bytes.
pub(super) fn len(changes: &Changes) -> usize {
    let change =
        |change: &Change| FIXED + change.key.len() + change.value.as_ref().map_or(0, |value| value.len());
    8 + changes.iter().flatten().map(change).sum::<usize>()
}

/// Hands the payload to `put`, piece by piece.
pub(super) fn encode<E>(changes: &Changes, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    put(&(len(changes) as u64 - 8).to_be_bytes())?;
    for (table, changes) in Table::ALL.into_iter().zip(changes) {
        for Change { key, value, .. } in changes {
            let mut fixed = [0; FIXED];
            fixed[0] = table as u8;
            fixed[1] = u8::from(value.is_none());
            fixed[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
            let len = value.as_ref().map_or(0, Value::len);
            fixed[4..].copy_from_slice(&(len as u32).to_be_bytes());
            put(&fixed)?;
            put(key)?;
            for piece in value.iter().flat_map(Value::pieces) {
                put(piece)?;
            }
        }
    }
    Ok(())
}

/// Notes where parts of chunks will lie, in a batch that begins at this block.
pub(super) fn locate(changes: &mut Changes, block: u64) {
    let mut at = block * PAYLOAD as u64 + 8;
    // They come first in a batch.
    for change in &mut changes[Table::Log as usize] {
        at += (FIXED + change.key.len()) as u64;
        change.at = NonZeroU64::new(at);
        at += change.value.as_ref().map_or(0, |value| value.len() as u64);
    }
}

/// Reads the payload of a batch that begins at this block; `None` when it is not one.
pub(super) fn decode(mut payload: Bytes, block: u64) -> Option<Changes> {
    let len = payload.try_get_u64().ok()?;
    let mut payload = payload
        .get(..usize::try_from(len).ok()?)
        .map(|all| payload.slice_ref(all))?;
    let mut changes = Changes::default();
    while !payload.is_empty() {
        let table = payload.try_get_u8().ok()?;
        if table == Table::Kept as u8 {
            return None;
        }
        let removed = payload.try_get_u8().ok()?;
        let key_len = usize::from(payload.try_get_u16().ok()?);
        let value_len = payload.try_get_u32().ok()? as usize;
        if payload.len() < key_len + value_len || removed > 1 {
            return None;
        }
        let key = UserKey::new(&payload.split_to(key_len));
        let value = payload.split_to(value_len);
        let value: Value = match value.len() {
            0..=COPIED_MAX => UserValue::new(&value).into(),
            _ => value.into(),
        };
        changes.get_mut(usize::from(table))?.push(Change {
            key,
            value: (removed == 0).then_some(value),
            is_new: false,
            at: None,
        });
    }
    locate(&mut changes, block);
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Changes {
        let mut changes = Changes::default();
        changes[Table::Index as usize].push(Change::put("key".into(), UserValue::from("value")));
        changes[Table::Due as usize].push(Change::remove("k".into()));
        changes
    }

    #[test]
    fn a_batch_is_read_back_as_it_was_written() {
        let mut payload = Vec::new();
        encode(&changes(), |bytes| {
            payload.extend_from_slice(bytes);
            Ok::<_, ()>(())
        })
        .unwrap();
        let golden = b"\0\0\0\0\0\0\0\x19\x01\0\0\x03\0\0\0\x05keyvalue\x05\x01\0\x01\0\0\0\0k";
        assert_eq!(payload, golden);
        assert_eq!(payload.len(), len(&changes()));
        payload.extend_from_slice(&[0; 50]);
        assert_eq!(decode(payload.into(), 0), Some(changes()));
    }

    #[test]
    fn parts_of_chunks_are_where_they_were_written() {
        let mut changes = changes();
        let values = ["one", "three"].map(|value| Change::put("key".into(), UserValue::from(value)));
        changes[Table::Log as usize] = values.into();
        let mut payload = Vec::new();
        encode(&changes, |bytes| {
            payload.extend_from_slice(bytes);
            Ok::<_, ()>(())
        })
        .unwrap();
        locate(&mut changes, 2);
        for change in &changes[Table::Log as usize] {
            let at = change.at.unwrap().get() as usize - 2 * PAYLOAD;
            assert!(payload[at..].starts_with(&change.value.as_ref().unwrap().bytes()));
        }
        assert_eq!(decode(payload.into(), 2), Some(changes));
    }

    #[test]
    fn what_is_no_batch_is_none() {
        assert_eq!(decode(Bytes::new(), 0), None);
        let mut payload = Vec::new();
        encode(&changes(), |bytes| {
            payload.extend_from_slice(bytes);
            Ok::<_, ()>(())
        })
        .unwrap();
        for len in 0..payload.len() {
            assert_eq!(
                decode(Bytes::copy_from_slice(&payload[..len]), 0),
                None,
                "{len} bytes"
            );
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            // Whatever it is, it is read without harm.
            let mut noise = payload.clone();
            noise
                .iter_mut()
                .skip(7)
                .for_each(|byte| *byte ^= random.u8(..) & random.u8(..) & random.u8(..));
            let _ = decode(noise.into(), 0);
        }
        for (at, byte) in [(8, 6), (9, 2), (11, 200)] {
            let mut changed = payload.clone();
            changed[at] = byte;
            assert_eq!(decode(changed.into(), 0), None, "byte {at}");
        }
    }
}
