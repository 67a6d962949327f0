//! The state machine: inputs come in, each is handed to the part that knows it, and a turn is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::{DEFAULT_VHOST, ErrorBody, ErrorCode};
use rustc_hash::FxHashMap;

use crate::commit::{Commit, Effect, Record};
use crate::consumer::{Consumer, Unsettled};
use crate::definitions::{Definitions, Loaded};
use crate::due::Due;
use crate::ids::*;
use crate::input::Input;
use crate::limits::Bounds;
use crate::log::Log;
use crate::publisher::Publishers;
use crate::queue::{Deliveries, Queue, Turn};
use crate::stream::Stream;
use crate::topology::Topology;

/// The broker as a deterministic state machine: the same inputs at the same times make the same commits, bit for bit.
///
/// - [`Broker::handle`] takes one input. What it changes goes to the commit as records, what may be seen of it as
///   effects.
/// - [`Broker::finish`] ends a turn: it closes the chunks, hands out deliveries, and writes once a turn what would
///   otherwise be written once a message. The commit is complete then. [`Broker::finish_withholding`] hands out nothing.
/// - [`Broker::poll_timeout`] says when a turn is due though nothing comes in.
/// - [`Broker::topology`] and [`Broker::totals`] look.
///
/// Nothing is ever asked of the clock: times are milliseconds since the Unix epoch, handed in with each call.
///
/// Once a commit was finished its records must be applied, in the order of commits; a driver that cannot has to drop
/// the broker and restore another.
#[derive(Debug)]
pub struct Broker {
    pub(crate) definitions: Definitions,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) publishers: Publishers,
    pub(crate) consumers: FxHashMap<ConsumerId, Consumer>,
    /// Work queues.
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    /// The other queues.
    pub(crate) streams: BTreeMap<QueueId, Stream>,
    /// When retention of streams is due, in milliseconds since the Unix epoch.
    deadlines: BTreeSet<(u64, QueueId)>,
    pub(crate) due: Due,
    pub(crate) log: Log,
    pub(crate) bounds: Bounds,
    /// Queues that want a turn, in the order they came to want it.
    listed: Vec<QueueId>,
    /// Queues with something to hand out that was withheld.
    withheld: BTreeSet<QueueId>,
    /// Settled runs on their way from a consumer to its queue; empty between inputs.
    pub(crate) taken: Vec<Unsettled>,
    pub(crate) published: u64,
    delivered: u64,
    /// Messages that expired in queues that are gone.
    expired: u64,
}

/// A connection and what belongs to it.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) vhost: Option<VhostId>,
    pub(crate) exclusive: BTreeSet<QueueId>,
    pub(crate) publishers: BTreeSet<PublisherId>,
    pub(crate) consumers: BTreeSet<ConsumerId>,
}

/// What there is in the broker and what it did since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open connections.
    pub connections: u64,
    /// Open consumers.
    pub consumers: u64,
    /// Exchanges of all vhosts.
    pub exchanges: u64,
    /// Queues of all vhosts.
    pub queues: u64,
    /// Bindings of all vhosts.
    pub bindings: u64,
    /// Routers of all vhosts.
    pub routers: u64,
    /// Publisher identities that are remembered.
    pub identities: u64,
    /// Messages waiting in all queues, and there in all streams.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unsettled: u64,
    /// Messages taken from publishers.
    pub published: u64,
    /// Deliveries handed out.
    pub delivered: u64,
    /// Messages that expired.
    pub expired: u64,
    /// Messages that wait for the end of their delay, in each of their queues.
    pub delayed: u64,
    /// Messages that the store lost: nobody settled them, yet it has no index entry or record of them. Zero unless
    /// the data folder was damaged.
    pub missing: u64,
    /// Bytes of messages in transient queues.
    pub memory_bytes: u64,
    /// Bytes of durable chunks kept for delivery.
    pub cache_bytes: u64,
    /// How often a durable chunk was in memory when messages of it were handed out.
    pub cache_hits: u64,
    /// How often it was not, and a queue waited for the disk.
    pub cache_misses: u64,
}

impl Default for Broker {
    fn default() -> Broker {
        Broker::new()
    }
}

impl Broker {
    /// A broker in which nothing is declared; see [`Broker::bootstrap`].
    pub fn new() -> Broker {
        Broker::with_bounds(Bounds::default())
    }

    /// As [`Broker::new`], with bounds of one's own.
    pub fn with_bounds(bounds: Bounds) -> Broker {
        Broker {
            definitions: Definitions::default(),
            connections: BTreeMap::new(),
            publishers: Publishers::default(),
            consumers: FxHashMap::default(),
            queues: BTreeMap::new(),
            streams: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            due: Due::new(&bounds),
            log: Log::new([Offset(0); 2], bounds.cache_bytes, bounds.memory_bytes),
            bounds,
            listed: Vec::new(),
            withheld: BTreeSet::new(),
            taken: Vec::new(),
            published: 0,
            delivered: 0,
            expired: 0,
        }
    }

