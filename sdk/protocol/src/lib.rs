//! Wire types shared by the broker and its clients. No IO.
//!
//! A connection is QUIC with ALPN [`ALPN`]. Its first bidirectional stream is the *control stream*: `Hello`,
//! `Welcome`, then requests and replies. Each publisher and each consumer has a bidirectional stream of its own
//! that opens with `OpenPublisher` or `OpenConsumer`. Everything on a stream is a [`frame::Frame`]: a fixed header,
//! postcard metadata and a raw body.
//!
//! Every enum here is append-only: postcard numbers variants by position. `tests/golden.rs` pins the bytes.

pub mod limits;
pub mod error;
pub mod frame;
pub mod session;
pub mod message;
pub mod publish;
pub mod consume;
pub mod admin;
pub mod spec;
mod fsync;

pub use error::{ErrorBody, ErrorCode};
pub use fsync::{Fsync, ParseFsyncError};
pub use message::{MessageMeta, Value};

/// The application protocol that QUIC negotiates.
pub const ALPN: &[u8] = b"pointsman/1";

/// The protocol version of this build, sent in `Hello` and `Welcome`.
pub const VERSION: u16 = 1;

/// The UDP port a broker listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7654;

/// The vhost a client gets when it names none.
pub const DEFAULT_VHOST: &str = "/";
