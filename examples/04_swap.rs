//! Changes the rules of `03_router` while messages flow: each message is decided by exactly one version.
//!
//! ```sh
//! cargo run -p pointsman-examples --example 04_swap
//! ```

use std::collections::BTreeMap;

use pointsman_examples::{Result, connect};
use pointsman_sdk::{Bytes, Message};

const MESSAGES: usize = 20_000;
const NEW_RULES: &str = r#"{ "default": "review" }"#;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let client = connect().await?;
    for queue in ["example.all", "example.review"] {
        client.purge_queue(queue).await?;
    }

    // No module: the new version takes the one that is there, with other rules.
    let new = client
        .router_load("example.content", Bytes::new(), NEW_RULES, false)
        .await?;
    let publisher = client.publisher("example.routed").await?;
    let half = || (0..MESSAGES / 2).map(|total| Message::new(format!(r#"{{"total": {}}}"#, total % 900)));
    let before = publisher.publish_all(half()).await?;
    client.router_activate("example.content", new.version).await?;
    let after = publisher.publish_all(half()).await?;
    println!(
        "confirmed: {} before and {} behind the switch",
        before.await?.routed,
        after.await?.routed
    );

    let mut decided: BTreeMap<String, usize> = BTreeMap::new();
    for queue in ["example.all", "example.review"] {
        let waiting = client.queue(queue).await?.ready;
        let mut consumer = client.consumer(queue).prefetch(2_000).open().await?;
        for _ in 0..waiting {
            let Some(delivery) = consumer.recv().await else {
                break;
            };
            let delivery = delivery?;
            *decided
                .entry(format!("{} to {queue}", delivery.decided_by()))
                .or_default() += 1;
            delivery.ack();
        }
        consumer.flush().await?;
    }
    for (what, count) in &decided {
        println!("{what}: {count}");
    }
    println!(
        "{} of {MESSAGES} messages arrived",
        decided.values().sum::<usize>()
    );

    // Back to the rules before, in one step.
    let old = client.router_rollback("example.content").await?;
    println!("{}@{} decides again", old.router, old.version);
    client.close().await;
    Ok(())
}
