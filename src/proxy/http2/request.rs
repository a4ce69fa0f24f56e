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
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::header;
use http_body::Body as _;
use thiserror::Error;

use super::Outcome;
use super::Stream;
use crate::proxy::Thread;
use crate::proxy::asker::Asker;
use crate::proxy::forward;
use crate::proxy::forward::Body;
use crate::proxy::head::MAX_FIELDS;
use crate::proxy::head::MAX_HEAD;
use crate::proxy::headers;
use crate::proxy::reject::Answer;
use crate::telemetry::metrics::Bound;
use crate::upstream::source::Source;

/// What is wrong with a request, where the crate has not reset its stream for it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    /// A Host that says something else than `:authority` (RFC 9113 §8.3.1), or two of them.
    #[error("the Host field and :authority name different hosts")]
    Host,
    /// A Content-Length that is no number, or repeated.
    #[error("Content-Length must be one decimal number")]
    Length,
    /// A path that does not begin with a slash (RFC 9113 §8.3.1).
    #[error(":path must begin with a slash, or be * for OPTIONS")]
    Path,
    /// More or longer fields than a request may have.
    #[error("the request's fields are longer than 65536 bytes or more than 100")]
    TooLarge,
}

impl Fault {
    /// The status that says so.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Host | Self::Length | Self::Path => 400,
            Self::TooLarge => 431,
        }
    }
}

/// Judges a request of HTTP/2 before it is made one of HTTP/1.1 (RFC 9113 §8.2, §8.3, §10.3).
///
/// The crate has refused what is malformed by itself: connection-specific fields, pseudo-fields
/// that are missing, unknown or repeated, names in upper case, and bytes that no field may hold.
pub(crate) fn check<B>(thread: &Thread, request: &Request<B>) -> Result<(), Fault> {
    let (fields, uri) = (request.headers(), request.uri());
    // RFC 9113 §6.5.2: each field counts 32 bytes more than it has.
    let field =
        |(name, value): (&header::HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    let size = target + fields.iter().map(field).sum::<usize>();
    if fields.len() > MAX_FIELDS || size > MAX_HEAD {
        thread.cells.bounded(Bound::HeadSize);
        return Err(Fault::TooLarge);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let sound = (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        if !sound || lengths.next().is_some() {
            return Err(Fault::Length);
        }
    }
    let mut hosts = fields.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        let is_other = uri.authority().is_some_and(|named| !is_same(named.as_str(), host, uri));
        if is_other || hosts.next().is_some() {
            return Err(Fault::Host);
        }
    }
    let starred = uri.path() == "*" && *request.method() == Method::OPTIONS;
    if *request.method() != Method::CONNECT && !uri.path().starts_with('/') && !starred {
        return Err(Fault::Path);
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
    deliver(&stream, response, is_head, thread.upstream.idle_timeout()).await
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
async fn deliver(
    stream: &Stream,
    response: Response<Body>,
    is_head: bool,
    idle_timeout: Duration,
) -> Outcome {
    let (mut head, mut body) = response.into_parts();
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
    loop {
        let next = poll_fn(|cx| match sending.poll_reset(cx) {
            // What is left of the body goes with it, and says that it was cut.
            Poll::Ready(_why) => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Some),
        });
        let Some(frame) = next.await else { return Outcome::Answered };
        let sent = match frame {
            None => sending.send_data(Bytes::new(), true).map(|()| true),
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
                            sending.send_reset(Reason::CANCEL);
                            return Outcome::Answered;
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    headers::strip(&mut trailers);
                    sending.send_trailers(trailers).map(|()| true)
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
