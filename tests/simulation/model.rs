//! The reference: queues as plain vectors that say of each message what became of it. It is told what goes in, and
//! checks everything that comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use pointsman_core::commit::Place;
use pointsman_core::input::Times;
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
    /// When it expires.
    pub(crate) deadline: Option<u64>,
    /// Whether the broker knows that this is over, though a consumer has it.
    overdue: bool,
    /// The turn in which it came.
    turn: u64,
}

/// A message on its way to a queue.
#[derive(Clone, Debug)]
struct Delayed {
    /// When it enters.
    at: u64,
    uid: Uid,
    len: usize,
    /// When it expires.
    deadline: Option<u64>,
    /// The turn in which it was published.
    turn: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelQueue {
    pub(crate) durable: bool,
    pub(crate) entries: Vec<Entry>,
    /// Requests to purge below a position, oldest first.
    pub(crate) purges: Vec<usize>,
    ttl: Option<u64>,
    /// How many messages expired since the broker started.
    pub(crate) expired: u64,
    /// How many of them a purge may have taken before.
    pub(crate) unsure: u64,
    /// Delayed messages that were over when they came.
    too_late: BTreeSet<Uid>,
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
    /// By queue, in the order in which they were published.
    delayed: BTreeMap<QueueId, Vec<Delayed>>,
    /// What expired when it came back, or in a broker that died, until the world takes note.
    pub(crate) gone: Vec<(QueueId, Uid)>,
    /// The turn that goes on.
    pub(crate) turn: u64,
}

impl ModelQueue {
    pub(crate) fn count(&self, state: State) -> u64 {
        self.entries.iter().filter(|entry| entry.state == state).count() as u64
    }

    fn next(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.state == State::Ready)
    }

    fn push(&mut self, uid: Uid, deadline: Option<u64>, turn: u64) {
        self.entries.push(Entry {
            uid,
            state: State::Ready,
            delivered: false,
            count: 0,
            deadline,
            overdue: false,
            turn,
        });
    }

    fn holds(&self, uid: Uid) -> bool {
        self.entries.iter().any(|entry| entry.uid == uid) || self.too_late.contains(&uid)
    }

    fn expire(&mut self, position: usize) {
        self.entries[position].state = State::Settled;
        self.expired += 1;
        self.unsure += u64::from(self.purges.iter().any(|below| position < *below));
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
                    ttl: spec.message_ttl_ms,
                    expired: 0,
                    unsure: 0,
                    too_late: BTreeSet::new(),
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

    /// A message was taken at `now` for the first time; `len` is that of its metadata and body.
    pub(crate) fn publish(
        &mut self,
        uid: Uid,
        len: usize,
        times: Times,
        now: u64,
        targets: &BTreeSet<QueueId>,
    ) {
        for &id in targets {
            assert_ne!(self.holds(uid, id), Some(true), "{uid:?} is stored twice");
            let at = now + times.delay.map_or(0, NonZeroU64::get);
            let ttl = self.queues.get(&id).and_then(|queue| {
                let own = times.expiration.map(NonZeroU64::get);
                own.into_iter().chain(queue.ttl).min()
            });
            let deadline = ttl.map(|ttl| at + ttl);
            if times.delay.is_some() {
                let delayed = self.delayed.entry(id).or_default();
                delayed.push(Delayed {
                    at,
                    uid,
                    len,
                    deadline,
                    turn: self.turn,
                });
            } else if let Some(stream) = self.streams.get_mut(&id) {
                stream.publish(uid, len);
            } else if let Some(queue) = self.queues.get_mut(&id) {
                queue.push(uid, deadline, self.turn);
            }
        }
    }

    pub(crate) fn delayed(&self, queue: QueueId) -> u64 {
        self.delayed.get(&queue).map_or(0, |delayed| delayed.len() as u64)
    }

    /// Of the delayed messages of a queue only so many are left: the others entered it, in the order of their times.
    /// Returns those that expired on the way.
    pub(crate) fn enter(&mut self, id: QueueId, left: u64, now: u64) -> Vec<Uid> {
        let mut delayed = self.delayed.remove(&id).unwrap_or_default();
        // What was published in this turn is looked at in the next one.
        delayed.sort_by_key(|delayed| (delayed.turn == self.turn, delayed.at));
        let entering = delayed.len() as u64 - left;
        let mut late = Vec::new();
        for Delayed {
            at,
            uid,
            len,
            deadline,
            turn,
        } in delayed.drain(..entering as usize)
        {
            assert!(at <= now && turn < self.turn, "{uid:?} enters {id:?} too early");
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.publish(uid, len);
            } else if let Some(queue) = self.queues.get_mut(&id) {
                if deadline.is_some_and(|deadline| deadline <= now) {
                    queue.expired += 1;
                    queue.too_late.insert(uid);
                    late.push(uid);
                } else {
                    queue.push(uid, deadline, self.turn);
                }
            }
        }
        if !delayed.is_empty() {
            self.delayed.insert(id, delayed);
        }
        late
    }

