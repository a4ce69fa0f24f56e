//! Slots shared through Redis.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::sync::Notify;

use super::host::Basis;
use super::host::Host;

/// What the threads that admit and the one that speaks to Redis share.
#[derive(Debug, Default)]
pub(crate) struct Link {
    listed: Mutex<Vec<Arc<Host>>>,
    wake: Notify,
}

impl Link {
    /// Puts a host on the list of those Redis must hear of.
    pub(crate) fn speak(&self, host: Arc<Host>) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        self.wake.notify_one();
    }

    pub(crate) fn basis(&self) -> Basis {
        Basis::Granted { leased: true }
    }
}

/// What happens to new connections while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// They are refused.
    #[default]
    Closed,
    /// All pass, counted here alone.
    Open,
    /// The limit over the last known number of instances holds here.
    Share,
}

/// What the fleet's limiter obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Redis is.
    pub store: crate::store::Settings,
    /// How long Redis vouches for this instance's slots after each renewal.
    pub lease: std::time::Duration,
    /// How often the lease is renewed; less than a third of it.
    pub heartbeat: std::time::Duration,
    /// What happens while Redis is away.
    pub failure: Failure,
}
