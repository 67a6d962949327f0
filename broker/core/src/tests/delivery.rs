//! From a delivery to its settlement.

use pointsman_protocol::admin::QueueSpec;

use super::*;

/// A broker with an empty queue `q` and publisher 1.
fn bench_with_queue(bounds: Bounds) -> (Bench, QueueId) {
    let mut bench = Bench::with_bounds(bounds);
    bench.request(Request::DeclareQueue(QueueSpec::new("q"))).unwrap();
    bench.open_publisher(1, 1);
    let queue = bench.queue_id("q");
    (bench, queue)
}

fn bench_with_messages(bodies: &[&str]) -> Bench {
    let (mut bench, queue) = bench_with_queue(Bounds::default());
    let messages = bodies.iter().zip(1..).map(|(body, n)| message(n, body, &[queue]));
    bench.turn([publish(1, messages.collect())]);
    bench
}

fn counts(bench: &Bench) -> (u64, u64) {
    let totals = bench.broker.totals();
    (totals.ready, totals.unsettled)
}

#[test]
fn messages_come_in_order_and_are_gone_once_acknowledged() {
    let mut bench = bench_with_messages(&["a", "b", "c"]);
    bench.open_consumer(1, "q");
    assert_eq!(bodies(&bench.grant(1, 2)), ["a", "b"]);
    assert_eq!(counts(&bench), (1, 2));
    bench.settle(1, 1, 2, Settlement::Ack);
    assert_eq!(bodies(&bench.grant(1, 2)), ["c"]);
    let commit = bench.settle(1, 3, 1, Settlement::Ack);
    let release = Record::Release {
        lane: Lane::Queues,
        base: Offset(0),
        record: 2,
        count: 1,
    };
    assert!(commit.records.contains(&release));
    assert_eq!(commit.sync, None, "an acknowledgement waits for no sync");
    assert_eq!(counts(&bench), (0, 0));
}

