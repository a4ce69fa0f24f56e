//! Sockets of the web over HTTP/2 (RFC 8441): an Upgrade of HTTP/1.1 upstream, which the client never sees.

use aws_lc_rs::digest;
use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::SendStream;
use http::HeaderValue;

use crate::support::Answer;
use crate::support::Http2;
use crate::support::Origin;
use crate::support::Proxy;
use crate::support::Tunnel;
use crate::support::narrows;
use crate::support::soon;

/// An origin that answers each upgrade so; `accept` is what it says to the key.
fn origin(status: &'static str, accept: fn(&str) -> String) -> Origin {
    Origin::raw(move |mut connection| async move {
        let head = connection.head().await.unwrap().unwrap();
        assert_eq!((head.method(), head.target()), ("GET", "/chat?x=1"));
        assert_eq!(head.list("connection"), ["upgrade"]);
        assert_eq!(head.field("upgrade"), Some("websocket"));
        assert_eq!(head.field("sec-websocket-version"), Some("13"));
        assert_eq!(head.field("sec-websocket-protocol"), Some("chat"));
        let accept = accept(head.field("sec-websocket-key").unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let answer = if status.starts_with("101") {
            answer.replace("Content-Length: 0\r\n", "")
        } else {
            answer
        };
        connection.send(answer + "first").await.unwrap();
        loop {
            let bytes = connection.some().await.unwrap();
            if bytes.is_empty() {
                return;
            }
            connection.send(bytes).await.unwrap();
        }
    })
}

/// What RFC 6455 §4.2.2 makes of a key.
pub(crate) fn right(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hashed = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits: Vec<String> = hashed.as_ref().iter().map(|byte| format!("{byte:08b}")).collect();
    bits.push("00".to_owned());
    let bits = bits.concat();
    let sextets = bits.as_bytes().chunks(6).map(|six| std::str::from_utf8(six).unwrap());
    let letter = |six| letters[usize::from_str_radix(six, 2).unwrap()] as char;
    sextets.map(letter).chain(['=']).collect()
}

/// A client, and what became of its extended CONNECT.
async fn ask(
    proxy: &Proxy,
    origin: &Origin,
    protocol: &'static str,
) -> (Http2, SendStream<Bytes>, Result<http::Response<RecvStream>, h2::Error>) {
    let mut client = Http2::to(proxy.address).await;
    let mut request = client.extended(&origin.url("/chat?x=1"), protocol).await;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    let (answer, sending) = client.begin(request, false).await;
    let answer = soon("an answer", answer).await;
    (client, sending, answer)
}

#[tokio::test]
async fn a_websocket_is_opened_by_an_upgrade_and_carries_bytes_both_ways() {
    let (origin, proxy) = (origin("101 Switching Protocols", right), narrows().start().await);
    let (_client, sending, answer) = ask(&proxy, &origin, "websocket").await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    let mut socket = Tunnel::new(sending, answer.into_body());
    assert_eq!(socket.exactly(5).await, b"first");
    socket.echo("through").await;
    assert_eq!(proxy.open(&origin.authority()).await, 1);
    socket.finish();
    assert_eq!(socket.rest().await.unwrap(), b"");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_origin_that_does_not_switch_as_it_must_is_no_websocket() {
    let wrong: fn(&str) -> String = |_| "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
    for (status, accept) in [("101 Switching Protocols", wrong), ("200 OK", right)] {
        let (origin, proxy) = (origin(status, accept), narrows().start().await);
        let (_client, _sending, answer) = ask(&proxy, &origin, "websocket").await;
        let error = answer.expect_err("no answer that could pass for a WebSocket");
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{status}");
        proxy.wait_until_open(&origin.authority(), 0).await;
    }
    let (origin, proxy) = (origin("403 Forbidden", right), narrows().start().await);
    let (_client, _sending, answer) = ask(&proxy, &origin, "websocket").await;
    assert_eq!(answer.unwrap().status(), 403);
}

#[tokio::test]
async fn a_protocol_that_nobody_speaks_is_501() {
    let (origin, proxy) = (Origin::echo(), narrows().start().await);
    let (_client, _sending, answer) = ask(&proxy, &origin, "connect-udp").await;
    Answer::of(answer.unwrap()).await.unwrap().assert_refused(501, "http_request_error");
    assert_eq!(origin.accepted(), 0);
}
