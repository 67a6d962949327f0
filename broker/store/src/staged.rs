//! The changes of one group of commits, before they become one batch.
//!
//! A key that is written several times in a group goes to disk once, with its last value. They go in the order of their
//! keys: where each is close to the one before, the way to its place in the memtable is still in the processor's cache,
//! and in any other order most of it is not.

use std::borrow::Cow;
use std::num::NonZeroU64;

use bytes::Bytes;
use byteview::ByteView;
use fjall::{Keyspace, UserKey, UserValue};
use rustc_hash::FxHashMap;

use crate::live::{ChunkId, Known};

/// What a value in two pieces takes beside them, in bytes; a round figure.
const SPLIT_BYTES: usize = 192;

/// The keyspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Log = 0,
    Index = 1,
    Ack = 2,
    State = 3,
    Meta = 4,
    Due = 5,
    /// Which values of [`Table::Log`] are still in the write-ahead log. Only a flush changes it.
    Kept = 6,
}

/// All keyspaces, by [`Table`].
pub(crate) type Keyspaces = [Keyspace; Table::ALL.len()];

impl Table {
    pub(crate) const ALL: [Table; 7] = [
        Table::Log,
        Table::Index,
        Table::Ack,
        Table::State,
        Table::Meta,
        Table::Due,
        Table::Kept,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Log => "log",
            Table::Index => "index",
            Table::Ack => "ack",
            Table::State => "state",
            Table::Meta => "meta",
            Table::Due => "due",
            Table::Kept => "kept",
        }
    }
}

/// A value that is to be written or was read.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// As fjall has it: short ones take no memory of their own.
    Table(UserValue),
    /// Shared with the message that it is of.
    Shared(Bytes),
    /// The first part of a chunk: what was put in front of its records, and the rest, which is shared with the chunk.
    Split(Box<(Bytes, Bytes)>),
}

impl Value {
    /// Its length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Its bytes, of which the second piece may be empty.
    pub(crate) fn pieces(&self) -> [&[u8]; 2] {
        match self {
            Value::Table(value) => [value, &[]],
            Value::Shared(bytes) => [bytes, &[]],
            Value::Split(pieces) => [&pieces.0, &pieces.1],
        }
    }

    /// As [`Value::pieces`], not copied.
    pub(crate) fn into_pieces(self) -> (Bytes, Bytes) {
        match self {
            Value::Table(value) => (Bytes::from_owner(value), Bytes::new()),
            Value::Shared(bytes) => (bytes, Bytes::new()),
            Value::Split(pieces) => *pieces,
        }
    }

    /// Its bytes, copied if they are in two pieces.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match self.pieces() {
            [all, []] => all.into(),
            both => both.concat().into(),
        }
    }

    /// As fjall takes it, which for a shared one is a copy.
    pub(crate) fn for_table(&self) -> UserValue {
        match self {
            Value::Table(value) => value.clone(),
            Value::Shared(bytes) => UserValue::new(bytes),
            Value::Split(pieces) => ByteView::fused(&pieces.0, &pieces.1).into(),
        }
    }

    /// Bytes of memory it takes beside its own, about.
    pub(crate) fn overhead(&self) -> usize {
        match self {
            Value::Table(_) | Value::Shared(_) => 0,
            Value::Split(_) => SPLIT_BYTES,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Value {}

impl From<UserValue> for Value {
    fn from(value: UserValue) -> Value {
        Value::Table(value)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        Value::Shared(bytes)
    }
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: UserKey,
    /// `None` removes the key.
    pub(crate) value: Option<Value>,
    /// Whether it is certain that the key was in no batch before, or was removed since: if it is removed while it is in the
    /// memtable, nothing of it goes to a table.
    pub(crate) is_new: bool,
    /// Where the log has the value of a part of a chunk; see [`crate::wal::Extent`].
    pub(crate) at: Option<NonZeroU64>,
}

impl Change {
    pub(crate) fn put(key: UserKey, value: impl Into<Value>) -> Change {
        Change {
            key,
            value: Some(value.into()),
            is_new: false,
            at: None,
        }
    }

    pub(crate) fn remove(key: UserKey) -> Change {
        Change {
            key,
            value: None,
            is_new: false,
            at: None,
        }
    }
}

/// Changes by [`Table`], in the order they came.
pub(crate) type Changes = [Vec<Change>; Table::ALL.len()];

/// Changes that wait for their batch. Its memory is kept for the next group.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) changes: Changes,
    /// What is left of the chunks that were appended or released in this group.
    pub(crate) touched: FxHashMap<ChunkId, Known>,
    /// To encode values in.
    pub(crate) buffer: Vec<u8>,
}

impl Staged {
    pub(crate) fn put(&mut self, table: Table, key: UserKey, value: impl Into<Value>) {
        self.changes[table as usize].push(Change::put(key, value));
    }

    /// As [`Staged::put`], for a key that is in no table and no memtable.
    pub(crate) fn put_new(&mut self, table: Table, key: UserKey, value: impl Into<Value>) {
        let change = Change::put(key, value);
        self.changes[table as usize].push(Change {
            is_new: true,
            ..change
        });
    }

    pub(crate) fn remove(&mut self, table: Table, key: UserKey) {
        self.changes[table as usize].push(Change::remove(key));
    }

    /// Drops what this group was about to write under keys from `first` to `last`, and removes them.
    pub(crate) fn remove_range(&mut self, table: Table, first: &UserKey, last: &UserKey) {
        for change in &mut self.changes[table as usize] {
            if (first..=last).contains(&&change.key) {
                change.value = None;
            }
        }
    }

    /// Sorts the changes by key, and of those of one key leaves the one that came last.
    pub(crate) fn settle(&mut self) {
        self.changes.iter_mut().for_each(keep_last_of_each_key);
    }

    pub(crate) fn clear(&mut self) {
        self.changes.iter_mut().for_each(Vec::clear);
        self.touched.clear();
    }
}

/// The key stays new if it was before the first of them.
fn keep_last_of_each_key(changes: &mut Vec<Change>) {
    changes.sort_by(|one, other| one.key.cmp(&other.key)); // stable: changes of one key stay in their order
    changes.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same {
            std::mem::swap(&mut later.value, &mut kept.value);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> Change {
        Change {
            value: value.map(|value| UserValue::from(value).into()),
            ..Change::remove(key.into())
        }
    }

    #[test]
    fn changes_of_a_group_are_in_the_order_of_keys_and_of_each_key_the_last_is_left() {
        let mut changes = vec![
            change("b", Some("1")),
            change("c", Some("1")),
            change("b", None),
            change("a", None),
            change("c", Some("2")),
            change("a", Some("1")),
            change("c", Some("3")),
        ];
        keep_last_of_each_key(&mut changes);
        let last = [change("a", Some("1")), change("b", None), change("c", Some("3"))];
        assert_eq!(changes, last);
    }

    #[test]
    fn a_key_is_new_if_it_was_before_the_group() {
        let new = |value| Change {
            is_new: true,
            ..change("a", value)
        };
        let mut changes = vec![new(Some("1")), change("a", None)];
        keep_last_of_each_key(&mut changes);
        assert_eq!(changes, [new(None)]);
        let mut changes = vec![change("a", None), new(Some("2"))];
        keep_last_of_each_key(&mut changes);
        assert_eq!(changes, [change("a", Some("2"))]);
    }
}
