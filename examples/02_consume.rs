//! Consumes the orders that `01_publish` sent, and waits for more until Ctrl-C.
//!
//! ```sh
//! cargo run -p pointsman-examples --example 02_consume
//! ```

use pointsman_examples::{Result, connect};

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result {
    let client = connect().await?;

    // At most 64 deliveries are here and unsettled. When the connection is lost, the client reconnects, opens the
    // consumer again, and what was unsettled is redelivered.
    let mut consumer = client.consumer("example.eu").prefetch(64).open().await?;
    println!("waiting for messages of example.eu; Ctrl-C ends");
    loop {
        let delivery = tokio::select! {
            delivery = consumer.recv() => delivery,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Some(delivery) = delivery else { break };
        let delivery = delivery?;
        let body = delivery.body();
        let again = if delivery.redelivered() { " (again)" } else { "" };
        println!(
            "{}{again}: {}",
            delivery.routing_key(),
            String::from_utf8_lossy(&body)
        );
        match serde_json::from_slice::<serde_json::Value>(&body) {
            // Done: it leaves the queue. `nack(true)` would put it back.
            Ok(_) => delivery.ack(),
            // Never going to work: out of the queue, to the dead letters if the queue has any.
            Err(_) => delivery.reject(),
        }
    }

    // Settlements are written together in the background; closing writes the last of them.
    client.close().await;
    Ok(())
}
