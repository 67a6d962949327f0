//! Streams: read by offset and time, and dropped from the head only.

use std::collections::BTreeMap;

use pointsman_protocol::admin::{QueueInfo, QueueSpec, StreamInfo};
use pointsman_protocol::consume::{OpenConsumer, StartAt};

use super::*;
use crate::commit::IndexEntry;

/// A bench whose reads a store of plain maps answers at once, and whose clock is turned by hand.
struct Streams {
    bench: Bench,
    now: u64,
    sequence: u64,
    chunks: BTreeMap<(Lane, Offset), (Arc<Chunk>, References)>,
    index: BTreeMap<(QueueId, Position), IndexEntry>,
    states: BTreeMap<QueueId, commit::QueueState>,
    definitions: BTreeMap<catalog::DefinitionKey, catalog::Definition>,
    index_reads: usize,
}

/// A delivery from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    consumer: u64,
    offset: u64,
    time: u64,
    body: String,
}

impl Streams {
    fn new(spec: QueueSpec) -> Streams {
        Streams::with_bounds(spec, Bounds::default())
    }

    fn with_bounds(spec: QueueSpec, bounds: Bounds) -> Streams {
        let mut streams = Streams {
            bench: Bench {
                broker: Broker::with_bounds(bounds),
                requests: 0,
            },
            now: NOW,
            sequence: 0,
            chunks: BTreeMap::new(),
            index: BTreeMap::new(),
            states: BTreeMap::new(),
            definitions: BTreeMap::new(),
            index_reads: 0,
        };
        let mut commit = Commit::default();
        streams.bench.broker.bootstrap(&mut commit);
        streams.bench.broker.finish(NOW, &mut commit);
        streams.apply(&commit);
        streams.connect();
        streams.request(Request::DeclareQueue(spec)).unwrap();
        streams
    }

    fn connect(&mut self) {
        self.turn([Input::Connected {
            connection: ConnectionId(1),
            vhost: "/".to_owned(),
        }]);
        self.turn([Input::OpenPublisher {
            connection: ConnectionId(1),
            publisher: PublisherId(1),
            identity: PublisherIdentity(u128::from(self.sequence) + 1),
        }]);
    }

