//! What is due happens: a part of the broker's turn.

use super::{DelayedRun, Due, DueEntry, DueKey, DueNumber, ExpiringRun, Sweep};
use crate::broker::Broker;
use crate::commit::{Commit, Effect, Record};
use crate::ids::{Lane, Position, QueueId};
use crate::log::Log;

impl Broker {
    /// Does what is due at `now`. Returns whether more is that waits for nothing.
    pub(crate) fn fire(&mut self, now: u64, commit: &mut Commit) -> bool {
        let mut runs = 0;
        while let Some((key, entry)) = self.due.pop(now) {
            runs += entry.runs();
            match entry {
                DueEntry::Enter { runs, bytes } => self.enter(key, &runs, bytes, now, commit),
                DueEntry::Expire { first, runs } => self.expire(key, first, &runs, commit),
            }
            if runs >= self.bounds.purge_runs_per_turn {
                return self.due.next().is_some_and(|at| at <= now);
            }
        }
        false
    }

    /// Delayed messages come to the tail of their queue. Those whose time is over as well, because the broker was down
    /// or the clock jumped, do not.
    fn enter(&mut self, key: DueKey, runs: &[DelayedRun], bytes: u64, now: u64, commit: &mut Commit) {
        let id = key.queue;
        if !self.takes_messages(id) {
            return; // its messages were released with it, or will be
        }
        let is_durable = runs.iter().any(|delayed| delayed.run.lane != Lane::Memory);
        if is_durable {
            commit.records.push(Record::Due { key, entry: None });
        }
        let count = runs.iter().map(|delayed| u64::from(delayed.run.count)).sum();
        self.due.count_down(id, count, is_durable);
        self.list(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            commit.sync_within(stream.sync);
            // All are of one chunk and so in one entry of the stream, which counts the bytes of all of them together.
            let mut bytes = bytes as usize;
            for delayed in runs {
                stream.push(delayed.run, std::mem::take(&mut bytes));
            }
            return;
        }
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for DelayedRun { run, expiration } in runs {
            match expiration.map(|after| key.at.saturating_add(after.get())) {
                Some(at) if at <= now => {
                    queue.counters.expired += u64::from(run.count);
                    self.log.release(*run);
                    continue;
                }
                Some(at) => self.due.expire(at, id, queue.tail(), *run),
                None => {}
            }
            queue.push(*run);
        }
    }

    fn expire(&mut self, key: DueKey, first: Position, runs: &[ExpiringRun], commit: &mut Commit) {
        if let Some(queue) = self.queues.get_mut(&key.queue) {
            queue.expire(key, first, runs, &mut self.log, commit);
            self.list(key.queue);
        } else if runs.iter().any(|expiring| expiring.run.lane != Lane::Memory) {
            commit.records.push(Record::Due { key, entry: None });
        }
    }

    fn takes_messages(&self, id: QueueId) -> bool {
        let queue = self.queues.get(&id).is_some_and(|queue| !queue.is_gone());
        queue || self.streams.get(&id).is_some_and(|stream| !stream.is_gone())
    }

    /// Writes the entries of this turn, and asks the store for what is needed next.
    pub(crate) fn write_due(&mut self, now: u64, commit: &mut Commit) {
        for (key, entry) in self.due.take_entering() {
            if !entry.is_in_memory() || self.takes_messages(key.queue) {
                self.due.write(key, entry, commit);
            } else {
                entry.release(&mut self.log); // the queue was deleted in this turn
            }
        }
        for ((at, id), runs) in std::mem::take(&mut self.due.expiring) {
            let Some(queue) = self.queues.get_mut(&id).filter(|queue| !queue.is_gone()) else {
                continue;
            };
            let (first, last) = queue.entry_of_turn();
            queue.expires_at(at);
            let key = DueKey {
                at,
                queue: id,
                number: DueNumber::Expire(last),
            };
            self.due.write(key, DueEntry::Expire { first, runs }, commit);
        }
        self.tidy_due(now);
        self.due.write_counts(commit);
        self.due.ask(commit);
    }

    /// Makes room for one more entry of a transient queue, if there is any. Returns whether there is.
    pub(crate) fn make_due_memory(&mut self, now: u64) -> bool {
        self.tidy_due(now);
        !self.due.is_memory_full()
    }

