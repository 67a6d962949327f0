//! From a publish to its settlement.

use pointsman_protocol::admin::QueueSpec;

use super::*;

fn bench_with_messages(bodies: &[&str]) -> Bench {
    let mut bench = Bench::new();
    bench.request(Request::DeclareQueue(QueueSpec::new("q"))).unwrap();
    bench.open_publisher(1, 1);
    let queue = bench.queue_id("q");
    let messages = bodies.iter().zip(1..).map(|(body, n)| message(n, body, &[queue]));
    bench.turn([publish(1, messages.collect())]);
    bench
}

#[test]
fn messages_come_in_order_and_are_gone_once_acknowledged() {
    let mut bench = bench_with_messages(&["a", "b", "c"]);
    bench.open_consumer(1, "q");
    let commit = bench.grant(1, 2);
    assert_eq!(bodies(&commit), ["a", "b"]);
    bench.settle(1, 1, 2, Settlement::Ack);
    let commit = bench.grant(1, 2);
    assert_eq!(bodies(&commit), ["c"]);
    let commit = bench.settle(1, 3, 1, Settlement::Ack);
    assert!(commit.records.contains(&Record::Release {
        lane: Lane::Queues,
        base: Offset(0),
        count: 1
    }));
    assert!(!commit.sync);
    let totals = bench.broker.totals();
    assert_eq!((totals.ready, totals.unsettled), (0, 0));
}
