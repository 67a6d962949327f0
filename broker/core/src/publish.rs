//! Publishes: recognised when they come again, put into the log once a lane, and into each queue as a place.

use std::time::Duration;

use pointsman_protocol::publish::Outcome;
use pointsman_protocol::{ErrorBody, ErrorCode};
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::commit::{Commit, strongest};
use crate::due::shorter;
use crate::ids::{ConnectionId, Lane, PublisherId, PublisherIdentity, QueueId};
use crate::input::{MessageCopy, Publish, Times, Verdict};

/// The queues a copy goes to, by lane.
#[derive(Default)]
struct Lanes {
    durable: SmallVec<[QueueId; 4]>,
    streams: SmallVec<[QueueId; 4]>,
    transient: SmallVec<[QueueId; 4]>,
    /// The strongest promise of the durable ones.
    sync: Option<Duration>,
    /// That of the streams, whether or not a message is persistent: an offset that a reader has seen must never be
    /// another message's.
    stream_sync: Option<Duration>,
}

impl Broker {
    pub(crate) fn open_publisher(
        &mut self,
        connection: ConnectionId,
        publisher: PublisherId,
        identity: PublisherIdentity,
        now: u64,
        commit: &mut Commit,
    ) {
        let Some(state) = self.connections.get_mut(&connection) else {
            return;
        };
        state.publishers.insert(publisher);
        self.publishers.open(connection, publisher, identity, now, commit);
    }

    pub(crate) fn close_publisher(&mut self, publisher: PublisherId) {
        if let Some(connection) = self.publishers.close(publisher)
            && let Some(connection) = self.connections.get_mut(&connection)
        {
            connection.publishers.remove(&publisher);
        }
    }

    pub(crate) fn publish(
        &mut self,
        publisher: PublisherId,
        messages: Vec<Publish>,
        now: u64,
        commit: &mut Commit,
    ) {
        let Some(mut sender) = self.publishers.take_out(publisher) else {
            return; // closed meanwhile; its client was told, or is gone
        };
        for message in messages {
            let sequence = message.sequence;
            let outcome = sender.recall(sequence).unwrap_or_else(|| {
                let outcome = self.take(sender.name, message, now, commit);
                self.published += 1;
                sender.remember(sequence, &outcome, now);
                outcome
            });
            sender.confirm(sequence, outcome, commit);
        }
        self.publishers.put_back(sender);
    }

    fn take(
        &mut self,
        identity: PublisherIdentity,
        message: Publish,
        now: u64,
        commit: &mut Commit,
    ) -> Outcome {
        match message.verdict {
            Verdict::Reject(reason) => return Outcome::Rejected { reason },
            Verdict::Refuse(error) => return Outcome::Refused(error),
            Verdict::Deliver | Verdict::Quarantine(_) => {}
        }
        let queues = match self.place(identity, &message.copies, now, commit) {
            Ok(queues) => queues,
            Err(error) => return Outcome::Refused(error),
        };
        match message.verdict {
            _ if queues == 0 => Outcome::Unroutable,
            Verdict::Quarantine(reason) => Outcome::Quarantined { reason },
            _ => Outcome::Routed { queues },
        }
    }

