//! The standing check: what holds for every response that reaches a client, whatever the test is about.
//!
//! 1. An answer of narrows' own that is an error carries `Proxy-Status` (RFC 9209) and a body of
//!    `application/problem+json` (RFC 9457) that agrees with it.
//! 2. No hop-by-hop field of the origin's hop reaches the client (RFC 9110 §7.6.1).

use serde_json::Value;

use crate::support::Head;
use crate::support::origin::MARK;

/// What concerns the head alone.
pub(crate) fn head(head: &Head) {
    let status = head.status();
    for name in ["keep-alive", "proxy-connection", "te", "x-hop"] {
        assert!(head.all(name).is_empty(), "{name} leaked: {head:?}");
    }
    for option in head.list("connection") {
        let ours = ["close", "keep-alive", "upgrade"].contains(&option.as_str());
        assert!(ours, "Connection: {option} leaked: {head:?}");
    }
    if status != 101 {
        assert!(head.all("upgrade").is_empty(), "Upgrade leaked: {head:?}");
    }
    if (100..200).contains(&status) || status == 204 {
        assert!(head.all("content-length").is_empty(), "{status} with a length: {head:?}");
        assert!(head.all("transfer-encoding").is_empty(), "{status} with a coding: {head:?}");
    }
    let is_error = status >= 400;
    if is_error && head.field(MARK).is_none() {
        word(head);
        assert_eq!(head.field("content-type"), Some("application/problem+json"), "{head:?}");
        assert_ne!(head.reason(), "", "no reason phrase: {head:?}");
    }
}

/// What concerns the body of an answer of narrows' own.
pub(crate) fn body(head: &Head, method: &str, body: &[u8]) {
    if head.status() < 400 || head.field(MARK).is_some() || method == "HEAD" {
        return;
    }
    let problem: Value = serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(body)));
    assert_eq!(problem["status"], head.status(), "{problem}");
    assert_eq!(problem["error"], word(head), "{problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "no {member}: {problem}");
    }
}

/// The error word of `Proxy-Status: narrows; error=WORD`.
pub(crate) fn word(head: &Head) -> String {
    let status = head.field("proxy-status").unwrap_or_else(|| panic!("no Proxy-Status: {head:?}"));
    let mut parts = status.split(';').map(str::trim);
    assert_eq!(parts.next(), Some("narrows"), "{status}");
    let word = parts.find_map(|part| part.strip_prefix("error="));
    word.unwrap_or_else(|| panic!("no error in {status:?}")).to_owned()
}
