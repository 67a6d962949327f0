//! What a broker costs that has nothing to do.

use std::time::Duration;

use pointsman_sdk::{BindingSpec, ExchangeSpec, QueueSpec};
use pointsman_tests::{Broker, proc};

use crate::{publish, take_all};

const MIB: u64 = 1024 * 1024;

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
