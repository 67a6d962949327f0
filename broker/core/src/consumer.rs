//! A consumer: its credit, and the deliveries it has not settled.

use std::collections::BTreeMap;

use pointsman_protocol::consume::Credit;
use pointsman_protocol::limits::PREFETCH_MAX;

use crate::chunk::Chunk;
use crate::commit::Run;
use crate::ids::{ConnectionId, ConsumerId, QueueId};

/// See the module.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) id: ConsumerId,
    pub(crate) connection: ConnectionId,
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    /// Whether it is in its queue's list of consumers with credit.
    pub(crate) hungry: bool,
    messages: u64,
    bytes: i64,
    next_tag: u64,
    /// By first tag; no two overlap.
    unsettled: BTreeMap<u64, Unsettled>,
    unsettled_count: u64,
}

/// Consecutive deliveries of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) position: u64,
    pub(crate) run: Run,
    pub(crate) delivery_count: u32,
}

impl Unsettled {
    /// Cuts off and returns the first `count`.
    fn split_front(&mut self, count: u32) -> Unsettled {
        let mut front = *self;
        front.run.count = count;
        self.position += u64::from(count);
        self.run.record += count;
        self.run.count -= count;
        front
    }

    /// Whether `next` goes on where this ends.
    fn is_followed_by(&self, next: &Unsettled) -> bool {
        self.position + u64::from(self.run.count) == next.position
            && self.run.lane == next.run.lane
            && self.run.chunk == next.run.chunk
            && self.run.record + self.run.count == next.run.record
            && self.delivery_count == next.delivery_count
    }
}

impl Consumer {
    /// A consumer without credit.
    pub(crate) fn new(id: ConsumerId, connection: ConnectionId, queue: QueueId, no_ack: bool) -> Consumer {
        Consumer {
            id,
            connection,
            queue,
            no_ack,
            hungry: false,
            messages: 0,
            bytes: 0,
            next_tag: 1,
            unsettled: BTreeMap::new(),
            unsettled_count: 0,
        }
    }

    /// Adds credit.
    pub(crate) fn grant(&mut self, credit: Credit) {
        self.messages = self.messages.saturating_add(u64::from(credit.messages));
        let bytes = i64::try_from(credit.bytes).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether it may get another delivery. Whatever credit it has, no more than [`PREFETCH_MAX`] may be unsettled.
    pub(crate) fn wants_more(&self) -> bool {
        self.messages > 0 && self.bytes > 0 && self.unsettled_count < u64::from(PREFETCH_MAX)
    }

    /// Takes credit for as many records of a chunk as it has, from `record` on, at most `most`. Returns how many.
    pub(crate) fn spend(&mut self, chunk: &Chunk, record: u32, most: u32) -> u32 {
        let room = u64::from(PREFETCH_MAX).saturating_sub(self.unsettled_count);
        let most = u64::from(most).min(self.messages).min(room) as u32;
        let mut count = 0;
        while count < most
            && self.bytes > 0
            && let Some(message) = chunk.get(record + count)
        {
            self.bytes -= (message.meta.len() + message.body_len()) as i64;
            count += 1;
        }
        self.messages -= u64::from(count);
        count
    }

    /// The first of the next `count` tags.
    pub(crate) fn next_tags(&mut self, count: u32) -> u64 {
        let first = self.next_tag;
        self.next_tag += u64::from(count);
        first
    }

    /// Remembers deliveries from a tag on until they are settled.
    pub(crate) fn hold(&mut self, first: u64, deliveries: Unsettled) {
        self.unsettled_count += u64::from(deliveries.run.count);
        if let Some((&tag, last)) = self.unsettled.iter_mut().next_back()
            && tag + u64::from(last.run.count) == first
            && last.is_followed_by(&deliveries)
        {
            last.run.count += deliveries.run.count;
            return;
        }
        self.unsettled.insert(first, deliveries);
    }

    /// Moves `count` deliveries from a tag on to `taken`. Returns false, and moves none, unless all are unsettled.
    pub(crate) fn take(&mut self, first: u64, count: u32, taken: &mut Vec<Unsettled>) -> bool {
        let Some(end) = first.checked_add(u64::from(count)) else {
            return false;
        };
        if count == 0 || !self.holds(first, end) {
            return false;
        }
        self.unsettled_count -= u64::from(count);
        let mut tag = first;
        while tag < end {
            tag = self.take_one(tag, end, taken);
        }
        true
    }

    fn holds(&self, first: u64, end: u64) -> bool {
        let Some((&start, _)) = self.unsettled.range(..=first).next_back() else {
            return false;
        };
        let mut covered = start;
        for (&tag, deliveries) in self.unsettled.range(start..end) {
            if tag != covered {
                return false;
            }
            covered = tag + u64::from(deliveries.run.count);
        }
        covered >= end
    }

    /// Takes what of `[tag, end)` lies in the run that holds `tag`; returns where that run's part ends.
    fn take_one(&mut self, tag: u64, end: u64, taken: &mut Vec<Unsettled>) -> u64 {
        let Some((&start, _)) = self.unsettled.range(..=tag).next_back() else {
            return end;
        };
        let Some(mut deliveries) = self.unsettled.remove(&start) else {
            return end;
        };
        if start < tag {
            let before = deliveries.split_front((tag - start) as u32);
            self.unsettled.insert(start, before);
        }
        let run_end = tag + u64::from(deliveries.run.count);
        if end < run_end {
            taken.push(deliveries.split_front((end - tag) as u32));
            self.unsettled.insert(end, deliveries);
        } else {
            taken.push(deliveries);
        }
        run_end.min(end)
    }

    /// Everything it has not settled, in the order of tags.
    pub(crate) fn into_unsettled(self) -> impl Iterator<Item = Unsettled> {
        self.unsettled.into_values()
    }
}
