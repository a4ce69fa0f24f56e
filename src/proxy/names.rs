//! What a client of HTTP/2 may call us by, so that its requests for us are known from those that are to
//! be forwarded: over HTTP/2 each names a host.

use std::net::SocketAddr;

use crate::base::authority::Authority;
use crate::base::authority::Host;
use crate::listen::stream::Stream;

/// The names that a connection itself tells of.
#[derive(Debug, Default)]
pub(crate) struct Names {
    local: Option<SocketAddr>,
    /// What the client asked for in TLS.
    server: Option<Host>,
}

impl Names {
    pub(crate) fn of(stream: &Stream) -> Self {
        Self {
            local: stream.tcp().local_addr().ok(),
            server: stream.server_name().and_then(|name| Host::parse(name).ok()),
        }
    }

    /// Whether an authority is the address that the connection came to, or by `https` the name that
    /// was asked for in TLS, whatever its port: that may be mapped.
    pub(crate) fn has(&self, authority: &Authority, tls: bool) -> bool {
        let is_local = |local: &SocketAddr| {
            let ip = local.ip().to_canonical();
            let is_host = match authority.host() {
                Host::Address(address) => *address == ip,
                Host::Name(name) => &**name == "localhost" && ip.is_loopback(),
            };
            is_host && authority.port_number() == local.port()
        };
        self.local.as_ref().is_some_and(is_local)
            || (tls && self.server.as_ref() == Some(authority.host()))
    }
}
