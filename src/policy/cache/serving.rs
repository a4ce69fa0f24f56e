//! Whether a kept response answers a request (RFC 9111 §4, §4.2.4, §5.2.1; RFC 5861).
//!
//! Pure. That it is for the same request, and which of several is, has been found before.

use std::time::Duration;
use std::time::SystemTime;

use super::control::OfRequest;
use super::entry::Head;

/// What may be done with a kept response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It answers.
    Fresh,
    /// It answers though it is stale, since the client takes that.
    Stale,
    /// It answers though it is stale, while it is asked for anew.
    WhileRevalidated,
    /// The origin is asked first.
    Ask(Because),
}

/// Why the origin is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// What is kept is stale, or is to be validated each time.
    Stale,
    /// The client does not take it, though it is fresh.
    Request,
}

/// What may be done with it now.
pub(crate) fn judge(head: &Head, asked: &OfRequest, now: SystemTime) -> Use {
    let age = head.age(now);
    let is_fresh = head.lifetime > age && !head.terms.is_always_validated;
    let is_unwanted = asked.no_cache
        || asked.max_age.is_some_and(|max| age > max)
        || asked.min_fresh.is_some_and(|least| head.lifetime.saturating_sub(age) < least);
    if is_fresh {
        return if is_unwanted { Use::Ask(Because::Request) } else { Use::Fresh };
    }
    let terms = &head.terms;
    if is_unwanted || terms.is_always_validated || !terms.may_be_stale {
        return Use::Ask(Because::Stale);
    }
    let beyond = age.saturating_sub(head.lifetime);
    if asked.max_stale.is_some_and(|max| beyond <= max) {
        return Use::Stale;
    }
    // §5.2.1.1: who says how old it may be takes nothing stale, unless that is said too.
    if asked.max_age.is_none() && is_within(head, terms.while_revalidated, age) {
        return Use::WhileRevalidated;
    }
    Use::Ask(Because::Stale)
}

/// Whether it answers where asking the origin has failed (RFC 5861 §4).
pub(crate) fn replaces_error(head: &Head, asked: &OfRequest, now: SystemTime) -> bool {
    let terms = &head.terms;
    let is_wanted = !asked.no_cache && asked.max_age.is_none() && asked.min_fresh.is_none();
    let bound = terms.if_error.max(asked.stale_if_error.unwrap_or_default());
    is_wanted
        && terms.may_be_stale
        && !terms.is_always_validated
        && is_within(head, bound, head.age(now))
}

/// Whether a response is not older than its lifetime and so long.
fn is_within(head: &Head, beyond: Duration, age: Duration) -> bool {
    !beyond.is_zero() && age < head.lifetime + beyond
}

/// Whether a status is a failure that a kept response may stand in for (RFC 5861 §4).
pub(crate) fn is_error(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}
