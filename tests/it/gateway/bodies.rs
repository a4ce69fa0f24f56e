//! Bodies by the gateway: what an API wants of them, and that none changes on the way.

use bytes::Bytes;
use http::Request;
use narrows::policy::api::Gateway;
use tokio::sync::mpsc;

use super::Served;
use super::api;
use super::with;
use crate::support::Answer;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::http2::send;
use crate::support::pattern;
use crate::support::soon;

const JSON: &str = "Content-Type: application/json";

fn wanting(origin: &Origin, requires_body: bool, validate_json: Option<u64>) -> Served {
    let gateway = Gateway { requires_body, validate_json, ..Gateway::default() };
    Served::new([with(origin, gateway)])
}

#[tokio::test]
async fn a_body_that_an_api_wants_is_asked_for_without_a_hit() {
    let origin = Origin::start();
    let served = wanting(&origin, true, None);
    for fields in [&[][..], &["Content-Length: 0"]] {
        let answer = served.request("POST", "/api/a/x", fields).await;
        answer.assert_refused(400, "http_request_error");
        assert_eq!(answer.json()["detail"], "Request body is required");
    }
    let mut client = served.client().await;
    client.send_request("POST", "/api/a/x", &["Transfer-Encoding: chunked"]).await;
    client.send("0\r\n\r\n").await;
    client.response("POST").await.assert_refused(400, "http_request_error");
    let post = || Request::post(served.url("/api/a/x")).body(()).unwrap();
    let mut http2 = served.http2().await;
    http2.request(post(), b"").await.assert_refused(400, "http_request_error");
    let (answer, mut sending) = http2.begin(post(), false).await;
    sending.send_data(Bytes::new(), true).unwrap();
    Answer::read(answer).await.unwrap().assert_refused(400, "http_request_error");
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn a_body_that_an_api_wants_arrives_as_it_came() {
    let origin = Origin::start();
    let served = wanting(&origin, true, None);
    assert_eq!(served.post("/api/a/x", &[], b"{bad").await.status(), 200, "not looked at");
    let mut client = served.client().await;
    client
        .send_request("POST", "/api/a/x", &["Transfer-Encoding: chunked", "Trailer: X-Sum"])
        .await;
    client.send("3\r\nabc\r\n").await;
    client.send("2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n").await;
    assert_eq!(client.response("POST").await.status(), 200);
    let body = pattern(3 * MIB);
    let post = Request::post(served.url("/api/a/x")).body(()).unwrap();
    assert_eq!(served.http2().await.request(post, &body).await.status, 200);
    let seen = origin.seen();
    assert_eq!(seen[0].body, b"{bad");
    assert_eq!((&*seen[1].body, seen[1].trailers.len()), (&b"abcde"[..], 1));
    assert_eq!(seen[1].head.field("transfer-encoding"), Some("chunked"));
    assert!(seen[2].body == body);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused_and_told_where() {
    let origin = Origin::start();
    let served = wanting(&origin, false, Some(1000));
    for kind in [JSON, "Content-Type: application/vnd.x+json; charset=utf-8"] {
        for (body, place) in [
            ("{bad", "line 1 column 2"),
            ("{\"a\":\n[1,]}", "line 2 column 4"),
            ("{} x", "column 4"),
        ] {
            let answer = served.post("/api/a/x", &[kind], body.as_bytes()).await;
            answer.assert_refused(400, "http_request_error");
            let told = answer.json()["detail"].to_string();
            assert!(told.contains("Invalid JSON") && told.contains(place), "{body}: {told}");
        }
    }
    let post = Request::post(served.url("/api/a/x")).header("content-type", "application/json");
    let answer = served.http2().await.request(post.body(()).unwrap(), b"{bad").await;
    answer.assert_refused(400, "http_request_error");
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn json_that_was_looked_at_arrives_byte_by_byte() {
    let origin = Origin::start();
    let served = wanting(&origin, true, Some(1000));
    let text = " {\"n\": 9007199254740993, \"b\":12345678901234567890,\"e\":[ ],\"s\":\"a\\/b\",\"f\":0.0}\n";
    assert_eq!(served.post("/api/a/x", &[JSON], text.as_bytes()).await.status(), 200);
    let mut client = served.client().await;
    client.send_request("POST", "/api/a/x", &["Transfer-Encoding: chunked", JSON]).await;
    let (one, two) = text.split_at(10);
    client.send(format!("{:x}\r\n{one}\r\n", one.len())).await;
    client.send(format!("{:x}\r\n{two}\r\n0\r\n\r\n", two.len())).await;
    assert_eq!(client.response("POST").await.status(), 200);
    let post = Request::post(served.url("/api/a/x")).header("content-type", "application/json");
    let answer = served.http2().await.request(post.body(()).unwrap(), text.as_bytes()).await;
    assert_eq!(answer.status, 200);
    // What is not JSON, or says so of what is coded, is not looked at.
    let plain = served.post("/api/a/x", &["Content-Type: text/plain"], b"{bad").await;
    let coded = served.post("/api/a/x", &[JSON, "Content-Encoding: gzip"], b"\x1f\x8b").await;
    assert_eq!((plain.status(), coded.status()), (200, 200));
    let seen = origin.seen();
    for request in &seen[..3] {
        assert_eq!(String::from_utf8_lossy(&request.body), text);
    }
    assert_eq!(
        (seen[3].body.as_slice(), seen[4].body.as_slice()),
        (&b"{bad"[..], &b"\x1f\x8b"[..])
    );
}

#[tokio::test]
async fn json_beyond_the_bound_is_413_whether_or_not_its_length_was_told() {
    let origin = Origin::start();
    let served = wanting(&origin, false, Some(100));
    let text = format!("\"{}\"", "x".repeat(99));
    assert_eq!(served.post("/api/a/x", &[JSON], &text.as_bytes()[1..]).await.status(), 400, "100");
    let long = served.post("/api/a/x", &[JSON], text.as_bytes()).await;
    long.assert_refused(413, "http_request_error");
    let mut client = served.client().await;
    client.send_request("POST", "/api/a/x", &["Transfer-Encoding: chunked", JSON]).await;
    client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
    client.response("POST").await.assert_refused(413, "http_request_error");
    let post = Request::post(served.url("/api/a/x")).header("content-type", "application/json");
    let (answer, mut sending) = served.http2().await.begin(post.body(()).unwrap(), false).await;
    send(&mut sending, text.as_bytes()).await.unwrap();
    Answer::read(answer).await.unwrap().assert_refused(413, "http_request_error");
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn who_waits_for_a_100_is_told_to_send_what_must_be_looked_at() {
    let origin = Origin::start();
    let served = wanting(&origin, false, Some(1000));
    for (body, status) in [("{}", 200), ("{b", 400)] {
        let mut client = served.client().await;
        let fields = ["Expect: 100-continue", "Content-Length: 2", JSON];
        client.send_request("POST", "/api/a/x", &fields).await;
        assert_eq!(client.head().await.status(), 100);
        client.send(body).await;
        assert_eq!(client.response("POST").await.status(), status);
    }
    assert_eq!(origin.only().head.field("expect"), None, "met already");
}

#[tokio::test]
async fn a_client_that_leaves_or_falls_silent_in_a_body_reaches_nobody() {
    let origin = Origin::start();
    let gateway = Gateway { validate_json: Some(1000), ..Gateway::default() };
    let served = Served::with([with(&origin, gateway)], |config| {
        config.upstream.idle_timeout = std::time::Duration::from_millis(200);
    });
    let fields = ["Content-Length: 10", JSON];
    let mut silent = served.client().await;
    silent.send_request("POST", "/api/a/x", &fields).await;
    silent.send("{").await;
    silent.response("POST").await.assert_refused(408, "http_request_error");
    silent.end().await;
    let mut leaving = served.client().await;
    leaving.send_request("POST", "/api/a/x", &fields).await;
    leaving.send("{").await;
    leaving.finish().await;
    leaving.end().await;
    assert_eq!(origin.accepted(), 0);
}

#[tokio::test]
async fn bodies_of_20_mb_cross_both_ways_byte_by_byte() {
    let origin = Origin::start();
    let served = Served::new([api(&origin, "")]);
    let body = pattern(20 * MIB);
    let mut client = served.client().await;
    let length = format!("Content-Length: {}", body.len());
    client.send_request("POST", "/api/a/x", &[&length]).await;
    client.send(&body).await;
    assert_eq!(client.response("POST").await.status(), 200);
    assert!(origin.only().body == body, "not as sent");
    let answer = client.get(format!("/api/a/size?n={}", body.len())).await;
    assert!(answer.body == body, "{} bytes, not as sent", answer.body.len());
    let answer = client.get(format!("/api/a/chunked?n={}", body.len())).await;
    assert!(answer.body == body, "{} bytes, not as sent", answer.body.len());
}

/// Defect A-22 of the seed.
#[tokio::test]
async fn bodies_beyond_any_buffer_arrive_whole_where_one_is_wanted() {
    let origin = Origin::start();
    let served = wanting(&origin, true, Some(MIB as u64));
    let json = |length: usize| format!("\"{}\"", "x".repeat(length)).into_bytes();
    for length in [20 * 1024, MIB - 2] {
        let body = json(length);
        assert_eq!(served.post("/api/a/echo", &[JSON], &body).await.body, body);
    }
    let body = pattern(2 * MIB);
    assert!(served.post("/api/a/echo", &[], &body).await.body == body);
}

#[tokio::test]
async fn each_event_of_a_stream_comes_when_it_is_sent() {
    let (said, told) = mpsc::channel::<()>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let origin = Origin::raw(move |mut connection| {
        let told = std::sync::Arc::clone(&told);
        async move {
            connection.head().await.unwrap().unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
            connection.send(head).await.unwrap();
            for event in ["data: 1\n\n", "data: 2\n\n"] {
                connection.send(format!("{:x}\r\n{event}\r\n", event.len())).await.unwrap();
                told.lock().await.recv().await.unwrap();
            }
            connection.send("0\r\n\r\n").await.unwrap();
        }
    });
    let served = Served::new([api(&origin, "")]);
    let mut client = served.client().await;
    client.send_request("GET", "/api/a/events", &[]).await;
    let head = client.head().await;
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        // The origin sends no more before it is told that this has come.
        assert_eq!(client.chunk().await, event.as_bytes());
        soon("the origin", said.send(())).await.unwrap();
    }
    assert_eq!(client.chunk().await, b"");
}
