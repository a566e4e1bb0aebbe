//! See the target `segment_footer` in `fuzz/src/targets/`.
#![cfg_attr(fuzzing, no_main)]

haypile_fuzz::fuzz_program!("segment_footer");
