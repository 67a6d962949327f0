//! Scale curves: the same measurement at rising numbers of one thing, each for a fixed time.
//!
//! A point publishes as fast as a window allows, then one message at a time. A *cliff* is a point at which a message
//! takes more than twice what it took at the point before, although only the number of things around it has risen.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use pointsman_sdk::{BindingSpec, Client, ExchangeKind, ExchangeSpec, Message, Publisher, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::crowd::Crowd;
use crate::limits::{self, histogram};
use crate::report::{Figure, Row};

/// How long throughput is measured at a point, and how long latency.
const THROUGHPUT: Duration = Duration::from_millis(1_200);
const LATENCY: Duration = Duration::from_millis(300);
/// Messages in flight where throughput is measured.
const WINDOW: u32 = 16_384;
/// Length of a body, where that is not what rises.
const BODY: usize = 100;
/// Requests or connects in flight while a point is made ready.
const REQUESTS: usize = 128;
/// Publishers to the consumers of one queue: what a single one has unconfirmed, at most 2 MiB, is little more than a message for
/// each of ten thousand.
const PUBLISHERS: usize = 8;
/// A point's time of a message by that of the point before, from which it is a cliff.
const CLIFF: f64 = 2.0;

/// Every curve; the long ends only when `full`.
pub(crate) fn rows(full: bool) -> Vec<Row> {
    let runtime = limits::runtime();
    let up_to = |quick: &[usize], long: &[usize]| -> Vec<usize> {
        quick
            .iter()
            .chain(if full { long } else { &[] })
            .copied()
            .collect()
    };
    let mut rows = Vec::new();
    runtime.block_on(async {
        rows.extend(queues(&up_to(&[1, 100, 1_000, 10_000], &[100_000])).await);
        rows.extend(bindings(&up_to(&[1, 1_000, 10_000], &[100_000])).await);
        rows.extend(connections(&up_to(&[1, 100, 1_000], &[10_000])).await);
        rows.extend(consumers(&up_to(&[1, 10, 100, 1_000], &[10_000])).await);
        rows.extend(
            sizes(&up_to(
                &[0, 100, 1_024, 16 << 10, 256 << 10, 4 << 20],
                &[32 << 20, 128 << 20],
            ))
            .await,
        );
        rows.extend(backlog(&up_to(&[0, 100_000, 1_000_000], &[10_000_000])).await);
        rows.extend(cores().await);
    });
    rows
}

