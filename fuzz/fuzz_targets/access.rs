//! See `narrows::fuzzing::access`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::access(data));
