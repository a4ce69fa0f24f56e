//! What messages say of caching: Cache-Control (RFC 9111 §5.2), Pragma (§5.4), and the times of a
//! response.
//!
//! Pure. What can be read in two ways is read in the stricter one: a number that is none, or is said
//! twice and differently, is 0; a text whose quotes do not end means all that stands in it; a
//! directive that takes no argument is meant with one too.

use std::time::Duration;
use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

/// The longest time that is told apart from longer ones (RFC 9111 §1.2.2).
const LONGEST: u64 = 1 << 31;

/// What a response says of who may use it, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfResponse {
    /// It says anything at all.
    pub(crate) is_given: bool,
    pub(crate) no_store: bool,
    pub(crate) private: Scope,
    pub(crate) no_cache: Scope,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) public: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) s_maxage: Option<Duration>,
    /// RFC 5861 §3.
    pub(crate) stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4.
    pub(crate) stale_if_error: Option<Duration>,
}

/// Of what a directive speaks (RFC 9111 §5.2.2.4, §5.2.2.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    #[default]
    Nothing,
    /// Of these fields alone.
    Fields(Vec<HeaderName>),
    Everything,
}

impl Scope {
    fn add(&mut self, argument: Option<&[u8]>) {
        let fields = argument.and_then(names);
        match (&mut *self, fields) {
            (Self::Nothing, Some(fields)) => *self = Self::Fields(fields),
            (Self::Fields(known), Some(fields)) => known.extend(fields),
            (Self::Everything, _) => {}
            (Self::Nothing | Self::Fields(_), None) => *self = Self::Everything,
        }
    }

    pub(crate) fn is_everything(&self) -> bool {
        *self == Self::Everything
    }

    pub(crate) fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::Everything => &[],
        }
    }
}

/// What a request says of which responses it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfRequest {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) min_fresh: Option<Duration>,
    /// The longest where no bound is given.
    pub(crate) max_stale: Option<Duration>,
    /// RFC 5861 §4.
    pub(crate) stale_if_error: Option<Duration>,
}

impl OfResponse {
    pub(crate) fn read(fields: &HeaderMap) -> Self {
        let mut said = Self::default();
        for line in fields.get_all(header::CACHE_CONTROL) {
            said.is_given = true;
            let is_whole = directives(line, |name, argument| said.hear(name, argument));
            if !is_whole {
                // Whatever the quotes hold back.
                said.no_store = true;
            }
        }
        if !said.is_given && has_pragma(fields) {
            said.no_cache = Scope::Everything;
        }
        said
    }

    /// Whether it may answer others than who has said who they are (RFC 9111 §3.5).
    pub(crate) fn is_for_all(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }

    fn hear(&mut self, name: &str, argument: Option<&[u8]>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("max-age") {
            at_most(&mut self.max_age, argument);
        } else if is("s-maxage") {
            at_most(&mut self.s_maxage, argument);
        } else if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache.add(argument);
        } else if is("private") {
            self.private.add(argument);
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("stale-while-revalidate") {
            at_most(&mut self.stale_while_revalidate, argument);
        } else if is("stale-if-error") {
            at_most(&mut self.stale_if_error, argument);
        }
    }
}

impl OfRequest {
    /// PERF: most requests say nothing.
    pub(crate) fn read(fields: &HeaderMap) -> Self {
        let mut said = Self::default();
        let mut is_given = false;
        for line in fields.get_all(header::CACHE_CONTROL) {
            is_given = true;
            let is_whole = directives(line, |name, argument| said.hear(name, argument));
            if !is_whole {
                said.no_store = true;
            }
        }
        if !is_given && has_pragma(fields) {
            said.no_cache = true;
        }
        said
    }

    fn hear(&mut self, name: &str, argument: Option<&[u8]>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            at_most(&mut self.max_age, argument);
        } else if is("min-fresh") {
            // More is stricter here, and what is no number is the most.
            let wanted = argument.and_then(seconds).unwrap_or(Duration::from_secs(LONGEST));
            self.min_fresh = self.min_fresh.max(Some(wanted));
        } else if is("max-stale") {
            match argument {
                None if self.max_stale.is_none() => {
                    self.max_stale = Some(Duration::from_secs(LONGEST));
                }
                None => {}
                Some(_) => at_most(&mut self.max_stale, argument),
            }
        } else if is("stale-if-error") {
            at_most(&mut self.stale_if_error, argument);
        }
    }
}

/// Puts a length of time where none was, or nothing at all where another stands.
fn at_most(slot: &mut Option<Duration>, argument: Option<&[u8]>) {
    let said = argument.and_then(seconds).unwrap_or_default();
    *slot = Some(match *slot {
        Some(before) if before != said => Duration::ZERO,
        Some(_) | None => said,
    });
}

/// Hears each directive of a line, its argument without quotes; whether all quotes have an end.
fn directives(line: &HeaderValue, mut hear: impl FnMut(&str, Option<&[u8]>)) -> bool {
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        let Some(end) = end(rest) else {
            // They are read as though they were none.
            for member in rest.split(|byte| *byte == b',' || *byte == b'"') {
                directive(member, &mut hear);
            }
            return false;
        };
        directive(&rest[..end], &mut hear);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    true
}

