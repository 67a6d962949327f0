//! The end of a run: everything is delivered and settled, and nothing may be left or lost.

use pointsman_core::*;
use pointsman_protocol::consume::{Credit, Settlement};

use super::{QUEUES, World};
use crate::model::State;

impl World {
    pub(super) fn come_to_rest(&mut self) {
        for _ in 0..20_000 {
            self.finish();
            while !self.pending.is_empty() {
                self.make_durable();
            }
            while !self.reads.is_empty() {
                self.answer_read();
            }
            let before = (
                self.figures.confirms,
                self.figures.deliveries,
                self.figures.index_reads,
            );
            self.open_everything();
            self.settle_everything();
            self.finish();
            while !self.pending.is_empty() {
                self.make_durable();
            }
            let after = (
                self.figures.confirms,
                self.figures.deliveries,
                self.figures.index_reads,
            );
            let open = self
                .publishers
                .iter()
                .any(|publisher| !publisher.unconfirmed.is_empty());
            let tags = self.clients.values().any(|client| !client.tags.is_empty());
            if before == after && !open && !tags && !self.more && self.reads.is_empty() {
                return;
            }
        }
        panic!("the broker does not come to rest: {:?}", self.broker.totals());
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
        for name in QUEUES.map(|(name, _)| name) {
            if let Some(queue) = self.known(name)
                && !self.clients.values().any(|client| client.queue == queue)
            {
                self.open_consumer_of(name, queue, false);
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
        for (queue, uid) in &self.confirmed {
            let there = self.model.queues.contains_key(queue);
            assert!(
                !there || self.seen.contains(&(*queue, *uid)),
                "{uid:?} was confirmed and is lost"
            );
        }
        let store = &self.store;
        assert!(store.chunks.is_empty(), "chunks leak: {:?}", store.chunks.keys());
        assert!(store.index.is_empty(), "index entries leak: {:?}", store.index);
        assert!(store.acks.is_empty(), "ack blocks leak: {:?}", store.acks);
        assert!(store.attempts.is_empty(), "attempts leak: {:?}", store.attempts);
        assert!(store.states.values().all(|state| state.head == state.tail));
        let totals = self.broker.totals();
        assert_eq!(
            (
                totals.ready,
                totals.unsettled,
                totals.missing,
                totals.memory_bytes
            ),
            (0, 0, 0, 0)
        );
    }
}
