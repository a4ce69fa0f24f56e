//! See `narrows::fuzzing::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::headers(data));