    /// Declares what every broker has and a fresh one lacks: the default vhost. Does nothing the second time.
    pub fn bootstrap(&mut self, commit: &mut Commit) {
        self.make_vhost(DEFAULT_VHOST.to_owned(), commit);
    }

    /// What was declared at the end of the last turn.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.definitions.snapshot)
    }

    /// Takes one input at `now`, in milliseconds since the Unix epoch.
    pub fn handle(&mut self, input: Input, now: u64, commit: &mut Commit) {
        match input {
            Input::Connected { connection, vhost } => self.connect(connection, &vhost),
            Input::Disconnected { connection } => self.disconnect(connection, commit),
            Input::Request {
                connection,
                id,
                request,
            } => self.handle_request(connection, id, request, commit),
            Input::RouterLoaded {
                connection,
                id,
                name,
                spec,
                module,
                activate,
            } => {
                let loaded = Loaded {
                    name,
                    spec,
                    module,
                    activate,
                };
                let answer = self.load_router(connection, loaded, commit);
                reply(connection, id, answer, commit);
            }
            Input::PutUser { name, verifier } => self.put_user(name, verifier, commit),
            Input::OpenPublisher {
                connection,
                publisher,
                identity,
            } => self.open_publisher(connection, publisher, identity, now, commit),
            Input::Publish { publisher, messages } => self.publish(publisher, messages, now, commit),
            Input::ClosePublisher { publisher } => self.close_publisher(publisher),
            Input::OpenConsumer {
                connection,
                consumer,
                open,
            } => self.open_consumer(connection, consumer, open, commit),
            Input::Credit { consumer, credit } => self.grant(consumer, credit),
            Input::Settle {
                consumer,
                first,
                settle,
            } => self.settle(consumer, first, settle, commit),
            Input::CloseConsumer { consumer } => self.close_consumer(consumer, commit),
            Input::IndexRead { queue, from, entries } => {
                if let Some(waiting) = self.queues.get_mut(&queue) {
                    waiting.index_read(from, entries);
                } else if let Some(waiting) = self.streams.get_mut(&queue) {
                    waiting.index_read(from, entries);
                }
                self.list(queue);
            }
            Input::DueRead { of, after, entries } => self.due_read(of, after, entries, commit),
            Input::ChunkRead { lane, base, chunk } => {
                for queue in self.log.chunk_read(lane, base, chunk) {
                    self.list(queue);
                }
            }
        }
    }

    fn handle_request(&mut self, connection: ConnectionId, id: u64, request: Request, commit: &mut Commit) {
        let answer = match request {
            Request::PurgeQueue(name) => match self.purge_queue(connection, id, &name) {
                Ok(()) => return, // its turn replies
                Err(error) => Err(error),
            },
            Request::DeclareVhost(name) => self.declare_vhost(name, commit),
            Request::DeleteVhost(name) => self.delete_vhost(&name, commit),
            Request::ListVhosts => Ok(self.list_vhosts()),
            Request::DeclareExchange(spec) => self.declare_exchange(connection, spec, commit),
            Request::DeleteExchange { name, if_unused } => {
                self.delete_exchange(connection, &name, if_unused, commit)
            }
            Request::ListExchanges(name) => self.list_exchanges(connection, name.as_deref()),
            Request::DeclareQueue(spec) => self.declare_queue(connection, spec, commit),
            Request::DeleteQueue {
                name,
                if_unused,
                if_empty,
            } => self.delete_queue(connection, &name, (if_unused, if_empty), commit),
            Request::ListQueues(name) => self.list_queues(connection, name.as_deref()),
            Request::Bind(spec) => self.bind(connection, spec, commit),
            Request::Unbind(spec) => self.unbind(connection, spec, commit),
            Request::ListBindings => self.list_bindings(connection),
            Request::RouterActivate { name, version } => {
                self.activate_router(connection, &name, version, commit)
            }
            Request::RouterRollback(name) => self.roll_back_router(connection, &name, commit),
            Request::RouterUnload { name, version } => self.unload_router(connection, &name, version, commit),
            Request::ListRouters(name) => self.list_routers(connection, name.as_deref()),
            Request::Status
            | Request::RouterLoad { .. }
            | Request::RouterLogs { .. }
            | Request::Explain { .. }
            | Request::RouterModule { .. }
            | Request::BackupBegin
            | Request::BackupRead { .. }
            | Request::BackupEnd => Err(ErrorBody::new(
                ErrorCode::Internal,
                "a request that the server answers came to the core",
            )),
        };
        reply(connection, id, answer, commit);
    }

    /// Ends a turn. Returns whether another one would do more without any input; the driver then takes it soon, but
    /// after what waits in its mailbox.
    pub fn finish(&mut self, now: u64, commit: &mut Commit) -> bool {
        for id in std::mem::take(&mut self.withheld) {
            self.list(id);
        }
        self.end_turn(now, Deliveries::HandOut, commit)
    }

    /// As [`Broker::finish`], but hands out no deliveries: those that could be are handed out by the next turn that ends with
    /// `finish`. The driver takes that once clients can be sent more; until then [`Broker::withholds`] says that there is
    /// reason to.
    pub fn finish_withholding(&mut self, now: u64, commit: &mut Commit) -> bool {
        self.end_turn(now, Deliveries::Withhold, commit)
    }

    /// Whether there may be deliveries that were withheld.
    pub fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }

    fn end_turn(&mut self, now: u64, deliveries: Deliveries, commit: &mut Commit) -> bool {
        self.log.seal(commit);
        let more = self.fire(now, commit);
        self.write_due(now, commit);
        while let Some(&(due, id)) = self.deadlines.first()
            && due <= now
        {
            self.deadlines.pop_first();
            self.list(id);
        }
        for id in std::mem::take(&mut self.listed) {
            if self.streams.contains_key(&id) {
                self.stream_turn(id, now, deliveries, commit);
            } else {
                self.queue_turn(id, deliveries, commit);
            }
        }
        self.log.finish(commit);
        self.publishers.finish(commit);
        self.definitions.finish(commit);
        more || !self.listed.is_empty()
    }

    fn queue_turn(&mut self, id: QueueId, deliveries: Deliveries, commit: &mut Commit) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.listed = false;
        queue.index(commit);
        let more = queue.turn(&mut Turn {
            deliveries,
            consumers: &mut self.consumers,
            log: &mut self.log,
            bounds: &self.bounds,
            commit,
            delivered: &mut self.delivered,
        });
        queue.write(commit);
        if deliveries == Deliveries::Withhold && queue.has_takers() {
            self.withheld.insert(id);
        }
        if queue.is_drained() {
            if queue.durable() {
                commit.records.push(Record::QueueGone { queue: id });
            }
            self.expired += queue.counters.expired;
            self.queues.remove(&id);
        } else if more {
            self.list(id);
        }
    }

    fn stream_turn(&mut self, id: QueueId, now: u64, deliveries: Deliveries, commit: &mut Commit) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.listed = false;
        stream.index(now, commit);
        let before = stream.due;
        let more = stream.turn(
            now,
            &mut Turn {
                deliveries,
                consumers: &mut self.consumers,
                log: &mut self.log,
                bounds: &self.bounds,
                commit,
                delivered: &mut self.delivered,
            },
        );
        stream.write(commit);
        if deliveries == Deliveries::Withhold && stream.has_takers() {
            self.withheld.insert(id);
        }
        let (due, drained) = (stream.due, stream.is_drained());
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.extend(due.map(|due| (due, id)));
        if drained {
            commit.records.push(Record::QueueGone { queue: id });
            self.streams.remove(&id);
        } else if more {
            self.list(id);
        }
    }

    /// When a turn should be taken though nothing came in, in milliseconds since the Unix epoch: something in a stream
    /// gets too old, a delay ends, or a message expires.
    pub fn poll_timeout(&self) -> Option<u64> {
        let retention = self.deadlines.first().map(|(due, _)| *due);
        [retention, self.due.next()].into_iter().flatten().min()
    }

    /// Gives a queue a turn at the end of this one.
    pub(crate) fn list(&mut self, id: QueueId) {
        let listed = match self.queues.get_mut(&id) {
            Some(queue) => Some(&mut queue.listed),
            None => self.streams.get_mut(&id).map(|stream| &mut stream.listed),
        };
        if let Some(listed) = listed
            && !*listed
        {
            *listed = true;
            self.listed.push(id);
        }
    }

    /// Counts. Costs a look at each queue.
    pub fn totals(&self) -> Totals {
        let counters = self.queues.values().map(|queue| queue.counters);
        let streams = self.streams.values().map(Stream::counters);
        let mut totals = counters
            .chain(streams)
            .fold(Totals::default(), |mut sum, counters| {
                sum.ready += counters.ready;
                sum.unsettled += counters.unsettled;
                sum.missing += counters.missing;
                sum.expired += counters.expired;
                sum
            });
        let topology = &self.definitions.topology;
        totals.connections = self.connections.len() as u64;
        totals.consumers = self.consumers.len() as u64;
        totals.exchanges = topology.exchanges.len() as u64;
        totals.queues = topology.queues.len() as u64;
        totals.bindings = self.definitions.bindings() as u64;
        totals.routers = topology.routers.len() as u64;
        totals.identities = self.publishers.identities() as u64;
        totals.published = self.published;
        totals.delivered = self.delivered;
        totals.expired += self.expired;
        totals.delayed = self.due.delayed_in_all();
        totals.memory_bytes = self.log.memory_bytes() as u64;
        totals.cache_bytes = self.log.cache_bytes() as u64;
        (totals.cache_hits, totals.cache_misses) = self.log.cache_hits_and_misses();
        totals
    }
}

fn reply(connection: ConnectionId, id: u64, answer: Result<Reply, ErrorBody>, commit: &mut Commit) {
    commit.effects.push(Effect::Reply {
        connection,
        id,
        reply: answer.unwrap_or_else(Reply::Error),
    });
}
