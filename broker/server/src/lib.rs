//! The running broker.
//!
//! The data path: [`listen`] accepts and authenticates connections; a `session` per connection turns frames into
//! inputs, with routes decided on the way; the `driver` owns the core and commits what it says; effects come back
//! to the sessions, which write them. [`start`] puts the parts together and [`Running`] stops them in order.

#![forbid(unsafe_code)]

mod admin;
mod auth;
pub mod config;
mod driver;
mod listen;
mod mailbox;
mod session;
mod space;
mod start;
mod tls;

pub use config::{Config, ConfigError, Layer};
pub use start::{AdminCredential, Running, StartError, runtime, start};
