//! Remembers decisions of modules whose plan says that they depend on nothing but the fields it declares.
//!
//! A cache belongs to one version that decides for one exchange with its bindings as they are: whatever changes of
//! them makes a new one. Its key is what the module would see of a message and nothing else. A hit takes no lock and
//! allocates nothing.
//!
//! Whether the plan is true is checked all the time: one in [`RECHECK_EVERY`] look-ups asks the module anyway, and
//! whatever it decides is compared with what is remembered. The first difference ends the remembering for that
//! version, and the router's log says so.

mod key;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use pointsman_router::packed::Plan;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::Answer;
use super::record::Record;
use super::view::View;
use crate::limits::{CACHE_ENTRIES, RECHECK_EVERY};
use key::Key;

/// Decisions of one version for one exchange. Empty until the first instance has answered its plan.
#[derive(Default)]
pub(crate) struct DecisionCache(OnceLock<Learnt>);

/// What the first instance's plan said.
struct Learnt {
    plan: Plan,
    version: u32,
    record: Arc<Record>,
    /// Shared by all caches of the version.
    untrue: Arc<AtomicBool>,
    look_ups: AtomicU64,
    /// `None` when the plan does not allow it or there is no room.
    slots: Option<Slots>,
}

struct Slots {
    room: Arc<Room>,
    /// A key may be in either of two neighbours.
    entries: Box<[ArcSwapOption<Entry>]>,
    /// A part of the hash of the last key that was missed: only what comes again is worth an entry.
    missed: Box<[AtomicU32]>,
    /// For these two tables.
    _lease: Lease,
}

struct Entry {
    key: Box<[u8]>,
    decision: Decision,
    _lease: Lease,
}

/// A decision that is remembered. Targets are few, so that a copy of them allocates nothing; what changes a message or
/// rejects it is decided each time.
#[derive(Clone, PartialEq, Eq)]
enum Decision {
    Unroutable,
    Deliver(SmallVec<[u32; 4]>),
}

/// Bytes of all caches of a host.
pub(crate) struct Room {
    used: AtomicUsize,
    limit: usize,
}

/// A part of the room, given back when it is dropped.
struct Lease {
    room: Arc<Room>,
    bytes: usize,
}

