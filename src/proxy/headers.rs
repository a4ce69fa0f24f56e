//! What a proxy changes in a message's head, and nothing else (RFC 9110 §7.6).
//!
//! Pure. A head that needs no field taken out keeps its map as it came; otherwise it is built anew,
//! since removing from a map would change the order of what stays.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Version;
use http::header;

/// Whether a field ends at each hop whether or not Connection names it (RFC 9110 §7.6.1, §11.7).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a field may stand behind a body: nothing that frames, routes, authenticates or steers a
/// message may (RFC 9110 §6.5.1), since who has acted on the head would have acted without it.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    !is_hop_by_hop(name)
        && !matches!(
            name.as_str(),
            "age"
                | "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "date"
                | "expect"
                | "expires"
                | "forwarded"
                | "host"
                | "location"
                | "max-forwards"
                | "pragma"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "trailer"
                | "vary"
                | "via"
                | "www-authenticate"
                | "x-forwarded-for"
        )
        && !name.as_str().starts_with("if-")
}

/// What a message said about its connection, before that was taken out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The protocol it wants to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The sender takes trailers.
    pub(crate) trailers: bool,
    /// It is the sender's last (RFC 9112 §9.6).
    pub(crate) closes: bool,
}

/// Takes out all that concerns this hop alone. `version` is the message's.
pub(crate) fn strip(headers: &mut HeaderMap, version: Version) -> Hop {
    let mut hop = Hop::default();
    let is_old = version == Version::HTTP_10;
    let concerns = |name: &HeaderName| {
        is_hop_by_hop(name) || name == header::TRAILER || (is_old && name == header::EXPECT)
    };
    if !headers.keys().any(concerns) {
        return hop;
    }
    let mut named: Vec<HeaderName> = Vec::new();
    let mut upgrades = false;
    for value in headers.get_all(header::CONNECTION) {
        for token in tokens(value) {
            upgrades |= token.eq_ignore_ascii_case("upgrade");
            hop.closes |= token.eq_ignore_ascii_case("close");
            named.extend(token.parse::<HeaderName>().ok());
        }
    }
    // A message cannot take its own framing, addressee or way out by naming them, nor what it says to
    // all caches.
    let keep = [
        header::CACHE_CONTROL,
        header::CONTENT_LENGTH,
        header::EXPIRES,
        header::HOST,
        header::MAX_FORWARDS,
        header::PRAGMA,
        header::TRAILER,
        header::VARY,
        header::VIA,
    ];
    named.retain(|name| !keep.contains(name));
    // RFC 9110 §7.8: not from HTTP/1.0.
    if upgrades && !is_old {
        hop.upgrade = upgrade(headers);
    }
    hop.trailers = headers.get_all(header::TE).iter().flat_map(tokens).any(|token| {
        token.split(';').next().is_some_and(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    });
    let mut kept = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in &*headers {
        if is_hop_by_hop(name) || named.contains(name) {
            continue;
        }
        if name == header::TRAILER {
            // hyper sends no trailer that this field does not name.
            if let Some(value) = trailer(value, &named) {
                kept.append(name.clone(), value);
            }
        } else if !(is_old && name == header::EXPECT) {
            // RFC 9110 §10.1.1: an expectation of HTTP/1.0 is to be ignored.
            kept.append(name.clone(), value.clone());
        }
    }
    *headers = kept;
    hop
}

/// Whether a message says that it is the sender's last (RFC 9112 §9.6).
pub(crate) fn closes(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter();
    lines.flat_map(tokens).any(|token| token.eq_ignore_ascii_case("close"))
}

/// The protocols that a message would switch to, less HTTP/2: what comes behind its upgrade is not
/// a stream of bytes between two ends, but requests that nobody here would see.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(header::UPGRADE).iter();
    let protocols: Vec<&str> =
        lines.flat_map(tokens).filter(|token| !token.eq_ignore_ascii_case("h2c")).collect();
    if protocols.is_empty() { None } else { HeaderValue::try_from(protocols.join(", ")).ok() }
}

/// What a Trailer field announces, less what must not trail.
fn trailer(value: &HeaderValue, named: &[HeaderName]) -> Option<HeaderValue> {
    let may = |token: &&str| {
        let name = token.parse::<HeaderName>();
        name.is_ok_and(|name| may_trail(&name) && !named.contains(&name))
    };
    let kept: Vec<&str> = tokens(value).filter(may).collect();
    if kept.is_empty() { None } else { HeaderValue::try_from(kept.join(", ")).ok() }
}

/// Whether the protocol that a 101 switches to is among those that were asked for (RFC 9110 §7.8).
pub(crate) fn is_among(switched: Option<&HeaderValue>, asked: &HeaderValue) -> bool {
    let Some(switched) = switched else { return false };
    let is_asked = |token: &str| tokens(asked).any(|asked| asked.eq_ignore_ascii_case(token));
    tokens(switched).next().is_some() && tokens(switched).all(is_asked)
}

/// Whether a request expects what RFC 9110 §10.1.1 knows: a 100, or nothing at all.
pub(crate) fn expects_continue(headers: &HeaderMap) -> Result<bool, ()> {
    let mut values = headers.get_all(header::EXPECT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        (Some(_), _) => Err(()),
    }
}

