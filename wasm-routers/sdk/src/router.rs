//! The trait a router implements.

use crate::{Decision, Message, Plan, Targets};

/// A router: configured once, then asked about every message.
pub trait Router: Sized + 'static {
    /// Reads the configuration, picks its targets, and declares what it needs to see of a message.
    ///
    /// # Errors
    /// A sentence that tells the operator what is wrong with the configuration.
    fn configure(config: &[u8], targets: &Targets) -> Result<(Self, Plan), String>;

    /// Decides one message.
    ///
    /// There are many instances of a router and each sees some of the messages, so what it remembers from message to
    /// message must only ever be an optimisation.
    fn route(&mut self, message: &Message<'_>) -> Decision;
}
