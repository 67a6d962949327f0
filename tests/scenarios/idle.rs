//! What a broker costs that has nothing to do.

use std::time::Duration;

use pointsman_protocol::limits::STREAMS_MAX;
use pointsman_sdk::{BindingSpec, ExchangeSpec, Message, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::{publish, soon, take_all};

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn an_idle_connection_takes_little_memory() {
    let broker = Broker::start();
    let first = broker.client().await;
    let before = proc::rss(broker.pid());
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(broker.client().await);
    }
    let each = (proc::rss(broker.pid()) - before) / 200 / 1024;
    assert!(each < 200, "{each} KiB for each connection");
    first.close().await;
}

#[tokio::test]
async fn a_connection_may_open_as_many_streams_as_the_limit_says() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let mut publishers = Vec::new();
    for _ in 0..STREAMS_MAX {
        publishers.push(soon(client.publisher("")).await.unwrap());
    }
    let last = publishers.last().unwrap();
    let confirmed = last.publish(Message::new("x").key("q")).await.unwrap();
    assert!(soon(confirmed).await.unwrap().is_success());
}

#[tokio::test]
async fn an_idle_broker_with_100_queues_is_small_and_uses_no_cpu() {
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .declare_exchange(ExchangeSpec::fanout("all"))
        .await
        .unwrap();
    for n in 0..100 {
        let queue = format!("q{n}");
        client.declare_queue(QueueSpec::new(&queue)).await.unwrap();
        client
            .bind(BindingSpec::to_queue("all", &queue, ""))
            .await
            .unwrap();
    }
    // It has worked before it idles.
    publish(&client, "all", "", "x").await;
    assert_eq!(take_all(&client, "q99").await, ["x"]);
    client.close().await;

    let watched = Duration::from_secs(3);
    let (cpu, switches) = (proc::cpu(broker.pid()), proc::switches(broker.pid()));
    tokio::time::sleep(watched).await;
    let cpu = proc::cpu(broker.pid()) - cpu;
    let switches = proc::switches(broker.pid()) - switches;
    let rss = proc::rss(broker.pid()) / MIB;
    assert!(rss < 60, "{rss} MiB of memory");
    // One tick of the kernel's clock may fall on anything; polling would wake up all the time.
    assert!(
        cpu <= Duration::from_millis(10),
        "{cpu:?} of CPU time in {watched:?}"
    );
    assert!(switches < 60, "woken {switches} times in {watched:?}");
}
