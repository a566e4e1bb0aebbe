//! The simulated cluster, by seeds: see `haypile_tests::sim`.
//!
//! A seed that fails is repeated with the command that the failure prints. `HAYPILE_SIM_SECONDS` says for how long
//! to look for one.

use haypile_tests::sim::{Setup, run};

const STEPS: usize = 4000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn check(seed: u64, verbose: bool) -> haypile_tests::sim::Outcome {
    let steps = number("HAYPILE_SIM_STEPS").and_then(|steps| usize::try_from(steps).ok()).unwrap_or(STEPS);
    let again =
        format!("HAYPILE_SEED={seed} HAYPILE_SIM_STEPS={steps} cargo test -p haypile-tests --test cluster");
    match run(Setup { seed, steps, verbose }) {
        Ok(outcome) => outcome,
        Err(wrong) => panic!("{wrong}\nrepeat it with: {again}"),
    }
}

#[test]
fn a_cluster_under_faults_keeps_what_it_acknowledged_and_converges() {
    if let Some(seed) = number("HAYPILE_SEED") {
        println!("{:?}", check(seed, true));
        return;
    }
    let seconds = number("HAYPILE_SIM_SECONDS").unwrap_or(15);
    #[allow(clippy::disallowed_methods)] // how long to look, nothing that a run depends on
    let started = std::time::Instant::now();
    let first = number("HAYPILE_SIM_FIRST").unwrap_or(1);
    let (mut runs, mut acknowledged, mut handovers, mut copies) = (0, 0, 0, 0);
    while started.elapsed().as_secs() < seconds {
        let outcome = check(first + runs, false);
        acknowledged += outcome.acknowledged;
        handovers += outcome.handovers;
        copies += outcome.copies;
        runs += 1;
    }
    println!(
        "{runs} runs, {acknowledged} writes acknowledged, {handovers} handovers asked for, {copies} copies"
    );
    assert!(runs > 0 && acknowledged > 0, "the simulation does something");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let one = run(Setup { seed: 42, steps: 1500, verbose: false });
    assert_eq!(one, run(Setup { seed: 42, steps: 1500, verbose: false }));
    assert_ne!(one, run(Setup { seed: 43, steps: 1500, verbose: false }));
}
