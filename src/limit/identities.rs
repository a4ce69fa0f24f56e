//! What holds for those who ask: how many connections one of them may have to a host, and how many
//! turns among those who wait.
//!
//! A pure table, as [`super::rules`] is for hosts. It counts nothing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::rules::Limit;
use crate::base::identity;
use crate::base::identity::Identity;
use crate::base::identity::Traits;

/// Whom a setting is for: `*` is each identity apart, anything else a name.
pub const EACH: &str = "*";

/// What each identity may have. What was set for a name is above what the users file says of it, and
/// that above what is set for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identities {
    each: Traits,
    set: HashMap<Box<str>, Traits>,
    users: HashMap<Box<str>, Traits>,
    /// PERF: whether there is any limit, and any weight.
    limits: bool,
    weights: bool,
}

impl Identities {
    /// Sets the limit for a name, or [`EACH`]: connections at once to each host; 0 is unlimited.
    pub fn set_limit(&mut self, whom: &str, limit: Limit) {
        self.of(whom).limit = Some(limit);
        self.look();
    }

    /// Sets the weight for a name, or [`EACH`]: its turns in a round of those who wait.
    pub fn set_weight(&mut self, whom: &str, weight: u32) {
        self.of(whom).weight = Some(weight.max(1));
        self.look();
    }

    /// The same, with what the users file said of `former`.
    pub(super) fn with_users_of(mut self, former: &Self) -> Self {
        self.users.clone_from(&former.users);
        self.look();
        self
    }

    /// Puts this in the place of what the users file said.
    pub(super) fn set_users(&mut self, users: &HashMap<Arc<str>, Traits>) {
        let by_label = users.iter().map(|(name, traits)| (label(name), *traits));
        self.users = by_label.collect();
        self.look();
    }

    /// Whether any identity may have a limit.
    pub(super) fn have_limits(&self) -> bool {
        self.limits
    }

    /// The limit of the identity with this label; 0 is unlimited.
    pub(super) fn limit(&self, label: &str) -> Limit {
        self.find(label, |traits| traits.limit).unwrap_or(0)
    }

    /// Turns in a round, at least 1.
    pub(super) fn weight(&self, identity: &Identity) -> u32 {
        if !self.weights {
            return 1;
        }
        let label = identity.label().unwrap_or(Cow::Borrowed(""));
        self.find(&label, |traits| traits.weight).unwrap_or(1).max(1)
    }

    fn find(&self, label: &str, what: impl Fn(&Traits) -> Option<u32>) -> Option<u32> {
        let of = |table: &HashMap<Box<str>, Traits>| table.get(label).and_then(&what);
        of(&self.set).or_else(|| of(&self.users)).or_else(|| what(&self.each))
    }

    fn of(&mut self, whom: &str) -> &mut Traits {
        if whom == EACH { &mut self.each } else { self.set.entry(label(whom)).or_default() }
    }

    fn look(&mut self) {
        let all = || self.set.values().chain(self.users.values()).chain([&self.each]);
        let limits = all().any(|traits| traits.limit.is_some_and(|limit| limit > 0));
        let weights = all().any(|traits| traits.weight.is_some());
        (self.limits, self.weights) = (limits, weights);
    }
}

fn label(name: &str) -> Box<str> {
    identity::label(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_setting_wins() {
        let mut identities = Identities::default();
        assert!(!identities.have_limits());
        identities.set_limit(EACH, 5);
        identities.set_limit("a b", 2);
        identities.set_limit("free", 0);
        let limit = |limit| Traits { limit: Some(limit), weight: Some(3) };
        let users = [("a b", limit(9)), ("c", limit(7)), ("d", Traits::default())];
        identities.set_users(&users.map(|(name, traits)| (name.into(), traits)).into());
        for (name, limit, weight) in
            [("a b", 2, 3), ("c", 7, 3), ("d", 5, 1), ("x", 5, 1), ("free", 0, 1)]
        {
            let identity = Identity::Name(name.into());
            assert_eq!(identities.limit(&identity.label().unwrap()), limit, "{name}");
            assert_eq!(identities.weight(&identity), weight, "{name}");
        }
        let address = Identity::of_address("192.0.2.1".parse().unwrap());
        assert_eq!(identities.limit(&address.label().unwrap()), 5);
        identities.set_weight(EACH, 4);
        assert_eq!(identities.weight(&address), 4);
        assert_eq!(identities.weight(&Identity::Anonymous), 4);
    }
}
