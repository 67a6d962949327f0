//! Messages that waited too long leave their queue, wherever in it they are, and are counted.

use std::time::Duration;

use pointsman_sdk::{Client, ErrorCode, Message, QueueSpec, StartAt};
use pointsman_tests::{Broker, cli};

use crate::{eventually, publish, receive, routed, send, soon, take, text};

const SOON: Duration = Duration::from_millis(50);

async fn with_queue(spec: QueueSpec) -> (Broker, Client) {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(spec).await.unwrap();
    (broker, client)
}

async fn expiring(client: &Client, body: &str, after: Duration) {
    let message = Message::new(body.to_owned()).key("q").expiration(after);
    assert_eq!(send(client, "", message).await, routed(1));
}

async fn expired(client: &Client, count: u64) {
    eventually(|| async { client.queue("q").await.unwrap().expired == count }).await;
}

#[tokio::test]
async fn a_message_that_waited_too_long_is_gone_from_the_middle_of_its_queue() {
    for spec in [QueueSpec::new("q"), QueueSpec::new("q").transient()] {
        let (_broker, client) = with_queue(spec).await;
        publish(&client, "", "q", "a").await;
        expiring(&client, "b", SOON).await;
        publish(&client, "", "q", "c").await;
        expired(&client, 1).await;
        let info = client.queue("q").await.unwrap();
        assert_eq!((info.ready, info.published), (2, 3));
        assert_eq!(take(&client, "q", 2).await, ["a", "c"]);
        assert_eq!(client.status().await.unwrap().expired, 1);
    }
}

#[tokio::test]
async fn of_a_messages_time_and_its_queues_the_shorter_counts() {
    let (_broker, client) = with_queue(QueueSpec::new("q").message_ttl(SOON)).await;
    expiring(&client, "a", Duration::from_secs(3_600)).await;
    publish(&client, "", "q", "b").await;
    expired(&client, 2).await;
    client.delete_queue("q", false, true).await.unwrap();
    client
        .declare_queue(QueueSpec::new("q").message_ttl(Duration::from_secs(3_600)))
        .await
        .unwrap();
    expiring(&client, "c", SOON).await;
    expired(&client, 1).await;
}

#[tokio::test]
async fn a_delivery_does_not_expire_but_is_gone_when_it_comes_back_too_late() {
    let (_broker, client) = with_queue(QueueSpec::new("q")).await;
    let mut consumer = client.consumer("q").prefetch(2).open().await.unwrap();
    for body in ["a", "b", "left behind"] {
        expiring(&client, body, Duration::from_millis(500)).await;
    }
    let mut taken = receive(&mut consumer, 2).await;
    // The third one has the same time and nobody has it.
    expired(&client, 1).await;
    assert_eq!(client.queue("q").await.unwrap().unsettled, 2);
    taken.remove(1).nack(true);
    taken.remove(0).ack();
    soon(consumer.flush()).await.unwrap();
    expired(&client, 2).await;
    let info = client.queue("q").await.unwrap();
    assert_eq!((info.ready, info.unsettled, info.acked), (0, 0, 1));
}

#[tokio::test]
async fn what_a_dead_consumer_had_expires_even_over_a_restart() {
    let (mut broker, client) = with_queue(QueueSpec::new("q")).await;
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    for body in ["a", "b"] {
        expiring(&client, body, Duration::from_millis(500)).await;
    }
    publish(&client, "", "q", "c").await;
    let had = receive(&mut consumer, 1).await;
    expired(&client, 1).await;
    broker.kill9();
    drop((had, consumer, client));
    broker.restart();
    let client = broker.client().await;
    expired(&client, 1).await;
    assert_eq!(take(&client, "q", 1).await, ["c"]);
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_stream_keeps_what_a_work_queue_lets_expire() {
    let (_broker, client) = with_queue(QueueSpec::new("q")).await;
    client.declare_queue(QueueSpec::stream("s")).await.unwrap();
    let message = Message::new("kept").key("s").expiration(Duration::from_millis(1));
    assert_eq!(send(&client, "", message).await, routed(1));
    expiring(&client, "gone", Duration::from_millis(1)).await;
    expired(&client, 1).await;
    let mut consumer = client.consumer("s").offset(StartAt::First).open().await.unwrap();
    assert_eq!(text(&receive(&mut consumer, 1).await[0]), "kept");
    let error = client
        .declare_queue(QueueSpec::stream("t").message_ttl(SOON))
        .await;
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
}

#[test]
fn the_command_line_declares_a_time_to_live_and_carries_it_over() {
    let broker = Broker::start();
    let declared = cli::json(&broker, &["queue", "declare", "q", "--message-ttl", "1m"]);
    assert_eq!(declared["message_ttl_ms"], 60_000);
    let shown = cli::run(&broker, &["queue", "show", "q"]);
    assert!(
        shown.contains("message ttl") && shown.contains("1 min"),
        "{shown}"
    );
    let file = broker.work_dir().join("definitions.toml");
    let file = file.to_str().unwrap();
    cli::run(&broker, &["export", file]);
    cli::run(&broker, &["queue", "delete", "q"]);
    cli::run(&broker, &["import", file]);
    assert_eq!(
        cli::json(&broker, &["queue", "show", "q"])["message_ttl_ms"],
        60_000
    );
    for (args, about) in [
        (
            ["queue", "declare", "z", "--message-ttl", "0s"].as_slice(),
            "expires at once",
        ),
        (&["queue", "declare", "q", "--message-ttl", "2m"], "message-ttl"),
        (
            &["queue", "declare", "z", "--stream", "--message-ttl", "1m"],
            "--stream",
        ),
        (
            &["publish", "", "m", "--key", "q", "--expiration", "366d"],
            "expiration",
        ),
        (
            &["publish", "", "m", "--key", "q", "--expiration", "0ms"],
            "expires at once",
        ),
    ] {
        let error = cli::fails(&broker, args);
        assert!(error.contains(about), "{error}");
    }
}
