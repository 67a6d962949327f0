//! The reference for streams: a plain vector of everything that was ever put in, and how much of its front is gone.
//! Which messages lie in one entry is the broker's choice; that entries are whole, in order and dropped only when they
//! may be is checked here.

use std::collections::VecDeque;

use pointsman_core::commit::{IndexEntry, Place};
use pointsman_protocol::admin::{Retention, StreamInfo};
use pointsman_protocol::consume::StartAt;

use crate::model::Uid;

#[derive(Clone, Debug)]
pub(crate) struct ModelStream {
    pub(crate) retention: Retention,
    /// Each with its length in bytes, by offset from 0 on.
    pub(crate) entries: Vec<(Uid, usize)>,
    /// The first offset that is there.
    pub(crate) head: usize,
    /// What the broker wrote of the messages from the head on: the first and last offset and the time of each group.
    groups: VecDeque<(usize, usize, u64)>,
    /// The time of the last group ever.
    time: u64,
    /// Requests to purge below an offset, oldest first.
    pub(crate) purges: VecDeque<usize>,
    /// Where the head was when the oldest purge began.
    purge_from: usize,
}

/// Where a reader is.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    /// Not told yet where it starts; it has to be there.
    Opening(Opening),
    /// At this offset, or at the head when that is behind.
    At(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Opening {
    At(usize),
    /// At the first message of this time or later, among those that were there.
    Time {
        time: u64,
        tail: usize,
    },
}

impl ModelStream {
    pub(crate) fn new(retention: Retention) -> ModelStream {
        ModelStream {
            retention,
            entries: Vec::new(),
            head: 0,
            groups: VecDeque::new(),
            time: 0,
            purges: VecDeque::new(),
            purge_from: 0,
        }
    }

    pub(crate) fn publish(&mut self, uid: Uid, len: usize) {
        let known = self.entries.iter().any(|(there, _)| *there == uid);
        assert!(!known, "{uid:?} is stored twice");
        self.entries.push((uid, len));
    }

    pub(crate) fn holds(&self, uid: Uid) -> bool {
        self.entries.iter().any(|(there, _)| *there == uid)
    }

    pub(crate) fn info(&self) -> StreamInfo {
        StreamInfo {
            first_offset: self.head as u64,
            next_offset: self.entries.len() as u64,
            bytes: self.bytes(self.head, self.entries.len()),
        }
    }

    fn bytes(&self, from: usize, to: usize) -> u64 {
        self.entries[from..to].iter().map(|(_, len)| *len as u64).sum()
    }

    /// The broker writes an entry.
    pub(crate) fn index(&mut self, entry: &IndexEntry, now: u64) {
        let (first, last) = (entry.first.0 as usize, entry.last().0 as usize);
        let next = self.groups.back().map_or(self.head, |(_, last, _)| last + 1);
        assert_eq!(first, next, "entries follow each other");
        assert_eq!(entry.bytes, self.bytes(first, last + 1));
        assert_eq!(
            entry.time,
            self.time.max(now),
            "time is the clock's, and never falls"
        );
        let (lane, chunk) = (entry.runs[0].lane, entry.runs[0].chunk);
        assert!(
            entry
                .runs
                .iter()
                .all(|run| (run.lane, run.chunk) == (lane, chunk))
        );
        self.time = entry.time;
        self.groups.push_back((first, last, entry.time));
    }

    /// The broker drops an entry: the oldest, and for a reason.
    pub(crate) fn drop_group(&mut self, last: usize, now: u64) {
        let group = self.groups.pop_front().expect("there is something to drop");
        assert_eq!(group.1, last, "the oldest goes first");
        let reason = self.may_go(group, now) || self.purges.iter().any(|below| last < *below);
        assert!(reason, "{group:?} of {self:?} is dropped at {now} for no reason");
        self.head = last + 1;
    }

    fn may_go(&self, (_, last, time): (usize, usize, u64), now: u64) -> bool {
        let behind = |limit: Option<u64>, left: u64| limit.is_some_and(|limit| left >= limit);
        let left = self.entries.len() - (last + 1);
        behind(self.retention.max_messages, left as u64)
            || behind(self.retention.max_bytes, self.bytes(last + 1, self.entries.len()))
            || self.retention.max_age_ms.is_some_and(|age| time + age <= now)
    }

    /// Nothing is there that should be gone; what is too old may wait for the next full second.
    pub(crate) fn check_kept(&self, now: u64) {
        if let Some(&oldest) = self.groups.front() {
            assert!(
                !self.may_go(oldest, now.saturating_sub(1_000)),
                "{self:?} keeps too much at {now}"
            );
        }
        let last = self.groups.back().map_or(self.head, |(_, last, _)| last + 1);
        assert_eq!(last, self.entries.len(), "every message is in an entry");
    }

    pub(crate) fn purge(&mut self) {
        if self.purges.is_empty() {
            self.purge_from = self.head;
        }
        self.purges.push_back(self.entries.len());
    }

    /// The oldest purge is done. Returns how many messages went.
    pub(crate) fn purged(&mut self) -> u64 {
        let below = self.purges.pop_front().expect("a purge was asked for");
        assert!(self.head >= below, "a purge that is answered is done");
        let removed = below - self.purge_from;
        self.purge_from = below;
        removed as u64
    }

    pub(crate) fn opening(&self, start: StartAt) -> Opening {
        let tail = self.entries.len();
        Opening::At(match start {
            StartAt::First => self.head,
            StartAt::Last => tail.saturating_sub(1).max(self.head),
            StartAt::Next => tail,
            StartAt::Offset(offset) => (offset as usize).max(self.head),
            StartAt::Timestamp(time) => return Opening::Time { time, tail },
        })
    }

    /// A reader is told where it starts.
    pub(crate) fn opened(&self, opening: &Opening, offset: usize) {
        match *opening {
            Opening::At(expected) => assert_eq!(offset, expected),
            Opening::Time { time, tail } => {
                let of_time = self.groups.iter().find(|(_, _, at)| *at >= time);
                let first = of_time.map_or(tail, |(first, _, _)| *first);
                assert_eq!(
                    offset,
                    first.min(tail).max(self.head),
                    "the first of time {time} in {self:?}"
                );
            }
        }
    }

    /// A reader gets a message: the next one, or the first when retention has overtaken it. Returns where it is then.
    pub(crate) fn deliver(&self, cursor: usize, place: Place, uid: Uid) -> usize {
        let offset = place.offset.0 as usize;
        assert_eq!(offset, cursor.max(self.head), "each message once and in order");
        assert_eq!(self.entries[offset].0, uid, "the message of offset {offset}");
        let group = self.groups.iter().find(|(_, last, _)| offset <= *last);
        assert_eq!(group.map(|(_, _, time)| *time), Some(place.time));
        offset + 1
    }

    /// What a crash leaves of it: purges that were not answered are forgotten.
    pub(crate) fn crash(&mut self) {
        self.purges.clear();
    }
}