/// Where the first member of a list ends; none if that is within quotes.
fn end(list: &[u8]) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    (!is_quoted).then_some(list.len())
}

fn directive(member: &[u8], hear: &mut impl FnMut(&str, Option<&[u8]>)) {
    let member = member.trim_ascii();
    let (name, argument) = match member.iter().position(|byte| *byte == b'=') {
        Some(at) => (&member[..at], Some(&member[at + 1..])),
        None => (member, None),
    };
    // A space before the equals sign is none of the grammar's; what is meant is plain.
    let Ok(name) = std::str::from_utf8(name.trim_ascii_end()) else { return };
    let quoted = argument.and_then(|argument| argument.strip_prefix(b"\"")?.strip_suffix(b"\""));
    hear(name, quoted.or(argument));
}

/// The fields that an argument names; none if it names none, or one that could not be left out of a
/// response without making it another.
fn names(argument: &[u8]) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for name in argument.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if name.is_empty() {
            continue;
        }
        let name = HeaderName::from_bytes(name).ok()?;
        if is_meaning(&name) {
            return None;
        }
        names.push(name);
    }
    (!names.is_empty()).then_some(names)
}

/// Whether the response means something else without this field.
fn is_meaning(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "age"
            | "cache-control"
            | "content-encoding"
            | "content-range"
            | "content-type"
            | "date"
            | "etag"
            | "expires"
            | "last-modified"
            | "location"
            | "vary"
    )
}

/// A number of seconds (RFC 9111 §1.2.2): digits alone.
fn seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum =
        digits.iter().fold(0u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(LONGEST));
    Some(Duration::from_secs(sum))
}

fn has_pragma(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(header::PRAGMA).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
}

/// The age that a response came with (RFC 9111 §5.1): the first member that there is, or nothing if
/// that is no number.
pub(crate) fn age(fields: &HeaderMap) -> Duration {
    let first = fields.get(header::AGE).map(HeaderValue::as_bytes).unwrap_or_default();
    let first = first.split(|byte| *byte == b',').next().unwrap_or_default();
    seconds(first.trim_ascii()).unwrap_or_default()
}

/// When a response was made (RFC 9110 §6.6.1), if it says so.
pub(crate) fn date(fields: &HeaderMap) -> Option<SystemTime> {
    moment(fields.get(header::DATE)?)
}

/// When a response says that it expires (RFC 9111 §5.3): `Some(None)` is long ago, which is meant by
/// what is no date, and by two that differ.
#[expect(clippy::option_option, reason = "not said, said without a date, said")]
pub(crate) fn expires(fields: &HeaderMap) -> Option<Option<SystemTime>> {
    let mut lines = fields.get_all(header::EXPIRES).iter();
    let first = lines.next()?;
    if lines.any(|other| other != first) {
        return Some(None);
    }
    Some(moment(first))
}

