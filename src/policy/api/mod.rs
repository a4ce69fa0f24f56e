//! APIs: which requests meet which policies.
//!
//! An [`Api`] is found by its name (the gateway's path) or by the host that a request is bound for.
//! Plain requests to hosts that no API claims meet the default API, if that has any policy at all.
//! [`Apis`] is one state of all of them: a request takes it once and keeps to it, however often the
//! settings change meanwhile. What a policy has learned (failures, cool-downs) lives on with the
//! API's name.

pub(crate) mod counts;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use http::Method;

use self::counts::Counts;
use super::breaker;
use super::breaker::Breakers;
use super::cooldown;
use super::cooldown::CoolDowns;
use super::parents;
use super::parents::Parents;
use super::retry;
use super::retry::Retry;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::base::pattern::Pattern;
use crate::base::pattern::Patterns;
use crate::store::board::Board;

/// The name of the API that stands for all forward traffic without another.
pub const DEFAULT: &str = "default";

/// What holds for one API.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: Arc<str>,
    /// Where the gateway sends its requests; none has no gateway path.
    pub target: Option<Target>,
    /// Hosts whose forward traffic meets its policies too.
    pub hosts: Vec<Pattern>,
    /// What the gateway does to its requests.
    pub gateway: Gateway,
    /// How long an attempt may take to connect, and then to the head of its response.
    pub request_timeout: Option<Duration>,
    /// From the head of a request to the head of its answer, all attempts and all waits together.
    pub total_timeout: Option<Duration>,
    /// Its circuit breaker; none is without.
    pub breaker: Option<breaker::Settings>,
    /// What is tried again; none is without.
    pub retry: Option<retry::Settings>,
    /// Whether it is heard when it asks not to be asked; none does not hear.
    pub cooldown: Option<cooldown::Settings>,
    /// By which way it is reached; none goes directly.
    pub parents: Option<parents::Settings>,
}

/// A base URL: `scheme://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether the scheme is https.
    pub tls: bool,
    /// Its host and port.
    pub authority: Authority,
    /// Its path without the slash at its end; empty for the root.
    pub path: String,
}

/// Which of a client's fields the gateway sends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// None but those that describe the body.
    #[default]
    None,
    /// All but Host, those of the hop, and credentials for proxies.
    All,
    /// These, and those that describe the body.
    Listed(Vec<HeaderName>),
}

/// What the gateway does to requests of one API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// Methods it takes; empty takes all.
    pub methods: Vec<Method>,
    /// Fields it sets, in the place of the client's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields it takes out of requests, whoever set them.
    pub remove_headers: Vec<HeaderName>,
    /// Fields it sets in responses.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Which of the client's fields go on.
    pub forward_headers: Forwarded,
    /// Whether a request without a body is refused.
    pub requires_body: bool,
    /// Up to how many bytes a JSON body is looked at before it is sent on; none does not look.
    pub validate_json: Option<u64>,
    /// Beginnings of paths and what stands in their place upstream; the longest that fits counts.
    pub rewrite: Vec<(String, String)>,
}

impl Settings {
    /// An API of this name that has no policy.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            target: None,
            hosts: Vec::new(),
            gateway: Gateway::default(),
            request_timeout: None,
            total_timeout: None,
            breaker: None,
            retry: None,
            cooldown: None,
            parents: None,
        }
    }

    /// Whether it does nothing to forward traffic.
    fn is_idle(&self) -> bool {
        self.request_timeout.is_none()
            && self.total_timeout.is_none()
            && self.breaker.is_none()
            && self.retry.is_none()
            && self.cooldown.is_none()
            && self.parents.is_none()
    }
}

/// One API, and what its policies have learned.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) settings: Settings,
    pub(crate) breakers: Option<Breakers>,
    pub(crate) retry: Option<Retry>,
    pub(crate) cooldowns: Option<CoolDowns>,
    pub(crate) parents: Option<Parents>,
    pub(crate) counts: Counts,
}

impl Api {
    /// With what `former`, of the same name, had learned.
    fn new(settings: Settings, board: &Board, former: Option<&Self>) -> Self {
        let name = &settings.name;
        // One dead host is no reason not to go to another: the default API keeps them apart.
        let by_host = &**name == DEFAULT;
        Self {
            breakers: settings.breaker.as_ref().map(|breaker| {
                let former = former.and_then(|former| former.breakers.as_ref());
                Breakers::new(name, breaker.clone(), by_host, board, former)
            }),
            retry: settings.retry.as_ref().map(|retry| {
                let former = former.and_then(|former| former.retry.as_ref());
                Retry::new(retry.clone(), former)
            }),
            cooldowns: settings.cooldown.as_ref().map(|cooldown| {
                let former = former.and_then(|former| former.cooldowns.as_ref());
                CoolDowns::new(name, cooldown.clone(), board, former)
            }),
            parents: settings.parents.as_ref().map(|parents| {
                let former = former.and_then(|former| former.parents.as_ref());
                Parents::new(name, parents.clone(), board, former)
            }),
            counts: Counts::new(
                settings.parents.as_ref().map_or(&[], |parents| &parents.list),
                former.map(|former| &former.counts),
            ),
            settings,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }
}

/// All APIs, as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Apis {
    by_name: HashMap<Arc<str>, Arc<Api>>,
    claims: Patterns<Arc<Api>>,
    default: Option<Arc<Api>>,
}

impl Apis {
    /// All of `settings`; the one of the name [`DEFAULT`] is for forward traffic without another.
    /// What `former` had learned lives on. Of two that claim one pattern the first has it.
    pub(crate) fn new(settings: &[Settings], board: &Board, former: Option<&Self>) -> Self {
        let mut apis = Self::default();
        for settings in settings {
            let name = Arc::clone(&settings.name);
            let former = former.and_then(|former| former.any(&name));
            let api = Arc::new(Api::new(settings.clone(), board, former.map(|api| &**api)));
            if &*name == DEFAULT {
                apis.default = Some(api);
                continue;
            }
            for pattern in &settings.hosts {
                if let Some(first) = apis.claims.set(pattern.clone(), Arc::clone(&api)) {
                    apis.claims.set(pattern.clone(), first);
                }
            }
            apis.by_name.insert(name, api);
        }
        apis
    }

    fn any(&self, name: &str) -> Option<&Arc<Api>> {
        if name == DEFAULT { self.default.as_ref() } else { self.by_name.get(name) }
    }

    /// The API of a gateway path.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Api>> {
        self.by_name.get(name)
    }

    /// The API whose policies forward traffic to this host meets, if it meets any.
    pub(crate) fn of_host(&self, key: &HostKey) -> Option<&Arc<Api>> {
        let claimed = self.claims.find(key).map(|(api, _)| api);
        claimed.or(self.default.as_ref()).filter(|api| !api.settings.is_idle())
    }

    /// All, by name; the default is among them.
    pub(crate) fn all(&self) -> Vec<&Arc<Api>> {
        let mut all: Vec<_> = self.by_name.values().chain(&self.default).collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }
}
