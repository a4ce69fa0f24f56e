//! Which limit holds for which host.
//!
//! A pure table: text of rules in, a number out. It counts nothing.
//!
//! There are two layers: this process's own rules, and over them the fleet's table, which is the
//! same in all instances. Where any rule of the fleet's table speaks of a host, this process's own
//! are not looked at.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::identities::Identities;
use crate::base::authority::BadAuthority;
use crate::base::authority::HostKey;
use crate::base::identity;
use crate::base::identity::Traits;
pub use crate::base::pattern::Pattern;
use crate::base::pattern::Patterns;

/// Connections at once to one host; 0 is unlimited.
pub type Limit = u32;

/// Whom a limit is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// For each host apart.
    #[default]
    Each,
    /// One budget for all hosts of a `*.SUFFIX` together.
    Shared,
}

impl Scope {
    /// `each` or `shared`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Shared => "shared",
        }
    }
}

impl FromStr for Scope {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "each" => Ok(Self::Each),
            "shared" => Ok(Self::Shared),
            _ => Err(BadRule::Scope),
        }
    }
}

/// A pattern and the limit it sets, as in `api.example.com=5` or `*.example.com=10/shared`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The hosts.
    pub pattern: Pattern,
    /// Their limit.
    pub limit: Limit,
    /// Whether each of them has it, or all together.
    pub scope: Scope,
}

impl Rule {
    /// A limit for each host apart.
    pub fn each(pattern: Pattern, limit: Limit) -> Self {
        Self { pattern, limit, scope: Scope::Each }
    }

    /// A limit in a scope; only a suffix can be shared.
    pub fn new(pattern: Pattern, limit: Limit, scope: Scope) -> Result<Self, BadRule> {
        match (&pattern, scope) {
            (_, Scope::Each) | (Pattern::Suffix(_), Scope::Shared) => {
                Ok(Self { pattern, limit, scope })
            }
            (Pattern::Default | Pattern::Host(_) | Pattern::Port(_), Scope::Shared) => {
                Err(BadRule::Shared)
            }
        }
    }

    /// A rule for this pattern by what stands behind its `=`, as [`Rule::value`] writes it.
    pub fn read(pattern: Pattern, value: &str) -> Result<Self, BadRule> {
        let (limit, scope) = match value.split_once('/') {
            None => (value, Scope::Each),
            Some((limit, scope)) => (limit, scope.trim().parse()?),
        };
        let limit = limit.trim();
        // The standard library's parser takes "+5" too.
        if !limit.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadRule::Number);
        }
        Self::new(pattern, limit.parse().map_err(|_why| BadRule::Number)?, scope)
    }

    /// The limit and its scope as text: `5`, or `5/shared`.
    pub fn value(&self) -> String {
        match self.scope {
            Scope::Each => self.limit.to_string(),
            Scope::Shared => format!("{}/shared", self.limit),
        }
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, value) = text.rsplit_once('=').ok_or(BadRule::Shape)?;
        Self::read(pattern.trim().parse().map_err(BadRule::Host)?, value)
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
    /// Behind the number stands something that is no scope.
    #[error("the scope must be each or shared")]
    Scope,
    /// No `=`.
    #[error("must be HOST=N, HOST:PORT=N, *.SUFFIX=N or *.SUFFIX=N/shared")]
    Shape,
    /// One budget for what is not many hosts.
    #[error("only the hosts of a *.SUFFIX can share one budget")]
    Shared,
}

/// A limit, and how much this opinion about it weighs against another instance's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The limit.
    pub limit: Limit,
    /// Of two opinions about one host's limit the one with the higher term holds. Below 2^53.
    pub term: u64,
}

/// What holds for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What its connections are counted under when they share a budget: the rule's pattern, as
    /// `*.example.com`. None if the host is counted by itself.
    pub budget: Option<HostKey>,
    /// The limit.
    pub limit: Limit,
    /// As in [`Ruling`].
    pub term: u64,
}

