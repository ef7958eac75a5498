//! For libFuzzer: what the target does is in `fuzz/targets/src/saved_event.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::saved_event::run(input));
