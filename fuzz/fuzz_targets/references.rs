//! For libFuzzer: what the target does is in `fuzz/targets/src/references.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::references::run(input));
