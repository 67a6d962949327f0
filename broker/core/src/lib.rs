//! The broker as a deterministic state machine.
//!
//! No IO, clock, randomness, locks or tasks: [`Broker::handle`] takes an [`Input`] and the time, and adds to a
//! [`Commit`] what must become durable (records) and what may then be seen (effects). The driver makes the records
//! durable and only then releases the effects, in the order of commits.

pub mod catalog;
pub mod chunk;
pub mod commit;
pub mod ids;
pub mod input;
pub mod limits;
pub mod topology;

pub use chunk::{Chunk, ChunkBuilder};
pub use commit::{Commit, Effect, Record, Restored};
pub use ids::*;
pub use input::Input;
pub use topology::Topology;
