//! The broker as a deterministic state machine.
//!
//! No IO, clock, randomness, locks or tasks: [`Broker::handle`] takes an [`Input`] and the time, and adds to a
//! [`Commit`] what must become durable (records) and what may then be seen (effects). The driver makes the records
//! durable and only then releases the effects, in the order of commits.

#![forbid(unsafe_code)]

mod broker;
pub mod catalog;
pub mod chunk;
pub mod commit;
mod consume;
mod consumer;
mod definitions;
pub mod ids;
pub mod input;
pub mod limits;
mod log;
mod publish;
mod publisher;
mod queue;
mod restore;
pub mod topology;

pub use broker::{Broker, Totals};
pub use chunk::{Chunk, ChunkBuilder};
pub use commit::{Commit, Effect, Record, Restored};
pub use ids::*;
pub use input::Input;
pub use limits::Bounds;
pub use restore::RestoreError;
pub use topology::Topology;

#[cfg(test)]
mod tests;
