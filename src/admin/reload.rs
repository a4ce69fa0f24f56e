//! `/-/reload`: the settings are read again.
//!
//! SECURITY: with a token in the settings it asks for that, as all changes here do. Without one
//! whoever reaches the port may ask, since nothing but what the operator has written takes effect;
//! but no page in a browser may, which would say whose it is.

use std::fmt;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Body;
use serde_json::json;

use super::Answer;
use super::Sources;
use super::limits;
use super::problem;

/// Where it is asked for.
pub(super) const PATH: &str = "/-/reload";
/// A body of a request, of which nothing is wanted.
const BODY: usize = 4096;

/// What came of other settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What was changed, by its flag or as `api.NAME added`, `changed` or `removed`.
    pub changed: Vec<String>,
    /// What is another now but is not obeyed before a restart, by its flag.
    pub needs_restart: Vec<String>,
}

/// Who reads the settings again.
pub trait Reload: fmt::Debug + Send + Sync {
    /// Reads them, and takes them over if nothing is wrong with them; else all that is wrong.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Vec<String>>>;
}

pub(super) async fn ask<B>(sources: &Sources, request: Request<B>) -> Answer
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    // To close a socket with bytes unread would reset it, and the answer might be lost.
    let _body = Limited::new(body, BODY).collect().await;
    if head.method != Method::POST {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    if sources.token.is_some() {
        if let Err(refusal) = limits::authorise(sources, &head.headers) {
            return *refusal;
        }
    } else if head.headers.contains_key(header::ORIGIN) {
        return problem(StatusCode::FORBIDDEN, "a page in a browser may not ask for this");
    }
    match sources.reload.reload().await {
        Ok(Reloaded { changed, needs_restart }) => super::json(
            StatusCode::OK,
            &json!({ "changed": changed, "needs_restart": needs_restart }),
        ),
        Err(problems) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let told = json!({
                "type": "about:blank",
                "title": "Unprocessable Content",
                "status": status.as_u16(),
                "detail": "the settings are wrong: those before stay in force",
                "problems": problems,
            });
            super::body(status, "application/problem+json", told.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;

    use super::super::tests::sources;
    use super::*;
    use crate::store::Secret;

    #[derive(Debug)]
    struct Told(Result<Reloaded, Vec<String>>);

    impl Reload for Told {
        fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Vec<String>>> {
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    async fn asked(sources: &Sources, method: &str, field: (&str, &str)) -> (u16, String) {
        let request = Request::builder().method(method).uri(PATH).header(field.0, field.1);
        let answer = ask(sources, request.body(Full::<Bytes>::default()).unwrap()).await;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_has_changed_is_told_or_all_that_is_wrong() {
        let mut sources = sources(1);
        let changed = vec!["api.a added".to_owned()];
        let needs_restart = vec!["listen".to_owned()];
        sources.reload = Box::new(Told(Ok(Reloaded { changed, needs_restart })));
        let (status, text) = asked(&sources, "POST", ("a", "b")).await;
        assert_eq!(status, 200);
        assert_eq!(text, r#"{"changed":["api.a added"],"needs_restart":["listen"]}"#);

        let problems = ["line 3: x", "line 5: y"].map(str::to_owned).to_vec();
        sources.reload = Box::new(Told(Err(problems)));
        let (status, text) = asked(&sources, "POST", ("a", "b")).await;
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 422);
        assert_eq!(told["problems"], json!(["line 3: x", "line 5: y"]));
    }

    #[tokio::test]
    async fn who_may_ask_has_the_token_or_is_no_browser() {
        let mut sources = sources(1);
        sources.reload = Box::new(Told(Ok(Reloaded::default())));
        let bearer = ("authorization", "Bearer sesame");
        for (token, method, field, status) in [
            (None, "POST", ("a", "b"), 200),
            (None, "GET", ("a", "b"), 405),
            (None, "POST", ("origin", "http://localhost:9900"), 403),
            (Some("sesame"), "POST", ("a", "b"), 401),
            (Some("sesam"), "POST", bearer, 401),
            (Some("sesame"), "POST", bearer, 200),
        ] {
            sources.token = token.map(|token| Secret(token.to_owned()));
            assert_eq!(asked(&sources, method, field).await.0, status, "{token:?} {field:?}");
        }
    }
}
