//! Plain requests over HTTP/2 reach an HTTP/1.1 origin as they were meant, and its answers come back.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http::Request;
use serde_json::Value;
use tokio::process::Command;

use crate::support::Answer;
use crate::support::Closed;
use crate::support::Http2;
use crate::support::MIB;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::pattern;
use crate::support::soon;
use crate::support::wait_until;

#[tokio::test]
async fn a_get_goes_on_as_http_1_1_and_both_ways_say_so_in_via() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--via narrows").start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/x?y=1")).header("x-kept", "1").body(()).unwrap();
    let answer = client.request(request, b"").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"/x?y=1"[..]));
    assert_eq!(answer.field("via"), Some("1.1 narrows"));
    let seen = origin.only();
    assert_eq!(seen.head.start, "GET /x?y=1 HTTP/1.1");
    assert_eq!(seen.head.field("host"), Some(origin.authority().as_str()));
    assert_eq!(seen.head.field("via"), Some("2.0 narrows"));
    assert_eq!(seen.head.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn bodies_arrive_whole_both_ways_with_a_length_and_without() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let body = pattern(3 * MIB);
    for length in [Some(body.len()), None] {
        let mut request = Request::post(origin.url("/echo"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let answer = client.request(request.body(()).unwrap(), &body).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{} bytes came back, not as sent", answer.body.len());
    }
    let seen = origin.seen();
    assert_eq!(seen[0].head.field("content-length"), Some((3 * MIB).to_string().as_str()));
    assert_eq!(seen[1].head.field("transfer-encoding"), Some("chunked"));
    let answer = client.get(&origin.url("/chunked?n=100000")).await;
    assert!(answer.body == pattern(100_000));
    // HTTP/2 has no transfer codings (RFC 9113 §8.2.2).
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[tokio::test]
async fn head_and_statuses_without_a_body_have_none() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let head = Request::head(origin.url("/size?n=1000")).body(()).unwrap();
    let answer = client.request(head, b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.field("content-length"), Some("1000"));
    for status in [204, 304] {
        let answer = client.get(&origin.url(&format!("/status/{status}"))).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    let closed = Closed::new();
    let head = Request::head(format!("http://{}/", closed.authority())).body(()).unwrap();
    let answer = client.request(head, b"").await;
    assert_eq!((answer.status, answer.body.len()), (502, 0), "ours have none either");
}

#[tokio::test]
async fn trailers_of_the_answer_follow_its_body() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let answer = client.get(&origin.url("/trailers")).await;
    assert_eq!(answer.body, b"hello");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers.get("x-sum").unwrap(), "5");
}

#[tokio::test]
async fn trailers_of_the_request_that_it_announces_go_on() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::post(origin.url("/echo")).header("trailer", "x-sum").body(()).unwrap();
    let (answer, mut sending) = client.begin(request, false).await;
    sending.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "5".parse().unwrap());
    sending.send_trailers(trailers).unwrap();
    assert_eq!(Answer::read(answer).await.unwrap().body, b"hello");
    let seen = origin.only();
    assert_eq!(seen.trailers.len(), 1, "{seen:?}");
    assert_eq!(seen.trailers[0].1, "5");
}

#[tokio::test]
async fn hop_by_hop_fields_of_the_origin_do_not_reach_http_2() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let answer = client.get(&origin.url("/hop")).await;
    for gone in ["connection", "keep-alive", "proxy-connection", "x-hop", "transfer-encoding"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert_eq!(answer.field("x-end"), Some("1"));
    let cookies: Vec<_> = answer.fields.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[tokio::test]
async fn cookies_in_parts_reach_the_origin_as_one_field() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/")).header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.request(request.body(()).unwrap(), b"").await.status, 200);
    assert_eq!(origin.only().head.field("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/early-hints")).body(()).unwrap();
    let (mut answer, _) = client.begin(request, true).await;
    let hints = soon("early hints", poll_fn(|cx| answer.poll_informational(cx))).await;
    let hints = hints.expect("an interim answer").unwrap();
    assert_eq!(hints.status(), 103);
    assert_eq!(hints.headers()["link"], "</a.css>; rel=preload");
    assert_eq!(Answer::read(answer).await.unwrap().body, b"hinted");
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_the_origins() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::post(origin.url("/continue"))
        .header("expect", "100-continue")
        .header("content-length", 4)
        .body(())
        .unwrap();
    let (mut answer, mut sending) = client.begin(request, false).await;
    let go_on = soon("a 100", poll_fn(|cx| answer.poll_informational(cx))).await;
    assert_eq!(go_on.expect("an interim answer").unwrap().status(), 100);
    sending.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(Answer::read(answer).await.unwrap().body, b"4 bytes");
}

