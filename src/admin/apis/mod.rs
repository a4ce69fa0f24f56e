//! `/apis`: which there are, what holds for them, what was counted; and beside it what their
//! policies have learned ([`circuits`], [`cooldowns`], [`parents`],
//! [`quota`]).
//!
//! Keys are those of the config file, times are seconds, and a list is a list when it is empty too.
//!
//! SECURITY: of fields that an API sets only the names are told, of parents not what they are told
//! of us.

pub(super) mod circuits;
pub(super) mod cooldowns;
pub(super) mod kept;
pub(super) mod metrics;
pub(super) mod parents;
pub(super) mod quota;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::header;
use http::request::Parts;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Body;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Answer;
use super::Sources;
use super::decoded;
use super::limits;
use super::problem;
use crate::base::clock;
use crate::policy::Cause;
use crate::policy::access::entrance::Entrance;
use crate::policy::access::jwt;
use crate::policy::access::keys;
use crate::policy::api::Api;
use crate::policy::api::Forwarded;
use crate::policy::api::Gateway;
use crate::policy::api::Settings;
use crate::policy::api::Target;
use crate::policy::api::counts::Outcome;
use crate::policy::api::counts::RESULTS;
use crate::policy::breaker;
use crate::policy::cache;
use crate::policy::cache::status::Outcome as Cached;
use crate::policy::cooldown;
use crate::policy::cooldown::Scope;
use crate::policy::parents::Parent;
use crate::policy::parents::StickyKey;
use crate::policy::parents::Strategy;
use crate::policy::retry;

/// A body of a request, of which nothing is wanted.
const BODY: usize = 4096;
/// What stands in the place of a value that may be a secret.
const MASK: &str = "(secret)";

/// All APIs.
pub(super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let apis: Vec<Value> = apis.all().into_iter().map(|api| told(api)).collect();
    super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "apis": apis }))
}

/// What a DELETE of a page below another ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletion {
    /// What is kept.
    Cache,
    Circuit,
    CoolDown,
}

impl Deletion {
    /// What the path asks for, and of what.
    fn of(path: &str) -> Option<(Self, &str)> {
        let circuit = path.strip_prefix("/circuit-status/").map(|rest| (Self::Circuit, rest));
        let cache = path.strip_prefix("/cache/").map(|rest| (Self::Cache, rest));
        circuit
            .or(cache)
            .or_else(|| path.strip_prefix("/cool-downs/").map(|rest| (Self::CoolDown, rest)))
    }
}

/// Whether the path is one of those that can be deleted.
pub(super) fn is_deletable(path: &str) -> bool {
    Deletion::of(path).is_some()
}

/// DELETE of one of those: what is named by `API` or `API/NAME` behind the page.
pub(super) async fn delete<B>(sources: &Sources, request: Request<B>) -> Answer
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let head = match authorised(sources, request, "DELETE").await {
        Ok(head) => head,
        Err(refusal) => return *refusal,
    };
    let Some((what, rest)) = Deletion::of(head.uri.path()) else {
        return problem(StatusCode::NOT_FOUND, "there is nothing of this name");
    };
    let (api, name) = match rest.split_once('/') {
        Some((api, name)) => (api, Some(name)),
        None => (rest, None),
    };
    let (Some(api), Some(name)) = (decoded(api), decoded(name.unwrap_or_default())) else {
        return problem(StatusCode::BAD_REQUEST, "the path is not percent-encoded UTF-8");
    };
    let name = Some(&*name).filter(|name| !name.is_empty());
    if (what, &*api) == (Deletion::Circuit, breaker::TUNNELS) {
        return circuits::close(breaker::TUNNELS, sources.connects.as_deref(), name);
    }
    let apis = sources.apis.load();
    let Some(api) = apis.all().into_iter().find(|other| **other.name() == *api) else {
        return problem(StatusCode::NOT_FOUND, "there is no such API");
    };
    match what {
        Deletion::Cache if name.is_some() => {
            problem(StatusCode::NOT_FOUND, "DELETE /cache/API, or /cache/API?url=URL")
        }
        Deletion::Cache => kept::purge(api, head.uri.query()),
        Deletion::Circuit => circuits::close(api.name(), api.breakers.as_ref(), name),
        Deletion::CoolDown => cooldowns::forget(api, name),
    }
}

/// The head of a request that deletes something, from somebody who may. `methods` are those that
/// there are.
async fn authorised<B>(
    sources: &Sources,
    request: Request<B>,
    methods: &'static str,
) -> Result<Parts, Box<Answer>>
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    // To close a socket with bytes unread would reset it, and the answer might be lost.
    let _body = Limited::new(body, BODY).collect().await;
    limits::authorise(sources, &head.headers)?;
    if head.method != Method::DELETE {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{methods} only"));
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        return Err(Box::new(answer));
    }
    Ok(head)
}

