//! Deliveries flow under credit, by count and by bytes.

use pointsman_protocol::consume::{Settle, Settlement};
use pointsman_protocol::frame::Kind;
use pointsman_sdk::QueueSpec;
use pointsman_tests::Broker;
use pointsman_tests::raw::{RawClient, RawStream};

use crate::publish;

/// A broker whose queue `q` holds these bodies, and a consumer of it without credit.
async fn waiting(bodies: &[&str]) -> (Broker, RawClient, RawStream) {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for body in bodies {
        publish(&client, "", "q", *body).await;
    }
    let raw = RawClient::authenticated(&broker).await;
    let consumer = raw.consumer("q").await;
    (broker, raw, consumer)
}

/// How many messages the broker has handed out and not got settled, asked on a stream of its own. The reply comes
/// from the core, so everything it was told before is done by then.
async fn unsettled(broker: &Broker) -> u64 {
    broker.client().await.queue("q").await.unwrap().unsettled
}

#[tokio::test]
async fn nothing_is_delivered_before_the_first_credit() {
    let (broker, _raw, _consumer) = waiting(&["a", "b"]).await;
    assert_eq!(unsettled(&broker).await, 0);
}

#[tokio::test]
async fn so_many_messages_are_delivered_as_credit_says_and_settling_gives_none_back() {
    let (broker, _raw, mut consumer) = waiting(&["a", "b", "c", "d"]).await;
    consumer.credit(2, 1_000_000).await;
    for body in ["a", "b"] {
        assert_eq!(consumer.frame().await.body(), body);
    }
    let settle = Settle {
        count: 2,
        how: Settlement::Ack,
    };
    consumer.put(Kind::Settle, 1, &settle, b"").await;
    // The next credit of one message brings exactly one.
    consumer.credit(1, 0).await;
    assert_eq!(consumer.frame().await.body(), "c");
    assert_eq!(unsettled(&broker).await, 1);
}

#[tokio::test]
async fn deliveries_stop_when_the_credit_in_bytes_is_used_up() {
    let large = "x".repeat(1000);
    let (broker, _raw, mut consumer) = waiting(&[&large, &large, &large]).await;
    // The second message takes the bytes below zero, as one message may.
    consumer.credit(100, 1500).await;
    for _ in 0..2 {
        assert_eq!(consumer.frame().await.body().len(), 1000);
    }
    assert_eq!(unsettled(&broker).await, 2);
    consumer.credit(0, 2000).await;
    assert_eq!(consumer.frame().await.body().len(), 1000);
}
