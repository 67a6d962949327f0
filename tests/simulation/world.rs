//! One seeded run: a broker, a store whose commits become durable late, clients, and a scheduler that decides by the
//! seed what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use pointsman_core::input::{MessageCopy, Publish, Verdict};
use pointsman_core::*;
use pointsman_protocol::admin::{QueueSpec, Reply, Request};
use pointsman_protocol::consume::{Credit, Settle, Settlement};
use pointsman_protocol::publish::Outcome;

use crate::model::{Model, State, Uid, uid_of};
use crate::store::SimStore;

const QUEUES: [(&str, bool); 5] = [
    ("d0", true),
    ("d1", true),
    ("d2", true),
    ("t0", false),
    ("t1", false),
];
const PUBLISHERS: u8 = 3;

/// A publishing client; it outlives the broker's crashes.
#[derive(Default)]
struct Publisher {
    stream: Option<PublisherId>,
    opened: bool,
    resend: bool,
    last_sequence: u64,
    unconfirmed: BTreeMap<u64, Message>,
}

#[derive(Clone)]
struct Message {
    queues: Vec<&'static str>,
    persistent: bool,
    padding: usize,
    two_copies: bool,
    /// Where the routes of all earlier tries led.
    targets: BTreeSet<QueueId>,
}

/// A consuming client.
struct Client {
    connection: ConnectionId,
    queue: QueueId,
    tags: BTreeSet<u64>,
}

enum Read {
    Index {
        queue: QueueId,
        from: Position,
        to: Position,
    },
    Chunk {
        base: Offset,
    },
    /// It was read right away, but the answer is late.
    Answer(Input),
}

/// A commit that is not durable yet, and what the model says after it.
struct Pending {
    commit: Commit,
    model: Model,
}

pub(crate) struct World {
    rng: fastrand::Rng,
    now: u64,
    bounds: Bounds,
    broker: Broker,
    commit: Commit,
    more: bool,
    model: Model,
    pending: VecDeque<Pending>,
    store: SimStore,
    durable: Model,
    /// What survives power loss.
    synced: (SimStore, Model),
    reads: Vec<Read>,
    names: BTreeMap<String, QueueId>,
    publishers: Vec<Publisher>,
    clients: BTreeMap<ConsumerId, Client>,
    /// Every consumer that ever was without acknowledgements.
    no_ack: BTreeMap<ConsumerId, QueueId>,
    purges: BTreeMap<u64, QueueId>,
    confirmed: BTreeSet<(QueueId, Uid)>,
    seen: BTreeSet<(QueueId, Uid)>,
    /// The last sequence number of a publisher that came for the first time, per queue.
    last_first: BTreeMap<(QueueId, u8), u64>,
    blocked: bool,
    last_id: u64,
    hash: DefaultHasher,
    pub(crate) figures: Figures,
}

/// What a run did, so that a run that does nothing is noticed.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) crashes: u64,
    pub(crate) confirms: u64,
    pub(crate) duplicates: u64,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    pub(crate) index_reads: u64,
    pub(crate) chunk_reads: u64,
    pub(crate) purged: u64,
    pub(crate) refused: u64,
    pub(crate) ack_blocks: u64,
}

impl Figures {
    fn fields(&mut self) -> [&mut u64; 10] {
        [
            &mut self.crashes,
            &mut self.confirms,
            &mut self.duplicates,
            &mut self.deliveries,
            &mut self.redeliveries,
            &mut self.index_reads,
            &mut self.chunk_reads,
            &mut self.purged,
            &mut self.refused,
            &mut self.ack_blocks,
        ]
    }

    pub(crate) fn add(&mut self, other: &mut Figures) {
        for (sum, value) in self.fields().into_iter().zip(other.fields()) {
            *sum += *value;
        }
    }

