//! Asking whether a kept response still holds, and being asked (RFC 9111 §4.3, RFC 9110 §13).
//!
//! Pure. A client's own conditions are answered from what is kept; those that are for origins alone
//! (If-Match, If-Unmodified-Since) are not, and go there.

use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;

use super::control::moment;
use super::entry::Head;

/// Whether a request has a condition that a cache answers.
pub(crate) fn is_conditional(fields: &HeaderMap) -> bool {
    fields.contains_key(header::IF_NONE_MATCH) || fields.contains_key(header::IF_MODIFIED_SINCE)
}

/// Whether a request has a condition that is for its origin to judge (RFC 9111 §4.3.2).
pub(crate) fn is_for_origin(fields: &HeaderMap) -> bool {
    fields.contains_key(header::IF_MATCH) || fields.contains_key(header::IF_UNMODIFIED_SINCE)
}

/// Takes a client's conditions and ranges out, and puts in those by which a kept response is
/// validated (RFC 9111 §4.3.1).
pub(crate) fn ask(fields: &mut HeaderMap, head: &Head) {
    clear(fields);
    if let Some(tag) = head.fields.get(header::ETAG) {
        fields.insert(header::IF_NONE_MATCH, tag.clone());
    }
    // What is no date is nothing to ask by (RFC 9110 §13.1.3).
    let modified = head.fields.get(header::LAST_MODIFIED);
    if let Some(modified) = modified.filter(|value| moment(value).is_some()) {
        fields.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
}

/// Takes out what makes a request one for less than the whole response.
pub(crate) fn clear(fields: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE]
    {
        fields.remove(name);
    }
}

/// Whether a client that has this response already has said so (RFC 9110 §13.2.2, steps 3 and 4):
/// it gets a 304.
pub(crate) fn is_known(method: &Method, asked: &HeaderMap, head: &Head) -> bool {
    // RFC 9110 §13.2.1: conditions are about responses that would succeed.
    if !head.status.is_success() || *method != Method::GET && *method != Method::HEAD {
        return false;
    }
    if asked.contains_key(header::IF_NONE_MATCH) {
        let own = head.fields.get(header::ETAG).and_then(Tag::of);
        return asked.get_all(header::IF_NONE_MATCH).iter().any(|line| {
            tags(line).any(|tag| match tag {
                Listed::Any => true,
                Listed::Tag(tag) => own.is_some_and(|own| own.opaque == tag.opaque),
            })
        });
    }
    let mut since = asked.get_all(header::IF_MODIFIED_SINCE).iter();
    // RFC 9110 §13.1.3: what is no date, or several, is none.
    let (Some(since), None) = (since.next(), since.next()) else { return false };
    let Some(since) = moment(since) else { return false };
    changed(head) <= since
}

/// When what is kept was changed, as far as that can be known (RFC 9111 §4.3.2).
fn changed(head: &Head) -> SystemTime {
    let said = [header::LAST_MODIFIED, header::DATE];
    said.iter().find_map(|name| moment(head.fields.get(name)?)).unwrap_or(head.answered)
}

/// Whether a field goes with a 304 (RFC 9110 §15.4.5): what a cache may need, and nothing about a body
/// that does not come.
pub(crate) fn goes_with_304(name: &HeaderName, head: &Head) -> bool {
    match name.as_str() {
        "content-encoding" | "content-language" | "content-length" | "content-range"
        | "content-type" => false,
        "last-modified" => !head.fields.contains_key(header::ETAG),
        _ => true,
    }
}

/// Whether a 304 is about the response that was asked about (RFC 9111 §4.3.4).
pub(crate) fn is_about(head: &Head, fields: &HeaderMap) -> bool {
    let kept = |name| head.fields.get(name);
    if let Some(new) = fields.get(header::ETAG) {
        let (new, own) = (Tag::of(new), kept(header::ETAG).and_then(Tag::of));
        return match (new, own) {
            (Some(new), Some(own)) if !new.is_weak => !own.is_weak && new.opaque == own.opaque,
            (Some(new), Some(own)) => new.opaque == own.opaque,
            (Some(_) | None, None) | (None, Some(_)) => false,
        };
    }
    // Nothing else was asked about than what was kept.
    match (fields.get(header::LAST_MODIFIED), kept(header::LAST_MODIFIED)) {
        (Some(new), Some(own)) => new == own || moment(new).is_some() && moment(new) == moment(own),
        (Some(_) | None, None) | (None, Some(_)) => true,
    }
}

/// The fields of a kept response with those of a newer message about it in their place (RFC 9111
/// §3.2): not those that speak of a body, which is the one that is kept.
pub(crate) fn freshened(head: &Head, fields: &HeaderMap) -> HeaderMap {
    let mut fresh = head.fields.clone();
    for name in fields.keys().filter(|name| !is_of_body(name)) {
        fresh.remove(name);
        for value in fields.get_all(name) {
            fresh.append(name.clone(), value.clone());
        }
    }
    fresh
}

fn is_of_body(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-encoding" | "content-length" | "content-range" | "content-type" | "trailer"
    )
}

/// Whether the head that a HEAD got is about the response that is kept (RFC 9111 §4.3.5): it would have
/// had the same validators and length.
pub(crate) fn is_same(head: &Head, status: StatusCode, fields: &HeaderMap) -> bool {
    let is_alike = |name: &HeaderName| match (head.fields.get(name), fields.get(name)) {
        (Some(own), Some(new)) => own == new,
        (Some(_) | None, None) => true,
        (None, Some(_)) => false,
    };
    let has_length = fields.contains_key(header::CONTENT_LENGTH)
        && head.fields.contains_key(header::CONTENT_LENGTH);
    status == head.status
        && is_alike(&header::ETAG)
        && is_alike(&header::LAST_MODIFIED)
        && (!has_length || is_alike(&header::CONTENT_LENGTH))
}

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    pub(super) is_weak: bool,
    /// With its quotes.
    pub(super) opaque: &'a [u8],
}

impl<'a> Tag<'a> {
    pub(super) fn of(value: &'a HeaderValue) -> Option<Self> {
        let (tag, rest) = Self::first(value.as_bytes().trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// The tag at the beginning of a text, and what follows.
    fn first(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let strong = text.strip_prefix(b"W/");
        let (is_weak, text) = (strong.is_some(), strong.unwrap_or(text));
        let inner = text.strip_prefix(b"\"")?;
        let length = inner.iter().position(|byte| *byte == b'"')?;
        let (opaque, rest) = text.split_at(length + 2);
        Some((Self { is_weak, opaque }, rest))
    }
}

/// A member of If-None-Match.
#[derive(Debug, PartialEq, Eq)]
enum Listed<'a> {
    Any,
    Tag(Tag<'a>),
}

/// The members of a line, up to one that is none.
fn tags(line: &HeaderValue) -> impl Iterator<Item = Listed<'_>> {
    let mut rest = line.as_bytes();
    let is_any = rest.trim_ascii() == b"*";
    std::iter::from_fn(move || {
        if is_any {
            return (!std::mem::take(&mut rest).is_empty()).then_some(Listed::Any);
        }
        while let [b' ' | b'\t' | b',', behind @ ..] = rest {
            rest = behind;
        }
        let (tag, behind) = Tag::first(rest)?;
        rest = behind;
        Some(Listed::Tag(tag))
    })
}
