//! The owner of a shard: hands inputs to the core, commits what it says, and releases effects once they may be seen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use pointsman_core::{Broker, Commit, ConnectionId, ConsumerId, Effect, Input, PublisherId, Record, Totals};
use pointsman_router_host::{Host, Routes};
use pointsman_store::{Committer, Reader, StoreError};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::mailbox::{Answer, ConsumerEvent, Delivery, Inbox, Mail, PublisherEvent, Sleep, Wake};
use crate::outbox::{Outbox, Post, Side};

/// Commits that may be on their way to the disk. While one is synced and one waits, mail collects, so the next
/// commit is larger: the slower the disk, the larger the groups.
const COMMITS_IN_FLIGHT: u64 = 2;

/// Mails handled in one turn at most, so that effects do not wait for ever.
const TURN_MAILS: usize = 1_024;

/// The driver of the one shard.
pub(crate) struct Driver {
    broker: Broker,
    inbox: Inbox,
    outbox: Outbox,
    committer: Committer,
    reader: Reader,
    host: Arc<Host>,
    routes: Arc<ArcSwap<Routes>>,
    connections: FxHashMap<ConnectionId, mpsc::UnboundedSender<Answer>>,
    publishers: FxHashMap<PublisherId, mpsc::UnboundedSender<PublisherEvent>>,
    consumers: FxHashMap<ConsumerId, mpsc::UnboundedSender<ConsumerEvent>>,
    /// Mail that was taken and not looked at. Empty between steps.
    arrived: VecDeque<Mail>,
    /// Mail that came while enough commits were in flight.
    waiting: VecDeque<Mail>,
    /// Commits whose effects wait for the disk, oldest first.
    pending: VecDeque<Pending>,
    submitted: u64,
    durable: u64,
    /// The core has more to do without new input.
    more: bool,
    stopping: bool,
}

/// Room of publishes. Most turns that are not busy have one.
type Permits = SmallVec<[OwnedSemaphorePermit; 1]>;

/// Effects that wait for a commit.
struct Pending {
    commit: u64,
    effects: Vec<Effect>,
    /// Whether somebody asked and is answered: what the answer tells is written, or a killed broker would come back to what
    /// was before.
    answers: bool,
    /// How many consumers' sessions have something to write for it.
    visits: usize,
    /// Given back when this is dropped.
    _permits: Permits,
}

/// How the broker stands, for `status`.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) totals: Totals,
    pub(crate) commits: u64,
}

/// How a driver ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was asked to, and everything that had come is committed.
    Stopped,
    /// The store failed.
    StoreFailed(StoreError),
    /// It panicked, which it never should; the log says more.
    Panicked,
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Ended {
        Ended::StoreFailed(error)
    }
}

impl Driver {
    /// A driver that begins with the effects of what was restored.
    pub(crate) fn new(
        broker: Broker,
        effects: Vec<Effect>,
        (inbox, outbox): (Inbox, Outbox),
        (committer, reader): (Committer, Reader),
        host: Arc<Host>,
        routes: Arc<ArcSwap<Routes>>,
    ) -> Driver {
        Driver {
            broker,
            inbox,
            outbox,
            committer,
            reader,
            host,
            routes,
            connections: FxHashMap::default(),
            publishers: FxHashMap::default(),
            consumers: FxHashMap::default(),
            arrived: VecDeque::new(),
            waiting: VecDeque::new(),
            pending: VecDeque::from([Pending {
                commit: 0,
                effects,
                answers: false,
                visits: 0,
                _permits: Permits::new(),
            }]),
            submitted: 0,
            durable: 0,
            more: true,
            stopping: false,
        }
    }

    /// Works off what has come, with one turn at most. Answers how long to sleep until the next step, where there is not
    /// more to do at once. `side` is where this is called.
    pub(crate) fn step(&mut self, side: Side) -> Result<Option<Sleep>, Ended> {
        self.outbox.send_from(side);
        self.inbox.take(&mut self.arrived);
        while let Some(mail) = self.arrived.pop_front() {
            self.receive(mail)?;
        }
        if self.may_commit() && self.has_work() {
            self.turn()?;
        }
        let has_work = self.has_work();
        if self.stopping && !has_work && self.pending.is_empty() {
            return Err(Ended::Stopped);
        }
        Ok(match (self.may_commit(), has_work) {
            (true, true) => None,
            (true, false) => Some(Sleep {
                wake: Wake::AnyMail,
                until: self.broker.poll_timeout(),
            }),
            // The mail that says that a commit is durable comes anyway.
            (false, _) => Some(Sleep {
                wake: Wake::Urgent,
                until: None,
            }),
        })
    }

    /// Ends the threads that commit and read, with everything written that was submitted.
    pub(crate) fn stop(self) {
        self.reader.stop();
        self.committer.stop();
    }

