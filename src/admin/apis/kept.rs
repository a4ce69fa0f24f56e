//! `/cache`: what APIs keep, and an operator's word that it is to be forgotten.

use http::StatusCode;
use http::Uri;
use serde_json::Value;
use serde_json::json;

use super::super::Answer;
use super::super::Sources;
use super::super::decoded;
use super::super::problem;
use super::timestamp;
use crate::base::authority::Authority;
use crate::policy::api::Api;
use crate::policy::cache::key::Keys;
use crate::policy::cache::key::Place;
use crate::policy::cache::status::Outcome;

/// What the caches of all APIs have done.
pub(in super::super) fn list(sources: &Sources) -> Answer {
    let apis = sources.apis.load();
    let apis: Vec<Value> = apis.all().into_iter().filter_map(|api| told(api)).collect();
    super::super::json(StatusCode::OK, &json!({ "timestamp": timestamp(), "apis": apis }))
}

fn told(api: &Api) -> Option<Value> {
    api.cache.as_ref()?;
    let totals = api.counts.totals();
    let mut told = json!({ "api": api.name(), "stored": totals.stored });
    for (outcome, n) in Outcome::ALL.iter().zip(totals.cached) {
        told[outcome.as_str()] = n.into();
    }
    Some(told)
}

/// Forgets all that an API keeps, or all that it keeps of the URL of the query (`url=URL`, as its origin
/// is asked for it), in the whole fleet.
pub(super) fn purge(api: &Api, query: Option<&str>) -> Answer {
    let Some(cache) = &api.cache else {
        return problem(StatusCode::NOT_FOUND, "this API keeps nothing");
    };
    let name = api.name();
    let Some(query) = query else {
        cache.drawer.purge();
        tracing::info!(api = %name, "an operator has had all that is kept forgotten");
        return super::super::json(StatusCode::OK, &json!({ "api": name }));
    };
    let Some(url) = query.strip_prefix("url=").and_then(decoded) else {
        return problem(StatusCode::BAD_REQUEST, "the query is url=URL, percent-encoded");
    };
    let Some(place) = place(name, &url) else {
        let words = "url: an absolute URL, http or https, as its origin is asked for it";
        return problem(StatusCode::BAD_REQUEST, words);
    };
    cache.drawer.forget(&Keys { place, request: place });
    tracing::info!(api = %name, %url, "an operator has had what is kept of a URL forgotten");
    super::super::json(StatusCode::OK, &json!({ "api": name, "url": url }))
}

fn place(api: &str, url: &str) -> Option<crate::policy::cache::entry::Key> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = Authority::parse(uri.authority()?.as_str(), Some(if tls { 443 } else { 80 }));
    let authority = &authority.ok()?;
    Some(Place { tls, authority, path: uri.path(), query: uri.query() }.hash(api))
}
