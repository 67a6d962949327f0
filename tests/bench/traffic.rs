//! Throughput and latency of a broker in a process of its own, seen from a client in this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use pointsman_load::{Amount, Broker as _, Order, Pointsman, Scenario, Shape};
use pointsman_sdk::{Client, Message, Publisher, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::Limit;
use crate::limits::histogram;
use crate::report::{Figure, Row};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(3);
/// Messages in flight where throughput is measured.
const WINDOW: u32 = 16_384;
/// Messages per second where the latency of a broker that is not busy is measured.
const RATE: f64 = 2_000.0;

/// Publishes persistent messages as fast as the window allows, and waits for every confirm.
pub(crate) async fn confirmed_publish(broker: &Broker, name: &str, body: usize, limit: Limit) -> Row {
    let (client, publisher) = ready(broker).await;
    let cost = Cost::of(broker);
    let since = Instant::now();
    let outcome = publisher
        .publish_all(messages(body, since))
        .await
        .expect("are taken")
        .await
        .expect("are confirmed");
    let took = since.elapsed();
    let cost = Cost::of(broker).since(&cost);
    assert!(outcome.is_success(), "{outcome:?}");
    leave(client).await;
    let figure = Figure::PerSecond(outcome.routed as f64 / took.as_secs_f64());
    cost.row(Row::of(name, figure, limit), outcome.routed, body)
}

/// Publishes as fast as the window allows while a consumer takes and acknowledges everything.
pub(crate) async fn end_to_end(broker: &Broker, name: &str, body: usize, limit: Limit) -> Row {
    let (client, publisher) = ready(broker).await;
    let mut consumer = client
        .consumer("bench")
        .prefetch(WINDOW)
        .open()
        .await
        .expect("opens");
    let cost = Cost::of(broker);
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
    let cost = Cost::of(broker).since(&cost);
    leave(client).await;
    let figure = Figure::PerSecond(taken as f64 / took.as_secs_f64());
    cost.row(Row::of(name, figure, limit), taken, body)
}

/// The time from a publish to its confirm, one message at a time.
pub(crate) async fn confirm_latency(broker: &Broker, name: &str, body: usize, limit: Limit) -> Row {
    let (client, publisher) = ready(broker).await;
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
    leave(client).await;
    latency_row(name, &times, limit)
}

/// The times from when a message was due to its confirm and to its delivery, at a rate the broker is not busy with.
pub(crate) async fn steady_latency(
    broker: &Broker,
    name: &str,
    body: usize,
    time: Duration,
    limit: Limit,
) -> Row {
    let load = Pointsman::new(broker.client_builder(), "bench");
    let scenario = Scenario {
        shape: Shape::Queue,
        durable: true,
        publishers: 1,
        consumers: 1,
        order: Order::Together,
        body,
        window: 1_000,
        rate: Some(RATE),
        warm_up: Duration::from_millis(500),
        amount: Amount::Time(time),
    };
    load.set_up(&scenario).await.expect("is declared");
    let before = tables(broker);
    let report = pointsman_load::run(&load, &scenario, &Arc::default())
        .await
        .expect("nothing is lost");
    let tables = tables(broker) - before;
    load.tear_down().await.expect("is deleted");
    let at = |us: f64| Figure::Nanoseconds(us * 1e3);
    let delivery = report.delivery.expect("is consumed meanwhile");
    Row::of(name, at(report.confirm.p50), limit)
        .detail("p99", at(report.confirm.p99))
        .detail("p99.9", at(report.confirm.p999))
        .detail("delivery p50", at(delivery.p50))
        .detail("delivery p99", at(delivery.p99))
        .detail("delivery p99.9", at(delivery.p999))
        .detail("samples", report.published.messages)
        .detail("tables written", tables)
}

/// How many tables the broker's store has begun, which number them.
fn tables(broker: &Broker) -> u64 {
    let keyspaces = broker.data_dir().join("store/fjall/keyspaces");
    let folders = std::fs::read_dir(keyspaces).expect("is there").flatten();
    folders
        .filter_map(|keyspace| std::fs::read_dir(keyspace.path().join("tables")).ok())
        .filter_map(|tables| {
            let numbers = tables
                .flatten()
                .filter_map(|table| table.file_name().to_str()?.parse::<u64>().ok());
            Some(numbers.max()? + 1)
        })
        .sum()
}

/// Messages until the time is over.
fn messages(body: usize, since: Instant) -> impl Iterator<Item = Message> {
    let body = Bytes::from(vec![b'x'; body]);
    let in_time = move |n: &u32| !n.is_multiple_of(64) || since.elapsed() < TIME;
    (1_u32..)
        .take_while(in_time)
        .map(move |_| Message::new(body.clone()).key("bench"))
}

/// What the broker's process spent.
struct Cost {
    cpu: Duration,
    written: u64,
}

impl Cost {
    fn of(broker: &Broker) -> Cost {
        Cost {
            cpu: proc::cpu(broker.pid()),
            written: proc::written(broker.pid()),
        }
    }

    fn since(&self, before: &Cost) -> Cost {
        Cost {
            cpu: self.cpu - before.cpu,
            written: self.written - before.written,
        }
    }

    fn row(&self, row: Row, messages: u64, body: usize) -> Row {
        let each = self.cpu.as_secs_f64() * 1e6 / messages.max(1) as f64;
        let written = self.written as f64 / (messages.max(1) * body as u64) as f64;
        row.detail("server CPU", format!("{each:.2} us a message"))
            .detail("written", format!("{written:.2} times the bodies"))
    }
}

/// A client with the queue that is measured, and a publisher to it.
async fn ready(broker: &Broker) -> (Client, Publisher) {
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("bench"))
        .await
        .expect("is declared");
    let publisher = client.publisher_builder("").window(WINDOW).open().await;
    (client, publisher.expect("opens"))
}

async fn leave(client: Client) {
    client
        .delete_queue("bench", false, false)
        .await
        .expect("is deleted");
    client.close().await;
}

fn latency_row(name: &str, times: &Histogram<u64>, limit: Limit) -> Row {
    let at = |quantile| Figure::Nanoseconds(times.value_at_quantile(quantile) as f64);
    Row::of(name, at(0.5), limit)
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
