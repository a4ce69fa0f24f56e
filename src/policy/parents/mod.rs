//! Parents: by which proxy, if by any, an upstream is reached.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;

use super::Decision;
use super::Facts;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::store::board::Board;

/// The parents of an API, and how one is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which there are.
    pub list: Vec<Arc<Parent>>,
    /// How one is chosen.
    pub strategy: Strategy,
    /// How long an idle connection through a parent is kept.
    pub keepalive_timeout: Duration,
    /// Idle connections that are kept for one origin through one parent.
    pub keepalive_pool: usize,
    /// For how long a parent that fails, or is refused by a host, is not used for that host.
    pub ban: Duration,
    /// Connections at once to one host through one parent, of the whole fleet; 0 is unlimited.
    pub max_connections: u32,
    /// Requests to one host through one parent in a time, of the whole fleet; none is unlimited.
    pub quota: Option<(u32, Duration)>,
}

/// A proxy on the way up.
#[derive(Debug, PartialEq, Eq)]
pub struct Parent {
    /// What it is called in logs, metrics and Redis: its URL without userinfo.
    pub name: Arc<str>,
    /// Whether it is spoken to by TLS.
    pub tls: bool,
    /// Where it is.
    pub authority: Authority,
    /// What it is told of us (Proxy-Authorization), marked sensitive.
    pub authorization: Option<HeaderValue>,
    /// How much of the requests it gets beside others.
    pub weight: u32,
}

/// How a parent is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// One for all requests that have this in common.
    Sticky(StickyKey),
    /// Each of a window of so many in its turn; the window slides by one past one that is limited.
    Subset(usize),
    /// None, until a 429 was seen.
    OnRateLimit,
    /// None.
    Never,
    /// The one with the fewest requests at the moment.
    LeastUsed,
    /// By their weights.
    Weighted,
}

/// What requests have in common that go by the same parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StickyKey {
    /// The client's address.
    #[default]
    ClientIp,
    /// The API: all of its requests.
    ApiName,
    /// The value of this field.
    Header(HeaderName),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            strategy: Strategy::RoundRobin,
            keepalive_timeout: Duration::from_mins(1),
            keepalive_pool: 50,
            ban: Duration::from_secs(30),
            max_connections: 0,
            quota: None,
        }
    }
}

/// The parents of one API, and what is known of them.
#[derive(Debug)]
pub(crate) struct Parents {}

/// What is known of a request when its way is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) client: std::net::IpAddr,
    pub(crate) host: &'a HostKey,
    pub(crate) fields: &'a http::HeaderMap,
    /// By which way the attempt before went, and the status it came back with.
    pub(crate) before: Option<(Option<&'a Arc<Parent>>, u16)>,
}

/// A way that was chosen. Dropped without a word it says nothing about the parent.
#[derive(Debug)]
pub(crate) struct Way {
    /// None is directly.
    pub(crate) parent: Option<Arc<Parent>>,
}

impl Parents {
    pub(crate) fn new(
        _api: &Arc<str>,
        _settings: Settings,
        _board: &Board,
        _former: Option<&Self>,
    ) -> Self {
        Self {}
    }

    /// By which way an attempt goes.
    pub(crate) fn choose(&self, _asked: Asked<'_>) -> Decision<Way> {
        Decision::Pass(Way { parent: None })
    }
}

impl Way {
    /// What came of it.
    pub(crate) fn record(self, _facts: Facts) {}
}
