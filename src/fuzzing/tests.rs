//! Each target with its files in git, and with those files changed at random: some seconds of what
//! `scripts/fuzz` does for as long as one likes.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::Config as Settings;
use proptest::test_runner::TestRunner;

use super::TARGETS;

/// What changes are made of, beside single bytes: what parsers trip over.
const WORDS: [&[u8]; 20] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: o\r\n",
    b"Connection: x\r\n",
    b"HTTP/1.0",
    b"@",
    b"[::1]",
    b"\xff",
    b"99999999999999999999",
];

/// One change: where (of the length so far), how much goes, what comes.
type Change = (prop::sample::Index, usize, Vec<u8>);

fn change() -> impl Strategy<Value = Change> {
    let word = prop::sample::select(&WORDS[..]).prop_map(<[u8]>::to_vec);
    let coming = prop_oneof![word, prop::collection::vec(any::<u8>(), 0..3)];
    (any::<prop::sample::Index>(), 0..3_usize, coming)
}

fn changed(seed: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (at, gone, coming) in changes {
        let at = at.index(bytes.len() + 1);
        let end = bytes.len().min(at + gone);
        bytes.splice(at..end, coming.iter().copied());
    }
    bytes
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder:?} is empty");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn run(target: &str, cases: u32) {
    let (_, function) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = corpus(target);
    for seed in &seeds {
        function(seed);
    }
    let inputs = (prop::sample::select(seeds), prop::collection::vec(change(), 1..8));
    let mut runner =
        TestRunner::new(Settings { failure_persistence: None, ..Settings::with_cases(cases) });
    let outcome = runner.run(&inputs, |(seed, changes)| {
        let bytes = changed(&seed, &changes);
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let done = std::panic::catch_unwind(|| function(&bytes));
        prop_assert!(done.is_ok(), "{shown:?}");
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{target}: {failure}"));
}

#[test]
fn nothing_that_is_shown_is_more_than_it_is() {
    run("access", 5_000);
}

#[test]
fn an_authority_says_one_thing_only() {
    run("authority", 10_000);
}

#[test]
fn any_settings_are_taken_or_refused_in_words() {
    run("config", 300);
}

#[test]
fn the_origin_reads_what_the_client_meant_or_nothing() {
    run("forwarded", 400);
}

#[test]
fn a_header_of_the_proxy_protocol_ends_in_one_place() {
    run("proxy_protocol", 10_000);
}

#[test]
fn what_concerns_one_hop_never_crosses_it() {
    run("headers", 5_000);
}

#[test]
fn a_kept_head_is_read_back_as_it_was_or_not_at_all() {
    run("kept", 10_000);
}

#[test]
fn a_request_ends_where_it_ends_in_whatever_pieces_it_comes() {
    run("request", 5_000);
}

#[test]
fn a_response_passes_the_same_in_whatever_pieces_it_comes() {
    run("response", 5_000);
}

#[test]
fn each_target_is_fuzzed_and_has_files() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        assert!(fuzz.join(format!("fuzz_targets/{target}.rs")).exists(), "{target}");
        corpus(target);
    }
}
