//! `make bench`, its first half: what every segment of the data path costs, alone and in one thread.
//!
//! Each row is the time of a message beside the time the machine needs for the same bytes at best, measured in turns;
//! beside it how often a message allocates and, with `--count` and valgrind, how many instructions it takes and how
//! often it is copied. What changed against `tests/bench/baseline.json` stands below; `--store` makes this run the
//! baseline. A word runs only the segments whose name has it. `--json` writes JSON, `--list` only the names.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a benchmark")]

mod segment;
mod frames;
mod exchanges;
mod modules;
mod core;
mod store;
mod path;
mod limit;
mod counts;
mod measure;
mod table;
mod baseline;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use segment::Segment;

/// The system's allocator, which counts. It costs two atomic additions a call, which is why the load generator in
/// `bench` is another program.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[expect(clippy::print_stdout, reason = "the report is what a bench is for")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let word = args.iter().find(|arg| !arg.starts_with('-'));
    if has("--run") {
        let this = all().into_iter().find(|segment| Some(&segment.name) == word);
        return this.expect("it names a segment").run();
    }
    let segments: Vec<Segment> = all()
        .into_iter()
        .filter(|segment| word.is_none_or(|word| segment.name.contains(word.as_str())))
        .collect();
    if has("--list") {
        for segment in &segments {
            println!("{}", segment.name);
        }
        return;
    }
    let counting = has("--count");
    assert!(!counting || counts::can_count(), "--count needs valgrind");
    let rows = measure::measure(segments, counting);
    match has("--json") {
        true => println!("{:#}", table::json(&rows)),
        false => print!("{}\n{}", table::text(&rows), baseline::compare(&rows)),
    }
    if has("--store") {
        assert!(
            word.is_none() && counting,
            "a baseline is of all segments, with --count"
        );
        baseline::store(&rows);
    }
}

/// Every segment, along the data path.
fn all() -> Vec<Segment> {
    [
        frames::received(),
        exchanges::segments(),
        modules::segments(),
        core::segments(),
        store::segments(),
        frames::delivered(),
        path::segments(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
