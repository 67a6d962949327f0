//! Every decoder that reads what others wrote, fed with mutations of valid bytes.
//!
//! Each target runs for `FUZZ_SECONDS` (1 otherwise) from the seed `FUZZ_SEED` (a fixed one otherwise). What must hold
//! is in the targets: no panic, nothing taken beyond what is there, and what decodes encodes to something that decodes
//! to the same. A failure prints the seed and the bytes that repeat it.

#![allow(missing_docs, reason = "tests are named, not documented")]

mod corpus;
mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Longest input that is made, in bytes.
const INPUT_MAX: usize = 8 * 1024;

/// Feeds a target with its corpus as it is, then with mutations until the time is up. An input that is accepted joins
/// the corpus, so that mutations go deeper; a full corpus takes it in place of a random one.
fn fuzz(name: &str, mut corpus: Vec<Vec<u8>>, target: fn(&[u8]) -> bool) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let seed = number("FUZZ_SEED").unwrap_or(0x00C0_FFEE);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1));
    let mut random = Rng::with_seed(seed);
    for input in &corpus {
        assert!(
            run(name, seed, target, input),
            "{name}: the corpus itself is accepted: {input:02X?}"
        );
    }
    let (mut tried, mut accepted) = (0u64, 0u64);
    while Instant::now() < until {
        for _ in 0..256 {
            let input = mutate::mutate(&mut random, &corpus, INPUT_MAX);
            tried += 1;
            if run(name, seed, target, &input) {
                accepted += 1;
                if corpus.len() < 256 {
                    corpus.push(input);
                } else {
                    let at = random.usize(..corpus.len());
                    corpus[at] = input;
                }
            }
        }
    }
    // A target that accepts nothing, or everything, tests little.
    assert!(
        accepted > 0 && accepted < tried,
        "{name}: {accepted} of {tried} accepted"
    );
}

fn run(name: &str, seed: u64, target: fn(&[u8]) -> bool, input: &[u8]) -> bool {
    match catch_unwind(AssertUnwindSafe(|| target(input))) {
        Ok(accepted) => accepted,
        Err(panic) => {
            let message = format!("{name} fails with FUZZ_SEED={seed} on {input:02X?}\n");
            // Past the capture of the test harness there is nothing better than standard error.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes());
            resume_unwind(panic)
        }
    }
}

#[test]
fn frames() {
    fuzz("frames", corpus::frames(), targets::frames);
}

#[test]
fn metadata_of_every_frame_kind() {
    fuzz("metadata", corpus::metadata(), targets::metadata);
}

#[test]
fn message_metadata() {
    fuzz("message metadata", corpus::messages(), targets::message);
}

#[test]
fn chunks() {
    fuzz("chunks", corpus::chunks(), targets::chunk);
}

#[test]
fn sparse_chunks() {
    fuzz("sparse chunks", corpus::sparse_chunks(), targets::sparse_chunk);
}

#[test]
fn packed_decisions() {
    fuzz("packed decisions", corpus::decisions(), targets::decisions);
}

#[test]
fn packed_plans_and_targets() {
    fuzz("packed plans", corpus::plans(), targets::plan);
    fuzz("packed targets", corpus::target_lists(), targets::target_list);
}
