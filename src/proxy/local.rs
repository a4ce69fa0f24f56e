//! Requests that end here and are no mistake: what the proxy is asked itself, and what may be
//! forwarded no further (RFC 9110 §7.6.2).

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::header;

use crate::policy::access::keys::X_API_KEY;

/// How many hops a request may still make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwards {
    /// So many, this one taken off.
    Left(u32),
    /// None: it is answered here.
    Over,
    /// As many as it likes.
    Unlimited,
}

/// What Max-Forwards says, which counts for OPTIONS and TRACE alone; an error if it is no number.
pub(crate) fn forwards(method: &Method, headers: &HeaderMap) -> Result<Forwards, ()> {
    if !matches!(*method, Method::OPTIONS | Method::TRACE) {
        return Ok(Forwards::Unlimited);
    }
    let mut values = headers.get_all(header::MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Ok(Forwards::Unlimited) };
    let digits = value.as_bytes();
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    // A number beyond ours is as good as the largest of ours.
    let number = value.to_str().ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(u32::MAX);
    Ok(number.checked_sub(1).map_or(Forwards::Over, Forwards::Left))
}

/// The answer to a request that is meant for the proxy itself, if there is one.
pub(crate) fn asked<B>(request: &Request<B>) -> Option<Response<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") => {
            Some(answer("application/json", Bytes::from_static(b"{\"status\":\"ok\"}")))
        }
        (&Method::OPTIONS, "*") => Some(Response::new(Bytes::new())),
        _ => None,
    }
}

/// The answer to an OPTIONS or a TRACE that goes no further.
pub(crate) fn last<B>(request: &Request<B>) -> Response<Bytes> {
    if request.method() == Method::TRACE {
        answer("message/http", echo(request))
    } else {
        Response::new(Bytes::new())
    }
}

fn answer(content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The request as it came, less what a script in a browser must not learn (RFC 9110 §9.3.8).
fn echo<B>(request: &Request<B>) -> Bytes {
    let secret =
        [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, X_API_KEY.clone()];
    let line = format!("{} {} {:?}\r\n", request.method(), request.uri(), request.version());
    let mut text = line.into_bytes();
    for (name, value) in request.headers() {
        if !secret.contains(name) {
            super::headers::write(name, value, &mut text);
        }
    }
    text.extend_from_slice(b"\r\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_number_limits_how_far_an_options_or_a_trace_goes() {
        for (value, wanted) in [
            ("0", Ok(Forwards::Over)),
            ("1", Ok(Forwards::Left(0))),
            ("010", Ok(Forwards::Left(9))),
            ("99999999999999999999", Ok(Forwards::Left(u32::MAX - 1))),
            ("", Err(())),
            ("-1", Err(())),
            ("+1", Err(())),
            ("1, 1", Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::MAX_FORWARDS, HeaderValue::from_static(value));
            assert_eq!(forwards(&Method::TRACE, &headers), wanted, "{value}");
            assert_eq!(forwards(&Method::GET, &headers), Ok(Forwards::Unlimited), "{value}");
            headers.append(header::MAX_FORWARDS, HeaderValue::from_static("1"));
            assert_eq!(forwards(&Method::OPTIONS, &headers), Err(()), "{value} twice");
        }
        assert_eq!(forwards(&Method::TRACE, &HeaderMap::new()), Ok(Forwards::Unlimited));
    }
}