    /// Whether a turn would do something.
    fn has_work(&self) -> bool {
        let is_due = || self.broker.poll_timeout().is_some_and(|due| due <= now());
        let may_deliver = || self.broker.withholds() && self.may_deliver();
        self.more || !self.waiting.is_empty() || may_deliver() || is_due()
    }

    /// Whether sessions have written most of what was handed out; otherwise they will say when they have.
    fn may_deliver(&self) -> bool {
        let on_its_way = self.pending.iter().map(|pending| pending.visits).sum();
        self.outbox.has_room(on_its_way)
    }

    /// Whether a turn may be made, which can end in a commit.
    fn may_commit(&self) -> bool {
        self.submitted - self.durable < COMMITS_IN_FLIGHT
    }

    /// Takes what cannot wait, keeps the rest for a turn.
    fn receive(&mut self, mail: Mail) -> Result<(), StoreError> {
        match mail {
            Mail::Durable { through } => {
                self.durable = through;
                self.release_durable()?;
            }
            Mail::StoreFailed(error) => return Err(error),
            Mail::Stop => self.stopping = true,
            // It was sent to wake who takes it.
            Mail::Written => {}
            other => self.waiting.push_back(other),
        }
        Ok(())
    }

    /// Hands what waits to the core and commits the outcome.
    fn turn(&mut self) -> Result<(), StoreError> {
        let now = now();
        let mut commit = Commit::default();
        let mut permits = Permits::new();
        let mut freed = 0;
        for _ in 0..TURN_MAILS {
            let Some(mail) = self.waiting.pop_front() else {
                break;
            };
            freed += usize::from(mail.took_room());
            if let Some(input) = self.open(mail, &mut permits) {
                self.broker.handle(input, now, &mut commit);
            }
        }
        // While sessions are busy with what they have, more of it collects for each.
        self.more = match self.may_deliver() {
            true => self.broker.finish(now, &mut commit),
            false => self.broker.finish_withholding(now, &mut commit),
        };
        self.inbox.free(freed);
        self.commit(commit, permits)
    }

    /// Notes who is to hear of effects, and makes an input of the mail.
    fn open(&mut self, mail: Mail, permits: &mut Permits) -> Option<Input> {
        Some(match mail {
            Mail::Input(input) => {
                match &input {
                    Input::Disconnected { connection } => {
                        self.connections.remove(connection);
                    }
                    Input::ClosePublisher { publisher } => {
                        self.publishers.remove(publisher);
                    }
                    Input::CloseConsumer { consumer } => {
                        self.consumers.remove(consumer);
                    }
                    _ => {}
                }
                input
            }
            Mail::Connected {
                connection,
                vhost,
                sink,
            } => {
                self.connections.insert(connection, sink);
                Input::Connected { connection, vhost }
            }
            Mail::OpenPublisher {
                connection,
                publisher,
                identity,
                sink,
            } => {
                self.publishers.insert(publisher, sink);
                Input::OpenPublisher {
                    connection,
                    publisher,
                    identity,
                }
            }
            Mail::Publish {
                publisher,
                messages,
                permit,
            } => {
                permits.push(permit);
                Input::Publish { publisher, messages }
            }
            Mail::OpenConsumer {
                connection,
                consumer,
                open,
                sink,
            } => {
                self.consumers.insert(consumer, sink);
                Input::OpenConsumer {
                    connection,
                    consumer,
                    open,
                }
            }
            Mail::Totals(answer) => {
                // A session that is gone needs no answer.
                let _ = answer.send(Figures {
                    totals: self.broker.totals(),
                    commits: self.submitted,
                });
                return None;
            }
            Mail::Durable { .. } | Mail::Written | Mail::StoreFailed(_) | Mail::Stop => return None,
        })
    }

    /// Sends records to the disk and keeps the effects until they are there. Effects without records wait too if
    /// earlier ones do: what a client sees is always in the order of commits.
    fn commit(&mut self, commit: Commit, permits: Permits) -> Result<(), StoreError> {
        let Commit {
            records,
            effects,
            sync,
        } = commit;
        if !records.is_empty() {
            self.submit(records, sync)?;
        }
        if !effects.is_empty() || !permits.is_empty() {
            let answers = effects
                .iter()
                .any(|effect| matches!(effect, Effect::Reply { .. }));
            let visits = visits(&effects);
            self.pending.push_back(Pending {
                commit: self.submitted,
                effects,
                answers,
                visits,
                _permits: permits,
            });
        }
        self.release_durable()
    }

    /// Commits on the caller's thread while there is nothing else to do, and on the commit thread when there is.
    fn submit(&mut self, records: Vec<Record>, sync: Option<Duration>) -> Result<(), StoreError> {
        let is_quiet = self.durable == self.submitted && self.waiting.is_empty() && self.inbox.is_empty();
        self.submitted += 1;
        let records = match is_quiet {
            true => self.committer.commit_here(records, sync)?,
            false => Some(records),
        };
        match records {
            Some(records) => self.committer.submit(self.submitted, records, sync),
            None => self.durable = self.submitted,
        }
        Ok(())
    }

