//! A client comes back by itself; what was unconfirmed is sent again and recognised.

use pointsman_protocol::frame::Kind;
use pointsman_protocol::publish::Confirm;
use pointsman_sdk::{Error, Message, Outcome, QueueSpec};
use pointsman_tests::Broker;
use pointsman_tests::raw::RawClient;

use crate::{publish, receive, routed, soon, take, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_over_which_the_broker_crashes_loses_and_doubles_nothing() {
    const COUNT: usize = 20_000;
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher_builder("").window(512).open().await.unwrap();
    let publishing = tokio::spawn(async move {
        let messages = (0..COUNT).map(|n| Message::new(n.to_string()).key("q"));
        publisher.publish_all(messages).await.unwrap().await.unwrap()
    });
    for part in 1..=3 {
        let watcher = broker.client().await;
        while (watcher.queue("q").await.unwrap().published as usize) < part * COUNT / 5 {
            tokio::task::yield_now().await;
        }
        broker.kill9();
        broker.restart();
    }
    let outcome = soon(publishing).await.unwrap();
    assert_eq!(outcome.routed + outcome.duplicates, COUNT as u64, "{outcome:?}");
    let client = broker.client().await;
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    assert!(
        take(&client, "q", COUNT).await == expected,
        "something is lost, doubled or out of order"
    );
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_sequence_number_that_was_taken_is_a_duplicate_even_after_a_crash() {
    let mut broker = Broker::start();
    broker
        .client()
        .await
        .declare_queue(QueueSpec::new("q"))
        .await
        .unwrap();
    let raw = RawClient::authenticated(&broker).await;
    let (mut publisher, opened) = raw.publisher_as(42).await;
    assert_eq!(opened.last_sequence, 0);
    for sequence in 1..=3 {
        publisher.publish(sequence, "q", b"x").await;
        assert_eq!(publisher.frame().await.header.kind, Kind::Confirm);
    }
    broker.kill9();
    broker.restart();
    let raw = RawClient::authenticated(&broker).await;
    let (mut publisher, opened) = raw.publisher_as(42).await;
    assert_eq!(opened.last_sequence, 3);
    for (sequence, outcome) in [(3, Outcome::Duplicate), (4, routed(1))] {
        publisher.publish(sequence, "q", b"x").await;
        let confirm: Confirm = publisher.frame().await.decode().unwrap();
        assert_eq!(confirm.outcome, outcome, "{sequence}");
    }
    assert_eq!(broker.client().await.queue("q").await.unwrap().ready, 4);
}

#[tokio::test]
async fn a_consumer_comes_back_and_gets_what_it_had_not_settled_again() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for body in ["a", "b"] {
        publish(&client, "", "q", body).await;
    }
    let mut consumer = client.consumer("q").open().await.unwrap();
    let before = receive(&mut consumer, 2).await;
    broker.kill9();
    broker.restart();
    let after = receive(&mut consumer, 2).await;
    assert_eq!(after.iter().map(text).collect::<Vec<_>>(), ["a", "b"]);
    // Settling what came on the lost connection does nothing, and harms nobody.
    before.into_iter().for_each(pointsman_sdk::Delivery::ack);
    soon(consumer.flush()).await.unwrap();
    assert_eq!(broker.client().await.queue("q").await.unwrap().unsettled, 2);
}

#[tokio::test]
async fn requests_work_again_after_a_crash() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    broker.kill9();
    broker.restart();
    // One that was sent before the loss was noticed may fail; the next waits for the connection.
    if let Err(error) = soon(client.status()).await {
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    }
    soon(client.status()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_was_told_not_to_reconnect_says_that_the_connection_is_lost() {
    let mut broker = Broker::start();
    let client = broker.client_builder().reconnect(false).connect().await.unwrap();
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let mut consumer = client.consumer("q").open().await.unwrap();
    assert!(broker.terminate().success());
    let error = soon(consumer.recv()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
}
