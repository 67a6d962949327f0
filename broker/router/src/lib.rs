//! Routing: the built-in exchange kinds and the wasmtime host of router modules.
//!
//! A session holds a [`Routes`]: one immutable picture of what is declared, with each exchange's bindings arranged for
//! looking up. [`Routes::route`] turns the messages of a batch into [`Publish`](pointsman_core::input::Publish)es that
//! say which queues get which form of each. Exchanges of the kinds that are plain Rust are decided in place; an
//! exchange of kind `router` calls its module through the [`Host`].

mod limits;
mod error;
mod routes;
mod table;
mod scan;
mod matcher;
mod short;
mod walk;
mod host;
mod explain;

pub use error::{HostError, ModuleError};
pub use host::{CompileMode, Host, HostOptions, ModuleInfo, PlanInfo, compile_child_main};
pub use limits::ModuleLimits;
pub use matcher::{WEIGHT_MAX, weight};
pub use routes::{Entry, Incoming, Routes};
pub use scan::{Scanned, scan};
