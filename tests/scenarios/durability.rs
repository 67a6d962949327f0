//! What is durable is there after a crash, what is transient is not.

use pointsman_sdk::{BindingSpec, ExchangeSpec, Fsync, Message, QueueSpec};
use pointsman_tests::{Broker, cli};

use crate::{publish, receive, routed, send, soon, take, take_all, text};

#[tokio::test]
async fn a_confirmed_persistent_message_survives_a_crash() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    assert_eq!(publish(&client, "", "q", "kept").await, routed(1));
    broker.kill9();
    broker.restart();
    assert_eq!(take_all(&broker.client().await, "q").await, ["kept"]);
}

#[tokio::test]
async fn of_persistent_and_other_messages_a_crash_may_take_the_others_only() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for n in 0..6 {
        let message = Message::new(n.to_string()).key("q").persistent(n % 2 == 0);
        assert_eq!(send(&client, "", message).await, routed(1));
    }
    broker.kill9();
    broker.restart();
    // A message that is not persistent waits for no sync, so whether it is on disk by then is chance.
    let left = take_all(&broker.client().await, "q").await;
    assert!(left.is_sorted(), "{left:?}");
    for n in ["0", "2", "4"] {
        assert_eq!(left.iter().filter(|body| *body == n).count(), 1, "{left:?}");
    }
}

#[tokio::test]
async fn persistent_and_other_messages_of_a_queue_keep_one_order() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher("").await.unwrap();
    let messages = (0..200).map(|n| Message::new(n.to_string()).key("q").persistent(n % 3 == 0));
    assert!(
        publisher
            .publish_all(messages)
            .await
            .unwrap()
            .await
            .unwrap()
            .is_success()
    );
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(take(&client, "q", 200).await, expected);
}

#[tokio::test]
async fn durable_definitions_survive_a_crash_and_transient_ones_do_not() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client
        .declare_exchange(ExchangeSpec::direct("kept"))
        .await
        .unwrap();
    client
        .declare_exchange(ExchangeSpec::direct("lost").transient())
        .await
        .unwrap();
    client.declare_queue(QueueSpec::new("kept")).await.unwrap();
    client
        .declare_queue(QueueSpec::new("lost").transient())
        .await
        .unwrap();
    for (source, queue) in [("kept", "kept"), ("kept", "lost"), ("lost", "kept")] {
        client
            .bind(BindingSpec::to_queue(source, queue, "k"))
            .await
            .unwrap();
    }
    assert_eq!(publish(&client, "kept", "k", "m").await, routed(2));
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    let exchanges: Vec<_> = client
        .exchanges()
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.spec.name)
        .collect();
    assert_eq!(exchanges, ["kept"]);
    let queues: Vec<_> = client
        .queues()
        .await
        .unwrap()
        .into_iter()
        .map(|q| q.spec.name)
        .collect();
    assert_eq!(queues, ["kept"]);
    assert_eq!(
        client.bindings().await.unwrap(),
        [BindingSpec::to_queue("kept", "kept", "k")]
    );
    assert_eq!(take_all(&client, "kept").await, ["m"]);
}

#[tokio::test]
async fn what_was_acknowledged_before_a_clean_stop_does_not_come_back() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for n in 0..10 {
        publish(&client, "", "q", n.to_string()).await;
    }
    let mut consumer = client.consumer("q").open().await.unwrap();
    for delivery in receive(&mut consumer, 10).await {
        // In the middle and at the front, so that both ways of remembering are used.
        if ["0", "1", "5", "7"].contains(&text(&delivery).as_str()) {
            delivery.ack();
        }
    }
    soon(consumer.flush()).await.unwrap();
    soon(client.close()).await;
    assert!(broker.terminate().success());
    broker.restart();
    let client = broker.client().await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    let rest = receive(&mut consumer, 6).await;
    let bodies: Vec<_> = rest.iter().map(text).collect();
    assert_eq!(bodies, ["2", "3", "4", "6", "8", "9"]);
    assert!(
        rest.iter().all(pointsman_sdk::Delivery::redelivered),
        "they were delivered before"
    );
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_long_queue_comes_back_in_order() {
    const COUNT: usize = 20_000;
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher("").await.unwrap();
    let messages = (0..COUNT).map(|n| Message::new(n.to_string()).key("q"));
    assert_eq!(
        soon(publisher.publish_all(messages).await.unwrap())
            .await
            .unwrap()
            .routed,
        COUNT as u64
    );
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    assert_eq!(client.queue("q").await.unwrap().ready, COUNT as u64);
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    assert!(take(&client, "q", COUNT).await == expected, "the order changed");
}

#[tokio::test]
async fn a_queue_that_promises_less_waits_for_no_sync_and_says_so() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("fast").fsync(Fsync::Never))
        .await
        .unwrap();
    client.declare_queue(QueueSpec::new("safe")).await.unwrap();
    let syncs = || {
        cli::json(&broker, &["status"])["store"]["syncs"]
            .as_u64()
            .unwrap()
    };
    let before = syncs();
    for n in 0..20 {
        assert_eq!(publish(&client, "", "fast", n.to_string()).await, routed(1));
    }
    assert_eq!(syncs(), before);
    assert_eq!(publish(&client, "", "safe", "m").await, routed(1));
    assert!(syncs() > before);
    let shown = |queue| cli::json(&broker, &["queue", "show", queue])["fsync"].clone();
    assert_eq!((shown("fast"), shown("safe")), ("never".into(), "always".into()));
    let error = cli::fails(&broker, &["queue", "declare", "fast"]);
    assert!(error.contains("fsync"), "{error}");
    // A crash of the broker alone takes nothing: the system has what was written.
    broker.kill9();
    broker.restart();
    assert_eq!(broker.client().await.queue("fast").await.unwrap().ready, 20);
    assert_eq!(cli::json(&broker, &["queue", "show", "fast"])["fsync"], "never");
}
