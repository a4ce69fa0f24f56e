//! Which hosts a rule speaks of, and a table by that: the most exact pattern wins.
//!
//! Pure. What is said of the hosts (a limit, an API) is whatever the table holds.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use super::authority::BadAuthority;
use super::authority::Host;
use super::authority::HostKey;

/// What a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`: every host without another rule. In the fleet's table alone; text of other rules does
    /// not take it.
    Default,
    /// `HOST`: the bare host and, each counted apart, its other ports.
    Host(String),
    /// `HOST:PORT`: just that (ports 80 and 443 are the bare host).
    Port(HostKey),
    /// `*.example.com`: every deeper name at every port, each counted apart (or, in scope, all
    /// together); not the bare name.
    Suffix(String),
}

impl Pattern {
    /// Reads what a rule of the fleet's table speaks of: as any rule, and `*` or `default`.
    pub fn of_table(text: &str) -> Result<Self, BadAuthority> {
        match text {
            "*" | "default" => Ok(Self::Default),
            _ => text.parse(),
        }
    }
}

impl FromStr for Pattern {
    type Err = BadAuthority;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(suffix) = text.strip_prefix("*.") {
            return match Host::parse(suffix)? {
                Host::Name(name) => Ok(Self::Suffix(name.to_string())),
                Host::Address(_) => Err(BadAuthority::Name),
            };
        }
        match Host::parse(text) {
            Ok(host) => Ok(Self::Host(host.to_string())),
            Err(_) => HostKey::parse(text).map(Self::Port),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("*"),
            Self::Host(host) => f.write_str(host),
            Self::Port(key) => key.fmt(f),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// What is said of hosts by pattern. The most exact wins: `HOST:PORT`, then `HOST`, then the longest
/// `*.SUFFIX`, then the default.
#[derive(Clone, Debug)]
pub struct Patterns<T> {
    default: Option<T>,
    hosts: HashMap<String, T>,
    ports: HashMap<HostKey, T>,
    suffixes: HashMap<String, T>,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self {
            default: None,
            hosts: HashMap::new(),
            ports: HashMap::new(),
            suffixes: HashMap::new(),
        }
    }
}

impl<T> Patterns<T> {
    /// Says this of a pattern; what was said of it before.
    pub fn set(&mut self, pattern: Pattern, said: T) -> Option<T> {
        match pattern {
            Pattern::Default => self.default.replace(said),
            Pattern::Host(host) => self.hosts.insert(host, said),
            Pattern::Port(key) => self.ports.insert(key, said),
            Pattern::Suffix(suffix) => self.suffixes.insert(suffix, said),
        }
    }

    /// Says nothing more of a pattern; what was said of it.
    pub fn remove(&mut self, pattern: &Pattern) -> Option<T> {
        match pattern {
            Pattern::Default => self.default.take(),
            Pattern::Host(host) => self.hosts.remove(host),
            Pattern::Port(key) => self.ports.remove(key),
            Pattern::Suffix(suffix) => self.suffixes.remove(suffix),
        }
    }

    /// What is said of a host, and by which suffix if it was by one.
    pub fn find(&self, key: &HostKey) -> Option<(&T, Option<&str>)> {
        let host = bare(key);
        if let Some(said) = self.ports.get(key).or_else(|| self.hosts.get(host)) {
            return Some((said, None));
        }
        if !self.suffixes.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some((suffix, said)) = self.suffixes.get_key_value(parent) {
                    return Some((said, Some(suffix)));
                }
                rest = parent;
            }
        }
        self.default.as_ref().map(|said| (said, None))
    }

    /// What is said of hosts of which nothing else is.
    pub fn of_others(&self) -> Option<&T> {
        self.default.as_ref()
    }

    /// Whether something is said of just this: a host, a host and port, or a `*.SUFFIX`.
    pub fn names(&self, key: &HostKey) -> bool {
        self.ports.contains_key(key)
            || self.hosts.contains_key(key.as_str())
            || key.as_str().strip_prefix("*.").is_some_and(|name| self.suffixes.contains_key(name))
    }

    /// All that is said, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Pattern, &T)> {
        let default = self.default.iter().map(|said| (Pattern::Default, said));
        let hosts = self.hosts.iter().map(|(host, said)| (Pattern::Host(host.clone()), said));
        let ports = self.ports.iter().map(|(key, said)| (Pattern::Port(key.clone()), said));
        let suffixes = self.suffixes.iter();
        let suffixes = suffixes.map(|(suffix, said)| (Pattern::Suffix(suffix.clone()), said));
        default.chain(hosts).chain(ports).chain(suffixes)
    }
}

/// A key's host, without the port.
fn bare(key: &HostKey) -> &str {
    let text = key.as_str();
    match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => &text[..colon],
        _ => text,
    }
}
