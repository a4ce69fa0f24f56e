//! What bounds retries: the client's deadline, the API's, the budget, and the client's leaving.

use std::time::Duration;
use std::time::Instant;

use super::FAST;
use super::Step;
use super::retrying;
use super::retrying_with;
use super::say;
use super::scripted;
use crate::support::Http2;
use crate::support::narrows;
use crate::support::wait_until;

#[tokio::test]
async fn no_attempt_is_made_that_would_begin_after_the_clients_deadline() {
    let (origin, hits) = scripted(&[say(500)]);
    let keys = "retry: {max_attempts: 3, initial_delay: 2s, max_delay: 5s, budget: 101}";
    let proxy = retrying(keys).await;
    let begun = Instant::now();
    let mut client = proxy.client().await;
    let answer = client.request("GET", &origin.url("/"), &["Prefer: wait=1"]).await;
    assert_eq!((answer.status(), hits.count()), (500, 1));
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn all_attempts_together_end_with_the_total_time() {
    let (origin, hits) = scripted(&[Step::Hang]);
    let keys = "request_timeout: 300, total_timeout: 700, \
                retry: {max_attempts: 50, initial_delay: 10ms, budget: 101}";
    let proxy = retrying(keys).await;
    let begun = Instant::now();
    let answer = proxy.get(origin.url("/")).await;
    answer.assert_refused(504, "http_response_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(690), "{:?}", begun.elapsed());
    assert!((2..=3).contains(&hits.count()), "{}", hits.count());
}

#[tokio::test]
async fn the_total_time_bounds_a_single_attempt_too() {
    let (origin, hits) = scripted(&[Step::Hang]);
    let proxy = retrying("total_timeout: 300ms").await;
    proxy.get(origin.url("/")).await.assert_refused(504, "http_response_timeout");
    assert_eq!(hits.count(), 1);
}

/// 40 requests of which each fails: a fifth of them may be tried again, and none is free.
#[tokio::test]
async fn an_outage_is_not_multiplied() {
    let (origin, hits) = scripted(&[Step::Close]);
    let keys = "retry: {max_attempts: 5, initial_delay: 0s, budget: 20, budget_floor: 0}";
    let proxy = retrying(keys).await;
    let mut client = proxy.client().await;
    for _ in 0..40 {
        client.get(origin.url("/")).await.assert_refused(502, "connection_terminated");
    }
    assert_eq!(hits.count(), 48);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_retries_with_it() {
    let (origin, hits) = scripted(&[say(500), say(500), say(200)]);
    let keys = "retry: {max_attempts: 3, initial_delay: 3s, jitter: 0, budget: 101}";
    let proxy = retrying_with(narrows().flags("--access-log stdout"), keys).await;
    let mut client = proxy.client().await;
    client.send_request("PUT", &origin.url("/first"), &["Content-Length: 4"]).await;
    client.send("body").await;
    wait_until("an attempt was made", async || hits.count() == 1).await;
    drop(client);
    wait_until("it is logged", async || proxy.stdout.text().contains("client left")).await;

    let mut client = Http2::to(proxy.address).await;
    let put = http::Request::put(origin.url("/second")).body(()).unwrap();
    let (answer, mut sending) = client.begin(put, false).await;
    sending.send_data("body".into(), true).unwrap();
    wait_until("an attempt was made", async || hits.count() == 2).await;
    assert_eq!(hits.all()[1].head.target(), "/second", "the first was not tried again");
    sending.send_reset(h2::Reason::CANCEL);
    drop(answer);
    let left = async || proxy.stdout.text().matches("client left").count() == 2;
    wait_until("both are logged", left).await;
    assert_eq!(hits.count(), 2);
}

#[tokio::test]
async fn a_refusal_of_our_own_is_not_tried_again() {
    let (origin, hits) = scripted(&[Step::Hang]);
    let proxy = retrying_with(narrows().flags("--max-connections 1"), FAST).await;
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/"), &[]).await;
    wait_until("the slot is taken", async || hits.count() == 1).await;
    let answer = proxy.get(origin.url("/")).await;
    answer.assert_refused(503, "connection_limit_reached");
    assert_eq!(answer.head.field("x-retry-count"), None);
    assert_eq!(hits.count(), 1);
}
