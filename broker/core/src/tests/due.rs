//! Messages that enter their queue later, and messages that leave it because they waited too long.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_protocol::admin::{QueueInfo, QueueSpec};

use super::*;
use crate::due::{DueEntry, DueKey};

/// A bench with the queues `d` (durable), `t` (transient) and the stream `s`, and what of them is on disk.
struct Clock {
    bench: Bench,
    now: u64,
    sequence: u64,
    /// Places in queues that name messages, in chunks on disk.
    references: i64,
    due: BTreeMap<DueKey, DueEntry>,
}

/// How long a message is delayed and how long it may wait then.
#[derive(Clone, Copy, Default)]
struct After {
    delay: u64,
    expiration: u64,
}

fn expiring(expiration: u64) -> After {
    After { delay: 0, expiration }
}

fn delayed(delay: u64) -> After {
    After { delay, expiration: 0 }
}

impl Clock {
    fn new() -> Clock {
        Clock::with_bounds(Bounds::default())
    }

    fn with_bounds(bounds: Bounds) -> Clock {
        let mut bench = Bench::with_bounds(bounds);
        bench.open_publisher(1, 1);
        let mut clock = Clock {
            bench,
            now: NOW,
            sequence: 0,
            references: 0,
            due: BTreeMap::new(),
        };
        clock.declare(QueueSpec::new("d"));
        clock.declare(QueueSpec::new("t").transient());
        clock.declare(QueueSpec::stream("s"));
        clock
    }

    fn declare(&mut self, spec: QueueSpec) {
        self.bench.request(Request::DeclareQueue(spec)).unwrap();
    }

