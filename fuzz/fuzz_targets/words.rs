//! See the target `words` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
haypile_fuzz::fuzz_program!("words");

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("it is built by: cargo +nightly fuzz run words");
}