/// Writes a field line, its name in the usual case.
pub(crate) fn write(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    let mut before = b'-';
    for byte in name.as_str().bytes() {
        out.push(if before == b'-' { byte.to_ascii_uppercase() } else { byte });
        before = byte;
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Puts back what the next hop must be told: an upgrade that goes on, a liking for trailers.
pub(crate) fn restore(headers: &mut HeaderMap, hop: Hop) {
    if hop.trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = hop.upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The seconds of `Prefer: wait=N` (RFC 7240 §4.3), if a client said so.
pub(crate) fn wait<'a>(prefer: impl IntoIterator<Item = &'a str>) -> Option<u64> {
    prefer.into_iter().flat_map(|value| value.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse().ok()?;
        name.trim().eq_ignore_ascii_case("wait").then_some(seconds)
    })
}

/// The members of a list. One that is not ASCII is no token, and takes no other with it.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let members = value.as_bytes().split(|byte| *byte == b',');
    let members = members.filter_map(|member| std::str::from_utf8(member.trim_ascii()).ok());
    members.filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn hop_by_hop_fields_go_and_the_rest_keeps_its_order() {
        let mut headers = map(&[
            ("proxy-connection", "keep-alive"),
            ("a", "1"),
            ("connection", "X-Secret, close"),
            ("x-secret", "s"),
            ("keep-alive", "timeout=5"),
            ("b", "2"),
            ("proxy-authorization", "Basic x"),
            ("c", "3"),
        ]);
        let hop = Hop { closes: true, ..Hop::default() };
        assert_eq!(strip(&mut headers, Version::HTTP_11), hop);
        assert_eq!(names(&headers), ["a", "b", "c"]);
    }

    #[test]
    fn a_connection_field_cannot_take_out_framing_or_host() {
        let mut headers =
            map(&[("host", "h"), ("content-length", "1"), ("connection", "host, content-length")]);
        strip(&mut headers, Version::HTTP_11);
        assert_eq!(names(&headers), ["host", "content-length"]);
    }

    #[test]
    fn an_upgrade_and_a_liking_for_trailers_go_on() {
        let mut headers = map(&[
            ("connection", "Upgrade, TE"),
            ("upgrade", "websocket"),
            ("te", "gzip, trailers;q=0.5"),
        ]);
        let hop = strip(&mut headers, Version::HTTP_11);
        assert!(headers.is_empty());
        restore(&mut headers, hop);
        assert_eq!(
            (&headers["upgrade"], &headers["te"]),
            (&"websocket".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }

    #[test]
    fn an_upgrade_field_that_connection_does_not_name_is_no_upgrade() {
        let mut headers = map(&[("upgrade", "websocket")]);
        assert_eq!(strip(&mut headers, Version::HTTP_11).upgrade, None);
    }

    #[test]
    fn an_upgrade_to_http_2_or_from_http_1_0_is_none() {
        for (upgrade, version, wanted) in [
            ("h2c", Version::HTTP_11, None),
            ("H2C, websocket", Version::HTTP_11, Some("websocket")),
            ("websocket", Version::HTTP_10, None),
        ] {
            let mut headers =
                map(&[("connection", "upgrade, HTTP2-Settings"), ("http2-settings", "x")]);
            headers.append("upgrade", HeaderValue::from_static(upgrade));
            let hop = strip(&mut headers, version);
            assert_eq!(hop.upgrade, wanted.map(HeaderValue::from_static), "{upgrade}");
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn a_switch_to_what_was_not_asked_for_is_none() {
        let asked = HeaderValue::from_static("websocket, echo");
        for (switched, is) in [("Echo", true), ("h2c", false), ("echo, h2c", false), ("", false)] {
            assert_eq!(
                is_among(Some(&HeaderValue::from_static(switched)), &asked),
                is,
                "{switched}"
            );
        }
        assert!(!is_among(None, &asked));
    }

    #[test]
    fn a_trailer_that_frames_routes_or_authenticates_is_not_announced() {
        let mut headers = map(&[
            ("trailer", "X-Sum, Content-Length, If-Match, X-Named"),
            ("a", "1"),
            ("connection", "x-named"),
            ("trailer", "Authorization, Host"),
        ]);
        strip(&mut headers, Version::HTTP_11);
        assert_eq!(headers, map(&[("trailer", "X-Sum"), ("a", "1")]));
    }

    #[test]
    fn an_expectation_of_http_1_0_is_ignored_and_an_unknown_one_is_not() {
        let mut headers = map(&[("expect", "100-continue"), ("a", "1")]);
        assert_eq!(expects_continue(&headers), Ok(true));
        strip(&mut headers, Version::HTTP_11);
        assert_eq!(names(&headers), ["expect", "a"]);
        strip(&mut headers, Version::HTTP_10);
        assert_eq!(names(&headers), ["a"]);
        assert_eq!(expects_continue(&headers), Ok(false));
        assert_eq!(expects_continue(&map(&[("expect", "more")])), Err(()));
    }

    #[test]
    fn a_preference_to_wait_is_read_in_all_its_spellings() {
        assert_eq!(wait(["respond-async, Wait=10"]), Some(10));
        assert_eq!(wait(["wait=\"3\";x=y"]), Some(3));
        assert_eq!(wait(["wait=soon", "handling=lenient"]), None);
    }
}
