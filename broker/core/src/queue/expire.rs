//! Messages whose time is over leave the queue, wherever in it they wait. What a consumer has it may still settle; when
//! it gives it back, it is gone.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Queue;
use super::pages::Next;
use crate::commit::{Commit, Record, Run};
use crate::due::{DueKey, DueNumber, ExpiringRun};
use crate::ids::Position;
use crate::log::Log;

/// Positions that consumers have though their time is over. Their entries stay on disk until none is left, so that a
/// restart expires them.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    /// The end and entry of each range, by its first position.
    ranges: BTreeMap<u64, (u64, DueKey)>,
    /// How many positions of each entry there are.
    left: BTreeMap<DueKey, u64>,
}

impl Overdue {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn add(&mut self, range: Range<u64>, key: DueKey) {
        *self.left.entry(key).or_default() += range.end - range.start;
        self.ranges.insert(range.start, (range.end, key));
    }

    /// Whether `from` is one of them, and up to where towards `to` all positions are as it is.
    fn stretch(&self, from: u64, to: u64) -> (bool, u64) {
        match self.ranges.range(..=from).next_back() {
            Some((_, &(end, _))) if from < end => (true, end.min(to)),
            _ => {
                let next = self.ranges.range(from..to).next();
                (false, next.map_or(to, |(&start, _)| start))
            }
        }
    }

    /// Takes out what of `[from, to)` is one of them. Returns the entries of which none is left.
    pub(super) fn settle(&mut self, from: u64, to: u64) -> Vec<DueKey> {
        let mut done = Vec::new();
        let mut at = from;
        while at < to {
            let (is_overdue, until) = self.stretch(at, to);
            if is_overdue && let Some((&start, &(end, key))) = self.ranges.range(..=at).next_back() {
                self.ranges.remove(&start);
                if start < at {
                    self.ranges.insert(start, (at, key));
                }
                if until < end {
                    self.ranges.insert(until, (end, key));
                }
                if let Some(left) = self.left.get_mut(&key) {
                    *left -= until - at;
                    if *left == 0 {
                        self.left.remove(&key);
                        done.push(key);
                    }
                }
            }
            at = until;
        }
        done
    }
}

/// What is with messages at consecutive positions.
enum Fate {
    Settled,
    /// Not handed out yet.
    Waiting,
    /// Given back, as one run that begins there.
    Returned(u64),
    /// A consumer has them.
    Out,
}

impl Queue {
    /// The time of messages is over: those that wait are settled and released. `first` is the first position of the
    /// index entry that `key` names by its last.
    pub(crate) fn expire(
        &mut self,
        key: DueKey,
        first: Position,
        runs: &[ExpiringRun],
        log: &mut Log,
        commit: &mut Commit,
    ) {
        let DueNumber::Expire(last) = key.number else {
            return;
        };
        if self.overdue.left.contains_key(&key) {
            return; // the entry was read again
        }
        let before = self.counters.expired;
        if last.0 < self.tail {
            for expiring in runs {
                self.expire_run(key, expiring, log, commit);
            }
        }
        if self.counters.expired > before {
            self.close_expired(first.0, last.0, commit);
            self.pass_settled();
        }
        if self.durable && !self.overdue.left.contains_key(&key) {
            commit.records.push(Record::Due { key, entry: None });
        }
    }

    fn expire_run(&mut self, key: DueKey, expiring: &ExpiringRun, log: &mut Log, commit: &mut Commit) {
        let ExpiringRun { position, run } = expiring;
        let mut at = position.0;
        let end = at + u64::from(run.count);
        while at < end {
            let (fate, until) = self.fate(at, end);
            match fate {
                Fate::Settled => {}
                Fate::Out => self.overdue.add(at..until, key),
                Fate::Waiting => {
                    self.forget_attempts(at..until, commit);
                    self.drop_ready(at, part(run, at - position.0, until - at), log);
                }
                Fate::Returned(start) => {
                    self.cut_returned(start, at..until, commit);
                    self.drop_ready(at, part(run, at - position.0, until - at), log);
                }
            }
            at = until;
        }
    }

    /// What is with the message at `at`, and up to where towards `end` it is the same with those behind it.
    fn fate(&self, at: u64, end: u64) -> (Fate, u64) {
        if let Some(settled) = self.settled.end_of(at) {
            return (Fate::Settled, settled.min(end));
        }
        let end = self
            .settled
            .next_after(at)
            .map_or(end, |settled| settled.min(end));
        let cursor = self.pages.cursor();
        if at >= cursor {
            return (Fate::Waiting, end);
        }
        let end = end.min(cursor);
        if let Some((&start, returned)) = self.returned.range(..=at).next_back() {
            let behind = start + u64::from(returned.run.count);
            if at < behind {
                return (Fate::Returned(start), behind.min(end));
            }
        }
        let next = self.returned.range(at..end).next();
        (Fate::Out, next.map_or(end, |(&start, _)| start))
    }