    fn release_durable(&mut self) -> Result<(), StoreError> {
        let mut released = 0;
        while self
            .pending
            .front()
            .is_some_and(|pending| pending.commit <= self.durable)
        {
            let Some(Pending {
                effects,
                answers,
                visits,
                ..
            }) = self.pending.pop_front()
            else {
                break;
            };
            if answers {
                match self.committer.write_out() {
                    // The mail that says why is on its way, and ends this.
                    Err(StoreError::Stopped(_)) => break,
                    written => written?,
                }
            }
            for effect in effects {
                self.perform(effect);
            }
            released += visits;
        }
        self.outbox.send(released);
        Ok(())
    }

    /// The one place where effects happen.
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Reply {
                connection,
                id,
                reply,
            } => {
                self.answer(connection, Answer { id, reply });
            }
            Effect::PublisherOpened {
                publisher,
                last_sequence,
            } => {
                self.tell_publisher(publisher, PublisherEvent::Opened { last_sequence });
            }
            Effect::Confirm {
                publisher,
                first,
                count,
                outcome,
            } => {
                self.tell_publisher(
                    publisher,
                    PublisherEvent::Confirm {
                        first,
                        count,
                        outcome,
                    },
                );
            }
            Effect::PublisherClosed { publisher, error } => {
                self.tell_publisher(publisher, PublisherEvent::Closed(error));
                self.publishers.remove(&publisher);
            }
            Effect::ConsumerOpened {
                consumer,
                tag,
                offset,
            } => {
                self.tell_consumer(consumer, ConsumerEvent::Opened { tag, offset });
            }
            Effect::ConsumerClosed { consumer, error } => {
                self.tell_consumer(consumer, ConsumerEvent::Closed(error));
                self.consumers.remove(&consumer);
            }
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
                let delivery = Delivery {
                    first,
                    chunk,
                    record,
                    count,
                    redelivered,
                    delivery_count,
                    place,
                };
                self.tell_consumer(consumer, ConsumerEvent::Deliver(delivery));
            }
            Effect::ReadIndex {
                queue,
                from,
                to,
                runs_max,
            } => self.reader.read_index(queue, from, to, runs_max),
            Effect::ReadDue { of, after, runs_max } => self.reader.read_due(of, after, runs_max),
            Effect::ReadChunk { lane, base, ahead } => self.reader.read_chunk(lane, base, ahead),
            Effect::Topology(topology) => {
                let routes = self.routes.load();
                crate::admin::forget_unused(&self.host, routes.topology(), &topology);
                self.routes.store(routes.next(topology));
            }
        }
    }

    fn answer(&mut self, connection: ConnectionId, answer: Answer) {
        if let Some(sink) = self.connections.get(&connection) {
            self.outbox.put(Post::Answer(sink.clone(), answer));
        }
    }

    fn tell_publisher(&mut self, publisher: PublisherId, event: PublisherEvent) {
        if let Some(sink) = self.publishers.get(&publisher) {
            self.outbox.put(Post::Publisher(sink.clone(), event));
        }
    }

    fn tell_consumer(&mut self, consumer: ConsumerId, event: ConsumerEvent) {
        if let Some(sink) = self.consumers.get(&consumer) {
            self.outbox.put(Post::Consumer(sink.clone(), event));
        }
    }
}

/// How many consumers' sessions have deliveries to write, where all of one stand together.
fn visits(effects: &[Effect]) -> usize {
    let to = |effect: &Effect| match effect {
        Effect::Deliver { consumer, .. } => Some(*consumer),
        _ => None,
    };
    let runs = effects.chunk_by(|one, next| to(one) == to(next));
    runs.filter(|run| to(&run[0]).is_some()).count()
}

/// Milliseconds since the Unix epoch; a clock before it reads as 0.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use pointsman_core::chunk::ChunkBuilder;
    use pointsman_core::{DeliveryTag, Lane, Offset};
    use pointsman_protocol::publish::Outcome;

    use super::*;

    #[test]
    fn however_much_a_session_has_to_write_it_is_visited_once() {
        let chunk = Arc::new(ChunkBuilder::new(Lane::Queues, Offset(0), 0).finish());
        let deliver = |consumer| Effect::Deliver {
            consumer: ConsumerId(consumer),
            first: DeliveryTag(1),
            chunk: chunk.clone(),
            record: 0,
            count: 3,
            redelivered: false,
            delivery_count: 0,
            place: None,
        };
        let confirm = Effect::Confirm {
            publisher: PublisherId(1),
            first: 1,
            count: 1,
            outcome: Outcome::Unroutable,
        };
        assert_eq!(visits(&[]), 0);
        assert_eq!(visits(&[confirm, deliver(1), deliver(1), deliver(2)]), 2);
    }
}
