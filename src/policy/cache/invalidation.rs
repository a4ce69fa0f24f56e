//! What no longer holds once an unsafe request has succeeded (RFC 9111 §4.4).
//!
//! Pure.

use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header;

use super::Settings;
use super::key::Place;
use crate::base::authority::Authority;

/// Whether what is kept of a request's target no longer holds after such an answer to it.
///
/// Where the operator says that POST asks and changes nothing, it is as GET.
pub(crate) fn is_due(settings: &Settings, method: &Method, status: StatusCode) -> bool {
    let is_safe = matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "REPORT" | "SEARCH" | "QUERY"
    );
    let has_succeeded = status.is_success() || status.is_redirection();
    !is_safe && has_succeeded && settings.takes_body(method).is_none()
}

/// Calls `forget` for each other place of the same origin that the answer names (§4.4: in Location and
/// Content-Location). Nobody can have those of another origin forgotten.
pub(crate) fn others(place: &Place<'_>, fields: &HeaderMap, mut forget: impl FnMut(Place<'_>)) {
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let Some(text) = fields.get(name).and_then(|value| value.to_str().ok()) else { continue };
        let Some((path, query)) = target(place, text) else { continue };
        if path != place.path || query.as_deref() != place.query {
            forget(Place { path: &path, query: query.as_deref(), ..*place });
        }
    }
}

/// The path and query that a reference leads to (RFC 3986 §5.2.2), if it stays at the origin.
fn target(base: &Place<'_>, reference: &str) -> Option<(String, Option<String>)> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return None;
    }
    let rest = if let Some(rest) = reference.strip_prefix("//") {
        own(base, rest)?
    } else if let Some((scheme, rest)) = scheme(reference) {
        let is_same = scheme.eq_ignore_ascii_case(if base.tls { "https" } else { "http" });
        own(base, rest.strip_prefix("//").filter(|_| is_same)?)?
    } else {
        reference
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (rest, None),
    };
    let path = if path.is_empty() {
        // An absolute reference without a path is to the root; a query alone keeps the path.
        if rest.len() == reference.len() { base.path.to_owned() } else { "/".to_owned() }
    } else if path.starts_with('/') {
        dotless(path)
    } else {
        let folder = base.path.rfind('/').map_or("/", |end| &base.path[..=end]);
        dotless(&format!("{folder}{path}"))
    };
    Some((path, query))
}

/// What stands behind the scheme, and it.
fn scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some((scheme, rest))
}

/// What stands behind the authority, if that is the base's.
fn own<'a>(base: &Place<'_>, text: &'a str) -> Option<&'a str> {
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let (authority, rest) = text.split_at(end);
    let named = Authority::parse(authority, Some(if base.tls { 443 } else { 80 })).ok()?;
    (named == *base.authority).then_some(rest)
}

/// A path without segments of dots (RFC 3986 §5.2.4).
fn dotless(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}
