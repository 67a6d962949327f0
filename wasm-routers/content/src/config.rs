//! The configuration as it is written.

use pointsman_router::{Target, Targets};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::test::Test;

const BODY_UP_TO: u32 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default, rename = "match")]
    pub(crate) matching: Matching,
    pub(crate) rules: Vec<RuleConfig>,
    pub(crate) default: Option<Names>,
    #[serde(default = "default_body_up_to")]
    pub(crate) body_up_to: u32,
}

fn default_body_up_to() -> u32 {
    BODY_UP_TO
}

/// Which of the rules that hold decide.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Matching {
    #[default]
    First,
    All,
}

/// A rule is one condition with its outcome, or `all` of several conditions with theirs.
#[derive(Deserialize)]
pub(crate) struct RuleConfig {
    all: Option<Vec<ConditionConfig>>,
    pub(crate) to: Option<Names>,
    pub(crate) reject: Option<String>,
    /// The members of the one condition.
    #[serde(flatten)]
    condition: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionConfig {
    pub(crate) when: String,
    #[serde(default, deserialize_with = "present")]
    eq: Option<Value>,
    #[serde(rename = "in")]
    among: Option<Vec<Value>>,
    prefix: Option<String>,
    gt: Option<Value>,
    lt: Option<Value>,
    exists: Option<bool>,
}

/// A value that is there, also when it is null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl RuleConfig {
    /// The conditions, all of which must hold.
    pub(crate) fn take_conditions(&mut self) -> Result<Vec<ConditionConfig>, String> {
        if self.to.is_some() == self.reject.is_some() {
            return Err("write either `to` or `reject`".to_owned());
        }
        let one = std::mem::take(&mut self.condition);
        match self.all.take() {
            Some(all) if one.is_empty() && !all.is_empty() => Ok(all),
            None if one.contains_key("when") => {
                let condition = serde_json::from_value(Value::Object(one));
                Ok(vec![condition.map_err(|error| error.to_string())?])
            }
            _ => Err("write either `when` with its tests or `all` with a list of conditions".to_owned()),
        }
    }
}

impl ConditionConfig {
    /// What the part must pass, all of it.
    pub(crate) fn tests(self) -> Result<Vec<Test>, String> {
        let mut tests = Vec::new();
        if let Some(value) = self.eq {
            tests.push(Test::Among(vec![value.try_into()?]));
        }
        if let Some(values) = self.among {
            let values: Result<_, String> = values.into_iter().map(TryInto::try_into).collect();
            tests.push(Test::Among(values?));
        }
        tests.extend(self.prefix.map(Test::Prefix));
        if let Some(value) = self.gt {
            tests.push(Test::Greater(value.try_into()?));
        }
        if let Some(value) = self.lt {
            tests.push(Test::Less(value.try_into()?));
        }
        tests.extend(self.exists.map(Test::Exists));
        if tests.is_empty() {
            return Err(format!(
                "`{}` has no test; write one of `eq`, `in`, `prefix`, `gt`, `lt`, `exists`",
                self.when
            ));
        }
        Ok(tests)
    }
}

/// One name, or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a target's name or a list of names")]
pub(crate) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Default for Names {
    fn default() -> Names {
        Names::Several(Vec::new())
    }
}

impl Names {
    pub(crate) fn resolve(&self, targets: &Targets) -> impl Iterator<Item = Target> {
        let names = match self {
            Names::One(name) => std::slice::from_ref(name),
            Names::Several(names) => names,
        };
        names.iter().map(|name| targets.named(name))
    }
}
