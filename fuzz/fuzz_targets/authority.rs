//! See `narrows::fuzzing::authority`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::authority(data));
