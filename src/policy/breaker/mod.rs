//! Circuit breakers: whether an upstream that fails is asked at all.

use std::sync::Arc;
use std::time::Duration;

use super::Decision;
use super::Facts;
use crate::base::authority::HostKey;
use crate::store::board::Board;

/// When a circuit opens, and when it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Consecutive failures that open it; 0 counts none.
    pub failure_threshold: u32,
    /// How long it stays open before it is tried whether it can be closed.
    pub reset_timeout: Duration,
    /// Consecutive successes, of those that try, that close it.
    pub success_threshold: u32,
    /// Requests of the whole fleet that may try at once.
    pub probes: u32,
    /// Opened by shares of the calls too; none is not.
    pub rates: Option<Rates>,
}

/// Shares of failed and of slow calls that open a circuit.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// The time that is looked back over.
    pub window: Duration,
    /// Calls in it without which nothing is judged.
    pub minimum_calls: u32,
    /// Per cent of failed calls that open it; above 100 is off.
    pub failure_rate: f64,
    /// Per cent of slow calls that open it; above 100 is off.
    pub slow_call_rate: f64,
    /// A call that takes so long is slow.
    pub slow_call: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            reset_timeout: Duration::from_secs(30),
            success_threshold: 2,
            probes: 1,
            rates: None,
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(1),
            minimum_calls: 20,
            failure_rate: 50.0,
            slow_call_rate: 101.0,
            slow_call: Duration::from_mins(1),
        }
    }
}

/// The circuits of one API: one, or for the default API one for each host.
#[derive(Debug)]
pub(crate) struct Breakers {}

/// One attempt that a circuit let pass. Dropped without a word it says nothing about the upstream.
#[derive(Debug)]
pub(crate) struct Pass {}

impl Breakers {
    pub(crate) fn new(
        _api: &Arc<str>,
        _settings: Settings,
        _by_host: bool,
        _board: &Board,
        _former: Option<&Self>,
    ) -> Self {
        Self {}
    }

    /// Whether an attempt at this host may be made.
    #[expect(clippy::unused_async, reason = "a seam: who may try is asked in Redis")]
    pub(crate) async fn enter(&self, _host: &HostKey) -> Decision<Pass> {
        Decision::Pass(Pass {})
    }
}

impl Pass {
    /// What came of it.
    #[expect(clippy::unused_async, reason = "a seam: a failure is told to Redis")]
    pub(crate) async fn record(self, _facts: Facts) {}
}
