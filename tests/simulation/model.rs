//! The reference: queues as plain vectors that say of each message what became of it. It is told what goes in, and
//! checks everything that comes out.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_core::commit::Place;
use pointsman_core::{Chunk, ConsumerId, QueueId};
use pointsman_protocol::admin::{QueueKind, QueueSpec};
use pointsman_protocol::consume::Settlement;

use crate::store::SimStore;
use crate::stream::{ModelStream, Reader};

/// A message: its publisher and sequence number. Bodies start with it.
pub(crate) type Uid = (u8, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Out,
    Settled,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) uid: Uid,
    pub(crate) state: State,
    pub(crate) delivered: bool,
    pub(crate) count: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelQueue {
    pub(crate) durable: bool,
    pub(crate) entries: Vec<Entry>,
    /// Requests to purge below a position, oldest first.
    pub(crate) purges: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelConsumer {
    pub(crate) queue: QueueId,
    /// For a stream.
    pub(crate) reader: Option<Reader>,
    pub(crate) no_ack: bool,
    pub(crate) messages: u64,
    pub(crate) bytes: i64,
    pub(crate) next_tag: u64,
    /// Entry by tag.
    pub(crate) out: BTreeMap<u64, usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) queues: BTreeMap<QueueId, ModelQueue>,
    pub(crate) streams: BTreeMap<QueueId, ModelStream>,
    pub(crate) consumers: BTreeMap<ConsumerId, ModelConsumer>,
}

impl ModelQueue {
    pub(crate) fn count(&self, state: State) -> u64 {
        self.entries.iter().filter(|entry| entry.state == state).count() as u64
    }

    fn next(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.state == State::Ready)
    }
}

impl Model {
    pub(crate) fn declare(&mut self, queue: QueueId, spec: &QueueSpec) {
        match spec.kind {
            QueueKind::Work => {
                self.queues.entry(queue).or_insert(ModelQueue {
                    durable: spec.durable,
                    entries: Vec::new(),
                    purges: Vec::new(),
                });
            }
            QueueKind::Stream(retention) => {
                let stream = self.streams.entry(queue);
                stream.or_insert_with(|| ModelStream::new(retention));
            }
        }
    }

    pub(crate) fn knows(&self, queue: QueueId) -> bool {
        self.queues.contains_key(&queue) || self.streams.contains_key(&queue)
    }

    /// A message was taken for the first time; `len` is that of its metadata and body.
    pub(crate) fn publish(&mut self, uid: Uid, len: usize, targets: &BTreeSet<QueueId>) {
        for queue in targets {
            if let Some(stream) = self.streams.get_mut(queue) {
                stream.publish(uid, len);
            }
            let Some(queue) = self.queues.get_mut(queue) else {
                continue;
            };
            assert!(
                queue.entries.iter().all(|entry| entry.uid != uid),
                "{uid:?} is stored twice"
            );
            queue.entries.push(Entry {
                uid,
                state: State::Ready,
                delivered: false,
                count: 0,
            });
        }
    }

    /// Whether a message was ever put into a durable queue that is still there.
    pub(crate) fn holds(&self, uid: Uid, queue: QueueId) -> Option<bool> {
        if let Some(stream) = self.streams.get(&queue) {
            return Some(stream.holds(uid));
        }
        let queue = self.queues.get(&queue)?;
        Some(queue.entries.iter().any(|entry| entry.uid == uid))
    }

