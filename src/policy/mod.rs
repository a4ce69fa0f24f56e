//! Decisions about requests. Nothing here sends or dials, and nothing but the gates that say so
//! waits for Redis.
//!
//! Three positions, and no fourth. A *front gate* stands before a request: who asks ([`access`]),
//! and how often ([`quota`]).
//! A *wrap* goes around attempts: [`retry`]. An *attempt gate* stands before each attempt:
//! [`breaker`], then [`cooldown`], then [`parents`] says by which way it goes. What a gate says is a
//! [`Decision`]; what came of an attempt is told to all of them in the same words, [`Facts`]. A
//! policy decides the same in either [`Mode`]; whoever acts on it (`proxy::docket`) does nothing
//! but note it where the policy only observes.
//!
//! [`api`] says which requests meet which policies.

pub mod access;
pub mod api;
pub mod breaker;
pub mod cache;
pub mod cooldown;
pub(crate) mod decided;
pub(crate) mod failures;
pub mod parents;
pub mod quota;
pub mod retry;

use std::fmt;
use std::time::Duration;

/// Whether a policy is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// What it decides is counted and logged, and nothing else comes of it.
    Observe,
}

impl Mode {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Enforce, Self::Observe];

    /// The word for settings and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// What a gate says.
#[derive(Debug)]
pub(crate) enum Decision<T> {
    /// It may go on, and takes this along.
    Pass(T),
    /// It may ask again after so long.
    Wait(Refusal),
    /// It may not.
    Refuse(Refusal),
}

/// Why a request may not go on, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) rule: Rule,
    /// After how long it is worth asking again.
    pub(crate) left: Duration,
}

/// Which rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// The circuit is open.
    Breaker,
    /// The upstream asked not to be asked for a while, by this status.
    CoolDown(u16),
    /// No parent can be used.
    Parents,
    /// Nobody whom the API knows.
    Access,
    /// The client's address may not use the API.
    Networks,
    /// The client has used up what it may in so long.
    Quota(Duration),
    /// Nobody can say what it has used, and so it is refused, with this status.
    QuotaAway(u16),
}

impl Rule {
    /// The words for all of them.
    pub(crate) const WORDS: [&str; 6] =
        ["breaker", "cool_down", "parents", "access", "networks", "quota"];

    /// Which of [`Rule::WORDS`] it is.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Breaker => 0,
            Self::CoolDown(_) => 1,
            Self::Parents => 2,
            Self::Access => 3,
            Self::Networks => 4,
            Self::Quota(_) | Self::QuotaAway(_) => 5,
        }
    }

    /// The word for metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        Self::WORDS[self.index()]
    }
}

/// Whose decision something is, and by which numbers.
#[derive(Clone, Copy)]
pub(crate) struct Ruling<'a> {
    pub(crate) rule: Rule,
    pub(crate) mode: Mode,
    /// For whom it holds, as it may be written down: a name, an address, a fingerprint. Never a secret.
    pub(crate) key: &'a dyn fmt::Display,
    /// What was counted, where there is a number.
    pub(crate) value: Option<u64>,
    /// Up to which number it may go.
    pub(crate) limit: Option<u64>,
}

impl fmt::Debug for Ruling<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, mode, key, value, limit } = self;
        write!(f, "{rule:?} ({mode:?}) of {key}: {value:?} of {limit:?}")
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) end: End,
    /// From its first step to the head of the response, or to its failure; without what a slot was
    /// waited for.
    pub(crate) took: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a response of this status.
    Status(u16),
    /// Without a response, because of this.
    Failed(Cause),
    /// It says nothing about the upstream: the client left or was at fault, or we refused ourselves.
    Neutral,
}

impl End {
    /// The status, or 0.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Status(status) => status,
            Self::Failed(_) | Self::Neutral => 0,
        }
    }
}

/// Why there was no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its name could not be resolved.
    Dns,
    /// It refused the connection, or there is no way to it.
    Refused,
    /// It closed or reset the connection before its response, or what came was none.
    Reset,
    /// Something took too long: look-up, connect, TLS, the response's head.
    Timeout,
    /// TLS failed.
    Tls,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Refused, Self::Reset, Self::Timeout, Self::Tls];

    /// The word for settings, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "connect_refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
        }
    }
}
