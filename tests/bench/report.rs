//! What a run found, for people and for programs.

use std::fmt;

use serde_json::{Value, json};

/// One figure beside the figure of the raw limit it can at best reach.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// The figure.
    pub(crate) figure: Figure,
    /// The raw limit and what it is called; `None` for a raw limit itself.
    pub(crate) limit: Option<(&'static str, Figure)>,
    /// What else is worth knowing, by name.
    pub(crate) details: Vec<(&'static str, String)>,
}

/// A number with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// More is better.
    PerSecond(f64),
    /// More is better.
    BytesPerSecond(f64),
    /// Less is better.
    Nanoseconds(f64),
}

impl Figure {
    pub(crate) fn value(self) -> f64 {
        match self {
            Figure::PerSecond(value) | Figure::BytesPerSecond(value) | Figure::Nanoseconds(value) => value,
        }
    }

    /// The mean of two figures in the same unit.
    pub(crate) fn mean(self, other: Figure) -> Figure {
        let mean = (self.value() + other.value()) / 2.0;
        match self {
            Figure::PerSecond(_) => Figure::PerSecond(mean),
            Figure::BytesPerSecond(_) => Figure::BytesPerSecond(mean),
            Figure::Nanoseconds(_) => Figure::Nanoseconds(mean),
        }
    }

    /// What part of a limit in the same unit this reaches: 1 is the limit itself, whatever way is better.
    pub(crate) fn ratio_to(self, limit: Figure) -> f64 {
        match self {
            Figure::Nanoseconds(value) => limit.value() / value,
            Figure::PerSecond(value) | Figure::BytesPerSecond(value) => value / limit.value(),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Figure::PerSecond(_) => "messages/s",
            Figure::BytesPerSecond(_) => "bytes/s",
            Figure::Nanoseconds(_) => "ns",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Figure::PerSecond(value) if value >= 10_000.0 => write!(f, "{:.0} k msg/s", value / 1e3),
            Figure::PerSecond(value) => write!(f, "{value:.0} msg/s"),
            Figure::BytesPerSecond(value) => write!(f, "{:.2} GB/s", value / 1e9),
            Figure::Nanoseconds(value) if value >= 1e9 => write!(f, "{:.2} s", value / 1e9),
            Figure::Nanoseconds(value) if value >= 1e7 => write!(f, "{:.0} ms", value / 1e6),
            Figure::Nanoseconds(value) if value >= 1_000.0 => write!(f, "{:.1} us", value / 1e3),
            Figure::Nanoseconds(value) => write!(f, "{value:.1} ns"),
        }
    }
}

impl Row {
    /// A raw limit of the machine.
    pub(crate) fn limit(name: impl Into<String>, figure: Figure) -> Row {
        Row {
            name: name.into(),
            figure,
            limit: None,
            details: Vec::new(),
        }
    }

    /// A figure of the broker beside what the machine could do.
    pub(crate) fn of(name: impl Into<String>, figure: Figure, limit: (&'static str, Figure)) -> Row {
        Row {
            name: name.into(),
            figure,
            limit: Some(limit),
            details: Vec::new(),
        }
    }

    /// The same row with a detail.
    pub(crate) fn detail(mut self, name: &'static str, value: impl fmt::Display) -> Row {
        self.details.push((name, value.to_string()));
        self
    }

    fn line(&self) -> String {
        let ratio = match self.limit {
            None => String::new(),
            Some((name, limit)) => format!("{:>6.3} of {name} ({limit})", self.figure.ratio_to(limit)),
        };
        let details: Vec<_> = self
            .details
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let line = format!(
            "  {:<44} {:>14}  {ratio:<52}  {}",
            self.name,
            self.figure.to_string(),
            details.join(", ")
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let details = self
            .details
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value)));
        json!({
            "name": self.name,
            "value": self.figure.value(),
            "unit": self.figure.unit(),
            "limit": self.limit.map(|(name, _)| name),
            "ratio": self.limit.map(|(_, limit)| self.figure.ratio_to(limit)),
            "details": serde_json::Map::from_iter(details),
        })
    }
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report {
    /// The machine, in one line.
    pub(crate) machine: String,
    /// How the run was started.
    pub(crate) command: String,
    /// Parts with a title each.
    pub(crate) parts: Vec<(&'static str, Vec<Row>)>,
}

impl Report {
    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let part = |(title, rows): &(&str, Vec<Row>)| json!({ "part": title, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() });
        json!({
            "machine": self.machine,
            "command": self.command,
            "parts": self.parts.iter().map(part).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.machine, self.command)?;
        for (title, rows) in &self.parts {
            writeln!(f, "\n{title}")?;
            rows.iter().try_for_each(|row| writeln!(f, "{}", row.line()))?;
        }
        Ok(())
    }
}
