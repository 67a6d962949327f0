//! Bar charts, one for each group of rows.

use std::fmt::Write;

use crate::peers::Promise;
use crate::results::{BrokerFigures, Results};
use crate::rows::{Figure, Row};
use crate::table;

/// Sizes in pixels.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 250.0;
const BAR: f64 = 15.0;
const STEP: f64 = 20.0;
/// Room for the number behind the longest bar.
const NUMBER: f64 = 150.0;

const INK: &str = "#24292f";
const FAINT: &str = "#6e7781";
/// Ours, and everybody else's.
const OURS: &str = "#2563eb";
const OTHERS: &str = "#a8b3bf";

/// The file of a group's plot.
pub(crate) fn file_name(group: &str) -> String {
    let word = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = group.chars().map(word).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    format!("{}.svg", parts.join("-"))
}

/// The plots of all groups that were measured, with the names of their files.
pub(crate) fn all(results: &Results, rows: &[Row]) -> Vec<(String, String)> {
    let mut groups: Vec<&str> = rows.iter().map(|row| row.group).collect();
    groups.dedup();
    let drawn = groups.into_iter().filter_map(|group| {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.group == group).collect();
        let svg = plot(group, results, &rows)?;
        Some((file_name(group), svg))
    });
    drawn.collect()
}

fn plot(group: &str, results: &Results, rows: &[&Row]) -> Option<String> {
    let mut body = String::new();
    let mut y = 34.0;
    for row in rows {
        let Some(measured) = results.row(row.name) else {
            continue;
        };
        for (title, figure) in &row.lines {
            y = panel(&mut body, y, title, *figure, &measured.brokers);
        }
    }
    if body.is_empty() {
        return None;
    }
    let height = y + 6.0;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"600\" fill=\"{INK}\">{group}</text>\n{body}</svg>\n"
    ))
}

/// One line of the table as bars on a scale of their own, by what a confirm promises; returns where it ends.
fn panel(out: &mut String, mut y: f64, title: &str, figure: Figure, brokers: &[BrokerFigures]) -> f64 {
    let is_latency = matches!(figure, Figure::ConfirmLatency | Figure::DeliveryLatency);
    // Of a latency the bar is the p99, which differs most, and the number has all three.
    let value = |broker: &BrokerFigures| {
        let shown = broker.median?.shown(figure);
        shown.get(usize::from(is_latency)).copied()
    };
    let longest = brokers.iter().filter_map(value).fold(f64::MIN_POSITIVE, f64::max);
    let unit = if is_latency {
        "p50 / p99 / p99.9 in us; the bar is p99, less is better"
    } else {
        "messages/s"
    };
    y += 14.0;
    let _ = writeln!(
        out,
        "<text x=\"12\" y=\"{y}\" font-weight=\"600\" fill=\"{INK}\">{title}<tspan dx=\"8\" font-weight=\"400\" fill=\"{FAINT}\">{unit}</tspan></text>"
    );
    for promise in [Promise::Synced, Promise::NotSynced, Promise::NoBroker] {
        let mut of_it: Vec<&BrokerFigures> = brokers
            .iter()
            .filter(|broker| broker.promise == promise && broker.has(figure))
            .collect();
        of_it.sort_by(|a, b| value(b).unwrap_or(0.0).total_cmp(&value(a).unwrap_or(0.0)));
        if is_latency {
            of_it.reverse();
        }
        if of_it.is_empty() {
            continue;
        }
        y += 18.0;
        let _ = writeln!(
            out,
            "<text x=\"12\" y=\"{y}\" fill=\"{FAINT}\">{}</text>",
            table::promise(promise)
        );
        y += 6.0;
        for broker in of_it {
            bar(out, y, broker, figure, value(broker).map(|value| value / longest));
            y += STEP;
        }
    }
    y + 10.0
}

fn bar(out: &mut String, y: f64, broker: &BrokerFigures, figure: Figure, part: Option<f64>) {
    let color = if broker.broker.starts_with("pointsman") {
        OURS
    } else {
        OTHERS
    };
    let length = part.unwrap_or(0.0) * (WIDTH - NAMES - NUMBER - 12.0);
    let text_y = y + BAR - 3.0;
    let number = match (&broker.median, &broker.left_out) {
        (None, None) => "failed".to_owned(),
        _ => table::shown(broker, figure),
    };
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\" fill=\"{INK}\">{}</text>\n\
         <rect x=\"{NAMES}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>\n\
         <text x=\"{:.1}\" y=\"{text_y}\" fill=\"{INK}\">{number}</text>",
        NAMES - 8.0,
        broker.title,
        NAMES + length + 6.0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_named_after_its_group() {
        assert_eq!(
            file_name("Topic routing over 1,000 bindings"),
            "topic-routing-over-1-000-bindings.svg"
        );
    }
}
