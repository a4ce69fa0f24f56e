//! The `Proxy-Status` field (RFC 9209), as the structured field that it is (RFC 9651), and what its
//! errors are called.
//!
//! [`ERRORS`] has all that RFC 9209 §2.3 defines, whether narrows meets them or not, so that a word
//! that is none of them cannot come into an answer unseen.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderValue;

/// An error of RFC 9209 §2.3.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) word: &'static str,
    /// Where it is defined, which also serves as the problem's type (RFC 9457 §3.1.1): an absolute
    /// URI that leads to what it means.
    pub(super) link: &'static str,
    /// The problem's title, the same in all its answers (RFC 9457 §3.1.3).
    pub(super) title: &'static str,
}

macro_rules! errors {
    ($($section:literal $word:literal $title:literal,)*) => {
        /// All errors.
        pub(super) static ERRORS: &[Error] = &[$(Error {
            word: $word,
            link: concat!("https://www.rfc-editor.org/rfc/rfc9209#section-2.3.", $section),
            title: $title,
        }),*];
    };
}

errors! {
    1 "dns_timeout" "The name server took too long",
    2 "dns_error" "The name has no address",
    3 "destination_not_found" "There is no such destination here",
    4 "destination_unavailable" "The destination is unavailable",
    5 "destination_ip_prohibited" "The address is one that this proxy does not go to",
    6 "destination_ip_unroutable" "There is no way to the address",
    7 "connection_refused" "The destination refused the connection",
    8 "connection_terminated" "The destination closed before it answered",
    9 "connection_timeout" "The destination did not answer the connection",
    10 "connection_read_timeout" "The destination fell silent",
    11 "connection_write_timeout" "The destination did not read",
    12 "connection_limit_reached" "The destination has as many connections as it may have",
    13 "tls_protocol_error" "TLS with the destination failed",
    14 "tls_certificate_error" "The destination's certificate is not trusted",
    15 "tls_alert_received" "The destination ended TLS",
    16 "http_request_error" "The request is not one that can be forwarded",
    17 "http_request_denied" "The request is not allowed",
    18 "http_response_incomplete" "The destination's response broke off",
    19 "http_response_header_section_size" "The destination's response has too long a head",
    20 "http_response_header_size" "The destination's response has too long a field",
    21 "http_response_body_size" "The destination's response has too long a body",
    22 "http_response_trailer_section_size" "The destination's response has too long trailers",
    23 "http_response_trailer_size" "The destination's response has too long a trailer field",
    24 "http_response_transfer_coding" "The destination's response has a bad transfer coding",
    25 "http_response_content_coding" "The destination's response has a bad content coding",
    26 "http_response_timeout" "The destination's response took too long",
    27 "http_upgrade_failed" "The change of protocols failed",
    28 "http_protocol_error" "The destination's response is not sound HTTP",
    29 "proxy_internal_response" "The proxy made this response",
    30 "proxy_internal_error" "The proxy cannot serve this now",
    31 "proxy_configuration_error" "The proxy is set up wrongly",
    32 "proxy_loop_detected" "The request comes back to this proxy",
}

/// The error of this name.
pub(super) fn error(word: &str) -> Option<&'static Error> {
    ERRORS.iter().find(|error| error.word == word)
}

/// The field of an answer of our own.
pub(super) fn of_error(word: &str, details: Option<&str>, waited: Option<Duration>) -> String {
    let mut field = format!("narrows; error={word}");
    if let Some(details) = details {
        field.push_str("; details=");
        quote(&mut field, details);
    }
    if let Some(waited) = waited {
        // Writing to a String cannot fail.
        let _written = write!(field, "; narrows-wait={}", waited.as_millis());
    }
    field
}

/// The field of a response that was forwarded: how long its slot was waited for in milliseconds,
/// how many connections were tried, and whether the last was a kept one.
pub(super) fn of_success(waited: Duration, attempts: u8, reused: bool) -> String {
    let reused = if reused { "; narrows-reused" } else { "" };
    let waited = waited.as_millis();
    format!("narrows; narrows-wait={waited}; narrows-attempts={attempts}{reused}")
}

