//! Names to addresses, in the order in which they are to be tried.
//!
//! A look-up is bounded in time and its result is used once: whoever checks an address checks the
//! one that is then dialled.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use thiserror::Error;

use super::Pinned;
use super::Resolver;
use crate::base::authority::Authority;
use crate::base::authority::Host;

/// Why there is no address.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The resolver said no, or had nothing.
    #[error("{0}")]
    Failed(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Looks names up. One per thread: the tasks of a resolver live on the runtime that made them.
pub(crate) struct Lookup {
    server: Option<TokioResolver>,
    pinned: Vec<Pinned>,
    timeout: Duration,
}

impl Lookup {
    pub(crate) fn new(
        resolver: &Resolver,
        pinned: Vec<Pinned>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let server = match resolver {
            Resolver::System => None,
            Resolver::Server(address) => Some(ask_server(*address)?),
        };
        Ok(Self { server, pinned, timeout })
    }

    /// The addresses of an authority, families in turn, IPv6 first (RFC 8305 §4).
    pub(crate) async fn addresses(
        &self,
        authority: &Authority,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let port = authority.port_number();
        let name = match authority.host() {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => name,
        };
        let pinned = self.pinned.iter().filter(|pin| {
            pin.host == **name && pin.port.is_none_or(|pinned_port| pinned_port == port)
        });
        let mut found: Vec<IpAddr> = pinned.map(|pin| pin.address).collect();
        if found.is_empty() {
            let asked = tokio::time::timeout(self.timeout, self.ask(name));
            found = match asked.await {
                Ok(found) => found.map_err(ResolveError::Failed)?,
                Err(_elapsed) => return Err(ResolveError::TimedOut(self.timeout)),
            };
        }
        if found.is_empty() {
            return Err(ResolveError::Failed("the name has no address".to_owned()));
        }
        Ok(interleave(found).into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        if let Some(server) = &self.server {
            // The final dot keeps search domains out: a proxy's clients mean the name they say.
            let answer = server.lookup_ip(format!("{name}.")).await;
            return Ok(answer.map_err(|error| error.to_string())?.iter().collect());
        }
        let answer = tokio::net::lookup_host((name, 0)).await;
        Ok(answer.map_err(|error| error.to_string())?.map(|found| found.ip()).collect())
    }
}

fn ask_server(address: SocketAddr) -> io::Result<TokioResolver> {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .build()
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Families in turn, each in the order it came, beginning with IPv6.
fn interleave(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let count = found.len();
    let (six, four): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        ordered.extend(six.next());
        ordered.extend(four.next());
    }
    let mut seen = std::collections::HashSet::new();
    ordered.retain(|address| seen.insert(*address));
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_beginning_with_ipv6() {
        let found = ["10.0.0.1", "10.0.0.2", "10.0.0.1", "::1", "::2"];
        let found = found.map(|text| text.parse().unwrap()).to_vec();
        let ordered: Vec<String> = interleave(found).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["::1", "10.0.0.1", "::2", "10.0.0.2"]);
    }

    #[tokio::test]
    async fn a_pinned_name_is_not_looked_up() {
        let pin = |port, address: &str| Pinned {
            host: "a.invalid".to_owned(),
            port,
            address: address.parse().unwrap(),
        };
        let pinned = vec![pin(Some(443), "10.0.0.1"), pin(None, "10.0.0.2")];
        let lookup = Lookup::new(&Resolver::System, pinned, Duration::from_secs(1)).unwrap();
        let of = async |text: &str| {
            let authority = Authority::parse(text, None).unwrap();
            lookup.addresses(&authority).await.unwrap().len()
        };
        assert_eq!((of("A.invalid.:443").await, of("a.invalid:80").await), (2, 1));
    }
}
