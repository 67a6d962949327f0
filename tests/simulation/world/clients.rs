//! What clients and operators do, and what of it must be answered at once. It goes to the broker and to the model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pointsman_core::input::{MessageCopy, Publish, Times, Verdict};
use pointsman_core::*;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::consume::{Credit, OpenConsumer, Settle, Settlement, StartAt};
use pointsman_protocol::publish::Outcome;

use super::{World, any_name, names_of};
use crate::model::{ModelConsumer, State, Uid};
use crate::stream::Reader;

/// A publishing client; it outlives the broker's crashes.
#[derive(Default)]
pub(super) struct Publisher {
    pub(super) stream: Option<PublisherId>,
    pub(super) opened: bool,
    pub(super) resend: bool,
    pub(super) last_sequence: u64,
    pub(super) unconfirmed: BTreeMap<u64, Message>,
}

#[derive(Clone)]
pub(super) struct Message {
    pub(super) queues: Vec<&'static str>,
    pub(super) persistent: bool,
    pub(super) padding: usize,
    pub(super) two_copies: bool,
    pub(super) times: Times,
    /// Where the routes of all earlier tries led.
    pub(super) targets: BTreeSet<QueueId>,
}

/// A consuming client.
pub(super) struct Client {
    pub(super) connection: ConnectionId,
    pub(super) queue: QueueId,
    pub(super) tags: BTreeSet<u64>,
    /// The last offset it saw, in a stream.
    pub(super) last_offset: Option<u64>,
}

impl World {
    // ---- publishers

    pub(super) fn publish(&mut self) {
        let who = self.rng.usize(0..self.publishers.len());
        let publisher = &mut self.publishers[who];
        let Some(stream) = publisher.stream.filter(|_| self.rng.u32(0..50) > 0) else {
            return self.open_publisher(who);
        };
        if !publisher.opened {
            return;
        }
        if !std::mem::take(&mut publisher.resend) {
            for _ in 0..self.rng.u32(1..8) {
                publisher.last_sequence += 1;
                let gap = u64::from(self.rng.u32(0..20) == 0);
                publisher.last_sequence += gap;
                let message = new_message(&mut self.rng);
                publisher.unconfirmed.insert(publisher.last_sequence, message);
            }
        }
        self.send(who, stream);
    }

    pub(super) fn open_publisher(&mut self, who: usize) {
        let connection = self.connect();
        let publisher = PublisherId(self.id());
        self.publishers[who].stream = Some(publisher);
        self.publishers[who].opened = false;
        let identity = PublisherIdentity(who as u128 + 1);
        self.handle(Input::OpenPublisher {
            connection,
            publisher,
            identity,
        });
    }

    /// Sends what is unconfirmed and was not sent on this stream.
    pub(super) fn send(&mut self, who: usize, stream: PublisherId) {
        let mut messages = Vec::new();
        for (&sequence, message) in &mut self.publishers[who].unconfirmed {
            let route = message
                .queues
                .iter()
                .filter_map(|name| self.names.get(*name).copied());
            let route: BTreeSet<QueueId> = route.collect();
            messages.push((sequence, message.clone(), route.clone()));
            message.targets.extend(route);
        }
        let publishes = messages.iter().map(|(sequence, message, route)| Publish {
            sequence: *sequence,
            verdict: Verdict::Deliver,
            copies: copies(who as u8, *sequence, message, route),
        });
        let publishes = publishes.collect();
        let before = self.confirmed_in_this_turn(stream);
        self.handle(Input::Publish {
            publisher: stream,
            messages: publishes,
        });
        let confirmed = self.confirmed_in_this_turn(stream) - before;
        assert_eq!(confirmed, messages.len(), "every publish is confirmed once");
        for (sequence, message, route) in messages {
            let outcome = self.outcome(stream, sequence);
            self.check_outcome((who as u8, sequence), &message, &route, outcome);
        }
    }

    fn confirmed_in_this_turn(&self, stream: PublisherId) -> usize {
        let counts = self.commit.effects.iter().map(|effect| match effect {
            Effect::Confirm { publisher, count, .. } if *publisher == stream => *count as usize,
            _ => 0,
        });
        counts.sum()
    }