    /// Drops entries of transient queues whose messages are settled, now and then.
    fn tidy_due(&mut self, now: u64) {
        let queues = &self.queues;
        if self.due.memory.wants_tidying(now) {
            self.due.memory.tidy(now, |key, entry| match entry {
                DueEntry::Enter { .. } => true,
                DueEntry::Expire { runs, .. } => {
                    queues.get(&key.queue).is_some_and(|queue| queue.has_any(runs))
                }
            });
        }
    }

    /// Takes in entries that the store read.
    pub(crate) fn due_read(
        &mut self,
        of: Option<QueueId>,
        after: DueKey,
        entries: Vec<(DueKey, DueEntry)>,
        commit: &mut Commit,
    ) {
        match of {
            None => self.due.page.fill(after, entries),
            Some(queue) => self.due.swept(queue, after, &entries, &mut self.log, commit),
        }
    }
}

impl Due {
    fn write(&mut self, key: DueKey, entry: DueEntry, commit: &mut Commit) {
        if entry.is_in_memory() {
            self.memory.insert(key, entry);
            return;
        }
        commit.records.push(Record::Due {
            key,
            entry: Some(entry.clone()),
        });
        self.page.insert(key, entry);
    }

    fn write_counts(&mut self, commit: &mut Commit) {
        for queue in std::mem::take(&mut self.changed) {
            let count = Some(self.delayed(queue)).filter(|count| *count > 0);
            commit.records.push(Record::Delayed { queue, count });
        }
    }

    /// Asks for the next page when this one has run out, and for messages of deleted queues.
    fn ask(&mut self, commit: &mut Commit) {
        let runs_max = self.page.runs_max();
        let mut read = |of, after| {
            commit.effects.push(Effect::ReadDue { of, after, runs_max });
        };
        if let Some(after) = self.page.ask() {
            read(None, after);
        }
        for (queue, sweep) in &mut self.sweeps {
            if !std::mem::replace(&mut sweep.reading, true) {
                read(Some(*queue), sweep.after);
            }
        }
    }

    /// Releases the delayed messages of a queue that is deleted: those in memory at once, those on disk as they are
    /// found. What was to expire is in the queue, and released with it.
    pub(crate) fn forget(&mut self, queue: QueueId, is_durable: bool, log: &mut Log) {
        if self.delayed(queue) == 0 {
            return;
        }
        if is_durable {
            let after = DueKey::FIRST;
            let reading = false;
            self.sweeps.insert(queue, Sweep { after, reading });
            return;
        }
        self.delayed.remove(&queue);
        for entry in self.memory.take(queue) {
            entry.release(log);
        }
    }

    /// Releases what was found of a deleted queue. The page may have the same entries, which are passed over when they
    /// are due, as their queue is gone.
    fn swept(
        &mut self,
        queue: QueueId,
        after: DueKey,
        entries: &[(DueKey, DueEntry)],
        log: &mut Log,
        commit: &mut Commit,
    ) {
        let Some(sweep) = self.sweeps.get_mut(&queue).filter(|sweep| sweep.after == after) else {
            return;
        };
        sweep.reading = false;
        if let Some((last, _)) = entries.last() {
            sweep.after = *last;
        }
        for (key, entry) in entries {
            if matches!(entry, DueEntry::Enter { .. }) {
                entry.release(log);
                self.count_down(queue, entry.delayed(), true);
                commit.records.push(Record::Due {
                    key: *key,
                    entry: None,
                });
            }
        }
        if entries.is_empty() {
            self.count_down(queue, u64::MAX, true); // the store lost the others
        }
        if self.delayed(queue) == 0 {
            self.sweeps.remove(&queue);
        }
    }

    /// Goes on with the deletion of queues that a crash interrupted.
    pub(crate) fn restore_sweeps(&mut self, is_declared: impl Fn(QueueId) -> bool, log: &mut Log) {
        let deleted: Vec<QueueId> = self
            .delayed
            .keys()
            .copied()
            .filter(|id| !is_declared(*id))
            .collect();
        for queue in deleted {
            self.forget(queue, true, log);
        }
    }
}