/// Versions are told apart up to here.
const LAST_VERSION: u64 = 1 << 24;
/// What the term has below the version.
const MINOR_BITS: u32 = 28;
/// The fleet's table, whose word is above any instance's own.
const TABLE: u64 = (1 << MINOR_BITS) - 1;

/// What one layer says of a pattern.
#[derive(Clone, Copy, Debug)]
struct Said {
    limit: Limit,
    scope: Scope,
}

/// Rules of one origin.
#[derive(Clone, Debug, Default)]
struct Layer(Patterns<Said>);

/// What a layer found for a host.
struct Found<'a> {
    limit: Limit,
    /// The suffix of the budget, if there is one.
    budget: Option<&'a str>,
}

impl Layer {
    fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut layer = Self::default();
        for rule in rules {
            layer.set(rule);
        }
        layer
    }

    fn set(&mut self, Rule { pattern, limit, scope }: Rule) {
        self.0.set(pattern, Said { limit, scope });
    }

    fn remove(&mut self, pattern: &Pattern) -> bool {
        self.0.remove(pattern).is_some()
    }

    fn of_others(&self) -> Option<Limit> {
        self.0.of_others().map(|said| said.limit)
    }

    fn find(&self, key: &HostKey) -> Option<Found<'_>> {
        let (said, suffix) = self.0.find(key)?;
        Some(Found { limit: said.limit, budget: suffix.filter(|_| said.scope == Scope::Shared) })
    }

    fn names(&self, key: &HostKey) -> bool {
        self.0.names(key)
    }

    fn shares(&self) -> bool {
        self.0.iter().any(|(_, said)| said.scope == Scope::Shared)
    }

    /// All, by pattern.
    fn rules(&self) -> Vec<Rule> {
        let all = self.0.iter();
        let all = all.map(|(pattern, Said { limit, scope })| Rule {
            pattern,
            limit: *limit,
            scope: *scope,
        });
        let mut rules: Vec<Rule> = all.collect();
        rules.sort_by_cached_key(|rule| rule.pattern.to_string());
        rules
    }
}

/// All rules and the default. In each layer the most exact rule wins: `HOST:PORT`, then `HOST`,
/// then the longest `*.SUFFIX`, then the default.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    local: Layer,
    table: Layer,
    /// Of the fleet's table; 0 without one.
    version: u64,
    /// When the own rules were made: seconds since 2020.
    since: u64,
    /// Whether any rule is shared: PERF: else no host is looked up only to be counted.
    shares: bool,
    pub(super) identities: Identities,
    /// When what the users file says was taken over; as `since`.
    users_since: u64,
}

impl Rules {
    /// The default and the rules over it; of two for one pattern the later wins.
    pub fn new(default: Limit, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut table = Self::default();
        table.local.set(Rule::each(Pattern::Default, default));
        table.replace(rules);
        table
    }

    /// Of instances that disagree about a limit that is not in the fleet's table, the one whose
    /// rules were made last is right. `seconds` is when these were, by any epoch.
    pub(crate) fn since(mut self, seconds: u64) -> Self {
        self.since = seconds.min(TABLE - 1);
        self
    }

    /// What identities may have.
    pub(crate) fn with(mut self, identities: Identities) -> Self {
        self.identities = identities;
        self
    }

    /// What the users file says, as of `seconds` by the epoch of [`Rules::since`].
    pub(crate) fn set_users(&mut self, users: &HashMap<Arc<str>, Traits>, seconds: u64) {
        self.identities.set_users(users);
        self.users_since = seconds.min(TABLE - 1);
    }

    /// What holds for a host.
    pub fn resolve(&self, key: &HostKey) -> Resolved {
        let (found, minor) = self.find(key);
        let Some(Found { limit, budget }) = found else {
            return Resolved { budget: None, limit: 0, term: self.term(minor) };
        };
        Resolved { budget: budget.map(HostKey::budget), limit, term: self.term(minor) }
    }

