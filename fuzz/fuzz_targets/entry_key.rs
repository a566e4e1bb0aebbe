//! See the target `entry_key` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

haypile_fuzz::fuzz_program!("entry_key");
