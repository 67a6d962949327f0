//! Delayed messages: confirmed at once, in their queues when their time has come, whatever happens in between.

use std::time::Duration;

use pointsman_sdk::{BindingSpec, Client, ErrorCode, ExchangeSpec, Message, QueueSpec, StartAt};
use pointsman_tests::{Broker, cli, guests};

use crate::{eventually, publish, receive, routed, send, take, text};

const LONG: Duration = Duration::from_secs(3_600);

async fn with_queue(spec: QueueSpec) -> (Broker, Client) {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(spec).await.unwrap();
    (broker, client)
}

async fn delay(client: &Client, queue: &str, body: &str, by: Duration) {
    let message = Message::new(body.to_owned()).key(queue.to_owned()).delay(by);
    assert_eq!(send(client, "", message).await, routed(1));
}

async fn delayed(client: &Client, queue: &str) -> u64 {
    client.queue(queue).await.unwrap().delayed
}

#[tokio::test]
async fn delayed_messages_come_in_the_order_of_their_times_and_behind_what_waits_already() {
    for spec in [QueueSpec::new("q"), QueueSpec::new("q").transient()] {
        let (_broker, client) = with_queue(spec).await;
        delay(&client, "q", "never", LONG).await;
        delay(&client, "q", "third", Duration::from_millis(400)).await;
        delay(&client, "q", "second", Duration::from_millis(200)).await;
        publish(&client, "", "q", "first").await;
        assert_eq!(take(&client, "q", 3).await, ["first", "second", "third"]);
        let info = client.queue("q").await.unwrap();
        assert_eq!((info.ready, info.delayed), (0, 1));
        assert_eq!(client.status().await.unwrap().delayed, 1);
    }
}

#[tokio::test]
async fn a_killed_broker_comes_back_with_what_is_delayed_and_delivers_it_once() {
    let (mut broker, client) = with_queue(QueueSpec::new("q")).await;
    for n in 0..20 {
        delay(&client, "q", &n.to_string(), Duration::from_millis(500)).await;
    }
    delay(&client, "q", "late", LONG).await;
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(take(&client, "q", 20).await, expected);
    // An acknowledgement promises nothing until the broker took it.
    eventually(|| async { client.queue("q").await.unwrap().unsettled == 0 }).await;
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    let info = client.queue("q").await.unwrap();
    assert_eq!((info.ready, info.published, info.delayed), (0, 20, 1));
}

#[tokio::test]
async fn a_purge_leaves_what_is_delayed_and_a_deletion_takes_it_along() {
    for spec in [
        QueueSpec::new("q"),
        QueueSpec::new("q").transient(),
        QueueSpec::stream("q"),
    ] {
        let (_broker, client) = with_queue(spec.clone()).await;
        publish(&client, "", "q", "there").await;
        delay(&client, "q", "one", LONG).await;
        delay(&client, "q", "two", LONG + LONG).await;
        assert_eq!(client.purge_queue("q").await.unwrap(), 1);
        assert_eq!(delayed(&client, "q").await, 2);
        let error = client.delete_queue("q", false, true).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InUse), "it is not empty: {error}");
        assert_eq!(client.delete_queue("q", false, false).await.unwrap(), 2);
        client.declare_queue(spec).await.unwrap();
        assert_eq!(delayed(&client, "q").await, 0);
        eventually(|| async { client.status().await.unwrap().delayed == 0 }).await;
    }
}

#[tokio::test]
async fn a_delayed_message_gets_its_offset_in_a_stream_when_it_comes() {
    let (_broker, client) = with_queue(QueueSpec::stream("q")).await;
    delay(&client, "q", "late", Duration::from_millis(300)).await;
    publish(&client, "", "q", "early").await;
    let mut consumer = client.consumer("q").offset(StartAt::First).open().await.unwrap();
    for (offset, body) in [(0, "early"), (1, "late")] {
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(
            (delivery.offset(), text(&delivery)),
            (Some(offset), body.to_owned())
        );
        delivery.ack();
    }
}

#[tokio::test]
async fn a_router_decides_what_comes_later_and_what_expires() {
    let module = guests::module("wasm-routers/script");
    let (_broker, client) = with_queue(QueueSpec::new("q")).await;
    let script = r#"fn route(msg) {
        if msg.routing_key == "late" { #{ to: "q", delay: 300 } } else { #{ to: "q", expires_after: 1 } }
    }"#;
    client.router_load("r", module, script, true).await.unwrap();
    client
        .declare_exchange(ExchangeSpec::router("x", "r"))
        .await
        .unwrap();
    client.bind(BindingSpec::to_queue("x", "q", "q")).await.unwrap();
    assert_eq!(publish(&client, "x", "late", "late").await, routed(1));
    assert_eq!(publish(&client, "x", "", "soon").await, routed(1));
    eventually(|| async { client.queue("q").await.unwrap().expired == 1 }).await;
    assert_eq!(take(&client, "q", 1).await, ["late"]);
}

#[test]
fn the_command_line_delays_messages_and_shows_how_many_wait() {
    let broker = Broker::start();
    cli::run(&broker, &["queue", "declare", "q"]);
    cli::run(&broker, &["publish", "", "later", "--key", "q", "--delay", "1h"]);
    cli::run(
        &broker,
        &[
            "publish",
            "",
            "soon",
            "--key",
            "q",
            "--delay",
            "1ms",
            "--expiration",
            "1h",
        ],
    );
    let shown = cli::json(&broker, &["queue", "show", "q"]);
    assert_eq!(
        shown["published"].as_u64().unwrap() + shown["delayed"].as_u64().unwrap(),
        2
    );
    let text = cli::run(&broker, &["consume", "q", "-n", "1", "-o", "json"]);
    let message: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&message["body"], &message["delay"], &message["expiration"]),
        (&"soon".into(), &1.into(), &3_600_000.into())
    );
    assert_eq!(cli::json(&broker, &["queue", "show", "q"])["delayed"], 1);
    assert!(cli::run(&broker, &["status"]).contains("1 delayed"));
    let error = cli::fails(&broker, &["publish", "", "m", "--key", "q", "--delay", "366d"]);
    assert!(error.contains("delay"), "{error}");
}
