//! For libFuzzer: what the target does is in `fuzz/targets/src/batch_answer.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::batch_answer::run(input));
