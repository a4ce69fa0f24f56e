//! Answers to those who may not come in, or not in this manner: connections, credentials, methods.

use super::Answer;
use super::Asks;
use super::make;
use crate::listen::bounds::Full;
use crate::policy::access::Denied;
use crate::policy::access::entrance::TokenFlaw;
use crate::policy::access::entrance::Unproven;

/// The fields that ask for credentials (RFC 9110 §11.6.1, §11.7.1).
const WWW: &str = "WWW-Authenticate";
const PROXY: &str = "Proxy-Authenticate";
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
    Answer { challenges: vec![(WWW, CHALLENGE.into())], ..answer }
}

/// RFC 6750 §3: whoever shows nothing is told what would help, and nothing of errors.
pub(super) fn unproven(why: Unproven, asks: &Asks) -> Answer {
    let Asks { api, header, takes_tokens, at_gateway } = asks;
    let stranger = if *at_gateway { 401 } else { 407 };
    let what = match (header.is_some(), takes_tokens) {
        (true, true) => "key or token",
        (true, false) => "key",
        (false, _) => "token",
    };
    let said = |words: &str| format!("the {what} {words}");
    let (status, error, said) = match why {
        Unproven::Nothing => (stranger, None, String::new()),
        Unproven::Unclear => {
            let said = format!("there must be one {what}, by one field");
            (400, Some("invalid_request"), said)
        }
        Unproven::Unknown => (stranger, Some("invalid_token"), said("is not known")),
        Unproven::Expired => (stranger, Some("invalid_token"), said("has expired")),
        Unproven::NotYet => (stranger, Some("invalid_token"), said("does not hold yet")),
        Unproven::Scope => (403, Some("insufficient_scope"), said("may not be used for this")),
        Unproven::Token(flaw) => {
            let said = format!("the token is of no use: {}", flaw.as_str());
            match flaw {
                TokenFlaw::Busy => (429, None, said),
                TokenFlaw::Keys => (503, None, said),
                TokenFlaw::Scope => (403, Some("insufficient_scope"), said),
                TokenFlaw::Algorithm
                | TokenFlaw::Audience
                | TokenFlaw::Claims
                | TokenFlaw::Expired
                | TokenFlaw::Issuer
                | TokenFlaw::KeyId
                | TokenFlaw::Malformed
                | TokenFlaw::Missing
                | TokenFlaw::NotYet
                | TokenFlaw::Signature
                | TokenFlaw::TooLong
                | TokenFlaw::Type => (stranger, Some("invalid_token"), said),
            }
        }
    };
    let realm = format!("realm=\"{api}\"");
    let bearer = match error {
        None => format!("Bearer {realm}"),
        Some(error) => format!("Bearer {realm}, error=\"{error}\", error_description=\"{said}\""),
    };
    let field = if *at_gateway { WWW } else { PROXY };
    let mut challenges = vec![(field, bearer.into())];
    if !at_gateway {
        // What `http://NAME:KEY@PROXY` makes of it.
        challenges.insert(0, (PROXY, format!("Basic {realm}").into()));
    } else if let Some(header) = header {
        challenges.insert(0, (WWW, format!("ApiKey {realm}, header=\"{header}\"").into()));
    }
    let how = match (header, at_gateway) {
        (Some(header), true) => {
            format!("give a {what} of this API in {header}, or as Authorization: Bearer")
        }
        (None, true) => format!("give a {what} of this API as Authorization: Bearer"),
        (_, false) => format!(
            "give a {what} of this API as Proxy-Authorization: Bearer, or as the password: \
             http://NAME:KEY@PROXY:PORT"
        ),
    };
    let (title, word, detail) = match (status, error) {
        (429, _) => ("too many wrong tokens", "http_request_error", said),
        (503, _) => ("no keys for tokens", "proxy_internal_error", said),
        (403, _) => ("not in scope", "http_request_denied", said),
        (400, _) => ("bad request", "http_request_error", format!("{said}; {how}")),
        (_, Some(_)) => ("authentication required", "http_request_error", format!("{said}; {how}")),
        (_, None) => ("authentication required", "http_request_error", how),
    };
    if matches!(status, 429 | 503) {
        return make(status, title.to_owned(), word, Some(1), &detail, None);
    }
    Answer { challenges, ..make(status, title.to_owned(), word, None, &detail, None) }
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
    let challenge = (denied == Denied::Credentials).then_some((PROXY, CHALLENGE.into()));
    let answer = make(status, title.to_owned(), error, retry_after, detail, None);
    Answer { challenges: challenge.into_iter().collect(), ..answer }
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