    pub(crate) fn reached_everything(&mut self) -> bool {
        self.fields().into_iter().all(|figure| *figure > 0)
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bounds = Bounds {
            page_runs: rng.usize(1..8),
            cache_bytes: rng.usize(300..6_000),
            memory_bytes: rng.usize(2_000..40_000),
            deliveries_per_turn: rng.usize(1..40),
            purge_runs_per_turn: rng.usize(1..8),
        };
        let mut world = World {
            rng,
            now: 1_700_000_000_000,
            bounds,
            broker: Broker::with_bounds(bounds),
            commit: Commit::default(),
            more: false,
            model: Model::default(),
            pending: VecDeque::new(),
            store: SimStore::default(),
            durable: Model::default(),
            synced: Default::default(),
            reads: Vec::new(),
            names: BTreeMap::new(),
            publishers: (0..PUBLISHERS).map(|_| Publisher::default()).collect(),
            clients: BTreeMap::new(),
            no_ack: BTreeMap::new(),
            purges: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            seen: BTreeSet::new(),
            last_first: BTreeMap::new(),
            blocked: false,
            last_id: 0,
            hash: DefaultHasher::new(),
            figures: Figures::default(),
        };
        world.broker.bootstrap(&mut world.commit);
        world.finish();
        world.make_durable();
        world.declare_queues();
        world
    }

    /// Runs for some steps, then lets everything come to rest and checks what is left. Returns a hash of every commit.
    pub(crate) fn run(mut self, steps: u32) -> (u64, Figures) {
        for _ in 0..steps {
            self.step();
        }
        self.come_to_rest();
        self.check_rest();
        (self.hash.finish(), self.figures)
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..5);
        match self.rng.u32(0..100) {
            0..25 => self.publish(),
            25..40 => self.finish(),
            40..58 => self.make_durable(),
            58..68 => self.answer_read(),
            68..75 => self.grant(),
            75..88 => self.settle(),
            88..92 => self.open_consumer(),
            92..94 => self.close_consumer(),
            94 => self.purge(),
            95 => self.delete_or_declare(),
            96 => self.check_list(),
            97 => self.toggle_blocked(),
            98 => self.misbehave(),
            _ if self.rng.u32(0..4) == 0 => self.crash(),
            _ => {}
        }
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn handle(&mut self, input: Input) {
        self.broker.handle(input, self.now, &mut self.commit);
    }

    fn connect(&mut self) -> ConnectionId {
        let connection = ConnectionId(self.id());
        self.handle(Input::Connected {
            connection,
            vhost: "/".to_owned(),
        });
        connection
    }

