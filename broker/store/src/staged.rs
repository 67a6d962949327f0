//! The changes of one group of commits, before they become one batch.
//!
//! A key that is written several times in a group goes to disk once, with its last value: fjall gives all changes of
//! a batch the same number, so that two changes of one key would have no order.
//!
//! They go in the order of their keys. A memtable is a skip list: where each key is close to the one before, the way to
//! its place is still in the processor's cache, and in any other order most of it is not.

use std::collections::HashMap;

use fjall::{Keyspace, OwnedWriteBatch, UserKey, UserValue};

use crate::live::{ChunkId, Known};

/// The keyspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Log = 0,
    Index = 1,
    Ack = 2,
    State = 3,
    Meta = 4,
    Due = 5,
}

/// All keyspaces, by [`Table`].
pub(crate) type Keyspaces = [Keyspace; Table::ALL.len()];

impl Table {
    pub(crate) const ALL: [Table; 6] = [
        Table::Log,
        Table::Index,
        Table::Ack,
        Table::State,
        Table::Meta,
        Table::Due,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Log => "log",
            Table::Index => "index",
            Table::Ack => "ack",
            Table::State => "state",
            Table::Meta => "meta",
            Table::Due => "due",
        }
    }
}

/// Changes that wait for their batch. Its memory is kept for the next group.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// In the order they came; `None` removes the key.
    changes: [Vec<(UserKey, Option<UserValue>)>; Table::ALL.len()],
    /// What is left of the chunks that were appended or released in this group.
    pub(crate) touched: HashMap<ChunkId, Known>,
    /// To encode values in.
    pub(crate) buffer: Vec<u8>,
}

impl Staged {
    pub(crate) fn put(&mut self, table: Table, key: UserKey, value: UserValue) {
        self.changes[table as usize].push((key, Some(value)));
    }

    pub(crate) fn remove(&mut self, table: Table, key: UserKey) {
        self.changes[table as usize].push((key, None));
    }

    /// Drops what this group was about to write under keys from `first` to `last`, and removes them.
    pub(crate) fn remove_range(&mut self, table: Table, first: &UserKey, last: &UserKey) {
        for (key, value) in &mut self.changes[table as usize] {
            if (first..=last).contains(&&*key) {
                *value = None;
            }
        }
    }

    /// Moves the last change of each key to a batch and returns its size, in bytes of keys and values.
    pub(crate) fn drain_to(&mut self, batch: &mut OwnedWriteBatch, keyspaces: &Keyspaces) -> u64 {
        let mut bytes = 0;
        for (changes, keyspace) in self.changes.iter_mut().zip(keyspaces) {
            keep_last_of_each_key(changes);
            for (key, value) in changes.drain(..) {
                bytes += key.len();
                match value {
                    Some(value) => {
                        bytes += value.len();
                        batch.insert(keyspace, key, value);
                    }
                    None => batch.remove(keyspace, key),
                }
            }
        }
        bytes as u64
    }

    pub(crate) fn clear(&mut self) {
        self.changes.iter_mut().for_each(Vec::clear);
        self.touched.clear();
    }
}

/// Sorts changes by key, and of those of one key leaves the one that came last.
fn keep_last_of_each_key(changes: &mut Vec<(UserKey, Option<UserValue>)>) {
    changes.sort_by(|(one, _), (other, _)| one.cmp(other)); // stable: changes of one key stay in their order
    changes.dedup_by(|(later, value), (kept, last)| {
        let same = later == kept;
        if same {
            std::mem::swap(value, last);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> (UserKey, Option<UserValue>) {
        (key.into(), value.map(UserValue::from))
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
}
