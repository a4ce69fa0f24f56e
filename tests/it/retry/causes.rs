//! Attempts without an answer: each cause is tried again, and named in the log.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FAST;
use super::Retrying;
use super::Step;
use super::retrying;
use super::retrying_with;
use super::say;
use super::say_with;
use super::scripted;
use crate::support::Certs;
use crate::support::Closed;
use crate::support::Names;
use crate::support::Origin;
use crate::support::narrows;
use crate::support::soon;
use crate::support::wait_until;

/// Waits until the log has named this cause of a failed attempt.
async fn names(proxy: &Retrying, cause: &str) {
    let cause = format!("cause={cause}");
    wait_until(&format!("the log has {cause}"), async || {
        let text = proxy.stderr.text();
        let plain: String = strip(&text);
        plain.lines().any(|line| line.contains("attempt failed") && line.contains(&cause))
    })
    .await;
}

/// Without quotes around values.
fn strip(text: &str) -> String {
    text.replace('"', "")
}

#[tokio::test]
async fn a_reset_and_a_close_are_tried_again() {
    for step in [Step::Reset, Step::Close] {
        let (origin, hits) = scripted(&[step, say(200)]);
        let proxy = retrying(FAST).await;
        let answer = proxy.get(origin.url("/")).await;
        assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("1")));
        assert_eq!(hits.count(), 2);
        names(&proxy, "reset").await;
    }
}

#[tokio::test]
async fn the_cause_of_the_last_attempt_is_told_to_the_client() {
    let (origin, hits) = scripted(&[say_with(500, "Connection: close\r\n", ""), Step::Close]);
    let proxy = retrying(FAST).await;
    let answer = proxy.get(origin.url("/")).await;
    answer.assert_refused(502, "connection_terminated");
    assert_eq!((answer.head.field("x-retry-count"), hits.count()), (Some("2"), 3));
}

#[tokio::test]
async fn a_post_is_not_sent_again_after_a_reset() {
    let (origin, hits) = scripted(&[Step::Reset]);
    let proxy = retrying(FAST).await;
    let answer = proxy.client().await.post(origin.url("/"), b"once").await;
    answer.assert_refused(502, "connection_terminated");
    assert_eq!(hits.count(), 1);
}

#[tokio::test]
async fn a_time_out_is_tried_again_and_the_last_is_a_504() {
    let (origin, hits) = scripted(&[Step::Hang, say(200), Step::Hang]);
    let proxy = retrying(&format!("request_timeout: 300, {FAST}")).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("1")));
    names(&proxy, "timeout").await;
    let answer = proxy.get(origin.url("/")).await;
    answer.assert_refused(504, "http_response_timeout");
    assert_eq!((answer.head.field("x-retry-count"), hits.count()), (Some("2"), 5));
}

#[tokio::test]
async fn anything_is_tried_again_while_nobody_listens() {
    let closed = Closed::new();
    let keys = "retry: {max_attempts: 3, initial_delay: 500ms, budget: 101}";
    let proxy = retrying(keys).await;
    let mut client = proxy.client().await;
    let url = format!("http://{}/", closed.authority());
    let body = "x".repeat(100_000);
    let length = format!("Content-Length: {}", body.len());
    client.send_request("POST", &url, &[&length]).await;
    client.send(&body).await;
    names(&proxy, "connect_refused").await;
    // Larger than what is kept, but nothing of it had been read.
    let origin = soon("a request", closed.answer_one()).await;
    assert_eq!(origin.len(), body.len());
    let answer = client.response("POST").await;
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_at_first_is_asked_for_again() {
    let (origin, hits) = scripted(&[say(200)]);
    // One question for each kind of address.
    let names_server = Names::late(2, "late.test").await;
    let setup = narrows().flags(format!("--resolver {}", names_server.address()));
    let proxy = retrying_with(setup, FAST).await;
    let url = format!("http://late.test:{}/", origin.port());
    let answer = proxy.get(url).await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("1")));
    assert_eq!(hits.count(), 1);
    names(&proxy, "dns").await;
}

#[tokio::test]
async fn tls_that_fails_is_tried_again() {
    let certs = Certs::new();
    let acceptor = certs.server(&["127.0.0.1"], &[]).0;
    let first = Arc::new(AtomicUsize::new(0));
    let origin = Origin::raw(move |mut connection| {
        let (acceptor, first) = (acceptor.clone(), Arc::clone(&first));
        async move {
            if first.fetch_add(1, Ordering::Relaxed) == 0 {
                connection.send("this is no TLS at all\r\n\r\n").await.unwrap();
                connection.end().await;
                return;
            }
            let mut connection = connection.secured(acceptor).await.unwrap();
            connection.head().await.unwrap();
            connection
                .send("HTTP/1.1 200 OK\r\nX-Origin: 1\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
        }
    });
    let setup = narrows().flags(format!("--upstream-ca {}", certs.file().display()));
    let proxy = retrying_with(setup, FAST).await;
    let url = format!("https://{}/", origin.authority());
    let mut client = proxy.client().await;
    // Nothing of it had left: a POST may be tried again.
    let answer = client.post(url, b"safe").await;
    assert_eq!((answer.status(), answer.head.field("x-retry-count")), (200, Some("1")));
    names(&proxy, "tls").await;
}

#[tokio::test]
async fn only_causes_that_are_listed_are_tried_again() {
    let (origin, hits) = scripted(&[Step::Close, say(200)]);
    let keys = "retry: {initial_delay: 10ms, retry_on_errors: [timeout, connection refused]}";
    let proxy = retrying(keys).await;
    proxy.get(origin.url("/")).await.assert_refused(502, "connection_terminated");
    assert_eq!(hits.count(), 1);
}

#[tokio::test]
async fn a_stream_of_events_is_not_cut_by_the_time_for_its_head() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nX-Origin: 1\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        connection.send(head).await.unwrap();
        for _ in 0..3 {
            connection.send("9\r\ndata: 1\n\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        connection.send("0\r\n\r\n").await.unwrap();
    });
    let proxy = retrying(&format!("request_timeout: 200, total_timeout: 300, {FAST}")).await;
    let answer = proxy.get(origin.url("/")).await;
    assert_eq!((answer.status(), answer.text()), (200, "data: 1\n\ndata: 1\n\ndata: 1\n\n"));
}
