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
        "{title:<48}{:>11}{:>8}{:>10}{:>10}{:>9}{:>8}{:>9}{:>8}{:>8}\n",
        "ns", "+-", "limit ns", "of limit", "allocs", "bytes", "instr", "copies", "bytes"
    );
    for row in rows {
        let _ = writeln!(
            out,
            "{:<48}{:>11.1}{:>7.1}%{:>10.1}{:>9.1}x{:>9.3}{:>8.0}{}",
            row.name,
            row.time,
            row.spread * 100.0,
            row.limit,
            row.ratio,
            row.allocations,
            row.allocated,
            row.counts.map_or_else(String::new, |counts| {
                format!(
                    "{:>9.0}{:>8.2}{:>8.0}",
                    counts.instructions, counts.copies, counts.copied
                )
            })
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
            "instructions": row.counts.map(|counts| counts.instructions),
            "copies": row.counts.map(|counts| counts.copies),
            "copied": row.counts.map(|counts| counts.copied),
        });
        (row.name.clone(), figures)
    });
    json!({
        "machine": proc::machine(),
        "segments": serde_json::Map::from_iter(segments),
    })
}