    fn outcome(&self, stream: PublisherId, sequence: u64) -> Option<Outcome> {
        self.commit.effects.iter().rev().find_map(|effect| match effect {
            Effect::Confirm {
                publisher,
                first,
                count,
                outcome,
            } if *publisher == stream && (*first..*first + u64::from(*count)).contains(&sequence) => {
                Some(outcome.clone())
            }
            _ => None,
        })
    }

    fn check_outcome(
        &mut self,
        uid: Uid,
        message: &Message,
        route: &BTreeSet<QueueId>,
        outcome: Option<Outcome>,
    ) {
        let live: BTreeSet<QueueId> = route.iter().copied().filter(|id| self.model.knows(*id)).collect();
        match outcome.expect("every publish is confirmed") {
            Outcome::Routed { queues } => {
                assert_eq!(queues as usize, live.len());
                let len = META.len() + 9 + message.padding;
                if message.times.delay.is_some() {
                    self.delayed.insert(uid);
                }
                self.model.publish(uid, len, message.times, self.now, &live);
            }
            Outcome::Unroutable => {}
            Outcome::Refused(_) => self.figures.refused += 1,
            Outcome::Duplicate => {
                self.figures.duplicates += 1;
                let took = |id: &QueueId| match self.model.queues.get(id) {
                    Some(queue) => self.model.holds(uid, *id) == Some(true) || !queue.durable,
                    None => self.model.holds(uid, *id) != Some(false),
                };
                assert!(message.targets.iter().any(took), "{uid:?} is no duplicate");
            }
            other => panic!("unexpected outcome {other:?}"),
        }
    }

    // ---- consumers

    pub(super) fn open_consumer(&mut self) {
        let name = any_name(&mut self.rng);
        let no_ack = self.rng.u32(0..6) == 0;
        if let Some(queue) = self.known(name) {
            let start = self.any_start(queue);
            self.open_consumer_of(name, queue, no_ack, start);
        }
    }

    /// A queue by name, when the name still means what the clients and the model know by it.
    pub(super) fn known(&self, name: &str) -> Option<QueueId> {
        let queue = *self.names.get(name)?;
        let now = names_of(&self.broker.topology()).get(name).copied();
        (now == Some(queue) && self.model.knows(queue)).then_some(queue)
    }

    /// Where a reader of a stream may start; nowhere in particular for a work queue.
    fn any_start(&mut self, queue: QueueId) -> Option<StartAt> {
        let stream = self.model.streams.get(&queue)?;
        let tail = stream.entries.len() as u64;
        Some(match self.rng.u32(0..6) {
            0 => StartAt::First,
            1 => StartAt::Last,
            2 => StartAt::Next,
            3 => StartAt::Offset(self.rng.u64(0..tail + 3)),
            _ => {
                self.figures.seeks += 1;
                StartAt::Timestamp(self.now.saturating_sub(self.rng.u64(0..2_000)))
            }
        })
    }

    pub(super) fn open_consumer_of(
        &mut self,
        name: &str,
        queue: QueueId,
        no_ack: bool,
        start: Option<StartAt>,
    ) {
        let connection = self.connect();
        let consumer = ConsumerId(self.id());
        self.handle(Input::OpenConsumer {
            connection,
            consumer,
            open: OpenConsumer {
                queue: name.to_owned(),
                tag: String::new(),
                exclusive: false,
                no_ack,
                start,
            },
        });
        if matches!(self.commit.effects.last(), Some(Effect::ConsumerClosed { .. })) {
            return;
        }
        let reader =
            start.and_then(|start| Some(Reader::Opening(self.model.streams.get(&queue)?.opening(start))));
        if no_ack {
            self.no_ack.insert(consumer, queue);
        }
        self.clients.insert(
            consumer,
            Client {
                connection,
                queue,
                tags: BTreeSet::new(),
                last_offset: None,
            },
        );
        let state = ModelConsumer {
            queue,
            reader,
            no_ack,
            messages: 0,
            bytes: 0,
            next_tag: 1,
            out: BTreeMap::new(),
        };
        self.model.consumers.insert(consumer, state);
    }

