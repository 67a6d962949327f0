//! What the broker promises, each promise a test over real QUIC against the real binary.
//!
//! One file per promise, one sentence per test. Every test has a broker and a data folder of its own.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a test binary")]

mod backups;
mod bad_frames;
mod bench;
mod command_line;
mod confirms;
mod consumers;
mod credit;
mod crowds;
mod delays;
mod disk_full;
mod durability;
mod exchanges;
mod expiry;
mod idle;
mod large_messages;
mod lifetimes;
mod reconnect;
mod repair;
mod routers;
mod shutdown;
mod start;
mod streams;

use std::time::Duration;

use pointsman_sdk::{Client, Consumer, Delivery, Message, Outcome};

/// Longest a test waits for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what should come soon; a test that waits for ever says nothing.
#[track_caller]
fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(PATIENCE, what)
            .await
            .unwrap_or_else(|_| panic!("{caller}: nothing came within {PATIENCE:?}"))
    }
}

/// Waits until a condition that the broker will bring about holds.
async fn eventually<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Publishes one persistent message and returns what became of it.
async fn publish(client: &Client, exchange: &str, key: &str, body: impl Into<String>) -> Outcome {
    send(client, exchange, Message::new(body.into()).key(key.to_owned())).await
}

/// Publishes one message and returns what became of it.
async fn send(client: &Client, exchange: &str, message: Message) -> Outcome {
    let publisher = client.publisher(exchange).await.expect("the exchange is there");
    soon(publisher.publish(message).await.expect("the message is taken"))
        .await
        .expect("it is confirmed")
}

/// Takes so many messages off a queue, acknowledges them and returns their bodies.
async fn take(client: &Client, queue: &str, count: usize) -> Vec<String> {
    let mut consumer = client.consumer(queue).open().await.expect("the queue is there");
    let mut bodies = Vec::new();
    for _ in 0..count {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        bodies.push(text(&delivery));
        delivery.ack();
    }
    soon(consumer.flush()).await.expect("the consumer is open");
    bodies
}

/// Takes everything that waits in a queue. The broker counts what is ready before anything is taken.
async fn take_all(client: &Client, queue: &str) -> Vec<String> {
    let ready = client.queue(queue).await.expect("the queue is there").ready;
    let mut bodies = take(client, queue, ready as usize).await;
    bodies.sort();
    bodies
}

/// Receives so many deliveries and leaves them unsettled.
async fn receive(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        let delivery = soon(consumer.recv()).await.expect("the consumer is open");
        deliveries.push(delivery.expect("the consumer is open"));
    }
    deliveries
}

/// A delivery's body as text.
fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body().to_vec()).expect("tests publish text")
}

/// A message that went into this many queues.
fn routed(queues: u32) -> Outcome {
    Outcome::Routed { queues }
}
