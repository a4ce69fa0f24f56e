//! Retries: whether a failed attempt is followed by another, and when.
//!
//! Only what is safe is done again: what may be repeated by its method (RFC 9110 §9.2.2), what bears
//! an Idempotency-Key, or what has not left at all. A refusal of our own is never followed by another
//! attempt, nor is what the client itself spoilt. Nothing here waits, sends or keeps a body; time is
//! handed in. The budget ([`budget`]) is this instance's own, Redis or not.

mod budget;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::Method;
use tokio::time::Instant;

use self::budget::Budget;
use self::budget::Terms;
use super::Cause;
use super::End;

/// draft-ietf-httpapi-idempotency-key-header.
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is tried again, how often and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Attempts in all, the first one counted.
    pub max_attempts: u32,
    /// Before the second attempt.
    pub initial_delay: Duration,
    /// Each further delay is so many times the one before.
    pub backoff_factor: f64,
    /// The longest delay.
    pub max_delay: Duration,
    /// By which part of itself, up or down, a delay is changed at random; 0 to 1.
    pub jitter: f64,
    /// Statuses after which another attempt is made.
    pub retry_on_status: Vec<u16>,
    /// Failures after which another attempt is made.
    pub retry_on_errors: Vec<Cause>,
    /// Whether requests are repeated that may not be by their method (RFC 9110 §9.2.2).
    pub retry_unsafe: bool,
    /// Per cent of the requests that may be retries; above 100 is off.
    pub budget: f64,
    /// Retries per second that are allowed beside the budget, so that few requests can be repeated.
    pub budget_floor: f64,
    /// Bytes of a body that are kept for another attempt; a longer one has only one.
    pub max_body: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: Duration::from_secs(1),
            backoff_factor: 2.0,
            max_delay: Duration::from_secs(10),
            jitter: 0.2,
            retry_on_status: vec![500, 502, 503, 504, 429],
            retry_on_errors: Cause::ALL.to_vec(),
            retry_unsafe: false,
            budget: 20.0,
            budget_floor: 10.0,
            max_body: 64 * 1024,
        }
    }
}

/// The retries of one API.
#[derive(Debug)]
pub(crate) struct Retry {
    settings: Settings,
    /// None is without end.
    terms: Option<Terms>,
    ledger: Arc<Ledger>,
}

/// What an instance has spent on retries: it lives on when settings change.
#[derive(Debug)]
struct Ledger {
    budget: Budget,
    withheld: AtomicU64,
}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    retry: &'a Retry,
    /// Attempts that are over.
    made: u32,
    is_repeatable: bool,
    deadline: Option<Instant>,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing: what came of it goes to the client.
    Deliver,
    /// Another, after so long.
    After(Duration),
}

/// An attempt that is over, as far as it matters for another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) end: End,
    /// Nothing of the request has left.
    pub(crate) is_unsent: bool,
    /// All of its body is still to be had.
    pub(crate) has_body: bool,
    /// How long the upstream asked not to be asked.
    pub(crate) asked: Option<Duration>,
}

impl Settings {
    /// How long to wait before retry `number` (from 1), where `roll` is a random number of 0 to 1.
    fn delay(&self, number: u32, roll: f64) -> Duration {
        let exponent = i32::try_from(number.saturating_sub(1)).unwrap_or(i32::MAX);
        let delay = self.initial_delay.as_secs_f64() * self.backoff_factor.powi(exponent);
        let jitter = 1.0 + self.jitter * (2.0 * roll - 1.0);
        // Whatever is no time any more is beyond any.
        let delay = Duration::try_from_secs_f64(delay * jitter).unwrap_or(Duration::MAX);
        delay.min(self.max_delay)
    }

    /// Whether what ended so is to be tried again.
    fn wants(&self, end: End) -> bool {
        match end {
            End::Status(status) => self.retry_on_status.contains(&status),
            End::Failed(cause) => self.retry_on_errors.contains(&cause),
            End::Neutral => false,
        }
    }
}

impl Retry {
    /// With what `former` had spent.
    pub(crate) fn new(settings: Settings, former: Option<&Self>) -> Self {
        let ledger = former.map_or_else(
            || {
                let (budget, withheld) = (Budget::new(), AtomicU64::new(0));
                Arc::new(Ledger { budget, withheld })
            },
            |former| Arc::clone(&former.ledger),
        );
        let has_budget = settings.budget <= 100.0;
        let terms = has_budget.then(|| Terms::new(settings.budget, settings.budget_floor));
        Self { settings, terms, ledger }
    }

    /// A request, which must be done by the deadline if it has one.
    pub(crate) fn begin(
        &self,
        method: &Method,
        fields: &HeaderMap,
        deadline: Option<Instant>,
    ) -> Attempts<'_> {
        if let Some(terms) = self.terms {
            self.ledger.budget.earn(terms);
        }
        let is_repeatable = self.settings.retry_unsafe
            || method.is_idempotent()
            || fields.contains_key(&IDEMPOTENCY_KEY);
        Attempts { retry: self, made: 0, is_repeatable, deadline }
    }

    /// Attempts that were not made because the budget was spent.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the metrics per API"))]
    pub(crate) fn withheld(&self) -> u64 {
        self.ledger.withheld.load(Relaxed)
    }

    fn may_spend(&self, now: Instant) -> bool {
        let ledger = &*self.ledger;
        let may = self.terms.is_none_or(|terms| ledger.budget.spend(terms, now));
        if !may {
            ledger.withheld.fetch_add(1, Relaxed);
        }
        may
    }
}

impl Attempts<'_> {
    /// Bytes of the body to be kept for another attempt. What may not be repeated is tried again
    /// only if nothing of it has left.
    pub(crate) fn keeps(&self) -> usize {
        if self.is_repeatable { self.retry.settings.max_body } else { 0 }
    }

    /// How long another attempt may wait for a gate.
    pub(crate) fn patience(&self) -> Duration {
        self.retry.settings.max_delay
    }

    /// Whether no other attempt follows the next one, whatever comes of it.
    pub(crate) fn is_last(&self) -> bool {
        self.made.saturating_add(1) >= self.retry.settings.max_attempts
    }

    /// What follows an attempt that is over now.
    pub(crate) fn judge(&mut self, attempt: Attempt, now: Instant) -> Verdict {
        let Attempt { end, is_unsent, has_body, asked } = attempt;
        if end == End::Neutral {
            return Verdict::Deliver;
        }
        let is_last = self.is_last();
        self.made += 1;
        let settings = &self.retry.settings;
        let is_safe = is_unsent || self.is_repeatable;
        if is_last || !is_safe || !has_body || !settings.wants(end) {
            return Verdict::Deliver;
        }
        let asked = asked.unwrap_or_default();
        // Not slept through: the client may have better things to do.
        if asked > settings.max_delay {
            return Verdict::Deliver;
        }
        let delay = settings.delay(self.made, fastrand::f64()).max(asked);
        if self.deadline.is_some_and(|deadline| now + delay >= deadline) {
            return Verdict::Deliver;
        }
        if self.retry.may_spend(now) { Verdict::After(delay) } else { Verdict::Deliver }
    }

    /// Attempts that were made after the first.
    pub(crate) fn count(&self) -> u32 {
        self.made.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests;