/// A date in one of its three forms (RFC 9110 §5.6.7).
pub(crate) fn moment(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(lines: &[&str]) -> OfResponse {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        let mut said = OfResponse::read(&fields);
        assert_eq!(said.is_given, !lines.is_empty());
        said.is_given = false;
        said
    }

    fn request(line: &'static str) -> OfRequest {
        let mut fields = HeaderMap::new();
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(line));
        OfRequest::read(&fields)
    }

    #[expect(clippy::unnecessary_wraps, reason = "a table of what is said or is not")]
    fn some(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_time_that_is_none_or_is_said_twice_is_none() {
        for (line, wanted) in [
            ("max-age=60", some(60)),
            ("MAX-AGE=060", some(60)),
            // §5.2: in quotes too.
            ("max-age=\"60\"", some(60)),
            // §1.2.2: beyond 2^31 all is alike.
            ("max-age=99999999999999999999999999", some(1 << 31)),
            ("max-age=60, max-age=60", some(60)),
            // §4.2.1.
            ("max-age=60, max-age=61", some(0)),
            ("max-age=60, max-age", some(0)),
            ("max-age=60s", some(0)),
            ("max-age=6.5", some(0)),
            ("max-age=-1", some(0)),
            ("max-age=+1", some(0)),
            ("max-age= 60", some(0)),
            ("max-age=", some(0)),
            ("max-age='60'", some(0)),
            ("max-age", some(0)),
            ("xmax-age=60", None),
            ("x=\"max-age=60\"", None),
            ("x=\"a\\\", max-age=60\"", None),
            ("public;max-age=60", None),
            (" ,, x=1 ,max-age=60,", some(60)),
        ] {
            assert_eq!(response(&[line]).max_age, wanted, "{line}");
        }
        assert_eq!(response(&["max-age=1", "public, max-age=2"]).max_age, some(0));
    }

    #[test]
    fn directives_are_read_whatever_their_case_and_argument() {
        let said = response(&[
            "No-Store=1, PUBLIC, must-revalidate, proxy-revalidate=\"x\"",
            "s-maxage=1, stale-while-revalidate=2, stale-if-error=3, must-understand",
        ]);
        assert_eq!(
            said,
            OfResponse {
                no_store: true,
                public: true,
                must_revalidate: true,
                proxy_revalidate: true,
                must_understand: true,
                s_maxage: some(1),
                stale_while_revalidate: some(2),
                stale_if_error: some(3),
                ..OfResponse::default()
            }
        );
        assert_eq!(response(&["x-no-store, no-storex, \"no-store\""]), OfResponse::default());
    }

    #[test]
    fn private_and_no_cache_may_be_about_fields() {
        let fields = |names: &[&'static str]| {
            Scope::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect())
        };
        for (line, wanted) in [
            ("public", Scope::Nothing),
            ("private", Scope::Everything),
            ("private=\"Set-Cookie, x-a\"", fields(&["set-cookie", "x-a"])),
            ("private=Set-Cookie", fields(&["set-cookie"])),
            ("private=\"x-a\", private=\"x-b\"", fields(&["x-a", "x-b"])),
            ("private=\"x-a\", private", Scope::Everything),
            ("private, private=\"x-a\"", Scope::Everything),
            ("private=\"\"", Scope::Everything),
            ("private=\"not a name\"", Scope::Everything),
            ("private=\"Content-Type\"", Scope::Everything),
        ] {
            assert_eq!(response(&[line]).private, wanted, "{line}");
            let line = line.replace("private", "no-cache");
            assert_eq!(response(&[&line]).no_cache, wanted, "{line}");
        }
    }

    #[test]
    fn what_stands_in_quotes_without_an_end_is_meant() {
        let said = response(&["max-age=60, x=\"a, private, max-age=5"]);
        assert!(said.no_store && said.private.is_everything());
        assert_eq!(said.max_age, some(0));
        assert!(request("x=\"no-cache").no_store);
    }

    #[test]
    fn requests_are_read_in_the_stricter_way_too() {
        for (line, wanted) in [
            ("max-age=5", OfRequest { max_age: some(5), ..OfRequest::default() }),
            ("max-age=x", OfRequest { max_age: some(0), ..OfRequest::default() }),
            ("min-fresh=5, min-fresh=6", OfRequest { min_fresh: some(6), ..OfRequest::default() }),
            ("min-fresh=x", OfRequest { min_fresh: some(1 << 31), ..OfRequest::default() }),
            ("max-stale", OfRequest { max_stale: some(1 << 31), ..OfRequest::default() }),
            ("max-stale=5", OfRequest { max_stale: some(5), ..OfRequest::default() }),
            ("max-stale=x", OfRequest { max_stale: some(0), ..OfRequest::default() }),
            (
                "no-cache, no-store, only-if-cached",
                OfRequest {
                    no_cache: true,
                    no_store: true,
                    only_if_cached: true,
                    ..OfRequest::default()
                },
            ),
            ("stale-if-error=9", OfRequest { stale_if_error: some(9), ..OfRequest::default() }),
        ] {
            assert_eq!(request(line), wanted, "{line}");
        }
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        for (lines, wanted) in [
            (&[("pragma", "no-cache")][..], true),
            (&[("pragma", "x, No-Cache")], true),
            (&[("pragma", "no-cachex")], false),
            (&[("pragma", "no-cache"), ("cache-control", "max-age=5")], false),
            (&[], false),
        ] {
            let mut fields = HeaderMap::new();
            for (name, value) in lines {
                fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(OfRequest::read(&fields).no_cache, wanted, "{lines:?}");
            assert_eq!(OfResponse::read(&fields).no_cache.is_everything(), wanted, "{lines:?}");
        }
    }

    #[test]
    fn the_first_member_of_age_counts_if_it_is_a_number() {
        for (lines, wanted) in [
            (&["7"][..], 7),
            (&["7, 9"], 7),
            (&["7", "9"], 7),
            (&["-7"], 0),
            (&["7.5"], 0),
            (&["x", "9"], 0),
            (&["99999999999999999999"], 1 << 31),
            (&[], 0),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(header::AGE, HeaderValue::from_static(line));
            }
            assert_eq!(age(&fields).as_secs(), wanted, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_date_or_two_has_expired() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let moment = httpdate::parse_http_date(date).unwrap();
        for (lines, wanted) in [
            (&[date][..], Some(Some(moment))),
            (&["Sunday, 06-Nov-94 08:49:37 GMT"], Some(Some(moment))),
            (&["Sun Nov  6 08:49:37 1994"], Some(Some(moment))),
            (&[date, date], Some(Some(moment))),
            (&[date, "Sun, 06 Nov 1994 08:49:38 GMT"], Some(None)),
            (&["0"], Some(None)),
            (&["-1"], Some(None)),
            (&["Sun, 06 Nov 1994 08:49:37 +0000"], Some(None)),
            (&[], None),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(header::EXPIRES, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(expires(&fields), wanted, "{lines:?}");
        }
    }
}
