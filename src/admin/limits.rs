//! `/limits`: the fleet's table of limits, for all to read, and to change for who has the token.
//!
//! SECURITY: one of few places on this port that change anything. Without a token in the settings
//! nobody can; one that is given is compared in a time that does not depend on it.

use std::fmt::Display;

use bytes::Buf;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Body;
use serde_json::Value;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::Answer;
use super::Sources;
use super::decoded;
use super::problem;
use crate::limit::rules::Limit;
use crate::limit::rules::Pattern;
use crate::limit::rules::Rule;
use crate::limit::rules::Scope;
use crate::limit::table::Error;

/// What the paths of single rules begin with.
pub(super) const RULES: &str = "/limits/";
/// The longest body of a change.
const BODY: usize = 4096;

const NUMBER: &str = "a whole number from 0 (unlimited) to 4294967295";

/// The fleet's table, and the rules of this instance that hold where it says nothing.
pub(super) fn list(sources: &Sources) -> Answer {
    let mut told = sources.limiter.fleet_limits().to_json();
    let own = sources.limiter.own_limits();
    let (default, local): (Vec<&Rule>, Vec<&Rule>) =
        own.iter().partition(|rule| rule.pattern == Pattern::Default);
    told["local"] = local.into_iter().map(Rule::to_json).collect();
    told["default"] = default.first().map_or(0, |rule| rule.limit).into();
    super::json(StatusCode::OK, &told)
}

/// PUT and DELETE of one rule.
pub(super) async fn change<B>(sources: &Sources, request: Request<B>) -> Answer
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    // Read before anything is judged: to close a socket with bytes unread would reset it, and the
    // answer might be lost.
    let body = Limited::new(body, BODY).collect().await;
    if let Err(refusal) = authorise(sources, &head.headers) {
        return *refusal;
    }
    let text = head.uri.path().strip_prefix(RULES).unwrap_or_default();
    let Some(text) = decoded(text) else {
        return refusal("pattern", text, &"percent-encoded UTF-8");
    };
    let pattern = match Pattern::of_table(&text) {
        Ok(pattern) => pattern,
        Err(why) => {
            let allowed = format!("HOST, HOST:PORT, *.SUFFIX or default ({why})");
            return refusal("pattern", text, &allowed);
        }
    };
    match head.method {
        Method::DELETE => remove(sources, pattern).await,
        Method::PUT => match body {
            Ok(body) => set(sources, pattern, body.aggregate()).await,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("body: at most {BODY} bytes"))
            }
            Err(_broken) => problem(StatusCode::BAD_REQUEST, "body: it did not come whole"),
        },
        _ => {
            let detail = "PUT and DELETE only; GET /limits lists all rules";
            let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, detail);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("PUT, DELETE"));
            answer
        }
    }
}

async fn set(sources: &Sources, pattern: Pattern, body: impl Buf) -> Answer {
    let rule = match rule(pattern, body) {
        Ok(rule) => rule,
        Err(refusal) => return *refusal,
    };
    match sources.limiter.set_fleet_limit(rule.clone()).await {
        Ok(version) => {
            let mut told = rule.to_json();
            told["version"] = version.into();
            super::json(StatusCode::OK, &told)
        }
        Err(error) => failed(&error),
    }
}

async fn remove(sources: &Sources, pattern: Pattern) -> Answer {
    let text = pattern.to_string();
    match sources.limiter.remove_fleet_limit(pattern).await {
        Ok(Some(version)) => {
            super::json(StatusCode::OK, &json!({ "pattern": text, "version": version }))
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, "the fleet's table has no such rule"),
        Err(error) => failed(&error),
    }
}

