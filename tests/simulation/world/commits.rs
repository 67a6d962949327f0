//! The turns of the driver: what the broker commits is checked, becomes durable late, and is seen after that. Reads
//! are answered late and out of order, and the broker dies.

use std::hash::Hash;

use pointsman_core::commit::Place;
use pointsman_core::due::DueKey;
use pointsman_core::*;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::publish::Outcome;

use super::{World, names_of};
use crate::model::{Model, State, Uid, uid_of};

pub(super) enum Read {
    Index {
        queue: QueueId,
        from: Position,
        to: Position,
        runs_max: usize,
    },
    Due {
        of: Option<QueueId>,
        after: DueKey,
        runs_max: usize,
    },
    Chunk {
        lane: Lane,
        base: Offset,
        ahead: bool,
    },
    /// It was read right away, but the answer is late.
    Answer(Input),
}

/// A commit that is not durable yet, and what the model says after it.
pub(super) struct Pending {
    pub(super) commit: Commit,
    pub(super) model: Model,
}

impl World {
    pub(super) fn finish(&mut self) {
        self.more = self.broker.finish(self.now, &mut self.commit);
        assert!(!self.broker.withholds());
        self.end_turn();
    }

    /// Clients have yet to be sent what was handed out before.
    pub(super) fn finish_withholding(&mut self) {
        self.more = self.broker.finish_withholding(self.now, &mut self.commit);
        let effects = &self.commit.effects;
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Deliver { .. }))
        );
        self.figures.withheld += u64::from(self.broker.withholds());
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.latest = self.latest.max(self.now);
        let commit = std::mem::take(&mut self.commit);
        format!("{commit:?}").hash(&mut self.hash);
        for (id, queue) in &self.broker.topology().queues {
            if !self.model.knows(*id) {
                self.model.declare(*id, &queue.spec);
            }
        }
        self.check_due(&commit);
        for record in &commit.records {
            self.check_record(record);
        }
        for effect in &commit.effects {
            self.check_effect(effect, commit.sync.is_some());
        }
        self.model.turn += 1;
        self.seen.extend(self.model.gone.drain(..));
        let model = self.model.clone();
        self.pending.push_back(Pending { commit, model });
    }

    /// What was due entered its queue or left it, in the order of deadlines and not before them; all of it, unless the
    /// broker waits for the store or is not done.
    fn check_due(&mut self, commit: &Commit) {
        let pages = commit
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::ReadDue { of: None, .. }));
        self.page_reads += pages.count() as u32;
        self.is_behind = self.page_reads > 0 || self.more || self.model.is_due_already(self.now);
        let (_, reply) = self.request(Request::ListQueues(None));
        let Some(Reply::Queues(queues)) = reply else {
            panic!("unexpected reply {reply:?}");
        };
        let names = names_of(&self.broker.topology());
        for info in queues {
            let id = names[&info.spec.name];
            let before = self.model.delayed(id);
            assert!(info.delayed <= before, "more is delayed than was published");
            self.figures.entered += before - info.delayed;
            let mut expired = self.model.enter(id, info.delayed, self.now);
            if !self.is_behind {
                expired.extend(self.model.expire(id, self.now));
            }
            self.figures.expired += expired.len() as u64;
            self.seen.extend(expired.into_iter().map(|uid| (id, uid)));
            if let Some(queue) = self.model.queues.get(&id) {
                assert_eq!(info.published, queue.entries.len() as u64);
                let all = queue.expired - queue.unsure..=queue.expired;
                assert!(
                    self.is_behind || all.contains(&info.expired),
                    "{} and not {all:?} expired in {id:?}",
                    info.expired
                );
            }
        }
    }

    /// Streams grow and shrink as the model allows.
    fn check_record(&mut self, record: &Record) {
        match record {
            Record::Index { queue, entry } => {
                if let Some(stream) = self.model.streams.get_mut(queue) {
                    stream.index(entry, self.now);
                }
            }
            Record::IndexRemove { queue, last } => {
                if let Some(stream) = self.model.streams.get_mut(queue) {
                    self.figures.dropped += 1;
                    stream.drop_group(last.0 as usize, self.now);
                }
            }
            _ => {}
        }
    }

    /// What the core says must be what the model allows, whether or not it ever becomes durable.
    fn check_effect(&mut self, effect: &Effect, sync: bool) {
        match effect {
            Effect::Deliver {
                consumer,
                first,
                chunk,
                record,
                count,
                redelivered,
                delivery_count,
                place,
            } => {
                for i in 0..*count {
                    let message = uid_of(chunk, record + i);
                    let tag = first.0 + u64::from(i);
                    let history = (*redelivered, *delivery_count);
                    let place = place.map(|place| later(place, i));
                    let expired = self
                        .model
                        .deliver(*consumer, tag, message, history, place, self.now);
                    self.seen.extend(expired);
                }
            }
            Effect::ConsumerOpened { consumer, offset, .. } => self.model.opened(*consumer, *offset),
            Effect::Reply {
                id,
                reply: Reply::Purged(removed),
                ..
            } => {
                if let Some(queue) = self.purges.remove(id) {
                    let durable = self.model.queues.get(&queue).is_none_or(|queue| queue.durable);
                    assert!(sync || !durable, "a purge that was answered survives power loss");
                    self.model.purged(queue, *removed, self.now);
                    self.figures.purged += removed;
                }
            }
            _ => {}
        }
    }

    pub(super) fn make_durable(&mut self) {
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
        if commit.sync.is_some() {
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
                place,
                ..
            } => {
                for i in 0..count {
                    let (uid, _) = uid_of(&chunk, record + i);
                    let tag = first.0 + u64::from(i);
                    match place {
                        Some(place) => self.was_read(consumer, tag, uid, later(place, i)),
                        None => self.delivered(consumer, tag, uid, redelivered),
                    }
                }
            }
            Effect::ConsumerClosed { consumer, .. } => {
                self.clients.remove(&consumer);
            }
            Effect::ReadIndex {
                queue,
                from,
                to,
                runs_max,
            } => {
                self.figures.index_reads += 1;
                let read = Read::Index {
                    queue,
                    from,
                    to,
                    runs_max,
                };
                self.ask(read);
            }
            Effect::ReadDue { of, after, runs_max } => {
                self.figures.due_reads += 1;
                self.ask(Read::Due { of, after, runs_max });
            }
            Effect::ReadChunk { lane, base, ahead } => {
                self.figures.chunk_reads += 1;
                self.ask(Read::Chunk { lane, base, ahead });
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
        if !matches!(outcome, Outcome::Routed { .. } | Outcome::Duplicate) {
            return;
        }
        for queue in message.targets {
            // A stream keeps every message.
            let in_stream = self.durable.streams.contains_key(&queue);
            if in_stream && self.durable.holds(uid, queue) == Some(true) {
                self.confirmed.insert((queue, uid));
            }
            if !message.persistent {
                continue;
            }
            let durable = self.durable.queues.get(&queue).is_some_and(|queue| queue.durable);
            if durable && self.durable.holds(uid, queue) == Some(true) {
                self.confirmed.insert((queue, uid));
            }
        }
    }

    /// A reader of a stream saw a message. Whoever sees that offset later, after whatever crash, sees the same message.
    fn was_read(&mut self, consumer: ConsumerId, tag: u64, uid: Uid, place: Place) {
        self.figures.stream_reads += 1;
        let Some(client) = self.clients.get_mut(&consumer) else {
            return; // it closed meanwhile
        };
        client.tags.insert(tag);
        let offset = place.offset.0;
        let last = client.last_offset.replace(offset);
        assert!(last.is_none_or(|last| last < offset), "offsets rise");
        self.figures.overtaken += u64::from(last.is_some_and(|last| last + 1 < offset));
        let seen = *self.read.entry((client.queue, offset)).or_insert(uid);
        assert_eq!(seen, uid, "offset {offset} was another message");
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
        if !redelivered && !self.delayed.contains(&uid) {
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
            Read::Index {
                queue,
                from,
                to,
                runs_max,
            } => {
                let most = self.rng.usize(1..6).min(runs_max);
                let entries = self.store.read_index(queue, from, to, most);
                Input::IndexRead { queue, from, entries }
            }
            Read::Due { of, after, runs_max } => {
                let most = self.rng.usize(1..4).min(runs_max);
                let entries = self.store.read_due(of, after, most);
                Input::DueRead { of, after, entries }
            }
            Read::Chunk { lane, base, ahead } => {
                // Ahead, a store leaves large messages alone.
                let left_alone = ahead && self.rng.u8(..4) == 0;
                let chunk = (!left_alone).then(|| self.store.read_chunk(lane, base)).flatten();
                Input::ChunkRead { lane, base, chunk }
            }
            Read::Answer(input) => input,
        }
    }

    pub(super) fn answer_read(&mut self) {
        if !self.reads.is_empty() {
            let read = self.reads.swap_remove(self.rng.usize(0..self.reads.len()));
            let input = self.answer(read);
            self.page_reads -= u32::from(matches!(input, Input::DueRead { of: None, .. }));
            self.handle(input);
        }
    }

    /// The broker dies. A kill loses what was not written, power loss what was not synced.
    pub(super) fn crash(&mut self) {
        self.figures.crashes += 1;
        if self.rng.bool() {
            (self.store, self.durable) = self.synced.clone();
        }
        self.commit = Commit::default();
        self.pending.clear();
        self.reads.clear();
        (self.page_reads, self.is_behind) = (0, true);
        self.clients.clear();
        self.purges.clear();
        self.last_first.clear();
        for publisher in &mut self.publishers {
            publisher.stream = None;
        }
        let restored = Broker::restore_with_bounds(self.store.restored(), self.bounds);
        self.broker = restored.expect("what was written fits together");
        self.model = self.durable.clone();
        self.model.crash(&self.store, self.latest);
        self.seen.extend(self.model.gone.drain(..));
        self.durable = self.model.clone();
        self.synced = (self.store.clone(), self.model.clone());
        self.names = names_of(&self.broker.topology());
        let ready: u64 = self
            .model
            .queues
            .values()
            .map(|queue| queue.count(State::Ready))
            .sum();
        let deleted = self.store.states.iter().filter(|(id, _)| !self.model.knows(**id));
        if deleted.count() == 0 {
            assert_eq!(self.broker.totals().ready, ready + self.in_streams());
        }
        self.declare_queues();
    }
}

fn later(place: Place, by: u32) -> Place {
    Place {
        offset: Position(place.offset.0 + u64::from(by)),
        ..place
    }
}
