//! Two nodes under a random load, with everything that may happen to them, against a model that knows what was
//! promised. The same seed is the same run; a failure prints how to repeat it.
//!
//! `HAYPILE_SEED=7 HAYPILE_ITERATIONS=1 cargo test -p haypile-engine --test torture`

#[path = "../common/mod.rs"]
mod common;
mod model;
mod node;
mod pair;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pair::Pair;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// One run; says what it came to.
fn run(seed: u64, steps: u64) -> u64 {
    let mut pair = Pair::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| pair.run(steps)));
    outcome.unwrap_or_else(|panic| {
        for line in pair.trace() {
            eprintln!("{line}");
        }
        eprintln!(
            "HAYPILE_SEED={seed} HAYPILE_ITERATIONS=1 HAYPILE_STEPS={steps} cargo test -p haypile-engine --test torture \
             promises"
        );
        resume_unwind(panic)
    })
}

#[test]
fn two_nodes_keep_their_promises_whatever_happens() {
    let first = from_env("HAYPILE_SEED").unwrap_or(1);
    let iterations = from_env("HAYPILE_ITERATIONS").unwrap_or(250);
    let steps = from_env("HAYPILE_STEPS").unwrap_or(250);
    for seed in first..first + iterations {
        run(seed, steps);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run(4711, 120), run(4711, 120));
}
