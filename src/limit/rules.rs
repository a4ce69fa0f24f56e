//! Which limit holds for which host.
//!
//! A pure table: text of rules in, a number out. It counts nothing.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::base::authority::BadAuthority;
use crate::base::authority::Host;
use crate::base::authority::HostKey;

/// Connections at once to one host; 0 is unlimited.
pub type Limit = u32;

/// A limit, and how it ranks among the opinions of several instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The limit.
    pub limit: Limit,
    /// Of two opinions about one host's limit the one with the higher term holds. Below 2^53.
    pub term: u64,
}

/// What a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `HOST`: the bare host and, each counted apart, its other ports.
    Host(String),
    /// `HOST:PORT`: just that (ports 80 and 443 are the bare host).
    Port(HostKey),
    /// `*.example.com`: every deeper name at every port, each counted apart; not the bare name.
    Suffix(String),
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
            Self::Host(host) => f.write_str(host),
            Self::Port(key) => key.fmt(f),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// A pattern and the limit it sets, as in `api.example.com=5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The hosts.
    pub pattern: Pattern,
    /// Their limit, each.
    pub limit: Limit,
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, limit) = text.rsplit_once('=').ok_or(BadRule::Shape)?;
        Ok(Self {
            pattern: pattern.trim().parse().map_err(BadRule::Host)?,
            limit: limit.trim().parse().map_err(|_why| BadRule::Number)?,
        })
    }
}

/// Why a text is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadRule {
    /// The host part.
    #[error("{0}")]
    Host(BadAuthority),
    /// The number part.
    #[error("the limit must be a whole number from 0 (unlimited) to 4294967295")]
    Number,
    /// No `=`.
    #[error("must be HOST=N, HOST:PORT=N or *.SUFFIX=N")]
    Shape,
}

/// All rules and the default. The most exact rule wins: `HOST:PORT`, then `HOST`, then the longest
/// `*.SUFFIX`, then the default.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    default: Limit,
    hosts: HashMap<String, Limit>,
    ports: HashMap<HostKey, Limit>,
    suffixes: HashMap<String, Limit>,
}

impl Rules {
    /// The default and the rules over it; of two for one pattern the later wins.
    pub fn new(default: Limit, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut table = Self { default, ..Self::default() };
        table.replace(rules);
        table
    }

    /// The limit of one host, with its term.
    pub fn ruling(&self, key: &HostKey) -> Ruling {
        Ruling { limit: self.limit(key), term: 0 }
    }

    /// The limit of one host.
    pub fn limit(&self, key: &HostKey) -> Limit {
        if let Some(limit) = self.ports.get(key) {
            return *limit;
        }
        let text = key.as_str();
        let host = match text.rfind(':') {
            Some(colon) if !text[colon..].contains(']') => &text[..colon],
            _ => text,
        };
        if let Some(limit) = self.hosts.get(host) {
            return *limit;
        }
        if !self.suffixes.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(limit) = self.suffixes.get(parent) {
                    return *limit;
                }
                rest = parent;
            }
        }
        self.default
    }

    /// Sets the limit of hosts without a rule of their own.
    pub fn set_default(&mut self, limit: Limit) {
        self.default = limit;
    }

    /// Adds a rule, or changes it.
    pub fn set(&mut self, rule: Rule) {
        match rule.pattern {
            Pattern::Host(host) => self.hosts.insert(host, rule.limit),
            Pattern::Port(key) => self.ports.insert(key, rule.limit),
            Pattern::Suffix(suffix) => self.suffixes.insert(suffix, rule.limit),
        };
    }

    /// Takes a rule away; whether there was one.
    pub fn remove(&mut self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Host(host) => self.hosts.remove(host),
            Pattern::Port(key) => self.ports.remove(key),
            Pattern::Suffix(suffix) => self.suffixes.remove(suffix),
        }
        .is_some()
    }

    /// Puts these rules in the place of all others; the default stays.
    pub fn replace(&mut self, rules: impl IntoIterator<Item = Rule>) {
        self.hosts.clear();
        self.ports.clear();
        self.suffixes.clear();
        for rule in rules {
            self.set(rule);
        }
    }

    /// Hosts that have a rule of their own: those a metric may always name.
    pub(crate) fn named(&self, key: &HostKey) -> bool {
        self.ports.contains_key(key) || self.hosts.contains_key(key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[&str]) -> Rules {
        Rules::new(9, rules.iter().map(|rule| rule.parse().unwrap()))
    }

    fn limit(rules: &Rules, host: &str) -> Limit {
        rules.limit(&HostKey::parse(host).unwrap())
    }

    #[test]
    fn the_most_exact_rule_wins() {
        let rules = table(&["a.test=1", "a.test:8443=2", "*.test=3", "*.deep.test=4", "[::1]=5"]);
        for (host, expected) in [
            ("a.test", 1),
            ("a.test:443", 1),
            ("a.test:9000", 1),
            ("a.test:8443", 2),
            ("b.test", 3),
            ("b.test:81", 3),
            ("x.deep.test", 4),
            ("x.y.deep.test", 4),
            ("deep.test", 3),
            ("test", 9),
            ("other", 9),
            ("[::1]", 5),
            ("[::1]:7000", 5),
        ] {
            assert_eq!(limit(&rules, host), expected, "{host}");
        }
    }

    #[test]
    fn a_rule_for_port_80_is_one_for_the_bare_host_alone() {
        let rules = table(&["a.test:80=1"]);
        assert_eq!((limit(&rules, "a.test:443"), limit(&rules, "a.test:81")), (1, 9));
    }

    #[test]
    fn zero_is_unlimited_and_removing_is_another_call() {
        let mut rules = table(&["a.test=0"]);
        assert_eq!(limit(&rules, "a.test"), 0);
        assert!(rules.remove(&"A.test.".parse().unwrap()));
        assert!(!rules.remove(&"a.test".parse().unwrap()));
        assert_eq!(limit(&rules, "a.test"), 9);
    }

    #[test]
    fn a_bad_rule_says_what_is_wrong() {
        assert_eq!("a.test".parse::<Rule>(), Err(BadRule::Shape));
        assert_eq!("a.test=-1".parse::<Rule>(), Err(BadRule::Number));
        assert_eq!("127.1=1".parse::<Rule>(), Err(BadRule::Host(BadAuthority::Numeric)));
        assert_eq!("*=1".parse::<Rule>(), Err(BadRule::Host(BadAuthority::Name)));
    }
}
