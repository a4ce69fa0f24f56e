//! `/quota`: which APIs have quotas; `/quota/KEY` what one client has used, in the whole fleet, and an
//! operator's word that it begins anew.
//!
//! A client is named as its requests are counted, or by the value alone: an address, the name of a
//! key, the value of a field or a claim, which is nowhere written down. `?api=NAME` is for one API
//! alone, `?plan=NAME` for the plan that the client's key or token has.
//!
//! SECURITY: who has a plan by its key is told in numbers alone.

use http::Method;
use http::Request;
use http::StatusCode;
use hyper::body::Body;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::super::Answer;
use super::super::Sources;
use super::super::decoded;
use super::super::problem;
use super::seconds;
use super::timestamp;
use crate::policy::api::Api;
use crate::policy::quota::Algorithm;
use crate::policy::quota::Counted;
use crate::policy::quota::Layout;
use crate::policy::quota::OnRedisError;
use crate::policy::quota::Part;
use crate::policy::quota::Quotas;
use crate::policy::quota::Seen;
use crate::policy::quota::Terms;
use crate::policy::quota::Tier;

/// What stands before a client.
pub(in super::super) const CLIENTS: &str = "/quota/";

const NOBODY: &str = "no API counts clients that can be named so; /quota lists by what they do";

/// Which APIs count, and how.
pub(in super::super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let all: Vec<Value> = apis
        .all()
        .into_iter()
        .filter_map(|api| {
            let quotas = api.quotas.as_ref()?;
            let mut told = told(quotas.terms());
            told["api"] = api.name().to_string().into();
            let Counted { admitted, denied, away, alone, asked, keys } = quotas.counted();
            let denied_by: Map<String, Value> =
                quotas.denied_by().map(|(tier, count)| (tier.to_string(), count.into())).collect();
            told["counted"] = json!({
                "admitted": admitted,
                "denied": denied,
                "denied_by": denied_by,
                "away": away,
                "alone": alone,
                "asked_redis": asked,
                "keys": keys,
            });
            Some(told)
        })
        .collect();
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "quotas": all }))
}

/// What one client has used.
pub(in super::super) async fn one(sources: &Sources, path: &str, query: &str) -> Answer {
    let Some(client) = client(path) else { return malformed() };
    let Some((api, plan)) = parameters(query) else { return malformed() };
    let apis = sources.apis.load();
    let mut all: Vec<Value> = Vec::new();
    for (name, quotas) in counting(&apis.all(), api.as_deref()) {
        if let Some(seen) = quotas.seen(&client, plan.as_deref()).await {
            all.push(shown(name, &seen));
        }
    }
    if all.is_empty() {
        return problem(StatusCode::NOT_FOUND, NOBODY);
    }
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "quotas": all }))
}

/// Whether a request would change what a client has used.
pub(in super::super) fn is_change<B>(request: &Request<B>) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    request.uri().path().starts_with(CLIENTS) && !is_read
}

/// Lets one client begin anew, on all instances.
pub(in super::super) async fn forget<B>(sources: &Sources, request: Request<B>) -> Answer
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let head = match super::authorised(sources, request, "GET, HEAD, DELETE").await {
        Ok(head) => head,
        Err(refusal) => return *refusal,
    };
    let Some(client) = client(head.uri.path()) else { return malformed() };
    let Some((api, _)) = parameters(head.uri.query().unwrap_or_default()) else {
        return malformed();
    };
    let apis = sources.apis.load();
    let mut forgotten: Vec<&str> = Vec::new();
    let all = apis.all();
    for (name, quotas) in counting(&all, api.as_deref()) {
        if quotas.forget(&client).is_some() {
            forgotten.push(name);
        }
    }
    if forgotten.is_empty() {
        return problem(StatusCode::NOT_FOUND, NOBODY);
    }
    // The client is not named: it may be told by a secret.
    tracing::info!(apis = ?forgotten, "an operator has let a client's quotas begin anew");
    super::super::json(StatusCode::OK, &json!({ "forgotten": forgotten }))
}