    /// Takes ready messages out for good.
    fn drop_ready(&mut self, position: u64, run: Run, log: &mut Log) {
        let count = u64::from(run.count);
        self.counters.ready -= count;
        self.counters.expired += count;
        self.settled.insert(position, position + count);
        log.release(run);
    }

    /// Forgets how often messages were delivered before a restart.
    fn forget_attempts(&mut self, positions: Range<u64>, commit: &mut Commit) {
        let known = self.attempts.range(positions).map(|(&position, _)| position);
        for position in known.collect::<Vec<_>>() {
            self.attempts.remove(&position);
            self.write_attempts(position..position + 1, None, commit);
        }
    }

    /// Takes a range out of the returned run that begins at `start`.
    fn cut_returned(&mut self, start: u64, range: Range<u64>, commit: &mut Commit) {
        let Some(returned) = self.returned.remove(&start) else {
            return;
        };
        let end = start + u64::from(returned.run.count);
        for left in [start..range.start, range.end..end] {
            if left.start < left.end {
                let mut kept = returned;
                kept.run = part(&returned.run, left.start - start, left.end - left.start);
                self.returned.insert(left.start, kept);
            }
        }
        if self.durable {
            self.write_attempts(range, None, commit);
        }
    }

    /// Counts what expired in the index entry from `first` to `last`, and removes it when all of it is settled.
    fn close_expired(&mut self, first: u64, last: u64, commit: &mut Commit) {
        if !self.durable {
            return;
        }
        let first = self.begun.get(&last).map_or(first, |begun| begun.first);
        let left = last + 1 - first - self.settled.count_in(first, last + 1);
        if left == 0 {
            let begun = self.begun.remove(&last);
            self.remove_entry(last, begun.map_or(0, |begun| begun.expires), commit);
        } else if let Some(begun) = self.begun.get_mut(&last) {
            begun.unsettled = left;
        }
    }

    /// Moves the cursor over settled messages in memory, so that a queue nobody consumes does not keep what expired.
    fn pass_settled(&mut self) {
        loop {
            self.pages.settled_below(self.settled.head());
            let Next::Run(next) = self.pages.next() else {
                return;
            };
            let Some(end) = self.settled.end_of(next.position) else {
                return;
            };
            self.lose(next.position);
            self.pages.advance(end.min(next.end()));
        }
    }

    /// Whether any of the messages is still in the queue.
    pub(crate) fn has_any(&self, runs: &[ExpiringRun]) -> bool {
        runs.iter().any(|expiring| {
            let (from, count) = (expiring.position.0, u64::from(expiring.run.count));
            self.settled.count_in(from, from + count) < count
        })
    }

    /// Messages that were handed out come back: those whose time is over meanwhile are gone, the others go to their
    /// places.
    pub(crate) fn give_back(
        &mut self,
        position: u64,
        run: Run,
        delivery_count: u32,
        log: &mut Log,
        commit: &mut Commit,
    ) {
        let mut at = position;
        let end = position + u64::from(run.count);
        while at < end {
            let (is_overdue, until) = self.overdue.stretch(at, end);
            let run = part(&run, at - position, until - at);
            if is_overdue {
                self.counters.expired += u64::from(run.count);
                self.settle(at, run, delivery_count, log, commit);
            } else {
                self.put_back(at, run, delivery_count, commit);
            }
            at = until;
        }
    }
}

/// `count` messages of a run, from the one of that number on.
fn part(run: &Run, from: u64, count: u64) -> Run {
    Run {
        record: run.record + from as u32,
        count: count as u32,
        ..*run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QueueId;

    fn key(at: u64) -> DueKey {
        DueKey {
            at,
            queue: QueueId(1),
            number: DueNumber::Expire(Position(99)),
        }
    }

    #[test]
    fn an_entry_is_done_when_the_last_of_its_messages_is_settled() {
        let mut overdue = Overdue::default();
        overdue.add(10..20, key(1));
        overdue.add(30..31, key(1));
        overdue.add(20..22, key(2));
        assert_eq!(overdue.stretch(5, 40), (false, 10));
        assert_eq!(overdue.stretch(12, 40), (true, 20));
        assert_eq!(overdue.stretch(22, 30), (false, 30));
        assert_eq!(overdue.settle(13, 15), []);
        assert_eq!(
            (overdue.stretch(12, 40), overdue.stretch(13, 40)),
            ((true, 13), (false, 15))
        );
        assert_eq!(overdue.settle(0, 30), [key(2)]);
        assert_eq!(overdue.settle(30, 31), [key(1)]);
        assert!(overdue.is_empty() && overdue.left.is_empty());
    }
}
