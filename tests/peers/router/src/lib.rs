//! Sends `area.17.whatever` to the target `area.17`: what a topic exchange with a pattern an area does.
//!
//! Its plan could say *cacheable*. It does not, because the row shows what asking a module costs; and its 16,000 routing keys
//! are about four times as many as the broker remembers for an exchange.

use std::collections::HashMap;

use pointsman_router::{Decision, Field, Message, Plan, Router, Target, Targets};

struct Areas {
    targets: HashMap<String, Target>,
}

impl Router for Areas {
    fn configure(_config: &[u8], targets: &Targets) -> Result<(Areas, Plan), String> {
        let areas = (0..1_000).map(|number| format!("area.{number}"));
        let targets = areas.map(|area| (area.clone(), targets.named(&area))).collect();
        Ok((Areas { targets }, Plan::new().field(Field::RoutingKey)))
    }

    fn route(&mut self, message: &Message<'_>) -> Decision {
        let key = message.routing_key();
        let area = key.rsplit_once('.').map_or(key, |(area, _)| area);
        match self.targets.get(area) {
            Some(target) => Decision::to(*target),
            None => Decision::Unroutable,
        }
    }
}

pointsman_router::export!(Areas);
