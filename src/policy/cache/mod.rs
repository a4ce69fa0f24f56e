//! Kept responses: what may be kept, and what it may be used for (RFC 9111).
//!
//! The rules are functions of heads, times and settings: [`control`] reads what messages say,
//! [`storing`] decides what is kept, [`serving`] what answers, [`vary`] which of several,
//! [`validation`] and [`range`] what a client gets of it, [`invalidation`] what no longer holds.
//! They ask no clock and wait for nobody. [`key`] says which requests are the same, [`entry`] is what
//! is kept; where it is, and who fetches it for all who ask, is known by [`tiers`].
//!
//! Invariants: what is for one user answers no other; what an origin has said not to keep is not kept;
//! nothing is served stale against what the origin or the client has said. The operator may have it
//! otherwise, by name.

#![expect(dead_code, reason = "some of it is told in numbers that are not asked for yet")]

pub(crate) mod control;
pub(crate) mod entry;
mod fleet;
#[cfg(test)]
mod fleet_tests;
mod flight;
pub(crate) mod invalidation;
pub(crate) mod key;
mod memory;
#[cfg(test)]
mod oracle;
pub(crate) mod range;
pub(crate) mod serving;
pub(crate) mod status;
pub(crate) mod storing;
#[cfg(test)]
mod tests;
pub mod tiers;
pub(crate) mod validation;
pub(crate) mod vary;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::Method;
use http::StatusCode;

pub(crate) use self::flight::Broken;
use self::tiers::Drawer;
use self::tiers::Tiers;

/// What is kept of one API.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long a response is fresh to which the origin gives no lifetime; 0 keeps none of those.
    pub ttl: Duration,
    /// `ttl` holds whatever lifetime the origin gives, and whatever it says of validation.
    pub force: bool,
    /// What else does not count where `force` is.
    pub force_over: Over,
    /// Failures that are kept, and for how long where the origin gives no lifetime.
    pub negative: Vec<(StatusCode, Duration)>,
    /// Which fields make a request another, beside what Vary says.
    pub strategy: Strategy,
    /// Answers to POST are kept, each for its body of up to so many bytes; none keeps none.
    pub post: Option<u64>,
    /// The longest body that is kept, in bytes.
    pub max_object: u64,
    /// How long a stale response is served while it is asked for anew, where the origin does not
    /// say (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// The same where asking fails (RFC 5861 §4).
    pub stale_if_error: Duration,
}

/// What forbids that a response is kept, and is not to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// `no-store` of a response.
    pub no_store: bool,
    /// `private` of a response.
    pub private: bool,
    /// Authorization of a request. It is part of what is asked then.
    pub authorization: bool,
    /// Set-Cookie of a response.
    pub set_cookie: bool,
}

impl Over {
    /// The words of the settings for what does not count.
    pub(crate) fn words(self) -> Vec<&'static str> {
        let Self { no_store, private, authorization, set_cookie } = self;
        let all = [
            (no_store, "no-store"),
            (private, "private"),
            (authorization, "authorization"),
            (set_cookie, "set-cookie"),
        ];
        all.into_iter().filter_map(|(is, word)| is.then_some(word)).collect()
    }
}

/// Which fields make a request another, beside what Vary says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// None.
    #[default]
    None,
    /// All that are about what is asked.
    All,
    /// These.
    Listed(Vec<HeaderName>),
}

impl Strategy {
    /// The word for it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::Listed(_) => "listed",
        }
    }
}

/// What one API keeps.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) settings: Settings,
    pub(crate) drawer: Drawer,
}

/// How long somebody who follows a response that is too long to be kept may take nothing of it.
const IDLE: Duration = Duration::from_mins(1);

impl Cache {
    /// What was kept of the API of this name is kept still.
    pub(crate) fn new(api: &Arc<str>, settings: Settings, tiers: &Tiers) -> Self {
        let object = usize::try_from(settings.max_object).unwrap_or(usize::MAX);
        let drawer = tiers.drawer(api, object, IDLE);
        Self { settings, drawer }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(1),
            force: false,
            force_over: Over::default(),
            negative: Vec::new(),
            strategy: Strategy::None,
            post: None,
            max_object: 8 * 1024 * 1024,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        }
    }
}

impl Settings {
    /// What does not count.
    pub(crate) fn over(&self) -> Over {
        if self.force { self.force_over } else { Over::default() }
    }

    /// How long a body may be that is part of what is asked; none where such requests are not kept.
    pub(crate) fn takes_body(&self, method: &Method) -> Option<u64> {
        self.post.filter(|_| *method == Method::POST)
    }

    /// How long a failure of this status is kept; none if it is not.
    pub(crate) fn negative(&self, status: StatusCode) -> Option<Duration> {
        self.negative.iter().find(|(named, _)| *named == status).map(|(_, ttl)| *ttl)
    }
}
