//! Whether a response may be kept, and what holds for it then (RFC 9111 §3, §4.2).
//!
//! Pure. What the RFC leaves to a cache is decided for the safe side: no partial response is kept, no
//! failure that was not named, nothing with Set-Cookie unless that is allowed, and no heuristic
//! guesses a lifetime: where the origin gives none it is the API's `cache_ttl`, from when the response
//! came.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;

use super::Settings;
use super::control;
use super::control::OfResponse;
use super::entry::Head;
use super::entry::Terms;
use super::vary;
use super::vary::Chosen;

/// How long beyond its lifetime a response that can be validated is kept: as long again, within these.
const SHORTEST_REST: Duration = Duration::from_mins(1);
const LONGEST_REST: Duration = Duration::from_hours(24);

/// Why a response is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It answers who has said who they are, and does not say that it is for all (§3.5).
    Authorization,
    /// It answers what was asked with a Cookie, and says nothing of who may have it.
    Cookie,
    /// It is longer than what is kept.
    Length,
    /// It has no lifetime, or none that is left, and nothing to validate it by.
    Lifetime,
    /// What was asked is not kept.
    Method,
    /// The origin says so.
    NoStore,
    /// It is a part (§3.3), or no answer but that nothing has changed.
    Partial,
    /// It is for one user.
    Private,
    /// The client says so.
    Request,
    /// It gives a cookie.
    SetCookie,
    /// It is a failure of which the settings do not speak, or a status that is not understood.
    Status,
    /// Nobody knows which other requests it would answer.
    Vary,
}

impl Why {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 12] = [
        Self::Authorization,
        Self::Cookie,
        Self::Length,
        Self::Lifetime,
        Self::Method,
        Self::NoStore,
        Self::Partial,
        Self::Private,
        Self::Request,
        Self::SetCookie,
        Self::Status,
        Self::Vary,
    ];

    /// The word for `Cache-Status`, which is a token.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::Length => "length",
            Self::Lifetime => "lifetime",
            Self::Method => "method",
            Self::NoStore => "no-store",
            Self::Partial => "partial",
            Self::Private => "private",
            Self::Request => "request-no-store",
            Self::SetCookie => "set-cookie",
            Self::Status => "status",
            Self::Vary => "vary",
        }
    }
}

/// A request, as far as its answer's place in the cache depends on it.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// As the client sent them.
    pub(crate) fields: &'a HeaderMap,
    /// Whether the origin sees a field of these.
    pub(crate) sees: &'a dyn Fn(&HeaderName) -> bool,
    /// It says no-store (§5.2.1.5).
    pub(crate) no_store: bool,
    /// It has an Authorization that is the client's.
    pub(crate) is_authorized: bool,
    /// It has a Cookie that the origin sees and the key has not.
    pub(crate) has_cookie: bool,
    /// When it was sent.
    pub(crate) at: SystemTime,
}

