//! What is counted of one API: requests by how they ended, attempts, retries. What their
//! gates do is counted by those themselves.
//!
//! Not how long anything took, and nothing per path or client: the labels are the names of APIs,
//! which the settings have, and words of ours. What was counted lives on with the API's
//! name when settings change, and ends with it.
//!
//! PERF: an API's counters are striped, so that threads on different cores count on cache lines of
//! their own; to count is an atomic addition that nobody else is near to.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Cause;
use super::super::End;
use super::super::Rule;
use super::super::access::entrance::TokenFlaw;
use super::super::access::entrance::Unproven;
use super::super::cache::status::Outcome as Cached;
use super::super::decided::Decided;
use super::super::decided::Sums;

/// How a request ended, as far as its API is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The upstream answered, below 500.
    Success,
    /// It answered 500 or above, or there was no answer of it.
    Failure,
    /// What is kept answered, or what another request had asked for: this one asked nobody.
    Hit,
    /// The circuit was open.
    Breaker,
    /// The upstream had asked not to be asked.
    CoolDown,
    /// No parent could be used.
    Parents,
    /// The client had nothing left of its quota, or nobody could say.
    Quota,
    /// There was no slot.
    Limit,
    /// The client may not use the API.
    Denied,
    /// The client showed no key that holds.
    Unproven,
    /// What the client asked for is refused: by the gateway, by what may be reached.
    Request,
    /// The client left before there was an answer.
    Left,
}

impl Outcome {
    pub(crate) const ALL: [Self; 12] = [
        Self::Success,
        Self::Failure,
        Self::Hit,
        Self::Breaker,
        Self::CoolDown,
        Self::Parents,
        Self::Quota,
        Self::Limit,
        Self::Denied,
        Self::Unproven,
        Self::Request,
        Self::Left,
    ];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Hit => "cached",
            Self::Breaker => "breaker_open",
            Self::CoolDown => "cool_down",
            Self::Parents => "no_parent",
            Self::Quota => "no_quota",
            Self::Limit => "no_slot",
            Self::Denied => "denied",
            Self::Unproven => "unauthorized",
            Self::Request => "bad_request",
            Self::Left => "client_left",
        }
    }
}

impl From<Rule> for Outcome {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Breaker => Self::Breaker,
            Rule::CoolDown(_) => Self::CoolDown,
            Rule::Parents => Self::Parents,
            Rule::Access => Self::Unproven,
            Rule::Networks => Self::Denied,
            Rule::Quota(_) | Rule::QuotaAway(_) => Self::Quota,
        }
    }
}

impl From<Unproven> for Outcome {
    fn from(why: Unproven) -> Self {
        match why {
            Unproven::Scope | Unproven::Token(TokenFlaw::Scope) => Self::Denied,
            Unproven::Nothing
            | Unproven::Unclear
            | Unproven::Unknown
            | Unproven::Expired
            | Unproven::NotYet
            | Unproven::Token(_) => Self::Unproven,
        }
    }
}

/// How attempts end: by class of status, by cause, or without a word about the upstream.
pub(crate) const RESULTS: [&str; CLASSES + Cause::ALL.len() + 1] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    Cause::ALL[0].as_str(),
    Cause::ALL[1].as_str(),
    Cause::ALL[2].as_str(),
    Cause::ALL[3].as_str(),
    Cause::ALL[4].as_str(),
    "neutral",
];

/// The classes of statuses, `1xx` to `5xx`.
const CLASSES: usize = 5;
/// The most stripes that an API's counters have.
const STRIPES: usize = 16;

/// Where [`RESULTS`] has this end.
fn result(end: End) -> usize {
    match end {
        End::Status(status) => usize::from(status / 100).clamp(1, CLASSES) - 1,
        End::Failed(cause) => CLASSES + cause as usize,
        End::Neutral => RESULTS.len() - 1,
    }
}

/// Counters of threads that share a stripe. Aligned so that no two share a cache line, or the pair
/// of lines that the prefetcher fetches.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    requests: [AtomicU64; Outcome::ALL.len()],
    attempts: [AtomicU64; RESULTS.len()],
    retries: AtomicU64,
    /// By what the cache did.
    cached: [AtomicU64; Cached::ALL.len()],
    stored: AtomicU64,
    decided: Decided,
}

/// The counters of one API.
#[derive(Debug)]
pub(crate) struct Counts {
    stripes: Arc<[Stripe]>,
}