    /// The limit of one host, or by their own keys of one budget, or of one identity's share.
    pub fn ruling(&self, key: &HostKey) -> Ruling {
        if let Some((label, _)) = key.as_share() {
            let term = self.term(self.since.max(self.users_since));
            if let Some(limit) = identity::limit_of_way(label) {
                return Ruling { limit, term };
            }
            return Ruling { limit: self.identities.limit(label), term };
        }
        let (found, minor) = self.find(key);
        Ruling { limit: found.map_or(0, |found| found.limit), term: self.term(minor) }
    }

    /// The limit of one host.
    pub fn limit(&self, key: &HostKey) -> Limit {
        self.ruling(key).limit
    }

    /// What a host's connections are counted under, if not under the host itself.
    pub(crate) fn budget(&self, key: &HostKey) -> Option<HostKey> {
        if !self.shares {
            return None;
        }
        self.find(key).0?.budget.map(HostKey::budget)
    }

    /// Sets the limit of hosts without a rule of their own.
    pub fn set_default(&mut self, limit: Limit) {
        self.local.set(Rule::each(Pattern::Default, limit));
    }

    /// Adds a rule, or changes it.
    pub fn set(&mut self, rule: Rule) {
        self.local.set(rule);
        self.look_for_shares();
    }

    /// Takes a rule away; whether there was one. The default stays.
    pub fn remove(&mut self, pattern: &Pattern) -> bool {
        let removed = *pattern != Pattern::Default && self.local.remove(pattern);
        self.look_for_shares();
        removed
    }

    /// What identities may have now; what the users file says stays.
    pub(super) fn set_identities(&mut self, identities: &Identities) {
        self.identities = identities.clone().with_users_of(&self.identities);
    }

    /// The same as [`Rules::since`], of rules that were changed.
    pub(super) fn date(&mut self, seconds: u64) {
        self.since = seconds.min(TABLE - 1);
    }

    /// Puts these rules in the place of all others; the default stays, and the fleet's table.
    pub fn replace(&mut self, rules: impl IntoIterator<Item = Rule>) {
        let default = self.local.of_others();
        self.local = Layer::new(rules);
        if let (Some(default), None) = (default, self.local.of_others()) {
            self.set_default(default);
        }
        self.look_for_shares();
    }

    /// Puts this in the place of the fleet's table.
    pub fn set_table(&mut self, version: u64, rules: impl IntoIterator<Item = Rule>) {
        self.version = version;
        self.table = Layer::new(rules);
        self.look_for_shares();
    }

    /// The fleet's table: its version (0 is none) and its rules, by pattern.
    pub fn table(&self) -> (u64, Vec<Rule>) {
        (self.version, self.table.rules())
    }

    /// This process's own rules, by pattern: the default is the one for [`Pattern::Default`].
    pub fn own(&self) -> Vec<Rule> {
        self.local.rules()
    }

    /// Hosts that have a rule of their own: those a metric may always name.
    pub(crate) fn named(&self, key: &HostKey) -> bool {
        self.table.names(key) || self.local.names(key)
    }

    fn find(&self, key: &HostKey) -> (Option<Found<'_>>, u64) {
        match self.table.find(key) {
            None => (self.local.find(key), self.since),
            found => (found, TABLE),
        }
    }

    fn term(&self, minor: u64) -> u64 {
        (self.version.min(LAST_VERSION) << MINOR_BITS) + minor
    }

