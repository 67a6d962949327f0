//! The core against a reference model, under a seeded scheduler with late commits, late and reordered reads, kills
//! and power losses.
//!
//! `SEED=n cargo test -p pointsman-tests --test simulation` replays one run, `SEEDS=n` says how many seeds to try.

mod model;
mod store;
mod stream;
mod world;

use world::{Figures, World};

const STEPS: u32 = 1_500;
const SEEDS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
    )
}

/// Runs a seed; a failure names it.
fn run(seed: u64) -> (u64, Figures) {
    let run = std::panic::catch_unwind(|| World::new(seed).run(STEPS));
    run.unwrap_or_else(|_| panic!("seed {seed} failed; replay it with SEED={seed}"))
}

#[test]
fn what_comes_out_is_what_the_model_allows_and_nothing_leaks() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let mut total = Figures::default();
    for seed in seeds.clone() {
        total.add(&mut run(seed).1);
    }
    if seeds.count() > 50 {
        assert!(total.reached_everything(), "the runs miss a path: {total:?}");
    }
}

#[test]
fn the_same_seed_makes_the_same_commits_bit_for_bit() {
    for seed in 1_000_000..1_000_010 {
        assert_eq!(run(seed).0, run(seed).0, "seed {seed}");
    }
}
