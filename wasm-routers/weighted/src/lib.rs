//! A router that splits messages over targets by weight, so that the same key always goes to the same target.
//!
//! Every target draws a number for the key, longer straws for higher weights, and the longest straw wins: weighted
//! rendezvous hashing (Schindelhauer and Schomaker, Weighted Distributed Hash Tables, 2005). When a weight changes,
//! keys move only to the target that gained or away from the one that lost.

use std::collections::BTreeMap;

use pointsman_router::select::{PartId, Parts};
use pointsman_router::{Decision, Message, Plan, Router, Target, Targets};
use serde::Deserialize;

/// How much of a body is looked at for the key, in bytes.
const BODY_UP_TO: u32 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    weights: BTreeMap<String, u32>,
    #[serde(default = "default_key")]
    key: String,
    missing: Option<String>,
}

fn default_key() -> String {
    "routing_key".to_owned()
}

/// The configured router.
pub struct Weighted {
    parts: Parts,
    key: PartId,
    straws: Vec<Straw>,
    missing: Decision,
}

/// A target with a weight above 0.
struct Straw {
    target: Target,
    weight: f64,
    /// Makes the target's draw its own, by its name and not by its place.
    seed: u64,
}

impl Router for Weighted {
    fn configure(config: &[u8], targets: &Targets) -> Result<(Weighted, Plan), String> {
        let config: Config =
            serde_json::from_slice(config).map_err(|error| format!("the weights cannot be read: {error}"))?;
        let mut parts = Parts::default();
        let key = parts.add(&config.key)?;
        let straws: Vec<Straw> = config
            .weights
            .iter()
            .filter(|(_, weight)| **weight > 0)
            .map(|(name, weight)| Straw {
                target: targets.named(name),
                weight: f64::from(*weight),
                seed: hash(0, name.as_bytes()),
            })
            .collect();
        if straws.is_empty() {
            return Err("no target has a weight above 0".to_owned());
        }
        let missing = config.missing.map(|name| targets.named(&name));
        let plan = parts.plan(BODY_UP_TO);
        let router = Weighted {
            parts,
            key,
            straws,
            missing: Decision::to_all(missing),
        };
        Ok((router, plan))
    }

    fn route(&mut self, message: &Message<'_>) -> Decision {
        let key = self.parts.of(message).get(self.key);
        match key.as_ref().and_then(|key| key.to_text()) {
            Some(key) => Decision::to(self.winner(key.as_bytes())),
            None => self.missing.clone(),
        }
    }
}

impl Weighted {
    fn winner(&self, key: &[u8]) -> Target {
        let draws = self.straws.iter().map(|straw| (straw.draw(key), straw.target));
        let longest = draws.max_by(|(one, _), (other, _)| one.total_cmp(other));
        longest.map_or_else(|| self.straws[0].target, |(_, target)| target)
    }
}

impl Straw {
    /// The logarithm of a number between 0 and 1, drawn evenly by key and target, over the weight: at most 0.
    fn draw(&self, key: &[u8]) -> f64 {
        let drawn = hash(self.seed, key) >> 11; // the 53 bits that a float keeps
        let between_0_and_1 = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
        between_0_and_1.ln() / self.weight
    }
}

/// FNV-1a over the bytes, mixed by the finaliser of MurmurHash3 so that every bit counts.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325 ^ seed;
    let mut mixed = bytes.iter().fold(start, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ (mixed >> 33)
}

pointsman_router::export!(Weighted);
