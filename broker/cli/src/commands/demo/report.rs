//! What the demo tells: which kinds of messages went where, how fast, and whether every count is right.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ORDERS;
use super::plan::Plan;
use super::traffic::Round;
use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::Row;

/// Kinds of messages that get a row of their own; the rest share one.
const KINDS_MAX: usize = 12;

/// The JSON form of the demo.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    field: String,
    versions: Vec<VersionReport>,
    published: u64,
    /// Messages a second.
    publish_rate: u64,
    consumed: u64,
    consume_rate: u64,
    /// Sentences; empty when every count is right.
    wrong: Vec<String>,
}

/// What one version did with the messages it decided.
#[derive(Debug, Serialize)]
struct VersionReport {
    /// Such as `orders@1`.
    version: String,
    routes: Vec<RouteCount>,
}

/// How many messages of a kind are in a queue.
#[derive(Debug, Serialize)]
struct RouteCount {
    kind: String,
    queue: String,
    messages: u64,
    expected: u64,
}

/// Messages by version (0 and 1 for versions 1 and 2), kind and target.
type Counts = BTreeMap<(usize, String, usize), (u64, u64)>;

impl Report {
    /// Compares both rounds with what the plan expects.
    pub(crate) fn new(plan: &Plan, steady: Round, swapped: Round) -> Report {
        let mut wrong = Vec::new();
        let mut counts = Counts::new();
        check(plan, "with version 1", &steady, &[1], &mut counts, &mut wrong);
        check(
            plan,
            "during the swap",
            &swapped,
            &[1, 2],
            &mut counts,
            &mut wrong,
        );
        let versions = (0..2).map(|version| VersionReport {
            version: format!("{ORDERS}@{}", version + 1),
            routes: routes(plan, &counts, version),
        });
        let published = steady.sent + swapped.sent;
        let consumed = (steady.received.len() + swapped.received.len()) as u64;
        Report {
            field: plan.field.clone(),
            versions: versions.collect(),
            published,
            publish_rate: human::rate(published, steady.publish_time + swapped.publish_time),
            consumed,
            consume_rate: human::rate(consumed, steady.consume_time + swapped.consume_time),
            wrong,
        }
    }

    /// Shows the report, and for people the commands to go on with.
    pub(crate) fn print(&self, app: &App, next: &[String; 3]) -> Result<(), CliError> {
        let lines = [
            (
                "published",
                format!(
                    "{} confirmed, {}/s",
                    human::count(self.published),
                    human::count(self.publish_rate)
                ),
            ),
            (
                "consumed",
                format!(
                    "{} acknowledged, {}/s",
                    human::count(self.consumed),
                    human::count(self.consume_rate)
                ),
            ),
            (
                "checked",
                if self.wrong.is_empty() {
                    "every message is in the right queue exactly once".to_owned()
                } else {
                    format!("{} wrong", self.wrong.len())
                },
            ),
        ];
        for version in &self.versions {
            let count: u64 = version.routes.iter().map(|route| route.messages).sum();
            app.output.say(&format!(
                "\n{} decided {}:",
                version.version,
                human::counted(count, "message")
            ))?;
            if app.output.format == crate::output::Format::Table {
                app.output.list(&version.routes)?;
            }
        }
        app.output.say("")?;
        app.output.one(self, &lines)?;
        app.output.say(&format!(
            "\nTry next:\n  {}\n  {}\n  {}",
            next[0], next[1], next[2]
        ))
    }

    /// A failure when any count is wrong.
    pub(crate) fn verdict(&self) -> Result<(), CliError> {
        match self.wrong.first() {
            None => Ok(()),
            Some(first) => Err(CliError::failed(
                "DemoWrong",
                format!(
                    "{first} ({} in all)",
                    human::counted(self.wrong.len() as u64, "fault")
                ),
            )),
        }
    }
}

/// Checks that each message of a round came exactly once, in the queue where the version that decided it sends it.
fn check(
    plan: &Plan,
    when: &str,
    round: &Round,
    versions: &[u32],
    counts: &mut Counts,
    wrong: &mut Vec<String>,
) {
    let sent = round.sent as usize;
    if let Some(failure) = &round.outcome.first_failure {
        wrong.push(format!("{when} a message was {failure}"));
    }
    let mut seen = vec![0_u32; sent];
    let mut decided = BTreeMap::new();
    for message in &round.received {
        let (Some(number), Some(version)) = (message.number.filter(|n| *n < sent), message.version) else {
            wrong.push(format!(
                "{when} a message in `{}` is not one that was sent and decided",
                plan.targets[message.target]
            ));
            continue;
        };
        seen[number] += 1;
        *decided.entry(version).or_insert(0_u64) += 1;
        let planned = &plan.messages[number % plan.messages.len()];
        let Some(index) = versions.iter().position(|known| *known == version) else {
            wrong.push(format!(
                "{when} message {number} was decided by version {version}"
            ));
            continue;
        };
        let place = planned.places[index];
        counts
            .entry((index, planned.kind.clone(), message.target))
            .or_default()
            .0 += 1;
        counts.entry((index, planned.kind.clone(), place)).or_default().1 += 1;
        if place != message.target {
            let (should, is) = (&plan.targets[place], &plan.targets[message.target]);
            wrong.push(format!(
                "{when} message {number} is in `{is}`, but version {version} sends it to `{should}`"
            ));
        }
    }
    let lost = seen.iter().filter(|times| **times == 0).count();
    let doubled = seen.iter().filter(|times| **times > 1).count();
    if lost > 0 {
        wrong.push(format!(
            "{when} {} did not arrive",
            human::counted(lost as u64, "message")
        ));
    }
    if doubled > 0 {
        wrong.push(format!(
            "{when} {} arrived more than once",
            human::counted(doubled as u64, "message")
        ));
    }
    for version in versions.iter().filter(|version| !decided.contains_key(version)) {
        wrong.push(format!("{when} version {version} decided no message"));
    }
}