/// The same as a field's value.
pub(super) fn explained(waited: Duration, attempts: u8, reused: bool) -> Option<HeaderValue> {
    HeaderValue::try_from(of_success(waited, attempts, reused)).ok()
}

/// A String (RFC 9651 §4.1.6), which holds ASCII that can be seen; anything else becomes `?`.
fn quote(field: &mut String, text: &str) {
    field.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => field.extend(['\\', letter]),
            ' '..='~' => field.push(letter),
            _ => field.push('?'),
        }
    }
    field.push('"');
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Whether this is one member of a List with parameters, as RFC 9651 §4.2 parses it.
    pub(crate) fn is_member(text: &str) -> bool {
        let mut rest = text.as_bytes();
        let token = |rest: &mut &[u8], first: fn(u8) -> bool, more: &[u8]| {
            let is_more = |byte: &u8| byte.is_ascii_alphanumeric() || more.contains(byte);
            let length = rest.iter().take_while(|byte| is_more(byte)).count();
            let sound = rest.first().is_some_and(|byte| first(*byte));
            *rest = &rest[length..];
            sound && length > 0
        };
        let upper = |byte: u8| byte.is_ascii_alphabetic();
        let lower = |byte: u8| byte.is_ascii_lowercase();
        if !token(&mut rest, upper, b"_-.:%/") {
            return false;
        }
        while let [b';', tail @ ..] = rest {
            rest = tail.trim_ascii_start();
            if !token(&mut rest, lower, b"_-.*") {
                return false;
            }
            let [b'=', tail @ ..] = rest else { continue };
            rest = tail;
            match rest.first() {
                Some(b'"') => {
                    let mut at = 1;
                    loop {
                        match rest.get(at) {
                            Some(b'\\') if matches!(rest.get(at + 1), Some(b'"' | b'\\')) => {
                                at += 2;
                            }
                            Some(b'"') => break,
                            Some(b' '..=b'[' | b']'..=b'~') => at += 1,
                            _ => return false,
                        }
                    }
                    rest = &rest[at + 1..];
                }
                Some(b'0'..=b'9') => {
                    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    if digits > 15 {
                        return false;
                    }
                    rest = &rest[digits..];
                }
                _ if token(&mut rest, upper, b"_-.:%/") => {}
                _ => return false,
            }
        }
        rest.is_empty()
    }

    #[test]
    fn what_is_written_is_a_structured_field() {
        for (details, waited) in [
            (None, None),
            (Some("it \"said\" c:\\x\u{e9}\r\nSet-Cookie: a=b\u{7f}"), None),
            (Some(""), Some(Duration::from_millis(1500))),
        ] {
            let field = of_error("dns_error", details, waited);
            assert!(is_member(&field), "{field:?}");
            assert!(HeaderValue::try_from(&field).is_ok(), "{field:?}");
        }
        assert_eq!(
            of_error("dns_error", Some("a \"b\""), Some(Duration::from_secs(2))),
            r#"narrows; error=dns_error; details="a \"b\""; narrows-wait=2000"#
        );
        let field = of_success(Duration::from_millis(12), 2, true);
        assert_eq!(field, "narrows; narrows-wait=12; narrows-attempts=2; narrows-reused");
        assert!(is_member(&field));
        assert!(!is_member("narrows; error=\"x\u{e9}\"") && !is_member("narrows; Error=x"));
        assert!(!is_member("narrows; error=") && !is_member("narrows;; a"));
    }

    #[test]
    fn every_error_of_the_standard_is_there_once_with_a_place_of_its_own() {
        assert_eq!(ERRORS.len(), 32);
        for (index, known) in ERRORS.iter().enumerate() {
            assert!(known.link.ends_with(&format!("#section-2.3.{}", index + 1)), "{known:?}");
            assert!(std::ptr::eq(error(known.word).unwrap(), known), "{known:?}");
            assert!(known.link.parse::<http::Uri>().is_ok() && !known.title.is_empty());
        }
        assert!(error("no_such_thing").is_none());
    }
}
