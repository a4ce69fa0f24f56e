//! See `narrows::fuzzing::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::config(data));