/// The head that is kept of a response that came at `answered`, with end-to-end fields alone.
pub(crate) fn keep(
    settings: &Settings,
    asked: &Asked<'_>,
    status: StatusCode,
    fields: &HeaderMap,
    answered: SystemTime,
) -> Result<Head, Why> {
    let takes = *asked.method == Method::GET || settings.takes_body(asked.method).is_some();
    if !takes {
        return Err(Why::Method);
    }
    if asked.no_store {
        return Err(Why::Request);
    }
    if matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
        return Err(Why::Partial);
    }
    let said = OfResponse::read(fields);
    let over = settings.over();
    // §5.2.2.3: who understands the status is not meant by the no-store beside it.
    let is_understood = is_understood(status);
    if said.must_understand && !is_understood || !status_is_final(status) {
        return Err(Why::Status);
    }
    if said.no_store && !said.must_understand && !over.no_store {
        return Err(Why::NoStore);
    }
    if said.private.is_everything() && !over.private {
        return Err(Why::Private);
    }
    if asked.is_authorized && !said.is_for_all() && !over.authorization {
        return Err(Why::Authorization);
    }
    let left_out = |name: &HeaderName| {
        said.private.fields().contains(name) && !over.private
            || said.no_cache.fields().contains(name)
    };
    if fields.contains_key(header::SET_COOKIE) && !left_out(&header::SET_COOKIE) && !over.set_cookie
    {
        return Err(Why::SetCookie);
    }
    let Chosen::By(names) = Chosen::of(fields) else { return Err(Why::Vary) };
    let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|n: u64| n > settings.max_object) {
        return Err(Why::Length);
    }
    let negative = settings.negative(status);
    if status.as_u16() >= 400 && negative.is_none() {
        return Err(Why::Status);
    }

    let initial_age = initial_age(fields, asked.at, answered);
    let explicit = explicit_lifetime(&said, fields, answered).filter(|_| !settings.force);
    let lifetime = match explicit {
        Some(lifetime) => lifetime,
        // §4.2.2: of any other status nobody may guess.
        None if negative.is_some() || said.public || is_kept_by_default(status) => {
            // What such a request brings is often for one user, and an origin that says nothing of
            // caches does not know that there is one.
            if asked.has_cookie && !settings.force && !said.public {
                return Err(Why::Cookie);
            }
            let own = negative.unwrap_or(settings.ttl);
            if own.is_zero() {
                return Err(Why::Lifetime);
            }
            initial_age + own
        }
        None => return Err(Why::Lifetime),
    };
    let is_always_validated = said.no_cache.is_everything() && !settings.force;
    // §4.2.4, §5.2.2.2, §5.2.2.8, §5.2.2.10.
    let is_bound = said.must_revalidate || said.proxy_revalidate || said.s_maxage.is_some();
    let may_be_stale = settings.force || !is_bound && !is_always_validated;
    let stale = |own: Option<Duration>, unset| {
        if may_be_stale { own.unwrap_or(unset) } else { Duration::ZERO }
    };
    let terms = Terms {
        initial_age,
        is_always_validated,
        may_be_stale,
        while_revalidated: stale(said.stale_while_revalidate, settings.stale_while_revalidate),
        if_error: stale(said.stale_if_error, settings.stale_if_error),
    };
    let fields = kept(fields, left_out, answered);
    let rest = rest(&fields, lifetime, &terms);
    if rest.is_zero() && (is_always_validated || lifetime <= initial_age) {
        return Err(Why::Lifetime);
    }
    Ok(Head {
        method: asked.method.clone(),
        status,
        fields,
        asked: asked.at,
        answered,
        vary: vary::nominate(&names, asked.fields, asked.sees),
        lifetime,
        keep: (lifetime + rest).saturating_sub(initial_age),
        terms,
    })
}

/// How old a response was when it came (§4.2.3).
fn initial_age(fields: &HeaderMap, asked: SystemTime, answered: SystemTime) -> Duration {
    let date = control::date(fields).unwrap_or(answered);
    let apparent = answered.duration_since(date).unwrap_or_default();
    let delay = answered.duration_since(asked).unwrap_or_default();
    apparent.max(control::age(fields) + delay)
}

/// The lifetime that the origin gives (§4.2.1).
fn explicit_lifetime(
    said: &OfResponse,
    fields: &HeaderMap,
    answered: SystemTime,
) -> Option<Duration> {
    said.s_maxage.or(said.max_age).or_else(|| {
        let expires = control::expires(fields)?;
        let date = control::date(fields).unwrap_or(answered);
        Some(expires.and_then(|at| at.duration_since(date).ok()).unwrap_or_default())
    })
}

/// For how long a response is of use when it is no longer fresh.
fn rest(fields: &HeaderMap, lifetime: Duration, terms: &Terms) -> Duration {
    let has_validator =
        fields.contains_key(header::ETAG) || fields.contains_key(header::LAST_MODIFIED);
    let validated =
        if has_validator { lifetime.clamp(SHORTEST_REST, LONGEST_REST) } else { Duration::ZERO };
    validated.max(terms.while_revalidated).max(terms.if_error)
}

/// The fields of a response that are kept.
fn kept(
    fields: &HeaderMap,
    left_out: impl Fn(&HeaderName) -> bool,
    answered: SystemTime,
) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(fields.len() + 8);
    for (name, value) in fields {
        // Its age is told anew each time; no trailers are kept.
        if *name != header::AGE && *name != header::TRAILER && !left_out(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    if control::date(fields).is_none() {
        // RFC 9110 §6.6.1: who passes it on later has to say when it came.
        let date = httpdate::fmt_http_date(answered);
        kept.extend(HeaderValue::try_from(date).ok().map(|date| (header::DATE, date)));
    }
    kept
}

fn status_is_final(status: StatusCode) -> bool {
    status.as_u16() >= 200
}

/// Whether a status may be kept where nothing is said (RFC 9110 §15.1).
pub(crate) fn is_kept_by_default(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether all that a status asks of caches is done here (§5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    is_kept_by_default(status) || matches!(status.as_u16(), 302 | 303 | 307)
}
