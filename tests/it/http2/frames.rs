//! HTTP/2 as single frames, for what no client library would send: each malformed request costs its
//! stream and no more (RFC 9113 §8.1.1).

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::Origin;
use crate::support::narrows;
use crate::support::soon;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset or of a GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A connection on which the test writes each frame itself.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) stream: TcpStream,
}

impl Frames {
    /// After the preface and an empty SETTINGS.
    pub(super) async fn open(address: SocketAddr) -> Frames {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let mut frames = Frames { stream };
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// A whole list of fields, each a literal without indexing (RFC 7541 §6.2.2).
    pub(super) async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127, "one byte of length");
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block).await;
    }

    /// The next frame of this kind, whatever comes before it; none at the end.
    pub(super) async fn next(&mut self, kind: u8) -> Option<Frame> {
        self.next_of(&[kind]).await
    }

    /// The next frame of one of these kinds.
    pub(super) async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            soon("a frame", self.stream.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            soon("its payload", self.stream.read_exact(&mut payload)).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            if kinds.contains(&head[3]) {
                return Some(Frame { kind: head[3], stream, payload });
            }
        }
    }
}

#[tokio::test]
async fn a_malformed_request_is_reset_and_the_connection_goes_on() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let to = origin.authority();
    let mut frames = Frames::open(proxy.address).await;
    let get = |more: &[(&'static str, &'static str)]| {
        let mut fields = vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", to.as_str()),
            (":path", "/"),
        ];
        fields.extend(more);
        fields
    };
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("no method", vec![(":scheme", "http"), (":authority", &to), (":path", "/")]),
        ("no scheme", vec![(":method", "GET"), (":authority", &to), (":path", "/")]),
        ("an unknown pseudo-field", get(&[(":other", "x")])),
        ("a pseudo-field behind a field", {
            let mut fields = get(&[]);
            fields.insert(0, ("accept", "x"));
            fields
        }),
        ("a status", get(&[(":status", "200")])),
        ("Connection", get(&[("connection", "close")])),
        ("Keep-Alive", get(&[("keep-alive", "timeout=5")])),
        ("Proxy-Connection", get(&[("proxy-connection", "x")])),
        ("Transfer-Encoding", get(&[("transfer-encoding", "chunked")])),
        ("Upgrade", get(&[("upgrade", "websocket")])),
        ("TE other than trailers", get(&[("te", "gzip")])),
        ("upper case", get(&[("X-Upper", "x")])),
        ("a line end in a value", get(&[("x", "a\r\nb: c")])),
        ("NUL in a value", get(&[("x", "a\0b")])),
        ("a length that is none", get(&[("content-length", "x")])),
        ("lengths that differ", get(&[("content-length", "0"), ("content-length", "1")])),
        ("a length without a body", get(&[("content-length", "5")])),
        ("a signed length", get(&[("content-length", "+0")])),
        (
            "CONNECT with a path",
            vec![(":method", "CONNECT"), (":authority", &to), (":scheme", "http"), (":path", "/")],
        ),
    ];
    let (mut stream, mut closed) = (1, Vec::new());
    for (what, fields) in &cases {
        frames.headers(stream, fields, true).await;
        let end = frames.next_of(&[RST_STREAM, GOAWAY, DATA]).await.unwrap();
        assert_ne!(end.kind, DATA, "answered: {what}");
        assert_eq!(end.code(), 1, "PROTOCOL_ERROR: {what}");
        if end.kind == GOAWAY {
            closed.push(*what);
            (frames, stream) = (Frames::open(proxy.address).await, 1);
        } else {
            assert_eq!(end.stream, stream, "{what}");
            stream += 2;
        }
    }
    assert_eq!(origin.hits(), 0);
    // RFC 9113 §5.4.1 lets a stream error cost the connection; these are found while unpacking.
    let costly =
        ["an unknown pseudo-field", "upper case", "a line end in a value", "NUL in a value"];
    assert_eq!(closed, costly);
    frames.headers(stream, &get(&[]), true).await;
    assert_eq!(frames.next(DATA).await.unwrap().payload, b"/");
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn what_the_frames_allow_but_a_request_must_not_say_is_400() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let to = origin.authority();
    let mut frames = Frames::open(proxy.address).await;
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("GET", &[(":path", "*")]),
        ("GET", &[(":path", "/"), ("content-length", "0"), ("content-length", "0")]),
        ("GET", &[(":path", "/"), ("host", "a.test"), ("host", "a.test")]),
        ("CONNECT", &[("content-length", "0")]),
    ];
    let mut stream = 1;
    for (method, more) in cases {
        let mut fields = vec![(":method", method), (":authority", to.as_str())];
        if method == "GET" {
            fields.push((":scheme", "http"));
        }
        fields.extend(more);
        frames.headers(stream, &fields, true).await;
        let body = frames.next(DATA).await.unwrap_or_else(|| panic!("closed: {more:?}"));
        assert_eq!(body.stream, stream);
        let problem: serde_json::Value = serde_json::from_slice(&body.payload).unwrap();
        assert_eq!(problem["status"], 400, "{more:?}: {problem}");
        stream += 2;
    }
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_reset_and_never_whole_at_the_origin() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let to = origin.authority();
    let mut frames = Frames::open(proxy.address).await;
    for (stream, body) in [(1, "123"), (3, "1234567")] {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", to.as_str()),
            (":path", "/echo"),
            ("content-length", "5"),
        ];
        frames.headers(stream, &fields, false).await;
        frames.send(DATA, END_STREAM, stream, body.as_bytes()).await;
        let reset = frames.next(RST_STREAM).await.unwrap();
        assert_eq!((reset.stream, reset.code()), (stream, 1), "PROTOCOL_ERROR: {body}");
    }
    proxy.wait_until_open(&to, 0).await;
    assert!(origin.seen().iter().all(|seen| seen.body.is_empty()), "{:?}", origin.seen());
}
