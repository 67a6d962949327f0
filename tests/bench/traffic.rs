//! Throughput and latency of a broker in a process of its own, seen from a client in this one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use pointsman_sdk::{Client, Message, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::limits::histogram;
use crate::report::{Figure, Row};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(3);
/// Messages in flight where throughput is measured.
const WINDOW: u32 = 16_384;
/// Messages per second where the latency of a broker that is not busy is measured.
const RATE: u32 = 2_000;

/// What is measured for each size of body.
pub(crate) struct Limits {
    /// Messages of that size per second, synced in groups.
    pub(crate) grouped_sync: Figure,
    /// A QUIC echo and a sync, one after the other.
    pub(crate) echo_and_sync: Figure,
}

/// Publishes persistent messages as fast as the window allows, and waits for every confirm.
pub(crate) async fn confirmed_publish(broker: &Broker, name: &str, body: usize, limits: &Limits) -> Row {
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("bench"))
        .await
        .expect("is declared");
    let publisher = client
        .publisher_builder("")
        .window(WINDOW)
        .open()
        .await
        .expect("opens");
    let cpu = proc::cpu(broker.pid());
    let since = Instant::now();
    let outcome = publisher
        .publish_all(messages(body, since))
        .await
        .expect("are taken")
        .await
        .expect("are confirmed");
    let took = since.elapsed();
    let cpu = proc::cpu(broker.pid()) - cpu;
    assert!(outcome.is_success(), "{outcome:?}");
    client
        .delete_queue("bench", false, false)
        .await
        .expect("is deleted");
    client.close().await;
    let figure = Figure::PerSecond(outcome.routed as f64 / took.as_secs_f64());
    row(
        name,
        figure,
        ("the same synced in groups of 256", limits.grouped_sync),
        cpu,
        outcome.routed,
    )
}

/// Publishes as fast as the window allows while a consumer takes and acknowledges everything.
pub(crate) async fn end_to_end(broker: &Broker, name: &str, body: usize, limits: &Limits) -> Row {
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("bench"))
        .await
        .expect("is declared");
    let publisher = client
        .publisher_builder("")
        .window(WINDOW)
        .open()
        .await
        .expect("opens");
    let mut consumer = client
        .consumer("bench")
        .prefetch(WINDOW)
        .open()
        .await
        .expect("opens");
    let cpu = proc::cpu(broker.pid());
    let since = Instant::now();
    let publishing = async {
        let confirmation = publisher
            .publish_all(messages(body, since))
            .await
            .expect("are taken");
        confirmation.await.expect("are confirmed").routed
    };
    let sent = std::cell::Cell::new(u64::MAX);
    let consuming = async {
        let mut taken = 0;
        while taken < sent.get() {
            let Ok(delivery) = tokio::time::timeout(Duration::from_millis(100), consumer.recv()).await else {
                continue;
            };
            delivery.expect("is open").expect("is open").ack();
            taken += 1;
        }
        consumer.flush().await.expect("is open");
        taken
    };
    let (_, taken) = tokio::join!(async { sent.set(publishing.await) }, consuming);
    let took = since.elapsed();
    let cpu = proc::cpu(broker.pid()) - cpu;
    client
        .delete_queue("bench", false, false)
        .await
        .expect("is deleted");
    client.close().await;
    let figure = Figure::PerSecond(taken as f64 / took.as_secs_f64());
    row(
        name,
        figure,
        ("the same synced in groups of 256", limits.grouped_sync),
        cpu,
        taken,
    )
}

/// The time from a publish to its confirm, one message at a time.
pub(crate) async fn confirm_latency(broker: &Broker, name: &str, body: usize, limits: &Limits) -> Row {
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("bench"))
        .await
        .expect("is declared");
    let publisher = client.publisher("").await.expect("opens");
    let mut times = histogram();
    let body = Bytes::from(vec![b'x'; body]);
    let since = Instant::now();
    while since.elapsed() < TIME {
        let start = Instant::now();
        let confirmation = publisher
            .publish(Message::new(body.clone()).key("bench"))
            .await
            .expect("is taken");
        assert!(confirmation.await.expect("is confirmed").is_success());
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    client
        .delete_queue("bench", false, false)
        .await
        .expect("is deleted");
    client.close().await;
    latency_row(name, &times, limits)
}

/// The time from a publish to its delivery, at a rate the broker is not busy with.
pub(crate) async fn delivery_latency(broker: &Broker, name: &str, body: usize, limits: &Limits) -> Row {
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("bench"))
        .await
        .expect("is declared");
    let publisher = client.publisher("").await.expect("opens");
    let mut consumer = client.consumer("bench").open().await.expect("opens");
    let began = Instant::now();
    let count = RATE * TIME.as_secs() as u32;
    let publishing = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        for _ in 0..count {
            tick.tick().await;
            // The first 8 bytes of a body say when it was sent.
            let mut bytes = vec![b'x'; body.max(8)];
            bytes[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_le_bytes());
            let confirmation = publisher
                .publish(Message::new(bytes).key("bench"))
                .await
                .expect("is taken");
            drop(confirmation);
        }
    };
    let mut times = histogram();
    let consuming = async {
        for _ in 0..count {
            let delivery = consumer.recv().await.expect("is open").expect("is open");
            let sent = delivery
                .body()
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes));
            times.saturating_record(began.elapsed().as_nanos() as u64 - sent);
            delivery.ack();
        }
    };
    tokio::join!(publishing, consuming);
    publisher.flush().await.expect("are confirmed");
    client
        .delete_queue("bench", false, false)
        .await
        .expect("is deleted");
    client.close().await;
    latency_row(name, &times, limits)
}

/// Messages until the time is over.
fn messages(body: usize, since: Instant) -> impl Iterator<Item = Message> {
    let body = Bytes::from(vec![b'x'; body]);
    let in_time = move |n: &u32| !n.is_multiple_of(64) || since.elapsed() < TIME;
    (1_u32..)
        .take_while(in_time)
        .map(move |_| Message::new(body.clone()).key("bench"))
}

fn row(name: &str, figure: Figure, limit: (&'static str, Figure), cpu: Duration, messages: u64) -> Row {
    let each = cpu.as_secs_f64() * 1e6 / messages.max(1) as f64;
    Row::of(name, figure, limit).detail("server CPU", format!("{each:.2} us a message"))
}

fn latency_row(name: &str, times: &Histogram<u64>, limits: &Limits) -> Row {
    let at = |quantile| Figure::Nanoseconds(times.value_at_quantile(quantile) as f64);
    Row::of(name, at(0.5), ("an echo and a sync", limits.echo_and_sync))
        .detail("p99", at(0.99))
        .detail("p99.9", at(0.999))
        .detail("samples", times.len())
}

/// A broker that has worked, so that nothing is measured that happens once only.
pub(crate) async fn warm_up(client: &Client) {
    client
        .declare_queue(QueueSpec::new("warm"))
        .await
        .expect("is declared");
    let publisher = client.publisher("").await.expect("opens");
    let messages = (0..20_000).map(|_| Message::new("x").key("warm"));
    let outcome = publisher
        .publish_all(messages)
        .await
        .expect("are taken")
        .await
        .expect("are confirmed");
    assert!(outcome.is_success());
    client
        .delete_queue("warm", false, false)
        .await
        .expect("is deleted");
}