#[test]
fn what_a_turn_settles_is_released_in_as_few_ranges_as_it_makes() {
    let mut bench = bench_with_messages(&["a", "b", "c", "d", "e"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 5);
    let commit = bench.turn([4, 1, 5, 2].map(|tag| settle(1, tag, 1, Settlement::Ack)));
    let released = commit.records.iter().filter_map(|record| match record {
        Record::Release { record, count, .. } => Some((*record, *count)),
        _ => None,
    });
    assert_eq!(released.collect::<Vec<_>>(), [(0, 2), (3, 2)]);
}

#[test]
fn a_message_the_store_dropped_is_missing_and_those_around_it_are_not() {
    let (mut bench, queue) = bench_with_queue(Bounds {
        cache_bytes: 0,
        ..Bounds::default()
    });
    let messages = ["a", "b", "c"].iter().zip(1..);
    let published = bench.turn([publish(
        1,
        messages.map(|(body, n)| message(n, body, &[queue])).collect(),
    )]);
    let whole = published.records.iter().find_map(|record| match record {
        Record::Append { chunk, .. } => Some(chunk),
        _ => None,
    });
    let mut references = References::uniform(3, 1);
    references.release(1, 1);
    let chunk = whole.unwrap().without_dead(&references);
    bench.open_consumer(1, "q");
    bench.grant(1, 3);
    let read = Input::ChunkRead {
        lane: chunk.lane,
        base: chunk.base,
        chunk: Some(chunk.into()),
    };
    assert_eq!(bodies(&bench.turn([read])), ["a", "c"]);
    let totals = bench.broker.totals();
    assert_eq!((counts(&bench), totals.missing), ((0, 2), 1));
    assert_eq!(totals.cache_misses, 1, "it waited for the disk once");
    assert!(totals.cache_hits > 0);
}

#[test]
fn a_chunk_that_was_read_back_leaves_memory_with_its_last_message() {
    let mut bench = Bench::with_bounds(Bounds {
        cache_bytes: 1_500,
        ..Bounds::default()
    });
    for queue in ["q", "other"] {
        bench
            .request(Request::DeclareQueue(QueueSpec::new(queue)))
            .unwrap();
    }
    bench.open_publisher(1, 1);
    let queues = ["q", "other"].map(|queue| bench.queue_id(queue));
    let published = bench.turn([publish(
        1,
        vec![message(1, "a", &queues), message(2, "b", &queues)],
    )]);
    let written = published.records.iter().find_map(|record| match record {
        Record::Append { chunk, .. } => Some(chunk.bytes()),
        _ => None,
    });
    // It pushes the first chunk out.
    bench.turn([publish(1, vec![message(3, &"x".repeat(1_200), &queues[1..])])]);
    bench.open_consumer(1, "q");
    bench.open_consumer(2, "other");
    bench.grant(1, 2);
    bench.grant(2, 2);
    let references = References::uniform(2, 2);
    let chunk = Chunk::parse_sparse(
        Lane::Queues,
        Offset(0),
        0,
        written.unwrap(),
        Vec::new(),
        &references,
    );
    let read = Input::ChunkRead {
        lane: Lane::Queues,
        base: Offset(0),
        chunk: Some(chunk.unwrap().into()),
    };
    assert_eq!(bodies(&bench.turn([read])), ["a", "b", "a", "b"]);
    bench.settle(1, 1, 2, Settlement::Ack);
    assert!(
        bench.broker.totals().cache_bytes > 0,
        "the other queue has it too"
    );
    bench.settle(2, 1, 2, Settlement::Ack);
    assert_eq!(bench.broker.totals().cache_bytes, 0);
}

#[test]
fn a_requeued_message_goes_back_to_its_place() {
    let mut bench = bench_with_messages(&["a", "b", "c"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 2);
    bench.settle(1, 2, 1, Settlement::Requeue);
    bench.settle(1, 1, 1, Settlement::Requeue);
    let again = deliveries(&bench.grant(1, 10));
    let seen: Vec<_> = again
        .iter()
        .map(|d| (d.body.as_str(), d.redelivered, d.delivery_count))
        .collect();
    assert_eq!(seen, [("a", true, 1), ("b", true, 1), ("c", false, 0)]);
}

#[test]
fn a_rejected_message_leaves_the_queue() {
    let mut bench = bench_with_messages(&["a"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 1);
    bench.settle(1, 1, 1, Settlement::Reject);
    assert_eq!(counts(&bench), (0, 0));
}

#[test]
fn settling_an_unknown_tag_closes_the_consumer_and_gives_everything_back() {
    for (first, count) in [(3, 1), (1, 3), (0, 1), (2, 0), (u64::MAX, 9)] {
        let mut bench = bench_with_messages(&["a", "b"]);
        bench.open_consumer(1, "q");
        bench.grant(1, 2);
        let commit = bench.settle(1, first, count, Settlement::Ack);
        assert_eq!(
            consumer_closed(&commit),
            Some(ErrorCode::UnknownDeliveryTag),
            "{first} {count}"
        );
        assert_eq!(counts(&bench), (2, 0));
    }
}

#[test]
fn what_a_closed_consumer_had_goes_to_the_next_one() {
    let mut bench = bench_with_messages(&["a", "b"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 1);
    bench.turn([Input::CloseConsumer {
        consumer: ConsumerId(1),
    }]);
    bench.open_consumer(2, "q");
    let next = deliveries(&bench.grant(2, 10));
    let seen: Vec<_> = next.iter().map(|d| (d.body.as_str(), d.redelivered)).collect();
    assert_eq!(seen, [("a", true), ("b", false)]);
}

#[test]
fn credit_counts_messages_and_bytes_and_one_message_may_overdraw_it() {
    let mut bench = bench_with_messages(&["aaaa", "bbbb", "cccc"]);
    let len = u64::from(copy("aaaa", &[]).meta_len) + 4;
    bench.open_consumer(1, "q");
    assert_eq!(bodies(&bench.turn([credit(1, 10, 1)])), ["aaaa"]);
    assert_eq!(
        bodies(&bench.turn([credit(1, 0, len - 1)])).len(),
        0,
        "the overdraft is paid first"
    );
    assert_eq!(bodies(&bench.turn([credit(1, 0, 1)])), ["bbbb"]);
}

#[test]
fn consumers_with_credit_share_what_waits() {
    let mut bench = bench_with_messages(&["a", "b", "c", "d", "e", "f"]);
    bench.open_consumer(1, "q");
    bench.open_consumer(2, "q");
    let commit = bench.turn([credit(1, 100, 1_000), credit(2, 100, 1_000)]);
    let of = |consumer| {
        deliveries(&commit)
            .iter()
            .filter(|d| d.consumer == consumer)
            .count()
    };
    assert_eq!((of(1), of(2)), (3, 3));
}

#[test]
fn what_a_turn_withholds_is_handed_out_in_fair_shares_when_one_may() {
    let (mut bench, queue) = bench_with_queue(Bounds::default());
    bench.open_consumer(1, "q");
    bench.open_consumer(2, "q");
    bench.turn([credit(1, 100, 1_000), credit(2, 100, 1_000)]);
    assert!(!bench.broker.withholds(), "there is nothing");
    for n in 1..=4 {
        let mut commit = Commit::default();
        bench.broker.handle(
            publish(1, vec![message(n, &n.to_string(), &[queue])]),
            NOW,
            &mut commit,
        );
        assert!(
            !bench.broker.finish_withholding(NOW, &mut commit),
            "only a turn that may would do more"
        );
        assert_eq!(bodies(&commit).len(), 0);
        let in_index = |record: &Record| matches!(record, Record::Index { .. });
        assert!(
            commit.records.iter().any(in_index),
            "it is in its queue all the same"
        );
        assert!(bench.broker.withholds());
    }
    let commit = bench.turn([]);
    assert!(!bench.broker.withholds());
    let of = |consumer| {
        let all = deliveries(&commit).into_iter();
        all.filter(|d| d.consumer == consumer)
            .map(|d| d.body)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of(1), of(2)),
        (vec!["1".into(), "2".into()], vec!["3".into(), "4".into()])
    );
}

#[test]
fn a_purge_takes_what_was_withheld_and_a_deleted_queue_withholds_nothing() {
    let mut bench = bench_with_messages(&["a", "b"]);
    bench.open_consumer(1, "q");
    let mut commit = Commit::default();
    bench.broker.handle(credit(1, 100, 1_000), NOW, &mut commit);
    bench.broker.finish_withholding(NOW, &mut commit);
    assert!(bench.broker.withholds());
    let purged = bench.request(Request::PurgeQueue("q".to_owned()));
    assert!(matches!(purged, Ok(Reply::Purged(2))), "{purged:?}");

    let queue = bench.queue_id("q");
    let mut commit = Commit::default();
    bench
        .broker
        .handle(publish(1, vec![message(3, "c", &[queue])]), NOW, &mut commit);
    bench.broker.finish_withholding(NOW, &mut commit);
    assert!(bench.broker.withholds());
    let delete = Request::DeleteQueue {
        name: "q".to_owned(),
        if_unused: false,
        if_empty: false,
    };
    bench.request(delete).unwrap();
    assert!(!bench.broker.withholds());
    assert_eq!(bodies(&bench.turn([])).len(), 0);
}

#[test]
fn one_turn_hands_out_a_bounded_number_and_asks_for_another() {
    let (mut bench, queue) = bench_with_queue(Bounds {
        deliveries_per_turn: 2,
        ..Bounds::default()
    });
    bench.turn([publish(1, (1..=3).map(|n| message(n, "m", &[queue])).collect())]);
    bench.open_consumer(1, "q");
    let mut commit = Commit::default();
    bench.broker.handle(credit(1, 10, 1_000), NOW, &mut commit);
    assert!(bench.broker.finish(NOW, &mut commit));
    assert_eq!(bodies(&commit).len(), 2);
    let mut commit = Commit::default();
    assert!(!bench.broker.finish(NOW, &mut commit));
    assert_eq!(bodies(&commit).len(), 1);
}

#[test]
fn what_was_delivered_counts_though_the_rest_of_a_share_must_be_read_first() {
    let (mut bench, queue) = bench_with_queue(Bounds {
        page_runs: 1,
        ..Bounds::default()
    });
    for n in 1..=3 {
        bench.turn([publish(1, vec![message(n, "m", &[queue])])]);
    }
    bench.open_consumer(1, "q");
    assert_eq!(bodies(&bench.grant(1, 3)).len(), 1);
    assert_eq!(bench.broker.totals().delivered, 1);
}

#[test]
fn without_acknowledgements_a_delivery_is_settled_when_it_is_handed_out() {
    let mut bench = bench_with_messages(&["a", "b"]);
    bench.open_consumer_with(1, 1, "q", false, true);
    assert_eq!(bodies(&bench.grant(1, 5)), ["a", "b"]);
    assert_eq!(counts(&bench), (0, 0));
}

#[test]
fn an_exclusive_consumer_has_the_queue_for_itself() {
    let mut bench = bench_with_messages(&[]);
    bench.open_consumer_with(1, 1, "q", true, false);
    let commit = bench.open_consumer(2, "q");
    assert_eq!(consumer_closed(&commit), Some(ErrorCode::ResourceLocked));
    bench.turn([Input::CloseConsumer {
        consumer: ConsumerId(1),
    }]);
    assert_eq!(consumer_closed(&bench.open_consumer(2, "q")), None);
    let commit = bench.open_consumer_with(1, 3, "q", true, false);
    assert_eq!(consumer_closed(&commit), Some(ErrorCode::ResourceLocked));
}

#[test]
fn a_purge_removes_what_waits_and_leaves_what_is_unsettled() {
    let mut bench = bench_with_messages(&["a", "b", "c"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 1);
    assert_eq!(
        bench.request(Request::PurgeQueue("q".into())),
        Ok(Reply::Purged(2))
    );
    assert_eq!(counts(&bench), (0, 1));
    bench.settle(1, 1, 1, Settlement::Requeue);
    assert_eq!(bodies(&bench.grant(1, 5)), ["a"]);
}

#[test]
fn acknowledgements_out_of_order_are_kept_until_the_head_passes_them() {
    let mut bench = bench_with_messages(&["a", "b", "c"]);
    bench.open_consumer(1, "q");
    bench.grant(1, 3);
    let block = |commit: &Commit| {
        commit.records.iter().find_map(|record| match record {
            Record::AckBlock { settled, .. } => {
                Some(settled.as_ref().map(|bits| bits.iter().collect::<Vec<_>>()))
            }
            _ => None,
        })
    };
    assert_eq!(
        block(&bench.settle(1, 2, 1, Settlement::Ack)),
        Some(Some(vec![1]))
    );
    assert_eq!(block(&bench.settle(1, 1, 1, Settlement::Ack)), Some(None));
    assert_eq!(block(&bench.settle(1, 3, 1, Settlement::Ack)), None);
}