    /// Whether something is due that came in this turn. The broker does it in the next one, and may then ask for more.
    pub(crate) fn is_due_already(&self, now: u64) -> bool {
        let delayed = self.delayed.values().flatten();
        let mut delayed = delayed.filter(|delayed| delayed.turn == self.turn);
        let entries = self.queues.values().flat_map(|queue| &queue.entries);
        let mut entries = entries.filter(|entry| entry.turn == self.turn);
        delayed.any(|delayed| delayed.at <= now)
            || entries.any(|entry| entry.deadline.is_some_and(|deadline| deadline <= now))
    }

    /// The broker did all that was due at `now` before it handed out anything in this turn: what came in earlier turns
    /// and is over is gone. Returns what that was.
    pub(crate) fn expire(&mut self, id: QueueId, now: u64) -> Vec<Uid> {
        let delayed = self.delayed.get(&id).into_iter().flatten();
        let mut late = delayed.filter(|delayed| delayed.turn < self.turn && delayed.at <= now);
        assert_eq!(
            late.next().map(|delayed| delayed.uid),
            None,
            "{id:?} is late at {now}"
        );
        let Some(queue) = self.queues.get_mut(&id) else {
            return Vec::new();
        };
        let mut expired = Vec::new();
        for position in 0..queue.entries.len() {
            let entry = &mut queue.entries[position];
            if entry.turn == self.turn || entry.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            match entry.state {
                State::Ready => {
                    expired.push(entry.uid);
                    queue.expire(position);
                }
                State::Out => entry.overdue = true,
                State::Settled => {}
            }
        }
        expired
    }

    /// Whether a message was ever put into a durable queue that is still there, or is on its way to it.
    pub(crate) fn holds(&self, uid: Uid, queue: QueueId) -> Option<bool> {
        let mut delayed = self.delayed.get(&queue).into_iter().flatten();
        let is_delayed = delayed.any(|delayed| delayed.uid == uid);
        if let Some(stream) = self.streams.get(&queue) {
            return Some(is_delayed || stream.holds(uid));
        }
        let queue = self.queues.get(&queue)?;
        Some(is_delayed || queue.holds(uid))
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
        now: u64,
    ) -> Vec<(QueueId, Uid)> {
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
            return Vec::new();
        }
        assert_eq!(place, None);
        let id = consumer.queue;
        let queue = self.queues.get_mut(&id).expect("the queue is there");
        let mut next = queue.next().expect("something is ready");
        // A broker that could not do all that is due at once may have done some of it.
        let mut expired = Vec::new();
        while queue.entries[next].uid != uid && queue.entries[next].deadline.is_some_and(|at| at <= now) {
            expired.push((id, queue.entries[next].uid));
            queue.expire(next);
            next = queue.next().expect("something is ready");
        }
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
        expired
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

    fn set(&mut self, id: QueueId, entry: usize, how: Settlement) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let entry = &mut queue.entries[entry];
        assert_eq!(entry.state, State::Out);
        if how == Settlement::Requeue && entry.overdue {
            entry.state = State::Settled;
            queue.expired += 1;
            self.gone.push((id, entry.uid));
        } else if how == Settlement::Requeue {
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
        self.delayed.remove(&queue);
    }

    /// The oldest purge of a queue is done and removed so many. What expired while it went on counts as either.
    pub(crate) fn purged(&mut self, queue: QueueId, removed: u64, now: u64) {
        if let Some(stream) = self.streams.get_mut(&queue) {
            return assert_eq!(stream.purged(), removed);
        }
        let queue = self.queues.get_mut(&queue).expect("the queue is there");
        let below = queue.purges.remove(0);
        let (mut ready, mut over) = (0, 0);
        for entry in &mut queue.entries[..below] {
            if entry.state == State::Ready {
                entry.state = State::Settled;
                ready += 1;
                over += u64::from(entry.deadline.is_some_and(|deadline| deadline <= now));
            }
        }
        assert!(
            (ready - over..=ready + queue.unsure).contains(&removed),
            "{removed} were purged: {ready} ready, {over} of them over, {} expired meanwhile",
            queue.unsure
        );
        queue.expired = queue.expired + ready - removed;
        queue.unsure = queue.unsure.saturating_sub(removed.saturating_sub(ready));
        if queue.purges.is_empty() {
            queue.unsure = 0;
        }
    }

    /// What a crash leaves of it: consumers and transient queues are gone, what was out is ready again, and a purge
    /// stands where the store says. What was over by the latest time there was may have expired, though the clock was set
    /// back since.
    pub(crate) fn crash(&mut self, store: &SimStore, latest: u64) {
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
        let (queues, streams) = (&self.queues, &self.streams);
        self.delayed
            .retain(|id, _| queues.contains_key(id) || streams.contains_key(id));
        for (&id, queue) in &mut self.queues {
            let below = queue.purges.drain(..).max().unwrap_or(0);
            (queue.expired, queue.unsure) = (0, 0);
            for (position, entry) in queue.entries.iter_mut().enumerate() {
                entry.overdue = false;
                let may_be_over =
                    position < below || entry.deadline.is_some_and(|deadline| deadline <= latest);
                if may_be_over && store.is_settled(id, position as u64) {
                    self.gone.push((id, entry.uid));
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
