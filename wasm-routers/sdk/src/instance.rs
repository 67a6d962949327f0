//! A configured router between packed bytes: what runs inside of the module, and in tests.

use crate::packed::{Batch, DecisionEncoder};
use crate::{Plan, Router, Targets};

/// A configured router.
pub struct Instance<R> {
    router: R,
    plan: Plan,
}

impl<R: Router> Instance<R> {
    /// Configures a router from packed targets; answers it and its packed plan.
    ///
    /// # Errors
    /// What the router says, or that the targets are malformed.
    pub fn configure(config: &[u8], targets: &[u8]) -> Result<(Instance<R>, Vec<u8>), String> {
        let targets = Targets::decode(targets).map_err(|error| error.to_string())?;
        let (router, plan) = R::configure(config, &targets)?;
        let plan = plan.with_unbound(targets.into_unbound());
        let packed = plan.encode();
        Ok((Instance { router, plan }, packed))
    }

    /// Decides a packed batch.
    ///
    /// # Panics
    /// When the batch does not fit the plan, which only a fault of the broker can cause; or when the router panics.
    pub fn route(&mut self, batch: &[u8]) -> Vec<u8> {
        let batch = match Batch::open(batch, &self.plan) {
            Ok(batch) => batch,
            Err(error) => panic!("the batch is malformed: {error}"),
        };
        let mut decisions = DecisionEncoder::new(batch.len());
        for message in batch.messages() {
            decisions.push(&self.router.route(&message));
        }
        decisions.finish()
    }
}
