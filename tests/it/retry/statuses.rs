//! Answers that are followed by another attempt, and those that are not.

use std::time::Duration;

use super::FAST;
use super::configured;
use super::retrying;
use super::say;
use super::say_with;
use super::scripted;
use crate::support::narrows;
use crate::support::wait_until;

const UNSAFE: &str =
    "retry: {max_attempts: 3, initial_delay: 10ms, budget: 101, retry_unsafe: true}";

#[tokio::test]
async fn failures_are_tried_again_after_delays_that_grow() {
    let (origin, hits) = scripted(&[say(500), say(503), say(200)]);
    let proxy = retrying("retry: {max_attempts: 3, initial_delay: 200ms, budget: 101}").await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.text()), (200, "status 200"));
    assert_eq!(answer.head.field("x-retry-count"), Some("2"));
    let gaps = hits.gaps();
    assert_eq!(gaps.len(), 2);
    assert!(gaps[0] >= Duration::from_millis(160), "{gaps:?}");
    assert!(gaps[1] >= Duration::from_millis(320), "{gaps:?}");
}

#[tokio::test]
async fn the_last_answer_goes_to_the_client_as_it_came() {
    let fail = |n| say_with(500, &format!("X-Failure: {n}\r\nETag: \"{n}\"\r\n"), &format!("{n}!"));
    let (origin, hits) = scripted(&[fail(1), fail(2), fail(3), fail(4)]);
    let proxy = retrying(FAST).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.text(), hits.count()), (500, "3!", 3));
    assert_eq!(answer.head.reason(), "So");
    assert_eq!(answer.head.field("x-failure"), Some("3"));
    assert_eq!(answer.head.field("etag"), Some("\"3\""));
    assert_eq!(answer.head.field("x-retry-count"), Some("2"));
}

#[tokio::test]
async fn an_answer_that_took_one_attempt_is_left_as_it_is() {
    let (origin, hits) = scripted(&[say_with(404, "X-Retry-Count: 7\r\n", "none"), say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    let answer = client.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (404, Some("7")));
    assert_eq!(client.get(origin.url("/")).await.head.field("x-retry-count"), None);
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn nothing_is_tried_again_where_that_is_not_asked_for() {
    let (origin, hits) = scripted(&[say(500)]);
    let proxy = retrying("request_timeout: 5s").await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 500);
    assert_eq!(hits.count(), 1);
}

#[tokio::test]
async fn attempts_share_a_connection_when_small_answers_are_read_away() {
    let (origin, hits) = scripted(&[say(500), say(500), say(200)]);
    let proxy = retrying(FAST).await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    assert_eq!((hits.count(), origin.accepted()), (3, 1));
}

#[tokio::test]
async fn a_large_answer_is_not_read_for_the_sake_of_its_connection() {
    let large = "x".repeat(65 * 1024);
    let (origin, hits) = scripted(&[say_with(500, "", &large), say(200)]);
    let proxy = retrying(FAST).await;
    assert_eq!(proxy.get(origin.url("/")).await.text(), "status 200");
    assert_eq!((hits.count(), origin.accepted()), (2, 2));
    let (origin, _) = scripted(&[say_with(500, "", &large)]);
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.text().len()), (500, large.len()), "the last one is whole");
}

#[tokio::test]
async fn a_post_is_not_sent_twice_by_itself() {
    let (origin, hits) = scripted(&[say(500)]);
    let proxy = retrying(FAST).await;
    let answer = proxy.client().await.post(origin.url("/"), b"once").await;
    assert_eq!((answer.status(), hits.count()), (500, 1));
    assert_eq!(answer.head.field("x-retry-count"), None);
}

#[tokio::test]
async fn a_post_is_sent_again_if_the_api_or_the_client_says_that_it_may_be() {
    let (origin, hits) = scripted(&[say(500), say(200)]);
    let proxy = retrying(UNSAFE).await;
    assert_eq!(proxy.client().await.post(origin.url("/"), b"twice").await.status(), 200);
    let bodies: Vec<_> = hits.all().into_iter().map(|hit| hit.body).collect();
    assert_eq!(bodies, [b"twice", b"twice"]);

    let (origin, hits) = scripted(&[say(500), say(200)]);
    let proxy = retrying(FAST).await;
    let mut client = proxy.client().await;
    let fields = ["Idempotency-Key: \"a\"", "Content-Length: 2"];
    client.send_request("POST", &origin.url("/"), &fields).await;
    client.send("ok").await;
    assert_eq!(client.response("POST").await.status(), 200);
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn a_429_is_tried_again_once_the_time_that_it_asks_for_is_over() {
    let (origin, hits) = scripted(&[say_with(429, "Retry-After: 1\r\n", "slow down"), say(200)]);
    let proxy = retrying(FAST).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("1")));
    assert!(hits.gaps()[0] >= Duration::from_secs(1), "{:?}", hits.gaps());
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn a_long_retry_after_is_not_slept_through() {
    let (origin, hits) = scripted(&[say_with(429, "Retry-After: 300\r\n", "much later")]);
    let proxy = retrying(FAST).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.text()), (429, "much later"));
    assert_eq!(answer.head.field("retry-after"), Some("300"));
    assert_eq!(hits.count(), 1);
}

/// With the API's cool-down heard too.
#[tokio::test]
async fn a_cool_down_and_a_retry_of_the_same_request_agree() {
    let (origin, hits) = scripted(&[say_with(429, "Retry-After: 1\r\n", "slow down"), say(200)]);
    let proxy = retrying(&format!("cool_down: true, {FAST}")).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), hits.count()), (200, 2));
    assert!(hits.gaps()[0] >= Duration::from_secs(1), "{:?}", hits.gaps());
}

