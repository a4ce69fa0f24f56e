//! APIs: which requests meet which policies.
//!
//! An [`Api`] is found by its name (the gateway's path) or by the host that a request is bound for.
//! Plain requests to hosts that no API claims meet the default API, if that has any policy at all.
//! [`Apis`] is one state of all of them: a request takes it once and keeps to it, however often the
//! settings change meanwhile. What a policy has learned (failures, cool-downs) lives on with the
//! API's name.

mod circuits;
pub(crate) mod counts;
pub(crate) mod entrances;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use http::Method;

pub(crate) use self::circuits::Circuits;
use self::counts::Counts;
use super::Mode;
use super::access::Lists;
use super::access::entrance::Entrance;
use super::access::jwt;
use super::access::keys;
use super::breaker;
use super::breaker::Breakers;
use super::cache;
use super::cache::Cache;
use super::cache::tiers::Tiers;
use super::cooldown;
use super::cooldown::CoolDowns;
use super::failures::Failures;
use super::parents;
use super::parents::Parents;
use super::quota;
use super::quota::Quotas;
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
    /// From which addresses it may be used.
    pub lists: Lists,
    /// The keys that clients show; none asks for none.
    pub keys: Option<keys::Settings>,
    /// The tokens that they may show; none takes none.
    pub jwt: Option<jwt::Settings>,
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
    /// How often each of its clients may ask; none counts nobody.
    pub quota: Option<quota::Terms>,
    /// By which way it is reached; none goes directly.
    pub parents: Option<parents::Settings>,
    /// What is kept of it; none keeps nothing.
    pub cache: Option<cache::Settings>,
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

/// What is done to the messages of one API. `headers`, `remove_headers` and `response_headers` hold
/// by whichever route a request comes, all else by the gateway's path alone.
#[derive(Clone, Default, PartialEq)]
pub struct Gateway {
    /// Methods it takes; empty takes all. Where GET is taken, HEAD is.
    pub methods: Vec<Method>,
    /// Fields it sets, in the place of the client's; a key of the API among them, perhaps. Those
    /// that [`is_settable`] does not let be set are left out.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields it takes out of requests, whoever set them.
    pub remove_headers: Vec<HeaderName>,
    /// Fields it sets in responses.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Which of the client's fields go on.
    pub forward_headers: Forwarded,
    /// Whether X-Forwarded-For, -Host and -Proto tell the target of the client.
    pub forwarded: bool,
    /// Whether a request without a body is refused.
    pub requires_body: bool,
    /// Up to how many bytes a JSON body is looked at before it is sent on; none does not look.
    pub validate_json: Option<u64>,
    /// Beginnings of paths and what stands in their place upstream; the longest that fits counts.
    pub rewrite: Vec<(String, String)>,
}

impl fmt::Debug for Gateway {
    /// SECURITY: of the fields that are set only the names, since a key may be among the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |fields: &[(HeaderName, HeaderValue)]| -> Vec<HeaderName> {
            fields.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("Gateway")
            .field("methods", &self.methods)
            .field("headers", &names(&self.headers))
            .field("remove_headers", &self.remove_headers)
            .field("response_headers", &names(&self.response_headers))
            .field("forward_headers", &self.forward_headers)
            .field("forwarded", &self.forwarded)
            .field("requires_body", &self.requires_body)
            .field("validate_json", &self.validate_json)
            .field("rewrite", &self.rewrite)
            .finish()
    }
}

impl Gateway {
    /// Whether it changes messages by every route.
    fn dresses(&self) -> bool {
        !self.headers.is_empty()
            || !self.remove_headers.is_empty()
            || !self.response_headers.is_empty()
    }

    /// Without fields that no API may set, its values marked as secrets.
    fn made_sound(mut self) -> Self {
        self.headers.retain(|(name, _)| is_settable(name));
        self.remove_headers.retain(is_settable);
        self.response_headers.retain(|(name, _)| is_settable(name));
        for (_, value) in &mut self.headers {
            value.set_sensitive(true);
        }
        self
    }
}

/// Whether an API may set a field or take it out: none that frames a message, says where it goes,
/// or ends at a hop (RFC 9110 §7.6.1, RFC 9112 §6).
pub fn is_settable(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "max-forwards"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
    )
}

