//! Parts of a kept response (RFC 9110 §14).
//!
//! Pure. One range gets a 206; several get the whole, as a server may (§14.2), so that nobody makes us
//! send a little very often. What is no range of bytes is none.

use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header;

use super::control::date;
use super::control::moment;
use super::entry::Head;
use super::validation::Tag;

/// What of a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// From, and up to but without.
    Of(u64, u64),
    /// It has no byte that was asked for: 416 (§15.5.17).
    Beyond,
}

/// What of a kept response, whose body is so long, a request gets.
pub(crate) fn asked(method: &Method, fields: &HeaderMap, head: &Head, length: u64) -> Part {
    // §14.2: for GET alone, and where the answer would be a 200.
    if *method != Method::GET || head.status != StatusCode::OK {
        return Part::Whole;
    }
    let mut lines = fields.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Part::Whole };
    if !is_still_that(fields, head) {
        return Part::Whole;
    }
    line.to_str().ok().and_then(|line| part(line, length)).unwrap_or(Part::Whole)
}

/// Whether the response is the one that If-Range speaks of, if there is that (§13.1.5).
fn is_still_that(fields: &HeaderMap, head: &Head) -> bool {
    let mut lines = fields.get_all(header::IF_RANGE).iter();
    let Some(line) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    if let Some(tag) = Tag::of(line) {
        // By strong comparison (§8.8.3.2).
        return !tag.is_weak && head.fields.get(header::ETAG).and_then(Tag::of) == Some(tag);
    }
    let (Some(asked), Some(own)) =
        (moment(line), head.fields.get(header::LAST_MODIFIED).and_then(moment))
    else {
        return false;
    };
    // §8.8.2.2: a date is strong if it had passed when the response was made.
    asked == own && date(&head.fields).is_some_and(|made| made > own)
}

/// The one part of a body so long that a field asks for; none if it is not to be heeded.
fn part(line: &str, length: u64) -> Option<Part> {
    let (unit, set) = line.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    // A number beyond all is beyond the body too.
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(if suffix == 0 || length == 0 {
            Part::Beyond
        } else {
            Part::Of(length.saturating_sub(suffix), length)
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { None } else { Some(number(last)?) };
    if last.is_some_and(|last| last < first) {
        return None;
    }
    if first >= length {
        return Some(Part::Beyond);
    }
    let end = last.map_or(length, |last| last.saturating_add(1).min(length));
    Some(Part::Of(first, end))
}