/// What was measured at one point.
struct Point {
    name: String,
    /// Messages a second.
    rate: f64,
    latency: Histogram<u64>,
    cpu: Duration,
    messages: u64,
    rss: u64,
    more: Vec<(&'static str, String)>,
}

/// Messages put into queues, over one queue after the other.
async fn queues(counts: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    let mut keys: Vec<String> = Vec::new();
    let mut points = Vec::new();
    for &count in counts {
        let new: Vec<String> = (keys.len()..count).map(|n| format!("q{n}")).collect();
        let since = Instant::now();
        for some in new.chunks(REQUESTS) {
            join_all(some.iter().map(|name| declare(&client, name))).await;
        }
        let each = since.elapsed() / new.len().max(1) as u32;
        keys.extend(new);
        let mut point = measure(&broker, &client, "", &keys, BODY, format!("{count} queues")).await;
        point.more.push(("to declare one", nanoseconds(each).to_string()));
        points.push(point);
    }
    curve(points)
}

/// Messages over a topic exchange, each for one of its bindings.
async fn bindings(counts: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    declare(&client, "q").await;
    let exchange = ExchangeSpec::new("topic", ExchangeKind::Topic);
    client.declare_exchange(exchange).await.expect("is declared");
    let mut keys: Vec<String> = Vec::new();
    let mut points = Vec::new();
    for &count in counts {
        let new: Vec<String> = (keys.len()..count).map(|n| format!("k{n}.eu.new")).collect();
        let since = Instant::now();
        for some in new.chunks(REQUESTS) {
            let bound = some.iter().map(|key| {
                let pattern = key.replace(".eu.", ".*.");
                client.bind(BindingSpec::to_queue("topic", "q", pattern))
            });
            for bound in join_all(bound).await {
                bound.expect("is bound");
            }
        }
        let each = since.elapsed() / new.len().max(1) as u32;
        keys.extend(new);
        let name = format!("{count} topic bindings");
        let mut point = measure(&broker, &client, "topic", &keys, BODY, name).await;
        point.more.push(("to bind one", nanoseconds(each).to_string()));
        points.push(point);
    }
    curve(points)
}

/// Messages of one connection while others are open.
async fn connections(counts: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    declare(&client, "q").await;
    let mut others: Vec<Client> = Vec::new();
    let mut points = Vec::new();
    for &count in counts {
        let since = Instant::now();
        let before = others.len();
        while others.len() + 1 < count {
            let more = REQUESTS.min(count - 1 - others.len());
            let connected = join_all((0..more).map(|_| broker.client_builder().connect())).await;
            match connected.into_iter().collect::<Result<Vec<_>, _>>() {
                Ok(connected) => others.extend(connected),
                Err(error) => {
                    let row = Row::limit(
                        format!("{count} connections: {} open, no more", others.len() + 1),
                        nanoseconds(since.elapsed()),
                    );
                    return curve(points)
                        .into_iter()
                        .chain([row.detail("because", error)])
                        .collect();
                }
            }
        }
        let each = since.elapsed() / (others.len() - before).max(1) as u32;
        let keys = ["q".to_owned()];
        let mut point = measure(&broker, &client, "", &keys, BODY, format!("{count} connections")).await;
        point.more.push(("to connect", nanoseconds(each).to_string()));
        points.push(point);
    }
    // Thousands that close by and by would have a part of the next curve's time.
    join_all(others.iter().map(Client::close)).await;
    curve(points)
}

/// Messages put into one queue and taken by many consumers. A point ends when all are taken.
async fn consumers(counts: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    declare(&client, "q").await;
    let crowd = Crowd::of("q", broker.client_builder());
    let others = join_all((0..PUBLISHERS).map(|_| broker.client())).await;
    let message = |_| Message::new(Bytes::from_static(&[b'x'; BODY])).key("q");
    let mut points = Vec::new();
    for &count in counts {
        crowd.grow(count).await;
        let publishers = join_all(others.iter().map(|client| open(client, ""))).await;
        let (cpu, taken) = (proc::cpu(broker.pid()), crowd.taken());
        let since = Instant::now();
        let published = publishers.iter().map(|publisher| fill(publisher, BODY, &message));
        let messages = join_all(published).await.into_iter().sum();
        while crowd.taken() - taken < messages {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = since.elapsed();
        points.push(Point {
            name: format!("{count} consumers of one queue"),
            rate: messages as f64 / took.as_secs_f64(),
            cpu: proc::cpu(broker.pid()) - cpu,
            latency: one_at_a_time(&publishers[0], &message).await,
            messages,
            rss: proc::rss(broker.pid()),
            more: Vec::new(),
        });
    }
    crowd.close();
    curve(points)
}

/// Messages of rising length.
async fn sizes(lengths: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    let mut rows = Vec::new();
    for &length in lengths {
        declare(&client, "q").await;
        let keys = ["q".to_owned()];
        let point = measure(
            &broker,
            &client,
            "",
            &keys,
            length,
            format!("bodies of {length} B"),
        )
        .await;
        let bytes = Figure::BytesPerSecond(point.rate * length as f64);
        // A longer message takes longer: there is no cliff to tell here, only bytes a second.
        rows.extend(
            curve(vec![point])
                .into_iter()
                .map(|row| row.detail("bodies", bytes)),
        );
        client.delete_queue("q", false, false).await.expect("is deleted");
    }
    rows
}

/// Messages behind others that wait.
async fn backlog(counts: &[usize]) -> Vec<Row> {
    let broker = Broker::start();
    let client = broker.client().await;
    declare(&client, "q").await;
    let keys = ["q".to_owned()];
    let mut points = Vec::new();
    for &count in counts {
        let waiting = client.status().await.expect("answers").ready as usize;
        let publisher = open(&client, "").await;
        let messages = (waiting..count).map(|_| Message::new(Bytes::from_static(&[b'x'; BODY])).key("q"));
        let confirmed = publisher.publish_all(messages).await.expect("are taken").await;
        assert!(confirmed.expect("are confirmed").is_success());
        points.push(
            measure(
                &broker,
                &client,
                "",
                &keys,
                BODY,
                format!("{count} messages waiting"),
            )
            .await,
        );
    }
    curve(points)
}

/// The broker on one core, and on two.
async fn cores() -> Vec<Row> {
    let mut points = Vec::new();
    for (cores, list) in [(1, "0"), (2, "0,1")] {
        let broker = Broker::start();
        let pid = broker.pid().to_string();
        let pinned = Command::new("taskset").args(["-acp", list, &pid]).output();
        if !pinned.is_ok_and(|run| run.status.success()) {
            continue; // not a machine of two cores, or without taskset
        }
        let client = broker.client().await;
        declare(&client, "q").await;
        let keys = ["q".to_owned()];
        points.push(
            measure(
                &broker,
                &client,
                "",
                &keys,
                BODY,
                format!("broker on {cores} core(s)"),
            )
            .await,
        );
    }
    curve(points)
}

/// One point.
async fn measure(
    broker: &Broker,
    client: &Client,
    exchange: &str,
    keys: &[String],
    body: usize,
    name: String,
) -> Point {
    let publisher = open(client, exchange).await;
    let body = Bytes::from(vec![b'x'; body]);
    let message = |n: usize| Message::new(body.clone()).key(keys[n % keys.len()].clone());
    let before = proc::cpu(broker.pid());
    let since = Instant::now();
    let messages = fill(&publisher, body.len(), &message).await;
    let took = since.elapsed();
    let cpu = proc::cpu(broker.pid()) - before;
    Point {
        name,
        rate: messages as f64 / took.as_secs_f64(),
        latency: one_at_a_time(&publisher, &message).await,
        cpu,
        messages,
        rss: proc::rss(broker.pid()),
        more: Vec::new(),
    }
}

/// Publishes for the time of a point. Returns how many messages were confirmed.
async fn fill(publisher: &Publisher, body: usize, message: &impl Fn(usize) -> Message) -> u64 {
    let since = Instant::now();
    let each = if body > 64 << 10 { 1 } else { 64 };
    let messages = (0..).take_while(|n: &usize| !n.is_multiple_of(each) || since.elapsed() < THROUGHPUT);
    let taken = publisher.publish_all(messages.map(message)).await;
    let outcome = taken.expect("are taken").await.expect("are confirmed");
    assert!(outcome.is_success(), "{outcome:?}");
    outcome.routed
}

/// How long it takes to confirm each of some messages that are alone.
async fn one_at_a_time(publisher: &Publisher, message: &impl Fn(usize) -> Message) -> Histogram<u64> {
    let mut latency = histogram();
    let since = Instant::now();
    for n in 0.. {
        let start = Instant::now();
        let confirmation = publisher.publish(message(n)).await.expect("is taken");
        assert!(confirmation.await.expect("is confirmed").is_success());
        latency.saturating_record(start.elapsed().as_nanos() as u64);
        if since.elapsed() > LATENCY {
            break;
        }
    }
    latency
}

/// A row for each point; those that fall off say so.
fn curve(points: Vec<Point>) -> Vec<Row> {
    let mut before: Option<f64> = None;
    let mut rows = Vec::new();
    for point in points {
        let slower = before
            .replace(point.rate)
            .map_or(1.0, |before| before / point.rate);
        let at = |quantile| Figure::Nanoseconds(point.latency.value_at_quantile(quantile) as f64);
        let cpu = point.cpu.as_secs_f64() * 1e6 / point.messages.max(1) as f64;
        let mut row = Row::limit(point.name, Figure::PerSecond(point.rate))
            .detail("confirm p50", at(0.5))
            .detail("p99", at(0.99))
            .detail("server CPU", format!("{cpu:.2} us a message"))
            .detail("RSS", format!("{} MB", point.rss / 1_000_000));
        row.details.extend(point.more);
        if slower > CLIFF {
            row = row.detail("CLIFF", format!("{slower:.1} times slower than the point before"));
        }
        rows.push(row);
    }
    rows
}

async fn open(client: &Client, exchange: &str) -> Publisher {
    let opened = client.publisher_builder(exchange).window(WINDOW).open().await;
    opened.expect("opens")
}

async fn declare(client: &Client, queue: &str) {
    client
        .declare_queue(QueueSpec::new(queue))
        .await
        .expect("is declared");
}

fn nanoseconds(time: Duration) -> Figure {
    Figure::Nanoseconds(time.as_nanos() as f64)
}
