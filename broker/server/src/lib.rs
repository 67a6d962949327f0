//! The running broker.
//!
//! The data path: [`listen`] accepts and authenticates connections; a `session` per connection turns frames into
//! inputs, with routes decided on the way; the `driver` owns the core and commits what it says, on the thread
//! that the `shard` gives it; effects come back to the sessions, which write them. [`start`] puts the parts together and [`Running`] stops them in order.

#![forbid(unsafe_code)]

pub mod config;
mod start;
mod tls;
mod listen;
mod auth;
mod session;
mod admin;
mod backup;
mod mailbox;
mod driver;
mod shard;
mod outbox;
mod space;

pub use config::{Config, ConfigError, Layer};
pub use start::{AdminCredential, Running, StartError, runtime, start, store_dir};
pub use tls::FILES as CERTIFICATE_FILES;
