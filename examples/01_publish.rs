//! Publishes a few orders and prints what the broker says of each.
//!
//! ```sh
//! cargo run -p pointsman-examples --example 01_publish
//! ```

use pointsman_examples::{Result, connect};
use pointsman_sdk::{BindingSpec, ExchangeSpec, Message, QueueSpec};

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let client = connect().await?;

    // Declaring what is there already does nothing, so a program declares what it needs when it starts.
    client
        .declare_exchange(ExchangeSpec::topic("example.orders"))
        .await?;
    client.declare_queue(QueueSpec::new("example.eu")).await?;
    client
        .bind(BindingSpec::to_queue(
            "example.orders",
            "example.eu",
            "order.*.eu",
        ))
        .await?;

    let publisher = client.publisher("example.orders").await?;
    let mut confirmations = Vec::new();
    for (key, body) in [
        ("order.created.eu", r#"{"order": 1, "total": 12.5}"#),
        ("order.paid.eu", r#"{"order": 1, "paid": true}"#),
        ("order.created.us", r#"{"order": 2, "total": 99.0}"#),
    ] {
        let message = Message::new(body)
            .key(key)
            .content_type("application/json")
            .header("source", "example");
        // This waits only while too much is unconfirmed, so many messages are on their way at once.
        confirmations.push((key, publisher.publish(message).await?));
    }
    // The broker's word: the message is on disk in so many queues, or no binding took it.
    for (key, confirmation) in confirmations {
        println!("{key}: {}", confirmation.await?);
    }

    client.close().await;
    Ok(())
}
