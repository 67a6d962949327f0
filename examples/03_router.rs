//! Lets a Wasm module decide where orders go, and asks it why.
//!
//! ```sh
//! pointsman router build wasm-routers/content
//! cargo run -p pointsman-examples --example 03_router -- router_content.wasm
//! ```

use pointsman_examples::{Result, connect};
use pointsman_sdk::{BindingSpec, ExchangeSpec, Message, QueueSpec};

/// What the content router does with a message: rules over its body, headers and properties.
const RULES: &str = r#"{
    "rules": [
        { "when": "body.total", "gt": 1000, "to": ["review", "orders"] },
        { "when": "header.test", "exists": true, "reject": "test orders do not belong here" }
    ],
    "default": "orders"
}"#;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let file = std::env::args()
        .nth(1)
        .ok_or("name the module: 03_router FILE.wasm")?;
    let client = connect().await?;

    // The module and its configuration become a version that never changes, here activated at once.
    let module = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
    let version = client.router_load("example.content", module, RULES, true).await?;
    println!("{}@{} decides now", version.router, version.version);

    // Bindings name the targets that a router may choose from.
    client
        .declare_exchange(ExchangeSpec::router("example.routed", "example.content"))
        .await?;
    for (queue, target) in [("example.all", "orders"), ("example.review", "review")] {
        client.declare_queue(QueueSpec::new(queue)).await?;
        client
            .bind(BindingSpec::to_queue("example.routed", queue, target))
            .await?;
    }

    let cheap = Message::new(r#"{"total": 12.5}"#);
    let dear = Message::new(r#"{"total": 4999}"#);
    let test = Message::new("{}").header("test", true);
    let publisher = client.publisher("example.routed").await?;
    for (name, message) in [("cheap", cheap), ("dear", dear), ("test", test)] {
        // Where it would go, without sending it.
        let explanation = client.explain("example.routed", &message).await?;
        println!("{name}: would go to {:?}", explanation.queues);
        println!("{name}: {}", publisher.publish(message).await?.await?);
    }

    client.close().await;
    Ok(())
}
