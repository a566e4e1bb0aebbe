//! See the target `frame` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

haypile_fuzz::fuzz_program!("frame");
