//! A queue's turn: what waits is handed out to the consumers with credit, in fair shares, or removed by a purge.

use std::sync::Arc;

use pointsman_protocol::admin::Reply;
use rustc_hash::FxHashMap;

use super::{Queue, Ready};
use crate::chunk::Chunk;
use crate::commit::{Commit, Effect};
use crate::consumer::{Consumer, Unsettled};
use crate::ids::{ConsumerId, DeliveryTag};
use crate::limits::{Bounds, CHUNKS_AHEAD};
use crate::log::Log;

/// What a turn does with messages that consumers could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deliveries {
    HandOut,
    Withhold,
}

/// What a turn of a queue works with.
pub(crate) struct Turn<'a> {
    pub(crate) deliveries: Deliveries,
    pub(crate) consumers: &'a mut FxHashMap<ConsumerId, Consumer>,
    pub(crate) log: &'a mut Log,
    pub(crate) bounds: &'a Bounds,
    pub(crate) commit: &'a mut Commit,
    /// Deliveries handed out, added up.
    pub(crate) delivered: &'a mut u64,
}

impl Queue {
    /// Takes a turn. Returns whether there is more to do that waits for nothing.
    pub(crate) fn turn(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.gone {
            return self.remove_below(self.tail, turn).is_none();
        }
        self.purge_turn(turn)
            || (self.purges.is_empty() && turn.deliveries == Deliveries::HandOut && self.deliver_turn(turn))
    }

    /// Whether a turn could hand something out.
    pub(crate) fn has_takers(&self) -> bool {
        !self.hungry.is_empty() && self.counters.ready > 0
    }

    /// Whether nothing is left of a deleted queue.
    pub(crate) fn is_drained(&self) -> bool {
        self.gone && self.counters.ready == 0 && self.counters.unsettled == 0
    }

    fn purge_turn(&mut self, turn: &mut Turn<'_>) -> bool {
        while let Some(below) = self.purges.front().map(|purge| purge.below) {
            let ready = self.counters.ready;
            let done = self.remove_below(below, turn);
            let removed = ready - self.counters.ready;
            if let Some(purge) = self.purges.front_mut() {
                purge.removed += removed;
            }
            match done {
                None => return true,
                Some(false) => return false,
                Some(true) => self.reply_purged(turn.commit),
            }
        }
        false
    }

    pub(super) fn reply_purged(&mut self, commit: &mut Commit) {
        if let Some(purge) = self.purges.pop_front() {
            let (connection, id) = purge.reply_to;
            if self.durable {
                commit.sync_within(self.sync);
            }
            commit.effects.push(Effect::Reply {
                connection,
                id,
                reply: Reply::Purged(purge.removed),
            });
        }
    }

    /// Removes ready messages below a position: `Some(true)` when none is left, `Some(false)` when the store is asked
    /// for more of them, `None` when the turn is over.
    fn remove_below(&mut self, below: u64, turn: &mut Turn<'_>) -> Option<bool> {
        for _ in 0..turn.bounds.purge_runs_per_turn {
            let Some(ready) = self.ready(turn.commit) else {
                return Some(self.pages.cursor() >= below);
            };
            if ready.position >= below {
                return Some(true);
            }
            let count = u64::from(ready.run.count).min(below - ready.position) as u32;
            self.remove(&ready, count, turn.log, turn.commit);
        }
        None
    }

    /// Takes messages out without handing them to anyone.
    fn remove(&mut self, ready: &Ready, count: u32, log: &mut Log, commit: &mut Commit) {
        self.hand_out(ready, count);
        let mut run = ready.run;
        run.count = count;
        self.settle(ready.position, run, ready.delivery_count, log, commit);
    }

    /// Hands out until credit, messages or the turn's deliveries run out. Each consumer gets an equal share of what
    /// waits, as few runs as that allows, before the next has its turn.
    fn deliver_turn(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut budget = turn.bounds.deliveries_per_turn as u32;
        let (mut share, mut left_in_round) = (0, 0);
        while let Some(&id) = self.hungry.front() {
            if budget == 0 {
                return self.counters.ready > 0;
            }
            if left_in_round == 0 {
                left_in_round = self.hungry.len() as u64;
                let equal = self.counters.ready.div_ceil(left_in_round);
                share = equal.clamp(1, u64::from(u32::MAX)) as u32;
            }
            left_in_round -= 1;
            let share = share.min(budget);
            let Some(served) = self.serve(id, share, turn) else {
                return false;
            };
            budget -= served;
            if let Some(id) = self.hungry.pop_front() {
                match turn.consumers.get_mut(&id) {
                    Some(consumer) if consumer.wants_more() => self.hungry.push_back(id),
                    Some(consumer) => consumer.hungry = false,
                    None => {}
                }
            }
        }
        false
    }

    /// Hands one consumer its share. Returns how many it took, or `None` when nothing is there to hand out.
    fn serve(&mut self, id: ConsumerId, share: u32, turn: &mut Turn<'_>) -> Option<u32> {
        let Turn {
            consumers,
            log,
            commit,
            delivered,
            ..
        } = turn;
        let Some(consumer) = consumers.get_mut(&id) else {
            return Some(0);
        };
        let mut served = 0;
        while served < share && consumer.wants_more() {
            let ready = self.ready(commit)?;
            let (lane, base) = (ready.run.lane, ready.run.chunk);
            let chunk = log.chunk(lane, base).map(Arc::clone);
            if chunk.is_none() && !log.is_missing(lane, base) {
                self.read_chunks(&ready, log, commit);
                return None;
            }
            let held = chunk
                .as_ref()
                .map_or(0, |chunk| chunk.there_from(ready.run.record, ready.run.count));
            let chunk = match chunk {
                Some(chunk) if held > 0 => chunk,
                other => {
                    let missing = if other.is_some() { 1 } else { ready.run.count };
                    self.counters.missing += u64::from(missing);
                    self.remove(&ready, missing, log, commit);
                    continue;
                }
            };
            let most = held.min(share - served);
            let count = self.hand_to(consumer, &ready, chunk, most, log, commit);
            **delivered += u64::from(count);
            served += count;
        }
        Some(served)
    }

    /// Hands the consumer as many of the run as its credit allows, but no more than `most`.
    fn hand_to(
        &mut self,
        consumer: &mut Consumer,
        ready: &Ready,
        chunk: Arc<Chunk>,
        most: u32,
        log: &mut Log,
        commit: &mut Commit,
    ) -> u32 {
        let count = consumer.spend(&chunk, ready.run.record, most);
        let mut run = ready.run;
        run.count = count;
        self.hand_out(ready, count);
        let first = consumer.next_tags(count);
        commit.effects.push(Effect::Deliver {
            consumer: consumer.id,
            first: DeliveryTag(first),
            chunk,
            record: run.record,
            count,
            redelivered: ready.redelivered,
            delivery_count: ready.delivery_count,
            place: None,
        });
        if consumer.no_ack {
            self.counters.acked += u64::from(count);
            self.settle(ready.position, run, ready.delivery_count, log, commit);
        } else {
            consumer.hold(
                first,
                Unsettled {
                    position: ready.position,
                    run,
                    delivery_count: ready.delivery_count,
                },
            );
        }
        count
    }

    /// Asks for the chunk of what is next, and for some of those that follow.
    fn read_chunks(&mut self, ready: &Ready, log: &mut Log, commit: &mut Commit) {
        log.read(ready.run.lane, ready.run.chunk, Some(self.id), commit);
        for placed in self.pages.ahead().take(CHUNKS_AHEAD) {
            log.read(placed.run.lane, placed.run.chunk, None, commit);
        }
    }
}
