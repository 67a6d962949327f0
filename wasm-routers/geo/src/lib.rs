//! A router that sends messages to their region, and to the next one when that is down.

use std::collections::HashMap;

use pointsman_router::select::{PartId, Parts};
use pointsman_router::{Decision, Message, Plan, Router, Target, Targets};
use serde::Deserialize;

/// How much of a body is looked at for the region, in bytes.
const BODY_UP_TO: u32 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    by: String,
    regions: HashMap<String, Vec<String>>,
    #[serde(default)]
    aliases: HashMap<String, String>,
    #[serde(default)]
    down: Vec<String>,
    default: Option<String>,
}

/// The configured router.
pub struct Geo {
    parts: Parts,
    by: PartId,
    /// Regions and aliases, with where their messages go now.
    regions: HashMap<String, Decision>,
    default: Decision,
}

impl Router for Geo {
    fn configure(config: &[u8], targets: &Targets) -> Result<(Geo, Plan), String> {
        let config: Config =
            serde_json::from_slice(config).map_err(|error| format!("the regions cannot be read: {error}"))?;
        config.check()?;
        let mut parts = Parts::default();
        let by = parts.add(&config.by)?;
        let mut regions: HashMap<String, Decision> = config
            .regions
            .iter()
            .map(|(region, order)| (region.clone(), first_up(region, order, &config.down, targets)))
            .collect();
        for (alias, region) in &config.aliases {
            if let Some(decision) = regions.get(region).cloned() {
                regions.insert(alias.clone(), decision);
            }
        }
        let default = config
            .default
            .as_ref()
            .and_then(|region| regions.get(region))
            .cloned();
        let plan = parts.plan(BODY_UP_TO);
        let router = Geo {
            parts,
            by,
            regions,
            default: default.unwrap_or(Decision::Unroutable),
        };
        Ok((router, plan))
    }

    fn route(&mut self, message: &Message<'_>) -> Decision {
        let region = self.parts.of(message).get(self.by);
        let region = region.as_ref().and_then(|region| region.to_text());
        let decision = region.and_then(|region| self.regions.get(region.as_ref()));
        decision.unwrap_or(&self.default).clone()
    }
}

impl Config {
    /// Every name that is used must be one that is there: a typo in `down` would leave a broken place in use.
    fn check(&self) -> Result<(), String> {
        let known = |region: &String| self.regions.contains_key(region);
        if let Some((alias, region)) = self.aliases.iter().find(|(_, region)| !known(region)) {
            return Err(format!(
                "the alias `{alias}` is of the region `{region}`, which is not among `regions`"
            ));
        }
        if let Some(alias) = self.aliases.keys().find(|alias| known(alias)) {
            return Err(format!("`{alias}` is both a region and an alias"));
        }
        if let Some(region) = self.default.as_ref().filter(|region| !known(region)) {
            return Err(format!("the default region `{region}` is not among `regions`"));
        }
        let used = |target: &&String| self.regions.values().any(|order| order.contains(*target));
        if let Some(target) = self.down.iter().find(|target| !used(target)) {
            return Err(format!("`{target}` is marked down, but no region has it"));
        }
        Ok(())
    }
}

/// To the first target of the region that has a binding and is not marked down.
fn first_up(region: &str, order: &[String], down: &[String], targets: &Targets) -> Decision {
    let up = order.iter().filter(|name| !down.contains(name));
    let bound: Option<Target> = up
        .map(|name| targets.named(name))
        .find(|target| target.is_bound());
    match bound {
        Some(target) => Decision::to(target),
        None if order.iter().all(|name| down.contains(name)) => {
            Decision::reject(format!("every place of the region `{region}` is down"))
        }
        None => Decision::Unroutable,
    }
}

pointsman_router::export!(Geo);
