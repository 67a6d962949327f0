//! Competing consumers, settlement, redelivery and the order of a queue.

use pointsman_sdk::{Client, ErrorCode, Message, QueueSpec};
use pointsman_tests::Broker;

use crate::{publish, receive, soon, take, text};

/// A broker with a queue `q` that holds these messages.
async fn holding(bodies: impl IntoIterator<Item = String>) -> (Broker, Client) {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    fill(&client, bodies).await;
    (broker, client)
}

async fn fill(client: &Client, bodies: impl IntoIterator<Item = String>) {
    let publisher = client.publisher("").await.unwrap();
    let messages = bodies.into_iter().map(|body| Message::new(body).key("q"));
    let outcome = soon(publisher.publish_all(messages).await.unwrap())
        .await
        .unwrap();
    assert!(outcome.is_success(), "{outcome:?}");
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn competing_consumers_share_a_queue_by_their_prefetch() {
    let (_broker, client) = holding(numbers(10)).await;
    let mut small = client.consumer("q").prefetch(2).open().await.unwrap();
    let mut large = client.consumer("q").prefetch(5).open().await.unwrap();
    let held = (receive(&mut small, 2).await, receive(&mut large, 5).await);
    let queue = client.queue("q").await.unwrap();
    assert_eq!((queue.unsettled, queue.ready, queue.consumers), (7, 3, 2));
    let mut bodies: Vec<_> = held.0.iter().chain(&held.1).map(text).collect();
    bodies.sort();
    assert_eq!(bodies, numbers(7), "each message went to one consumer");
    // Whoever settles gets more.
    held.0.into_iter().for_each(pointsman_sdk::Delivery::ack);
    let more: Vec<_> = receive(&mut small, 2).await.iter().map(text).collect();
    assert_eq!(more, ["7", "8"]);
}

#[tokio::test]
async fn messages_are_delivered_in_the_order_they_were_published() {
    let (_broker, client) = holding(numbers(5_000)).await;
    assert_eq!(take(&client, "q", 5_000).await, numbers(5_000));
}

#[tokio::test]
async fn an_acknowledged_message_is_gone() {
    let (_broker, client) = holding(numbers(2)).await;
    assert_eq!(take(&client, "q", 1).await, ["0"]);
    assert_eq!(take(&client, "q", 1).await, ["1"]);
    let queue = client.queue("q").await.unwrap();
    assert_eq!((queue.ready, queue.unsettled, queue.acked), (0, 0, 2));
}

#[tokio::test]
async fn a_requeued_message_goes_back_to_its_place_and_says_how_often_it_came() {
    let (_broker, client) = holding(numbers(3)).await;
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    for times in 0..3 {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(
            (text(&delivery).as_str(), delivery.delivery_count()),
            ("0", times)
        );
        assert_eq!(delivery.redelivered(), times > 0);
        delivery.nack(true);
    }
    for body in numbers(3) {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(text(&delivery), body);
        delivery.ack();
    }
}

#[tokio::test]
async fn a_rejected_message_leaves_the_queue() {
    let (_broker, client) = holding(numbers(3)).await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    let mut deliveries = receive(&mut consumer, 3).await.into_iter();
    deliveries.next().unwrap().reject();
    deliveries.next().unwrap().nack(false);
    deliveries.next().unwrap().nack(true);
    let again = receive(&mut consumer, 1).await.remove(0);
    assert_eq!(text(&again), "2");
    again.ack();
    soon(consumer.flush()).await.unwrap();
    let queue = client.queue("q").await.unwrap();
    assert_eq!((queue.ready, queue.unsettled), (0, 0));
}

#[tokio::test]
async fn messages_may_be_settled_in_any_order() {
    let (_broker, client) = holding(numbers(100)).await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    let mut deliveries = receive(&mut consumer, 100).await;
    fastrand::Rng::with_seed(7).shuffle(&mut deliveries);
    // Every tenth goes back, the others are done.
    let mut back = Vec::new();
    for delivery in deliveries {
        if text(&delivery).ends_with('0') {
            back.push(text(&delivery));
            delivery.nack(true);
        } else {
            delivery.ack();
        }
    }
    let again = receive(&mut consumer, 10).await;
    let mut bodies: Vec<_> = again.iter().map(text).collect();
    bodies.sort();
    back.sort();
    assert_eq!(bodies, back);
    again.into_iter().for_each(pointsman_sdk::Delivery::ack);
    soon(consumer.flush()).await.unwrap();
    let queue = client.queue("q").await.unwrap();
    assert_eq!((queue.ready, queue.unsettled, queue.acked), (0, 0, 100));
}

#[tokio::test]
async fn what_a_consumer_did_not_settle_goes_to_the_next_one_in_order() {
    let (_broker, client) = holding(numbers(10)).await;
    let mut first = client.consumer("q").prefetch(4).open().await.unwrap();
    let mut deliveries = receive(&mut first, 4).await;
    deliveries.remove(1).ack();
    drop((deliveries, first));
    let mut second = client.consumer("q").open().await.unwrap();
    let rest = receive(&mut second, 9).await;
    let bodies: Vec<_> = rest.iter().map(text).collect();
    assert_eq!(bodies, ["0", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let redelivered: Vec<_> = rest.iter().map(pointsman_sdk::Delivery::redelivered).collect();
    assert_eq!(
        redelivered,
        [true, true, true, false, false, false, false, false, false]
    );
}

#[tokio::test]
async fn an_exclusive_consumer_shares_with_nobody() {
    let (broker, client) = holding(numbers(1)).await;
    let _only = client.consumer("q").exclusive(true).open().await.unwrap();
    let other = broker.client().await;
    let error = other.consumer("q").open().await.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::ResourceLocked), "{error}");
}

#[tokio::test]
async fn without_acks_a_message_is_done_once_it_is_sent() {
    let (_broker, client) = holding(numbers(1_000)).await;
    let mut consumer = client.consumer("q").no_ack(true).open().await.unwrap();
    let bodies: Vec<_> = receive(&mut consumer, 1_000).await.iter().map(text).collect();
    assert_eq!(bodies, numbers(1_000));
    let queue = client.queue("q").await.unwrap();
    assert_eq!((queue.ready, queue.unsettled), (0, 0));
}

#[tokio::test]
async fn purging_removes_what_waits_and_not_what_is_delivered() {
    let (_broker, client) = holding(numbers(10)).await;
    let mut consumer = client.consumer("q").prefetch(3).open().await.unwrap();
    let held = receive(&mut consumer, 3).await;
    assert_eq!(client.purge_queue("q").await.unwrap(), 7);
    assert_eq!(client.queue("q").await.unwrap().unsettled, 3);
    held.into_iter().for_each(pointsman_sdk::Delivery::ack);
    publish(&client, "", "q", "after").await;
    assert_eq!(text(&receive(&mut consumer, 1).await[0]), "after");
}

#[tokio::test]
async fn a_consumer_ends_with_the_reason_when_its_queue_is_deleted() {
    let (broker, client) = holding(numbers(0)).await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    let other = broker.client().await;
    other.delete_queue("q", false, false).await.unwrap();
    let error = soon(consumer.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound), "{error}");
    assert!(soon(consumer.recv()).await.is_none());
}

#[tokio::test]
async fn a_queue_in_use_or_with_messages_is_not_deleted_unless_told_to() {
    let (_broker, client) = holding(numbers(1)).await;
    let consumer = client.consumer("q").open().await.unwrap();
    for (if_unused, if_empty) in [(true, false), (false, true)] {
        let error = client.delete_queue("q", if_unused, if_empty).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InUse), "{error}");
    }
    assert_eq!(client.delete_queue("q", false, false).await.unwrap(), 1);
    drop(consumer);
}