    fn any_client(&mut self) -> Option<ConsumerId> {
        let place = self.rng.usize(0..self.clients.len().max(1));
        self.clients.keys().nth(place).copied()
    }

    pub(super) fn grant(&mut self) {
        if let Some(consumer) = self.any_client() {
            let credit = Credit {
                messages: self.rng.u32(0..30),
                bytes: self.rng.u64(0..3_000),
            };
            self.grant_to(consumer, credit);
        }
    }

    pub(super) fn grant_to(&mut self, consumer: ConsumerId, credit: Credit) {
        self.handle(Input::Credit { consumer, credit });
        if let Some(state) = self.model.consumers.get_mut(&consumer) {
            state.messages += u64::from(credit.messages);
            state.bytes = state.bytes.saturating_add_unsigned(credit.bytes);
        }
    }

    pub(super) fn settle(&mut self) {
        let Some(consumer) = self.any_client() else {
            return;
        };
        let tags: Vec<u64> = self.clients[&consumer].tags.iter().copied().collect();
        if tags.is_empty() {
            return;
        }
        let at = if self.rng.bool() {
            0
        } else {
            self.rng.usize(0..tags.len())
        };
        let most = self.rng.usize(1..20);
        let run = tags[at..]
            .iter()
            .zip(tags[at]..)
            .take_while(|(tag, next)| *tag == next);
        let count = run.take(most).count() as u32;
        let how = match self.rng.u32(0..8) {
            0 => Settlement::Requeue,
            1 => Settlement::Reject,
            _ => Settlement::Ack,
        };
        self.settle_tags(consumer, tags[at], count, how);
    }

    pub(super) fn settle_tags(&mut self, consumer: ConsumerId, first: u64, count: u32, how: Settlement) {
        if let Some(client) = self.clients.get_mut(&consumer) {
            (first..first + u64::from(count)).for_each(|tag| {
                client.tags.remove(&tag);
            });
        }
        let settle = Settle { count, how };
        self.handle(Input::Settle {
            consumer,
            first: DeliveryTag(first),
            settle,
        });
        let known = self.model.settle(consumer, first, count, how);
        let closed = self.commit.effects.iter().any(
            |effect| matches!(effect, Effect::ConsumerClosed { consumer: closed, .. } if *closed == consumer),
        );
        assert!(known || closed, "an unknown tag closes the consumer");
    }

    /// Settles what was never delivered.
    pub(super) fn misbehave(&mut self) {
        if let Some(consumer) = self.any_client() {
            let (first, count) = (self.rng.u64(0..u64::MAX), self.rng.u32(0..10));
            self.settle_tags_unchecked(consumer, first, count);
        }
    }

    fn settle_tags_unchecked(&mut self, consumer: ConsumerId, first: u64, count: u32) {
        let settle = Settle {
            count,
            how: Settlement::Ack,
        };
        self.handle(Input::Settle {
            consumer,
            first: DeliveryTag(first),
            settle,
        });
        self.model.settle(consumer, first, count, Settlement::Ack);
        self.clients.remove(&consumer);
    }

    pub(super) fn close_consumer(&mut self) {
        let Some(consumer) = self.any_client() else {
            return;
        };
        if self.rng.bool() {
            self.handle(Input::CloseConsumer { consumer });
        } else {
            let connection = self.clients[&consumer].connection;
            self.handle(Input::Disconnected { connection });
        }
        self.clients.remove(&consumer);
        self.model.close(consumer);
    }

    // ---- operators

    pub(super) fn purge(&mut self) {
        let name = any_name(&mut self.rng);
        let Some(queue) = self.known(name) else {
            return;
        };
        let (id, reply) = self.request(Request::PurgeQueue(name.to_owned()));
        assert_eq!(reply, None, "the reply follows when the turn ends");
        if let Some(stream) = self.model.streams.get_mut(&queue) {
            stream.purge();
            self.purges.insert(id, queue);
        }
        let Some(model) = self.model.queues.get_mut(&queue) else {
            return;
        };
        model.purges.push(model.entries.len());
        let purged = model.entries.iter().map(|entry| (queue, entry.uid));
        self.seen.extend(purged);
        self.purges.insert(id, queue);
    }

