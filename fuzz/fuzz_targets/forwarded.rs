//! See `narrows::fuzzing::forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narrows::fuzzing::forwarded(data));
