//! What the demo sends, how it has it routed, and where each message must end up.
//!
//! The places are found by a reading of the rules in plain Rust that shares nothing with the router module: that is
//! what the broker's counts are checked against.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::commands::publish::scalar_text;
use crate::error::CliError;

/// Values of a user's field that get a queue of their own.
const OWN_QUEUES_MAX: usize = 6;

/// Most messages the demo takes from a file, so that both rounds fit in memory.
const MESSAGES_MAX: usize = 200_000;

/// Messages, configurations and expectations.
pub(crate) struct Plan {
    /// The field that kinds of messages are told apart by.
    pub(crate) field: String,
    pub(crate) messages: Vec<Planned>,
    /// The binding keys and queues, in the order of the report.
    pub(crate) targets: Vec<String>,
    /// The configurations of version 1 and 2.
    pub(crate) configs: [Vec<u8>; 2],
}

/// A message and where each version must send it.
pub(crate) struct Planned {
    pub(crate) body: Bytes,
    pub(crate) kind: String,
    /// Indexes of targets, for version 1 and 2.
    pub(crate) places: [usize; 2],
}

impl Plan {
    /// The orders and rules that are shipped.
    pub(crate) fn of_orders(data: &Path) -> Result<Plan, CliError> {
        let field = "kind";
        let configs = [
            read(&data.join("content-v1.json"))?,
            read(&data.join("content-v2.json"))?,
        ];
        Plan::new(field, lines(&data.join("orders.jsonl"), field)?, configs)
    }

    /// A user's messages. Version 1 gives the most frequent values of the field queues of their own, version 2 moves
    /// the most frequent to a queue for review.
    pub(crate) fn of_file(input: &Path, field: &str) -> Result<Plan, CliError> {
        let messages = lines(input, field)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, _, _) in messages.iter().filter(|(kind, ..)| !kind.is_empty()) {
            *counts.entry(kind).or_default() += 1;
        }
        let mut values: Vec<(&str, usize)> = counts.into_iter().collect();
        values.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
        values.truncate(OWN_QUEUES_MAX);
        let first_of = |kind: &str| {
            messages
                .iter()
                .find(|(k, ..)| k == kind)
                .map(|(_, value, _)| value.clone())
        };
        let rules = |version: usize| -> Vec<Json> {
            let rule = |(rank, (value, _)): (usize, &(&str, usize))| {
                let to = if version == 2 && rank == 0 {
                    "review".to_owned()
                } else {
                    queue_name(value)
                };
                json!({ "when": format!("body.{field}"), "eq": first_of(value), "to": to })
            };
            values.iter().enumerate().map(rule).collect()
        };
        let config = |version| {
            json!({ "rules": rules(version), "default": "other" })
                .to_string()
                .into_bytes()
        };
        let configs = [config(1), config(2)];
        Plan::new(field, messages, configs)
    }

    fn new(
        field: &str,
        messages: Vec<(String, Json, Line)>,
        configs: [Vec<u8>; 2],
    ) -> Result<Plan, CliError> {
        let rules = [Rules::parse(&configs[0])?, Rules::parse(&configs[1])?];
        let mut targets: Vec<String> = Vec::new();
        for target in rules.iter().flat_map(Rules::targets) {
            if !targets.contains(target) {
                targets.push(target.clone());
            }
        }
        let place = |rules: &Rules, message: &Json| {
            let target = rules.decide(message);
            targets
                .iter()
                .position(|known| known == target)
                .unwrap_or_default()
        };
        let planned = messages.into_iter().map(|(kind, _, line)| Planned {
            places: [place(&rules[0], &line.json), place(&rules[1], &line.json)],
            body: line.text,
            kind,
        });
        Ok(Plan {
            field: field.to_owned(),
            messages: planned.collect(),
            configs,
            targets: targets.clone(),
        })
    }

    /// A short message whose place changes with version 2, to try `--explain` on.
    pub(crate) fn sample(&self) -> &Planned {
        let moved = self
            .messages
            .iter()
            .filter(|message| message.places[0] != message.places[1]);
        moved
            .min_by_key(|message| message.body.len())
            .unwrap_or(&self.messages[0])
    }
}

/// A line of the input.
struct Line {
    text: Bytes,
    json: Json,
}

/// All messages of a file with the value of the field, as text and as it is.
fn lines(path: &Path, field: &str) -> Result<Vec<(String, Json, Line)>, CliError> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| CliError::usage(format!("{} is not UTF-8 text", path.display())))?;
    let mut messages = Vec::new();
    for (number, line) in (1_usize..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let json: Json = serde_json::from_str(line).map_err(|error| {
            CliError::usage(format!(
                "line {number} of {} is not JSON: {error}",
                path.display()
            ))
        })?;
        // A message without the field is a kind of its own and goes to `other`.
        let value = at(&json, field).cloned().unwrap_or_default();
        let kind = scalar_text(&value).unwrap_or_default();
        messages.push((
            kind,
            value,
            Line {
                text: Bytes::copy_from_slice(line.as_bytes()),
                json,
            },
        ));
    }
    match messages.len() {
        0 | 1 => Err(CliError::usage(format!(
            "{} holds fewer than two messages",
            path.display()
        ))),
        n if n > MESSAGES_MAX => Err(CliError::usage(format!(
            "{} holds {n} messages, over the demo's limit of {MESSAGES_MAX}",
            path.display()
        ))
        .hint(format!("take the first ones: head -n {MESSAGES_MAX}"))),
        _ if messages.iter().all(|(kind, ..)| kind.is_empty()) => Err(CliError::usage(format!(
            "no line of {} has a text, number or boolean at `{field}`",
            path.display()
        ))),
        _ => Ok(messages),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| CliError::file("read", path, &error))
}