#[tokio::test]
async fn requests_of_one_connection_run_side_by_side() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let request = Request::get(origin.url("/slow?ms=300")).body(()).unwrap();
        answers.push(client.begin(request, true).await.0);
    }
    wait_until("all are at the origin", async || origin.hits() == 20).await;
    assert_eq!(origin.current(), 20, "each has a connection of its own");
    for answer in answers {
        assert_eq!(Answer::read(answer).await.unwrap().body, b"slow");
    }
    proxy.wait_until_metric("narrows_client_connections", &[], 1.0).await;
    let forwarded = [("route", "forward"), ("status_class", "2xx")];
    proxy.wait_until_metric("narrows_requests_total", &forwarded, 20.0).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_whole_and_ends_the_upload() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let answer = "HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull";
        connection.send(answer).await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().start().await;
    let mut client = Http2::to(proxy.address).await;
    let request = Request::post(origin.url("/")).body(()).unwrap();
    let (answer, mut sending) = client.begin(request, false).await;
    sending.send_data(Bytes::from_static(b"the first of much"), false).unwrap();
    let answer = Answer::read(answer).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (413, &b"full"[..]));
    let why = soon("the rest to be waved off", poll_fn(|cx| sending.poll_reset(cx))).await;
    assert_eq!(why.unwrap(), Reason::NO_ERROR, "RFC 9113 §8.1");
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn an_answer_that_the_origin_cuts_short_is_reset() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    for path in ["/truncate", "/truncate-chunked"] {
        let request = Request::get(origin.url(path)).body(()).unwrap();
        let (answer, _) = client.begin(request, true).await;
        let broken = Answer::read(answer).await.unwrap_err();
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR), "{path}: {broken}");
    }
    assert_eq!(client.get(&origin.url("/")).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_request_that_its_client_resets_frees_the_slot() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/slow?ms=60000")).body(()).unwrap();
    let (answer, mut sending) = client.begin(request, true).await;
    proxy.wait_until_open(&origin.authority(), 1).await;
    sending.send_reset(Reason::CANCEL);
    drop(answer);
    proxy.wait_until_open(&origin.authority(), 0).await;
    assert_eq!(client.get(&origin.url("/")).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_client_that_leaves_takes_all_its_requests_with_it() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let request = Request::get(origin.url("/slow?ms=60000")).body(()).unwrap();
        held.push(client.begin(request, true).await);
    }
    proxy.wait_until_open(&origin.authority(), 3).await;
    client.connection.abort();
    proxy.wait_until_open(&origin.authority(), 0).await;
    proxy.wait_until_metric("narrows_client_connections", &[], 0.0).await;
}

#[tokio::test]
async fn answers_of_our_own_have_the_same_fields_and_body_as_over_http_1() {
    let (closed, proxy) = (Closed::new(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    client
        .get(&format!("http://{}/", closed.authority()))
        .await
        .assert_refused(502, "connection_refused");
    client.get("http://user@h/").await.assert_refused(400, "http_request_error");
    client.get("ftp://h/").await.assert_refused(400, "http_request_error");
}

#[tokio::test]
async fn a_full_host_is_refused_on_its_stream_alone() {
    let origin = Origin::start();
    let proxy = narrows().flags("--max-connections 1").start().await;
    let mut client = Http2::to(proxy.address).await;
    let request = Request::get(origin.url("/slow?ms=1000")).body(()).unwrap();
    let (first, _) = client.begin(request, true).await;
    proxy.wait_until_open(&origin.authority(), 1).await;
    let second = client.get(&origin.url("/")).await;
    second.assert_refused(503, "connection_limit_reached");
    assert_eq!(second.field("retry-after"), Some("1"));
    assert_eq!(Answer::read(first).await.unwrap().body, b"slow");
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn a_host_that_is_not_the_authority_is_400() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = Http2::to(proxy.address).await;
    let with = |host: &str| Request::get(origin.url("/")).header("host", host).body(()).unwrap();
    let other = client.request(with("other.test"), b"").await;
    other.assert_refused(400, "http_request_error");
    assert_eq!(client.request(with(&origin.authority()), b"").await.status, 200);
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn a_stream_is_one_line_of_the_access_log() {
    let origin = Origin::start();
    let proxy = narrows().flags("--access-log stdout").start().await;
    let mut client = Http2::to(proxy.address).await;
    let request = Request::post(origin.url("/echo?secret=1")).body(()).unwrap();
    assert_eq!(client.request(request, b"12345").await.body, b"12345");
    let lines = proxy.stdout.wait_for(1, "\"method\"").await;
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((line["method"].as_str(), line["status"].as_u64()), (Some("POST"), Some(200)));
    assert_eq!(line["target"].as_str(), Some(origin.url("/echo").as_str()));
    assert_eq!((line["sent"].as_u64(), line["received"].as_u64()), (Some(5), Some(5)));
    assert_eq!(line["end"], "complete");
}

#[tokio::test]
async fn curl_with_prior_knowledge_is_served() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--via narrows").start().await);
    let run = Command::new("curl")
        .args(["--silent", "--http2-prior-knowledge", "--max-time", "10"])
        .args(["--connect-to", &format!("::{}", proxy.address)])
        .args(["--write-out", " %{http_version}", &origin.url("/curl")])
        .output();
    let output = soon("curl", run).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/curl 2");
    assert_eq!(origin.only().head.field("via"), Some("2.0 narrows"));
}

#[tokio::test]
async fn a_method_that_only_begins_as_the_preface_does_is_http_1() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    client.send("P").await;
    let rest =
        format!("OST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", origin.url("/"));
    client.send(rest).await;
    assert_eq!(client.response("POST").await.status(), 200);
    assert_eq!(client.get(origin.url("/again")).await.status(), 200);
}
