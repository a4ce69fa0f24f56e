//! A plain request of one stream, and its answer: the way of all requests, with frames at its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::SendStream;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::header;
use http_body::Body as _;

use super::Outcome;
use super::Stream;
use crate::proxy::Bounds;
use crate::proxy::Thread;
use crate::proxy::asker::Asker;
use crate::proxy::forward;
use crate::proxy::head;
use crate::proxy::head::Flaw;
use crate::proxy::headers;
use crate::proxy::reject::Answer;
use crate::proxy::story::Body;
use crate::telemetry::metrics::Bound;
use crate::upstream::source::Source;

/// Judges a request of HTTP/2 before it is made one of HTTP/1.1 (RFC 9113 §8.2, §8.3, §10.3).
///
/// The crate has refused what is malformed by itself: connection-specific fields, pseudo-fields
/// that are missing, unknown or repeated, names in upper case, and bytes that no field may hold.
pub(crate) fn check<B>(thread: &Thread, request: &Request<B>) -> Result<(), Flaw> {
    let judged = judge(&thread.settings.bounds, request);
    if let Some(bound) = judged.err().and_then(Flaw::bound) {
        thread.cells.bounded(bound);
    }
    judged
}

fn judge<B>(bounds: &Bounds, request: &Request<B>) -> Result<(), Flaw> {
    let (fields, uri) = (request.headers(), request.uri());
    // RFC 9113 §6.5.2: each field counts 32 bytes more than it has.
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let named = uri.authority().map_or("", |authority| authority.as_str());
    let target = uri.path().len() + uri.query().map_or(0, str::len) + named.len();
    if target > bounds.request_line as usize {
        return Err(Flaw::LongLine);
    }
    if fields.len() > bounds.fields as usize {
        return Err(Flaw::ManyFields);
    }
    if target + fields.iter().map(field).sum::<usize>() > bounds.head_size as usize {
        return Err(Flaw::TooLarge);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        head::content_length(length.as_bytes())?;
        if lengths.next().is_some() {
            return Err(Flaw::Length);
        }
    }
    let mut hosts = fields.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        if uri.authority().is_some() && !is_same(named, host, uri) {
            return Err(Flaw::Host("the Host field and :authority name different hosts"));
        }
        if hosts.next().is_some() {
            return Err(Flaw::Host("there is more than one Host field"));
        }
    }
    if named.contains('@') {
        // SECURITY: not repeated to anybody, since a password may be in it.
        return Err(Flaw::Target("it has userinfo (user@host)"));
    }
    let starred = uri.path() == "*" && *request.method() == Method::OPTIONS;
    if *request.method() != Method::CONNECT && !uri.path().starts_with('/') && !starred {
        return Err(Flaw::Target(":path must begin with a slash, or be * for OPTIONS"));
    }
    Ok(())
}

/// Whether a Host field names what `:authority` does, but for letter case and the scheme's port.
fn is_same(authority: &str, host: &HeaderValue, uri: &http::Uri) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let port = match uri.scheme_str() {
        Some("http") => ":80",
        Some("https") => ":443",
        Some(_) | None => "",
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// Serves a request that is no CONNECT.
pub(super) async fn serve(
    thread: &Rc<Thread>,
    stream: Rc<Stream>,
    request: Request<RecvStream>,
) -> Outcome {
    let is_head = *request.method() == Method::HEAD;
    let mut request = request.map(Source::from);
    join_cookies(request.headers_mut());
    let asker = Asker::Stream(Rc::clone(&stream));
    // Boxed, so that the answer does not keep the room for a dial.
    let answered = Box::pin(forward::serve(Rc::clone(thread), asker, request)).await;
    let Ok(response) = answered else { return Outcome::Left };
    deliver(thread, &stream, response, is_head).await
}

/// HTTP/2 may part a Cookie field, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut parts = fields.get_all(header::COOKIE).iter();
    if parts.next().is_none() || parts.next().is_none() {
        return;
    }
    let parts: Vec<&[u8]> =
        fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        fields.insert(header::COOKIE, joined);
    }
}