impl Target {
    /// What the Host field says of it: no port where the scheme has it (RFC 9110 §7.2).
    fn host(&self) -> Option<HeaderValue> {
        let port = if self.tls { 443 } else { 80 };
        let host = if self.authority.port_number() == port {
            self.authority.host().to_string()
        } else {
            self.authority.to_string()
        };
        HeaderValue::try_from(host).ok()
    }
}

impl Settings {
    /// An API of this name that has no policy.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            target: None,
            hosts: Vec::new(),
            lists: Lists::default(),
            keys: None,
            jwt: None,
            gateway: Gateway::default(),
            request_timeout: None,
            total_timeout: None,
            breaker: None,
            retry: None,
            cooldown: None,
            quota: None,
            parents: None,
            cache: None,
        }
    }

    /// Whether it does nothing to forward traffic.
    fn is_idle(&self) -> bool {
        self.request_timeout.is_none()
            && self.total_timeout.is_none()
            && self.breaker.is_none()
            && self.retry.is_none()
            && self.cooldown.is_none()
            && self.quota.is_none()
            && self.parents.is_none()
            && self.cache.is_none()
            && !self.gateway.dresses()
            && self.lists.is_open()
            && self.keys.is_none()
            && self.jwt.is_none()
    }
}

/// One API, and what its policies have learned.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) settings: Settings,
    /// The Host field of its target.
    pub(crate) host: Option<HeaderValue>,
    /// Who is let in; none asks nobody.
    pub(crate) entrance: Option<Entrance>,
    pub(crate) breakers: Option<Breakers>,
    pub(crate) retry: Option<Retry>,
    pub(crate) cooldowns: Option<CoolDowns>,
    pub(crate) quotas: Option<Quotas>,
    pub(crate) parents: Option<Parents>,
    pub(crate) cache: Option<Cache>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) counts: Counts,
}

impl Api {
    /// With what `former`, of the same name, had learned.
    fn new(mut settings: Settings, board: &Board, tiers: &Tiers, former: Option<&Self>) -> Self {
        settings.gateway = settings.gateway.made_sound();
        let name = &settings.name;
        // One dead host is no reason not to go to another: the default API keeps them apart.
        let by_host = &**name == DEFAULT;
        let entrance = former.and_then(|former| former.entrance.as_ref());
        Self {
            entrance: Entrance::new(name, settings.keys.as_ref(), settings.jwt.as_ref(), entrance),
            breakers: settings.breaker.as_ref().map(|breaker| {
                let former = former.and_then(|former| former.breakers.as_ref());
                let timeout = settings.request_timeout;
                Breakers::new(name, breaker.clone(), by_host, timeout, board, former)
            }),
            retry: settings.retry.as_ref().map(|retry| {
                let former = former.and_then(|former| former.retry.as_ref());
                Retry::new(retry.clone(), former)
            }),
            cooldowns: settings.cooldown.as_ref().map(|cooldown| {
                let former = former.and_then(|former| former.cooldowns.as_ref());
                let parents = settings.parents.as_ref();
                let has_parents =
                    parents.is_some_and(|parents| parents.strategy != parents::Strategy::Never);
                CoolDowns::new(name, cooldown.clone(), has_parents, board, former)
            }),
            quotas: settings.quota.as_ref().map(|terms| {
                let former = former.and_then(|former| former.quotas.as_ref());
                Quotas::new(name, terms.clone(), board, former)
            }),
            parents: settings.parents.as_ref().map(|parents| {
                let former = former.and_then(|former| former.parents.as_ref());
                Parents::new(name, parents.clone(), board, former)
            }),
            cache: settings.cache.as_ref().map(|cache| Cache::new(name, cache.clone(), tiers)),
            failures: former.map(|former| Arc::clone(&former.failures)).unwrap_or_default(),
            counts: Counts::new(former.map(|former| &former.counts)),
            host: settings.target.as_ref().and_then(Target::host),
            settings,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Whether nobody is served who does not show one of its keys, or a token.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.entrance.as_ref().is_some_and(|entrance| entrance.mode() == Mode::Enforce)
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
    pub(crate) fn new(
        settings: &[Settings],
        board: &Board,
        tiers: &Tiers,
        former: Option<&Self>,
    ) -> Self {
        let mut apis = Self::default();
        for settings in settings {
            let name = Arc::clone(&settings.name);
            let former = former.and_then(|former| former.any(&name));
            let former = former.map(|api| &**api);
            let api = Arc::new(Api::new(settings.clone(), board, tiers, former));
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
