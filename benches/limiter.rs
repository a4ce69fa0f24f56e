//! The limiter within one process, without Redis: `cargo bench`, or `cargo bench -- --quick`.
//!
//! `narrows bench limiter` measures the same and everything about Redis beside it.

use std::io::Write;

fn main() -> std::io::Result<()> {
    // cargo adds a word of its own.
    let is_quick = std::env::args().any(|word| word == "--quick");
    writeln!(std::io::stdout(), "{}", narrows::bench::in_memory(is_quick))
}
