//! Queues and exchanges that go by themselves.

use pointsman_sdk::{BindingSpec, Client, ErrorCode, ExchangeSpec, QueueSpec};
use pointsman_tests::Broker;

use crate::{eventually, publish, routed};

async fn queue_names(client: &Client) -> Vec<String> {
    client
        .queues()
        .await
        .unwrap()
        .into_iter()
        .map(|queue| queue.spec.name)
        .collect()
}

#[tokio::test]
async fn an_exclusive_queue_is_its_connections_own_and_goes_with_it() {
    let broker = Broker::start();
    let owner = broker.client().await;
    owner
        .declare_queue(QueueSpec::new("mine").exclusive())
        .await
        .unwrap();
    let other = broker.client().await;
    let error = other.consumer("mine").open().await.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::ResourceLocked), "{error}");
    let error = other.purge_queue("mine").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ResourceLocked), "{error}");
    // Anyone may publish to it.
    assert_eq!(publish(&other, "", "mine", "hello").await, routed(1));
    owner.close().await;
    eventually(|| async { queue_names(&other).await.is_empty() }).await;
}

#[tokio::test]
async fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .declare_queue(QueueSpec::new("q").auto_delete())
        .await
        .unwrap();
    let first = client.consumer("q").open().await.unwrap();
    let second = client.consumer("q").open().await.unwrap();
    drop(first);
    eventually(|| async { client.queue("q").await.unwrap().consumers == 1 }).await;
    drop(second);
    eventually(|| async { queue_names(&client).await.is_empty() }).await;
}

#[tokio::test]
async fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    client
        .declare_exchange(ExchangeSpec::fanout("x").auto_delete())
        .await
        .unwrap();
    let binding = BindingSpec::to_queue("x", "q", "");
    client.bind(binding.clone()).await.unwrap();
    client.unbind(binding).await.unwrap();
    assert!(client.exchanges().await.unwrap().is_empty());
}

#[tokio::test]
async fn deleting_a_queue_takes_its_bindings_and_messages_along() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_exchange(ExchangeSpec::fanout("x")).await.unwrap();
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    client.bind(BindingSpec::to_queue("x", "q", "")).await.unwrap();
    publish(&client, "x", "", "old").await;
    assert_eq!(client.delete_queue("q", false, false).await.unwrap(), 1);
    assert!(client.bindings().await.unwrap().is_empty());
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
}

#[tokio::test]
async fn the_broker_names_a_queue_that_was_declared_without_a_name() {
    let broker = Broker::start();
    let client = broker.client().await;
    let first = client.declare_queue(QueueSpec::new("")).await.unwrap().spec.name;
    let second = client.declare_queue(QueueSpec::new("")).await.unwrap().spec.name;
    assert!(!first.is_empty() && first != second);
    assert_eq!(publish(&client, "", &first, "m").await, routed(1));
}