    /// Puts each copy into its queues, all of them or, when memory for transient queues is full, none. Returns how many queues
    /// have it.
    fn place(
        &mut self,
        identity: PublisherIdentity,
        copies: &[MessageCopy],
        now: u64,
        commit: &mut Commit,
    ) -> Result<u32, ErrorBody> {
        let lanes: SmallVec<[Lanes; 1]> = copies.iter().map(|copy| self.lanes_of(copy)).collect();
        let mut in_memory = copies
            .iter()
            .zip(&lanes)
            .filter(|(_, to)| !to.transient.is_empty());
        let len: usize = in_memory.clone().map(|(copy, _)| copy.content.len()).sum();
        if lanes.iter().any(|to| !to.transient.is_empty()) && !self.log.has_memory_for(len) {
            let limit = self.bounds.memory_bytes;
            let message = format!("transient queues hold {limit} bytes, the limit MEMORY_LANE_BYTES");
            let error = ErrorBody::new(ErrorCode::LimitReached, message);
            return Err(error.hint("consume from them, or declare durable queues"));
        }
        if self.due.is_memory_full()
            && in_memory.any(|(copy, to)| self.uses_due_memory(copy, to))
            && !self.make_due_memory(now)
        {
            let limit = self.bounds.due_memory_runs;
            let message = format!(
                "transient queues have {limit} runs of messages that are delayed or expire, the limit DUE_MEMORY_RUNS"
            );
            let error = ErrorBody::new(ErrorCode::LimitReached, message);
            return Err(error.hint("consume from them, or declare durable queues"));
        }
        for (copy, to) in copies.iter().zip(&lanes) {
            self.place_copy(Lane::Memory, copy, &to.transient, now, commit);
            self.place_copy(Lane::Queues, copy, &to.durable, now, commit);
            self.place_copy(Lane::Streams, copy, &to.streams, now, commit);
            if !to.durable.is_empty() || !to.streams.is_empty() {
                self.publishers.mark(identity);
                if copy.persistent {
                    commit.sync_within(to.sync);
                }
                commit.sync_within(to.stream_sync);
            }
        }
        Ok(count_distinct(&lanes))
    }

    /// Whether a copy's place in transient queues takes a due entry.
    fn uses_due_memory(&self, copy: &MessageCopy, to: &Lanes) -> bool {
        let expires = |id| {
            self.queues
                .get(id)
                .is_some_and(|queue| queue.message_ttl.is_some())
        };
        copy.times != Times::default() || to.transient.iter().any(expires)
    }

    /// The queues of a copy that are still there.
    fn lanes_of(&self, copy: &MessageCopy) -> Lanes {
        let mut lanes = Lanes::default();
        for &id in &copy.queues {
            match self.queues.get(&id) {
                Some(queue) if queue.is_gone() => {}
                Some(queue) if queue.durable() => {
                    lanes.durable.push(id);
                    lanes.sync = strongest(lanes.sync, queue.sync);
                }
                Some(_) => lanes.transient.push(id),
                None => {}
            }
            if let Some(stream) = self.streams.get(&id).filter(|stream| !stream.is_gone()) {
                lanes.streams.push(id);
                lanes.stream_sync = strongest(lanes.stream_sync, stream.sync);
            }
        }
        lanes
    }

    fn place_copy(
        &mut self,
        lane: Lane,
        copy: &MessageCopy,
        queues: &[QueueId],
        now: u64,
        commit: &mut Commit,
    ) {
        if queues.is_empty() {
            return;
        }
        let references = queues.len() as u32;
        let run = self.log.append(lane, copy, references, now, commit);
        let Times { delay, expiration } = copy.times;
        if let Some(delay) = delay {
            let at = now.saturating_add(delay.get());
            for &id in queues {
                let queue = self.queues.get(&id);
                // Streams ignore expiration: they have retention.
                let expiration = queue.and_then(|queue| shorter(expiration, queue.message_ttl));
                self.due.delay(at, id, run, copy.content.len() as u64, expiration);
            }
            return;
        }
        for &id in queues {
            if let Some(queue) = self.queues.get_mut(&id) {
                if let Some(after) = shorter(expiration, queue.message_ttl) {
                    let at = now.saturating_add(after.get());
                    self.due.expire(at, id, queue.tail(), run);
                }
                queue.push(run);
            } else if let Some(stream) = self.streams.get_mut(&id) {
                stream.push(run, copy.content.len());
            }
            self.list(id);
        }
    }
}

impl Lanes {
    fn iter(&self) -> impl Iterator<Item = &QueueId> {
        self.durable.iter().chain(&self.streams).chain(&self.transient)
    }
}

/// How many queues there are over all copies of a message.
fn count_distinct(lanes: &[Lanes]) -> u32 {
    if let [only] = lanes {
        return only.iter().count() as u32;
    }
    let all = lanes.iter().flat_map(Lanes::iter);
    let mut all: SmallVec<[QueueId; 16]> = all.copied().collect();
    all.sort_unstable();
    all.dedup();
    all.len() as u32
}
