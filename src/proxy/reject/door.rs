//! Answers to those who may not come in, or not in this manner: connections, credentials, methods.

use super::Answer;
use super::make;
use crate::listen::bounds::Full;
use crate::policy::access::Denied;

/// RFC 7617 §2 and §2.1.
const CHALLENGE: &str = r#"Basic realm="narrows", charset="UTF-8""#;

pub(super) fn not_taken(methods: &str) -> Answer {
    let detail = format!("this API takes {methods}");
    let title = "method not allowed".to_owned();
    let answer = make(405, title, "http_request_error", None, &detail, None);
    Answer { allow: Some(methods.to_owned()), ..answer }
}

pub(super) fn not_listed() -> Answer {
    let detail = "clients of this address may not use this API";
    make(403, "client not allowed".to_owned(), "http_request_denied", None, detail, None)
}

pub(super) fn stranger() -> Answer {
    let detail = "say who you are by a user and a password that this gateway knows, in Authorization, \
                  or in Proxy-Authorization where Authorization is for the API";
    let title = "authentication required".to_owned();
    let answer = make(401, title, "http_request_error", None, detail, None);
    Answer { challenge: Some(CHALLENGE), ..answer }
}

pub(super) fn turned_away(denied: Denied) -> Answer {
    // RFC 9209 §2.3: one word for what the client can mend by another request, one for what it cannot.
    let (status, error, title, detail) = match denied {
        Denied::Busy => (
            503,
            "proxy_internal_error",
            "too many passwords to verify",
            "more passwords wait to be verified than may; those that were verified before are not held up",
        ),
        Denied::Certificate => (
            403,
            "http_request_denied",
            "certificate needed",
            "who uses this proxy shows a certificate when it connects",
        ),
        Denied::Credentials => (
            407,
            "http_request_error",
            "proxy authentication required",
            "give a user and a password that this proxy knows: http://USER:PASSWORD@PROXY:PORT",
        ),
        Denied::Network => (
            403,
            "http_request_denied",
            "client not allowed",
            "clients of this network may not use this proxy",
        ),
    };
    let retry_after = (denied == Denied::Busy).then_some(1);
    let challenge = (denied == Denied::Credentials).then_some(CHALLENGE);
    let answer = make(status, title.to_owned(), error, retry_after, detail, None);
    Answer { challenge, ..answer }
}

pub(super) fn no_room(full: Full) -> Answer {
    let (status, error, title, detail) = match full {
        Full::Clients | Full::Files => (
            503,
            "proxy_internal_response",
            "too many clients",
            "the proxy has as many connections of clients as it may have",
        ),
        Full::OfAddress => (
            429,
            "http_request_error",
            "too many connections from this address",
            "the proxy has as many connections from this address as it may have",
        ),
    };
    make(status, title.to_owned(), error, Some(1), detail, None)
}
