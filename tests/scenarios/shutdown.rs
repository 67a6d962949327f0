//! Going away in order: clients drain, the broker drains.

use pointsman_sdk::{Message, Notice, Outcome, QueueSpec};
use pointsman_tests::Broker;

use crate::{publish, soon, take};

#[tokio::test]
async fn closing_a_client_waits_until_what_it_published_is_confirmed() {
    const COUNT: usize = 5_000;
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher("").await.unwrap();
    let mut confirmations = Vec::new();
    for n in 0..COUNT {
        confirmations.push(
            publisher
                .publish(Message::new(n.to_string()).key("q"))
                .await
                .unwrap(),
        );
    }
    soon(client.close()).await;
    for confirmation in confirmations {
        assert!(soon(confirmation).await.unwrap().is_success());
    }
    assert_eq!(
        broker.client().await.queue("q").await.unwrap().ready,
        COUNT as u64
    );
}

#[tokio::test]
async fn a_stopping_broker_tells_its_clients_and_exits_with_0() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let mut notices = client.notices();
    broker.ask_to_stop();
    assert!(matches!(soon(notices.recv()).await, Some(Notice::GoAway { .. })));
    assert_eq!(broker.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_while_messages_flow_loses_and_doubles_nothing() {
    const COUNT: usize = 20_000;
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher_builder("").window(512).open().await.unwrap();
    let publishing = tokio::spawn(async move {
        let messages = (0..COUNT).map(|n| Message::new(n.to_string()).key("q"));
        publisher.publish_all(messages).await.unwrap().await.unwrap()
    });
    let watcher = broker.client().await;
    while (watcher.queue("q").await.unwrap().published as usize) < COUNT / 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.terminate().code(), Some(0));
    broker.restart();
    let outcome = soon(publishing).await.unwrap();
    assert_eq!(outcome.routed + outcome.duplicates, COUNT as u64, "{outcome:?}");
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    let client = broker.client().await;
    assert!(
        take(&client, "q", COUNT).await == expected,
        "something is lost, doubled or out of order"
    );
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_client_that_does_not_leave_cannot_hold_the_broker_up_for_ever() {
    let mut broker = Broker::with(pointsman_tests::Settings::default().env("POINTSMAN_DRAIN_TIMEOUT_S", "1"));
    let raw = pointsman_tests::raw::RawClient::authenticated(&broker).await;
    let _publisher = raw.publisher().await;
    assert_eq!(broker.terminate().code(), Some(0));
}

#[tokio::test]
async fn an_idle_broker_stops_at_sigterm_with_0() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    assert_eq!(publish(&client, "", "nowhere", "x").await, Outcome::Unroutable);
    client.close().await;
    assert_eq!(broker.terminate().code(), Some(0));
}
