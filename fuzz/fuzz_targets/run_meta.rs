//! See the target `run_meta` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
haypile_fuzz::fuzz_program!("run_meta");

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("it is built by: cargo +nightly fuzz run run_meta");
}