/// A queue's name made of any value.
fn queue_name(value: &str) -> String {
    const LENGTH_MAX: usize = 60;
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    format!(
        "q.{}",
        value.chars().map(plain).take(LENGTH_MAX).collect::<String>()
    )
}

/// The part of the content router's rules that the demo uses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rules: Vec<Rule>,
    default: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    when: Option<String>,
    eq: Option<Json>,
    #[serde(rename = "in")]
    one_of: Option<Vec<Json>>,
    gt: Option<f64>,
    all: Option<Vec<Condition>>,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    when: String,
    eq: Option<Json>,
    #[serde(rename = "in")]
    one_of: Option<Vec<Json>>,
    gt: Option<f64>,
}

impl Rules {
    fn parse(config: &[u8]) -> Result<Rules, CliError> {
        serde_json::from_slice(config).map_err(|error| {
            CliError::usage(format!(
                "the demo does not understand the rules of the content router: {error}"
            ))
        })
    }

    fn targets(&self) -> impl Iterator<Item = &String> {
        self.rules.iter().map(|rule| &rule.to).chain([&self.default])
    }

    /// The first rule that holds decides.
    fn decide(&self, message: &Json) -> &String {
        self.rules
            .iter()
            .find(|rule| rule.holds(message))
            .map_or(&self.default, |rule| &rule.to)
    }
}

impl Rule {
    fn holds(&self, message: &Json) -> bool {
        match (&self.when, &self.all) {
            (Some(when), None) => test(message, when, self.eq.as_ref(), self.one_of.as_ref(), self.gt),
            (None, Some(all)) => all
                .iter()
                .all(|c| test(message, &c.when, c.eq.as_ref(), c.one_of.as_ref(), c.gt)),
            (Some(_), Some(_)) | (None, None) => false,
        }
    }
}

fn test(message: &Json, when: &str, eq: Option<&Json>, one_of: Option<&Vec<Json>>, gt: Option<f64>) -> bool {
    let Some(value) = when.strip_prefix("body.").and_then(|field| at(message, field)) else {
        return false;
    };
    eq.is_none_or(|wanted| wanted == value)
        && one_of.is_none_or(|wanted| wanted.contains(value))
        && gt.is_none_or(|bound| value.as_f64().is_some_and(|value| value > bound))
}

/// The value at a path of keys between dots.
fn at<'a>(message: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(message, |value, part| value.get(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lines: &[&str], field: &str) -> Plan {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Plan::of_file(&path, field).unwrap()
    }

    fn target(plan: &Plan, message: usize, version: usize) -> &str {
        &plan.targets[plan.messages[message].places[version - 1]]
    }

    #[test]
    fn the_most_frequent_values_get_queues_and_the_rest_goes_to_other() {
        let mut lines = vec![r#"{"k":"rare"}"#, r#"{"n":1}"#];
        let common: Vec<String> = (0..6)
            .flat_map(|n| [format!("{{\"k\":\"v{n}\"}}"), format!("{{\"k\":\"v{n}\"}}")])
            .collect();
        lines.extend(common.iter().map(String::as_str));
        let plan = plan(&lines, "k");
        assert_eq!((target(&plan, 0, 1), target(&plan, 1, 1)), ("other", "other"));
        assert_eq!(target(&plan, 2, 1), "q.v0");
    }

    #[test]
    fn version_2_moves_the_most_frequent_value_only() {
        let plan = plan(
            &[r#"{"k":{"n":2}}"#, r#"{"k":{"n":7}}"#, r#"{"k":{"n":7}}"#],
            "k.n",
        );
        assert_eq!((target(&plan, 1, 1), target(&plan, 1, 2)), ("q.7", "review"));
        assert_eq!((target(&plan, 0, 1), target(&plan, 0, 2)), ("q.2", "q.2"));
        assert_eq!(plan.sample().kind, "7");
    }

    #[test]
    fn the_shipped_rules_are_understood() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data");
        let plan = Plan::of_orders(&data).unwrap_or_else(|_| panic!("the shipped orders make a plan"));
        assert!(plan.messages.len() > 1_000);
        let large = plan
            .messages
            .iter()
            .position(|m| m.places[0] != m.places[1])
            .unwrap();
        assert_eq!(
            (target(&plan, large, 1), target(&plan, large, 2)),
            ("paid", "review")
        );
    }

    #[test]
    fn a_value_becomes_a_name_that_a_queue_can_have() {
        assert_eq!(queue_name("a b/ü.c"), "q.a-b--.c");
        assert_eq!(queue_name(&"x".repeat(500)).len(), 62);
    }

    #[test]
    fn rules_compare_numbers_and_lists() {
        let rules = Rules::parse(
            br#"{"rules":[{"all":[{"when":"body.k","in":["a","b"]},{"when":"body.n","gt":5}],"to":"x"}],"default":"d"}"#,
        )
        .unwrap_or_else(|_| panic!("the rules parse"));
        assert_eq!(rules.decide(&json!({"k":"b","n":5.5})), "x");
        for other in [
            json!({"k":"b","n":5}),
            json!({"k":"c","n":9}),
            json!({"k":"b","n":"9"}),
            json!([]),
        ] {
            assert_eq!(rules.decide(&other), "d");
        }
    }
}
