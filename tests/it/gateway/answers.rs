//! What an API answers comes to the client as it was sent: status, fields and bytes. The defects of
//! the seed that these tests would catch are named beside them.

use narrows::policy::api::Forwarded;
use narrows::policy::api::Gateway;

use super::Served;
use super::api;
use super::with;
use crate::support::End;
use crate::support::Origin;
use crate::support::Response;

/// What a client gets by the gateway of an origin that answers with these bytes.
async fn passed(method: &str, answer: impl Into<Vec<u8>>) -> (Served, Response) {
    let answer = answer.into();
    let origin = Origin::raw(move |mut connection| {
        let answer = answer.clone();
        async move {
            while let Ok(Some(_)) = connection.head().await {
                connection.send(&answer).await.unwrap();
            }
        }
    });
    let gateway = Gateway { forward_headers: Forwarded::All, ..Gateway::default() };
    let served = Served::new([with(&origin, gateway)]);
    let got = served.request(method, "/api/a/x", &["Accept-Encoding: gzip"]).await;
    // The connection to the origin is still good: a second request gets the same.
    let again = served.request(method, "/api/a/x", &[]).await;
    assert_eq!(format!("{got:?}"), format!("{again:?}"));
    (served, got)
}

fn ok(fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nX-Origin: y\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

///
#[tokio::test]
async fn no_field_of_an_answer_is_lost() {
    let fields = "ETag: \"abc\"\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n\
                  Cache-Control: no-store\r\nLast-Modified: Sat, 31 Jan 2026 12:00:00 GMT\r\n\
                  Vary: Accept\r\nX-Odd: \u{7e}  x\r\nContent-Type: application/json\r\n";
    let (_served, got) = passed("GET", ok(fields, b"{}")).await;
    for line in fields.trim_end().split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(got.head.all(name).contains(&value), "{line}: {got:?}");
    }
    assert_eq!(got.head.fields.len(), 8 + 3, "and X-Origin, Content-Length, Via alone: {got:?}");
}

///
#[tokio::test]
async fn a_redirect_is_not_followed_and_keeps_its_location() {
    for (status, location) in [
        ("302 Found", "https://elsewhere.test/a%2Fb?x=1"),
        ("301 Moved Permanently", "/relative"),
        ("307 Temporary Redirect", "http://127.0.0.1:1/"),
    ] {
        let head =
            format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let (_served, got) = passed("GET", head).await;
        assert_eq!(got.head.field("location"), Some(location));
        assert_eq!(format!("{} {}", got.status(), got.head.reason()), status);
        assert_eq!(got.body, b"");
    }
}

///
#[tokio::test]
async fn the_bytes_of_an_answer_are_those_that_the_origin_sent() {
    let json = "application/json";
    let gzip = &b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0"[..];
    for (kind, coding, body) in [
        (json, "", &b"{\"n\":9007199254740993,\"b\":12345678901234567890}"[..]),
        (json, "", b"{\"e\":[],\"o\":{},\"s\":\"a/b \\/ \\u00e9\",\"f\":0.0,\"x\":1e2}"),
        (json, "", b" [ 1 ,\n2 ]\n"),
        (json, "", b"{\"b\":1,\"a\":2,\"b\":3}"),
        (json, "", b"{broken"),
        ("text/plain; charset=latin1", "", b"\xff\xfe\0 not UTF-8"),
        ("application/octet-stream", "", b""),
        (json, "Content-Encoding: gzip\r\n", gzip),
        (json, "Content-Encoding: br\r\n", b"\x0b\x02\x80{}\x03"),
    ] {
        let fields = format!("Content-Type: {kind}\r\n{coding}");
        let (_served, got) = passed("GET", ok(&fields, body)).await;
        assert_eq!(got.body, body, "{kind}");
        assert_eq!(got.head.field("content-type"), Some(kind));
        assert_eq!(got.head.field("content-length"), Some(&*body.len().to_string()));
        assert_eq!(got.head.all("content-encoding").len(), usize::from(!coding.is_empty()));
    }
}

///
#[tokio::test]
async fn answers_without_a_body_stay_so() {
    let (_served, got) = passed("DELETE", "HTTP/1.1 204 No Content\r\nX-Origin: y\r\n\r\n").await;
    assert_eq!((got.status(), got.body.len()), (204, 0));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n";
    let (_served, got) = passed("HEAD", head).await;
    assert_eq!((got.status(), got.head.field("content-length")), (200, Some("25")));
    let head = "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nX-Origin: y\r\n\r\n";
    let (_served, got) = passed("GET", head).await;
    assert_eq!((got.status(), got.head.field("etag")), (304, Some("\"x\"")));
}

#[tokio::test]
async fn every_status_of_an_api_is_passed_on_with_its_body_and_reason() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    for status in [200, 201, 400, 401, 404, 418, 429, 500, 502, 503, 504] {
        let answer = served.get(&format!("/api/a/status/{status}")).await;
        assert_eq!((answer.status(), answer.head.reason()), (status, "Told So"));
        assert_eq!(answer.text(), format!("status {status}"));
    }
    assert_eq!(origin.hits(), 11, "nothing is tried again by itself");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_and_not_mended() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    for path in ["/api/a/truncate", "/api/a/truncate-chunked"] {
        let mut client = served.client().await;
        client.send_request("GET", path, &[]).await;
        // A reset may overtake the head, which is as clear.
        assert_eq!(client.end().await, End::Reset, "{path}");
    }
    served.get("/api/a/die").await.assert_refused(502, "connection_terminated");
}
