//! Whether a request has the body that its API wants, before anything is sent.
//!
//! Only what must be known is read: that there is a byte at all, or all of a JSON text up to the
//! API's bound. What was read is sent on as it came; nothing here is made of it.

use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use http_body::Body as _;
use serde::de::IgnoredAny;

use crate::policy::api::Gateway;
use crate::proxy::Thread;
use crate::proxy::asker::Asker;
use crate::proxy::head::Flaw;
use crate::proxy::headers;
use crate::proxy::pipeline::Failed;
use crate::proxy::reject::Reject;
use crate::telemetry::metrics::Bound;
use crate::upstream::held::Held;
use crate::upstream::source::Source;

/// How much must be read to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A byte.
    Some,
    /// All, up to so many bytes; more is refused.
    All(u64),
    /// All, or more than so many bytes.
    UpTo(u64),
}

/// The body to send on, if it is what the API wants. `fields` are those that go on; an expectation
/// goes out of them where it is met here.
pub(super) async fn judge(
    thread: &Thread,
    client: &Asker,
    gateway: &Gateway,
    fields: &mut HeaderMap,
    body: Source,
) -> Result<Source, Failed> {
    let declared = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let declared = declared.and_then(|length| length.parse::<u64>().ok());
    if body.is_end_stream() || declared == Some(0) {
        return if gateway.requires_body { Err(Reject::NoBody.into()) } else { Ok(body) };
    }
    let need = match gateway.validate_json.filter(|_| is_json(fields)) {
        Some(bound) if declared.is_some_and(|length| length > bound) => {
            return Err(Reject::LongBody(bound).into());
        }
        Some(bound) => Need::All(bound),
        None if gateway.requires_body && declared.is_none() => Need::Some,
        None => return Ok(body),
    };
    continue_now(client, fields);
    let mut held = Held::new(body);
    client.pulse().upload(0, true);
    let filled = poll_fn(|cx| poll_fill(thread, client, &mut held, need, cx));
    client.unless_left(filled).await.unwrap_or(Err(Failed::Left))?;
    client.pulse().upload(0, !held.is_whole());
    match need {
        Need::Some if held.length() == 0 => return Err(Reject::NoBody.into()),
        Need::All(_) if held.length() == 0 && gateway.requires_body => {
            return Err(Reject::NoBody.into());
        }
        Need::All(_) if held.length() > 0 => validate(&held.bytes())?,
        Need::Some | Need::All(_) | Need::UpTo(_) => {}
    }
    Ok(Source::Held(Box::new(held)))
}

/// All of a body of up to `bound` bytes, and the body to send on. One that is longer is sent on as it
/// comes, and is none here.
pub(in crate::proxy) async fn gather(
    thread: &Thread,
    client: &Asker,
    fields: &mut HeaderMap,
    body: Source,
    bound: u64,
) -> Result<(Source, Option<Bytes>), Failed> {
    let declared = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let declared = declared.and_then(|length| length.parse::<u64>().ok());
    if body.is_end_stream() {
        return Ok((body, Some(Bytes::new())));
    }
    if declared.is_some_and(|length| length > bound) {
        return Ok((body, None));
    }
    continue_now(client, fields);
    let mut held = Held::new(body);
    client.pulse().upload(0, true);
    let filled = poll_fn(|cx| poll_fill(thread, client, &mut held, Need::UpTo(bound), cx));
    client.unless_left(filled).await.unwrap_or(Err(Failed::Left))?;
    client.pulse().upload(0, !held.is_whole());
    let whole = (held.is_whole() && held.length() <= bound).then(|| held.bytes());
    Ok((Source::Held(Box::new(held)), whole))
}

/// Has a client that waits to be told so send its body.
fn continue_now(client: &Asker, fields: &mut HeaderMap) {
    if headers::expects_continue(fields) == Ok(true) {
        if !client.continues_by_itself() {
            client.interim(StatusCode::CONTINUE, HeaderMap::new());
        }
        fields.remove(header::EXPECT);
    }
}

