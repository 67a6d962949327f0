//! A router that decides by what is in a message: rules over JSON fields, headers and properties.
//!
//! The rules are the configuration; `README.md` is its reference.

mod config;
mod test;

use pointsman_router::select::{PartId, Parts, Selected};
use pointsman_router::{Decision, Message, Plan, Router, Target, Targets};

use crate::config::{Config, Matching, RuleConfig};
use crate::test::Test;

/// The configured router.
pub struct Content {
    parts: Parts,
    matching: Matching,
    rules: Vec<Rule>,
    otherwise: Decision,
}

/// All conditions must hold for the outcome to be.
struct Rule {
    conditions: Vec<Condition>,
    outcome: Decision,
    targets: Vec<Target>,
}

/// What must be true of a part of the message.
struct Condition {
    part: PartId,
    tests: Vec<Test>,
}

impl Router for Content {
    fn configure(config: &[u8], targets: &Targets) -> Result<(Content, Plan), String> {
        let config: Config =
            serde_json::from_slice(config).map_err(|error| format!("the rules cannot be read: {error}"))?;
        let mut parts = Parts::default();
        let mut rules = Vec::new();
        for (place, rule) in config.rules.into_iter().enumerate() {
            let rule = Rule::new(rule, &mut parts, targets);
            rules.push(rule.map_err(|error| format!("rule {}: {error}", place + 1))?);
        }
        let plan = parts.plan(config.body_up_to);
        let otherwise = config.default.unwrap_or_default();
        let router = Content {
            parts,
            matching: config.matching,
            rules,
            otherwise: Decision::to_all(otherwise.resolve(targets)),
        };
        Ok((router, plan))
    }

    fn route(&mut self, message: &Message<'_>) -> Decision {
        let selected = self.parts.of(message);
        let mut matching = self.rules.iter().filter(|rule| rule.holds(&selected));
        let Some(first) = matching.next() else {
            return self.otherwise.clone();
        };
        if self.matching == Matching::First || matches!(first.outcome, Decision::Reject(_)) {
            return first.outcome.clone();
        }
        let mut all = first.targets.clone();
        for rule in matching {
            if let Decision::Reject(_) = rule.outcome {
                return rule.outcome.clone();
            }
            all.extend(&rule.targets);
        }
        Decision::to_all(all)
    }
}

impl Rule {
    fn new(mut config: RuleConfig, parts: &mut Parts, targets: &Targets) -> Result<Rule, String> {
        let conditions = config.take_conditions()?.into_iter().map(|condition| {
            let part = parts.add(&condition.when)?;
            let tests = condition.tests()?;
            Ok(Condition { part, tests })
        });
        let conditions = conditions.collect::<Result<_, String>>()?;
        let targets: Vec<Target> = config.to.unwrap_or_default().resolve(targets).collect();
        let outcome = match config.reject {
            Some(reason) => Decision::reject(reason),
            None => Decision::to_all(targets.iter().copied()),
        };
        Ok(Rule {
            conditions,
            outcome,
            targets,
        })
    }

    fn holds(&self, selected: &Selected<'_>) -> bool {
        self.conditions.iter().all(|condition| {
            let value = selected.get(condition.part);
            condition.tests.iter().all(|test| test.holds(value.as_ref()))
        })
    }
}

pointsman_router::export!(Content);
