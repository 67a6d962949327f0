//! The `pointsman` binary.

#[cfg_attr(
    not(test),
    allow(dead_code, reason = "its commands arrive with the command line")
)]
mod guest;

fn main() {}
