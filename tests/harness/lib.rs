//! What scenarios, the crash test and the benches share: the real `pointsman` binary in a folder of its own.
//!
//! [`Broker`] starts it and kills it; [`cli`] runs its client commands; [`guests`] builds Wasm modules through it;
//! [`raw`] speaks the wire by hand, right or wrong; [`proc`] reads what it costs.

#![forbid(unsafe_code)]

pub mod binary;
pub mod broker;
pub mod cli;
pub mod guests;
pub mod proc;
pub mod raw;

pub use broker::{Broker, Settings};