    pub(super) fn delete_or_declare(&mut self) {
        self.declare_queues();
        let name = ["d2", "t1", "s0", "s3"][self.rng.usize(0..4)];
        let Some(queue) = self.known(name) else {
            return;
        };
        let (messages, purging) = match (self.model.queues.get(&queue), self.model.streams.get(&queue)) {
            (Some(model), _) => {
                let messages = model.count(State::Ready) + model.count(State::Out);
                (messages, !model.purges.is_empty() || self.is_behind)
            }
            (None, Some(stream)) => ((stream.entries.len() - stream.head) as u64, false),
            (None, None) => return,
        };
        let request = Request::DeleteQueue {
            name: name.to_owned(),
            if_unused: false,
            if_empty: false,
        };
        let (_, reply) = self.request(request);
        let Some(Reply::Purged(removed)) = reply else {
            panic!("unexpected reply {reply:?}");
        };
        assert!(purging || removed == messages + self.model.delayed(queue));
        self.figures.sweeps += self.model.delayed(queue);
        self.purges.retain(|_, of| *of != queue);
        self.model.delete(queue);
    }

    pub(super) fn check_list(&mut self) {
        let (_, reply) = self.request(Request::ListQueues(None));
        let Some(Reply::Queues(queues)) = reply else {
            panic!("unexpected reply {reply:?}");
        };
        for info in queues {
            if let Some(id) = self.names.get(&info.spec.name)
                && self.model.knows(*id)
            {
                assert_eq!(info.delayed, self.model.delayed(*id));
            }
            let stream = self
                .names
                .get(&info.spec.name)
                .and_then(|id| self.model.streams.get(id));
            if let Some(stream) = stream {
                assert_eq!(info.stream, Some(stream.info()));
            }
            let Some(model) = self
                .names
                .get(&info.spec.name)
                .and_then(|id| self.model.queues.get(id))
            else {
                continue;
            };
            if model.purges.is_empty() && !self.is_behind {
                let counts = (model.count(State::Ready), model.count(State::Out));
                assert_eq!((info.ready, info.unsettled), counts);
            }
            assert_eq!(info.published, model.entries.len() as u64);
        }
    }
}

/// The metadata of every message; nobody here reads it.
const META: [u8; 3] = [1, 2, 3];

fn new_message(rng: &mut fastrand::Rng) -> Message {
    let count = rng.usize(0..4);
    let queues = (0..count).map(|_| any_name(rng));
    Message {
        queues: queues.collect(),
        persistent: rng.u32(0..4) > 0,
        padding: if rng.u32(0..40) == 0 {
            rng.usize(0..5_000)
        } else {
            rng.usize(0..60)
        },
        two_copies: rng.u32(0..10) == 0,
        times: Times::new(any_time(rng, 6), any_time(rng, 4)),
        targets: BTreeSet::new(),
    }
}

/// One of a few spans, so that some have the same, for one in `of` messages.
fn any_time(rng: &mut fastrand::Rng, of: u32) -> Option<u64> {
    (rng.u32(0..of) == 0).then(|| *rng.choice(&[1, 2, 10, 50, 50, 200, 1_000]).unwrap_or(&1))
}

fn copies<T: FromIterator<MessageCopy>>(
    who: u8,
    sequence: u64,
    message: &Message,
    route: &BTreeSet<QueueId>,
) -> T {
    let half = route.len() / 2;
    let parts: Vec<Vec<QueueId>> = if message.two_copies {
        vec![
            route.iter().copied().take(half).collect(),
            route.iter().copied().skip(half).collect(),
        ]
    } else {
        vec![route.iter().copied().collect()]
    };
    let copy = |queues: Vec<QueueId>| {
        let mut content = Vec::from(META);
        content.push(who);
        content.extend_from_slice(&sequence.to_le_bytes());
        content.resize(content.len() + message.padding, 0);
        MessageCopy {
            content: Bytes::from(content),
            meta_len: META.len() as u32,
            persistent: message.persistent,
            times: message.times,
            exchange: ExchangeId(7),
            decided_by: None,
            queues: queues.into(),
        }
    };
    parts.into_iter().map(copy).collect()
}