    /// Asks and returns the reply, unless it comes later.
    fn request(&mut self, request: Request) -> (u64, Option<Reply>) {
        let connection = self.connect();
        let id = self.id();
        self.handle(Input::Request {
            connection,
            id,
            request,
        });
        let reply = self.commit.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { id: of, reply, .. } if *of == id => Some(reply.clone()),
            _ => None,
        });
        (id, reply)
    }

    fn declare_queues(&mut self) {
        for (name, durable) in QUEUES {
            let spec = QueueSpec {
                name: name.to_owned(),
                durable,
                exclusive: false,
                auto_delete: false,
            };
            let (_, reply) = self.request(Request::DeclareQueue(spec));
            assert!(matches!(reply, Some(Reply::Queues(_))), "{reply:?}");
        }
    }

    // ---- publishers

    fn publish(&mut self) {
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

    fn open_publisher(&mut self, who: usize) {
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
    fn send(&mut self, who: usize, stream: PublisherId) {
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
        self.handle(Input::Publish {
            publisher: stream,
            messages: publishes,
        });
        for (sequence, message, route) in messages {
            let outcome = self.outcome(stream, sequence);
            self.check_outcome((who as u8, sequence), &message, &route, outcome);
        }
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
        let live: BTreeSet<QueueId> = route
            .iter()
            .copied()
            .filter(|id| self.model.queues.contains_key(id))
            .collect();
        match outcome.expect("every publish is confirmed") {
            Outcome::Routed { queues } => {
                assert_eq!(queues as usize, live.len());
                self.model.publish(uid, &live);
            }
            Outcome::Unroutable => {}
            Outcome::Refused(_) => self.figures.refused += 1,
            Outcome::Duplicate => {
                self.figures.duplicates += 1;
                let took = |id: &QueueId| match self.model.queues.get(id) {
                    Some(queue) => self.model.holds(uid, *id) == Some(true) || !queue.durable,
                    None => true,
                };
                assert!(message.targets.iter().any(took), "{uid:?} is no duplicate");
            }
            other => panic!("unexpected outcome {other:?}"),
        }
    }

    // ---- consumers

    fn open_consumer(&mut self) {
        let (name, _) = QUEUES[self.rng.usize(0..QUEUES.len())];
        let no_ack = self.rng.u32(0..6) == 0;
        if let Some(queue) = self.known(name) {
            self.open_consumer_of(name, queue, no_ack);
        }
    }

    /// A queue by name, when the name still means what the clients and the model know by it.
    fn known(&self, name: &str) -> Option<QueueId> {
        let queue = *self.names.get(name)?;
        let now = names_of(&self.broker.topology()).get(name).copied();
        (now == Some(queue) && self.model.queues.contains_key(&queue)).then_some(queue)
    }

    fn open_consumer_of(&mut self, name: &str, queue: QueueId, no_ack: bool) {
        let connection = self.connect();
        let consumer = ConsumerId(self.id());
        self.handle(Input::OpenConsumer {
            connection,
            consumer,
            queue: name.to_owned(),
            tag: String::new(),
            exclusive: false,
            no_ack,
        });
        if !matches!(self.commit.effects.last(), Some(Effect::ConsumerOpened { .. })) {
            return;
        }
        if no_ack {
            self.no_ack.insert(consumer, queue);
        }
        self.clients.insert(
            consumer,
            Client {
                connection,
                queue,
                tags: BTreeSet::new(),
            },
        );
        let state = crate::model::ModelConsumer {
            queue,
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

    fn grant(&mut self) {
        if let Some(consumer) = self.any_client() {
            let credit = Credit {
                messages: self.rng.u32(0..30),
                bytes: self.rng.u64(0..3_000),
            };
            self.grant_to(consumer, credit);
        }
    }

    fn grant_to(&mut self, consumer: ConsumerId, credit: Credit) {
        self.handle(Input::Credit { consumer, credit });
        if let Some(state) = self.model.consumers.get_mut(&consumer) {
            state.messages += u64::from(credit.messages);
            state.bytes = state.bytes.saturating_add_unsigned(credit.bytes);
        }
    }

    fn settle(&mut self) {
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

    fn settle_tags(&mut self, consumer: ConsumerId, first: u64, count: u32, how: Settlement) {
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
    fn misbehave(&mut self) {
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

    fn close_consumer(&mut self) {
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

    fn purge(&mut self) {
        let (name, _) = QUEUES[self.rng.usize(0..QUEUES.len())];
        let Some(queue) = self.known(name) else {
            return;
        };
        let (id, reply) = self.request(Request::PurgeQueue(name.to_owned()));
        assert_eq!(reply, None, "the reply follows when the turn ends");
        let Some(model) = self.model.queues.get_mut(&queue) else {
            return;
        };
        model.purges.push(model.entries.len());
        let purged = model.entries.iter().map(|entry| (queue, entry.uid));
        self.seen.extend(purged);
        self.purges.insert(id, queue);
    }

    fn delete_or_declare(&mut self) {
        self.declare_queues();
        let name = if self.rng.bool() { "d2" } else { "t1" };
        let Some(queue) = self.known(name) else {
            return;
        };
        let Some(model) = self.model.queues.get(&queue) else {
            return;
        };
        let messages = model.count(State::Ready) + model.count(State::Out);
        let purging = !model.purges.is_empty();
        let request = Request::DeleteQueue {
            name: name.to_owned(),
            if_unused: false,
            if_empty: false,
        };
        let (_, reply) = self.request(request);
        let Some(Reply::Purged(removed)) = reply else {
            panic!("unexpected reply {reply:?}");
        };
        assert!(purging || removed == messages);
        self.purges.retain(|_, of| *of != queue);
        self.model.delete(queue);
    }

    fn check_list(&mut self) {
        let (_, reply) = self.request(Request::ListQueues(None));
        let Some(Reply::Queues(queues)) = reply else {
            panic!("unexpected reply {reply:?}");
        };
        for info in queues {
            let Some(model) = self
                .names
                .get(&info.spec.name)
                .and_then(|id| self.model.queues.get(id))
            else {
                continue;
            };
            if model.purges.is_empty() {
                let counts = (model.count(State::Ready), model.count(State::Out));
                assert_eq!((info.ready, info.unsettled), counts);
            }
            assert_eq!(info.published, model.entries.len() as u64);
        }
    }

    fn toggle_blocked(&mut self) {
        self.blocked = !self.blocked && self.rng.bool();
        let reason = self.blocked.then(|| "the disk is full".to_owned());
        self.handle(Input::SetBlocked(reason));
    }

    // ---- driver and store

    fn finish(&mut self) {
        self.more = self.broker.finish(self.now, &mut self.commit);
        let commit = std::mem::take(&mut self.commit);
        format!("{commit:?}").hash(&mut self.hash);
        for (id, queue) in &self.broker.topology().queues {
            if !self.model.queues.contains_key(id) {
                self.model.declare(*id, queue.spec.durable);
            }
        }
        for effect in &commit.effects {
            self.check_effect(effect);
        }
        let model = self.model.clone();
        self.pending.push_back(Pending { commit, model });
    }

    /// What the core says must be what the model allows, whether or not it ever becomes durable.
    fn check_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Deliver {
                consumer,
                first,
                chunk,
                record,
                count,
                redelivered,
                delivery_count,
            } => {
                for i in 0..*count {
                    let (uid, len) = uid_of(chunk, record + i);
                    let tag = first.0 + u64::from(i);
                    self.model
                        .deliver(*consumer, tag, uid, len, *redelivered, *delivery_count);
                }
            }
            Effect::Reply {
                id,
                reply: Reply::Purged(removed),
                ..
            } => {
                if let Some(queue) = self.purges.remove(id) {
                    assert_eq!(self.model.purged(queue), Some(*removed));
                    self.figures.purged += removed;
                }
            }
            _ => {}
        }
    }

    fn make_durable(&mut self) {
        let Some(Pending { commit, model }) = self.pending.pop_front() else {
            return;
        };
        self.store.apply(&commit.records);
        self.figures.ack_blocks += commit
            .records
            .iter()
            .filter(|record| matches!(record, Record::AckBlock { .. }))
            .count() as u64;
        self.durable = model;
        if commit.sync {
            self.synced = (self.store.clone(), self.durable.clone());
        }
        for effect in commit.effects {
            self.release(effect);
        }
    }

    fn release(&mut self, effect: Effect) {
        match effect {
            Effect::PublisherOpened { publisher, .. } => {
                if let Some(who) = self.publisher_of(publisher) {
                    self.publishers[who].opened = true;
                    self.publishers[who].resend = true;
                }
            }
            Effect::Confirm {
                publisher,
                first,
                count,
                outcome,
            } => {
                for sequence in first..first + u64::from(count) {
                    self.confirmed(publisher, sequence, &outcome);
                }
            }
            Effect::Deliver {
                consumer,
                first,
                chunk,
                record,
                count,
                redelivered,
                ..
            } => {
                for i in 0..count {
                    let (uid, _) = uid_of(&chunk, record + i);
                    self.delivered(consumer, first.0 + u64::from(i), uid, redelivered);
                }
            }
            Effect::ConsumerClosed { consumer, .. } => {
                self.clients.remove(&consumer);
            }
            Effect::ReadIndex { queue, from, to } => {
                self.figures.index_reads += 1;
                let read = Read::Index { queue, from, to };
                self.ask(read);
            }
            Effect::ReadChunk { base, .. } => {
                self.figures.chunk_reads += 1;
                self.ask(Read::Chunk { base });
            }
            Effect::Topology(topology) => self.names = names_of(&topology),
            Effect::Reply { .. } | Effect::PublisherClosed { .. } | Effect::ConsumerOpened { .. } => {}
        }
    }

    fn publisher_of(&self, stream: PublisherId) -> Option<usize> {
        self.publishers
            .iter()
            .position(|publisher| publisher.stream == Some(stream))
    }

    fn confirmed(&mut self, stream: PublisherId, sequence: u64, outcome: &Outcome) {
        let Some(who) = self.publisher_of(stream) else {
            return;
        };
        let Some(message) = self.publishers[who].unconfirmed.remove(&sequence) else {
            return;
        };
        self.figures.confirms += 1;
        let uid = (who as u8, sequence);
        if !message.persistent || !matches!(outcome, Outcome::Routed { .. } | Outcome::Duplicate) {
            return;
        }
        for queue in message.targets {
            let durable = self.durable.queues.get(&queue).is_some_and(|queue| queue.durable);
            if durable && self.durable.holds(uid, queue) == Some(true) {
                self.confirmed.insert((queue, uid));
            }
        }
    }

    fn delivered(&mut self, consumer: ConsumerId, tag: u64, uid: Uid, redelivered: bool) {
        self.figures.deliveries += 1;
        self.figures.redeliveries += u64::from(redelivered);
        if let Some(queue) = self.no_ack.get(&consumer) {
            self.seen.insert((*queue, uid)); // whether or not the client is still there to take it
        }
        let Some(client) = self.clients.get_mut(&consumer) else {
            return; // it closed meanwhile
        };
        client.tags.insert(tag);
        let queue = client.queue;
        self.seen.insert((queue, uid));
        if !redelivered {
            let last = self.last_first.insert((queue, uid.0), uid.1);
            assert!(
                last.is_none_or(|last| last < uid.1),
                "order of publisher {} in {queue:?}",
                uid.0
            );
        }
    }

    fn ask(&mut self, read: Read) {
        let read = if self.rng.bool() {
            Read::Answer(self.answer(read))
        } else {
            read
        };
        self.reads.push(read);
    }

    fn answer(&mut self, read: Read) -> Input {
        match read {
            Read::Index { queue, from, to } => {
                let most = self.rng.usize(1..6);
                let entries = self.store.read_index(queue, from, to, most);
                Input::IndexRead { queue, from, entries }
            }
            Read::Chunk { base } => {
                let chunk = self.store.read_chunk(base);
                Input::ChunkRead {
                    lane: Lane::Queues,
                    base,
                    chunk,
                }
            }
            Read::Answer(input) => input,
        }
    }

    fn answer_read(&mut self) {
        if !self.reads.is_empty() {
            let read = self.reads.swap_remove(self.rng.usize(0..self.reads.len()));
            let input = self.answer(read);
            self.handle(input);
        }
    }

    /// The broker dies. A kill loses what was not written, power loss what was not synced.
    fn crash(&mut self) {
        self.figures.crashes += 1;
        if self.rng.bool() {
            (self.store, self.durable) = self.synced.clone();
        }
        self.commit = Commit::default();
        self.pending.clear();
        self.reads.clear();
        self.clients.clear();
        self.purges.clear();
        self.last_first.clear();
        self.blocked = false;
        for publisher in &mut self.publishers {
            publisher.stream = None;
        }
        let restored = Broker::restore_with_bounds(self.store.restored(), self.bounds);
        self.broker = restored.expect("what was written fits together");
        self.model = self.durable.clone();
        self.model.crash(&self.store);
        self.durable = self.model.clone();
        self.synced = (self.store.clone(), self.model.clone());
        self.names = names_of(&self.broker.topology());
        let ready: u64 = self
            .model
            .queues
            .values()
            .map(|queue| queue.count(State::Ready))
            .sum();
        let deleted = self
            .store
            .states
            .iter()
            .filter(|(id, _)| !self.model.queues.contains_key(id));
        if deleted.count() == 0 {
            assert_eq!(self.broker.totals().ready, ready);
        }
        self.declare_queues();
    }

    // ---- the end

    fn come_to_rest(&mut self) {
        self.handle(Input::SetBlocked(None));
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

    fn check_rest(&self) {
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

fn names_of(topology: &Topology) -> BTreeMap<String, QueueId> {
    let queues = topology
        .vhosts
        .get("/")
        .into_iter()
        .flat_map(|vhost| vhost.queues.iter());
    queues.map(|(name, id)| (name.clone(), *id)).collect()
}

fn new_message(rng: &mut fastrand::Rng) -> Message {
    let count = rng.usize(0..4);
    let queues = (0..count).map(|_| QUEUES[rng.usize(0..QUEUES.len())].0);
    Message {
        queues: queues.collect(),
        persistent: rng.u32(0..4) > 0,
        padding: if rng.u32(0..40) == 0 {
            rng.usize(0..5_000)
        } else {
            rng.usize(0..60)
        },
        two_copies: rng.u32(0..10) == 0,
        targets: BTreeSet::new(),
    }
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
        let meta = [1, 2, 3];
        let mut content = Vec::from(meta);
        content.push(who);
        content.extend_from_slice(&sequence.to_le_bytes());
        content.resize(content.len() + message.padding, 0);
        MessageCopy {
            content: Bytes::from(content),
            meta_len: meta.len() as u32,
            persistent: message.persistent,
            exchange: ExchangeId(7),
            decided_by: None,
            queues: queues.into(),
        }
    };
    parts.into_iter().map(copy).collect()
}
