//! Streams: read by many from any offset or time, kept over restarts, and dropped by retention only.

use std::time::{Duration, SystemTime};

use pointsman_sdk::{BindingSpec, Client, Delivery, ErrorCode, ExchangeSpec, Message, QueueSpec, StartAt};
use pointsman_tests::{Broker, cli};

use crate::{eventually, publish, receive, routed, send, soon, take_all, text};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Publishes these numbers in one batch.
async fn fill(client: &Client, stream: &str, range: std::ops::Range<usize>) {
    let publisher = client.publisher("").await.unwrap();
    let messages = range.map(|n| Message::new(n.to_string()).key(stream.to_owned()));
    let outcome = soon(publisher.publish_all(messages).await.unwrap()).await;
    assert!(outcome.unwrap().is_success());
}

/// Reads so many messages of stream `s`, and checks that each has the offset its body says.
async fn read(client: &Client, start: impl Into<StartAt>, count: usize) -> Vec<String> {
    let mut consumer = client.consumer("s").offset(start).open().await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..count {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(text(&delivery), delivery.offset().unwrap().to_string());
        bodies.push(text(&delivery));
        delivery.ack();
    }
    bodies
}

async fn with_stream(spec: QueueSpec) -> (Broker, Client) {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(spec).await.unwrap();
    (broker, client)
}

async fn offsets(client: &Client) -> std::ops::Range<u64> {
    let info = client.queue("s").await.unwrap().stream.unwrap();
    info.first_offset..info.next_offset
}

#[tokio::test]
async fn two_readers_each_see_everything_and_may_start_anywhere() {
    let (_broker, client) = with_stream(QueueSpec::stream("s")).await;
    fill(&client, "s", 0..3_000).await;
    let (one, two) = tokio::join!(
        read(&client, StartAt::First, 3_000),
        read(&client, StartAt::First, 3_000)
    );
    assert!(one == numbers(0..3_000) && two == one);
    assert_eq!(read(&client, 2_990, 10).await, numbers(2_990..3_000));
    assert_eq!(read(&client, StartAt::Last, 1).await, numbers(2_999..3_000));
    assert_eq!(offsets(&client).await, 0..3_000, "reading takes nothing away");
}

#[tokio::test]
async fn a_reader_starts_at_the_next_message_unless_told_otherwise() {
    let (_broker, client) = with_stream(QueueSpec::stream("s")).await;
    fill(&client, "s", 0..5).await;
    let mut consumer = client.consumer("s").open().await.unwrap();
    assert_eq!(consumer.next_offset(), Some(5));
    fill(&client, "s", 5..6).await;
    let delivery = receive(&mut consumer, 1).await.remove(0);
    assert_eq!((delivery.offset(), text(&delivery)), (Some(5), "5".to_owned()));
    assert_eq!(consumer.next_offset(), Some(6));
}

#[tokio::test]
async fn a_time_finds_the_first_message_stored_at_it_or_later() {
    let (_broker, client) = with_stream(QueueSpec::stream("s")).await;
    fill(&client, "s", 0..10).await;
    let stored = stored_at(&client, StartAt::Last).await;
    // The next message is of a later millisecond.
    eventually(|| async { SystemTime::now() > stored + Duration::from_millis(1) }).await;
    fill(&client, "s", 10..20).await;
    let later = stored_at(&client, StartAt::Last).await;
    assert!(later > stored);
    assert_eq!(read(&client, later, 10).await, numbers(10..20));
    let before = SystemTime::UNIX_EPOCH;
    assert_eq!(read(&client, before, 20).await, numbers(0..20));
    let consumer = client
        .consumer("s")
        .offset(later + Duration::from_secs(60))
        .open();
    assert_eq!(consumer.await.unwrap().next_offset(), Some(20));
}

async fn stored_at(client: &Client, start: StartAt) -> SystemTime {
    let mut consumer = client.consumer("s").offset(start).open().await.unwrap();
    receive(&mut consumer, 1).await[0].stored_at().unwrap()
}

#[tokio::test]
async fn a_killed_broker_comes_back_with_its_streams_and_their_offsets() {
    let (mut broker, client) = with_stream(QueueSpec::stream("s").max_age(Duration::from_secs(3_600))).await;
    fill(&client, "s", 0..2_000).await;
    // Not persistent, but a stream keeps every message it has confirmed.
    let message = Message::new("2000").key("s").persistent(false);
    assert_eq!(send(&client, "", message).await, routed(1));
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    assert_eq!(offsets(&client).await, 0..2_001);
    fill(&client, "s", 2_001..2_010).await;
    assert_eq!(read(&client, StartAt::First, 2_010).await, numbers(0..2_010));
    assert_eq!(read(&client, SystemTime::UNIX_EPOCH, 3).await, numbers(0..3));
}

#[tokio::test]
async fn a_reader_goes_on_behind_what_it_took_when_the_broker_comes_back() {
    let (mut broker, client) = with_stream(QueueSpec::stream("s")).await;
    fill(&client, "s", 0..100).await;
    let mut consumer = client
        .consumer("s")
        .offset(StartAt::First)
        .prefetch(10)
        .open()
        .await
        .unwrap();
    for n in 0..50 {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(delivery.offset(), Some(n));
        delivery.ack();
    }
    broker.kill9();
    broker.restart();
    for n in 50..100 {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(
            delivery.offset(),
            Some(n),
            "neither from the start nor with a gap"
        );
        delivery.ack();
    }
}