fn told(api: &Api) -> Value {
    let mut told = settings(&api.settings);
    let totals = api.counts.totals();
    let by = |words: &[&str], counts: &[u64]| -> Map<String, Value> {
        words.iter().zip(counts).map(|(word, n)| ((*word).to_owned(), (*n).into())).collect()
    };
    told["requests"] = by(&Outcome::ALL.map(Outcome::as_str), &totals.requests).into();
    told["attempts"] = by(&RESULTS, &totals.attempts).into();
    told["retries"] = totals.retries.into();
    if let Some(keys) = api.entrance.as_ref().and_then(Entrance::keys) {
        told["keys"]["known"] = keys.into();
    }
    if let Some(keys) = api.entrance.as_ref().and_then(Entrance::verifying_keys) {
        told["jwt"]["known"] = keys.into();
    }
    if api.cache.is_some() {
        told["cached"] = by(&Cached::ALL.map(Cached::as_str), &totals.cached).into();
        told["stored"] = totals.stored.into();
    }
    told
}

fn settings(settings: &Settings) -> Value {
    let Settings {
        name,
        target,
        hosts,
        lists,
        keys,
        jwt,
        gateway,
        request_timeout,
        total_timeout,
        breaker,
        retry,
        cooldown,
        quota: terms,
        parents,
        cache,
    } = settings;
    let mut told = self::gateway(gateway);
    told["name"] = name.to_string().into();
    told["target_url"] = target.as_ref().map(url).into();
    told["hosts"] = hosts.iter().map(ToString::to_string).collect();
    told["allow_from"] = lists.allow.iter().map(ToString::to_string).collect();
    told["networks_mode"] = lists.mode.as_str().into();
    told["deny_from"] = lists.deny.iter().map(ToString::to_string).collect();
    told["keys"] = keys.as_ref().map(self::keys).into();
    told["jwt"] = jwt.as_ref().map(self::jwt).into();
    told["request_timeout"] = request_timeout.map(seconds).into();
    told["total_timeout"] = total_timeout.map(seconds).into();
    told["circuit_breaker"] = breaker.as_ref().map(self::breaker).into();
    told["retry"] = retry.as_ref().map(self::retry).into();
    told["cool_down"] = cooldown.as_ref().map(self::cooldown).into();
    told["quota"] = terms.as_ref().map(quota::told).into();
    told["enable_cache"] = cache.is_some().into();
    if let Some(cache) = cache {
        self::cache(cache, &mut told);
    }
    told["use_proxy"] = parents.is_some().into();
    if let Some(parents) = parents {
        let told = &mut told;
        told["proxies"] = parents.list.iter().map(|parent| self::parent(parent)).collect();
        told["proxy_strategy"] = parents.strategy.as_str().into();
        match &parents.strategy {
            Strategy::Sticky(key) => told["proxy_sticky_key"] = sticky(key).into(),
            Strategy::Subset(size) => told["proxy_subset_size"] = (*size).into(),
            Strategy::RoundRobin
            | Strategy::OnRateLimit
            | Strategy::Never
            | Strategy::LeastUsed
            | Strategy::Weighted => {}
        }
        told["keepalive_timeout"] = seconds(parents.keepalive_timeout);
        told["keepalive_pool"] = parents.keepalive_pool.into();
        told["proxy_ban"] = seconds(parents.ban);
        told["proxy_max_connections"] = parents.max_connections.into();
        let quota = parents.quota.map(|(n, per)| json!({ "requests": n, "per": seconds(per) }));
        told["proxy_quota"] = quota.into();
        told["no_proxy"] = parents.except.iter().map(ToString::to_string).collect();
    }
    told
}

fn cache(settings: &cache::Settings, told: &mut Value) {
    let cache::Settings {
        ttl,
        force,
        force_over,
        negative,
        strategy,
        post,
        max_object,
        stale_while_revalidate,
        stale_if_error,
    } = settings;
    told["cache_ttl"] = seconds(*ttl);
    told["cache_force"] = (*force).into();
    told["cache_force_over"] = force_over.words().into_iter().collect();
    let negative = negative.iter().map(|(status, ttl)| (status.as_str().to_owned(), seconds(*ttl)));
    told["cache_negative"] = negative.collect::<Map<String, Value>>().into();
    told["cache_header_strategy"] = strategy.as_str().into();
    if let cache::Strategy::Listed(names) = strategy {
        told["cache_headers"] = names.iter().map(HeaderName::as_str).collect();
    }
    told["cache_post"] = (*post).into();
    told["cache_max_object"] = (*max_object).into();
    told["cache_stale_while_revalidate"] = seconds(*stale_while_revalidate);
    told["cache_stale_if_error"] = seconds(*stale_if_error);
}

fn gateway(gateway: &Gateway) -> Value {
    let Gateway {
        methods,
        headers,
        remove_headers,
        response_headers,
        forward_headers,
        forwarded,
        requires_body,
        validate_json,
        rewrite,
    } = gateway;
    let names = |names: &[HeaderName]| names.iter().map(HeaderName::as_str).collect::<Value>();
    json!({
        "method": methods.iter().map(Method::as_str).collect::<Value>(),
        "headers": masked(headers),
        "remove_headers": names(remove_headers),
        "response_headers": masked(response_headers),
        "forward_headers": match forward_headers {
            Forwarded::None => false.into(),
            Forwarded::All => true.into(),
            Forwarded::Listed(listed) => names(listed),
        },
        "forwarded": forwarded,
        "requires_body": requires_body,
        "validate_json": validate_json,
        "rewrite": rewrite.iter().cloned().collect::<BTreeMap<_, _>>(),
    })
}

