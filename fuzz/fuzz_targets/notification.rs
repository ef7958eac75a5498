//! For libFuzzer: what the target does is in `fuzz/targets/src/notification.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::notification::run(input));