/// The rule in a body such as `{"limit": 5, "scope": "each"}`.
fn rule(pattern: Pattern, body: impl Buf) -> Result<Rule, Box<Answer>> {
    let whole = "an object such as {\"limit\": 5, \"scope\": \"each\"}";
    let refuse = |field: &str, value: Value, allowed: &dyn Display| {
        Err(Box::new(refusal(field, value, allowed)))
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_reader(body.reader()) else {
        return refuse("body", Value::Null, &whole);
    };
    let limit = fields.remove("limit").unwrap_or_default();
    let scope = fields.remove("scope").unwrap_or_else(|| "each".into());
    if let Some((field, value)) = fields.into_iter().next() {
        return refuse(&field, value, &"the fields limit and scope alone");
    }
    let Some(number) = limit.as_u64().and_then(|number| Limit::try_from(number).ok()) else {
        return refuse("limit", limit, &NUMBER);
    };
    let Some(Ok(kind)) = scope.as_str().map(str::parse::<Scope>) else {
        return refuse("scope", scope, &"\"each\" or \"shared\"");
    };
    Rule::new(pattern, number, kind).or_else(|why| refuse("scope", scope, &why))
}

/// Whether whoever asks has the token (RFC 6750 §2.1).
pub(super) fn authorise(sources: &Sources, fields: &HeaderMap) -> Result<(), Box<Answer>> {
    let Some(token) = &sources.token else {
        let detail = "nothing can be changed here: this instance has no --admin-token";
        return Err(Box::new(problem(StatusCode::FORBIDDEN, detail)));
    };
    let given = fields.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = given.and_then(|given| {
        let (scheme, text) = given.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(text.trim_ascii())
    });
    let challenge = match bearer {
        // Only the length can be told by the time that this takes.
        Some(given) if bool::from(given.ct_eq(token.0.as_bytes())) => return Ok(()),
        Some(_) => "Bearer realm=\"narrows\", error=\"invalid_token\"",
        None => "Bearer realm=\"narrows\"",
    };
    let detail = "a change needs the admin token: Authorization: Bearer TOKEN";
    let mut answer = problem(StatusCode::UNAUTHORIZED, detail);
    let challenge = HeaderValue::from_static(challenge);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    Err(Box::new(answer))
}

fn failed(error: &Error) -> Answer {
    problem(StatusCode::SERVICE_UNAVAILABLE, &format!("the limits were not changed: {error}"))
}

/// What was given is not allowed.
fn refusal(field: &str, value: impl Into<Value>, allowed: &dyn Display) -> Answer {
    let (value, status) = (value.into(), StatusCode::BAD_REQUEST);
    let told = json!({
        "type": "about:blank",
        "title": "Bad Request",
        "status": status.as_u16(),
        "detail": format!("{field}: {value} is not allowed: {allowed}"),
        "field": field,
        "value": value,
        "allowed": allowed.to_string(),
    });
    super::body(status, "application/problem+json", told.to_string())
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::super::tests::get;
    use super::super::tests::sources;
    use super::*;
    use crate::base::authority::HostKey;
    use crate::store::Secret;

    const TOKEN: &str = "open sesame";

    fn open() -> Sources {
        let mut sources = sources(9);
        sources.token = Some(Secret(TOKEN.to_owned()));
        sources
    }

    async fn ask(
        sources: &Sources,
        method: &str,
        pattern: &str,
        token: &str,
        body: &str,
    ) -> (u16, Value, HeaderMap) {
        let mut request = Request::builder().method(method).uri(format!("{RULES}{pattern}"));
        if !token.is_empty() {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
        let (head, body) = change(sources, request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap(), head.headers)
    }

    async fn put(sources: &Sources, pattern: &str, body: &str) -> (u16, Value) {
        let (status, told, _) = ask(sources, "PUT", pattern, "Bearer open sesame", body).await;
        (status, told)
    }

    fn limit(sources: &Sources, host: &str) -> Limit {
        sources.limiter.limit(&HostKey::parse(host).unwrap())
    }

    #[tokio::test]
    async fn rules_are_set_listed_and_removed() {
        let sources = open();
        sources.limiter.set_host_limit("own.test".parse().unwrap(), 3);
        let told = put(&sources, "A.test%3A81", r#"{"limit": 5}"#).await;
        let rule = json!({ "pattern": "a.test:81", "limit": 5, "scope": "each" });
        let mut answer = rule.clone();
        answer["version"] = 1.into();
        assert_eq!(told, (200, answer.clone()));
        assert_eq!(put(&sources, "a.test:81", r#"{"limit":5,"scope":"each"}"#).await.1, answer);
        let body = r#"{"limit":2,"scope":"shared"}"#;
        assert_eq!(put(&sources, "%2A.test", body).await.1["version"], 2);
        assert_eq!(put(&sources, "default", r#"{"limit":7}"#).await.1["pattern"], "*");
        assert_eq!(
            ["a.test:81", "x.test", "other"].map(|host| limit(&sources, host)),
            [5, 2, 7],
            "obeyed at once"
        );

        let (status, _, text) = get(&sources, "/limits").await;
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200);
        assert_eq!(
            told,
            json!({
                "version": 3,
                "rules": [
                    { "pattern": "*", "limit": 7, "scope": "each" },
                    { "pattern": "*.test", "limit": 2, "scope": "shared" },
                    rule,
                ],
                "local": [{ "pattern": "own.test", "limit": 3, "scope": "each" }],
                "default": 9,
            })
        );

        let token = "bearer  open sesame";
        let (status, told, _) = ask(&sources, "DELETE", "*", token, "").await;
        assert_eq!((status, &told["version"]), (200, &json!(4)));
        assert_eq!(ask(&sources, "DELETE", "*", token, "").await.0, 404);
        assert_eq!(limit(&sources, "other"), 9);
    }

    #[tokio::test]
    async fn without_the_token_nothing_is_changed() {
        let sources = open();
        for (token, challenge) in [
            ("", "Bearer realm=\"narrows\""),
            ("Basic b3Blbg==", "Bearer realm=\"narrows\""),
            ("open sesame", "Bearer realm=\"narrows\""),
            ("Bearer open sesamE", "Bearer realm=\"narrows\", error=\"invalid_token\""),
            ("Bearer open", "Bearer realm=\"narrows\", error=\"invalid_token\""),
            ("Bearer ", "Bearer realm=\"narrows\", error=\"invalid_token\""),
        ] {
            for method in ["PUT", "DELETE"] {
                let (status, _, fields) =
                    ask(&sources, method, "a.test", token, r#"{"limit":1}"#).await;
                assert_eq!(status, 401);
                assert_eq!(fields["www-authenticate"], challenge);
            }
        }
        let closed = super::super::tests::sources(9);
        let (status, told, _) = ask(&closed, "PUT", "a.test", "Bearer ", r#"{"limit":1}"#).await;
        assert_eq!(status, 403);
        assert!(told["detail"].as_str().unwrap().contains("--admin-token"), "{told}");
        assert_eq!((limit(&sources, "a.test"), limit(&closed, "a.test")), (9, 9));
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_with_what_is_allowed() {
        let sources = open();
        for (pattern, body, field, value) in [
            ("a%zz", r#"{"limit":1}"#, "pattern", json!("a%zz")),
            ("127.1", r#"{"limit":1}"#, "pattern", json!("127.1")),
            ("", r#"{"limit":1}"#, "pattern", json!("")),
            ("a.test", "", "body", json!(null)),
            ("a.test", "[5]", "body", json!(null)),
            ("a.test", "{}", "limit", json!(null)),
            ("a.test", r#"{"limit":-1}"#, "limit", json!(-1)),
            ("a.test", r#"{"limit":"5"}"#, "limit", json!("5")),
            ("a.test", r#"{"limit":4294967296}"#, "limit", json!(4_294_967_296_u64)),
            ("a.test", r#"{"limit":1,"scope":"all"}"#, "scope", json!("all")),
            ("a.test", r#"{"limit":1,"scope":"shared"}"#, "scope", json!("shared")),
            ("a.test", r#"{"limit":1,"hots":2}"#, "hots", json!(2)),
        ] {
            let (status, told) = put(&sources, pattern, body).await;
            assert_eq!((status, &told["field"], &told["value"]), (400, &field.into(), &value));
            assert!(told["allowed"].is_string(), "{told}");
        }
        let long = format!("{{\"limit\":1{}}}", " ".repeat(BODY));
        assert_eq!(put(&sources, "a.test", &long).await.0, 413);
        let (status, _, fields) = ask(&sources, "GET", "a.test", "Bearer open sesame", "").await;
        assert_eq!(status, 405);
        assert_eq!(fields["allow"], "PUT, DELETE");
        assert_eq!(sources.limiter.fleet_limits().version, 0);
    }
}
