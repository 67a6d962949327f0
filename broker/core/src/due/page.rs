//! The nearest entries of durable queues. All of them are in the store as well.

use std::collections::BTreeMap;

use super::{DueEntry, DueKey};

/// Entries in memory, bounded in runs.
#[derive(Debug)]
pub(super) struct Page {
    entries: BTreeMap<DueKey, DueEntry>,
    runs: usize,
    runs_max: usize,
    /// Of what is in the store, everything up to here is in memory or was worked off; `None` when that is all.
    through: Option<DueKey>,
    reading: bool,
}

impl Page {
    /// The page of a store that has no entries.
    pub(super) fn new(runs_max: usize) -> Page {
        Page {
            entries: BTreeMap::new(),
            runs: 0,
            runs_max,
            through: None,
            reading: false,
        }
    }

    /// An empty page of a store that may have some.
    pub(super) fn in_store(runs_max: usize) -> Page {
        Page {
            through: Some(DueKey::FIRST),
            ..Page::new(runs_max)
        }
    }

    /// Whether nothing between the entries of this page and this key is in the store only.
    fn reaches(&self, key: &DueKey) -> bool {
        self.through.is_none_or(|through| *key <= through)
    }

    /// When the first entry is due.
    pub(super) fn next(&self) -> Option<u64> {
        let (key, _) = self.entries.first_key_value()?;
        self.reaches(key).then_some(key.at)
    }

    /// Takes out the first entry, if it is due.
    pub(super) fn pop(&mut self, now: u64) -> Option<(DueKey, DueEntry)> {
        self.next().filter(|at| *at <= now)?;
        let (key, entry) = self.entries.pop_first()?;
        self.runs -= entry.runs();
        Some((key, entry))
    }

    /// Takes in an entry that is written in this turn.
    pub(super) fn insert(&mut self, key: DueKey, entry: DueEntry) {
        // What is written while the store reads may be missing in its answer.
        if self.reading || self.reaches(&key) {
            self.put(key, entry);
            self.trim();
        }
    }

    fn put(&mut self, key: DueKey, entry: DueEntry) {
        self.runs += entry.runs();
        if let Some(old) = self.entries.insert(key, entry) {
            self.runs -= old.runs();
        }
    }

    /// Leaves to the store what is too much.
    fn trim(&mut self) {
        while !self.reading && self.runs > self.runs_max && self.entries.len() > 1 {
            if let Some((_, entry)) = self.entries.pop_last() {
                self.runs -= entry.runs();
            }
            self.through = self.entries.last_key_value().map(|(key, _)| *key);
        }
    }

    /// Behind which entry the store is to be asked, when the page has run out. The answer is taken for given from now
    /// on.
    pub(super) fn ask(&mut self) -> Option<DueKey> {
        let through = self
            .through
            .filter(|_| self.entries.is_empty() && !self.reading)?;
        self.reading = true;
        Some(through)
    }

    /// Takes in what the store has behind a key. Nothing is the end of it.
    pub(super) fn fill(&mut self, after: DueKey, entries: Vec<(DueKey, DueEntry)>) {
        if !self.reading || self.through != Some(after) {
            return;
        }
        self.reading = false;
        self.through = entries.last().map(|(key, _)| *key);
        for (key, entry) in entries {
            self.put(key, entry);
        }
        // What came meanwhile and lies behind the answer is read again later.
        while let Some(last) = self.entries.last_entry()
            && self.through.is_some_and(|through| *last.key() > through)
        {
            self.runs -= last.remove().runs();
        }
        self.trim();
    }

    /// How many runs it may hold.
    pub(super) fn runs_max(&self) -> usize {
        self.runs_max
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DelayedRun, DueNumber};
    use super::*;
    use crate::commit::Run;
    use crate::ids::{Lane, Offset, QueueId};

    fn key(at: u64) -> DueKey {
        DueKey {
            at,
            queue: QueueId(1),
            number: DueNumber::Enter(Offset(at)),
        }
    }

    fn entry(at: u64) -> (DueKey, DueEntry) {
        let run = Run {
            lane: Lane::Queues,
            chunk: Offset(at),
            record: 0,
            count: 1,
        };
        let runs = vec![DelayedRun {
            run,
            expiration: None,
        }];
        (key(at), DueEntry::Enter { runs, bytes: 1 })
    }

    fn insert(page: &mut Page, times: &[u64]) {
        for &at in times {
            let (key, entry) = entry(at);
            page.insert(key, entry);
        }
    }

    fn times(page: &mut Page) -> Vec<u64> {
        std::iter::from_fn(|| page.pop(u64::MAX))
            .map(|(key, _)| key.at)
            .collect()
    }

    #[test]
    fn what_is_too_much_is_left_to_the_store_the_farthest_first() {
        let mut page = Page::new(2);
        insert(&mut page, &[30, 10, 20, 40]);
        assert_eq!(page.ask(), None, "there are some");
        assert_eq!(times(&mut page), [10, 20]);
        assert_eq!(page.ask(), Some(key(20)));
        assert_eq!(page.ask(), None, "it was asked");
        page.fill(key(20), vec![entry(30), entry(40)]);
        assert_eq!(times(&mut page), [30, 40]);
        assert_eq!(page.ask(), Some(key(40)));
        page.fill(key(40), Vec::new());
        assert_eq!(page.ask(), None, "there are no more");
        insert(&mut page, &[50]);
        assert_eq!(times(&mut page), [50]);
    }

    #[test]
    fn an_entry_is_due_at_its_deadline_and_not_before() {
        let mut page = Page::new(2);
        insert(&mut page, &[10]);
        assert_eq!((page.next(), page.pop(9)), (Some(10), None));
        assert_eq!(page.pop(10), Some(entry(10)));
    }

    #[test]
    fn what_is_written_while_the_store_reads_is_not_lost_and_waits_for_the_answer() {
        for seen in [false, true] {
            let mut page = Page::in_store(9);
            let asked = page.ask().unwrap();
            insert(&mut page, &[15]);
            assert_eq!(page.next(), None, "something may be before it");
            let answer = if seen {
                vec![entry(10), entry(15), entry(20)]
            } else {
                vec![entry(10), entry(20)]
            };
            page.fill(asked, answer);
            assert_eq!(times(&mut page), [10, 15, 20], "{seen}");
        }
    }

    #[test]
    fn what_is_written_behind_the_answer_is_read_with_the_next_one() {
        let mut page = Page::in_store(9);
        let asked = page.ask().unwrap();
        insert(&mut page, &[15]);
        page.fill(asked, vec![entry(10)]);
        assert_eq!(times(&mut page), [10]);
        assert_eq!(page.ask(), Some(key(10)));
        page.fill(key(10), vec![entry(15)]);
        assert_eq!(times(&mut page), [15]);
    }
}