fn masked(fields: &[(HeaderName, HeaderValue)]) -> Value {
    let masked = |(name, _): &(HeaderName, HeaderValue)| (name.to_string(), MASK.into());
    fields.iter().map(masked).collect::<Map<String, Value>>().into()
}

fn keys(settings: &keys::Settings) -> Value {
    json!({
        "mode": settings.mode.as_str(),
        "file": settings.file.as_ref().map(|file| file.display().to_string()),
        "header": settings.header.as_str(),
        "list": settings.own.iter().map(|key| key.name().to_string()).collect::<Value>(),
    })
}

fn jwt(settings: &jwt::Settings) -> Value {
    let file = |file: &Option<PathBuf>| file.as_ref().map(|file| file.display().to_string());
    let jwks = settings.jwks.as_ref();
    json!({
        "mode": settings.mode.as_str(),
        "algorithms":
            settings.algorithms.iter().map(|one| format!("{one:?}")).collect::<Value>(),
        "secret": settings.secret.as_ref().map(|_secret| MASK),
        "secret_file": file(&settings.secret_file),
        "public_key_file": file(&settings.public_key_file),
        "jwks_file": file(&settings.jwks_file),
        "jwks_url": jwks.map(|jwks| jwks.url.to_string()),
        "jwks_refresh": jwks.map(|jwks| seconds(jwks.refresh)),
        "jwks_refresh_min": jwks.map(|jwks| seconds(jwks.refresh_min)),
        "jwks_timeout": jwks.map(|jwks| seconds(jwks.timeout)),
        "issuer": settings.issuers,
        "audience": settings.audiences,
        "leeway": seconds(settings.leeway),
        "required_claims": settings.required_claims,
        "subject_claim": settings.subject_claim,
        "plan_claim": settings.plan_claim,
        "scope_claim": settings.scope_claim,
        "required_scopes": settings.required_scopes,
        "types": settings.types,
        "max_length": settings.longest,
    })
}

fn breaker(settings: &breaker::Settings) -> Value {
    let mut told = json!({
        "mode": settings.mode.as_str(),
        "failure_threshold": settings.failure_threshold,
        "reset_timeout": seconds(settings.reset_timeout),
        "success_threshold": settings.success_threshold,
        "probes": settings.probes,
    });
    if let Some(rates) = &settings.rates {
        told["window"] = seconds(rates.window);
        told["minimum_calls"] = rates.minimum_calls.into();
        told["failure_rate"] = rates.failure_rate.into();
        told["slow_call_rate"] = rates.slow_call_rate.into();
        told["slow_call"] = seconds(rates.slow_call);
    }
    told
}

fn retry(settings: &retry::Settings) -> Value {
    json!({
        "max_attempts": settings.max_attempts,
        "initial_delay": seconds(settings.initial_delay),
        "backoff_factor": settings.backoff_factor,
        "max_delay": seconds(settings.max_delay),
        "jitter": settings.jitter,
        "retry_on_status": settings.retry_on_status,
        "retry_on_errors":
            settings.retry_on_errors.iter().map(|cause| Cause::as_str(*cause)).collect::<Value>(),
        "retry_unsafe": settings.retry_unsafe,
        "budget": settings.budget,
        "budget_floor": settings.budget_floor,
        "max_body": settings.max_body,
    })
}

fn cooldown(settings: &cooldown::Settings) -> Value {
    json!({
        "mode": settings.mode.as_str(),
        "scope": match settings.scope {
            Scope::Api => "api",
            Scope::Host => "host",
            Scope::Credential => "credential",
        },
        "max": seconds(settings.max),
        "default": seconds(settings.default),
        "ramp": settings.ramp,
        "on_exhausted": settings.on_exhausted,
    })
}

fn parent(parent: &Parent) -> Value {
    json!({
        "url": parent.name,
        "weight": parent.weight,
        "has_credentials": parent.authorization.is_some(),
    })
}

fn sticky(key: &StickyKey) -> String {
    match key {
        StickyKey::ClientIp => "client_ip".to_owned(),
        StickyKey::ApiName => "api_name".to_owned(),
        StickyKey::Header(name) => format!("header:{name}"),
    }
}

/// A target as the config file has it.
fn url(target: &Target) -> String {
    let Target { tls, authority, path } = target;
    format!("{}://{authority}{path}", if *tls { "https" } else { "http" })
}

/// A whole number of seconds where it is one.
#[expect(clippy::cast_precision_loss, reason = "milliseconds, for people")]
fn seconds(time: Duration) -> Value {
    match time.subsec_millis() {
        0 => time.as_secs().into(),
        _ => (time.as_millis() as f64 / 1000.0).into(),
    }
}

/// Now, in seconds since 1970.
fn timestamp() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
