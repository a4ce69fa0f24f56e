//! Rules about destinations, as people write them: `*.example.com`, `10.0.0.0/8:5432`, `*:25`.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use ipnet::Ipv4Net;
use thiserror::Error;

use crate::base::authority::Authority;
use crate::base::authority::BadAuthority;
use crate::base::authority::Host;

/// Ports from one to another, both with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

impl Ports {
    const ALL: Self = Self(1..=u16::MAX);

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for Ports {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|port| digits && *port > 0).ok_or(BadRule::Ports)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = port(first)?..=port(last)?;
        if ports.is_empty() { Err(BadRule::Ports) } else { Ok(Self(ports)) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => first.fmt(f),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    place: Place,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Whatever is asked for.
    Any,
    /// What is asked for by this name.
    Name(String),
    /// What is dialled in this network.
    Network(IpNet),
    /// What is asked for by a name below this one.
    Suffix(String),
}

impl Rule {
    pub(super) fn is_of_network(&self) -> bool {
        matches!(self.place, Place::Network(_))
    }

    /// Whether it speaks of what was asked for.
    pub(super) fn is_for_host(&self, asked: &Authority) -> bool {
        let is_named = match (&self.place, asked.host()) {
            (Place::Any, _) => true,
            (Place::Name(name), Host::Name(asked)) => **name == **asked,
            (Place::Suffix(suffix), Host::Name(asked)) => {
                asked.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Place::Name(_) | Place::Suffix(_), Host::Address(_)) | (Place::Network(_), _) => false,
        };
        is_named && self.ports.contains(asked.port_number())
    }

    /// Whether it speaks of this (canonical) address.
    pub(super) fn is_for_address(&self, address: IpAddr, port: u16) -> bool {
        match &self.place {
            Place::Network(network) => network.contains(&address) && self.ports.contains(port),
            Place::Any | Place::Name(_) | Place::Suffix(_) => false,
        }
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        // An IPv6 address has colons of its own.
        if let Some(network) = network(text) {
            return Ok(Self { place: Place::Network(network?), ports: Ports::ALL });
        }
        let (place, ports) = match text.rsplit_once(':') {
            Some((place, ports)) if !text.ends_with(']') => (place, ports.parse()?),
            Some(_) | None => (text, Ports::ALL),
        };
        let inner = place.strip_prefix('[').and_then(|place| place.strip_suffix(']'));
        let place = if let Some(network) = network(inner.unwrap_or(place)) {
            Place::Network(network?)
        } else if place.contains('/') {
            // No name can hold a slash.
            return Err(BadRule::Network);
        } else if place == "*" {
            Place::Any
        } else {
            let (suffix, below) = match place.strip_prefix("*.") {
                Some(suffix) => (suffix, true),
                None => (place, false),
            };
            match Host::parse(suffix).map_err(BadRule::Host)? {
                Host::Name(name) if below => Place::Suffix(name.to_string()),
                Host::Name(name) => Place::Name(name.to_string()),
                Host::Address(_) => return Err(BadRule::Host(BadAuthority::Name)),
            }
        };
        Ok(Self { place, ports })
    }
}

/// A network or a single address; none if it is something else.
fn network(text: &str) -> Option<Result<IpNet, BadRule>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Ok(address.to_canonical().into()));
    }
    let network: IpNet = text.parse().ok()?;
    Some(if network.addr() == network.network() {
        Ok(canonical(network))
    } else {
        Err(BadRule::Bits)
    })
}

