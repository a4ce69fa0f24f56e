//! Listening sockets and the accept loop.

use std::net::SocketAddr;

/// Where clients come in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 picks a free one.
    pub address: SocketAddr,
    /// Threads that serve, each with a listening socket and a pool of its own; at least 1.
    pub threads: usize,
}