/// A version decided equal messages differently, or answered another plan than before.
struct Untrue(&'static str);

impl DecisionCache {
    /// Takes in the plan of a new instance.
    pub(crate) fn learn(&self, plan: &Plan, version: u32, record: &Arc<Record>, room: &Arc<Room>) {
        let learnt = self.0.get_or_init(|| Learnt {
            plan: plan.clone(),
            version,
            record: record.clone(),
            untrue: record.untrue(version),
            look_ups: AtomicU64::new(0),
            slots: plan.is_cacheable().then(|| Slots::new(room)).flatten(),
        });
        if learnt.plan != *plan {
            learnt.give_up(&Untrue("it was configured again and declared another plan"));
        }
    }

    /// The answers that are remembered, in the order of the messages, or `None` where the module has to be asked;
    /// `None` for all when nothing is remembered.
    pub(crate) fn look_up(&self, messages: &[View<'_>]) -> Option<Vec<Option<Answer>>> {
        let (learnt, slots) = self.in_use()?;
        let count = messages.len() as u64;
        let number = learnt.look_ups.fetch_add(count, Ordering::Relaxed);
        let answer = |(number, message): (u64, &View<'_>)| {
            let asks_anyway = number.is_multiple_of(RECHECK_EVERY);
            if asks_anyway {
                return None;
            }
            slots.find(&Key::of(&learnt.plan, message)?)
        };
        let answers: Vec<Option<Answer>> = (number..).zip(messages).map(answer).collect();
        let hits = answers.iter().flatten().count();
        learnt.record.cached(hits);
        Some(answers)
    }

    /// Takes in what the module decided just now.
    pub(crate) fn remember(&self, messages: &[View<'_>], answers: &[Answer]) {
        let Some((learnt, slots)) = self.in_use() else {
            return;
        };
        for (message, answer) in messages.iter().zip(answers) {
            let Some(key) = Key::of(&learnt.plan, message) else {
                continue;
            };
            if let Err(untrue) = slots.remember(&key, answer) {
                return learnt.give_up(&untrue);
            }
        }
    }

    fn in_use(&self) -> Option<(&Learnt, &Slots)> {
        let learnt = self.0.get()?;
        let slots = learnt.slots.as_ref()?;
        (!learnt.untrue.load(Ordering::Relaxed)).then_some((learnt, slots))
    }
}

impl Learnt {
    /// Remembers nothing of this version any more, in any cache, and says so once.
    fn give_up(&self, Untrue(why): &Untrue) {
        if let Some(slots) = &self.slots {
            slots.entries.iter().for_each(|entry| entry.store(None));
        }
        if !self.untrue.swap(true, Ordering::Relaxed) && self.plan.is_cacheable() {
            let text = format!(
                "its plan says cacheable and is not true: {why}; its decisions are no longer remembered"
            );
            tracing::warn!(version = self.version, "a router module failed: {text}");
            self.record.note(self.version, text);
        }
    }
}

impl Slots {
    fn new(room: &Arc<Room>) -> Option<Slots> {
        let each = size_of::<ArcSwapOption<Entry>>() + size_of::<AtomicU32>();
        let lease = room.lease(CACHE_ENTRIES * each)?;
        Some(Slots {
            room: room.clone(),
            entries: (0..CACHE_ENTRIES).map(|_| ArcSwapOption::empty()).collect(),
            missed: (0..CACHE_ENTRIES).map(|_| AtomicU32::new(0)).collect(),
            _lease: lease,
        })
    }

    fn find(&self, key: &Key) -> Option<Answer> {
        places(xxh3_64(key.bytes())).into_iter().find_map(|place| {
            let entry = self.entries[place].load();
            let entry = entry.as_ref().filter(|entry| *entry.key == *key.bytes())?;
            Some(match &entry.decision {
                Decision::Unroutable => Answer::Unroutable,
                Decision::Deliver(targets) => Answer::Deliver(targets.clone()),
            })
        })
    }

    fn remember(&self, key: &Key, answer: &Answer) -> Result<(), Untrue> {
        let decision = match answer {
            Answer::Unroutable => Some(Decision::Unroutable),
            Answer::Deliver(targets) if !targets.spilled() => Some(Decision::Deliver(targets.clone())),
            Answer::Deliver(_) | Answer::DeliverChanged(_) | Answer::Reject(_) => None,
            // Says nothing about the plan.
            Answer::Failed { .. } | Answer::Refuse(_) => return Ok(()),
        };
        let hash = xxh3_64(key.bytes());
        let places = places(hash);
        for place in places {
            let known = self.entries[place].load();
            if let Some(known) = known.as_ref().filter(|known| *known.key == *key.bytes()) {
                return match decision.as_ref() == Some(&known.decision) {
                    true => Ok(()),
                    false => Err(Untrue(
                        "it decided a message otherwise than one that is equal in all it declared",
                    )),
                };
            }
        }
        let mark = (hash >> 32) as u32;
        if let Some(decision) = decision
            && self.missed[places[0]].swap(mark, Ordering::Relaxed) == mark
            && let Some(lease) = self.room.lease(key.bytes().len() + ENTRY_BYTES)
        {
            // An empty place, or the one that half of the keys prefer.
            let empty = places
                .into_iter()
                .find(|place| self.entries[*place].load().is_none());
            let place = empty.unwrap_or(places[0]);
            self.entries[place].store(Some(Arc::new(Entry {
                key: key.bytes().into(),
                decision,
                _lease: lease,
            })));
        }
        Ok(())
    }
}

/// What an entry takes beside its key, in bytes: itself, and the allocator's and the reference counts' share.
const ENTRY_BYTES: usize = size_of::<Entry>() + 48;

/// Where a key may be; the first is preferred.
fn places(hash: u64) -> [usize; 2] {
    let place = hash as usize % CACHE_ENTRIES;
    [place, place ^ 1]
}

impl Room {
    /// Room for that many bytes.
    pub(crate) fn new(limit: usize) -> Arc<Room> {
        Arc::new(Room {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    fn lease(self: &Arc<Room>, bytes: usize) -> Option<Lease> {
        let lease = Lease {
            room: self.clone(),
            bytes,
        };
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Too much is given back at once, as the lease is dropped.
        (used <= self.limit).then_some(lease)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
