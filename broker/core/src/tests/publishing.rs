//! From a publish to its confirm.

use std::time::Duration;

use pointsman_protocol::admin::QueueSpec;
use pointsman_protocol::publish::Outcome;

use super::*;

fn bench() -> (Bench, QueueId) {
    let mut bench = Bench::new();
    bench.request(Request::DeclareQueue(QueueSpec::new("q"))).unwrap();
    bench.open_publisher(1, 1);
    let queue = bench.queue_id("q");
    (bench, queue)
}

/// First sequence number, count and outcome of each confirm.
fn confirms(commit: &Commit) -> Vec<(u64, u32, Outcome)> {
    let confirms = commit.effects.iter().filter_map(|effect| match effect {
        Effect::Confirm {
            first,
            count,
            outcome,
            ..
        } => Some((*first, *count, outcome.clone())),
        _ => None,
    });
    confirms.collect()
}

const ROUTED: Outcome = Outcome::Routed { queues: 1 };

#[test]
fn consecutive_confirms_of_equal_outcome_are_one() {
    let (mut bench, queue) = bench();
    let batches = [
        publish(1, vec![message(1, "a", &[queue]), message(2, "b", &[queue])]),
        publish(
            1,
            vec![
                message(3, "c", &[queue]),
                message(4, "d", &[]),
                message(6, "e", &[queue]),
            ],
        ),
    ];
    let commit = bench.turn(batches);
    assert_eq!(
        confirms(&commit),
        [(1, 3, ROUTED), (4, 1, Outcome::Unroutable), (6, 1, ROUTED)]
    );
    assert_eq!(commit.sync, Some(Duration::ZERO));
}

#[test]
fn a_message_that_comes_again_is_not_stored_twice() {
    let (mut bench, queue) = bench();
    bench.turn([publish(1, vec![message(1, "a", &[queue]), message(2, "b", &[])])]);
    let commit = bench.open_publisher(2, 1);
    let closed = |effect: &Effect| {
        matches!(
            effect,
            Effect::PublisherClosed {
                publisher: PublisherId(1),
                ..
            }
        )
    };
    assert!(
        commit.effects.iter().any(closed),
        "the older stream of the identity is closed"
    );
    let opened = |effect: &Effect| matches!(effect, Effect::PublisherOpened { last_sequence: 2, .. });
    assert!(commit.effects.iter().any(opened));
    let again = (1..=3).map(|n| message(n, "x", &[queue])).collect();
    let commit = bench.turn([publish(2, again)]);
    let outcomes = confirms(&commit);
    assert_eq!(
        outcomes,
        [
            (1, 1, Outcome::Duplicate),
            (2, 1, Outcome::Unroutable),
            (3, 1, ROUTED)
        ]
    );
    assert_eq!(bench.broker.totals().ready, 2);
}

#[test]
fn a_queue_in_two_copies_counts_once_and_a_deleted_one_not_at_all() {
    let (mut bench, queue) = bench();
    bench
        .request(Request::DeclareQueue(QueueSpec::new("other")))
        .unwrap();
    let other = bench.queue_id("other");
    let mut two = message(1, "a", &[queue, QueueId(99)]);
    two.copies.push(copy("b", &[queue, other]));
    let commit = bench.turn([publish(1, vec![two, message(2, "c", &[QueueId(99)])])]);
    let outcomes = confirms(&commit);
    assert_eq!(
        outcomes,
        [(1, 1, Outcome::Routed { queues: 2 }), (2, 1, Outcome::Unroutable)]
    );
    assert_eq!(bench.broker.totals().ready, 3);
}

#[test]
fn a_message_for_several_durable_queues_is_stored_once() {
    let (mut bench, queue) = bench();
    bench
        .request(Request::DeclareQueue(QueueSpec::new("other")))
        .unwrap();
    let other = bench.queue_id("other");
    let commit = bench.turn([publish(1, vec![message(1, "a", &[queue, other])])]);
    let appends = commit.records.iter().filter_map(|record| match record {
        Record::Append { chunk, references } => Some((chunk.count(), references.clone())),
        _ => None,
    });
    assert_eq!(appends.collect::<Vec<_>>(), [(1, References::uniform(1, 2))]);
}

