//! Writes orders to a stream, reads all of them, and goes on later where it stopped: the program keeps the offset.
//!
//! ```sh
//! cargo run -p pointsman-examples --example 06_stream
//! ```

use std::time::Duration;

use pointsman_examples::{Result, connect};
use pointsman_sdk::{Message, QueueSpec, StartAt};

const STREAM: &str = "example.history";

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let client = connect().await?;

    // A stream keeps its messages: readers take nothing away, only retention drops what is too old or too much.
    let spec = QueueSpec::stream(STREAM).max_age(Duration::from_secs(24 * 3_600));
    client.declare_queue(spec).await?;
    let publisher = client.publisher("").await?;
    let orders = (1..=5).map(|n| Message::new(format!("order {n}")).key(STREAM));
    let outcome = publisher.publish_all(orders).await?.await?;
    println!("{} orders are in the stream", outcome.routed);

    // Every reader has its own place. This one starts at the first message that is there.
    let mut reader = client.consumer(STREAM).offset(StartAt::First).open().await?;
    for _ in 0..3 {
        let Some(delivery) = reader.recv().await else {
            break;
        };
        let delivery = delivery?;
        println!(
            "{:?}: {}",
            delivery.offset(),
            String::from_utf8_lossy(&delivery.body())
        );
        // In a stream this only makes room for more deliveries.
        delivery.ack();
    }
    // What a program would write down together with the results of its work.
    let next = reader.next_offset().unwrap_or_default();
    drop(reader);

    println!("going on at offset {next}");
    let mut reader = client.consumer(STREAM).offset(next).open().await?;
    if let Some(delivery) = reader.recv().await {
        let delivery = delivery?;
        println!(
            "{:?}: {}",
            delivery.offset(),
            String::from_utf8_lossy(&delivery.body())
        );
    }
    client.close().await;
    Ok(())
}
