//! Connections and consumers come and go, take credit and settle.

use pointsman_protocol::consume::{Credit, OpenConsumer, Settle, Settlement, StartAt};
use pointsman_protocol::{ErrorBody, ErrorCode};

use crate::broker::{Broker, Connection};
use crate::commit::{Commit, Effect};
use crate::consumer::Consumer;
use crate::ids::{ConnectionId, ConsumerId, DeliveryTag, QueueId};
use crate::limits::QUEUE_CONSUMERS_MAX;
use crate::stream::Stream;

impl Broker {
    pub(crate) fn connect(&mut self, connection: ConnectionId, vhost: &str) {
        let vhost = self.definitions.topology.vhosts.get(vhost);
        let state = Connection {
            vhost: vhost.map(|vhost| vhost.id),
            ..Connection::default()
        };
        self.connections.insert(connection, state);
    }

    /// Everything that belongs to a connection goes with it.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId, commit: &mut Commit) {
        let Some(state) = self.connections.remove(&connection) else {
            return;
        };
        for publisher in state.publishers {
            self.close_publisher(publisher);
        }
        for consumer in state.consumers {
            self.close_consumer(consumer, commit);
        }
        for queue in state.exclusive {
            self.remove_queue(queue, "its connection is gone", commit);
        }
    }

    pub(crate) fn open_consumer(
        &mut self,
        connection: ConnectionId,
        consumer: ConsumerId,
        open: OpenConsumer,
        commit: &mut Commit,
    ) {
        match self.admit(connection, &open) {
            Ok(queue) => self.add_consumer(
                Consumer::new(consumer, connection, queue, open.no_ack),
                open,
                commit,
            ),
            Err(error) => commit.effects.push(Effect::ConsumerClosed { consumer, error }),
        }
    }

    /// Whether the queue takes the consumer.
    fn admit(&self, connection: ConnectionId, open: &OpenConsumer) -> Result<QueueId, ErrorBody> {
        let name = &open.queue;
        let id = self.usable_queue(connection, name)?.id;
        let Some((consumers, has_exclusive)) = self.consumers_of(id) else {
            return Err(ErrorBody::new(
                ErrorCode::Internal,
                format!("queue '{name}' has no state"),
            ));
        };
        if open.start.is_some() && !self.streams.contains_key(&id) {
            let message = format!("queue '{name}' is a work queue, which has no offsets to start at");
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message)
                .hint("only streams are read from an offset or a time"));
        }
        if has_exclusive {
            let message = format!("queue '{name}' has an exclusive consumer");
            return Err(ErrorBody::new(ErrorCode::ResourceLocked, message));
        }
        if open.exclusive && consumers > 0 {
            let message = format!("queue '{name}' has {consumers} consumers, so none can be exclusive");
            return Err(ErrorBody::new(ErrorCode::ResourceLocked, message));
        }
        if consumers >= QUEUE_CONSUMERS_MAX {
            let message = format!("queue '{name}' has {consumers} consumers, the limit QUEUE_CONSUMERS_MAX");
            return Err(ErrorBody::new(ErrorCode::LimitReached, message));
        }
        Ok(id)
    }

    /// How many consumers a queue has, and whether the one wants no other beside it.
    pub(crate) fn consumers_of(&self, id: QueueId) -> Option<(usize, bool)> {
        match (self.queues.get(&id), self.streams.get(&id)) {
            (Some(queue), _) => Some((queue.consumers.len(), queue.exclusive_consumer)),
            (None, Some(stream)) => Some((stream.readers(), stream.exclusive_consumer)),
            (None, None) => None,
        }
    }

    fn add_consumer(&mut self, state: Consumer, open: OpenConsumer, commit: &mut Commit) {
        let (consumer, queue) = (state.id, state.queue);
        let OpenConsumer {
            tag,
            exclusive,
            start,
            ..
        } = open;
        let tag = if tag.is_empty() {
            format!("c.{}", consumer.0)
        } else {
            tag
        };
        if let Some(connection) = self.connections.get_mut(&state.connection) {
            connection.consumers.insert(consumer);
        }
        self.consumers.insert(consumer, state);
        if let Some(stream) = self.streams.get_mut(&queue) {
            stream.exclusive_consumer = exclusive;
            stream.open(consumer, tag, start.unwrap_or(StartAt::Next), commit);
            return self.list(queue);
        }
        if let Some(state) = self.queues.get_mut(&queue) {
            state.consumers.insert(consumer);
            state.exclusive_consumer = exclusive;
        }
        let offset = None;
        commit.effects.push(Effect::ConsumerOpened {
            consumer,
            tag,
            offset,
        });
    }

    pub(crate) fn grant(&mut self, id: ConsumerId, credit: Credit) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        consumer.grant(credit);
        let queue = consumer.queue;
        self.queue_up(id, queue);
    }

    /// A consumer that wants more gets in line at its queue, unless it is.
    fn queue_up(&mut self, id: ConsumerId, queue: QueueId) {
        if let Some(consumer) = self.consumers.get_mut(&id)
            && !consumer.hungry
            && consumer.wants_more()
        {
            consumer.hungry = true;
            if let Some(state) = self.queues.get_mut(&queue) {
                state.queue_up(id);
            } else if let Some(stream) = self.streams.get_mut(&queue) {
                stream.queue_up(id);
            }
            self.list(queue);
        }
    }

    pub(crate) fn settle(&mut self, id: ConsumerId, first: DeliveryTag, settle: Settle, commit: &mut Commit) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        let queue = consumer.queue;
        if !consumer.take(first.0, settle.count, &mut self.taken) {
            let message = format!(
                "not all of {} deliveries from tag {} on are unsettled",
                settle.count, first.0
            );
            let error = ErrorBody::new(ErrorCode::UnknownDeliveryTag, message);
            self.close_consumer(id, commit);
            let consumer = id;
            commit.effects.push(Effect::ConsumerClosed { consumer, error });
            return;
        }
        self.apply(queue, settle.how, commit);
        self.queue_up(id, queue);
        self.list(queue);
    }

    /// Does to the queue what was settled. A stream only counts: whatever a reader makes of a message, it stays.
    fn apply(&mut self, id: QueueId, how: Settlement, commit: &mut Commit) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let counts = self.taken.drain(..).map(|taken| u64::from(taken.run.count));
            return stream.settle(counts.sum(), how);
        }
        let Some(queue) = self.queues.get_mut(&id) else {
            self.taken.clear();
            return;
        };
        for taken in self.taken.drain(..) {
            let (position, run, count) = (taken.position, taken.run, taken.delivery_count);
            match how {
                Settlement::Ack => {
                    queue.counters.acked += u64::from(run.count);
                    queue.settle(position, run, count, &mut self.log, commit);
                }
                Settlement::Reject => queue.settle(position, run, count, &mut self.log, commit),
                Settlement::Requeue => queue.give_back(position, run, count, &mut self.log, commit),
            }
        }
    }

    /// Takes a consumer away; what it has not settled goes back. An auto-delete queue goes with its last consumer.
    pub(crate) fn close_consumer(&mut self, id: ConsumerId, commit: &mut Commit) {
        let Some(queue) = self.take_away(id, commit) else {
            return;
        };
        let declared = self.definitions.topology.queues.get(&queue);
        if declared.is_some_and(|queue| queue.spec.auto_delete)
            && self
                .queues
                .get(&queue)
                .is_some_and(|queue| queue.consumers.is_empty())
        {
            self.remove_queue(queue, "its last consumer is gone", commit);
        }
    }

    fn take_away(&mut self, id: ConsumerId, commit: &mut Commit) -> Option<QueueId> {
        let consumer = self.consumers.remove(&id)?;
        if let Some(connection) = self.connections.get_mut(&consumer.connection) {
            connection.consumers.remove(&id);
        }
        let queue = consumer.queue;
        self.taken.extend(consumer.into_unsettled());
        self.apply(queue, Settlement::Requeue, commit);
        if let Some(state) = self.queues.get_mut(&queue) {
            state.leave(id);
        } else if let Some(stream) = self.streams.get_mut(&queue) {
            stream.leave(id);
        }
        self.list(queue);
        Some(queue)
    }

    /// Closes the consumers of a queue that goes away.
    pub(crate) fn close_consumers_of(&mut self, queue: QueueId, name: &str, why: &str, commit: &mut Commit) {
        let of_queue = self
            .queues
            .get(&queue)
            .into_iter()
            .flat_map(|queue| &queue.consumers);
        let of_stream = self.streams.get(&queue).into_iter().flat_map(Stream::reader_ids);
        let consumers: Vec<ConsumerId> = of_queue.copied().chain(of_stream).collect();
        for consumer in consumers {
            self.take_away(consumer, commit);
            let message = format!("queue '{name}' is gone: {why}");
            let error = ErrorBody::new(ErrorCode::NotFound, message);
            commit.effects.push(Effect::ConsumerClosed { consumer, error });
        }
    }
}