/// A network within IPv4-mapped addresses as that of the IPv4 that they are.
fn canonical(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(length)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, length).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// Why a text is no rule about destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadRule {
    /// A network whose address has bits behind its prefix.
    #[error("a network's address must end where its prefix does, as 10.0.0.0/8")]
    Bits,
    /// No host either.
    #[error(
        "HOST, *.SUFFIX, *, an address or a network such as 10.0.0.0/8, if need be with :PORT or \
         :FIRST-LAST (IPv6 then in brackets); {0}"
    )]
    Host(BadAuthority),
    /// What stands around the slash is no network.
    #[error("a network is written as 10.0.0.0/8 or fc00::/7 ([fc00::/7]:443)")]
    Network,
    /// No ports.
    #[error("a port from 1 to 65535, or FIRST-LAST")]
    Ports,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn asks(rule: &str, asked: &str) -> bool {
        self::rule(rule).is_for_host(&Authority::parse(asked, None).unwrap())
    }

    fn dials(rule: &str, address: &str) -> bool {
        let address: std::net::SocketAddr = address.parse().unwrap();
        self::rule(rule).is_for_address(address.ip().to_canonical(), address.port())
    }

    #[test]
    fn a_rule_for_hosts_speaks_of_the_name_that_is_asked_for() {
        assert!(asks("example.com", "Example.COM.:443"));
        assert!(!asks("example.com", "www.example.com:443"));
        assert!(asks("*.example.com", "a.b.example.com:1"));
        for other in ["example.com:443", "badexample.com:443", "example.com.evil.test:443"] {
            assert!(!asks("*.example.com", other), "{other}");
        }
        assert!(asks("*.Bücher.example", "a.xn--bcher-kva.example:443"));
        assert!(asks("*", "a.test:1") && asks("*", "192.0.2.1:1"));
        assert!(!dials("*", "192.0.2.1:1"), "it is no network");
    }

    #[test]
    fn a_rule_for_networks_speaks_of_the_address_that_is_dialled() {
        assert!(dials("10.0.0.0/8", "10.255.255.255:1") && !dials("10.0.0.0/8", "11.0.0.0:1"));
        assert!(dials("192.0.2.7", "192.0.2.7:1") && !dials("192.0.2.7", "192.0.2.8:1"));
        assert!(dials("fc00::/7", "[fdff::1]:1") && !dials("fc00::/7", "[fe00::1]:1"));
        assert!(dials("::1", "[::1]:1") && dials("[::1]", "[::1]:1"));
        assert!(dials("::ffff:10.0.0.0/104", "10.1.2.3:1"));
        assert!(dials("::ffff:192.0.2.1", "192.0.2.1:1"));
        assert!(dials("192.0.2.1", "[::ffff:192.0.2.1]:1"));
        assert!(!asks("10.0.0.0/8", "10.0.0.1:1"), "an address in a name's place is no name");
    }

    #[test]
    fn a_rule_may_be_for_some_ports_alone() {
        assert!(asks("a.test:443", "a.test:443") && !asks("a.test:443", "a.test:444"));
        assert!(asks("*.test:1-1023", "a.test:1023") && !asks("*.test:1-1023", "a.test:1024"));
        assert!(asks("*:25", "a.test:25") && !asks("*:25", "a.test:26"));
        assert!(dials("10.0.0.0/8:5432", "10.1.1.1:5432"));
        assert!(!dials("10.0.0.0/8:5432", "10.1.1.1:5433"));
        assert!(dials("[fc00::/7]:80-81", "[fd00::1]:81"));
        assert!(!dials("[::1]:80", "[::1]:81"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (text, why) in [
            ("", BadRule::Host(BadAuthority::Empty)),
            ("a b", BadRule::Host(BadAuthority::Name)),
            ("*a.test", BadRule::Host(BadAuthority::Name)),
            ("a.*.test", BadRule::Host(BadAuthority::Name)),
            ("*.10.0.0.1", BadRule::Host(BadAuthority::Name)),
            ("127.1", BadRule::Host(BadAuthority::Numeric)),
            ("u@a.test", BadRule::Host(BadAuthority::Name)),
            ("10.0.0.1/8", BadRule::Bits),
            ("10.0.0.0/33", BadRule::Network),
            ("a.test/8", BadRule::Network),
            ("a.test:", BadRule::Ports),
            ("a.test:0", BadRule::Ports),
            ("a.test:65536", BadRule::Ports),
            ("a.test:9-8", BadRule::Ports),
            ("a.test:+9", BadRule::Ports),
            ("a.test:http", BadRule::Ports),
        ] {
            assert_eq!(text.parse::<Rule>(), Err(why), "{text}");
        }
    }

    #[test]
    fn ports_are_written_as_they_are_read() {
        for text in ["80", "1024-65535", "1-65535"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
    }
}
