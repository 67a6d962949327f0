//! The end of a run: everything is delivered and settled, and nothing may be left or lost.

use std::collections::BTreeMap;

use pointsman_core::*;
use pointsman_protocol::consume::{Credit, Settlement, StartAt};

use super::{QUEUES, STREAMS, World};
use crate::model::State;
use crate::stream::Reader;

impl World {
    pub(super) fn come_to_rest(&mut self) {
        for _ in 0..20_000 {
            // Beyond every delay and expiration.
            self.now += 5_000;
            self.finish();
            while !self.pending.is_empty() {
                self.make_durable();
            }
            while !self.reads.is_empty() {
                self.answer_read();
            }
            let before = self.progress();
            self.open_everything();
            self.settle_everything();
            self.finish();
            while !self.pending.is_empty() {
                self.make_durable();
            }
            let after = self.progress();
            let open = self
                .publishers
                .iter()
                .any(|publisher| !publisher.unconfirmed.is_empty());
            let tags = self.clients.values().any(|client| !client.tags.is_empty());
            let due = self.broker.totals().delayed > 0 || !self.store.due.is_empty() || self.is_behind;
            if before == after && !open && !tags && !self.more && !due && self.reads.is_empty() {
                return;
            }
        }
        panic!("the broker does not come to rest: {:?}", self.broker.totals());
    }

    fn progress(&self) -> [u64; 7] {
        let figures = &self.figures;
        [
            figures.confirms,
            figures.deliveries,
            figures.stream_reads,
            figures.index_reads,
            figures.dropped,
            figures.entered,
            figures.expired,
        ]
    }

    /// Messages in all streams.
    pub(super) fn in_streams(&self) -> u64 {
        let streams = self.model.streams.values();
        streams
            .map(|stream| (stream.entries.len() - stream.head) as u64)
            .sum()
    }

    fn open_everything(&mut self) {
        for who in 0..self.publishers.len() {
            match self.publishers[who].stream {
                None => self.open_publisher(who),
                Some(stream) if self.publishers[who].opened => {
                    self.publishers[who].resend = false;
                    self.send(who, stream);
                }
                Some(_) => {}
            }
        }
        for name in QUEUES.map(|(name, _, _)| name) {
            if let Some(queue) = self.known(name)
                && !self.clients.values().any(|client| client.queue == queue)
            {
                self.open_consumer_of(name, queue, false, None);
            }
        }
        for name in STREAMS.map(|(name, _)| name) {
            if let Some(queue) = self.known(name)
                && !self.clients.values().any(|client| client.queue == queue)
            {
                self.open_consumer_of(name, queue, false, Some(StartAt::First));
            }
        }
        let consumers: Vec<ConsumerId> = self.clients.keys().copied().collect();
        for consumer in consumers {
            self.grant_to(
                consumer,
                Credit {
                    messages: 1_000,
                    bytes: 1_000_000,
                },
            );
        }
    }

    fn settle_everything(&mut self) {
        let tags = self
            .clients
            .iter()
            .flat_map(|(id, client)| client.tags.iter().map(|tag| (*id, *tag)));
        for (consumer, tag) in tags.collect::<Vec<_>>() {
            let no_ack = self
                .model
                .consumers
                .get(&consumer)
                .is_none_or(|consumer| consumer.no_ack);
            if no_ack {
                if let Some(client) = self.clients.get_mut(&consumer) {
                    client.tags.remove(&tag);
                }
            } else {
                self.settle_tags(consumer, tag, 1, Settlement::Ack);
            }
        }
    }

    pub(super) fn check_rest(&self) {
        for (id, queue) in &self.model.queues {
            let left = queue.entries.iter().find(|entry| entry.state != State::Settled);
            assert!(left.is_none(), "{left:?} is left in {id:?}");
        }
        for stream in self.model.streams.values() {
            stream.check_kept(self.now);
        }
        for consumer in self.model.consumers.values() {
            if let Some(stream) = self.model.streams.get(&consumer.queue) {
                let at = match consumer.reader {
                    Some(Reader::At(at)) => at,
                    _ => panic!("a reader never opened: {consumer:?}"),
                };
                assert!(
                    at.max(stream.head) >= stream.entries.len(),
                    "a reader stays behind: {consumer:?}"
                );
            }
        }
        for (queue, uid) in &self.confirmed {
            if let Some(stream) = self.model.streams.get(queue) {
                assert!(stream.holds(*uid), "{uid:?} was confirmed and is lost");
                continue;
            }
            let there = self.model.queues.contains_key(queue);
            assert!(
                !there || self.seen.contains(&(*queue, *uid)),
                "{uid:?} was confirmed and is lost"
            );
        }
        let store = &self.store;
        self.check_streams_on_disk();
        assert!(store.acks.is_empty(), "ack blocks leak: {:?}", store.acks);
        assert!(store.attempts.is_empty(), "attempts leak: {:?}", store.attempts);
        assert!(store.delayed.is_empty(), "delays leak: {:?}", store.delayed);
        let mut work = store.states.values().filter(|state| state.stream.is_none());
        assert!(work.all(|state| state.head == state.tail));
        let totals = self.broker.totals();
        assert_eq!(
            (
                totals.ready,
                totals.unsettled,
                totals.missing,
                totals.memory_bytes
            ),
            (self.in_streams(), 0, 0, 0)
        );
    }

    /// Nothing is on disk but what the streams hold.
    fn check_streams_on_disk(&self) {
        let mut references: BTreeMap<(Lane, Offset), u64> = BTreeMap::new();
        let mut messages = 0;
        for ((queue, _), entry) in &self.store.index {
            let there = self.model.streams.contains_key(queue);
            assert!(there, "an index entry of {queue:?} leaks: {entry:?}");
            messages += entry.count();
            for run in &entry.runs {
                *references.entry((run.lane, run.chunk)).or_insert(0) += u64::from(run.count);
            }
        }
        assert_eq!(messages, self.in_streams());
        let chunks = self.store.chunks.iter();
        let there: BTreeMap<_, _> = chunks.map(|(key, stored)| (*key, stored.left.total())).collect();
        assert_eq!(there, references, "chunks leak");
    }
}
