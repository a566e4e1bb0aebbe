//! See the target `payload` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
haypile_fuzz::fuzz_program!("payload");

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("it is built by: cargo +nightly fuzz run payload");
}
