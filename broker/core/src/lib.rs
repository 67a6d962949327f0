//! The broker as a deterministic state machine.
//!
//! No IO, clock, randomness, locks or tasks: [`Broker::handle`] takes an [`Input`] and the time, and adds to a
//! [`Commit`] what must become durable (records) and what may then be seen (effects). The driver makes the records
//! durable and only then releases the effects, in the order of commits.

#![forbid(unsafe_code)]

pub mod limits;
pub mod ids;
pub mod catalog;
pub mod topology;
pub mod input;
mod broker;
mod publish;
mod publisher;
mod definitions;
mod log;
pub mod due;
mod queue;
mod stream;
mod consume;
mod consumer;
pub mod chunk;
mod head;
mod varint;
pub mod references;
pub mod commit;
mod restore;

pub use broker::{Broker, Totals};
pub use chunk::{Chunk, ChunkBuilder};
pub use commit::{Commit, Effect, Record, Restored};
pub use ids::*;
pub use input::Input;
pub use limits::Bounds;
pub use pointsman_protocol::{Fsync, ParseFsyncError};
pub use references::References;
pub use restore::RestoreError;
pub use topology::Topology;

#[cfg(test)]
mod tests;
