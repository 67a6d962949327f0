//! The results as Markdown, for the terminal and for `results/README.md`.

use std::collections::BTreeSet;
use std::fmt::Write;

use pointsman_load::Amount;

use crate::peers::Promise;
use crate::results::{BrokerFigures, Results};
use crate::rows::{Figure, Row};

/// Everything as a page.
pub(crate) fn page(results: &Results, rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = writeln!(out, "{}", intro(results));
    let mut group = "";
    for row in rows {
        let Some(measured) = results.row(row.name) else {
            continue;
        };
        if row.group != group {
            group = row.group;
            let _ = writeln!(
                out,
                "## {group}\n\n![{group}]({})\n",
                crate::plot::file_name(group)
            );
        }
        let turn = match row.scenario.amount {
            Amount::Time(_) => format!("{} s", measured.seconds),
            Amount::Messages(messages) => format!("{} messages", grouped(messages as f64)),
        };
        for (title, figure) in &row.lines {
            let _ = writeln!(
                out,
                "**{title}** (`{}`, {}, median of {} turns of {turn})\n",
                row.name, measured.date, measured.rounds
            );
            let _ = writeln!(out, "{}", table(&measured.brokers, *figure));
        }
    }
    out
}

fn intro(results: &Results) -> String {
    let versions: BTreeSet<&str> = results.versions.values().map(String::as_str).collect();
    let versions: String = versions.iter().map(|version| format!("- {version}\n")).collect();
    format!(
        "# Side by side\n\n\
         `make peers` wrote this page; `make peers PEERS='--rows NAME'` repeats a row. One load generator, the same \
         scenarios, each broker on loopback with an empty folder; brokers take turns within a row. *Syncs* are the sync \
         calls of the server, counted with strace, while 50 messages were published one by one, each once the one \
         before was confirmed, and then consumed: where there are fewer than 50, a confirm does not mean that the \
         message is on disk. *CPU* is the server's, for a message from its publish to its ack. *Memory* is the peak of \
         the row. Every confirmed message arrived, or there is no figure.\n\n\
         ZeroMQ has no broker: publishers send to consumers, and nothing is stored, confirmed or acknowledged. It is in \
         the rows where that can be, as a mark of what moving messages costs here, and in no comparison. What libzmq has taken \
         counts as published; a fan-out sends each message once for each queue, which a broker spares its publishers.\n\n\
         {}\n\n{versions}",
        results.machine
    )
}

/// The brokers of a row, by what a confirm promises, the best first.
fn table(brokers: &[BrokerFigures], figure: Figure) -> String {
    let is_latency = matches!(figure, Figure::ConfirmLatency | Figure::DeliveryLatency);
    let heading = if is_latency {
        "p50 / p99 / p99.9, us"
    } else {
        "messages/s"
    };
    let mut out = format!(
        "| confirm | broker | {heading} | CPU, us | memory, MiB | syncs |\n|---|---|---|---|---|---|\n"
    );
    let mut sorted: Vec<&BrokerFigures> = brokers.iter().filter(|broker| broker.has(figure)).collect();
    sorted.sort_by(|a, b| {
        let value = |b: &BrokerFigures| b.median.map_or(0.0, |median| median.shown(figure)[0]);
        let better = value(b).total_cmp(&value(a));
        a.promise
            .cmp(&b.promise)
            .then(if is_latency { better.reverse() } else { better })
    });
    for broker in sorted {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            promise(broker.promise),
            broker.title,
            shown(broker, figure),
            broker
                .median
                .and_then(|median| median.cpu)
                .map_or("-".into(), |cpu| format!("{cpu:.2}")),
            broker
                .peak_memory
                .map_or("-".into(), |bytes| (bytes >> 20).to_string()),
            broker.syncs.map_or("-".into(), |syncs| syncs.calls.to_string()),
        );
    }
    out
}

/// What a confirm promises, in a word or two.
pub(crate) fn promise(promise: Promise) -> &'static str {
    match promise {
        Promise::Synced => "synced",
        Promise::NotSynced => "not synced",
        Promise::NoBroker => "none: no broker",
    }
}

pub(crate) fn shown(broker: &BrokerFigures, figure: Figure) -> String {
    match (&broker.median, &broker.fault, &broker.left_out) {
        (Some(median), _, _) => {
            let numbers: Vec<String> = median.shown(figure).into_iter().map(grouped).collect();
            numbers.join(" / ")
        }
        (None, Some(fault), _) => format!("failed: {}", fault.lines().next().unwrap_or_default()),
        (None, None, Some(why)) => format!("left out: {why}"),
        (None, None, None) => "-".into(),
    }
}

/// A whole number with separators.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0.0, 999.4, 1_000.0, 1_234_567.8].map(grouped),
            ["0", "999", "1,000", "1,234,568"]
        );
    }
}