    /// A turn, and those that follow until nothing is left to do; reads of due entries are answered.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Commit {
        let mut all = Commit::default();
        let mut inputs: Vec<Input> = inputs.into_iter().collect();
        loop {
            let commit = self.bench.turn_at(self.now, inputs);
            self.store(&commit.records);
            inputs = commit
                .effects
                .iter()
                .filter_map(|effect| self.read(effect))
                .collect();
            all.records.extend(commit.records);
            all.effects.extend(commit.effects);
            all.sync_within(commit.sync);
            let is_due = self.bench.broker.poll_timeout().is_some_and(|at| at <= self.now);
            if inputs.is_empty() && !is_due {
                return all;
            }
        }
    }

    fn at(&mut self, ms: u64) -> Commit {
        self.now = NOW + ms;
        self.turn([])
    }

    fn store(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Append { references, .. } => self.references += references.total() as i64,
                Record::Release { count, .. } => self.references -= i64::from(*count),
                Record::Due {
                    key,
                    entry: Some(entry),
                } => {
                    assert!(entry.is_valid(key), "{key:?} {entry:?}");
                    assert_eq!(self.due.insert(*key, entry.clone()), None);
                }
                Record::Due { key, entry: None } => drop(self.due.remove(key)),
                _ => {}
            }
        }
    }

    fn read(&self, effect: &Effect) -> Option<Input> {
        let Effect::ReadDue { of, after, .. } = effect else {
            return None;
        };
        let behind = self.due.range(after..).filter(|(key, _)| *key > after);
        let entries = behind.filter(|(key, _)| of.is_none_or(|of| key.queue == of));
        let entries = entries
            .take(1)
            .map(|(key, entry)| (*key, entry.clone()))
            .collect();
        let (of, after) = (*of, *after);
        Some(Input::DueRead { of, after, entries })
    }

    fn publish(&mut self, queue: &str, messages: &[(&str, After)]) -> Commit {
        let queue = self.bench.queue_id(queue);
        let messages = messages.iter().map(|(body, after)| {
            self.sequence += 1;
            let mut message = message(self.sequence, body, &[queue]);
            message.copies[0].times = Times::new(Some(after.delay), Some(after.expiration));
            message
        });
        let input = publish(1, messages.collect());
        self.turn([input])
    }

    fn consume(&mut self, queue: &str, credit: u32) -> Vec<String> {
        self.bench.open_consumer(1, queue);
        bodies(&self.turn([super::credit(1, credit, u64::MAX)]))
    }

    fn settle(&mut self, first: u64, count: u32, how: Settlement) -> Commit {
        self.turn([super::settle(1, first, count, how)])
    }

    fn info(&mut self, queue: &str) -> QueueInfo {
        let list = Request::ListQueues(Some(queue.to_owned()));
        match self.bench.request(list).unwrap() {
            Reply::Queues(mut queues) => queues.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Ready, unsettled, expired and delayed messages of a queue.
    fn counts(&mut self, queue: &str) -> [u64; 4] {
        let info = self.info(queue);
        [info.ready, info.unsettled, info.expired, info.delayed]
    }

    /// Nothing is left of any message.
    fn is_empty(&self) -> bool {
        let totals = self.bench.broker.totals();
        self.references == 0
            && self.due.is_empty()
            && (
                totals.ready,
                totals.unsettled,
                totals.delayed,
                totals.memory_bytes,
            ) == (0, 0, 0, 0)
    }
}

#[test]
fn a_message_that_waited_too_long_leaves_its_queue_wherever_in_it_it_is() {
    for queue in ["d", "t"] {
        let mut clock = Clock::new();
        let messages = [
            ("a", After::default()),
            ("b", expiring(10)),
            ("c", After::default()),
        ];
        clock.publish(queue, &messages);
        assert_eq!(clock.bench.broker.poll_timeout(), Some(NOW + 10));
        clock.at(9);
        assert_eq!(clock.counts(queue), [3, 0, 0, 0]);
        clock.at(10);
        assert_eq!(clock.counts(queue), [2, 0, 1, 0]);
        assert_eq!(clock.bench.broker.poll_timeout(), None);
        assert_eq!(clock.consume(queue, 9), ["a", "c"]);
        clock.settle(1, 2, Settlement::Ack);
        assert!(clock.is_empty(), "{queue}");
    }
}

#[test]
fn of_a_messages_expiration_and_its_queues_the_shorter_counts() {
    let mut clock = Clock::new();
    clock.declare(QueueSpec::new("q").message_ttl(Duration::from_millis(10)));
    clock.publish(
        "q",
        &[("a", expiring(5)), ("b", expiring(20)), ("c", After::default())],
    );
    clock.at(5);
    assert_eq!(clock.counts("q"), [2, 0, 1, 0]);
    clock.at(10);
    assert_eq!(clock.counts("q"), [0, 0, 3, 0]);
    assert_eq!(clock.bench.broker.totals().expired, 3);
    assert!(clock.is_empty());
}

#[test]
fn a_message_that_a_consumer_has_does_not_expire_until_it_comes_back() {
    for queue in ["d", "t"] {
        let mut clock = Clock::new();
        clock.publish(
            queue,
            &[
                ("a", expiring(10)),
                ("b", expiring(10)),
                ("c", expiring(10)),
                ("d", expiring(10)),
            ],
        );
        assert_eq!(clock.consume(queue, 4), ["a", "b", "c", "d"]);
        clock.at(10);
        assert_eq!(clock.counts(queue), [0, 4, 0, 0]);
        let kept = usize::from(queue == "d");
        assert_eq!(clock.due.len(), kept, "a restart would expire them");
        clock.settle(1, 1, Settlement::Ack);
        assert_eq!(bodies(&clock.settle(2, 1, Settlement::Requeue)), [""; 0]);
        assert_eq!(clock.counts(queue), [0, 2, 1, 0]);
        clock.settle(3, 1, Settlement::Reject);
        clock.turn([Input::CloseConsumer {
            consumer: ConsumerId(1),
        }]);
        assert_eq!(
            clock.counts(queue),
            [0, 0, 2, 0],
            "acknowledged and rejected ones are not expired"
        );
        assert!(clock.is_empty(), "{queue}");
    }
}

#[test]
fn a_message_that_came_back_before_its_deadline_expires_where_it_waits() {
    for queue in ["d", "t"] {
        let mut clock = Clock::new();
        clock.publish(
            queue,
            &[
                ("a", After::default()),
                ("b", expiring(10)),
                ("c", After::default()),
            ],
        );
        clock.consume(queue, 3);
        clock.turn([Input::CloseConsumer {
            consumer: ConsumerId(1),
        }]);
        clock.at(10);
        assert_eq!(clock.counts(queue), [2, 0, 1, 0]);
        assert_eq!(clock.consume(queue, 9), ["a", "c"]);
        clock.settle(1, 2, Settlement::Ack);
        assert!(clock.is_empty(), "{queue}");
    }
}

#[test]
fn what_expires_goes_from_disk_with_its_messages_and_not_only_when_it_is_due() {
    let mut clock = Clock::new();
    clock.publish("d", &[("a", expiring(10)), ("b", expiring(10))]);
    assert_eq!(clock.due.len(), 1, "one entry a turn, queue and deadline");
    clock.consume("d", 2);
    clock.settle(1, 2, Settlement::Ack);
    assert!(clock.is_empty());
    clock.at(10);
    assert_eq!(clock.counts("d"), [0, 0, 0, 0]);
}

#[test]
fn a_purged_message_does_not_expire() {
    let mut clock = Clock::new();
    clock.publish("d", &[("a", expiring(10)), ("b", delayed(10))]);
    let purge = Request::PurgeQueue("d".to_owned());
    let input = Input::Request {
        connection: ConnectionId(1),
        id: 99,
        request: purge,
    };
    clock.turn([input]);
    assert_eq!(
        clock.counts("d"),
        [0, 0, 0, 1],
        "what is delayed is not in the queue yet"
    );
    clock.at(10);
    assert_eq!(clock.counts("d"), [1, 0, 0, 0]);
}

#[test]
fn a_delayed_message_is_confirmed_at_once_and_enters_at_the_tail_when_its_time_has_come() {
    for queue in ["d", "t"] {
        let mut clock = Clock::new();
        let commit = clock.publish(
            queue,
            &[("a", delayed(10)), ("b", delayed(5)), ("c", After::default())],
        );
        let confirmed = commit.effects.iter().any(|effect| {
            let routed = pointsman_protocol::publish::Outcome::Routed { queues: 1 };
            matches!(effect, Effect::Confirm { count: 3, outcome, .. } if *outcome == routed)
        });
        assert!(confirmed, "{commit:?}");
        assert_eq!(commit.sync.is_some(), queue == "d");
        assert_eq!(clock.counts(queue), [1, 0, 0, 2]);
        assert_eq!(clock.consume(queue, 9), ["c"]);
        assert_eq!(bodies(&clock.at(4)), [""; 0]);
        assert_eq!(bodies(&clock.at(5)), ["b"]);
        assert_eq!(bodies(&clock.at(10)), ["a"]);
        assert_eq!(clock.counts(queue), [0, 3, 0, 0]);
        clock.settle(1, 3, Settlement::Ack);
        assert!(clock.is_empty(), "{queue}");
    }
}

#[test]
fn the_time_of_a_delayed_message_counts_from_the_end_of_its_delay() {
    let both = After {
        delay: 10,
        expiration: 5,
    };
    for queue in ["d", "t"] {
        let mut clock = Clock::new();
        clock.publish(queue, &[("a", both)]);
        clock.at(12);
        assert_eq!(clock.counts(queue), [1, 0, 0, 0]);
        clock.at(15);
        assert_eq!(clock.counts(queue), [0, 0, 1, 0]);
        assert!(clock.is_empty(), "{queue}");
        clock.now = NOW;
        clock.publish(queue, &[("a", both)]);
        clock.at(15);
        assert_eq!(clock.counts(queue), [0, 0, 2, 0], "it never entered");
        assert_eq!(clock.info(queue).published, 1);
        assert!(clock.is_empty(), "{queue}");
    }
}

#[test]
fn a_delayed_message_gets_its_offset_in_a_stream_when_it_enters_and_never_expires_there() {
    let mut clock = Clock::new();
    let both = After {
        delay: 10,
        expiration: 1,
    };
    clock.publish("s", &[("a", both), ("b", expiring(1)), ("c", both)]);
    assert_eq!(clock.counts("s"), [1, 0, 0, 2]);
    let commit = clock.at(50);
    assert!(
        commit.sync.is_some(),
        "an offset that is seen must not become another's"
    );
    assert_eq!(clock.counts("s"), [3, 0, 0, 0]);
    let bytes = 3 * (u64::from(copy("", &[]).meta_len) + 1);
    assert_eq!(clock.info("s").stream.unwrap().bytes, bytes);
    assert_eq!((clock.references, clock.due.len()), (3, 0));
}

#[test]
fn the_delayed_messages_of_a_deleted_queue_are_released_once() {
    for queue in ["d", "t", "s"] {
        let mut clock = Clock::new();
        clock.publish(
            queue,
            &[("a", delayed(10)), ("b", delayed(20)), ("c", delayed(20))],
        );
        clock.publish("d", &[("kept", delayed(20))]);
        let delete = Input::Request {
            connection: ConnectionId(1),
            id: 99,
            request: Request::DeleteQueue {
                name: queue.to_owned(),
                if_unused: false,
                if_empty: false,
            },
        };
        let kept = u64::from(queue != "d");
        let commit = clock.turn([delete]);
        let removed = commit.effects.iter().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        });
        assert_eq!(removed, Some(Reply::Purged(4 - kept)));
        assert_eq!(clock.bench.broker.totals().delayed, kept);
        clock.at(20);
        assert_eq!(clock.references as u64, kept, "{queue}");
        assert!(clock.due.is_empty());
        assert_eq!(clock.bench.broker.totals().memory_bytes, 0);
    }
}

