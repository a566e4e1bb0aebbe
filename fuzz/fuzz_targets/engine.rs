//! See the target `engine` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
haypile_fuzz::fuzz_program!("engine");

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("it is built by: cargo +nightly fuzz run engine");
}