#[tokio::test]
async fn only_statuses_that_are_listed_are_tried_again() {
    let (origin, hits) = scripted(&[say(500), say(404), say(200)]);
    let keys = "retry: {max_attempts: 3, initial_delay: 10ms, retry_on_status: [404]}";
    let proxy = retrying(keys).await;
    assert_eq!(proxy.get(origin.url("/")).await.status(), 500);
    assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    assert_eq!(hits.count(), 3);
}

/// What the seed could not: no body is looked into, none is expected where there is none.
#[tokio::test]
async fn heads_and_codings_are_no_failures() {
    let gzip = "\u{1f}\u{8b}";
    let fields = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let (origin, hits) = scripted(&[say_with(200, fields, gzip)]);
    let proxy = retrying(&format!("circuit_breaker: {{failure_threshold: 1}}, {FAST}")).await;
    let mut client = proxy.client().await;
    let answer = client.request("HEAD", &origin.url("/"), &["Accept-Encoding: gzip"]).await;
    assert_eq!((answer.status(), answer.body.len()), (200, 0));
    let answer = client.request("GET", &origin.url("/"), &["Accept-Encoding: gzip"]).await;
    assert_eq!((answer.status(), answer.body), (200, gzip.as_bytes().to_vec()));
    assert_eq!(answer.head.field("content-encoding"), Some("gzip"));
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn no_attempt_is_made_once_the_circuit_is_open() {
    let fail = |n: u16| say_with(500, "", &format!("failure {n}"));
    let (origin, hits) = scripted(&[fail(1), fail(2), fail(3)]);
    let keys = "circuit_breaker: {failure_threshold: 2, reset_timeout: 60}, \
                retry: {max_attempts: 5, initial_delay: 10ms, budget: 101}";
    let proxy = retrying(keys).await;
    let mut client = proxy.client().await;
    let answer = client.get(origin.url("/")).await;
    // The last thing that the origin said itself.
    assert_eq!((answer.status(), answer.text(), hits.count()), (500, "failure 2", 2));
    assert_eq!(answer.head.field("x-retry-count"), Some("1"));
    client.get(origin.url("/")).await.assert_refused(503, "destination_unavailable");
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn a_circuit_that_opens_meanwhile_keeps_others_from_trying_again() {
    let (origin, hits) = scripted(&[say(500)]);
    let keys = "circuit_breaker: {failure_threshold: 5, reset_timeout: 60}, \
                retry: {max_attempts: 3, initial_delay: 10ms, budget: 101}";
    let proxy = retrying(keys).await;
    let asking = (0..10).map(|_| async { proxy.get(origin.url("/")).await.status() });
    let statuses = futures_util::future::join_all(asking).await;
    assert!(statuses.iter().all(|status| [500, 503].contains(status)), "{statuses:?}");
    // All ten may be on their way when the fifth fails, and none of them twice after that.
    assert!((5..=14).contains(&hits.count()), "{}", hits.count());
}

#[tokio::test]
async fn an_answer_without_a_length_is_held_and_delivered_whole() {
    let chunked = "HTTP/1.1 500 So\r\nX-Origin: yes\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: X-Sum\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n";
    let (origin, hits) = scripted(&[super::Step::Say(chunked.to_owned())]);
    let keys = "circuit_breaker: {failure_threshold: 1, reset_timeout: 60}, \
                retry: {max_attempts: 3, initial_delay: 10ms, budget: 101}";
    let proxy = retrying(keys).await;
    let mut client = proxy.client().await;
    let answer = client.request("GET", &origin.url("/"), &["TE: trailers"]).await;
    assert_eq!((answer.status(), answer.text(), hits.count()), (500, "onetwo", 1));
    assert_eq!(answer.head.list("transfer-encoding"), ["chunked"]);
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "6".to_owned())]);
    let key = origin.authority();
    wait_until("its connection is kept", async || proxy.host(&key).await.idle == 1).await;
}

/// The words of resilient-proxy-out, by its path and with its body checked before.
#[tokio::test]
async fn requests_by_the_path_of_an_api_are_tried_again_too() {
    let (origin, hits) = scripted(&[say(500), say(502), say(200), say(500)]);
    let text = format!(
        "[api.a]\ntarget_url=\"http://{}\"; requires_body=true; validate_json=true\n\
         retry_unsafe=true\ncircuit_breaker={{failure_threshold=50}}\n\
         retry={{max_attempts=3, initial_delay=0.01, max_delay=10, backoff_factor=2, \
         retry_on_status=[500,502,503,504,429]}}\n",
        origin.authority()
    )
    .replace("; ", "\n");
    let proxy = configured(narrows(), "narrows.toml", &text).await;
    let mut client = proxy.client().await;
    for (status, count) in [(200, 3), (500, 6)] {
        let fields = ["Content-Type: application/json", "Content-Length: 12"];
        client.send_request("POST", "/api/a/info", &fields).await;
        client.send(r#"{"type":"x"}"#).await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status(), hits.count()), (status, count));
        assert_eq!(answer.head.field("x-retry-count"), Some("2"));
    }
    for hit in hits.all() {
        assert_eq!((hit.head.target(), &*hit.body), ("/info", &br#"{"type":"x"}"#[..]));
    }
}
