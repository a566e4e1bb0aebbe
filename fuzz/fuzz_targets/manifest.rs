//! See the target `manifest` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
haypile_fuzz::fuzz_program!("manifest");

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("it is built by: cargo +nightly fuzz run manifest");
}
