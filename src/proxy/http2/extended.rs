//! Extended CONNECT (RFC 8441): a WebSocket on a stream, by an Upgrade of HTTP/1.1 upstream.
//!
//! The key that HTTP/1.1 wants (RFC 6455 §4.1) is made here, and the upstream's answer to it is
//! judged here; the client sees neither. An upstream that does not switch ends in a reset, since
//! any 2xx would be taken for a WebSocket.

use std::rc::Rc;

use aws_lc_rs::digest;
use aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
use h2::RecvStream;
use h2::ext::Protocol;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;

use super::Outcome;
use super::Stream;
use super::request;
use super::tunnel::StreamSide;
use crate::policy::access::Given;
use crate::proxy::Thread;
use crate::proxy::asker::Asker;
use crate::proxy::forward;
use crate::proxy::front;
use crate::proxy::head::Flaw;
use crate::proxy::reject::Reject;
use crate::proxy::relay;
use crate::proxy::tunnel;
use crate::proxy::tunnel::Line;
use crate::upstream::source::Source;

/// What the upstream must have added to the key before it hashed it (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Serves an extended CONNECT, to the end of its WebSocket or of its refusal.
pub(super) async fn serve(
    thread: &Rc<Thread>,
    stream: Rc<Stream>,
    request: Request<RecvStream>,
    protocol: &Protocol,
) -> Outcome {
    if protocol.as_str() != "websocket" {
        return refuse(thread, &stream, &request).await;
    }
    let (mut head, receiving) = request.into_parts();
    let key = base64(&fastrand::u128(..).to_be_bytes());
    let Ok(key_value) = HeaderValue::try_from(key.as_str()) else { return Outcome::Left };
    head.method = Method::GET;
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    head.headers.insert(header::SEC_WEBSOCKET_KEY, key_value);
    head.headers
        .entry(header::SEC_WEBSOCKET_VERSION)
        .or_insert(const { HeaderValue::from_static("13") });
    let upgrade = Request::from_parts(head, Source::Empty);
    let asker = Asker::Stream(Rc::clone(&stream));
    let answered = Box::pin(forward::serve(Rc::clone(thread), asker, upgrade)).await;
    let Ok(response) = answered else { return Outcome::Left };
    let Some((upstream, early)) = stream.take_switched() else {
        if response.status().is_success() {
            stream.cut();
            return Outcome::Answered;
        }
        return request::deliver(thread, &stream, response, false).await;
    };
    let (switched, body) = response.into_parts();
    drop(body);
    let accept = switched.headers.get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| *accept != accept_of(&key)) {
        stream.cut();
        return Outcome::Answered;
    }
    let mut opened = Response::new(());
    *opened.status_mut() = StatusCode::OK;
    *opened.headers_mut() = switched.headers;
    for gone in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        opened.headers_mut().remove(gone);
    }
    let Some(sending) = stream.answer(opened, false) else { return Outcome::Left };
    let near = StreamSide::new(&stream, receiving, sending);
    let moved = relay::relay_near(near, upstream, &early, stream.pulse(), thread).await;
    tunnel::count(thread, &moved);
    Outcome::Answered
}

/// Refuses a protocol that nobody here speaks; who may not ask at all is told that, and no more.
async fn refuse(thread: &Thread, stream: &Rc<Stream>, request: &Request<RecvStream>) -> Outcome {
    let asker = Asker::Stream(Rc::clone(stream));
    let mut line = Line::begin(thread, asker.peer(), request.uri().to_string());
    let admitted = front::admit(thread, &asker, || Given::of(request.headers())).await;
    let reject = match admitted {
        Some(Ok(identity)) => {
            line.asked_by(&identity);
            Reject::Flaw(Flaw::Protocol)
        }
        Some(Err(reject)) => reject,
        None => {
            line.end(thread, 0, None, (0, 0), "client left");
            return Outcome::Left;
        }
    };
    super::tunnel::refuse(thread, stream, reject, line)
}

/// What an upstream that speaks WebSocket makes of a key (RFC 6455 §4.2.2).
fn accept_of(key: &str) -> String {
    let hashed = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    base64(hashed.as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize] as char;
            text.push(if at <= group.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_is_accepted_as_the_standard_says() {
        // RFC 6455 §1.3
        assert_eq!(base64(b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
