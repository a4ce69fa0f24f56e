//! See `narrows::fuzzing::kept`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::kept(data));
