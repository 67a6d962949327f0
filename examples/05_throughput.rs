//! Publishes and consumes many small messages and prints how fast that was.
//!
//! ```sh
//! cargo run --release -p pointsman-examples --example 05_throughput -- 1000000
//! ```

use std::time::Instant;

use pointsman_examples::{Result, connect};
use pointsman_sdk::{Bytes, Message, QueueSpec};

const QUEUE: &str = "example.throughput";

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let count: u64 = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 1_000_000,
    };
    let client = connect().await?;
    client.declare_queue(QueueSpec::new(QUEUE)).await?;
    client.purge_queue(QUEUE).await?;

    // The exchange without a name sends to the queue that the routing key names.
    let publisher = client.publisher_builder("").window(16_384).open().await?;
    let body = Bytes::from(vec![b'x'; 100]);
    let start = Instant::now();
    let messages = (0..count).map(|_| Message::new(body.clone()).key(QUEUE));
    // One confirmation for the whole batch; the window keeps memory bounded all the same.
    let outcome = publisher.publish_all(messages).await?.await?;
    report("published and confirmed", outcome.routed, start);

    let mut consumer = client.consumer(QUEUE).prefetch(8_192).open().await?;
    let start = Instant::now();
    for _ in 0..outcome.routed {
        match consumer.recv().await {
            Some(delivery) => delivery?.ack(),
            None => return Err("the consumer ended early".into()),
        }
    }
    consumer.flush().await?;
    report("consumed and acknowledged", outcome.routed, start);

    client.delete_queue(QUEUE, false, false).await?;
    client.close().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn report(what: &str, messages: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what}: {messages} messages of 100 bytes in {seconds:.2} s, {:.0} a second",
        messages as f64 / seconds
    );
}