/// Sends an answer: its head, its body as the client takes it, its trailers.
pub(super) async fn deliver(
    thread: &Thread,
    stream: &Stream,
    response: Response<Body>,
    is_head: bool,
) -> Outcome {
    let idle_timeout = thread.upstream.idle_timeout();
    let (mut head, mut body) = response.into_parts();
    // Ours may say that the connection closes, which here is the stream's end and no more.
    head.headers.remove(header::CONNECTION);
    let end = is_head || body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !end) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let Some(mut sending) = stream.answer(Response::from_parts(head, ()), end) else {
        return Outcome::Left;
    };
    if end {
        return Outcome::Answered;
    }
    let mut trailers = None;
    loop {
        let next = poll_fn(|cx| match sending.poll_reset(cx) {
            // What is left of the body goes with it, and says that it was cut.
            Poll::Ready(_why) => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Some),
        });
        let Some(frame) = next.await else { return Outcome::Answered };
        let sent = match frame {
            None => match trailers.take() {
                Some(trailers) => sending.send_trailers(trailers).map(|()| true),
                None => sending.send_data(Bytes::new(), true).map(|()| true),
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer that broke off");
                return Outcome::Answered;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = body.is_end_stream();
                    match send(stream, &mut sending, data, end, idle_timeout).await {
                        Ok(true) => Ok(end),
                        Ok(false) => {
                            thread.cells.bounded(Bound::BodyIdle);
                            sending.send_reset(Reason::CANCEL);
                            return Outcome::Answered;
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(frame) => {
                    // They go when the end behind them has been seen: until then they may be cut.
                    let came = frame.into_trailers().unwrap_or_default();
                    let kept = came.iter().filter(|(name, _)| headers::may_trail(name));
                    let kept = kept.map(|(name, value)| (name.clone(), value.clone()));
                    trailers = Some(kept.collect::<HeaderMap>());
                    Ok(false)
                }
            },
        };
        match sent {
            Ok(true) => return Outcome::Answered,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "an answer that nobody took to its end");
                return Outcome::Answered;
            }
        }
    }
}

/// Sends bytes as the windows open; whether they all went before the client was silent too long.
async fn send(
    stream: &Stream,
    sending: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
    idle_timeout: Duration,
) -> Result<bool, h2::Error> {
    if data.is_empty() && end {
        return sending.send_data(data, true).map(|()| true);
    }
    while !data.is_empty() {
        let room =
            stream.unless_silent(idle_timeout, |cx| poll_room(sending, data.len(), cx)).await;
        let Some(room) = room else { return Ok(false) };
        let part = data.split_to(room?.min(data.len()));
        sending.send_data(part, end && data.is_empty())?;
        stream.pulse().beat();
    }
    Ok(true)
}

/// How many of `wanted` bytes may be sent now, at least one.
pub(super) fn poll_room(
    sending: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    loop {
        let room = sending.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        sending.reserve_capacity(wanted);
        match std::task::ready!(sending.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
}

/// Sends an answer of our own.
pub(super) fn refuse(stream: &Stream, answer: Answer) {
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    for (name, value) in answer.fields() {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, answer.body.len().into());
    if let Some(mut sending) = stream.answer(response, false)
        && let Err(error) = sending.send_data(answer.body.into(), true)
    {
        tracing::debug!(%error, "an answer that did not go out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_the_authority_but_for_case_and_the_schemes_port() {
        for (uri, host, same) in [
            ("http://a.test/", "a.test", true),
            ("http://a.test/", "A.test:80", true),
            ("http://a.test:80/", "a.test", true),
            ("https://a.test/", "a.test:443", true),
            ("https://a.test/", "a.test:80", false),
            ("http://a.test:8080/", "a.test", false),
            ("http://a.test/", "b.test", false),
            ("http://a.test/", "", false),
        ] {
            let uri: http::Uri = uri.parse().unwrap();
            let named = uri.authority().unwrap().as_str();
            let host = HeaderValue::from_str(host).unwrap();
            assert_eq!(is_same(named, &host, &uri), same, "{uri} {host:?}");
        }
    }

    #[test]
    fn a_cookie_in_parts_becomes_one() {
        let mut fields = HeaderMap::new();
        for part in ["a=1", "b=2; c=3", "d=4"] {
            fields.append(header::COOKIE, HeaderValue::from_static(part));
        }
        fields.append("other", HeaderValue::from_static("x"));
        join_cookies(&mut fields);
        let all: Vec<_> = fields.get_all(header::COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3; d=4"]);
        assert_eq!(fields.len(), 2);
    }
}
