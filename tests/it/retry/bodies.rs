//! Bodies that are sent again, and those that cannot be.

use super::FAST;
use super::Hits;
use super::Step;
use super::response;
use super::retrying;
use super::say;
use super::scripted;
use crate::support::Http2;
use crate::support::pattern;
use crate::support::wait_until;

fn bodies(hits: &Hits) -> Vec<Vec<u8>> {
    hits.all().into_iter().map(|hit| hit.body).collect()
}

#[tokio::test]
async fn a_body_is_sent_again_as_it_came() {
    let body = pattern(50_000);
    for step in [say(500), Step::Reset] {
        let (origin, hits) = scripted(&[step, say(200)]);
        let proxy = retrying(FAST).await;
        let mut client = proxy.client().await;
        let length = format!("Content-Length: {}", body.len());
        client.send_request("PUT", &origin.url("/"), &[&length]).await;
        client.send(&body).await;
        assert_eq!(client.response("PUT").await.status(), 200);
        assert_eq!(bodies(&hits), [body.clone(), body.clone()]);
        let framings: Vec<_> = hits
            .all()
            .iter()
            .map(|hit| hit.head.field("content-length").map(str::to_owned))
            .collect();
        assert_eq!(framings, vec![Some("50000".to_owned()); 2]);
    }
}

#[tokio::test]
async fn a_body_in_chunks_is_sent_again_with_its_trailers() {
    let (origin, hits) = scripted(&[say(500), say(503), say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    let fields = ["Transfer-Encoding: chunked", "Trailer: X-Sum"];
    client.send_request("PUT", &origin.url("/"), &fields).await;
    client.send("3\r\none\r\n").await;
    client.send("3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n").await;
    assert_eq!(client.response("PUT").await.status(), 200);
    let all = hits.all();
    assert_eq!(all.len(), 3);
    for hit in all {
        assert_eq!(hit.body, b"onetwo");
        assert_eq!(hit.head.list("transfer-encoding"), ["chunked"]);
        let trailers: Vec<_> =
            hit.trailers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
        assert_eq!(trailers, [("x-sum".to_owned(), "6".to_owned())]);
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_sent_once() {
    let keys = "retry: {initial_delay: 10ms, budget: 101, max_body: 1000}";
    let proxy = retrying(keys).await;
    for (length, status, count) in [(1000, 200, 2), (1001, 500, 1)] {
        let (origin, hits) = scripted(&[say(500), say(200)]);
        let mut client = proxy.client().await;
        let field = format!("Content-Length: {length}");
        client.send_request("PUT", &origin.url("/"), &[&field]).await;
        client.send(pattern(length)).await;
        assert_eq!(client.response("PUT").await.status(), status, "{length}");
        assert_eq!(hits.count(), count, "{length}");
    }
}

#[tokio::test]
async fn a_body_over_http2_is_sent_again() {
    let body = pattern(60_000);
    let (origin, hits) = scripted(&[say(500), Step::Reset, say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = Http2::to(proxy.address).await;
    let put = http::Request::put(origin.url("/")).body(()).unwrap();
    let answer = client.request(put, &body).await;
    assert_eq!((answer.status, answer.field("x-retry-count")), (200, Some("2")));
    assert_eq!(bodies(&hits), [body.clone(), body.clone(), body]);
}

/// A client's window opens for what was taken, however often that is sent.
#[tokio::test]
async fn a_long_body_over_http2_goes_on_behind_what_was_kept() {
    let body = pattern(1_500_000);
    let (origin, hits) = scripted(&[say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = Http2::to(proxy.address).await;
    for _ in 0..2 {
        let put = http::Request::put(origin.url("/")).body(()).unwrap();
        assert_eq!(client.request(put, &body).await.status, 200);
    }
    assert_eq!(bodies(&hits), [body.clone(), body]);
}

#[tokio::test]
async fn an_attempt_that_fails_before_its_body_is_whole_is_followed_by_one_that_gets_all() {
    let early = Step::SayEarly(response(503, "", "not now"));
    let (origin, hits) = scripted(&[early, say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    client.send_request("PUT", &origin.url("/"), &["Content-Length: 6"]).await;
    client.send("one").await;
    wait_until("the second attempt has begun", async || hits.count() == 2).await;
    client.send("two").await;
    assert_eq!(client.response("PUT").await.status(), 200);
    assert_eq!(bodies(&hits)[1], b"onetwo");
}

#[tokio::test]
async fn a_client_is_told_to_continue_once() {
    let step = |status| Step::Continue(response(status, "", "said"));
    let (origin, hits) = scripted(&[step(500), step(503), step(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    let fields = ["Content-Length: 5", "Expect: 100-continue"];
    client.send_request("PUT", &origin.url("/"), &fields).await;
    assert_eq!(client.head().await.status(), 100);
    client.send("hello").await;
    let answer = client.response("PUT").await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("2")));
    assert_eq!(bodies(&hits), [b"hello", b"hello", b"hello"]);
}

#[tokio::test]
async fn a_client_that_expects_nothing_hears_a_100_once_too() {
    let step = |status| Step::Continue(response(status, "", "said"));
    let (origin, hits) = scripted(&[step(500), step(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    client.send_request("PUT", &origin.url("/"), &["Content-Length: 5"]).await;
    client.send("hello").await;
    assert_eq!(client.head().await.status(), 100);
    assert_eq!(client.response("PUT").await.status(), 200);
    assert_eq!(hits.count(), 2);
}