fn counting<'a>(
    all: &[&'a std::sync::Arc<Api>],
    only: Option<&str>,
) -> impl Iterator<Item = (&'a str, &'a Quotas)> {
    all.iter()
        .filter(move |api| only.is_none_or(|only| only == &**api.name()))
        .filter_map(|api| Some((&**api.name(), api.quotas.as_ref()?)))
}

fn client(path: &str) -> Option<String> {
    decoded(path.strip_prefix(CLIENTS)?).filter(|client| !client.is_empty())
}

/// The API and the plan that a query names; none if it is malformed.
fn parameters(query: &str) -> Option<(Option<String>, Option<String>)> {
    let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
    let read = |text: Option<&str>| text.map_or(Some(None), |text| decoded(text).map(Some));
    Some((read(of("api="))?, read(of("plan="))?))
}

fn malformed() -> Answer {
    problem(StatusCode::BAD_REQUEST, "which client? /quota/KEY, percent-encoded UTF-8")
}

fn shown(api: &str, seen: &Seen) -> Value {
    let Seen { key, plan, tiers, levels } = seen;
    let tiers: Vec<Value> = tiers
        .iter()
        .enumerate()
        .map(|(at, tier)| {
            let mut told = self::tier(tier);
            if let Some(level) = levels.get(at) {
                told["limit"] = level.limit.into();
                told["used"] = level.limit.saturating_sub(level.remaining).into();
                told["remaining"] = level.remaining.into();
                told["reset"] = seconds(level.reset);
            }
            told
        })
        .collect();
    json!({ "api": api, "key": key, "plan": plan.as_deref(), "tiers": tiers })
}

/// The settings, by the keys of the config file.
pub(super) fn told(terms: &Terms) -> Value {
    let Terms { mode, keying, tiers, plans, offset, plan_claim, cost, x_ratelimit, counting } =
        terms;
    let all = |tiers: &[Tier]| tiers.iter().map(tier).collect::<Value>();
    let plans: Map<String, Value> = plans
        .iter()
        .map(|(name, plan)| {
            let told = json!({ "tiers": all(&plan.tiers), "keys": plan.keys.len() });
            (name.to_string(), told)
        })
        .collect();
    let by_method: Map<String, Value> =
        cost.of.iter().map(|(method, cost)| (method.to_string(), (*cost).into())).collect();
    json!({
        "mode": mode.as_str(),
        "key": keying.parts.iter().map(Part::text).collect::<Value>(),
        "ipv6_prefix": keying.ipv6_prefix,
        "trusted_proxies": keying.trusted.iter().map(ToString::to_string).collect::<Value>(),
        "tiers": all(tiers),
        "plans": plans,
        "tz": offset,
        "plan_claim": plan_claim,
        "cost": match &cost.header {
            Some(name) => Value::from(format!("header:{name}")),
            None => cost.each.into(),
        },
        "cost_of": by_method,
        "cost_max": cost.most,
        "x_ratelimit": x_ratelimit,
        "on_redis_error": match counting.on_redis_error {
            OnRedisError::Closed => "closed",
            OnRedisError::Error500 => "error500",
            OnRedisError::Local => "local",
            OnRedisError::Open => "open",
        },
        "layout": match counting.layout {
            Layout::Apitwo => "apitwo",
            Layout::Narrows => "narrows",
        },
        "charge_refused": counting.charge_refused,
    })
}

fn tier(tier: &Tier) -> Value {
    let Tier { name, limit, window, algorithm } = tier;
    let mut told = json!({ "tier": &**name, "limit": limit, "window": seconds(*window) });
    match algorithm {
        Algorithm::Fixed => told["algorithm"] = "fixed".into(),
        Algorithm::Sliding => told["algorithm"] = "sliding".into(),
        Algorithm::TokenBucket { burst } => {
            told["algorithm"] = "token_bucket".into();
            told["burst"] = (*burst).into();
        }
    }
    told
}
