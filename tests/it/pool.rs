//! Idle upstream connections: reused, counted, given up first, and never a reason to send twice.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

use crate::support::Origin;
use crate::support::narrows;
use crate::support::wait_until;

const OK: &str = "HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again_for_another_client() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--threads 1").start().await);
    for n in 0..5 {
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
        proxy.wait_until_open(&origin.authority(), 1).await;
        assert_eq!((n, origin.accepted()), (n, 1));
    }
}

#[tokio::test]
async fn a_connection_whose_answer_had_no_body_or_was_to_a_post_is_used_again_too() {
    let (origin, proxy) = (Origin::start(), narrows().flags("--threads 1").start().await);
    let mut client = proxy.client().await;
    client.post(origin.url("/echo"), b"x").await;
    client.get(origin.url("/status/204")).await;
    client.request("HEAD", &origin.url("/size?n=9"), &[]).await;
    client.get(origin.url("/chunked?n=9")).await;
    client.get(origin.url("/")).await;
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_counts_as_open() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    proxy.get(origin.url("/")).await;
    let what = "the connection is idle";
    wait_until(what, async || proxy.host(&origin.authority()).await.idle == 1).await;
    assert_eq!(proxy.open(&origin.authority()).await, 1);
    assert_eq!(origin.current(), 1);
    proxy.wait_until_metric("narrows_pool_idle", &[], 1.0).await;
}

#[tokio::test]
async fn idle_connections_are_given_up_first_when_their_host_is_full() {
    let origin = Origin::start();
    let to = origin.authority();
    let proxy = narrows().flags("--threads 1 --max-connections 1 --pool-idle 60s").start().await;
    for _ in 0..5 {
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
        let tunnel = proxy.tunnel(&to).await;
        drop(tunnel);
        proxy.wait_until_open(&to, 0).await;
    }
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn an_idle_connection_on_another_thread_is_given_up_too() {
    let origin = Origin::start();
    let to = origin.authority();
    let proxy = narrows().flags("--threads 2 --max-connections 1 --pool-idle 60s").start().await;
    for _ in 0..30 {
        // Each client connection lands on either thread: half the time on the other one.
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
        let tunnel = proxy.tunnel(&to).await;
        drop(tunnel);
        proxy.wait_until_open(&to, 0).await;
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
        assert_eq!(proxy.get(origin.url("/")).await.status(), 200);
    }
    assert_eq!(origin.peak(), 1);
}

#[tokio::test]
async fn an_idle_connection_closes_when_its_time_is_up() {
    let origin = Origin::start();
    let proxy = narrows().flags("--pool-idle 300ms").start().await;
    let start = Instant::now();
    proxy.get(origin.url("/")).await;
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
    assert!(start.elapsed() >= Duration::from_millis(300), "only {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn no_more_connections_idle_than_the_pool_may_hold() {
    let origin = Origin::start();
    let proxy = narrows().flags("--threads 1 --pool-size 1").start().await;
    let slow = origin.url("/slow?ms=100");
    tokio::join!(proxy.get(&slow), proxy.get(&slow), proxy.get(&slow));
    assert_eq!(origin.accepted(), 3);
    proxy.wait_until_open(&origin.authority(), 1).await;
    wait_until("the others are closed", async || origin.current() == 1).await;
}

#[tokio::test]
async fn an_origin_that_closes_an_idle_connection_frees_its_slot_at_once() {
    for resets in [false, true] {
        let (go, wait) = watch::channel(false);
        let origin = Origin::raw(move |mut connection| {
            let mut wait = wait.clone();
            async move {
                connection.head().await.unwrap();
                connection.send(OK).await.unwrap();
                wait.wait_for(|go| *go).await.unwrap();
                if resets {
                    connection.reset();
                }
            }
        });
        let proxy = narrows().flags("--pool-idle 60s").start().await;
        assert_eq!(proxy.get(origin.url("/")).await.text(), "ok");
        assert_eq!(proxy.open(&origin.authority()).await, 1);
        go.send_replace(true);
        let start = Instant::now();
        proxy.wait_until_open(&origin.authority(), 0).await;
        assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_connection_that_the_origin_wants_closed_is_not_kept() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    for _ in 0..3 {
        let answer = client.get(origin.url("/close")).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.head.all("connection").is_empty(), "that was between the origin and us");
    }
    assert_eq!(origin.accepted(), 3);
    proxy.wait_until_open(&origin.authority(), 0).await;
}

#[tokio::test]
async fn a_connection_with_bytes_nobody_asked_for_is_not_kept() {
    let origin = Origin::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let twice = format!("{OK}{}", OK.replace("ok", "no"));
        connection.send(twice).await.unwrap();
        connection.end().await;
    });
    let proxy = narrows().flags("--threads 1").start().await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get(origin.url("/")).await.text(), "ok", "somebody else's answer");
    }
}

/// An origin that answers the first request of each connection and cuts the connection on the second;
/// how many requests of `method` it has read.
fn fickle(method: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let origin = Origin::raw(move |mut connection| {
        let count = Arc::clone(&count);
        async move {
            for is_first in [true, false] {
                let Ok(Some(head)) = connection.head().await else { return };
                if head.method() == method {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                if connection.request_body(&head).await.is_err() || !is_first {
                    return;
                }
                connection.send(OK).await.unwrap();
            }
        }
    });
    (origin, hits)
}

#[tokio::test]
async fn an_unsafe_request_that_dies_with_a_reused_connection_is_not_sent_again() {
    let (origin, posts) = fickle("POST");
    let proxy = narrows().flags("--threads 1").start().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get(origin.url("/")).await.status(), 200);
    // Well under a second later, so the idle connection may be used.
    client.post(origin.url("/"), b"once").await.assert_refused(502, "connection_terminated");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn an_unsafe_request_is_not_risked_on_a_connection_that_idled_a_second() {
    let (origin, posts) = fickle("POST");
    let proxy = narrows().flags("--threads 1 --pool-idle 60s").start().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get(origin.url("/")).await.status(), 200);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(client.post(origin.url("/"), b"once").await.text(), "ok");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    assert_eq!(origin.accepted(), 2, "a fresh connection");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_leaves_no_connection_behind() {
    let (origin, proxy) = (Origin::start(), narrows().start().await);
    let mut client = proxy.client().await;
    client.send_request("GET", &origin.url("/size?n=100000000"), &[]).await;
    client.head().await;
    client.exactly(1000).await;
    drop(client);
    proxy.wait_until_open(&origin.authority(), 0).await;
    wait_until("the origin is left", async || origin.current() == 0).await;
}
