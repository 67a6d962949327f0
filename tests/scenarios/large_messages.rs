//! A large message passes through in pieces: nobody keeps it in memory twice.

use pointsman_sdk::{Message, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::{receive, routed, send};

/// The largest body there may be, in bytes.
const LARGEST: usize = 128 * 1024 * 1024;

/// A body in which no two places look alike, so that pieces in the wrong order are noticed.
fn body() -> Vec<u8> {
    (0..LARGEST as u64 / 8).flat_map(u64::to_le_bytes).collect()
}

#[tokio::test]
async fn the_broker_has_the_largest_message_in_memory_once_from_publish_to_ack() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let before = proc::peak_rss(broker.pid()) as usize;
    assert_eq!(send(&client, "", Message::new(body()).key("q")).await, routed(1));
    let mut consumer = client.consumer("q").open().await.unwrap();
    let delivery = receive(&mut consumer, 1).await.remove(0);
    assert!(delivery.body() == body(), "the body changed");
    delivery.ack();
    consumer.flush().await.unwrap();
    let grown = proc::peak_rss(broker.pid()) as usize - before;
    assert!(grown < LARGEST * 3 / 2, "grew by {grown} bytes");
}

#[tokio::test]
async fn the_largest_message_survives_a_crash_between_small_ones() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let publisher = client.publisher("").await.unwrap();
    let bodies = [vec![1], body(), vec![2]];
    let messages = bodies.map(|body| Message::new(body).key("q"));
    let confirms = publisher.publish_all(messages).await.unwrap();
    assert!(confirms.await.unwrap().is_success());
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    for expected in [vec![1], body(), vec![2]] {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert!(delivery.body() == expected, "a body changed");
        delivery.ack();
    }
}
