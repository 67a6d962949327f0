//! Client of the Pointsman broker.
//!
//! ```no_run
//! use pointsman_sdk::{BindingSpec, Client, ExchangeSpec, Message, QueueSpec};
//!
//! # async fn run() -> Result<(), pointsman_sdk::Error> {
//! let client = Client::connect("pointsman://admin:secret@127.0.0.1:7654/?ca=ca.pem").await?;
//! client.declare_exchange(ExchangeSpec::topic("orders")).await?;
//! client.declare_queue(QueueSpec::new("eu")).await?;
//! client.bind(BindingSpec::to_queue("orders", "eu", "order.*.eu")).await?;
//!
//! let publisher = client.publisher("orders").await?;
//! let confirmation = publisher.publish(Message::new("a book").key("order.new.eu")).await?;
//! println!("{}", confirmation.await?); // routed to 1 queue
//!
//! let mut consumer = client.consumer("eu").prefetch(256).open().await?;
//! while let Some(delivery) = consumer.recv().await {
//!     let delivery = delivery?;
//!     println!("{}: {} bytes", delivery.routing_key(), delivery.body().len());
//!     delivery.ack();
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! One UDP socket carries everything: requests on one QUIC stream, and a stream of its own for each publisher and
//! consumer, so that none waits for another. Each stream has one task, which writes what waits as one; nothing waits on
//! a timer to be written.

#![forbid(unsafe_code)]

// From the address over the connection to the messages.
mod address;
mod client;

mod reconnect;
mod transport;

mod link;
mod wire;

mod notices;
mod requests;

mod message;

mod publisher;
mod window;

mod confirm;

mod consumer;
mod delivery;

mod settle;
mod settler;

mod error;

pub use client::{Client, ClientBuilder};
pub use confirm::{BatchConfirmation, BatchOutcome, Confirmation};
pub use consumer::{Consumer, ConsumerBuilder};
pub use delivery::Delivery;
pub use error::Error;
pub use message::{HeaderValue, Message};
pub use notices::Notices;
pub use publisher::{Publisher, PublisherBuilder};

pub use bytes::Bytes;
pub use pointsman_protocol::admin::{
    Argument, BindingSpec, Destination, ExchangeInfo, ExchangeKind, ExchangeSpec, ExplainStep, Explanation,
    Interface, QueueInfo, QueueKind, QueueSpec, Reply, Request, Retention, RouterCounters, RouterEvent,
    RouterInfo, RouterVersion, Status, StreamInfo,
};
pub use pointsman_protocol::consume::StartAt;
pub use pointsman_protocol::publish::Outcome;
pub use pointsman_protocol::session::Notice;
pub use pointsman_protocol::{ErrorBody, ErrorCode, Fsync, MessageMeta, Value};

/// Locks a mutex. A thread that panicked while holding it left nothing half-done that matters here: our critical
/// sections change one thing each.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
