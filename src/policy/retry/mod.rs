//! Retries: whether a failed attempt is followed by another, and when.

use std::time::Duration;

use http::HeaderMap;
use http::Method;
use tokio::time::Instant;

use super::Cause;
use super::Facts;

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
pub(crate) struct Retry {}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts {}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing: what came of it goes to the client.
    Deliver,
    /// Another, after so long.
    After(Duration),
}

impl Retry {
    pub(crate) fn new(_settings: Settings, _former: Option<&Self>) -> Self {
        Self {}
    }

    /// A request, which must be done by the deadline if it has one.
    pub(crate) fn begin(
        &self,
        _method: &Method,
        _fields: &HeaderMap,
        _deadline: Option<Instant>,
    ) -> Attempts {
        Attempts {}
    }
}

impl Attempts {
    /// Bytes of the body to be kept for another attempt.
    pub(crate) fn keeps(&self) -> usize {
        0
    }

    /// What follows. `unsent` says that nothing of the request has left, `body` that all of its
    /// body is still there; `asked` is how long the upstream asked not to be asked.
    pub(crate) fn judge(
        &mut self,
        _facts: Facts,
        _unsent: bool,
        _body: bool,
        _asked: Option<Duration>,
    ) -> Verdict {
        Verdict::Deliver
    }

    /// Attempts that were made after the first.
    pub(crate) fn count(&self) -> u32 {
        0
    }
}
