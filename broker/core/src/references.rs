//! How many places in queues name each record of a chunk.
//!
//! Kept as runs of neighbouring records with the same number: messages of one exchange mostly go to as many queues, and
//! are mostly settled in order, so that a run or two say it all. Encoded, a run is two varints (LEB128): how many records,
//! and how many references each has.

use smallvec::SmallVec;

use crate::limits::CHUNK_MESSAGES_MAX;
use crate::varint;

/// How many places in queues name each record of a chunk. A record that none names is dead: its bytes may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// In order; neighbours differ. Three are inline, which is what settling from the front takes on the way.
    runs: SmallVec<[Run; 3]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The record behind the last.
    end: u32,
    references: u32,
}

impl References {
    /// Of `records` records that `references` places each name.
    pub fn uniform(records: u32, references: u32) -> References {
        let mut all = References::default();
        all.push(records, references);
        all
    }

    /// Adds records behind the last.
    pub fn push(&mut self, records: u32, references: u32) {
        let end = self.records() + records;
        match self.runs.last_mut() {
            _ if records == 0 => {}
            Some(last) if last.references == references => last.end = end,
            _ => self.runs.push(Run { end, references }),
        }
    }

    /// Number of records, dead ones included.
    pub fn records(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// Number of records that are not dead.
    pub fn live(&self) -> u32 {
        let live = self.runs().filter(|(_, references)| *references > 0);
        live.map(|(records, _)| records).sum()
    }

    /// References of all records together.
    pub fn total(&self) -> u64 {
        self.runs()
            .map(|(records, references)| u64::from(records) * u64::from(references))
            .sum()
    }

    /// Runs in order: how many records, and how many references each has.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().scan(0, |start, run| {
            let records = run.end - *start;
            *start = run.end;
            Some((records, run.references))
        })
    }

    /// Takes one reference from each of `count` records. Returns how many of them had none to take: those stay as
    /// they are.
    pub fn release(&mut self, record: u32, count: u32) -> u32 {
        let end = record.saturating_add(count).min(self.records());
        if record >= end {
            return count;
        }
        let mut missing = count - (end - record);
        self.split_at(record);
        self.split_at(end);
        let from = self.runs.partition_point(|run| run.end <= record);
        let to = self.runs.partition_point(|run| run.end <= end);
        let mut start = record;
        for run in &mut self.runs[from..to] {
            match run.references.checked_sub(1) {
                Some(left) => run.references = left,
                None => missing += run.end - start,
            }
            start = run.end;
        }
        self.join(from, to);
        missing
    }

    /// Makes a run end at a record.
    fn split_at(&mut self, record: u32) {
        let at = self.runs.partition_point(|run| run.end < record);
        if let Some(run) = self.runs.get(at).copied()
            && run.end > record
            && record > 0
        {
            self.runs.insert(at, Run { end: record, ..run });
        }
    }

    /// Makes one of neighbours that came to have the same number of references, around the runs from `from` to `to`.
    fn join(&mut self, from: usize, to: usize) {
        for at in (from.max(1)..=to.min(self.runs.len() - 1)).rev() {
            if self.runs[at - 1].references == self.runs[at].references {
                self.runs.remove(at - 1);
            }
        }
    }

    /// Bytes it takes beside its own size.
    pub fn heap_bytes(&self) -> usize {
        if self.runs.spilled() {
            self.runs.capacity() * size_of::<Run>()
        } else {
            0
        }
    }

    /// Appends it to `out`, as [`References::decode`] takes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (records, references) in self.runs() {
            varint::put(records, |byte| out.push(byte));
            varint::put(references, |byte| out.push(byte));
        }
    }

    /// Reads what [`References::encode`] wrote; `None` for anything else, and for more records than a chunk may have.
    pub fn decode(bytes: &[u8]) -> Option<References> {
        let mut read = References::default();
        let mut at = 0;
        while at < bytes.len() {
            let records = varint::take(bytes, &mut at)?;
            let references = varint::take(bytes, &mut at)?;
            let joins = read.runs.last().is_some_and(|last| last.references == references);
            if joins || !(1..=CHUNK_MESSAGES_MAX - read.records()).contains(&records) {
                return None;
            }
            read.push(records, references);
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(references: &References) -> Vec<(u32, u32)> {
        references.runs().collect()
    }

    #[test]
    fn records_with_as_many_references_are_one_run() {
        let mut all = References::uniform(2, 1);
        all.push(3, 1);
        all.push(1, 4);
        all.push(0, 9);
        assert_eq!(runs(&all), [(5, 1), (1, 4)]);
        assert_eq!((all.records(), all.live(), all.total()), (6, 6, 9));
    }

    #[test]
    fn settling_from_the_front_takes_no_memory() {
        let mut all = References::uniform(1_000, 1);
        for record in (0..1_000).step_by(10) {
            assert_eq!(all.release(record, 10), 0);
            assert_eq!(all.heap_bytes(), 0);
        }
        assert_eq!(runs(&all), [(1_000, 0)]);
    }

    /// Against counting each record by itself.
    #[test]
    fn any_order_of_releases_leaves_what_counting_records_one_by_one_leaves() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut expected: Vec<u32> = (0..random.u32(1..40)).map(|_| random.u32(1..3)).collect();
            let mut all = References::default();
            for references in &expected {
                all.push(1, *references);
            }
            for _ in 0..30 {
                let (record, count) = (random.u32(0..40), random.u32(0..12));
                let mut missing = 0;
                for at in record..record + count {
                    match expected.get_mut(at as usize) {
                        Some(left) if *left > 0 => *left -= 1,
                        _ => missing += 1,
                    }
                }
                assert_eq!(all.release(record, count), missing);
                let each: Vec<u32> = all
                    .runs()
                    .flat_map(|(records, references)| std::iter::repeat_n(references, records as usize))
                    .collect();
                assert_eq!(each, expected);
                let joined = runs(&all).windows(2).all(|pair| pair[0].1 != pair[1].1);
                assert!(joined, "{all:?}");
                let mut bytes = Vec::new();
                all.encode(&mut bytes);
                assert_eq!(References::decode(&bytes), Some(all.clone()));
            }
        }
    }

    #[test]
    fn what_no_chunk_has_does_not_decode() {
        let encoded = |list: &[(u32, u32)]| {
            let mut bytes = Vec::new();
            for (records, references) in list {
                varint::put(*records, |byte| bytes.push(byte));
                varint::put(*references, |byte| bytes.push(byte));
            }
            References::decode(&bytes)
        };
        assert!(encoded(&[(CHUNK_MESSAGES_MAX, 1)]).is_some());
        assert_eq!(encoded(&[(CHUNK_MESSAGES_MAX, 1), (1, 0)]), None, "too many");
        assert_eq!(encoded(&[(u32::MAX, 1)]), None, "far too many");
        assert_eq!(encoded(&[(1, 1), (0, 2)]), None, "a run of nothing");
        assert_eq!(encoded(&[(1, 1), (1, 1)]), None, "one run in two");
        assert_eq!(References::decode(&[1]), None, "cut");
    }
}
