//! Publishes are numbered, pipelined and confirmed, and the confirm says what became of the message.

use pointsman_protocol::frame::Kind;
use pointsman_protocol::publish::Confirm;
use pointsman_sdk::{BindingSpec, ErrorCode, ExchangeSpec, Message, Outcome, QueueSpec};
use pointsman_tests::Broker;
use pointsman_tests::raw::RawClient;

use crate::{publish, routed, soon, take};

#[tokio::test]
async fn a_confirm_says_in_how_many_queues_the_message_is() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .declare_exchange(ExchangeSpec::fanout("all"))
        .await
        .unwrap();
    for (queue, queues) in [("a", 1), ("b", 2), ("c", 3)] {
        client.declare_queue(QueueSpec::new(queue)).await.unwrap();
        client
            .bind(BindingSpec::to_queue("all", queue, ""))
            .await
            .unwrap();
        assert_eq!(publish(&client, "all", "", "x").await, routed(queues));
    }
}

#[tokio::test]
async fn a_confirm_says_that_no_binding_took_the_message() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_exchange(ExchangeSpec::direct("d")).await.unwrap();
    assert_eq!(publish(&client, "d", "nowhere", "x").await, Outcome::Unroutable);
    assert_eq!(
        publish(&client, "", "no such queue", "x").await,
        Outcome::Unroutable
    );
}

#[tokio::test]
async fn a_publisher_of_an_exchange_that_is_not_there_is_refused() {
    let broker = Broker::start();
    let client = broker.client().await;
    let error = client.publisher("gone").await.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::NotFound), "{error}");
}

#[tokio::test]
async fn pipelined_publishes_are_each_confirmed_once_and_in_order() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let raw = RawClient::authenticated(&broker).await;
    let mut publisher = raw.publisher().await;
    for sequence in 1..=100 {
        let key = if sequence % 10 == 0 { "nowhere" } else { "q" };
        publisher.publish(sequence, key, b"x").await;
    }
    let mut next = 1;
    while next <= 100 {
        let frame = publisher.frame().await;
        assert_eq!((frame.header.kind, frame.header.id), (Kind::Confirm, next));
        let confirm: Confirm = frame.decode().unwrap();
        assert!(confirm.count > 0);
        for sequence in next..next + u64::from(confirm.count) {
            let outcome = if sequence % 10 == 0 {
                Outcome::Unroutable
            } else {
                routed(1)
            };
            assert_eq!(confirm.outcome, outcome, "{sequence}");
        }
        next += u64::from(confirm.count);
    }
    assert_eq!(client.queue("q").await.unwrap().ready, 90);
}

#[tokio::test]
async fn a_full_window_holds_the_publisher_back_and_loses_nothing() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher_builder("").window(4).open().await.unwrap();
    let messages = (0..1000).map(|n| Message::new(n.to_string()).key("q"));
    let outcome = soon(publisher.publish_all(messages).await.unwrap())
        .await
        .unwrap();
    assert_eq!((outcome.routed, outcome.messages()), (1000, 1000));
    let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(take(&client, "q", 1000).await, expected);
}

#[tokio::test]
async fn a_body_of_many_megabytes_arrives_as_it_was_sent() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let body: String = (0..3_000_000)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    assert_eq!(publish(&client, "", "q", body.clone()).await, routed(1));
    assert!(take(&client, "q", 1).await == [body], "the body changed");
}

#[tokio::test]
async fn properties_and_headers_arrive_as_they_were_sent() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let message = Message::new("body")
        .key("q")
        .message_id("m-1")
        .correlation_id("c-1")
        .reply_to("answers")
        .content_type("text/plain")
        .content_encoding("identity")
        .priority(7)
        .header("region", "eu")
        .header("attempt", 3)
        .header("ratio", 0.5)
        .header("urgent", true);
    crate::send(&client, "", message.clone()).await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    let delivery = crate::receive(&mut consumer, 1).await.remove(0);
    assert_eq!(delivery.meta().unwrap(), message.meta());
}
