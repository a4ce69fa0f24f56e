//! Answers made of what is kept.
//!
//! The fields are the origin's, with what each answer has anew: Age, Via, what the cache says, what the
//! API sets. The body is shared, not copied.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;

use super::super::Thread;
use super::super::gateway::fields;
use super::super::story::Kind;
use crate::base::clock;
use crate::policy::api::Api;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::entry::Head;
use crate::policy::cache::range;
use crate::policy::cache::range::Part;
use crate::policy::cache::status::Handled;
use crate::policy::cache::status::Outcome;
use crate::policy::cache::validation;

/// RFC 9211.
static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
static X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// The answer to a request that nobody was asked for.
pub(super) fn whole(
    thread: &Thread,
    api: &Api,
    asked: (&Method, &HeaderMap),
    entry: &Entry,
    outcome: Outcome,
) -> Response<Kind> {
    let handled = Handled::Hit { ttl: ttl(&entry.head) };
    of(thread, api, asked, entry, (handled, outcome))
}

/// The answer to a request of this method and these fields, as the client sent them.
pub(super) fn of(
    thread: &Thread,
    api: &Api,
    (method, asked): (&Method, &HeaderMap),
    entry: &Entry,
    said: (Handled, Outcome),
) -> Response<Kind> {
    let Entry { head, body } = entry;
    if validation::is_known(method, asked, head) {
        return unchanged(thread, api, head, said);
    }
    let length = body.len() as u64;
    let mut fields = head.fields.clone();
    let part = range::asked(method, asked, head, length);
    let (status, kind) = match part {
        Part::Whole if *method == Method::HEAD => {
            if !fields.contains_key(header::CONTENT_LENGTH) && has_length(head.status) {
                fields.insert(header::CONTENT_LENGTH, length.into());
            }
            (head.status, Kind::Empty)
        }
        Part::Whole => (head.status, Kind::Own(Some(body.clone()))),
        Part::Of(from, to) => {
            let range = format!("bytes {from}-{}/{length}", to - 1);
            fields.extend(HeaderValue::try_from(range).ok().map(|it| (header::CONTENT_RANGE, it)));
            fields.insert(header::CONTENT_LENGTH, (to - from).into());
            (StatusCode::PARTIAL_CONTENT, Kind::Own(Some(slice(body, from, to))))
        }
        Part::Beyond => {
            let range = format!("bytes */{length}");
            fields.extend(HeaderValue::try_from(range).ok().map(|it| (header::CONTENT_RANGE, it)));
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ETAG] {
                fields.remove(name);
            }
            fields.insert(header::CONTENT_LENGTH, 0.into());
            (StatusCode::RANGE_NOT_SATISFIABLE, Kind::Own(Some(Bytes::new())))
        }
    };
    age(&mut fields, head);
    dress(thread, api, &mut fields, said);
    respond(status, fields, kind)
}

/// The answer whose body is on its way.
pub(super) fn begun(
    thread: &Thread,
    api: &Api,
    head: &Head,
    kind: Kind,
    said: (Handled, Outcome),
) -> Response<Kind> {
    let mut fields = head.fields.clone();
    age(&mut fields, head);
    dress(thread, api, &mut fields, said);
    respond(head.status, fields, kind)
}

/// The answer to a client that has it already (RFC 9110 §15.4.5).
pub(super) fn unchanged(
    thread: &Thread,
    api: &Api,
    head: &Head,
    said: (Handled, Outcome),
) -> Response<Kind> {
    let goes = |(name, _): &(&HeaderName, &HeaderValue)| validation::goes_with_304(name, head);
    let kept = head.fields.iter().filter(goes);
    let mut fields: HeaderMap = HeaderMap::with_capacity(head.fields.len() + 4);
    for (name, value) in kept {
        fields.append(name.clone(), value.clone());
    }
    age(&mut fields, head);
    dress(thread, api, &mut fields, said);
    respond(StatusCode::NOT_MODIFIED, fields, Kind::Empty)
}

fn respond(status: StatusCode, fields: HeaderMap, kind: Kind) -> Response<Kind> {
    let mut response = Response::new(kind);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// What each answer has anew.
fn dress(
    thread: &Thread,
    api: &Api,
    fields: &mut HeaderMap,
    (handled, outcome): (Handled, Outcome),
) {
    if let Some(via) = &thread.via {
        via.add(fields, Version::HTTP_11);
    }
    fields::dress_response(fields, Some(api));
    say(fields, handled, outcome);
}

/// What the cache says of an answer, behind what others said before (RFC 9211 §2).
pub(super) fn say(fields: &mut HeaderMap, handled: Handled, outcome: Outcome) {
    if let Some(said) = handled.field() {
        fields.append(&CACHE_STATUS, said);
    }
    fields.insert(&X_CACHE, outcome.field());
}

/// RFC 9111 §5.1.
fn age(fields: &mut HeaderMap, head: &Head) {
    fields.insert(header::AGE, head.age(clock::wall()).as_secs().into());
}

/// How many seconds it is still fresh.
pub(super) fn ttl(head: &Head) -> i64 {
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    whole(head.lifetime.as_secs()).saturating_sub(whole(head.age(clock::wall()).as_secs()))
}

/// Whether a response of this status says how long its body would be (RFC 9110 §8.6).
fn has_length(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT
}

fn slice(body: &Bytes, from: u64, to: u64) -> Bytes {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(body.len());
    body.slice(at(from)..at(to))
}