#[test]
fn a_queue_with_delayed_messages_is_not_empty() {
    let mut clock = Clock::new();
    clock.publish("d", &[("a", delayed(10))]);
    let error = clock.bench.refusal(Request::DeleteQueue {
        name: "d".to_owned(),
        if_unused: false,
        if_empty: true,
    });
    assert_eq!(error.code, ErrorCode::InUse);
}

#[test]
fn more_than_a_page_is_read_back_in_the_order_it_is_due() {
    let mut clock = Clock::with_bounds(Bounds {
        due_page_runs: 2,
        purge_runs_per_turn: 1,
        ..Bounds::default()
    });
    let bodies_by_delay = [(40, "d"), (10, "a"), (50, "e"), (20, "b"), (30, "c")];
    for (delay, body) in bodies_by_delay {
        clock.publish("d", &[(body, delayed(delay))]);
    }
    assert_eq!(clock.consume("d", 9), [""; 0]);
    assert_eq!(bodies(&clock.at(10)), ["a"]);
    assert_eq!(bodies(&clock.at(60)), ["b", "c", "d", "e"]);
    clock.settle(1, 5, Settlement::Ack);
    assert!(clock.is_empty());
}

#[test]
fn a_clock_that_is_set_back_delays_and_repeats_nothing() {
    let mut clock = Clock::new();
    clock.publish("d", &[("a", delayed(10)), ("b", expiring(10))]);
    clock.at(10);
    assert_eq!(clock.counts("d"), [1, 0, 1, 0]);
    clock.now = NOW - 1_000;
    clock.publish("d", &[("c", delayed(10)), ("d", delayed(2_000))]);
    assert_eq!(clock.counts("d"), [1, 0, 1, 2]);
    clock.now = NOW - 990;
    clock.turn([]);
    assert_eq!(clock.counts("d"), [2, 0, 1, 1]);
    clock.at(100_000);
    assert_eq!(clock.consume("d", 9), ["a", "c", "d"]);
}

