//! What a router author imports: one trait, a borrowed view of the message, a decision.
//!
//! ```
//! use pointsman_router::{Decision, Message, Plan, Router, Target, Targets, Value};
//!
//! struct ByKind {
//!     paid: Target,
//!     other: Target,
//! }
//!
//! impl Router for ByKind {
//!     fn configure(_config: &[u8], targets: &Targets) -> Result<(Self, Plan), String> {
//!         let router = ByKind {
//!             paid: targets.named("paid"),
//!             other: targets.named("other"),
//!         };
//!         Ok((router, Plan::new().header("kind").cacheable()))
//!     }
//!
//!     fn route(&mut self, message: &Message<'_>) -> Decision {
//!         match message.header("kind") {
//!             Some(Value::Str("order.paid")) => Decision::to(self.paid),
//!             _ => Decision::to(self.other),
//!         }
//!     }
//! }
//!
//! pointsman_router::export!(ByKind);
//! # fn main() {}
//! ```
//!
//! `pointsman router build` makes a module of it, `pointsman router load` hands it to a broker, and [`testing`] runs
//! it in plain `cargo test`.

#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))] // the Wasm exports are generated code

mod decision;
mod export;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
mod instance;
mod log;
mod message;
pub mod packed;
mod router;
#[cfg(feature = "select")]
pub mod select;
pub mod testing;

pub use decision::{Decision, Delivery, Target};
pub use instance::Instance;
pub use log::{Level, log};
pub use message::{Message, Value};
pub use packed::{Field, Plan, Targets};
pub use router::Router;
