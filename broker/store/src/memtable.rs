//! The memtable: what batches changed and no table has yet.
//!
//! Each key is there once, with its last value. A key that was new and is removed again leaves nothing: most messages are
//! settled soon, and cost no table anything.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU64;
use std::ops::Bound;

use fjall::UserKey;

use crate::staged::{Change, Changes, Table, Value};

/// About what an entry takes beside its key and value, in bytes.
const ENTRY_BYTES: usize = 96;

/// The last value of a key.
#[derive(Debug)]
pub(crate) struct Last {
    /// `None` when the key was removed.
    pub(crate) value: Option<Value>,
    /// Whether no table, and no memtable on its way to one, has the key.
    pub(crate) is_new: bool,
    /// As in [`Change`].
    pub(crate) at: Option<NonZeroU64>,
}

/// The changes of a number of batches.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    entries: [BTreeMap<UserKey, Last>; Table::ALL.len()],
    bytes: usize,
}

impl Memtable {
    /// Takes the changes of a batch; their memory is left for the next.
    pub(crate) fn take(&mut self, changes: &mut Changes) {
        for (entries, changes) in self.entries.iter_mut().zip(changes) {
            for change in changes.drain(..) {
                let Change {
                    key,
                    value,
                    is_new,
                    at,
                } = change;
                let key_len = key.len();
                match entries.entry(key) {
                    Entry::Occupied(mut last) => {
                        self.bytes -= weight(&last.get().value, key_len);
                        if value.is_none() && last.get().is_new {
                            last.remove();
                            continue;
                        }
                        self.bytes += weight(&value, key_len);
                        let last = last.get_mut();
                        (last.value, last.at) = (value, at);
                    }
                    Entry::Vacant(_) if value.is_none() && is_new => {}
                    Entry::Vacant(place) => {
                        self.bytes += weight(&value, key_len);
                        place.insert(Last { value, is_new, at });
                    }
                }
            }
        }
    }

    /// The last value of a key: `None` when it is not here, `Some(None)` when it was removed.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<Value>> {
        self.last(table, key).map(|last| last.value.clone())
    }

    /// Keys of a range and their last values, in order.
    pub(crate) fn range(
        &self,
        table: Table,
        range: (Bound<&UserKey>, Bound<&UserKey>),
    ) -> impl Iterator<Item = (&UserKey, Option<&Value>)> {
        let entries = self.entries[table as usize].range::<UserKey, _>(range);
        entries.map(|(key, last)| (key, last.value.as_ref()))
    }

    /// All of a table's keys and what was last done to them, in order.
    pub(crate) fn table(&self, table: Table) -> impl Iterator<Item = (&UserKey, &Last)> {
        self.entries[table as usize].iter()
    }

    /// What was last done to a key.
    pub(crate) fn last(&self, table: Table, key: &[u8]) -> Option<&Last> {
        self.entries[table as usize].get(key)
    }

    /// About the bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn weight(value: &Option<Value>, key_len: usize) -> usize {
    ENTRY_BYTES + key_len + value.as_ref().map_or(0, |value| value.len() + value.overhead())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str) -> Value {
        fjall::UserValue::from(text).into()
    }

    fn changes(list: &[(&str, Option<&str>, bool)]) -> Changes {
        let mut changes = Changes::default();
        changes[0] = list
            .iter()
            .map(|&(key, value, is_new)| Change {
                key: key.into(),
                value: value.map(value_of),
                is_new,
                at: None,
            })
            .collect();
        changes
    }

    #[test]
    fn a_new_key_that_is_removed_leaves_nothing_and_another_a_removal() {
        let mut memtable = Memtable::default();
        memtable.take(&mut changes(&[
            ("new", Some("1"), true),
            ("old", Some("1"), false),
        ]));
        memtable.take(&mut changes(&[("new", Some("2"), false)]));
        assert_eq!(memtable.get(Table::Log, b"new"), Some(Some(value_of("2"))));
        memtable.take(&mut changes(&[("new", None, false), ("old", None, false)]));
        assert_eq!(memtable.get(Table::Log, b"new"), None);
        assert_eq!(memtable.get(Table::Log, b"old"), Some(None));
        assert_eq!(memtable.bytes(), weight(&None, 3));
        // What is written over a removal may be in a table.
        memtable.take(&mut changes(&[("old", Some("3"), true)]));
        memtable.take(&mut changes(&[("old", None, false)]));
        assert_eq!(memtable.get(Table::Log, b"old"), Some(None));
    }

    #[test]
    fn what_comes_and_goes_in_one_batch_leaves_nothing() {
        let mut memtable = Memtable::default();
        memtable.take(&mut changes(&[("a", None, true)]));
        assert_eq!((memtable.table(Table::Log).count(), memtable.bytes()), (0, 0));
    }

    #[test]
    fn a_range_is_in_order_with_removals() {
        let mut memtable = Memtable::default();
        let all = [
            ("c", Some("3"), false),
            ("a", Some("1"), false),
            ("b", None, false),
        ];
        memtable.take(&mut changes(&all));
        let from = UserKey::from("b");
        let range = memtable.range(Table::Log, (Bound::Included(&from), Bound::Unbounded));
        let found: Vec<_> = range
            .map(|(key, value)| (&**key, value.map(Value::bytes)))
            .collect();
        assert_eq!(found, [(&b"b"[..], None), (b"c", Some(b"3"[..].into()))]);
    }
}