#[test]
fn transient_queues_hold_a_bounded_number_of_due_entries_and_those_of_settled_messages_make_room() {
    let mut clock = Clock::with_bounds(Bounds {
        due_memory_runs: 2,
        ..Bounds::default()
    });
    clock.publish("t", &[("a", expiring(10_000))]);
    clock.publish("t", &[("b", expiring(20_000))]);
    let refused = |commit: &Commit| {
        commit.effects.iter().find_map(|effect| match effect {
            Effect::Confirm {
                outcome: pointsman_protocol::publish::Outcome::Refused(error),
                ..
            } => Some(error.message.clone()),
            _ => None,
        })
    };
    let error = refused(&clock.publish("t", &[("c", delayed(1))])).expect("a refusal");
    assert!(error.contains("DUE_MEMORY_RUNS"), "{error}");
    assert_eq!(refused(&clock.publish("t", &[("d", After::default())])), None);
    assert_eq!(refused(&clock.publish("d", &[("e", delayed(1))])), None);
    clock.consume("t", 1);
    clock.settle(1, 1, Settlement::Ack);
    clock.now += 1_000;
    assert_eq!(refused(&clock.publish("t", &[("f", delayed(1))])), None);
}

#[test]
fn a_message_ttl_belongs_to_a_work_queue_and_does_not_change() {
    let mut clock = Clock::new();
    let ttl = |ms| QueueSpec::new("q").message_ttl(Duration::from_millis(ms));
    clock.declare(ttl(10));
    assert_eq!(clock.info("q").spec.message_ttl_ms, Some(10));
    clock.declare(ttl(10));
    let error = clock.bench.refusal(Request::DeclareQueue(ttl(20)));
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    for (ms, name) in [(Some(0), "z"), (Some(u64::MAX), "z")] {
        let mut spec = QueueSpec::new(name);
        spec.message_ttl_ms = ms;
        let error = clock.bench.refusal(Request::DeclareQueue(spec));
        assert_eq!(error.code, ErrorCode::InvalidArgument);
    }
    let mut stream = QueueSpec::stream("z");
    stream.message_ttl_ms = Some(10);
    let error = clock.bench.refusal(Request::DeclareQueue(stream));
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("stream"), "{}", error.message);
}
