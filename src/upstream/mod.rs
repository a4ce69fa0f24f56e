//! The far side: connections to where requests are bound for.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::authority::HostKey;

/// Who turns names into addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// This DNS server.
    Server(SocketAddr),
    /// The system (getaddrinfo).
    #[default]
    System,
}

/// A name that is not looked up, as curl's `--resolve`: `HOST=ADDR` or `HOST:PORT=ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The name.
    pub host: String,
    /// The port it holds for; all when none.
    pub port: Option<u16>,
    /// The addresses it has (more than one may be given, by more than one such entry).
    pub address: IpAddr,
}

/// How narrows reaches upstreams.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the first packet to an open connection, all addresses together.
    pub connect_timeout: Duration,
    /// For one look-up.
    pub dns_timeout: Duration,
    /// From the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// Without a byte in either direction of a running message.
    pub idle_timeout: Duration,
    /// How long a kept connection may idle.
    pub pool_idle: Duration,
    /// Kept connections per thread.
    pub pool_size: usize,
    /// Who turns names into addresses.
    pub resolver: Resolver,
    /// Names that are not looked up.
    pub pinned: Vec<Pinned>,
    /// PEM files of certificate authorities trusted beside the system's.
    pub authorities: Vec<PathBuf>,
}

/// Placeholder use so that the import stays.
pub type Key = HostKey;