    /// Turns until nothing is left to do but to wait. All effects, in order.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut inputs: Vec<Input> = inputs.into_iter().collect();
        let mut effects = Vec::new();
        loop {
            let mut commit = Commit::default();
            for input in inputs.drain(..) {
                self.bench.broker.handle(input, self.now, &mut commit);
            }
            let more = self.bench.broker.finish(self.now, &mut commit);
            self.apply(&commit);
            for effect in commit.effects {
                match self.answer(&effect) {
                    Some(answer) => inputs.push(answer),
                    None => effects.push(effect),
                }
            }
            if inputs.is_empty() && !more {
                return effects;
            }
        }
    }

    fn apply(&mut self, commit: &Commit) {
        for record in &commit.records {
            match record.clone() {
                Record::Append { chunk, references } => {
                    self.chunks.insert((chunk.lane, chunk.base), (chunk, references));
                }
                Record::Release {
                    lane,
                    base,
                    record,
                    count,
                } => {
                    let left = &mut self.chunks.get_mut(&(lane, base)).expect("it is there").1;
                    assert_eq!(left.release(record, count), 0);
                    if left.live() == 0 {
                        self.chunks.remove(&(lane, base));
                    }
                }
                Record::Index { queue, entry } => {
                    self.index.insert((queue, entry.last()), entry);
                }
                Record::IndexRemove { queue, last } => {
                    self.index.remove(&(queue, last)).expect("it is there");
                }
                Record::QueueState { queue, state } => {
                    self.states.insert(queue, state);
                }
                Record::Define { key, definition } => {
                    match definition {
                        Some(definition) => self.definitions.insert(*key, *definition),
                        None => self.definitions.remove(&key),
                    };
                }
                Record::QueueGone { queue } => {
                    self.states.remove(&queue);
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, effect: &Effect) -> Option<Input> {
        match *effect {
            Effect::ReadIndex {
                queue,
                from,
                to,
                runs_max,
            } => {
                self.index_reads += 1;
                let entries = self.index.range((queue, from)..).map(|(_, entry)| entry);
                let entries = entries.take_while(|entry| entry.first < to).take(runs_max);
                let entries = entries.cloned().collect();
                Some(Input::IndexRead { queue, from, entries })
            }
            Effect::ReadChunk { lane, base, .. } => {
                let chunk = self.chunks.get(&(lane, base)).map(|(chunk, _)| Arc::clone(chunk));
                Some(Input::ChunkRead { lane, base, chunk })
            }
            _ => None,
        }
    }

    fn request(&mut self, request: Request) -> Result<Reply, ErrorBody> {
        let effects = self.turn([Input::Request {
            connection: ConnectionId(1),
            id: 1,
            request,
        }]);
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply),
            _ => None,
        });
        match reply.expect("a reply") {
            Reply::Error(error) => Err(error),
            reply => Ok(reply),
        }
    }

    /// Publishes each message in a turn of its own, so that each is an entry.
    fn publish(&mut self, bodies: impl IntoIterator<Item = u64>) -> Vec<Read> {
        let queue = self.bench.queue_id("s");
        let mut reads = Vec::new();
        for body in bodies {
            self.sequence += 1;
            let message = message(self.sequence, &body.to_string(), &[queue]);
            reads.extend(reads_in(&self.turn([publish(1, vec![message])])));
        }
        reads
    }

    /// Opens a reader with lots of credit; what it reads at once, and the offset it says it starts at.
    fn open(&mut self, consumer: u64, start: StartAt) -> (Vec<Read>, Option<u64>) {
        let effects = self.open_waiting(consumer, Some(start));
        let first = effects.iter().find_map(|effect| match effect {
            Effect::ConsumerOpened { offset, .. } => Some(*offset),
            _ => None,
        });
        let reads = reads_in(&self.turn([credit(consumer, 10_000, u64::MAX)]));
        (reads, first.expect("it opens"))
    }

    fn open_waiting(&mut self, consumer: u64, start: Option<StartAt>) -> Vec<Effect> {
        self.turn([Input::OpenConsumer {
            connection: ConnectionId(1),
            consumer: ConsumerId(consumer),
            open: OpenConsumer {
                queue: "s".to_owned(),
                tag: String::new(),
                exclusive: false,
                no_ack: false,
                start,
            },
        }])
    }

    fn info(&mut self) -> QueueInfo {
        match self.request(Request::ListQueues(Some("s".to_owned()))) {
            Ok(Reply::Queues(mut queues)) => queues.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn offsets(&mut self) -> std::ops::Range<u64> {
        let StreamInfo {
            first_offset,
            next_offset,
            ..
        } = self.info().stream.expect("it is a stream");
        first_offset..next_offset
    }

    /// A broker with what the store has.
    fn restart(&mut self) {
        let restored = Restored {
            definitions: self.definitions.clone().into_iter().collect(),
            queues: self.states.clone().into_iter().collect(),
            next_offsets: [Offset(1_000_000); 2],
            ..Restored::default()
        };
        let bounds = self.bench.broker.bounds;
        self.bench.broker = Broker::restore_with_bounds(restored, bounds).expect("it fits together");
        self.turn([]);
        self.connect();
    }
}

fn reads_in(effects: &[Effect]) -> Vec<Read> {
    let mut reads = Vec::new();
    for effect in effects {
        let Effect::Deliver {
            consumer,
            chunk,
            record,
            count,
            place: Some(place),
            redelivered: false,
            delivery_count: 0,
            ..
        } = effect
        else {
            continue;
        };
        assert_eq!(chunk.lane, Lane::Streams);
        reads.extend((0..*count).map(|n| Read {
            consumer: consumer.0,
            offset: place.offset.0 + u64::from(n),
            time: place.time,
            body: String::from_utf8(chunk.get(record + n).unwrap().body.to_vec()).unwrap(),
        }));
    }
    reads
}

fn read_offsets(reads: &[Read]) -> Vec<u64> {
    for read in reads {
        assert_eq!(read.body, read.offset.to_string(), "an offset has its message");
    }
    reads.iter().map(|read| read.offset).collect()
}

fn tiny() -> Bounds {
    Bounds {
        page_runs: 2,
        cache_bytes: 400,
        deliveries_per_turn: 3,
        purge_runs_per_turn: 2,
        ..Bounds::default()
    }
}

#[test]
fn every_reader_gets_every_message_from_where_it_starts() {
    let mut streams = Streams::new(QueueSpec::stream("s"));
    streams.publish(0..5);
    let starts = [
        (StartAt::First, 0),
        (StartAt::Last, 4),
        (StartAt::Next, 5),
        (StartAt::Offset(3), 3),
    ];
    for (consumer, (start, first)) in (1..).zip(starts) {
        let (reads, said) = streams.open(consumer, start);
        assert_eq!(
            (read_offsets(&reads), said),
            ((first..5).collect(), Some(first)),
            "{start:?}"
        );
    }
    let again = streams.publish([5]);
    let mut readers: Vec<u64> = again.iter().map(|read| read.consumer).collect();
    readers.sort_unstable();
    assert_eq!(readers, [1, 2, 3, 4]);
    assert_eq!(streams.offsets(), 0..6, "nothing leaves by being read");
}

#[test]
fn an_offset_beyond_the_tail_is_waited_for() {
    let mut streams = Streams::new(QueueSpec::stream("s"));
    assert_eq!(streams.open(1, StartAt::Offset(2)), (vec![], Some(2)));
    assert_eq!(read_offsets(&streams.publish(0..4)), [2, 3]);
}

#[test]
fn a_reader_far_behind_reads_back_what_is_not_in_memory() {
    let mut streams = Streams::with_bounds(QueueSpec::stream("s"), tiny());
    streams.publish(0..50);
    let (reads, _) = streams.open(1, StartAt::First);
    assert_eq!(read_offsets(&reads), (0..50).collect::<Vec<_>>());
    assert!(streams.index_reads > 10, "{} reads", streams.index_reads);
}

#[test]
fn however_a_delivery_is_settled_the_message_stays_and_comes_only_once() {
    let mut streams = Streams::new(QueueSpec::stream("s"));
    streams.publish(0..3);
    streams.open(1, StartAt::First);
    assert_eq!(streams.info().unsettled, 3);
    for (tag, how) in [
        (1, Settlement::Ack),
        (2, Settlement::Requeue),
        (3, Settlement::Reject),
    ] {
        assert_eq!(reads_in(&streams.turn([settle(1, tag, 1, how)])), []);
    }
    let info = streams.info();
    assert_eq!((info.unsettled, info.acked, info.ready), (0, 1, 3));
    let effects = streams.turn([settle(1, 1, 1, Settlement::Ack)]);
    let closed = effects
        .iter()
        .any(|effect| matches!(effect, Effect::ConsumerClosed { .. }));
    assert!(closed, "a tag is settled once");
}

#[test]
fn a_time_finds_the_first_message_of_it_or_later_by_few_reads() {
    let mut streams = Streams::with_bounds(QueueSpec::stream("s"), tiny());
    for body in 0..200 {
        streams.now = NOW + body * 10;
        streams.publish([body]);
    }
    for (consumer, (time, first)) in
        (1..).zip([(0, 0), (NOW + 995, 100), (NOW + 1_000, 100), (u64::MAX, 200)])
    {
        streams.index_reads = 0;
        let opened = streams.open_waiting(consumer, Some(StartAt::Timestamp(time)));
        let said = opened.iter().find_map(|effect| match effect {
            Effect::ConsumerOpened { offset, .. } => *offset,
            _ => None,
        });
        assert_eq!(said, Some(first), "time {time}");
        assert!(
            streams.index_reads <= 8,
            "{} reads for 200 entries",
            streams.index_reads
        );
    }
    let (reads, _) = streams.open(9, StartAt::Timestamp(NOW + 1_991));
    assert_eq!(read_offsets(&reads), []);
    assert_eq!(streams.publish([200])[0].time, NOW + 1_990);
}

#[test]
fn time_never_falls_though_the_clock_does() {
    let mut streams = Streams::new(QueueSpec::stream("s"));
    streams.publish([0]);
    streams.now = NOW - 1_000;
    streams.publish([1]);
    streams.restart();
    streams.publish([2]);
    let (reads, _) = streams.open(1, StartAt::First);
    assert!(reads.iter().all(|read| read.time == NOW), "{reads:?}");
}

#[test]
fn a_count_or_size_drops_the_oldest_entries_but_never_what_it_promises_to_keep() {
    let message_len = u64::from(copy("", &[]).meta_len) + 1;
    for spec in [
        QueueSpec::stream("s").max_messages(4),
        QueueSpec::stream("s").max_bytes(4 * message_len),
        QueueSpec::stream("s").max_bytes(4 * message_len - 1),
    ] {
        for bounds in [Bounds::default(), tiny()] {
            let mut streams = Streams::with_bounds(spec.clone(), bounds);
            streams.publish(0..4);
            assert_eq!(streams.offsets(), 0..4);
            streams.publish(4..9);
            assert_eq!(streams.offsets(), 5..9, "{spec:?}");
            assert_eq!(streams.chunks.len(), 4, "what is dropped leaves the disk");
            assert_eq!(streams.info().stream.unwrap().bytes, 4 * message_len);
        }
    }
}

#[test]
fn messages_of_one_turn_go_together() {
    let mut streams = Streams::new(QueueSpec::stream("s").max_messages(4));
    let queue = streams.bench.queue_id("s");
    for first in [1, 4, 7] {
        let three = (first..first + 3).map(|n| message(n, "m", &[queue])).collect();
        streams.turn([publish(1, three)]);
    }
    assert_eq!(
        streams.offsets(),
        3..9,
        "without another three, there would be less than four"
    );
}

#[test]
fn age_drops_what_is_too_old_when_the_time_has_come_though_nothing_comes_in() {
    let mut streams = Streams::new(QueueSpec::stream("s").max_age(std::time::Duration::from_secs(10)));
    assert_eq!(
        streams.bench.broker.poll_timeout(),
        None,
        "an empty stream waits for nothing"
    );
    streams.publish([0]);
    streams.now = NOW + 5_000;
    streams.publish([1]);
    for (due, left) in [(NOW + 10_000, 1..2), (NOW + 15_000, 2..2)] {
        assert_eq!(streams.bench.broker.poll_timeout(), Some(due));
        streams.now = due - 1;
        streams.turn([]);
        assert_ne!(streams.offsets(), left, "too early");
        streams.now = due;
        streams.turn([]);
        assert_eq!(streams.offsets(), left);
    }
    assert_eq!(streams.bench.broker.poll_timeout(), None);
    assert!(streams.chunks.is_empty() && streams.index.is_empty());
}

#[test]
fn a_reader_that_retention_overtakes_goes_on_at_the_head() {
    let mut streams = Streams::with_bounds(QueueSpec::stream("s").max_messages(3), tiny());
    streams.publish(0..3);
    streams.open_waiting(1, Some(StartAt::First));
    let first = reads_in(&streams.turn([credit(1, 1, u64::MAX)]));
    assert_eq!(read_offsets(&first), [0]);
    streams.publish(3..10);
    let rest = reads_in(&streams.turn([credit(1, 10, u64::MAX)]));
    assert_eq!(read_offsets(&rest), [7, 8, 9]);
    assert_eq!(streams.open(2, StartAt::Offset(1)).1, Some(7));
}

#[test]
fn a_restart_keeps_messages_offsets_and_limits() {
    let spec = QueueSpec::stream("s")
        .max_age(std::time::Duration::from_secs(10))
        .max_messages(5);
    let mut streams = Streams::with_bounds(spec, tiny());
    streams.publish(0..8);
    streams.restart();
    assert_eq!(streams.offsets(), 3..8);
    assert_eq!(read_offsets(&streams.open(1, StartAt::First).0), [3, 4, 5, 6, 7]);
    assert_eq!(read_offsets(&streams.publish([8])), [8]);
    assert_eq!(streams.offsets(), 4..9);
    assert_eq!(streams.bench.broker.poll_timeout(), Some(NOW + 10_000));
}

#[test]
fn a_purge_drops_what_is_there_and_offsets_go_on() {
    let mut streams = Streams::with_bounds(QueueSpec::stream("s"), tiny());
    streams.publish(0..20);
    assert_eq!(
        streams.request(Request::PurgeQueue("s".into())),
        Ok(Reply::Purged(20))
    );
    assert_eq!(streams.offsets(), 20..20);
    assert!(streams.chunks.is_empty() && streams.index.is_empty());
    streams.publish(20..22);
    assert_eq!(read_offsets(&streams.open(1, StartAt::First).0), [20, 21]);
}

#[test]
fn a_deleted_stream_leaves_nothing_also_when_a_restart_comes_between() {
    for restart in [false, true] {
        let mut streams = Streams::with_bounds(QueueSpec::stream("s"), tiny());
        streams.publish(0..20);
        streams.open(1, StartAt::First);
        if restart {
            // The definition is gone, the messages are not.
            let id = streams.bench.queue_id("s");
            streams.definitions.remove(&catalog::DefinitionKey::Queue(id));
            streams.restart();
        } else {
            let request = Request::DeleteQueue {
                name: "s".into(),
                if_unused: false,
                if_empty: false,
            };
            assert_eq!(streams.request(request), Ok(Reply::Purged(20)));
        }
        assert!(streams.chunks.is_empty() && streams.index.is_empty() && streams.states.is_empty());
    }
}

#[test]
fn a_message_for_a_queue_and_a_stream_is_in_a_lane_of_each() {
    let mut streams = Streams::new(QueueSpec::stream("s"));
    streams
        .request(Request::DeclareQueue(QueueSpec::new("q")))
        .unwrap();
    let queues = [streams.bench.queue_id("s"), streams.bench.queue_id("q")];
    let mut kept = message(1, "0", &queues);
    kept.copies[0].persistent = false;
    let mut commit = Commit::default();
    streams
        .bench
        .broker
        .handle(publish(1, vec![kept]), NOW, &mut commit);
    streams.bench.broker.finish(NOW, &mut commit);
    let lanes: Vec<Lane> = commit
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Append { chunk, .. } => Some(chunk.lane),
            _ => None,
        })
        .collect();
    assert_eq!(lanes, [Lane::Queues, Lane::Streams]);
    assert!(commit.sync.is_some(), "an offset is never another message's");
}

