//! Where a request is bound for: `host:port`, parsed and normalised once.
//!
//! One parser serves the limit's key, the dial and every check, so that no two of them can
//! disagree about which host a text names. A form that some resolvers would read as another host
//! (`127.1`, `0x7f.1`, userinfo) is refused instead of interpreted.

use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::sync::Arc;

use thiserror::Error;

/// A host: a registered name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A literal address. IPv4-mapped IPv6 has become its IPv4.
    Address(IpAddr),
    /// A name: lower case, A-labels (IDNA), without a trailing dot.
    Name(Arc<str>),
}

impl Host {
    /// Reads a host as it stands in an authority (IPv6 in brackets).
    pub fn parse(text: &str) -> Result<Self, BadAuthority> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadAuthority::Brackets)?;
            let address: Ipv6Addr = inner.parse().map_err(|_why| BadAuthority::Brackets)?;
            let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
            return Ok(Self::Address(address));
        }
        let ascii;
        let name = if text.is_ascii() {
            text
        } else {
            ascii = idna::domain_to_ascii(text).map_err(|_why| BadAuthority::Name)?;
            &ascii
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return Err(BadAuthority::Empty);
        }
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(BadAuthority::Name);
        }
        // As the WHATWG URL standard's "ends in a number": a resolver would read such a name as
        // an IPv4 address in a form nobody checks.
        let last = name.rsplit('.').next().unwrap_or(name);
        let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
            || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if numeric {
            return Err(BadAuthority::Numeric);
        }
        Ok(Self::Name(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `host:port`, normalised: what a request is bound for (RFC 3986 §3.2, without userinfo).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    host: Host,
    port: u16,
    key: HostKey,
}

impl Hash for Authority {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The key says all but which of ports 80 and 443 it is.
        self.port.hash(state);
        self.key.hash(state);
    }
}

impl Authority {
    /// Joins a host and a port (1 to 65535).
    pub fn new(host: Host, port: u16) -> Self {
        let key = HostKey::of(&host, port);
        Self { host, port, key }
    }

    /// Reads `host:port`, or `host` alone where `default_port` says what it stands for. A CONNECT
    /// target has no default (RFC 9110 §9.3.6).
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, BadAuthority> {
        if text.contains('@') {
            return Err(BadAuthority::Userinfo);
        }
        if text.starts_with('[') && !text.contains(']') {
            return Err(BadAuthority::Brackets);
        }
        let after_host = text.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match text[after_host..].find(':') {
            None => (text, default_port.ok_or(BadAuthority::NoPort)?),
            Some(colon) => {
                let (host, port) = text.split_at(after_host + colon);
                (host, Self::port(&port[1..], default_port)?)
            }
        };
        Ok(Self::new(Host::parse(host)?, port))
    }

