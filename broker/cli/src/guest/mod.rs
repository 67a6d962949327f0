//! Making modules from source: what `pointsman router build` and `pointsman router new` do.

mod build;
mod error;
mod scaffold;
mod toolchain;

pub(crate) use build::build;
pub(crate) use error::GuestError;
pub(crate) use scaffold::scaffold;
