//! Quotas: how much one key may ask of an API in a time, by all instances of a fleet together.
//!
//! A key (a client's address, an API key, a claim; which, its caller knows) has some [`Tiers`]: so
//! many requests a minute, an hour, a day. A request takes its cost from all of them or from none.
//! What decides are step functions of a count and a time: [`fixed`], [`sliding`], [`bucket`], and
//! [`count`] for all tiers of a key. `lua/quota.lua` is the same once more, for the fleet. [`ledger`]
//! is who carries it out.
//!
//! An instance that is alone counts in its memory ([`shelf`]). Others count in Redis, by its clock;
//! where there is room, an instance takes more there than one request needs, and spends it by itself
//! ([`lease`]), so that not each request asks.
//!
//! What counts does not know HTTP. Before it stands a gate ([`gate`]) that knows whose a request is
//! ([`subject`]), what they may have and what it costs ([`terms`]); [`fields`] is what an answer says.
//!
//! Invariants: what is admitted is never more than a tier's limit in its time, whatever else happens
//! but for two things: Redis loses its data, or is away and [`Settings::on_redis_error`] says to go on
//! without. Who is refused pays nothing, unless [`Settings::charge_refused`]. A refused key asks Redis
//! for nothing until it may again. At most [`MOST_KEYS`] keys of one API are remembered here. Nobody
//! waits longer than one call to Redis may take, and nobody at all while it is known to be away.

mod bucket;
mod count;
mod fields;
mod fixed;
mod gate;
mod lease;
mod ledger;
mod shelf;
mod sliding;
mod subject;
mod terms;
#[cfg(test)]
mod tests;
mod tier;
mod word;

use std::time::Duration;

pub(crate) use self::fields::Told;
pub(crate) use self::gate::Quotas;
pub(crate) use self::gate::Said;
pub(crate) use self::gate::Seen;
pub(crate) use self::ledger::Ledger;
pub(crate) use self::subject::Asker;
pub use self::subject::Keying;
pub use self::subject::Part;
pub(crate) use self::subject::Then;
pub use self::terms::Cost;
pub use self::terms::Plan;
pub use self::terms::Terms;
pub use self::terms::name;
pub use self::terms::tier;
pub use self::tier::Algorithm;
pub use self::tier::Tier;
pub(crate) use self::tier::Tiers;

/// Keys of one API that an instance remembers at once. Of more, those that are full again are
/// forgotten first, then those of whom little is lost.
pub const MOST_KEYS: usize = 1 << 16;

/// How one API counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of a request that Redis cannot be asked about.
    pub on_redis_error: OnRedisError,
    /// How the counts lie in Redis.
    pub layout: Layout,
    /// Whether a refused request takes from the tiers before the one that refuses it, and from that
    /// one too where it is [`Algorithm::Fixed`]: as apitwo counted. Then each request asks Redis.
    pub charge_refused: bool,
}

/// What becomes of a request that Redis cannot be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRedisError {
    /// It is refused: [`Verdict::Away`].
    Closed,
    /// The same, and its client is told 500 (apitwo did that).
    Error500,
    /// Each instance counts by itself, against its part of the limits.
    #[default]
    Local,
    /// It goes on, and is counted as one that nobody counted.
    Open,
}

/// How the counts lie in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As apitwo had them: a key for each tier and window, `limit:minute:<key>:<yyyymmddHHMM>`,
    /// without prefix or API. For fixed tiers of a minute, an hour or a day, and not in a cluster.
    Apitwo,
    /// A hash for each key.
    #[default]
    Narrows,
}

impl Settings {
    /// What keeps these tiers from being counted so, in words.
    pub fn problem(&self, tiers: &[Tier]) -> Option<String> {
        tier::problem(tiers).or_else(|| match self.layout {
            Layout::Apitwo => tier::apitwo_problem(tiers),
            Layout::Narrows => None,
        })
    }
}

/// How full one tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// What there is when nobody has taken anything: the limit, or the burst of a token bucket.
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// After how long all of it is there again, if nobody takes any.
    pub(crate) reset: Duration,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted,
    /// Redis is not there, and [`OnRedisError`] says to refuse.
    Away,
    /// This tier (by its place) has too little; of several, the one that has enough last.
    Denied {
        tier: usize,
        left: Duration,
    },
    /// It costs more than this tier ever has.
    Never {
        tier: usize,
    },
}

/// What a request has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) verdict: Verdict,
    /// One for each tier, in their order; none where nobody knows them, since Redis is away.
    pub(crate) levels: Vec<Level>,
}

/// What happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Requests that got what they cost.
    pub(crate) admitted: u64,
    /// Requests that did not.
    pub(crate) denied: u64,
    /// Requests that were refused since Redis was away.
    pub(crate) away: u64,
    /// Those of `admitted` that nobody counted, or this instance alone, since Redis was away.
    pub(crate) alone: u64,
    /// Questions to Redis.
    pub(crate) asked: u64,
    /// Keys that are remembered here now.
    pub(crate) keys: u64,
}
