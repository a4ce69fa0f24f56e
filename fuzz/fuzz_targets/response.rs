//! See `narrows::fuzzing::response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::response(data));
