//! See the target `words` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

haypile_fuzz::fuzz_program!("words");
