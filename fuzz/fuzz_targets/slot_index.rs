//! See the target `slot_index` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

haypile_fuzz::fuzz_program!("slot_index");
