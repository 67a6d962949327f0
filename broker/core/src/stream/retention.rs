//! What leaves a stream: entries from the head on, because of its limits, a purge or its deletion.

use std::sync::Arc;

use super::{Asker, Stream};
use crate::commit::{Commit, IndexEntry, Record};
use crate::limits::RETENTION_STEP_MS;
use crate::queue::{Deliveries, Turn};

impl Stream {
    /// Takes a turn at `now`. Returns whether there is more to do that waits for nothing.
    pub(crate) fn turn(&mut self, now: u64, turn: &mut Turn<'_>) -> bool {
        let more = self.retain(now, turn);
        self.due = self.deadline(now);
        self.seek(turn.commit);
        let hands_out = turn.deliveries == Deliveries::HandOut;
        more || (self.purges.is_empty() && !self.gone && hands_out && self.deliver_turn(turn))
    }

    /// Drops entries until none has to go, the store is asked for the next one, or the turn is over; only in the last
    /// case there is more to do that waits for nothing.
    fn retain(&mut self, now: u64, turn: &mut Turn<'_>) -> bool {
        self.answer_purges(turn.commit);
        let mut runs = 0;
        while self.is_watched() {
            let Some(oldest) = self.oldest(turn.commit) else {
                return false;
            };
            if !self.must_go(&oldest, now) {
                return false;
            }
            if runs >= turn.bounds.purge_runs_per_turn {
                return true;
            }
            runs += oldest.runs.len();
            self.drop_entry(&oldest, turn);
            self.answer_purges(turn.commit);
        }
        false
    }

    /// Whether the first entry may have to go, now or some day without anything more coming in.
    fn is_watched(&self) -> bool {
        let over = |limit: Option<u64>, is: u64| limit.is_some_and(|limit| is > limit);
        self.head < self.tail
            && (self.gone
                || !self.purges.is_empty()
                || self.retention.max_age_ms.is_some()
                || over(self.retention.max_bytes, self.bytes)
                || over(self.retention.max_messages, self.tail - self.head))
    }

    /// Whether the first entry has to go: without it, there is still as much as the limits say.
    fn must_go(&self, oldest: &IndexEntry, now: u64) -> bool {
        let behind = |limit: Option<u64>, left: u64| limit.is_some_and(|limit| left >= limit);
        let end = oldest.last().0 + 1;
        self.gone
            || self.purges.front().is_some_and(|purge| end <= purge.below)
            || behind(self.retention.max_messages, self.tail - end)
            || behind(self.retention.max_bytes, self.bytes.saturating_sub(oldest.bytes))
            || self
                .retention
                .max_age_ms
                .is_some_and(|age| oldest.time.saturating_add(age) <= now)
    }

    /// The first entry, or `None` when the store was asked for it.
    fn oldest(&mut self, commit: &mut Commit) -> Option<Arc<IndexEntry>> {
        while self
            .oldest
            .front()
            .is_some_and(|entry| entry.last().0 < self.head)
        {
            self.oldest.pop_front();
        }
        let known = self.known_oldest().cloned();
        if known.is_none() {
            let (from, to, runs_max) = (self.head, self.recent.first(), self.page_runs);
            self.ask(from, to, runs_max, Asker::Retention, commit);
        }
        known
    }

    fn known_oldest(&self) -> Option<&Arc<IndexEntry>> {
        self.oldest.front().or_else(|| self.recent.find(self.head))
    }

    /// Takes in the first entries as the store has them. Offsets that no entry names are missing: they are dropped,
    /// as there is nothing of them to release.
    pub(super) fn take_oldest(&mut self, from: u64, to: u64, entries: &[Arc<IndexEntry>]) {
        if from != self.head || !self.oldest.is_empty() {
            return;
        }
        let first = entries.first().map_or(to, |entry| entry.first.0);
        self.missing += first.saturating_sub(self.head);
        self.head = self.head.max(first);
        self.nothing_left();
        self.oldest.extend(entries.iter().cloned());
    }

    fn drop_entry(&mut self, entry: &IndexEntry, turn: &mut Turn<'_>) {
        for run in &entry.runs {
            turn.log.release(*run);
        }
        turn.commit.records.push(Record::IndexRemove {
            queue: self.id,
            last: entry.last(),
        });
        let end = entry.last().0 + 1;
        if let Some(purge) = self.purges.front_mut() {
            purge.removed += end - self.head;
        }
        self.head = end;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.nothing_left();
        self.recent.drop_below(end);
    }

    /// What is missing was counted once, but an empty stream has no bytes.
    fn nothing_left(&mut self) {
        if self.head == self.tail {
            self.bytes = 0;
        }
    }

    /// Answers the purges below which nothing is left.
    fn answer_purges(&mut self, commit: &mut Commit) {
        while self.purges.front().is_some_and(|purge| purge.below <= self.head) {
            self.reply_purged(commit);
        }
    }

    /// When the first entry is too old, in steps of a second, so that many small entries do not wake the broker one by
    /// one.
    fn deadline(&self, now: u64) -> Option<u64> {
        let age = self.retention.max_age_ms.filter(|_| !self.gone)?;
        let oldest = self.known_oldest()?;
        let at = oldest.time.checked_add(age)?.max(now);
        at.checked_next_multiple_of(RETENTION_STEP_MS)
    }
}
