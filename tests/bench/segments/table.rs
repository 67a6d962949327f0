//! What was found, for people and for programs.

use std::fmt::Write;

use pointsman_tests::proc;
use serde_json::{Value, json};

use crate::measure::Row;

/// A table; all figures are for one message.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut out = format!("{}\n", proc::machine());
    let title = "segment, for one message";
    out += &format!(
        "{title:<44}{:>11}{:>8}{:>11}{:>10}{:>10}{:>10}\n",
        "ns", "+-", "limit ns", "of limit", "allocs", "bytes"
    );
    for row in rows {
        let _ = writeln!(
            out,
            "{:<44}{:>11.1}{:>7.1}%{:>11.1}{:>9.1}x{:>10.3}{:>10.0}",
            row.name,
            row.time,
            row.spread * 100.0,
            row.limit,
            row.ratio,
            row.allocations,
            row.allocated
        );
    }
    out
}

pub(crate) fn json(rows: &[Row]) -> Value {
    let segments = rows.iter().map(|row| {
        let figures = json!({
            "ns": row.time,
            "spread": row.spread,
            "limit_ns": row.limit,
            "ratio": row.ratio,
            "allocations": row.allocations,
            "allocated": row.allocated,
        });
        (row.name.clone(), figures)
    });
    json!({
        "machine": proc::machine(),
        "segments": serde_json::Map::from_iter(segments),
    })
}
