//! The simulated cluster, by seeds: see `haypile_tests::sim`.
//!
//! A seed that fails is repeated with the command that the failure prints. `HAYPILE_SIM_SECONDS` says for how long
//! to look for one.

use haypile_tests::sim::{Outcome, SMALL_STEPS, Setup, Size, run, shrink};

const STEPS: usize = 4000;
/// Runs to shorten one that fails.
const SHRINK_RUNS: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A cluster of this seed, as large as `HAYPILE_SIM_SIZE` says or else as here.
fn setup(seed: u64, size: Size) -> Setup {
    let size = match std::env::var("HAYPILE_SIM_SIZE").as_deref() {
        Ok("small") => Size::Small,
        Ok(_) => Size::Any,
        Err(_) => size,
    };
    let usual = if size == Size::Small { SMALL_STEPS } else { STEPS };
    let steps = number("HAYPILE_SIM_STEPS").and_then(|steps| usize::try_from(steps).ok()).unwrap_or(usual);
    Setup { seed, size, steps, verbose: false }
}

fn check(setup: Setup) -> Outcome {
    let Setup { seed, size, steps, .. } = setup;
    let size_word = if size == Size::Small { "small" } else { "any" };
    let again = format!(
        "HAYPILE_SEED={seed} HAYPILE_SIM_SIZE={size_word} HAYPILE_SIM_STEPS={steps} \
         cargo test -p haypile-tests --test cluster -- --nocapture"
    );
    match std::panic::catch_unwind(|| run(setup)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(wrong)) => {
            let shorter = shrink(setup, SHRINK_RUNS);
            panic!("{wrong}\nin short: {shorter:?}\nrepeat it with: {again}")
        }
        Err(_) => {
            let shorter = shrink(setup, SHRINK_RUNS);
            panic!("a panic, in short: {shorter:?}\nrepeat it with: {again}")
        }
    }
}

#[test]
fn a_cluster_under_faults_keeps_what_it_acknowledged_and_converges() {
    if let Some(seed) = number("HAYPILE_SEED") {
        println!("{:?}", check(Setup { verbose: true, ..setup(seed, Size::Any) }));
        return;
    }
    // A third of the time small clusters, of which many fit, and the rest for large ones.
    let seconds = number("HAYPILE_SIM_SECONDS").unwrap_or(15);
    for (size, seconds) in [(Size::Small, seconds / 3), (Size::Any, seconds - seconds / 3)] {
        #[allow(clippy::disallowed_methods)] // how long to look, nothing that a run depends on
        let started = std::time::Instant::now();
        let first = number("HAYPILE_SEEDS_FROM").unwrap_or(1);
        let (mut runs, mut acknowledged, mut handovers, mut copies, mut taken) = (0, 0, 0, 0, 0);
        while started.elapsed().as_secs() < seconds {
            let outcome = check(setup(first + runs, size));
            acknowledged += outcome.acknowledged;
            handovers += outcome.handovers;
            copies += outcome.copies;
            taken += outcome.taken_back;
            runs += 1;
        }
        println!(
            "{size:?}: {runs} runs, {:.0} a second, {acknowledged} writes acknowledged, {handovers} handovers asked \
             for, {copies} copies, {taken} lost records taken back",
            runs as f64 / started.elapsed().as_secs_f64()
        );
        assert!(runs > 0 && acknowledged > 0, "the simulation does something");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let of = |seed| run(Setup { seed, size: Size::Any, steps: 1500, verbose: false });
    let one = of(42);
    assert_eq!(one, of(42));
    assert_ne!(one, of(43));
}