    /// A reader of a stream is told where it starts.
    pub(crate) fn opened(&mut self, id: ConsumerId, offset: Option<u64>) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        let Some(Reader::Opening(opening)) = &consumer.reader else {
            return assert_eq!((&consumer.reader.is_none(), offset), (&true, None));
        };
        let offset = offset.expect("a reader starts somewhere") as usize;
        let stream = self.streams.get(&consumer.queue).expect("the stream is there");
        stream.opened(opening, offset);
        consumer.reader = Some(Reader::At(offset));
    }

    pub(crate) fn deliver(
        &mut self,
        id: ConsumerId,
        tag: u64,
        (uid, len): (Uid, usize),
        (redelivered, count): (bool, u32),
        place: Option<Place>,
    ) {
        let consumer = self
            .consumers
            .get_mut(&id)
            .expect("deliveries go to consumers that are there");
        assert_eq!(tag, consumer.next_tag, "tags rise by one");
        assert!(
            consumer.messages > 0 && consumer.bytes > 0,
            "deliveries need credit"
        );
        if let Some(stream) = self.streams.get(&consumer.queue) {
            let Some(Reader::At(cursor)) = consumer.reader else {
                panic!("a delivery before the reader is open");
            };
            assert_eq!((redelivered, count), (false, 0));
            let place = place.expect("a delivery of a stream has a place");
            consumer.reader = Some(Reader::At(stream.deliver(cursor, place, uid)));
            consumer.next_tag += 1;
            consumer.messages -= 1;
            consumer.bytes -= len as i64;
            if !consumer.no_ack {
                consumer.out.insert(tag, cursor);
            }
            return;
        }
        assert_eq!(place, None);
        let queue = self.queues.get_mut(&consumer.queue).expect("the queue is there");
        let next = queue.next().expect("something is ready");
        let entry = &mut queue.entries[next];
        assert_eq!(entry.uid, uid, "the oldest ready message goes first");
        assert_eq!(
            (entry.delivered, entry.count),
            (redelivered, count),
            "history of {uid:?}"
        );
        entry.delivered = true;
        consumer.next_tag += 1;
        consumer.messages -= 1;
        consumer.bytes -= len as i64;
        if consumer.no_ack {
            entry.state = State::Settled;
        } else {
            entry.state = State::Out;
            consumer.out.insert(tag, next);
        }
    }

    /// Settles tags if all of them are out.
    pub(crate) fn settle(&mut self, id: ConsumerId, first: u64, count: u32, how: Settlement) -> bool {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return true;
        };
        let tags = first..first.saturating_add(u64::from(count));
        if count == 0 || !tags.clone().all(|tag| consumer.out.contains_key(&tag)) {
            self.close(id);
            return false;
        }
        let entries: Vec<usize> = tags.filter_map(|tag| consumer.out.remove(&tag)).collect();
        let queue = consumer.queue;
        for entry in entries {
            self.set(queue, entry, how);
        }
        true
    }

    fn set(&mut self, queue: QueueId, entry: usize, how: Settlement) {
        let Some(queue) = self.queues.get_mut(&queue) else {
            return;
        };
        let entry = &mut queue.entries[entry];
        assert_eq!(entry.state, State::Out);
        if how == Settlement::Requeue {
            entry.state = State::Ready;
            entry.count += 1;
        } else {
            entry.state = State::Settled;
        }
    }

    /// A consumer is gone; what it had goes back.
    pub(crate) fn close(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.remove(&id) {
            for entry in consumer.out.into_values() {
                self.set(consumer.queue, entry, Settlement::Requeue);
            }
        }
    }

    pub(crate) fn delete(&mut self, queue: QueueId) {
        self.consumers.retain(|_, consumer| consumer.queue != queue);
        self.queues.remove(&queue);
        self.streams.remove(&queue);
    }

    /// The oldest purge of a queue is done.
    pub(crate) fn purged(&mut self, queue: QueueId) -> Option<u64> {
        if let Some(stream) = self.streams.get_mut(&queue) {
            return Some(stream.purged());
        }
        let queue = self.queues.get_mut(&queue)?;
        let below = queue.purges.remove(0);
        let mut removed = 0;
        for entry in &mut queue.entries[..below] {
            if entry.state == State::Ready {
                entry.state = State::Settled;
                removed += 1;
            }
        }
        Some(removed)
    }

    /// What a crash leaves of it: consumers and transient queues are gone, what was out is ready again, and a purge
    /// stands where the store says.
    pub(crate) fn crash(&mut self, store: &SimStore) {
        self.consumers.clear();
        for (id, stream) in &mut self.streams {
            stream.crash();
            let state = store
                .states
                .get(id)
                .map_or((0, 0), |state| (state.head.0, state.tail.0));
            assert_eq!(state, (stream.head as u64, stream.entries.len() as u64));
        }
        self.queues.retain(|_, queue| queue.durable);
        for (&id, queue) in &mut self.queues {
            let below = queue.purges.drain(..).max().unwrap_or(0);
            for (position, entry) in queue.entries.iter_mut().enumerate() {
                if position < below && store.is_settled(id, position as u64) {
                    entry.state = State::Settled;
                    entry.delivered = true;
                }
                if entry.state == State::Out {
                    entry.state = State::Ready;
                }
            }
            let delivered = store.states.get(&id).map_or(0, |state| state.delivered.0);
            let purged_before = queue
                .entries
                .iter()
                .enumerate()
                .filter(|(_, e)| e.state == State::Ready);
            for (position, entry) in purged_before {
                let known = (position as u64) < delivered;
                assert!(known || !entry.delivered, "a delivery is remembered over a crash");
            }
            for entry in queue.entries.iter_mut().take(delivered as usize) {
                entry.delivered = true;
            }
        }
    }
}

/// The uid that a body starts with.
pub(crate) fn uid_of(chunk: &Chunk, record: u32) -> (Uid, usize) {
    let message = chunk.get(record).expect("a delivery's record is in its chunk");
    let sequence = message.body[1..9].try_into().expect("eight bytes");
    let uid = (message.body[0], u64::from_le_bytes(sequence));
    (uid, message.meta.len() + message.body_len())
}