    fn port(text: &str, default: Option<u16>) -> Result<u16, BadAuthority> {
        // RFC 3986 §3.2.3 lets the port be empty; that means the scheme's default.
        if text.is_empty() {
            return default.ok_or(BadAuthority::NoPort);
        }
        if text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadAuthority::Port);
        }
        text.parse().ok().filter(|port| *port != 0).ok_or(BadAuthority::Port)
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, 1 to 65535.
    pub fn port_number(&self) -> u16 {
        self.port
    }

    /// What a limit counts for this authority.
    pub fn key(&self) -> &HostKey {
        &self.key
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a limit counts: the bare host for ports 80 and 443, `host:port` for any other port; or the
/// budget that a rule shares among all names below a suffix, as `*.example.com`; or what of either one
/// identity may have, as `alice@api.example.com`.
///
/// Cheap to clone. The text holds no character that a Redis key or a log line would mind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostKey(Arc<str>);

impl HostKey {
    /// The key whose text was written down elsewhere and comes back, to be looked up with.
    pub(crate) fn recalled(text: &str) -> Self {
        Self(text.into())
    }

    /// The key of `host` at `port`.
    pub fn of(host: &Host, port: u16) -> Self {
        Self(match (host, port) {
            (Host::Name(name), 80 | 443) => Arc::clone(name),
            (_, 80 | 443) => host.to_string().into(),
            _ => format!("{host}:{port}").into(),
        })
    }

    /// Reads a key as a user writes it: `example.com`, `example.com:8443`, `[::1]:7000`.
    pub fn parse(text: &str) -> Result<Self, BadAuthority> {
        Authority::parse(text, Some(80)).map(|authority| authority.key)
    }

    /// The key of the one budget that all names below `suffix` (normalised) share: `*.example.com`,
    /// which no host can be called.
    pub(crate) fn budget(suffix: &str) -> Self {
        Self(format!("*.{suffix}").into())
    }

    /// The key of what one identity, by its label, may have of a host or budget: `alice@example.com`,
    /// which no host can be called.
    pub(crate) fn share(&self, label: &str) -> Self {
        Self([label, "@", &self.0].concat().into())
    }

    /// The label and the host of a [`HostKey::share`].
    pub(crate) fn as_share(&self) -> Option<(&str, &str)> {
        self.0.split_once('@')
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAuthority {
    /// Brackets that hold no IPv6 address (a zone is not accepted).
    #[error("brackets must hold one IPv6 address without a zone")]
    Brackets,
    /// No host at all.
    #[error("the host is empty")]
    Empty,
    /// Not a host name: letters, digits, `-`, `_` and dots, labels of 1 to 63, 253 in all.
    #[error("not a host name (letters, digits, '-', '_' and dots; labels of 1 to 63, 253 in all)")]
    Name,
    /// No port where none may be presumed.
    #[error("the port is missing (host:port)")]
    NoPort,
    /// A number that is no dotted quad.
    #[error("a numeric host must be a dotted quad such as 127.0.0.1")]
    Numeric,
    /// Not a port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// `user@host`.
    #[error("userinfo (user@host) is not accepted")]
    Userinfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        HostKey::parse(text).unwrap().to_string()
    }

    #[test]
    fn one_host_has_one_key_however_it_is_written() {
        for text in ["Example.COM", "example.com.", "example.com:80", "example.com:443"] {
            assert_eq!(key(text), "example.com");
        }
        assert_eq!(key("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(key("BÜCHER.example:8443"), "xn--bcher-kva.example:8443");
        assert_eq!(key("[0:0:0:0:0:0:0:1]:7000"), "[::1]:7000");
        assert_eq!(key("[::ffff:127.0.0.1]:7000"), "127.0.0.1:7000");
        assert_eq!(key("[::1]"), "[::1]");
    }

    #[test]
    fn another_port_is_another_key() {
        assert_eq!(key("a.test:8443"), "a.test:8443");
        assert_ne!(key("a.test"), key("a.test:8443"));
    }

    #[test]
    fn what_could_be_read_as_another_host_is_refused() {
        let cases = [
            ("user@example.com:80", BadAuthority::Userinfo),
            ("127.1:80", BadAuthority::Numeric),
            ("0x7f.1:80", BadAuthority::Numeric),
            ("0X7F000001:80", BadAuthority::Numeric),
            ("2130706433:80", BadAuthority::Numeric),
            ("127.0.0.01:80", BadAuthority::Numeric),
            ("1.2.3.4.5:80", BadAuthority::Numeric),
            ("a..b:80", BadAuthority::Name),
            ("a b:80", BadAuthority::Name),
            ("a%41:80", BadAuthority::Name),
            ("a/b:80", BadAuthority::Name),
            ("{0}:80", BadAuthority::Name),
            ("*:80", BadAuthority::Name),
            (":80", BadAuthority::Empty),
            (".:80", BadAuthority::Empty),
            ("::1:80", BadAuthority::Port),
            ("[::1:80", BadAuthority::Brackets),
            ("[fe80::1%eth0]:80", BadAuthority::Brackets),
            ("h:0", BadAuthority::Port),
            ("h:99999", BadAuthority::Port),
            ("h:+80", BadAuthority::Port),
            ("h:80:80", BadAuthority::Port),
            ("h", BadAuthority::NoPort),
            ("h:", BadAuthority::NoPort),
        ];
        for (text, why) in cases {
            assert_eq!(Authority::parse(text, None), Err(why), "{text}");
        }
    }

    #[test]
    fn an_absolute_form_may_leave_the_port_to_its_scheme() {
        let authority = Authority::parse("Example.com", Some(443)).unwrap();
        assert_eq!(
            (authority.port_number(), authority.to_string().as_str()),
            (443, "example.com:443")
        );
        assert_eq!(Authority::parse("h:", Some(80)).unwrap().port_number(), 80);
    }
}
