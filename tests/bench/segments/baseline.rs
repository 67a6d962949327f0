//! What a change did: the rows of this run against those that are stored.
//!
//! Instructions, copies and allocations are the same in every run, so small differences count. Times are not: only
//! what is far beyond the noise of both runs is told, and only on a machine like the one of the stored run.

use std::fmt::Write;
use std::path::PathBuf;

use pointsman_tests::{binary, proc};
use serde_json::Value;

use crate::measure::Row;
use crate::table;

/// Part of the instructions by which a segment must change to be told.
const INSTRUCTIONS: f64 = 0.02;
/// Allocations and copies of a message by which a segment must change to be told.
const CALLS: f64 = 0.02;
/// Part of the time, beside three times the spread of both runs.
const TIME: f64 = 0.15;

/// Stores the rows.
///
/// # Panics
/// When the file cannot be written.
pub(crate) fn store(rows: &[Row]) {
    let text = format!("{:#}\n", table::json(rows));
    std::fs::write(file(), text).expect("the repository can be written");
}

/// Every difference that counts, in lines.
pub(crate) fn compare(rows: &[Row]) -> String {
    let Ok(stored) = std::fs::read_to_string(file()) else {
        return "there is no baseline to compare with: `make bench-baseline` stores one\n".to_owned();
    };
    let stored: Value = serde_json::from_str(&stored).expect("the baseline is JSON");
    let same_machine = stored["machine"] == proc::machine();
    let mut out = match same_machine {
        true => "against the baseline, beyond the noise:\n".to_owned(),
        false => format!(
            "against the baseline, without times, which are of {}:\n",
            stored["machine"]
        ),
    };
    let before = out.len();
    for row in rows {
        let old = &stored["segments"][&row.name];
        if old.is_null() {
            let _ = writeln!(out, "  {}: is new", row.name);
            continue;
        }
        for change in changes(row, old, same_machine) {
            let _ = writeln!(out, "  {}: {change}", row.name);
        }
    }
    if out.len() == before {
        out += "  nothing\n";
    }
    out
}

fn changes(row: &Row, old: &Value, same_machine: bool) -> Vec<String> {
    let mut changes = Vec::new();
    let mut compare = |what: &str, new: f64, name: &str, counts: &dyn Fn(f64, f64) -> bool| {
        if let Some(old) = old[name].as_f64()
            && counts(new, old)
        {
            let part = (new / old - 1.0) * 100.0;
            changes.push(format!("{what} {old:.2} -> {new:.2} ({part:+.1} %)"));
        }
    };
    let calls = |new: f64, old: f64| (new - old).abs() > CALLS;
    if let Some(counts) = row.counts {
        let many = |new: f64, old: f64| (new - old).abs() > old * INSTRUCTIONS;
        compare("instructions", counts.instructions, "instructions", &many);
        compare("copies", counts.copies, "copies", &calls);
    }
    compare("allocations", row.allocations, "allocations", &calls);
    if same_machine {
        let noise = TIME + 3.0 * (row.spread + old["spread"].as_f64().unwrap_or(1.0));
        let far = |new: f64, old: f64| new > old * (1.0 + noise) || old > new * (1.0 + noise);
        compare("time by raw limit", row.ratio, "ratio", &far);
    }
    changes
}

fn file() -> PathBuf {
    binary::repository().join("tests/bench/baseline.json")
}
