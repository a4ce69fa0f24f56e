//! The second port: what narrows does, for operators.

use std::net::SocketAddr;

/// Where operators come in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 picks a free one.
    pub address: SocketAddr,
}