#[tokio::test]
async fn retention_drops_the_oldest_and_readers_go_on_at_the_first_that_is_there() {
    let (_broker, client) = with_stream(QueueSpec::stream("s").max_messages(10)).await;
    // One after the other, so that none is stored together with another.
    for n in 0..30 {
        assert_eq!(publish(&client, "", "s", n.to_string()).await, routed(1));
    }
    assert_eq!(offsets(&client).await, 20..30);
    assert_eq!(read(&client, 3, 10).await, numbers(20..30));
    assert_eq!(client.queue("s").await.unwrap().ready, 10);
}

#[tokio::test]
async fn what_is_too_old_goes_by_itself() {
    let (_broker, client) = with_stream(QueueSpec::stream("s").max_age(Duration::from_millis(100))).await;
    fill(&client, "s", 0..10).await;
    eventually(|| async { offsets(&client).await == (10..10) }).await;
}

#[tokio::test]
async fn a_stream_and_a_work_queue_beside_it_each_have_their_own() {
    let (mut broker, client) = with_stream(QueueSpec::stream("s")).await;
    client.declare_exchange(ExchangeSpec::fanout("x")).await.unwrap();
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for queue in ["s", "q"] {
        client.bind(BindingSpec::to_queue("x", queue, "")).await.unwrap();
    }
    for n in 0..20 {
        assert_eq!(publish(&client, "x", "", n.to_string()).await, routed(2));
    }
    assert_eq!(take_all(&client, "q").await.len(), 20);
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    assert_eq!(read(&client, StartAt::First, 20).await, numbers(0..20));
    assert_eq!(client.purge_queue("s").await.unwrap(), 20);
    assert_eq!(offsets(&client).await, 20..20);
    assert_eq!(client.delete_queue("s", false, true).await.unwrap(), 0);
}

#[tokio::test]
async fn settling_in_whatever_way_only_makes_room_for_more() {
    let (_broker, client) = with_stream(QueueSpec::stream("s")).await;
    fill(&client, "s", 0..30).await;
    let mut consumer = client
        .consumer("s")
        .offset(StartAt::First)
        .prefetch(2)
        .open()
        .await
        .unwrap();
    let settle: [fn(Delivery); 3] = [Delivery::ack, Delivery::reject, |delivery| delivery.nack(true)];
    for n in 0..30 {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!((delivery.offset(), delivery.redelivered()), (Some(n), false));
        settle[n as usize % 3](delivery);
    }
    assert_eq!(offsets(&client).await, 0..30);
}

#[tokio::test]
async fn a_stream_is_durable_and_shared_and_a_work_queue_has_no_offsets() {
    let (_broker, client) = with_stream(QueueSpec::new("q")).await;
    for bad in [
        QueueSpec::stream("s").exclusive(),
        QueueSpec::stream("s").max_bytes(0),
    ] {
        let error = client.declare_queue(bad).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
    }
    let error = client.consumer("q").offset(0).open().await.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
}

#[test]
fn the_command_line_declares_reads_and_shows_streams() {
    let broker = Broker::start();
    let declare = [
        "queue",
        "declare",
        "s",
        "--stream",
        "--max-age",
        "7d",
        "--max-bytes",
        "10GB",
    ];
    let declared = cli::json(&broker, &declare);
    assert_eq!(
        (&declared["kind"], &declared["last_offset"]),
        (&"stream".into(), &serde_json::Value::Null)
    );
    for body in ["a", "b", "c"] {
        cli::run(&broker, &["publish", "--key", "s", "", body]);
    }
    let bodies = |args: &[&str]| -> Vec<String> {
        let text = cli::run(&broker, &[&["consume", "s", "-o", "json"], args].concat());
        let line = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lines = text.lines().map(line);
        lines
            .map(|message| format!("{}{}", message["offset"], message["body"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(bodies(&[]), ["0a", "1b", "2c"], "all of it, and again");
    assert_eq!(bodies(&["--from", "first", "-n", "1"]), ["0a"]);
    assert_eq!(bodies(&["--from", "1"]), ["1b", "2c"]);
    assert_eq!(bodies(&["--from", "last"]), ["2c"]);
    assert_eq!(bodies(&["--from", "1h"]), ["0a", "1b", "2c"]);
    assert_eq!(bodies(&["--from", "2100-01-01T00:00:00Z"]), [""; 0]);
    let shown = cli::json(&broker, &["queue", "show", "s"]);
    for (name, value) in [("first_offset", 0), ("last_offset", 2), ("ready", 3)] {
        assert_eq!(shown[name], value, "{name}");
    }
    assert_eq!(
        (&shown["max_age_ms"], &shown["max_bytes"]),
        (&604_800_000.into(), &10_000_000_000u64.into())
    );
    let shown = cli::run(&broker, &["queue", "show", "s"]);
    assert!(
        shown.contains("stream") && shown.contains("7 d 0 h, 9.3 GiB"),
        "{shown}"
    );
    let error = cli::fails(&broker, &["queue", "declare", "t", "--max-age", "7d"]);
    assert!(error.contains("--stream"), "{error}");
}
