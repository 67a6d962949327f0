//! What waits in queues: memory, disk and time to start do not depend on it.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pointsman_sdk::{Client, Message, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::limits;
use crate::report::{Figure, Row};

/// Messages that wait in one queue.
const BACKLOG: u64 = 10_000_000;
/// Messages published before and after them, to compare.
const SAMPLE: u64 = 1_000_000;
/// Length of their bodies, in bytes.
const BODY: usize = 100;
/// Queues with one message each.
const QUEUES: usize = 10_000;
/// Requests in flight while they are declared.
const REQUESTS: usize = 128;

pub(crate) fn rows() -> Vec<Row> {
    let runtime = limits::runtime();
    let mut rows = runtime.block_on(backlog());
    rows.push(runtime.block_on(many_queues()));
    rows
}

/// Fills a queue, kills the broker, starts it again and drains the queue.
async fn backlog() -> Vec<Row> {
    let mut broker = Broker::start();
    let client = broker.client().await;
    declare(&client, "deep").await;
    let empty = publish(&client, SAMPLE).await;
    publish(&client, BACKLOG - 2 * SAMPLE).await;
    let deep = publish(&client, SAMPLE).await;
    let full = Row::of(
        "publish 100 B behind 9 M that wait",
        deep,
        ("the same into an empty queue", empty),
    )
    .detail("RSS", megabytes(proc::rss(broker.pid())))
    .detail("peak", megabytes(proc::peak_rss(broker.pid())))
    .detail("disk", megabytes(size(&broker.data_dir())));
    client.close().await;

    broker.kill9();
    let since = Instant::now();
    broker.restart();
    let client = broker.client().await;
    let mut consumer = client
        .consumer("deep")
        .prefetch(16_384)
        .open()
        .await
        .expect("opens");
    consumer.recv().await.expect("is open").expect("is open").ack();
    let served = Row::limit(
        "kill -9 to first delivery, 10 M waiting",
        nanoseconds(since.elapsed()),
    )
    .detail("start", nanoseconds(broker.started_in));

    let since = Instant::now();
    for _ in 1..BACKLOG {
        consumer.recv().await.expect("is open").expect("is open").ack();
    }
    consumer.flush().await.expect("is open");
    let drained = Row::limit("drain 10 M, with acks", rate(BACKLOG, since.elapsed()))
        .detail("peak RSS", megabytes(proc::peak_rss(broker.pid())))
        .detail("disk", megabytes(size(&broker.data_dir())));
    client.close().await;
    vec![full, served, drained]
}

/// Declares queues, puts a message into each, and starts the broker again.
async fn many_queues() -> Row {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let names: Vec<String> = (0..QUEUES).map(|n| format!("q{n}")).collect();
    for some in names.chunks(REQUESTS) {
        futures_util::future::join_all(some.iter().map(|name| declare(&client, name))).await;
    }
    let publisher = client.publisher("").await.expect("opens");
    let messages = names.iter().map(|name| Message::new("x").key(name.clone()));
    let confirmed = publisher.publish_all(messages).await.expect("are taken").await;
    assert!(confirmed.expect("are confirmed").is_success());
    client.close().await;
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    assert_eq!(client.status().await.expect("answers").ready, QUEUES as u64);
    client.close().await;
    Row::limit(
        "kill -9 to listening, 10,000 queues of one",
        nanoseconds(broker.started_in),
    )
    .detail("RSS", megabytes(proc::rss(broker.pid())))
}

async fn declare(client: &Client, queue: &str) {
    let declared = client.declare_queue(QueueSpec::new(queue)).await;
    declared.expect("is declared");
}

async fn publish(client: &Client, count: u64) -> Figure {
    let publisher = client
        .publisher_builder("")
        .window(16_384)
        .open()
        .await
        .expect("opens");
    let body = Bytes::from(vec![b'x'; BODY]);
    let since = Instant::now();
    let messages = (0..count).map(|_| Message::new(body.clone()).key("deep"));
    let confirmed = publisher.publish_all(messages).await.expect("are taken").await;
    assert!(confirmed.expect("are confirmed").is_success());
    rate(count, since.elapsed())
}

fn rate(count: u64, took: Duration) -> Figure {
    Figure::PerSecond(count as f64 / took.as_secs_f64())
}

fn nanoseconds(time: Duration) -> Figure {
    Figure::Nanoseconds(time.as_nanos() as f64)
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// Bytes of all files in a folder. A file that goes meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