/// The counts of one version as rows, rare kinds together.
fn routes(plan: &Plan, counts: &Counts, version: usize) -> Vec<RouteCount> {
    let mut by_kind: BTreeMap<&str, u64> = BTreeMap::new();
    for ((_, kind, _), (messages, _)) in counts {
        *by_kind.entry(kind).or_default() += messages;
    }
    let mut kinds: Vec<&str> = by_kind.keys().copied().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(by_kind[kind]));
    kinds.truncate(KINDS_MAX);
    let mut rows: BTreeMap<(&str, usize), (u64, u64)> = BTreeMap::new();
    for ((_, kind, target), (messages, expected)) in counts.iter().filter(|((v, ..), _)| *v == version) {
        let shown = if kinds.contains(&kind.as_str()) {
            kind.as_str()
        } else {
            "(others)"
        };
        let row = rows.entry((shown, *target)).or_default();
        *row = (row.0 + messages, row.1 + expected);
    }
    let row = |((kind, target), (messages, expected)): ((&str, usize), (u64, u64))| RouteCount {
        kind: if kind.is_empty() {
            "(none)".to_owned()
        } else {
            kind.to_owned()
        },
        queue: plan.targets[target].clone(),
        messages,
        expected,
    };
    rows.into_iter().map(row).collect()
}

impl Row for RouteCount {
    const HEADINGS: &'static [&'static str] = &["kind", "queue", "messages", "expected"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.queue.clone(),
            human::count(self.messages),
            human::count(self.expected),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Planned;
    use super::super::traffic::Received;
    use std::time::Duration;

    use super::*;
    use bytes::Bytes;
    use pointsman_sdk::BatchOutcome;

    fn plan() -> Plan {
        let message = |kind: &str, places| Planned {
            body: Bytes::new(),
            kind: kind.to_owned(),
            places,
        };
        Plan {
            field: "kind".to_owned(),
            messages: vec![message("a", [0, 1]), message("b", [1, 1])],
            targets: vec!["first".to_owned(), "second".to_owned()],
            configs: [Vec::new(), Vec::new()],
        }
    }

    fn round(sent: u64, received: &[(usize, usize, u32)]) -> Round {
        let message = |&(number, target, version): &(usize, usize, u32)| Received {
            target,
            number: Some(number),
            version: Some(version),
        };
        Round {
            sent,
            outcome: BatchOutcome::default(),
            publish_time: Duration::ZERO,
            consume_time: Duration::ZERO,
            received: received.iter().map(message).collect(),
        }
    }

    fn faults(steady: &[(usize, usize, u32)], swapped: &[(usize, usize, u32)]) -> Vec<String> {
        Report::new(&plan(), round(2, steady), round(4, swapped)).wrong
    }

    const STEADY: [(usize, usize, u32); 2] = [(0, 0, 1), (1, 1, 1)];
    const SWAPPED: [(usize, usize, u32); 4] = [(0, 0, 1), (1, 1, 1), (2, 1, 2), (3, 1, 2)];

    #[test]
    fn rounds_that_went_as_planned_have_no_fault() {
        assert_eq!(faults(&STEADY, &SWAPPED), [""; 0]);
    }

    #[test]
    fn a_message_lost_doubled_or_in_the_wrong_queue_is_a_fault() {
        assert_eq!(
            faults(&STEADY[..1], &SWAPPED),
            ["with version 1 1 message did not arrive"]
        );
        let doubled = [SWAPPED.as_slice(), &SWAPPED[3..]].concat();
        assert_eq!(
            faults(&STEADY, &doubled),
            ["during the swap 1 message arrived more than once"]
        );
        let wrong = faults(&[(0, 1, 1), (1, 1, 1)], &SWAPPED);
        assert_eq!(
            wrong,
            ["with version 1 message 0 is in `second`, but version 1 sends it to `first`"]
        );
    }

    #[test]
    fn a_swap_that_one_version_decided_alone_is_a_fault() {
        let alone = [(0, 0, 1), (1, 1, 1), (2, 0, 1), (3, 1, 1)];
        assert_eq!(
            faults(&STEADY, &alone),
            ["during the swap version 2 decided no message"]
        );
        assert!(faults(&[(0, 1, 2), (1, 1, 1)], &SWAPPED)[0].contains("was decided by version 2"));
    }

    #[test]
    fn routes_are_counted_beside_what_was_expected() {
        let report = Report::new(&plan(), round(2, &STEADY), round(4, &SWAPPED));
        let rows: Vec<Vec<String>> = report.versions[1].routes.iter().map(Row::cells).collect();
        assert_eq!(rows, [["a", "second", "1", "1"], ["b", "second", "1", "1"]]);
    }
}
