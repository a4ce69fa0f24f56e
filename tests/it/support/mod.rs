//! The bench: a real origin that counts, a private Redis, the real binary, and a client that controls
//! each byte it sends. Nothing here knows how narrows works inside.
//!
//! Invariants: every wait has an end ([`PATIENCE`]) and a condition; every port is picked by the system
//! or tried until free; the cap is judged at the origin, never by the proxy's own counters; each
//! response read by [`Client`] passes the standing check in `check.rs`.

mod certs;
pub(crate) mod check;
mod client;
mod cluster;
mod holes;
pub(crate) mod http2;
mod names;
pub(crate) mod origin;
pub(crate) mod parent;
mod proxy;
mod redis;
mod relay;
mod sentinel;
mod sockets;
pub(crate) mod users;
mod wire;

pub(crate) use certs::Certs;
pub(crate) use client::Client;
pub(crate) use client::End;
pub(crate) use client::Response;
pub(crate) use cluster::Cluster;
pub(crate) use holes::Blackhole;
pub(crate) use holes::Closed;
pub(crate) use http2::Answer;
pub(crate) use http2::Http2;
pub(crate) use http2::Tunnel;
pub(crate) use names::Names;
pub(crate) use origin::Origin;
pub(crate) use parent::Parent;
pub(crate) use proxy::Ended;
pub(crate) use proxy::Proxy;
pub(crate) use proxy::Setup;
pub(crate) use proxy::narrows;
pub(crate) use redis::Redis;
pub(crate) use relay::Path;
pub(crate) use relay::Relay;
pub(crate) use sentinel::Sentinel;
pub(crate) use sockets::ports_between;
pub(crate) use users::Users;
pub(crate) use wire::Head;
pub(crate) use wire::Wire;

use std::time::Duration;
use std::time::Instant;

/// No single wait of a test is longer: generous, since only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Polls until `is_so`, every 5 ms; fails the test with `what` after [`PATIENCE`].
pub(crate) async fn wait_until(what: &str, is_so: impl AsyncFnMut() -> bool) -> Duration {
    wait_at_most(PATIENCE, what, is_so).await
}

/// [`wait_until`] with its own deadline; how long it took.
pub(crate) async fn wait_at_most(
    deadline: Duration,
    what: &str,
    mut is_so: impl AsyncFnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

/// The outcome of `wait`, or a failed test that says what it waited for.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// `length` bytes in which each position can be told from its neighbours, so that a lost, doubled or
/// swapped block shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    let byte = |at: usize| (at * 31 + at / 251).to_le_bytes()[0];
    let period: Vec<u8> = (0..PERIOD).map(byte).collect();
    let mut bytes = period.repeat(length / PERIOD + 1);
    bytes.truncate(length);
    bytes
}

pub(crate) const MIB: usize = 1 << 20;
