//! The thin line through the whole house, in one process: publish, route, persist, restart, consume.

use std::path::{Path, PathBuf};

use pointsman_sdk::{BindingSpec, Client, ExchangeSpec, Message, Outcome, QueueSpec};
use pointsman_server::{AdminCredential, Config, Layer, Running};

async fn start(dir: &Path) -> Running {
    let flags = Layer {
        listen: Some(([127, 0, 0, 1], 0).into()),
        ..Layer::default()
    };
    let compiler = (PathBuf::from("/bin/false"), Vec::new());
    let config = Config::load(None, [], flags, dir.to_owned(), compiler).unwrap();
    pointsman_server::start(config).await.unwrap()
}

async fn connect(running: &Running, admin: &AdminCredential) -> Client {
    Client::builder()
        .server(running.address.to_string())
        .server_name("localhost")
        .ca_file(&running.ca_file)
        .credentials(&admin.user, &admin.password)
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_before_a_restart_is_consumed_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let admin = running.first_start.clone().unwrap();
    let client = connect(&running, &admin).await;
    client
        .declare_exchange(ExchangeSpec::direct("orders"))
        .await
        .unwrap();
    client.declare_queue(QueueSpec::new("paid")).await.unwrap();
    client
        .bind(BindingSpec::to_queue("orders", "paid", "order.paid"))
        .await
        .unwrap();
    let publisher = client.publisher("orders").await.unwrap();
    let mut confirmations = Vec::new();
    for n in 0..1_000 {
        let message = Message::new(format!("order {n}")).key("order.paid");
        confirmations.push(publisher.publish(message).await.unwrap());
    }
    for confirmation in confirmations {
        assert_eq!(confirmation.await.unwrap(), Outcome::Routed { queues: 1 });
    }
    let nowhere = publisher
        .publish(Message::new("x").key("order.lost"))
        .await
        .unwrap();
    assert_eq!(nowhere.await.unwrap(), Outcome::Unroutable);
    client.close().await;
    running.shutdown().await.unwrap();

    let running = start(dir.path()).await;
    assert!(running.first_start.is_none(), "the admin user was made twice");
    let client = connect(&running, &admin).await;
    let mut consumer = client.consumer("paid").prefetch(100).open().await.unwrap();
    for n in 0..1_000 {
        let delivery = consumer.recv().await.unwrap().unwrap();
        assert_eq!(delivery.body(), format!("order {n}"));
        assert!(!delivery.redelivered());
        delivery.ack();
    }
    consumer.flush().await.unwrap();
    client.close().await;
    running.shutdown().await.unwrap();

    let running = start(dir.path()).await;
    let client = connect(&running, &admin).await;
    assert_eq!(
        client.queue("paid").await.unwrap().ready,
        0,
        "an acknowledged message came back"
    );
    client.close().await;
    running.shutdown().await.unwrap();
}
