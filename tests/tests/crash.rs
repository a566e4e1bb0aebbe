//! Every I/O operation of a seeded workload is cut once (kill and loss of power) and failed once (error, full disk);
//! the store is opened again and must hold what it promised. Recovery itself is cut too.
//!
//! `HAYPILE_SEED=N cargo test -p haypile-tests --test crash` repeats a seed; `HAYPILE_LONG=1` tries many.

use std::io::ErrorKind;

use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::random::Coin;
use haypile_tests::model::{Model, Stopped, open};

/// Steps of one workload.
const STEPS: usize = 150;

fn seeds(few: u64, many: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("HAYPILE_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let long = std::env::var("HAYPILE_LONG").is_ok_and(|value| value == "1");
    let range = one.map_or(0..if long { many } else { few }, |seed| seed..seed.saturating_add(1));
    range.inspect(|seed| println!("HAYPILE_SEED={seed}"))
}

/// Runs the workload of a seed on a file system, as far as it gets.
fn run(fs: &MemoryFs, seed: u64) -> (Model, Result<(), Error>) {
    let mut model = Model::default();
    let engine = match open(fs, seed) {
        Ok(engine) => engine,
        Err(error) => return (model, Err(error)),
    };
    let done = model.run(&engine, &mut Coin::new(seed), STEPS);
    (model, done)
}

/// Operations that the workload of a seed asks for.
fn operations(seed: u64) -> u64 {
    let fs = MemoryFs::new();
    let (mut model, done) = run(&fs, seed);
    done.expect("nothing fails on a sound machine");
    let after = fs.restart();
    model.check_recovered(&open(&after, seed).expect("opens"), Stopped::Killed);
    fs.operations()
}

fn reopen(fs: &MemoryFs, seed: u64, model: &mut Model, stopped: Stopped, what: &str) {
    let engine = open(fs, seed).unwrap_or_else(|error| panic!("{what}: {error}"));
    println!("{what}");
    model.check_recovered(&engine, stopped);
    // It goes on from there, and holds that too.
    let mut coin = Coin::new(seed ^ 1);
    model.run(&engine, &mut coin, 10).unwrap_or_else(|error| panic!("{what}, then: {error}"));
    drop(engine);
    let after = fs.restart();
    let engine = open(&after, seed).unwrap_or_else(|error| panic!("{what}, then again: {error}"));
    model.check_recovered(&engine, Stopped::Killed);
}

#[test]
fn a_loss_of_power_at_any_operation_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    for seed in seeds(1, 40) {
        for operation in 0..operations(seed) {
            let fs = MemoryFs::new();
            fs.stop_at(operation);
            let (model, _) = run(&fs, seed);
            for crash in 0..2 {
                let what = format!("power lost at operation {operation}, crash {crash}");
                reopen(&fs.crash(crash ^ seed), seed, &mut model.clone(), Stopped::PowerLost, &what);
            }
        }
    }
}

#[test]
fn a_kill_at_any_operation_keeps_what_was_written() {
    for seed in seeds(1, 40) {
        for operation in 0..operations(seed) {
            let fs = MemoryFs::new();
            fs.stop_at(operation);
            let (mut model, _) = run(&fs, seed);
            reopen(
                &fs.restart(),
                seed,
                &mut model,
                Stopped::Killed,
                &format!("killed at operation {operation}"),
            );
        }
    }
}

#[test]
fn an_error_at_any_operation_loses_nothing_acknowledged() {
    for seed in seeds(1, 40) {
        for operation in 0..operations(seed) {
            for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                let fs = MemoryFs::new();
                fs.fail_operation(operation, kind);
                let (mut model, _) = run(&fs, seed);
                let what = format!("{kind} at operation {operation}");
                reopen(&fs.restart(), seed, &mut model, Stopped::Killed, &what);
            }
        }
    }
}

#[test]
fn a_recovery_that_is_cut_at_any_operation_ends_with_the_same_state() {
    for seed in seeds(1, 20) {
        let total = operations(seed);
        let mut coin = Coin::new(seed);
        for _ in 0..8 {
            let operation = coin.next_u64() % total;
            let fs = MemoryFs::new();
            fs.stop_at(operation);
            let (model, _) = run(&fs, seed);
            let crashed = fs.crash(seed);
            let steps = {
                let whole = crashed.restart();
                open(&whole, seed).unwrap_or_else(|error| panic!("after operation {operation}: {error}"));
                whole.operations()
            };
            for step in 0..steps {
                let again = crashed.restart();
                again.stop_at(step);
                let _ = open(&again, seed);
                let what = format!(
                    "power lost at operation {operation}, and again at operation {step} of the recovery"
                );
                reopen(&again.crash(step), seed, &mut model.clone(), Stopped::PowerLost, &what);
            }
        }
    }
}

#[test]
fn a_lie_about_what_was_written_is_found() {
    // The canary: if the model could not tell a lost write, all of the above would prove nothing.
    let seed = 7;
    let fs = MemoryFs::new();
    let (model, _) = run(&fs, seed);
    let early = MemoryFs::new();
    early.stop_at(operations(seed) / 2);
    let _ = run(&early, seed);
    let engine = open(&early.restart(), seed).expect("opens");
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        model.clone().check_recovered(&engine, Stopped::Killed);
    }));
    assert!(found.is_err(), "half of the workload passed for all of it");
}