/// What was counted, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By [`Outcome`].
    pub(crate) requests: [u64; Outcome::ALL.len()],
    /// By [`RESULTS`].
    pub(crate) attempts: [u64; RESULTS.len()],
    /// Attempts that were not the first of their request.
    pub(crate) retries: u64,
    /// Requests by what the cache did for them.
    pub(crate) cached: [u64; Cached::ALL.len()],
    /// Responses that were kept.
    pub(crate) stored: u64,
    /// Decisions of its rules.
    pub(crate) decided: Sums,
}

impl Counts {
    /// Counters that go on from what `former` has counted.
    pub(super) fn new(former: Option<&Self>) -> Self {
        let stripes = former.map_or_else(
            || {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                (0..cores.min(STRIPES)).map(|_| Stripe::default()).collect()
            },
            |former| Arc::clone(&former.stripes),
        );
        Self { stripes }
    }

    /// A request is over.
    pub(crate) fn asked(&self, outcome: Outcome) {
        self.stripe().requests[outcome as usize].fetch_add(1, Relaxed);
    }

    /// An attempt is over; `again` is whether it was a retry.
    pub(crate) fn attempted(&self, end: End, again: bool) {
        let stripe = self.stripe();
        stripe.attempts[result(end)].fetch_add(1, Relaxed);
        if again {
            stripe.retries.fetch_add(1, Relaxed);
        }
    }

    /// Where decisions of its rules are counted.
    pub(crate) fn decided(&self) -> &Decided {
        &self.stripe().decided
    }

    /// The cache did this for a request.
    pub(crate) fn cached(&self, outcome: Cached) {
        self.stripe().cached[outcome as usize].fetch_add(1, Relaxed);
    }

    /// A response is kept.
    pub(crate) fn stored(&self) {
        self.stripe().stored.fetch_add(1, Relaxed);
    }

    /// All that was counted.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let add = |sum: &mut u64, n: &AtomicU64| *sum = sum.wrapping_add(n.load(Relaxed));
        for stripe in &*self.stripes {
            totals.requests.iter_mut().zip(&stripe.requests).for_each(|(sum, n)| add(sum, n));
            totals.attempts.iter_mut().zip(&stripe.attempts).for_each(|(sum, n)| add(sum, n));
            add(&mut totals.retries, &stripe.retries);
            totals.cached.iter_mut().zip(&stripe.cached).for_each(|(sum, n)| add(sum, n));
            add(&mut totals.stored, &stripe.stored);
            stripe.decided.add_to(&mut totals.decided);
        }
        totals
    }

    fn stripe(&self) -> &Stripe {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = NEXT.fetch_add(1, Relaxed);
        }
        &self.stripes[OWN.with(|own| *own) % self.stripes.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_named_by_class_and_cause() {
        let ends = [100, 204, 302, 404, 599, 0].map(End::Status);
        assert_eq!(
            ends.map(|end| RESULTS[result(end)]),
            ["1xx", "2xx", "3xx", "4xx", "5xx", "1xx"]
        );
        for cause in Cause::ALL {
            assert_eq!(RESULTS[result(End::Failed(cause))], cause.as_str());
        }
        assert_eq!(RESULTS[result(End::Neutral)], "neutral");
    }

    #[test]
    fn threads_count_together() {
        let counts = Counts::new(None);
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    for again in [false, true, true] {
                        counts.attempted(End::Status(503), again);
                    }
                    counts.asked(Outcome::Failure);
                });
            }
        });
        let totals = counts.totals();
        assert_eq!(totals.requests[Outcome::Failure as usize], 40);
        assert_eq!(totals.requests.iter().sum::<u64>(), 40);
        assert_eq!(totals.attempts[result(End::Status(503))], 120);
        assert_eq!(totals.retries, 80);
    }

    #[test]
    fn what_was_counted_outlives_a_change() {
        let former = Counts::new(None);
        former.asked(Outcome::Success);
        former.attempted(End::Status(500), false);
        let counts = Counts::new(Some(&former));
        // What is under way when the settings change still has the former ones.
        former.attempted(End::Status(200), true);
        former.asked(Outcome::Success);
        counts.attempted(End::Failed(Cause::Reset), false);
        assert_eq!(counts.totals().requests[Outcome::Success as usize], 2);
        assert_eq!(counts.totals().attempts.iter().sum::<u64>(), 3);
    }
}