    fn look_for_shares(&mut self) {
        self.shares = self.local.shares() || self.table.shares();
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
        assert_eq!("a.test=+1".parse::<Rule>(), Err(BadRule::Number));
        assert_eq!("*.test=".parse::<Rule>(), Err(BadRule::Number));
        assert_eq!("*.test=1/all".parse::<Rule>(), Err(BadRule::Scope));
        for text in ["a.test=1/shared", "a.test:81=1/shared", "[::1]=1/shared"] {
            assert_eq!(text.parse::<Rule>(), Err(BadRule::Shared), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["a.test=5", "a.test:81=0", "[::1]:7000=4294967295", "*.test=3/shared"] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(format!("{}={}", rule.pattern, rule.value()), text);
        }
        assert_eq!("*.test=3/each".parse::<Rule>().unwrap().value(), "3");
    }

    fn budget(rules: &Rules, host: &str) -> Option<String> {
        let resolved = rules.resolve(&HostKey::parse(host).unwrap());
        assert_eq!(rules.budget(&HostKey::parse(host).unwrap()), resolved.budget);
        resolved.budget.map(|key| key.to_string())
    }

    #[test]
    fn all_hosts_of_a_shared_suffix_have_one_budget_but_those_with_a_nearer_rule() {
        let rules = table(&["*.test=3/shared", "*.deep.test=2", "a.test=1", "b.test:81=4"]);
        for host in ["x.test", "x.test:8443", "b.test", "x.y.test", "deep.test"] {
            assert_eq!((budget(&rules, host).as_deref(), limit(&rules, host)), (Some("*.test"), 3));
        }
        for (host, expected) in
            [("a.test", 1), ("a.test:9", 1), ("b.test:81", 4), ("x.deep.test", 2), ("test", 9)]
        {
            assert_eq!((budget(&rules, host), limit(&rules, host)), (None, expected), "{host}");
        }
        let key = HostKey::budget("test");
        assert_eq!(rules.resolve(&key).budget, Some(key.clone()), "it is its own budget");
        assert!(rules.named(&key));
        assert_eq!(budget(&table(&["*.test=3"]), "x.test"), None);
    }

    #[test]
    fn where_the_table_speaks_of_a_host_the_own_rules_are_silent() {
        let mut rules = table(&["a.test=1", "b.test=2", "[::1]:7000=3", "*.own=4/shared"]);
        let said = |rules: &[&str]| -> Vec<Rule> {
            let read = |text: &&str| {
                let (pattern, value) = text.split_once('=').unwrap();
                Rule::read(Pattern::of_table(pattern).unwrap(), value).unwrap()
            };
            rules.iter().map(read).collect()
        };
        rules.set_table(7, said(&["*.test=5", "a.test:8443=6", "[::1]=8"]));
        for (host, expected) in [
            ("a.test", 5),
            ("b.test:81", 5),
            ("a.test:8443", 6),
            ("[::1]:7000", 8),
            ("x.own", 4),
            ("other", 9),
        ] {
            assert_eq!(limit(&rules, host), expected, "{host}");
        }
        assert_eq!(budget(&rules, "x.own").as_deref(), Some("*.own"));
        rules.set_table(8, said(&["default=7"]));
        assert_eq!((limit(&rules, "other"), limit(&rules, "a.test")), (7, 7));
        assert_eq!(budget(&rules, "x.own"), None);
        assert_eq!(rules.table(), (8, said(&["*=7"])));
        rules.set_table(9, []);
        assert_eq!((limit(&rules, "other"), limit(&rules, "a.test")), (9, 1));
    }

    #[test]
    fn a_newer_table_beats_an_older_one_and_any_table_beats_own_rules() {
        let key = HostKey::parse("a.test").unwrap();
        let own = |version: u64, since: u64| {
            let mut rules = table(&["a.test=1"]).since(since);
            rules.set_table(version, []);
            rules.ruling(&key).term
        };
        let fleet = |version: u64| {
            let mut rules = table(&["a.test=1"]).since(u64::MAX);
            rules.set_table(version, [Rule::each(Pattern::Default, 2)]);
            rules.ruling(&key).term
        };
        let rising = [own(0, 5), own(0, 6), own(0, u64::MAX), own(1, 5), fleet(1), own(2, 0)];
        assert!(rising.is_sorted_by(|one, next| one < next), "{rising:?}");
        assert!(own(0, u64::MAX) < fleet(0) && fleet(2) > own(2, u64::MAX));
        assert!(fleet(u64::MAX) < 1 << 53, "exact in a double");
    }
}