#[test]
fn a_work_queue_has_no_offsets() {
    let mut streams = Streams::new(QueueSpec::new("s"));
    let effects = streams.open_waiting(1, Some(StartAt::First));
    let refused = effects.iter().find_map(|effect| match effect {
        Effect::ConsumerClosed { error, .. } => Some(error.code),
        _ => None,
    });
    assert_eq!(refused, Some(ErrorCode::InvalidArgument));
    assert_eq!(streams.info().stream, None);
}

#[test]
fn a_stream_is_declared_again_only_as_it_is() {
    let mut streams = Streams::new(QueueSpec::stream("s").max_bytes(10));
    let mut declare = |spec| streams.request(Request::DeclareQueue(spec));
    assert!(declare(QueueSpec::stream("s").max_bytes(10)).is_ok());
    for other in [
        QueueSpec::new("s"),
        QueueSpec::stream("s"),
        QueueSpec::stream("s").max_bytes(11),
    ] {
        assert_eq!(declare(other).unwrap_err().code, ErrorCode::PreconditionFailed);
    }
}

#[test]
fn a_chunk_that_the_store_lost_is_passed_over_and_counted() {
    let mut streams = Streams::with_bounds(QueueSpec::stream("s"), tiny());
    streams.publish(0..20);
    let (lane, base) = *streams.chunks.keys().nth(5).unwrap();
    streams.chunks.remove(&(lane, base));
    let (reads, _) = streams.open(1, StartAt::First);
    let expected: Vec<u64> = (0..20).filter(|n| *n != 5).collect();
    assert_eq!(read_offsets(&reads), expected);
    assert_eq!(streams.bench.broker.totals().missing, 1);
}