/// Reads until what is needed is there, or the body ends.
fn poll_fill(
    thread: &Thread,
    client: &Asker,
    held: &mut Held,
    need: Need,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failed>> {
    loop {
        let more = match held.poll_more(cx) {
            Poll::Ready(Ok(more)) => more,
            Poll::Ready(Err(_why)) => {
                let broken = client.broken().map(|malformed| Reject::Flaw(Flaw::from(malformed)));
                return Poll::Ready(Err(broken.map_or(Failed::Left, Failed::Rejected)));
            }
            Poll::Pending => {
                let silent = client.pulse().poll_silent(cx, thread.upstream.idle_timeout());
                return silent.map(|()| {
                    thread.cells.bounded(Bound::BodyIdle);
                    Err(Reject::SlowBody.into())
                });
            }
        };
        client.pulse().upload(0, true);
        match need {
            _ if !more => return Poll::Ready(Ok(())),
            Need::Some if held.length() > 0 => return Poll::Ready(Ok(())),
            Need::All(bound) if held.length() > bound => {
                return Poll::Ready(Err(Reject::LongBody(bound).into()));
            }
            Need::UpTo(bound) if held.length() > bound => return Poll::Ready(Ok(())),
            Need::Some | Need::All(_) | Need::UpTo(_) => {}
        }
    }
}

/// Whether the body is a JSON text as it stands (RFC 8259, RFC 6839 §3.1): not one that is coded.
fn is_json(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let is_coded = fields.contains_key(header::CONTENT_ENCODING);
    !is_coded && (kind == "application/json" || kind.ends_with("+json"))
}

fn validate(text: &[u8]) -> Result<(), Reject> {
    // RFC 8259 §8.1: it is UTF-8. The parser looks at strings only for where they end.
    let text = std::str::from_utf8(text).map_err(|why| {
        let before = &text[..why.valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Reject::Json(format!("not UTF-8 at line {line} column {column}"))
    })?;
    // PERF: no value is built, and no depth of it takes stack.
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        // It names what was expected and where, and repeats nothing of the text.
        Err(why) => Err(Reject::Json(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_json_text_is_judged_by_rfc_8259_and_not_by_what_it_says() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        for good in [
            "{}",
            "[]",
            " \n{\"a\":[1,-2.5e+300,true,null,\"\\u00e9\u{e9}\"]}\r\n",
            "12345678901234567890123",
            "1e999",
            "\"x\"",
            "{\"a\":1,\"a\":2}",
            &deep,
        ] {
            assert!(validate(good.as_bytes()).is_ok(), "{good:.60}");
        }
        for (bad, place) in [
            (&b"{bad"[..], "line 1 column 2"),
            (b"{\"a\":1,}", "line 1 column 8"),
            (b"{}\n{}", "line 2 column 1"),
            (b"[1,\n\n 01]", "line 3 column"),
            (b"\"\n\"", "line"),
            (b"", "line 1 column 0"),
            (b"NaN", "line 1 column"),
            (b"'x'", "line 1 column 1"),
            (b"[\n\"\xff\"]", "not UTF-8 at line 2 column 2"),
        ] {
            let Err(Reject::Json(why)) = validate(bad) else { panic!("{bad:?} is no JSON") };
            assert!(why.contains(place), "{bad:?}: {why}");
        }
    }

    #[test]
    fn only_what_says_that_it_is_json_and_is_not_coded_is_looked_at() {
        for (kind, coding, wanted) in [
            ("application/json", None, true),
            ("Application/JSON ; charset=utf-8", None, true),
            ("application/problem+json", None, true),
            ("application/jsonl", None, false),
            ("text/plain", None, false),
            ("application/json", Some("gzip"), false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some(coding) = coding {
                fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            assert_eq!(is_json(&fields), wanted, "{kind} {coding:?}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
