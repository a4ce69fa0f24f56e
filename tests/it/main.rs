//! What narrows does, as seen from outside: the real binary, real sockets, a real Redis.
//!
//! The modules are the table of contents, the test names the sentences.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::format_push_string,
    clippy::many_single_char_names,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "the rules of the proxy's own code: a test measures time, connects and fails loudly"
)]

mod support;

mod access;
mod admin;
mod answers;
mod apis_admin;
mod bench;
mod breaker;
mod cache;
mod clients;
mod config;
mod cooldown;
mod deployments;
mod egress;
mod faults;
mod fleet;
mod floors;
mod forward;
mod gateway;
mod hosts;
mod http2;
mod idle;
mod keys;
mod limit;
mod listen;
mod logs;
mod observe;
mod oracle;
mod parents;
mod pool;
mod quota;
mod redis_hung;
mod reload;
mod resend;
mod retry;
mod scripts;
mod secrets;
mod settings;
mod standards;
mod stop;
mod table;
mod tunnel;
mod upstream_bounds;
mod waiting;
mod wire;
