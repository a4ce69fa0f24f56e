//! What a proxy changes in a message's head, and nothing else (RFC 9110 §7.6).
//!
//! Pure. A head that needs no field taken out keeps its map as it came; otherwise it is built anew,
//! since removing from a map would change the order of what stays.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

/// Whether a field ends at each hop whether or not Connection names it (RFC 9110 §7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What a message said about its connection, before that was taken out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The protocol it wants to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The sender takes trailers.
    pub(crate) trailers: bool,
}

/// Takes out all that concerns this hop alone.
pub(crate) fn strip(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    if !headers.keys().any(is_hop_by_hop) {
        return hop;
    }
    let mut named: Vec<HeaderName> = Vec::new();
    let mut upgrades = false;
    for value in headers.get_all(header::CONNECTION) {
        for token in tokens(value) {
            upgrades |= token.eq_ignore_ascii_case("upgrade");
            named.extend(token.parse::<HeaderName>().ok());
        }
    }
    // A message cannot take its own framing or addressee out by naming them.
    let keep = [header::HOST, header::CONTENT_LENGTH, header::TRAILER];
    named.retain(|name| !keep.contains(name));
    if upgrades {
        hop.upgrade = headers.get(header::UPGRADE).cloned();
    }
    hop.trailers = headers.get_all(header::TE).iter().flat_map(tokens).any(|token| {
        token.split(';').next().is_some_and(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    });
    let mut kept = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in &*headers {
        if !is_hop_by_hop(name) && !named.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    *headers = kept;
    hop
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

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
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
        assert_eq!(strip(&mut headers), Hop::default());
        assert_eq!(names(&headers), ["a", "b", "c"]);
    }

    #[test]
    fn a_connection_field_cannot_take_out_framing_or_host() {
        let mut headers =
            map(&[("host", "h"), ("content-length", "1"), ("connection", "host, content-length")]);
        strip(&mut headers);
        assert_eq!(names(&headers), ["host", "content-length"]);
    }

    #[test]
    fn an_upgrade_and_a_liking_for_trailers_go_on() {
        let mut headers = map(&[
            ("connection", "Upgrade, TE"),
            ("upgrade", "websocket"),
            ("te", "gzip, trailers;q=0.5"),
        ]);
        let hop = strip(&mut headers);
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
        assert_eq!(strip(&mut headers).upgrade, None);
    }

    #[test]
    fn a_preference_to_wait_is_read_in_all_its_spellings() {
        assert_eq!(wait(["respond-async, Wait=10"]), Some(10));
        assert_eq!(wait(["wait=\"3\";x=y"]), Some(3));
        assert_eq!(wait(["wait=soon", "handling=lenient"]), None);
    }
}
