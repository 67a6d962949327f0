//! Reading all of a keyspace that can be read, around blocks that fail their check.

use fjall::Keyspace;

use crate::error::{Damage, StoreError};
use crate::keys::{self, StateKind};
use crate::staged::{Keyspaces, Table};
use crate::store::{read_from, value_damage};

/// Hands every readable pair from `first` to `last` to `take`, which answers `None` when the value does not decode.
/// Notes what could not be read or does not decode in `damage`. Next to a block that fails its check, the pair in
/// front of it may count as unreadable as well.
///
/// # Errors
/// When reading fails for a reason other than damage.
pub(crate) fn scan(
    keyspace: &Keyspace,
    table: Table,
    first: &[u8],
    last: &[u8],
    damage: &mut Vec<Damage>,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), StoreError> {
    let mut from = first.to_vec();
    loop {
        let mut failed = false;
        for guard in keyspace.range(from.clone()..=last.to_vec()) {
            match guard.into_inner().map_err(|e| read_from(table, e)) {
                Ok((key, value)) => {
                    if take(&key, &value).is_none() {
                        damage.push(value_damage(table, &key));
                    }
                    // The lowest key behind this one.
                    from = [key.as_ref(), &[0]].concat();
                }
                Err(StoreError::Damaged(found)) => {
                    note(damage, found);
                    failed = true;
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        if !failed {
            return Ok(());
        }
        match next_readable(keyspace, table, &from, last)? {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// As [`scan`], for all of a kind of `state`. `take` gets what stands behind the kind in the key.
pub(crate) fn scan_state(
    keyspaces: &Keyspaces,
    kind: StateKind,
    damage: &mut Vec<Damage>,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), StoreError> {
    let (first, last) = keys::state_range(kind);
    let state = &keyspaces[Table::State as usize];
    scan(state, Table::State, &first, &last, damage, |key, value| {
        take(keys::behind_kind(key), value)
    })
}

/// Adds damage that is not known yet.
pub(crate) fn note(damage: &mut Vec<Damage>, found: Damage) {
    if !damage.contains(&found) {
        damage.push(found);
    }
}

/// A key behind `from` at which reading works again: doubles the distance until it does, then halves the last step
/// until it finds the edge. The distance is counted in the first 16 bytes of keys.
fn next_readable(
    keyspace: &Keyspace,
    table: Table,
    from: &[u8],
    last: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut bad, end) = (number(from), number(last));
    let mut step: u128 = 1;
    let mut good = loop {
        let Some(probe) = bad.checked_add(step).filter(|probe| *probe <= end) else {
            return Ok(None);
        };
        if is_readable(keyspace, table, probe, last)? {
            break probe;
        }
        bad = probe;
        step = step.saturating_mul(2);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if is_readable(keyspace, table, middle, last)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Some(good.to_be_bytes().to_vec()))
}

fn is_readable(keyspace: &Keyspace, table: Table, from: u128, last: &[u8]) -> Result<bool, StoreError> {
    match keyspace.range(from.to_be_bytes().to_vec()..=last.to_vec()).next() {
        None => Ok(true),
        Some(guard) => match guard.key().map_err(|e| read_from(table, e)) {
            Ok(_) => Ok(true),
            Err(StoreError::Damaged(_)) => Ok(false),
            Err(other) => Err(other),
        },
    }
}

/// The first 16 bytes of a key, filled up with zeros.
fn number(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(bytes.len());
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}