#[test]
fn messages_of_transient_queues_skip_the_store() {
    let (mut bench, _) = bench();
    bench
        .request(Request::DeclareQueue(QueueSpec::new("t").transient()))
        .unwrap();
    let queue = bench.queue_id("t");
    let commit = bench.turn([publish(1, vec![message(1, "a", &[queue])])]);
    assert_eq!(confirms(&commit), [(1, 1, ROUTED)]);
    assert!(commit.records.is_empty() && commit.sync.is_none());
    bench.open_consumer(1, "t");
    assert_eq!(bodies(&bench.grant(1, 1)), ["a"]);
    assert!(bench.broker.totals().memory_bytes > 0);
    bench.settle(1, 1, 1, Settlement::Ack);
    assert_eq!(bench.broker.totals().memory_bytes, 0);
}

#[test]
fn a_full_memory_lane_refuses_and_says_which_limit() {
    let mut bench = Bench::with_bounds(Bounds {
        memory_bytes: 1_000,
        ..Bounds::default()
    });
    bench
        .request(Request::DeclareQueue(QueueSpec::new("t").transient()))
        .unwrap();
    bench.open_publisher(1, 1);
    let queue = bench.queue_id("t");
    let commit = bench.turn([publish(1, vec![message(1, &"x".repeat(2_000), &[queue])])]);
    let [(1, 1, Outcome::Refused(error))] = &confirms(&commit)[..] else {
        panic!("{:?}", confirms(&commit));
    };
    assert_eq!(error.code, ErrorCode::LimitReached);
    assert!(error.message.contains("MEMORY_LANE_BYTES"), "{error}");
}

#[test]
fn only_a_persistent_message_waits_for_a_sync() {
    let (mut bench, queue) = bench();
    let mut relaxed = message(1, "a", &[queue]);
    relaxed.copies[0].persistent = false;
    assert_eq!(bench.turn([publish(1, vec![relaxed])]).sync, None);
    let commit = bench.turn([publish(1, vec![message(2, "b", &[queue])])]);
    assert_eq!(commit.sync, Some(Duration::ZERO));
}

#[test]
fn a_commit_is_synced_as_the_strongest_promise_of_its_messages_queues_says() {
    let mut bench = Bench::with_bounds(Bounds {
        fsync: Fsync::Interval(100),
        ..Bounds::default()
    });
    bench.open_publisher(1, 1);
    let mut queue = |spec: QueueSpec| {
        let name = spec.name.clone();
        bench.request(Request::DeclareQueue(spec)).unwrap();
        bench.queue_id(&name)
    };
    let never = queue(QueueSpec::new("never").fsync(Fsync::Never));
    let late = queue(QueueSpec::new("late"));
    let soon = queue(QueueSpec::new("soon").fsync(Fsync::Interval(10)));
    let always = queue(QueueSpec::new("always").fsync(Fsync::Always));
    let all: [(&[QueueId], Option<u64>); 5] = [
        (&[never], None),
        (&[late], Some(100)),
        (&[never, soon, late], Some(10)),
        (&[soon, always], Some(0)),
        (&[never], None),
    ];
    for (n, (queues, ms)) in all.into_iter().enumerate() {
        let commit = bench.turn([publish(1, vec![message(n as u64 + 1, "m", queues)])]);
        assert_eq!(commit.sync, ms.map(Duration::from_millis), "{queues:?}");
    }
}

#[test]
fn the_verdict_of_the_route_becomes_the_outcome() {
    let (mut bench, queue) = bench();
    let with = |n, verdict, queues: &[QueueId]| Publish {
        verdict,
        ..message(n, "m", queues)
    };
    let refusal = ErrorBody::new(ErrorCode::ModuleFailed, "the module is gone");
    let commit = bench.turn([publish(
        1,
        vec![
            with(1, Verdict::Reject("too old".into()), &[]),
            with(2, Verdict::Quarantine("trap".into()), &[queue]),
            with(3, Verdict::Refuse(refusal.clone()), &[]),
        ],
    )]);
    let outcomes = [
        (
            1,
            1,
            Outcome::Rejected {
                reason: "too old".into(),
            },
        ),
        (
            2,
            1,
            Outcome::Quarantined {
                reason: "trap".into(),
            },
        ),
        (3, 1, Outcome::Refused(refusal)),
    ];
    assert_eq!(confirms(&commit), outcomes);
    assert_eq!(bench.broker.totals().ready, 1);
}
