//! For libFuzzer: what the target does is in `fuzz/targets/src/message_rows.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::message_rows::run(input));
